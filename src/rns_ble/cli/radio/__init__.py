"""`rns-ble radio`: check Bluetooth between two machines, with nothing of Reticulum but its driver.

`serve` on one machine and `connect` on the other, or `race` on both. They use the driver as the mesh does, so
what works here works there. No node of Reticulum's may use the adapter meanwhile.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
from functools import partial
from importlib import import_module
from typing import Final

from rns_ble.cli.arguments import seconds
from rns_ble.cli.errors import UsageError
from rns_ble.cli.progress import Progress

SCAN_SECONDS: Final = 10.0
TIMEOUT: Final = 30.0
"""Seconds for a peer to be heard, and again to be connected to; what `connection_timeout` is by default."""

COUNT: Final = 50
ROUNDS: Final = 10

_ADDRESS: Final = re.compile(r"[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}")


def _address(text: str) -> str:
    if not _ADDRESS.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a Bluetooth address like C0:FF:EE:00:00:01")
    return text.upper().replace("-", ":")


def _number(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 65535")
    return int(text)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--driver", default="bleak", help="bleak (the default) or bumble")
    common.add_argument("--adapter", help="for bleak: hci1, or the adapter's Bluetooth address")
    common.add_argument("--transport", help="for bumble, for example usb:0")
    common.add_argument(
        "--service-uuid", help="look for and offer this service, not Reticulum's; the same on both machines"
    )
    common.add_argument("--json", action="store_true", help="print JSON, an object a line")
    common.add_argument("--quiet", "-q", action="store_true", help="no progress on stderr")
    common.add_argument("--verbose", "-v", action="store_true", help="on stderr, what the driver does")

    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, summary: str) -> argparse.ArgumentParser:
        return actions.add_parser(
            name, parents=[common], help=summary, description=f"{summary[0].upper()}{summary[1:]}."
        )

    scan = action("scan", "list who is in range; exit code 0 when anybody is")
    scan.add_argument(
        "--seconds",
        type=partial(seconds, least=0.1),
        default=SCAN_SECONDS,
        help=f"how long (default: {SCAN_SECONDS:g})",
    )
    serve = action("serve", "advertise, accept connections, and send back every test value, until Ctrl-C")
    serve.add_argument("--seconds", type=partial(seconds, least=0.1), help="end after this time")
    connect = action("connect", "connect to a machine that serves, and check what it sends back")
    connect.add_argument(
        "--bytes", type=_number, action="append", help="size of a value; again for several (default: a range)"
    )
    connect.add_argument(
        "--count", type=_number, default=COUNT, help=f"values of each size (default: {COUNT})"
    )
    race = action("race", "connect to each other at the same time; run it on both machines")
    race.add_argument("--rounds", type=_number, default=ROUNDS, help=f"how often (default: {ROUNDS})")
    for parser_ in (connect, race):
        parser_.add_argument(
            "address",
            type=_address,
            nargs="?",
            metavar="ADDRESS",
            help="the other machine's (default: whoever is heard first)",
        )
        parser_.add_argument(
            "--timeout",
            type=partial(seconds, least=0.1),
            default=TIMEOUT,
            help=f"seconds to hear it, and again to connect (default: {TIMEOUT:g})",
        )


def run(arguments: argparse.Namespace) -> int:
    """Run one action; 0 only when all is well."""
    import trio  # noqa: PLC0415

    from rns_ble.cli.until_signal import SignalledError, until_signal  # noqa: PLC0415
    from rns_ble.config import BLEConfig  # noqa: PLC0415
    from rns_ble.drivers.base import ConfigurationError  # noqa: PLC0415

    keys = ("driver", "adapter", "transport", "service_uuid")
    section = {key: getattr(arguments, key) for key in keys if getattr(arguments, key) is not None}
    try:
        config = BLEConfig.from_section({"name": "radio", **section})
    except ConfigurationError as error:
        raise UsageError("; ".join(str(error).splitlines())) from error
    _log_to_stderr(logging.DEBUG if arguments.verbose else logging.WARNING)
    action = import_module(f"rns_ble.cli.radio.{arguments.action}")
    progress = Progress(sys.stderr, quiet=arguments.quiet)
    try:
        code: int = trio.run(until_signal, lambda: action.run(config, arguments, progress))
    except SignalledError:
        if arguments.action == "serve":
            return 0  # that is how it ends
        raise
    finally:
        progress.end()
    return code


def _log_to_stderr(level: int) -> None:
    """Show our own log, and nobody else's: Bumble would set up one that shows warnings of no consequence."""
    logging.getLogger().addHandler(logging.NullHandler())
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("{levelname:8} {name}: {message}", style="{"))
    logger = logging.getLogger("rns_ble")
    logger.addHandler(handler)
    logger.setLevel(level)
