"""The BlueZ driver cancelled at each of its awaits to which only a fault leads, or what BlueZ does seldom.

See interrupted.py, and between.py for how those are brought about. A run is cancelled only on ways through
such an await: the others are the business of test_bluez_cancelled.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any, Final

import pytest
import trio

from rns_ble.drivers.base import AdapterUnavailable, AdvertisingUnavailable, BLELink
from rns_ble.drivers.bluez import BleakDriver
from rns_ble.drivers.bluez.link import RECEIVE_BUFFERED
from rns_ble.testing.checkpoints import Way
from tests.bluez import between as middle
from tests.bluez import census, laboratory
from tests.bluez.awaits import all_awaits, missed, needs_a_fault
from tests.bluez.between import Between
from tests.bluez.interrupted import (
    REACHED,
    Cancelling,
    an_answering_peer,
    cancelled_everywhere,
    connects,
    echoes,
    nothing_left,
    nothing_linked,
)
from tests.bluez.laboratory import Laboratory, LaboratoryError
from tests.bluez.test_bluez_central import (
    BOTH_WRITES,
    NOTIFY,
    OTHER,
    address_of,
    device_path,
    linked,
    running,
)
from tests.bluez.test_bluez_faults import ends, link, sighted, start, until

SCENARIOS: Final = 14
"""So many names have runs when all tests have run."""

LATE: Final = 0.3
"""Seconds: enough to wait for, and less than anything of the driver's waits."""

PLACES: Final = {one.place for one in all_awaits() if needs_a_fault(one)}


def leads_there(way: Way) -> bool:
    return not PLACES.isdisjoint(way)


async def everywhere(name: str, *runs: Callable[[Cancelling], Any], seen: set[Way] | None = None) -> None:
    await cancelled_everywhere(name, set() if seen is None else seen, *runs, meant=leads_there)


@asynccontextmanager
async def at_work(name: str, address: str) -> AsyncIterator[BleakDriver]:
    """A central that has sighted the peer, and works afterwards."""
    async with BleakDriver(name) as central:
        await start(central, b"c")
        await central.stop_advertising()
        await sighted(central, address)
        yield central
        await nothing_linked(central)
        await connects(central, address)


async def connects_and_closes(central: BleakDriver, address: str, cancelling: Cancelling) -> None:
    with cancelling.at_once():
        ours = await central.connect(address)
        try:
            await echoes(ours)
        finally:
            await ours.aclose()
    await nothing_linked(central)


# --- BlueZ refuses something ------------------------------------------------------------------------------


async def test_refused(names: list[str], between: Between, outages: list[str]) -> None:
    async with (
        nothing_left("refused", outages),
        an_answering_peer(names[0]) as address,
        at_work(names[1], address) as central,
    ):
        await central.start_advertising()
        before = await census.take()

        async def to_scan(cancelling: Cancelling) -> None:
            await central.stop_scanning()
            with (
                between.refusing("StartDiscovery"),
                cancelling.at_once(),
                pytest.raises(AdapterUnavailable, match="does not scan"),
            ):
                await central.start_scanning()

        async def to_advertise(cancelling: Cancelling) -> None:
            await central.stop_advertising()
            with (
                between.refusing("RegisterAdvertisement"),
                cancelling.at_once(),
                pytest.raises(AdvertisingUnavailable, match="does not advertise"),
            ):
                await central.start_advertising()

        async def to_pause(cancelling: Cancelling) -> None:
            await central.start_scanning()
            await sighted(central, address)
            with (
                between.refusing("StopDiscovery", "NotAuthorized", times=1),
                cancelling.at_once(),
                pytest.raises(AdapterUnavailable, match="BlueZ fails"),
            ):
                await central.connect(address)

        async def for_a_moment(cancelling: Cancelling) -> None:
            await central.stop_scanning()
            with between.refusing("StartDiscovery", "InProgress", times=2), cancelling.at_once():
                await central.start_scanning()

        for run in (to_scan, to_advertise, to_pause, for_a_moment):
            await everywhere("refused", run)
            await start(central, b"c")
            await census.back_to(before, census.AT_ONCE)


@contextmanager
def failing(why: str) -> Iterator[None]:
    """The driver in the block fails for this reason, unless it is cancelled before."""
    try:
        yield
    except* AdapterUnavailable as group:
        said = repr(group)
    else:
        said = "nothing"
    assert why in said


async def test_refused_to_go_on_with_the_scan(names: list[str], between: Between, outages: list[str]) -> None:
    async def run(address: str, cancelling: Cancelling) -> None:
        with cancelling.block() as begin, failing("does not scan any more"):
            async with BleakDriver(names[1]) as driver:
                await start(driver, b"a")
                await sighted(driver, address)
                begin()
                with between.refusing("StartDiscovery"):
                    await driver.connect(address)
                    await trio.sleep_forever()
        await nothing_linked(driver)

    async with nothing_left("scan refused", outages), an_answering_peer(names[0]) as address:
        await everywhere("scan refused", partial(run, address))
        async with at_work(names[1], address):
            pass


# --- the adapter is off -----------------------------------------------------------------------------------


