"""`rns-ble demo`: separate Reticulum nodes talk over Bluetooth LE, on a radio that is a process.

Every node is a process of its own with a fresh configuration, the interface loaded as rnsd loads it, and
a Bluetooth host (Bumble) that talks HCI over TCP to a virtual controller in the ether's process. Everything
from GATT down to HCI is the real thing; only the air is missing.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from functools import partial
from typing import Final

from rns_ble.cli.arguments import seconds
from rns_ble.cli.errors import require

NODES_MAXIMUM: Final = 8
"""Every node links to every other; more are too many for one small machine."""

SIZE_DEFAULT: Final = 256 * 1024
"""Bytes: long enough to measure a speed, short enough to wait for."""

SIZE_MAXIMUM: Final = 64 * 1024 * 1024
"""Bytes: the nodes hold it in memory."""

TIMEOUT_DEFAULT: Final = 300.0
"""Seconds: eight nodes on one slow core need more than one minute just to start."""

_UNITS: Final = {"": 1, "k": 1024, "M": 1024 * 1024}


def _nodes(text: str) -> int:
    if not text.isdecimal() or not 2 <= int(text) <= NODES_MAXIMUM:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 2 to {NODES_MAXIMUM}")
    return int(text)


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+)([kM]?)", text)
    size = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 1 <= size <= SIZE_MAXIMUM:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size like 4096, 256k or 1M, up to 64M")
    return size


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--nodes",
        type=_nodes,
        default=2,
        metavar="N",
        help=f"how many nodes, 2 to {NODES_MAXIMUM} (default: 2)",
    )
    parser.add_argument(
        "--size",
        type=_size,
        default=SIZE_DEFAULT,
        metavar="BYTES",
        help="size of the Resource (default: 256k)",
    )
    parser.add_argument(
        "--timeout",
        type=partial(seconds, least=0.1),
        default=TIMEOUT_DEFAULT,
        metavar="SECONDS",
        help=f"give up after this time (default: {TIMEOUT_DEFAULT:.0f})",
    )
    parser.add_argument(
        "--keep", action="store_true", help="keep the nodes' configurations and logs, and say where"
    )
    parser.add_argument("--quiet", "-q", action="store_true", help="no progress on stderr")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object on stdout instead of the table"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run it; 0 only when everything arrived."""
    require(("bumble", "LXMF"), extra="demo")
    import trio  # noqa: PLC0415

    from rns_ble.cli.demo.scenario import run_demo  # noqa: PLC0415
    from rns_ble.cli.progress import Progress  # noqa: PLC0415
    from rns_ble.cli.until_signal import until_signal  # noqa: PLC0415

    progress = Progress(sys.stderr, quiet=arguments.quiet)
    report = trio.run(
        until_signal,
        lambda: run_demo(arguments.nodes, arguments.size, arguments.timeout, progress, keep=arguments.keep),
    )
    print(json.dumps(report.as_json()) if arguments.json else report.as_table())
    return 0 if report.ok else 1
