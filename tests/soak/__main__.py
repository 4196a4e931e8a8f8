"""`python -m tests.soak --minutes N`: nodes under load for as long as you like.

Samples go to `samples.jsonl` and the picture to `soak.svg` in `--output`. Exit code 0: nothing was lost, and
nothing has leaked.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
from functools import partial
from pathlib import Path

import trio

from rns_ble.cli.until_signal import until_signal
from tests.soak.load import soak
from tests.soak.report import as_text, summary, write


def main() -> int:
    parser = argparse.ArgumentParser(
        "nox -s soak --", description="Nodes under load while links are lost and nodes die."
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="of load (5)")
    parser.add_argument("--hours", type=float, default=0.0, help="on top of --minutes")
    parser.add_argument("--nodes", type=int, default=7, choices=range(2, 9), metavar="N", help="2 to 8 (7)")
    parser.add_argument(
        "--rate", type=float, default=100.0, help="values a second on each link; 0: as fast as it goes (100)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of what happens when; the network has its own mind"
    )
    parser.add_argument("--output", type=Path, help="a directory (a new one)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    if not 0 <= arguments.rate < math.inf:
        parser.error("argument --rate: a number from 0")
    if not 0 < arguments.minutes + 60 * arguments.hours < math.inf:
        parser.error("--minutes and --hours together are above 0")
    if arguments.rate:
        os.environ["SOAK_VALUES_A_SECOND"] = str(arguments.rate)
    seconds = 60 * (arguments.minutes + 60 * arguments.hours)
    output = arguments.output or Path(tempfile.mkdtemp(prefix="rns-ble-soak-"))
    output.mkdir(parents=True, exist_ok=True)
    print(
        f"{seconds / 60:g} minutes of load; start and end take up to some minutes more. "
        f"Samples go to {output / 'samples.jsonl'} as they come.",
        file=sys.stderr,
    )
    with tempfile.TemporaryDirectory() as name, (output / "samples.jsonl").open("w") as samples:
        run = partial(soak, Path(name), arguments.nodes, seconds, samples, seed=arguments.seed, kills=True)
        record = trio.run(until_signal, run)
    result = summary(record, arguments.nodes, seconds)
    write(record, output)
    (output / "report.json").write_text(json.dumps(result, indent=2))
    print(json.dumps(result) if arguments.json else as_text(result))
    print(f"samples and picture are in {output}", file=sys.stderr)
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