async def test_switched_off(names: list[str], between: Between, outages: list[str]) -> None:
    """By somebody, while there is a link, and just before the driver is asked for something."""

    async def run(name: str, address: str, cancelling: Cancelling) -> None:
        await laboratory.set_powered(name, True)
        with cancelling.block() as begin, failing("powered off"):
            async with BleakDriver(name) as driver:
                await start(driver, b"c")
                await driver.stop_advertising()
                await sighted(driver, address)
                await driver.connect(address)
                begin()
                with trio.CancelScope(shield=True):  # it has a second half
                    await laboratory.set_powered(name, False)
                with between.refusing("RegisterAdvertisement", under=f"/org/bluez/{name}"):
                    await driver.start_advertising()
        await nothing_linked(driver)

    async with nothing_left("off", outages), an_answering_peer(names[0]) as address:
        await everywhere("off", *(partial(run, name, address) for name in names[1:]))
        for name in names[1:]:
            await laboratory.set_powered(name, True)
            async with at_work(name, address):
                pass


# --- BlueZ gives no socket --------------------------------------------------------------------------------


async def test_no_socket(names: list[str], between: Between, outages: list[str]) -> None:
    async with (
        nothing_left("no socket", outages),
        an_answering_peer(names[0]) as address,
        at_work(names[1], address) as central,
    ):
        with (
            between.refusing("AcquireNotify", "NotSupported"),
            between.refusing("AcquireWrite", "NotSupported"),
        ):
            await everywhere("no socket", partial(connects_and_closes, central, address))


# --- BlueZ, or bleak, is late -----------------------------------------------------------------------------


async def test_late(names: list[str], between: Between, outages: list[str]) -> None:
    seen: set[Way] = set()

    async def work(name: str, address: str) -> None:
        async with at_work(name, address) as central:

            async def run(cancelling: Cancelling) -> None:
                with suppress(LaboratoryError):  # an attempt that was cancelled has removed it
                    await laboratory.call_bluez(
                        f"/org/bluez/{name}",
                        "org.bluez.Adapter1",
                        "RemoveDevice",
                        "o",
                        [device_path(name, address)],
                    )
                await sighted(central, address)  # whose services BlueZ shows anew
                await connects_and_closes(central, address, cancelling)

            await everywhere("late", run, seen=seen)

    async with nothing_left("late", outages), an_answering_peer(names[0]) as address:
        with (
            between.late(middle.BLEAKS, LATE, middle.connected),
            between.late(middle.OURS, LATE / 2, middle.connected),
            between.late(middle.BLEAKS, 2 * LATE, middle.characteristics),
            between.late(middle.OURS, 3 * LATE, middle.characteristics),
        ):
            async with trio.open_nursery() as nursery:
                for name in names[1:]:
                    nursery.start_soon(work, name, address)


async def test_late_to_show_our_service(names: list[str], between: Between, outages: list[str]) -> None:
    async def run(cancelling: Cancelling) -> None:
        with between.hiding_our_service(LATE), cancelling.at_once():
            async with BleakDriver(names[0]) as driver:
                await start(driver, b"a")

    async with nothing_left("service late", outages):
        await everywhere("service late", run)


async def test_a_central_that_subscribes_late(names: list[str], between: Between, outages: list[str]) -> None:
    async def run(central: BleakDriver, peripheral: BleakDriver, cancelling: Cancelling) -> None:
        ours, theirs = await link(central, peripheral)
        with cancelling.at_once():
            await theirs.send(b"first")
        await theirs.send(b"last")
        got = []
        while b"last" not in got:
            got.append(await ours.receive())
        assert got in ([b"first", b"last"], [b"last"] if cancelling.strike.struck else [])
        for end in (ours, theirs):
            await end.aclose()

    async with nothing_left("subscribed late", outages):
        with between.late(middle.OURS, 1.0, middle.subscription):
            async with BleakDriver(names[0]) as peripheral, BleakDriver(names[1]) as central:
                await start(peripheral, b"p")
                await start(central, b"c")
                await everywhere("subscribed late", partial(run, central, peripheral))


# --- a connection is there already ------------------------------------------------------------------------


async def test_connections_of_before(names: list[str], outages: list[str]) -> None:
    async with (
        nothing_left("of before", outages),
        BleakDriver(names[0]) as peripheral,
        BleakDriver(names[1]) as central,
    ):
        await start(peripheral, b"p")
        await start(central, b"c")
        address = peripheral.address
        assert address is not None
        path = device_path(names[1], address)

        async def known() -> bool:
            return path in await laboratory.objects()

        async def disconnected() -> bool:
            return not central._open().tree.connected(path)

        async def somebody_has_connected_it(cancelling: Cancelling) -> None:
            await until(known)
            await laboratory.call_bluez(path, "org.bluez.Device1", "Connect")
            with cancelling.at_once():
                await (await central.connect(address)).aclose()
            await nothing_linked(central)

        async def it_has_disconnected(cancelling: Cancelling) -> None:
            while peripheral.accepted.statistics().current_buffer_used:
                await (await peripheral.accepted.receive()).aclose()  # of an attempt that was cancelled
            ours, theirs = await link(central, peripheral)
            await theirs.aclose()
            await until(disconnected)
            with cancelling.at_once():
                await ours.aclose()
            await nothing_linked(central)

        for run in (somebody_has_connected_it, it_has_disconnected):
            await everywhere("of before", run)


