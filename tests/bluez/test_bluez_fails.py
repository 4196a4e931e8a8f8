"""An exception out of the awaits of the BlueZ driver, in each of its tasks, on a real bluetoothd.

A call of the owner's raises it, or what the driver has made of it; one in a task of the driver's comes out of
`async with`, or goes no further than a log. Whichever: nothing is left, and the adapter works. See
interrupted.py.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from functools import partial
from typing import Final

import pytest
import trio

from rns_ble.drivers.base import (
    AdapterUnavailable,
    AdvertisingUnavailable,
    BLELink,
    PeerUnreachable,
    ProtocolViolation,
)
from rns_ble.drivers.bluez import BleakDriver
from rns_ble.drivers.bluez.examination import examine
from rns_ble.drivers.bluez.link import SocketOutlet
from rns_ble.testing.checkpoints import Way
from tests.bluez import laboratory
from tests.bluez.awaits import all_awaits, caught, missed, needs_a_fault, never_fails
from tests.bluez.between import Between
from tests.bluez.interrupted import (
    REACHED,
    Meant,
    Throwing,
    an_answering_peer,
    connects,
    echoes,
    everywhere,
    nothing_left,
    nothing_linked,
)
from tests.bluez.laboratory import Laboratory
from tests.bluez.test_bluez_faults import link, sighted, start

pytestmark = pytest.mark.parametrize("kind", [RuntimeError, OSError])

SCENARIOS: Final = 20
"""So many names have runs when all tests have run."""

Run = Callable[[Throwing], Awaitable[None]]


CAUGHT: Final = caught("OSError")

MEANT: Final[dict[type[Exception], Meant]] = {
    RuntimeError: bool,
    OSError: lambda way: not CAUGHT.isdisjoint(way),
}
"""Where each is thrown. An OSError that nobody catches is to the driver what a RuntimeError is."""

SEEN: dict[type[Exception], set[Way]] = {RuntimeError: set(), OSError: set()}
"""Of all tests: who has raised once need not do so again in another's scenario."""


async def raised_everywhere(name: str, kind: type[Exception], *runs: Run) -> None:
    await everywhere(name, lambda: Throwing(SEEN[kind], kind, MEANT[kind]), *runs)


async def test_entering_starting_and_leaving(
    kind: type[Exception], names: list[str], outages: list[str]
) -> None:
    async def run(name: str, throwing: Throwing) -> None:
        with throwing.borne(), throwing.at_once():
            async with BleakDriver(name) as driver:
                await start(driver, b"a")
                await driver.stop()
                await start(driver, b"b")

    name = f"enter, {kind.__name__}"

    async def run_on_one_that_is_off(adapter: str, throwing: Throwing) -> None:
        await laboratory.set_powered(adapter, False)
        await run(adapter, throwing)

    async with nothing_left(name, outages):
        await raised_everywhere(name, kind, *(partial(run, adapter) for adapter in names))
        await raised_everywhere(name, kind, *(partial(run_on_one_that_is_off, adapter) for adapter in names))


async def test_examining(kind: type[Exception], adapters: list[str], outages: list[str]) -> None:
    name = f"examine, {kind.__name__}"

    async def run(throwing: Throwing) -> None:
        with throwing.borne(), throwing.at_once():
            await examine()

    async with nothing_left(name, outages):
        await raised_everywhere(name, kind, run)


def as_ever(_between: Between) -> AbstractContextManager[object]:
    return nullcontext()


def without_sockets(between: Between) -> AbstractContextManager[object]:
    with ExitStack() as stack:
        for member in ("AcquireNotify", "AcquireWrite"):
            stack.enter_context(between.refusing(member, "NotSupported"))
        return stack.pop_all()


