"""What an interface does in Trio. Loaded on the thread that runs it, while Reticulum goes on starting.

Reticulum makes its interfaces one after the other, and nothing of it works before the last of them is made.
Trio and a Bluetooth stack take longer to import than Reticulum itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import trio

from rns_ble.config import BLEConfig
from rns_ble.drivers.base import BLEDriverInterface
from rns_ble.host import Host
from rns_ble.mesh import Listener
from rns_ble.status import InterfaceStatus
from rns_ble.status_server import serve_status
from rns_ble.supervisor import supervise

IDENTITY_POLL: Final = 0.1
"""Seconds between two looks for our identity. Reticulum sets it after it has made its interfaces, and tells
nobody."""


def run_in_trio(
    host: Host, identity: Callable[[], bytes | None], run: Callable[[bytes, Listener], Awaitable[object]]
) -> None:
    """`run(identity, host)`, as soon as `identity` answers, until the host is stopped."""
    trio.run(main, host, identity, run)


async def main(
    host: Host, identity: Callable[[], bytes | None], run: Callable[[bytes, Listener], Awaitable[object]]
) -> None:
    """`run_in_trio`, inside."""
    with trio.CancelScope() as scope:
        if not host.running(trio.lowlevel.current_trio_token(), scope):
            return
        while (own := identity()) is None:  # noqa: ASYNC110  (see IDENTITY_POLL)
            await trio.sleep(IDENTITY_POLL)
        await run(own, host)


async def keep_online(
    driver: BLEDriverInterface,
    config: BLEConfig,
    identity: bytes,
    listener: Listener,
    longest_packet: int,
    linked_elsewhere: Callable[[bytes], bool],
    directory: Path,
    status: Callable[[], InterfaceStatus],
) -> None:
    """A mesh, and beside it whoever asks how it is, until cancelled. `directory`: of the status sockets."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_status, directory, config.name, status)
        await supervise(driver, config, identity, listener, longest_packet, linked_elsewhere)
