"""`rns-ble status`: the BLE interfaces that run, their peers, and why others are none."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Final

from rns_ble.cli import reticulum_config
from rns_ble.cli.arguments import add_config, seconds
from rns_ble.cli.errors import CommandError
from rns_ble.cli.progress import Progress
from rns_ble.cli.running import Running, ask_all
from rns_ble.cli.views import Rates, overview

POLL: Final = 0.25
"""Seconds between two looks while it waits."""

SAMPLE: Final = 0.5
"""Seconds between the two snapshots that make the rates."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_config(parser)
    parser.add_argument(
        "--wait",
        type=seconds,
        metavar="SECONDS",
        help="until all interfaces are online, at most so long; exit code 0 when they are",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def run(arguments: argparse.Namespace) -> int:
    """Show it; 0 when at least one interface runs and all that run are online."""
    directory = reticulum_config.find_directory(arguments.config)
    running = _ask(directory, arguments.wait)
    errors = running.errors
    if not running.interfaces and not errors:
        from rns_ble.cli.absence import why_none  # noqa: PLC0415  (brings in all of RNS)

        errors = [why_none(directory)]
    if arguments.json:
        print(json.dumps({**asdict(running), "errors": errors}))
        return 0 if running.ok else 1
    rates = Rates()
    rates.update(running.interfaces)
    if any((interface["mesh"] or {}).get("peers") for interface in running.interfaces):
        time.sleep(SAMPLE)
        again = ask_all(directory)
        rates.update(again.interfaces)
        errors = list(dict.fromkeys([*errors, *again.errors]))
        if again.interfaces:  # else it has ended just now, and what it was is what there is to show
            running = again
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in overview(Running(running.interfaces), rates, width):
        print(line.text)
    sys.stdout.flush()
    if errors:
        raise CommandError("; ".join(errors))
    return 0 if running.ok else 1


def _ask(directory: Path, wait: float | None) -> Running:
    running = ask_all(directory)
    if running.ok or not wait:
        return running
    progress = Progress(sys.stderr)
    deadline = time.monotonic() + wait
    try:
        while not running.ok and (left := deadline - time.monotonic()) > 0:
            online = sum(interface["online"] for interface in running.interfaces)
            progress.show("interfaces online", online, max(1, len(running.interfaces)))
            time.sleep(min(POLL, left))
            running = ask_all(directory)
    finally:
        progress.end()
    return running