@pytest.mark.parametrize("circumstances", [as_ever, without_sockets])
async def test_connecting_and_closing(
    kind: type[Exception],
    circumstances: Callable[[Between], AbstractContextManager[object]],
    names: list[str],
    between: Between,
    outages: list[str],
) -> None:
    name = f"connect, {circumstances.__name__}, {kind.__name__}"

    async def work(adapter: str, address: str) -> None:
        async with BleakDriver(adapter) as central:
            await start(central, b"c")
            await central.stop_advertising()
            await sighted(central, address)

            async def run(throwing: Throwing) -> None:
                with throwing.borne(), throwing.at_once():
                    ours = await central.connect(address)
                    try:
                        await echoes(ours)
                    finally:
                        async with trio.open_nursery() as nursery:
                            nursery.start_soon(ours.aclose)
                            nursery.start_soon(ours.aclose)
                await nothing_linked(central)

            with circumstances(between):
                await raised_everywhere(name, kind, run)
            await connects(central, address)

    async with (
        nothing_left(name, outages),
        an_answering_peer(names[0]) as address,
        trio.open_nursery() as nursery,
    ):
        for adapter in names[1:]:
            nursery.start_soon(work, adapter, address)


async def test_sending_more_than_bluetoothd_takes_and_stopping(
    kind: type[Exception],
    lab: Laboratory,
    names: list[str],
    outages: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = f"flood, {kind.__name__}"
    make = SocketOutlet.__init__

    def make_small(outlet: SocketOutlet, taken: socket.socket, alive: Callable[[], None]) -> None:
        make(outlet, taken, alive)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the kernel's least, a few values

    monkeypatch.setattr(SocketOutlet, "__init__", make_small)

    async def thaw() -> None:
        await trio.sleep(0.5)  # for the sockets to be full, and their senders to wait
        lab.bluetoothd.thaw()

    async def flood(ours: BLELink) -> None:
        for _ in range(20):
            await ours.send(bytes(400))

    async def drain(theirs: BLELink) -> None:
        async for _ in theirs:
            pass

    async def run(
        central: BleakDriver, peripheral: BleakDriver, as_central: bool, throwing: Throwing
    ) -> None:
        made, accepted = await link(central, peripheral)
        ours, theirs = (made, accepted) if as_central else (accepted, made)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain, theirs)
            nursery.start_soon(thaw)
            lab.bluetoothd.freeze()
            with throwing.borne(), throwing.at_once():
                async with trio.open_nursery() as senders:
                    senders.start_soon(flood, ours)
                    senders.start_soon(flood, ours)
                await central.stop()
            lab.bluetoothd.thaw()
            nursery.cancel_scope.cancel()
        for end in (made, accepted):
            await end.aclose()
        for driver in (central, peripheral):
            await nothing_linked(driver)
            await start(driver, b"a")

    async with (
        nothing_left(name, outages),
        BleakDriver(names[0]) as peripheral,
        BleakDriver(names[1]) as central,
    ):
        for driver in (peripheral, central):
            await start(driver, b"a")
        for as_central in (True, False):
            await raised_everywhere(name, kind, partial(run, central, peripheral, as_central))


async def test_refused(kind: type[Exception], names: list[str], between: Between, outages: list[str]) -> None:
    name = f"refused, {kind.__name__}"

    async def scan(driver: BleakDriver, throwing: Throwing) -> None:
        await driver.stop_scanning()
        with throwing.borne(), throwing.at_once(), suppress(AdapterUnavailable):
            await driver.start_scanning()

    async def advertise(driver: BleakDriver, throwing: Throwing) -> None:
        await driver.stop_advertising()
        with throwing.borne(), throwing.at_once(), suppress(AdvertisingUnavailable):
            await driver.start_advertising()

    async def dial(address: str, driver: BleakDriver, throwing: Throwing) -> None:
        await sighted(driver, address)
        with throwing.borne(), throwing.at_once(), suppress(PeerUnreachable, ProtocolViolation):
            await driver.connect(address)

    async with (
        nothing_left(name, outages),
        an_answering_peer(names[1]) as address,
        BleakDriver(names[0]) as driver,
    ):
        await start(driver, b"a")
        with between.refusing("StartDiscovery"), between.refusing("RegisterAdvertisement"):
            for run in (scan, advertise):
                await raised_everywhere(name, kind, partial(run, driver))
        await start(driver, b"a")
        for refused in ("Connect", "ReadValue"):  # before there is a connection, and on it
            with between.refusing(refused):
                await raised_everywhere(name, kind, partial(dial, address, driver))
        await connects(driver, address)


