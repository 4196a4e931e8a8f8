"""A link on the virtual radio: two drivers with a Bluetooth host each (Bumble), all in this process.

Its air takes no time, so what is measured is the processor's work at both ends, and not how fast a radio is.
"""

from __future__ import annotations

import time
from typing import Any, Final

import trio
from measuring import Figure

from rns_ble.cli.progress import Progress
from rns_ble.drivers.base import BLEDriverInterface, BLELink
from rns_ble.drivers.hci import BumbleDriver, VirtualRadio
from rns_ble.protocol.gatt import IDENTITY_LENGTH, IDENTITY_UUID, RX_UUID, SERVICE_UUID, TX_UUID

SIZES: Final = (20, 182, 244, 512)
"""Bytes: what fits the least ATT MTU, iOS's of 185, one data channel PDU of 251 bytes, and the most. A link
that takes less than the last is given what it takes."""

VALUES: Final = 10_000
"""In one flood, half a second: 400 last 17 ms, and a single pause of the machine's may be as long."""

DEADLINE: Final = 60.0
"""Seconds for the set-up, and for one flood."""


async def measure(rounds: int, progress: Progress) -> dict[str, Any]:
    """Values and kilobytes per second in both directions, for each size."""
    radio = VirtualRadio()
    drivers = [BumbleDriver(radio, address=f"C0:00:00:00:00:0{number}") for number in (1, 2)]
    async with drivers[0] as central, drivers[1] as peripheral:
        with trio.fail_after(DEADLINE):
            theirs, ours = await _linked(central, peripheral)
        ways = {"central to peripheral": (ours, theirs), "peripheral to central": (theirs, ours)}
        taken: dict[tuple[str, int], list[float]] = {}
        for number in range(1, rounds + 1):
            progress.say(f"radio, round {number} of {rounds}")
            for size in SIZES:
                for way, (sender, receiver) in ways.items():
                    value = bytes(min(size, sender.value_limit))
                    with trio.fail_after(DEADLINE):
                        seconds = await _flood(sender, receiver, value)
                    taken.setdefault((way, len(value)), []).append(VALUES / seconds)
        for link in (ours, theirs):
            await link.aclose()
    results: dict[str, Any] = {"values_in_a_measurement": VALUES, **{way: {} for way in ways}}
    for (way, size), speeds in taken.items():
        figure = Figure(tuple(speeds))
        results[way][str(size)] = {
            "values_per_s": figure.as_json(),
            "kB_per_s": figure.scaled(size / 1000).as_json(),
        }
    return results


async def _linked(central: BLEDriverInterface, peripheral: BLEDriverInterface) -> tuple[BLELink, BLELink]:
    """The peripheral's end, the central's end, after the handshake."""
    for number, driver in enumerate((central, peripheral)):
        driver.set_identity(bytes([number]) * IDENTITY_LENGTH)
        await driver.start(SERVICE_UUID, RX_UUID, TX_UUID, IDENTITY_UUID)
    await peripheral.start_advertising()
    await central.start_scanning()
    device = await central.discovered.receive()
    ours = await central.connect(device.address)
    await central.stop_scanning()
    theirs = await peripheral.accepted.receive()
    await theirs.receive()  # our identity
    return theirs, ours


async def _flood(sender: BLELink, receiver: BLELink, value: bytes) -> float:
    """Seconds from the first that is handed over to the last that has arrived."""

    async def send() -> None:
        for _ in range(VALUES):
            await sender.send(value)

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        for _ in range(VALUES):
            await receiver.receive()
    return time.perf_counter() - began
