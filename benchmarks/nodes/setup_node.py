"""One end of a link over BlueZ with our driver, for `setup_time.py`: told on stdin, it tells on stdout.

    python setup_node.py central|peripheral ADAPTER

Both ways go JSON objects, one a line. A central takes `dial` and `close`, and a peripheral nothing. They tell
`ready`; then the central `linked`, with the moments of the first sighting and of the link, and `closed`; the
peripheral `shaken`, with the moment in which it knew the central, and `ended`. The moments are those of
`time.monotonic`, which all processes of a machine have in common. The process ends with its stdin.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import AsyncIterator

import trio

from rns_ble.drivers.base import BLEDriverInterface, BLEError, BLELink
from rns_ble.drivers.bluez import BleakDriver
from rns_ble.protocol.gatt import IDENTITY_UUID, RX_UUID, SERVICE_UUID, TX_UUID

IDENTITIES = {"central": bytes(range(16)), "peripheral": bytes(range(16, 32))}


def tell(event: str, **fields: object) -> None:
    """One event."""
    print(json.dumps({"event": event, **fields}), flush=True)


async def commands() -> AsyncIterator[str]:
    """What comes in, until stdin ends."""
    pending = b""
    async with trio.lowlevel.FdStream(os.dup(0)) as stdin:
        async for received in stdin:
            *lines, pending = (pending + received).split(b"\n")
            for line in lines:
                yield json.loads(line)["command"]


async def dial(driver: BLEDriverInterface) -> BLELink:
    """A link to the first whom a scan reports from now on. Tried again as often as it fails, as the mesh
    does; the time counts from the first sighting.
    """
    await driver.start_scanning()
    while True:  # what was heard before does not count
        try:
            driver.discovered.receive_nowait()
        except trio.WouldBlock:
            break
    device = await driver.discovered.receive()
    sighted = time.monotonic()
    while True:
        try:
            link = await driver.connect(device.address)
        except BLEError as error:
            tell("failed", why=str(error))
        else:
            tell("linked", sighted=sighted, at=time.monotonic())
            return link


async def central(driver: BLEDriverInterface) -> None:
    """Dial and close as told."""
    link: BLELink | None = None
    async for command in commands():
        if command == "dial":
            link = await dial(driver)
        elif link is not None:
            await link.aclose()
            tell("closed")


async def peripheral(driver: BLEDriverInterface) -> None:
    """Take links one after the other."""

    async def serve() -> None:
        async for link in driver.accepted:
            try:
                await link.receive()  # its identity
                tell("shaken", at=time.monotonic())
                async for _ in link:
                    pass
            except trio.EndOfChannel:  # it ended before
                pass
            await link.aclose()
            tell("ended")

    await driver.start_advertising()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        async for _ in commands():
            pass
        nursery.cancel_scope.cancel()


async def run(role: str, adapter: str) -> None:
    """Until stdin ends."""
    driver = BleakDriver(adapter)
    async with driver:
        driver.set_identity(IDENTITIES[role])
        await driver.start(SERVICE_UUID, RX_UUID, TX_UUID, IDENTITY_UUID)
        tell("ready")
        await (central if role == "central" else peripheral)(driver)


def main() -> None:
    """Play one end."""
    parser = argparse.ArgumentParser(description="One end of a link over BlueZ, with our driver.")
    parser.add_argument("role", choices=IDENTITIES)
    parser.add_argument("adapter")
    arguments = parser.parse_args()
    trio.run(run, arguments.role, arguments.adapter)


if __name__ == "__main__":
    main()
