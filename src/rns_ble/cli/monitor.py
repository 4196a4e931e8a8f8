"""`rns-ble monitor`: a running interface, live, on the whole terminal."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from functools import partial
from typing import Final

from rns_ble.cli import reticulum_config
from rns_ble.cli.arguments import add_config, seconds
from rns_ble.cli.errors import CommandError
from rns_ble.cli.running import Running, ask_all
from rns_ble.cli.views import Line, Rates, overview

INTERVAL: Final = 1.0
"""Seconds between two snapshots."""

ANSWER_TIMEOUT: Final = 0.5
"""Seconds for an interface to answer, during which no key is looked at."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_config(parser)
    parser.add_argument(
        "--interval",
        type=partial(seconds, least=0.1),
        default=INTERVAL,
        metavar="SECONDS",
        help=f"between two snapshots (default: {INTERVAL:g})",
    )
    parser.add_argument(
        "--seconds", type=seconds, default=float("inf"), metavar="SECONDS", help="end after this time"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print what `status --json` prints, an object a line, each interval",
    )


def run(arguments: argparse.Namespace) -> int:
    """Show it until a person leaves; 0 then."""
    import trio  # noqa: PLC0415

    from rns_ble.cli.screen import is_capable, run_view, show  # noqa: PLC0415

    directory = reticulum_config.find_directory(arguments.config)
    running = ask_all(directory)
    if not running.interfaces:
        from rns_ble.cli.absence import why_none  # noqa: PLC0415  (brings in all of RNS)

        raise CommandError("; ".join(running.errors) or why_none(directory))
    rates = Rates()

    def update() -> None:
        nonlocal running
        running = ask_all(directory, ANSWER_TIMEOUT)
        if not running.interfaces and not running.errors:
            running = Running(errors=["no interface answers any more; waiting for one"])
        rates.update(running.interfaces)

    def title() -> str:
        return f"rns-ble monitor  {time.strftime('%H:%M:%S')}"

    def render(width: int | None) -> list[Line]:
        return overview(running, rates, width)

    live = is_capable() and not arguments.json

    async def view() -> None:
        with trio.move_on_after(arguments.seconds):
            if live:
                await show(title, update, render, arguments.interval)
            else:
                while True:
                    update()
                    if arguments.json:
                        print(json.dumps({"time": time.time(), **asdict(running)}), flush=True)
                    else:
                        print("\n".join([title(), *(line.text for line in render(None)), ""]), flush=True)
                    await trio.sleep(arguments.interval)

    if sys.stdout.isatty() and not live and not arguments.json:
        print("rns-ble monitor: this terminal can't be drawn on; Ctrl-C ends", file=sys.stderr)
    return run_view(view)
