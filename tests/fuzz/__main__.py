"""`python -m tests.fuzz --values 10000000 --seed 1`: attack a node, and print what it has cost."""

from __future__ import annotations

import argparse
import json
import sys

from tests.fuzz.siege import Report, lay_siege

TRACED = 200_000
"""Values of the run in which memory is traced, which takes several times as long."""


def main() -> None:
    parser = argparse.ArgumentParser(
        "nox -s fuzz --", description="Attack a node, and print what it has cost (docs/security.md)."
    )
    parser.add_argument(
        "--values", type=int, default=1_000_000, metavar="N", help="how many it receives (1,000,000)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of what the attackers do (0)")
    parser.add_argument("--json", action="store_true", help="one JSON object, and nothing else")
    arguments = parser.parse_args()
    if arguments.values < 1:
        parser.error("argument --values: numbers start at 1")
    show = None if arguments.json or not sys.stderr.isatty() else _show
    traced = lay_siege(min(arguments.values, TRACED), arguments.seed + 1, show, trace=True)
    report = lay_siege(arguments.values, arguments.seed, show)
    if show:
        sys.stderr.write("\n")
    report.traced_peak_bytes = traced.traced_peak_bytes
    figures = report.as_dict()
    if arguments.json:
        sys.stdout.write(json.dumps(figures) + "\n")
        return
    for name, figure in figures.items():
        shown = f"{figure:,.3f}".removesuffix(".000")
        sys.stdout.write(f"{name.replace('_', ' '):>28}  {shown}\n")


def _show(report: Report) -> None:
    sys.stderr.write(f"\r{report.values:,} values, {report.links:,} links ")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
