"""Another program on the same adapter, by bleak: rival ADAPTER ADDRESS.

It looks for the peer, connects to it, disconnects, and begins again, until it is killed. Each connection and
each failure is a line of its output.
"""

from __future__ import annotations

import asyncio
import sys

from bleak import BleakClient, BleakScanner
from bleak.exc import BleakError


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def compete(adapter: str, address: str) -> None:
    bluez = {"adapter": adapter}
    while True:
        try:
            device = await BleakScanner.find_device_by_address(address, timeout=2, bluez=bluez)
            if device is None:
                say("not seen")
                continue
            # bleak's own time-out does not end a connect that BlueZ has aborted (bleak 3.1).
            async with asyncio.timeout(10), BleakClient(device, timeout=5, bluez=bluez):
                say("connected")
        except (BleakError, TimeoutError, EOFError) as error:
            say(f"failed: {error!r}")


if __name__ == "__main__":
    asyncio.run(compete(*sys.argv[1:]))
