"""The BlueZ driver cancelled at each of its awaits to which it comes by itself: see interrupted.py."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Final

import pytest
import trio

from rns_ble.drivers.base import BLELink
from rns_ble.drivers.bluez import BleakDriver
from rns_ble.drivers.bluez.examination import examine
from rns_ble.testing.checkpoints import Way
from tests.bluez import census, laboratory
from tests.bluez.awaits import all_awaits, missed, needs_a_fault
from tests.bluez.interrupted import (
    REACHED,
    Cancelling,
    cancelled_everywhere,
    connects,
    echoes,
    figure,
    nothing_left,
    nothing_linked,
)
from tests.bluez.test_bluez_faults import link, sighted, start
from tests.bluez.test_bluez_pressure import answer

SCENARIOS: Final = 7
"""So many names have runs when all tests have run."""


async def test_entering_starting_and_leaving(names: list[str], outages: list[str]) -> None:
    before = await census.at_rest()
    began = trio.current_time()
    seen: set[Way] = set()

    async def run(name: str, cancelling: Cancelling) -> None:
        with cancelling.at_once():
            async with BleakDriver(name) as driver:
                await start(driver, b"a")
                await driver.stop()
                await start(driver, b"b")

    async def run_on_one_that_is_off(cancelling: Cancelling) -> None:
        await laboratory.set_powered(names[0], False)
        with cancelling.at_once():
            async with BleakDriver(names[0]):
                pass

    await cancelled_everywhere("enter", seen, *(partial(run, name) for name in names))
    await cancelled_everywhere("enter", seen, run_on_one_that_is_off)
    await census.back_to(before, census.AT_ONCE)
    outages.append(figure("enter", began))


async def test_examining(adapters: list[str], outages: list[str]) -> None:
    async def run(cancelling: Cancelling) -> None:
        with cancelling.at_once():
            await examine()

    async with nothing_left("examine", outages):
        await cancelled_everywhere("examine", set(), run)


async def test_switching_on_and_off(names: list[str], outages: list[str]) -> None:
    before = await census.at_rest()
    began = trio.current_time()
    async with BleakDriver(names[0]) as driver:
        await start(driver, b"a")
        at_work: list[census.Census] = []

        async def run(cancelling: Cancelling) -> None:
            if not at_work:
                at_work.append(await census.take())
            with cancelling.at_once():
                await driver.stop_scanning()
                await driver.stop_advertising()
                await driver.start_advertising("name")
                await driver.start_scanning()
                await driver.stop()
            await start(driver, b"a")
            await census.back_to(at_work[0], census.AT_ONCE)

        await cancelled_everywhere("switch", set(), run)
    await census.back_to(before, census.AT_ONCE)
    outages.append(figure("switch", began))


async def test_connecting_and_closing(names: list[str], outages: list[str]) -> None:
    before = await census.at_rest()
    began = trio.current_time()
    seen: set[Way] = set()

    async def work(name: str, address: str) -> None:
        async with BleakDriver(name) as central:
            await start(central, b"c")
            await central.stop_advertising()
            await sighted(central, address)

            async def run(cancelling: Cancelling) -> None:
                # Not sighted anew: where BlueZ was made to forget the device, the connect waits for that.
                with cancelling.at_once():
                    ours = await central.connect(address)
                    try:
                        await echoes(ours)
                    finally:
                        await ours.aclose()
                await nothing_linked(central)

            await cancelled_everywhere("connect", seen, run)
            await connects(central, address)

    async with BleakDriver(names[0]) as peripheral, trio.open_nursery() as serving:
        await start(peripheral, b"p")
        serving.start_soon(answer, peripheral)
        assert peripheral.address is not None
        async with trio.open_nursery() as nursery:
            for name in names[1:]:
                nursery.start_soon(work, name, peripheral.address)
        serving.cancel_scope.cancel()
    await census.back_to(before, census.AT_ONCE)
    outages.append(figure("connect", began))


@pytest.mark.parametrize("as_central", [True, False])
async def test_sending_receiving_and_closing(names: list[str], as_central: bool, outages: list[str]) -> None:
    """Values are sent whole or not at all, none is lost, and the link goes on until it is closed."""
    what = f"values as {'central' if as_central else 'peripheral'}"
    before = await census.at_rest()
    began = trio.current_time()
    async with BleakDriver(names[0]) as peripheral, BleakDriver(names[1]) as central:
        for driver in (peripheral, central):
            await start(driver, b"a")

        async def pair() -> tuple[BLELink, BLELink]:
            made, accepted = await link(central, peripheral)
            return (made, accepted) if as_central else (accepted, made)

        ours, theirs = await pair()
        values = [bytes([n]) * 400 for n in range(4)]

        async def send(cancelling: Cancelling) -> None:
            got = []
            with cancelling.at_once():
                for value in values:
                    await ours.send(value)
            await ours.send(b"last")
            while (value := await theirs.receive()) != b"last":
                got.append(value)
            assert got == values[: len(got)]
            assert cancelling.strike.struck or got == values

        async def receive(cancelling: Cancelling) -> None:
            got = []
            for value in values:
                await theirs.send(value)
            with cancelling.at_once():
                while len(got) < len(values):
                    got.append(await ours.receive())
            while len(got) < len(values):
                got.append(await ours.receive())
            assert got == values

        async def close(cancelling: Cancelling) -> None:
            ours, theirs = await pair()
            with cancelling.at_once():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ours.aclose)
                    nursery.start_soon(ours.aclose)
            await theirs.aclose()
            for driver in (peripheral, central):
                await nothing_linked(driver)

        await cancelled_everywhere(what, set(), send)
        await cancelled_everywhere(what, set(), receive)
        await ours.aclose()
        await theirs.aclose()
        await cancelled_everywhere(what, set(), close)
    await census.back_to(before, census.AT_ONCE)
    outages.append(figure(what, began))


async def test_leaving_with_a_live_link(names: list[str], outages: list[str]) -> None:
    before = await census.at_rest()
    began = trio.current_time()
    seen: set[Way] = set()

    async def as_central(name: str, address: str, cancelling: Cancelling) -> None:
        with cancelling.block() as begin:
            async with BleakDriver(name) as central:
                await start(central, b"c")
                await sighted(central, address)
                await echoes(await central.connect(address))
                begin()
        assert central.establishing.borrowed_tokens == 0

    async def as_peripheral(central: BleakDriver, cancelling: Cancelling) -> None:
        with cancelling.block() as begin:
            async with BleakDriver(names[0]) as peripheral:
                await start(peripheral, b"p")
                theirs, _ours = await link(central, peripheral)
                begin()
        await theirs.aclose()
        await nothing_linked(central)

    async with BleakDriver(names[0]) as peripheral, trio.open_nursery() as serving:
        await start(peripheral, b"p")
        address = peripheral.address
        assert address is not None
        serving.start_soon(answer, peripheral)
        await cancelled_everywhere("leave", seen, *(partial(as_central, name, address) for name in names[1:]))
        serving.cancel_scope.cancel()
    async with BleakDriver(names[1]) as central:
        await start(central, b"c")
        await cancelled_everywhere("leave", seen, partial(as_peripheral, central))
    await census.back_to(before, census.AT_ONCE)
    outages.append(figure("leave", began))


def test_every_await_was_cancelled(outages: list[str], bluez_version: tuple[int, int]) -> None:
    if len(REACHED.runs) < SCENARIOS or not laboratory.IN_GUEST:
        pytest.skip("the other tests of this file have not all run, or not in the laboratory's guest")
    met = Counter(
        "cancelled"
        if one.place in REACHED.cancelled
        else "shielded"
        if one.place in REACHED.shielded
        else "not reached"
        for one in all_awaits()
    )
    outages.append(f"of the awaits: {dict(met)}")
    assert missed(lambda one: not needs_a_fault(one), bluez_version, REACHED.met) == []
