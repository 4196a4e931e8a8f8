"""`rns-ble ether`: run the virtual radio, for Reticulum nodes on this machine. They reach it over TCP."""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
from contextlib import suppress
from functools import partial
from typing import Final

from rns_ble.cli.errors import CommandError, require

DEFAULT_LISTEN: Final = "127.0.0.1:7300"


def _address(text: str) -> tuple[str, int]:
    match = re.fullmatch(r"(?:(\[[^\]]+\]|[^:\[\]]+):)?(\d{1,5})", text)
    if match is None or int(match[2]) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT or PORT, for example {DEFAULT_LISTEN}")
    return (match[1] or "127.0.0.1").strip("[]"), int(match[2])


def _reached_at(host: str) -> str:
    """What nodes call the host that listens there; where all addresses do, this machine's name."""
    return socket.gethostname() if host in {"0.0.0.0", "::"} else host


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--listen",
        type=_address,
        default=DEFAULT_LISTEN,
        metavar="HOST:PORT",
        help=f"where nodes connect; port 0 takes a free one (default: {DEFAULT_LISTEN}). "
        "Whoever reaches it is on the air, so think before you leave 127.0.0.1",
    )
    parser.add_argument("--json", action="store_true", help="print the address as one JSON object")
    # For programs that start an ether: it ends with them, however they end.
    parser.add_argument("--until-stdin-ends", action="store_true", help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    require(("bumble",), extra="bumble")
    import trio  # noqa: PLC0415

    from rns_ble.cli.until_signal import SignalledError, until_signal  # noqa: PLC0415
    from rns_ble.drivers.hci.ether import serve_ether  # noqa: PLC0415

    host, port = arguments.listen

    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            try:
                bound = await nursery.start(partial(serve_ether, host, port))
            except OSError as error:
                raise CommandError(f"can't listen on {host}:{port}: {error.strerror}") from error
            transport = f"tcp-client:{_reached_at(host)}:{bound}"
            if arguments.json:
                print(json.dumps({"event": "listening", "transport": transport}), flush=True)
            else:
                print(f"The ether listens. For a node: driver = bumble, transport = {transport}", flush=True)
            if arguments.until_stdin_ends:
                async with trio.lowlevel.FdStream(os.dup(0)) as stdin:
                    async for _ in stdin:
                        pass
                nursery.cancel_scope.cancel()

    with suppress(SignalledError):
        trio.run(until_signal, serve)
    return 0
