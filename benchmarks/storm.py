"""A mesh of N nodes in virtual time: how it dials, and whether it holds together.

All nodes are switched on within ten seconds, disturbed for three minutes (links lost, addresses changed), and
left alone for three more. Every node runs the mesh itself; see docs/simulator.md for what the figures mean.

    python benchmarks/storm.py [--nodes N] [--seed S] [--json] [--foreign SHARE] [--weak SHARE]
                               [--neighbours M]

Without `--nodes`: 10, 50, 200 and 500, each in a process of its own, so that memory is that of one run.

Where all stations are ours and none has a weak radio, a mesh has to come to what `HAVE_TO_HOLD` says. The
exit status is 1 when one has not, and a line on stderr says in what.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import measuring

from rns_ble.testing.simulation import Report, Storm, storm

SIZES = (10, 50, 200, 500)

PROGRESS_EVERY = 30
"""Virtual seconds from one line of progress to the next."""

HAVE_TO_HOLD: Final[dict[str, Callable[[Any], bool]]] = {
    "connected": bool,
    "healthy_blacklisted": lambda times: times == 0,
    "max_concurrent_attempts_per_address": lambda attempts: attempts <= 1,
    "attempts_per_minute_steady": lambda attempts: attempts == 0,
}
"""Figure → whether it may be so. A single node makes no attempts at all."""

KIBIBYTES_OF_MAXRSS = 1 / 1024 if sys.platform == "darwin" else 1
"""`ru_maxrss` is in bytes there, in KiB everywhere else."""


def peak_memory() -> float:
    """KiB that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIBIBYTES_OF_MAXRSS


def measure(setting: Storm) -> dict[str, Any]:
    """One run: what the simulator reports, and what it cost here."""

    def progress(now: float) -> None:
        if round(now) % PROGRESS_EVERY == 0:
            print(f"{setting.nodes} nodes: {now:.0f} of {setting.virtual_seconds:.0f} s", file=sys.stderr)

    memory, cpu, wall = peak_memory(), time.process_time(), time.perf_counter()
    report: Report = storm(setting, progress)
    return {
        **dataclasses.asdict(report),
        "wall_seconds": round(time.perf_counter() - wall, 2),
        "cpu_seconds_per_node": round((time.process_time() - cpu) / setting.nodes, 4),
        "memory_kib_per_node": round((peak_memory() - memory) / setting.nodes, 1),
    }


def measure_apart(nodes: int) -> dict[str, Any]:
    """One run in another process, with the other arguments of this one."""
    command = [sys.executable, __file__, "--json", *sys.argv[1:], "--nodes", str(nodes)]
    outcome = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if not outcome.stdout:
        sys.exit(outcome.returncode)  # it has said why
    result: dict[str, Any] = json.loads(outcome.stdout)
    return result


def wrong(result: dict[str, Any]) -> Iterator[str]:
    """What does not hold."""
    for key, holds in HAVE_TO_HOLD.items():
        if not holds(result[key]):
            yield f"{key} is {_text(result[key])}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="A mesh of N nodes in virtual time.")
    parser.add_argument("--nodes", type=int, metavar="N", help="how many (10, 50, 200, 500)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="the same seed, the same run (0)")
    parser.add_argument(
        "--foreign", type=float, default=0.0, metavar="SHARE", help="foreign nodes, 0 to 1 (0)"
    )
    parser.add_argument(
        "--weak", type=float, default=0.0, metavar="SHARE", help="nodes with a weak radio, 0 to 1 (0)"
    )
    parser.add_argument("--neighbours", type=float, default=7.0, metavar="M", help="in range on average (7)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    if arguments.nodes is not None and arguments.nodes < 1:
        parser.error("argument --nodes: there is at least one node")
    if not 0 <= arguments.foreign <= 1:
        parser.error("argument --foreign: a share is a number from 0 to 1")
    if not 0 <= arguments.weak <= 1:
        parser.error("argument --weak: a share is a number from 0 to 1")
    if not 0 < arguments.neighbours < math.inf:
        parser.error("argument --neighbours: an average is a number above 0")

    if arguments.nodes is None:
        results = [measure_apart(nodes) for nodes in SIZES]
    else:
        setting = Storm(
            arguments.nodes,
            arguments.seed,
            neighbours=arguments.neighbours,
            foreign=arguments.foreign,
            weak=arguments.weak,
        )
        results = [measure(setting)]
    with measuring.readable_output():
        if arguments.json:
            told = results[0] if arguments.nodes is not None else {"runs": results}
            print(json.dumps({**measuring.setting("storm"), **told}))
        else:
            for key in results[0]:
                print(f"{key:44}" + "".join(f"{_text(result[key]):>12}" for result in results))
    if arguments.foreign or arguments.weak:
        return
    if bad := [f"{result['nodes']} nodes: {what}" for result in results for what in wrong(result)]:
        sys.exit(f"storm.py: does not hold: {'; '.join(bad)}")


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "never" if value is None else f"{value:,}"


if __name__ == "__main__":
    main()