async def test_a_peer_whose_program_ends(names: list[str], outages: list[str]) -> None:
    """BlueZ keeps the connection."""
    peer = (OTHER, "serve", names[0], BOTH_WRITES, NOTIFY, "0")
    address = await address_of(names[0])

    async with nothing_left("program ends", outages), BleakDriver(names[1]) as central:
        await start(central, b"c")

        async def and_starts_again(cancelling: Cancelling) -> None:
            async with running(*peer):
                ours = await linked(central, address)
            await ends(ours)
            async with running(*peer):
                with cancelling.at_once():
                    await (await central.connect(address)).aclose()
                await nothing_linked(central)

        async def for_good(cancelling: Cancelling) -> None:
            async with running(*peer):
                ours = await linked(central, address)
            await ends(ours)
            with cancelling.at_once():
                await ours.aclose()
            await nothing_linked(central)

        for run in (and_starts_again, for_good):
            await everywhere("program ends", run)


async def test_busy(names: list[str], between: Between, outages: list[str]) -> None:
    async with (
        nothing_left("busy", outages),
        an_answering_peer(names[0]) as address,
        at_work(names[1], address) as central,
    ):

        async def run(cancelling: Cancelling) -> None:
            with (
                between.refusing("Connect", "InProgress", times=1),
                between.refusing("Connect", "NotReady", times=1),
            ):
                await connects_and_closes(central, address, cancelling)

        await everywhere("busy", run)


# --- what is over in a moment -----------------------------------------------------------------------------


async def test_another_attempt_is_under_way(names: list[str], outages: list[str]) -> None:
    async with (
        nothing_left("another attempt", outages),
        an_answering_peer(names[0]) as address,
        at_work(names[1], address) as central,
    ):

        async def run(cancelling: Cancelling) -> None:
            other = object()
            await central.establishing.acquire_on_behalf_of(other)
            try:
                with cancelling.at_once(), trio.move_on_after(LATE):
                    await central.connect(address)
            finally:
                central.establishing.release_on_behalf_of(other)

        await everywhere("another attempt", run)


async def test_a_ping(names: list[str], outages: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rns_ble.drivers.bluez.driver.PING_INTERVAL", 0.05)

    async def run(cancelling: Cancelling) -> None:
        with cancelling.block() as begin:
            async with BleakDriver(names[0]) as driver:
                await start(driver, b"a")
                begin()
                await trio.sleep(1)
        await nothing_linked(driver)

    async with nothing_left("ping", outages):
        await everywhere("ping", run)


# --- nobody takes the values ------------------------------------------------------------------------------


async def test_leaving_while_nobody_takes_the_values(names: list[str], outages: list[str]) -> None:
    async def run(peripheral: BleakDriver, cancelling: Cancelling) -> None:
        with cancelling.block() as begin:
            async with BleakDriver(names[1]) as central:
                await start(central, b"c")
                ours, theirs = await link(central, peripheral)

                async def full() -> bool:
                    return ours._inbox.statistics().tasks_waiting_send == 1

                begin()
                for _ in range(RECEIVE_BUFFERED + 1):
                    await theirs.send(bytes(400))
                await until(full)
        await nothing_linked(central)
        await theirs.aclose()

    async with nothing_left("full", outages), BleakDriver(names[0]) as peripheral:
        await start(peripheral, b"p")
        await everywhere("full", partial(run, peripheral))


async def test_bluetoothd_does_not_read_what_we_send(
    lab: Laboratory, names: list[str], outages: list[str]
) -> None:
    async def drain(theirs: BLELink) -> None:
        async for _ in theirs:
            pass

    async def run(
        central: BleakDriver, peripheral: BleakDriver, as_central: bool, cancelling: Cancelling
    ) -> None:
        made, accepted = await link(central, peripheral)
        ours, theirs = (made, accepted) if as_central else (accepted, made)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain, theirs)
            lab.bluetoothd.freeze()
            try:
                with cancelling.at_once(), trio.move_on_after(LATE):
                    while True:
                        await ours.send(bytes(400))
            finally:
                lab.bluetoothd.thaw()
            for end in (made, accepted):
                await end.aclose()
            nursery.cancel_scope.cancel()
        for driver in (central, peripheral):
            await nothing_linked(driver)

    async with (
        nothing_left("unread", outages),
        BleakDriver(names[0]) as peripheral,
        BleakDriver(names[1]) as central,
    ):
        await start(peripheral, b"p")
        await start(central, b"c")
        for as_central in (True, False):
            await everywhere("unread", partial(run, central, peripheral, as_central))


def test_every_await_was_cancelled(outages: list[str], bluez_version: tuple[int, int]) -> None:
    if len(REACHED.runs) < SCENARIOS or not laboratory.IN_GUEST:
        pytest.skip("the other tests of this file have not all run, or not in the laboratory's guest")
    assert missed(needs_a_fault, bluez_version, REACHED.met) == []
