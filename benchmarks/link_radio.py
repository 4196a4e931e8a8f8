"""A link on the virtual radio: two drivers with a Bluetooth host each (Bumble), all in this process.

Its air takes no time, so what is measured is the processor's work, and not how fast a radio is: that of both
ends and of the radio between them, for they are one process. A delay is from the call of one driver to the
value's being received from the other; "under bulk" is beside a flood of the longest values on the same link.
"""

from __future__ import annotations

import time
from typing import Any, Final

import trio
from measuring import Figure, percentiles

from rns_ble.cli.progress import Progress
from rns_ble.drivers.base import BLEDriverInterface, BLELink
from rns_ble.drivers.hci import BumbleDriver, VirtualRadio
from rns_ble.protocol.gatt import IDENTITY_LENGTH, IDENTITY_UUID, RX_UUID, SERVICE_UUID, TX_UUID

SIZES: Final = (20, 182, 244, 512)
"""Bytes: what fits the least ATT MTU, iOS's of 185, one data channel PDU of 251 bytes, and the most. A link
that takes less than the last is given what it takes."""

VALUES: Final = 10_000
"""In one flood, half a second: 400 last 17 ms, and a single pause of the machine's may be as long."""

PROBE: Final = 100
"""Bytes of a value whose way is timed; no other is as long."""

PROBE_EVERY: Final = 0.002
"""Seconds between two of them: time enough for one to arrive before the next is sent."""

PROBES: Final = 300
"""In one measurement: three of them are above the 99th percentile."""

LAST: Final = b"last"
"""The value behind all others of a measurement. The link keeps their order."""

DEADLINE: Final = 60.0
"""Seconds for the set-up, for one flood, and for one measurement of delays."""


async def measure(rounds: int, progress: Progress) -> dict[str, Any]:
    """Values and kilobytes per second in both directions, for each size."""
    radio = VirtualRadio()
    drivers = [BumbleDriver(radio, address=f"C0:00:00:00:00:0{number}") for number in (1, 2)]
    async with drivers[0] as central, drivers[1] as peripheral:
        with trio.fail_after(DEADLINE):
            theirs, ours = await _linked(central, peripheral)
        ways = {"central to peripheral": (ours, theirs), "peripheral to central": (theirs, ours)}
        floods: dict[tuple[str, int], list[tuple[float, float]]] = {}
        delays: dict[tuple[str, str], list[list[float]]] = {}
        for number in range(1, rounds + 1):
            progress.say(f"radio, round {number} of {rounds}")
            for way, (sender, receiver) in ways.items():
                for size in SIZES:
                    value = bytes(min(size, sender.value_limit))
                    with trio.fail_after(DEADLINE):
                        spent = await _flood(sender, receiver, value)
                    floods.setdefault((way, len(value)), []).append(spent)
                for load, bulk in (("idle", None), ("under bulk", bytes(sender.value_limit))):
                    with trio.fail_after(DEADLINE):
                        taken = await _delays(sender, receiver, bulk)
                    delays.setdefault((way, load), []).append(taken)
        for link in (ours, theirs):
            await link.aclose()
    results: dict[str, Any] = {"values_in_a_measurement": VALUES, **{way: {} for way in ways}}
    for (way, size), pairs in floods.items():
        seconds, busy = (Figure(one) for one in zip(*pairs, strict=True))
        speed = Figure(tuple(VALUES / one for one in seconds.rounds))
        results[way][str(size)] = {
            "values_per_s": speed.as_json(),
            "kB_per_s": speed.scaled(size / 1000).as_json(),
            "cpu_s_per_MB_of_all": busy.scaled(1e6 / (VALUES * size)).as_json(),
        }
    for (way, load), rounds_of_it in delays.items():
        results[way].setdefault("delay_ms_of_100_bytes", {})[load] = percentiles(rounds_of_it)
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


async def _flood(sender: BLELink, receiver: BLELink, value: bytes) -> tuple[float, float]:
    """Seconds from the first that is handed over to the last that has arrived, and of the processor."""

    async def send() -> None:
        for _ in range(VALUES):
            await sender.send(value)

    began, busy = time.perf_counter(), time.process_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        for _ in range(VALUES):
            await receiver.receive()
    return time.perf_counter() - began, time.process_time() - busy


async def _delays(sender: BLELink, receiver: BLELink, bulk: bytes | None) -> list[float]:
    """Milliseconds of each probe's way, while `bulk` is sent without a pause."""
    sent: list[float] = []
    taken: list[float] = []

    async def flood(value: bytes) -> None:
        while True:
            await sender.send(value)

    async def send() -> None:
        async with trio.open_nursery() as nursery:
            if bulk is not None:
                nursery.start_soon(flood, bulk)
            for _ in range(PROBES):
                await trio.sleep(PROBE_EVERY)
                sent.append(time.perf_counter())
                await sender.send(bytes(PROBE))
            nursery.cancel_scope.cancel()
        await sender.send(LAST)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        while (value := await receiver.receive()) != LAST:
            if len(value) == PROBE:
                taken.append(1000 * (time.perf_counter() - sent[len(taken)]))
    return taken