async def test_at_work_as_central(
    kind: type[Exception], names: list[str], outages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rns_ble.drivers.bluez.driver.PING_INTERVAL", 0.5)
    name = f"central, {kind.__name__}"

    async def run(adapter: str, address: str, throwing: Throwing) -> None:
        with throwing.borne(), throwing.block() as begin:
            async with BleakDriver(adapter) as central:
                await start(central, b"c")
                await sighted(central, address)
                ours = await central.connect(address)
                begin()
                await echoes(ours)
                await trio.sleep(1)  # for a ping

    async with nothing_left(name, outages), an_answering_peer(names[0]) as address:
        await raised_everywhere(name, kind, *(partial(run, adapter, address) for adapter in names[1:]))


@pytest.mark.parametrize("taken", [True, False])
async def test_at_work_as_peripheral(
    kind: type[Exception], taken: bool, names: list[str], outages: list[str]
) -> None:
    name = f"peripheral, {taken=}, {kind.__name__}"

    async def run(central: BleakDriver, throwing: Throwing) -> None:
        theirs = None
        with throwing.borne(), throwing.block() as begin:
            async with BleakDriver(names[0]) as peripheral:
                await start(peripheral, b"p")
                assert peripheral.address is not None
                await sighted(central, peripheral.address)
                if taken:
                    theirs, ours = await link(central, peripheral)
                    begin()
                    await theirs.send(b"out")
                    assert await ours.receive() == b"out"
                    await ours.send(b"back")
                    assert await theirs.receive() == b"back"
                else:
                    peripheral.accepted.close()
                    begin()
                    theirs = await central.connect(peripheral.address)
                    async for _ in theirs:
                        pass
        if theirs is not None:
            await theirs.aclose()
        await nothing_linked(central)

    async with nothing_left(name, outages), BleakDriver(names[1]) as central:
        await start(central, b"c")
        await raised_everywhere(name, kind, partial(run, central))


async def test_switched_off(kind: type[Exception], names: list[str], outages: list[str]) -> None:
    name = f"off, {kind.__name__}"

    async def run(adapter: str, address: str, throwing: Throwing) -> None:
        await laboratory.set_powered(adapter, True)
        with throwing.borne(), throwing.block() as begin:
            try:
                async with BleakDriver(adapter) as driver:
                    await start(driver, b"a")
                    await sighted(driver, address)
                    await driver.connect(address)
                    begin()
                    with trio.CancelScope(shield=True):  # it has a second half
                        await laboratory.set_powered(adapter, False)
                    await trio.sleep_forever()
            except* AdapterUnavailable:
                pass

    async with nothing_left(name, outages), an_answering_peer(names[0]) as address:
        await raised_everywhere(name, kind, *(partial(run, adapter, address) for adapter in names[1:]))
        for adapter in names[1:]:
            await laboratory.set_powered(adapter, True)


def test_every_await_has_raised(
    kind: type[Exception], outages: list[str], bluez_version: tuple[int, int]
) -> None:
    if len(REACHED.runs) < SCENARIOS or not laboratory.IN_GUEST:
        pytest.skip("the other tests of this file have not all run, or not in the laboratory's guest")
    thrown = {place for place, _outermost in SEEN[kind]}
    outages.append(f"of {len(all_awaits())} awaits {len(thrown)} have raised a {kind.__name__}")
    wanted = {
        one.place
        for one in all_awaits()
        if not (needs_a_fault(one) or never_fails(one)) and (kind is RuntimeError or one.place in CAUGHT)
    }
    assert missed(lambda one: one.place in wanted, bluez_version, thrown) == []
