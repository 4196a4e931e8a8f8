"""The BlueZ driver cancelled at each of its awaits, one after the other, on a real bluetoothd.

In real time no two runs of a scenario have the same checkpoints, so they are not counted. Instead, a run is
cancelled at the first await to which no earlier run of the scenario was cancelled, by the lines of the driver
that wait for it. The scenario is run again until a run comes to its end. Several adapters share that work:
most of it is waiting for BlueZ, which takes two seconds to disconnect.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import CoroutineType
from typing import Any, Final

import pytest
import trio

from rns_ble.drivers import bluez
from rns_ble.drivers.base import BLELink, PeerUnreachable
from rns_ble.drivers.bluez import BleakDriver
from rns_ble.testing.checkpoints import Place, Strike, Way, awaits_of, tasks_below, way_of
from tests.bluez import census, laboratory
from tests.bluez.laboratory import PATIENCE
from tests.bluez.test_bluez_faults import link, sighted, start
from tests.bluez.test_bluez_pressure import answer

PACKAGE: Final = Path(bluez.__file__).parent

RACES_BORNE: Final = 10
"""Runs of one scenario that BlueZ may spoil, of about fifty."""

SCENARIOS: Final = 6
"""So many names have runs when all tests have run."""

Run = Callable[["Cancelling"], Awaitable[None]]


@dataclass
class Reached:
    """What all scenarios have reached."""

    cancelled: set[Place] = field(default_factory=set)
    shielded: set[Place] = field(default_factory=set)
    runs: dict[str, int] = field(default_factory=dict)


REACHED: Final = Reached()


class Cancelling:
    """One run: it is cancelled at the first await that is not among those `seen`."""

    def __init__(self, seen: set[Way]) -> None:
        self.strike = Strike(1)
        self._seen = seen
        self._scope = trio.CancelScope()

    @contextmanager
    def block(self) -> Iterator[Callable[[], None]]:
        """What is cancelled; from when on is told by a call of what it yields."""
        from_now_on = False

        def begin() -> None:
            nonlocal from_now_on
            from_now_on = True

        with self._scope, self.strike.acting(self._cancel, lambda _task: self._look() and from_now_on):
            yield begin

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """What is cancelled, from its beginning on."""
        with self.block() as begin:
            begin()
            yield

    def _tasks(self) -> list[trio.lowlevel.Task]:
        status = self._scope._cancel_status
        return [] if status is None else list(tasks_below(status))

    def _look(self) -> bool:
        """Whether a task has come to somewhere new. An asyncio coroutine moves while its Trio task waits."""
        ways = [(task, driver_way(task)) for task in self._tasks()]
        if self.strike.struck:
            for task, way in ways:
                self._note(task, way)
            return False
        return any(way and way not in self._seen for _task, way in ways)

    def _cancel(self, _task: trio.lowlevel.Task) -> None:
        ways = [(task, driver_way(task)) for task in self._tasks() if task._abort_func is not None]
        self._seen.update(driver_way(task) for task in self._tasks())
        self.strike.cancel(self._scope)
        for task, way in ways:
            self._note(task, way)

    def _note(self, task: trio.lowlevel.Task, way: Way) -> None:
        met = task._cancel_status.effectively_cancelled
        (REACHED.cancelled if met else REACHED.shielded).update(way)


def driver_way(task: trio.lowlevel.Task) -> Way:
    """The lines of the driver at which a task waits, also those of the asyncio coroutine it waits for.

    That one is a variable of trio-asyncio's: where its name changes, no scenario reaches our coroutines, and
    the last test fails.
    """
    places = list(way_of(task))
    for frame, _line in task.iter_await_frames():
        future = frame.f_locals.get("future")
        if isinstance(future, asyncio.Task) and not future.done():
            places[:0] = coroutine_way(future.get_coro())
    return tuple(place for place in places if Path(place.file).parent == PACKAGE)


def coroutine_way(coroutine: Any) -> Way:
    places = []
    while isinstance(coroutine, CoroutineType) and coroutine.cr_frame is not None:
        places.append(Place(coroutine.cr_code.co_filename, coroutine.cr_frame.f_lineno))
        coroutine = coroutine.cr_await
    return tuple(reversed(places))


async def cancelled_everywhere(name: str, seen: set[Way], *runs: Run) -> None:
    """Each of these, side by side, again and again until nothing new can be cancelled in it."""

    async def again_and_again(run: Run) -> None:
        races = 0
        while True:
            cancelling = Cancelling(seen)
            trio.lowlevel.add_instrument(cancelling.strike)
            try:
                with trio.fail_after(PATIENCE):
                    await run(cancelling)
            except PeerUnreachable:
                races += 1
                assert races <= RACES_BORNE
            else:
                if not cancelling.strike.struck:
                    return
            finally:
                trio.lowlevel.remove_instrument(cancelling.strike)
                REACHED.runs[name] = REACHED.runs.get(name, 0) + 1

    async with trio.open_nursery() as nursery:
        for run in runs:
            nursery.start_soon(again_and_again, run)


def figure(name: str, began: float) -> str:
    return f"cancelled everywhere: {name}: {REACHED.runs[name]} runs in {trio.current_time() - began:.0f} s"


async def nothing_linked(driver: BleakDriver) -> None:
    assert driver.establishing.borrowed_tokens == 0
    with trio.fail_after(PATIENCE):
        while driver.connected_peers:
            await trio.sleep(0.05)  # the goodbye is BlueZ's to finish


async def echoes(ours: BLELink) -> None:
    for value in (b"out", bytes(500)):
        await ours.send(value)
        assert await ours.receive() == value


async def connects(central: BleakDriver, address: str) -> None:
    """A normal life."""
    await sighted(central, address)
    with trio.fail_after(PATIENCE):
        ours = await central.connect(address)
        await echoes(ours)
        await ours.aclose()


@pytest.fixture
def names(take_adapters: Callable[[int], list[str]], adapters: list[str]) -> list[str]:
    """Of the peripheral, and of one central or more."""
    take_adapters(2)
    return adapters[:4]


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


NEEDS_A_FAULT: Final = {
    ("bus", 'await self.call("/org/bluez", f"{DBUS}.Peer", "Ping")'): "BlueZ refuses something",
    ("driver", "daemon = await _ask_who_is_there(stack.bus)"): "the adapter is off, or gone",
    ("driver", "await trio.sleep(GONE_WITHIN)"): "the adapter is off, or gone",
    ("driver", "await stack.bus.catch_up()"): "BlueZ refuses a scan, an advertisement or a connect",
    ("driver", "await self._find_out(stack)"): "and the adapter is off, or gone",
    ("driver", "await self._blame_adapter(stack, error)"): "BlueZ refuses one of them",
    ("driver", "await stack.central.release()"): "the stack has failed",
    ("scanner", "await self._bus.catch_up()"): "BlueZ refuses to scan again",
    (
        "central",
        'await client.subscribe(tx, link.on_value, "the subscription to TX")',
    ): "BlueZ gives no socket",
    (
        "central",
        'await client.write(rx, value, "a value", response=not rx.takes_commands)',
    ): "BlueZ gives no socket",
    (
        "bleak_client",
        "await self._do(what, self._client.start_notify(characteristic.found, notified))",
    ): "BlueZ gives no socket",
    ("link", "await self._send(value)"): "BlueZ gives no socket",
}
"""And which. The other tests of this directory bring these about, but cancel nothing in the midst of them."""

LATE: Final = "services, or bleak, come later than BlueZ has said"
EARLIER: Final = "there is a connection already, or an earlier link on it"
BUSY: Final = "bluetoothd trips over itself, or is busy with an earlier change"

BY_CHANCE: Final = {
    ("bleak_client", "await self.release()"): LATE,
    ("bleak_client", "await self.open()"): LATE,
    ("bleak_client", "await self._noticed(await get_global_bluez_manager())"): LATE,
    ("bleak_client", "await asyncio.wait_for(noticed.wait(), NOTICED_WITHIN)"): LATE,
    ("central", "rx, tx, known = await self._characteristics(link.address, device, client, uuids)"): LATE,
    ("central", "await client.reopen()"): LATE,
    ("central", "await self._links.wait()"): LATE,
    ("central", "await client.open()"): EARLIER,
    ("central", "await ended.aclose()  # its connection may be up still, and end any moment"): EARLIER,
    ("central", "await self._let_go(client)"): EARLIER,
    ("central", "await self._links.forget(path)"): "the peer's service went while we were connected",
    ("links", "await self.wait()"): "BlueZ answers before it shows that the device is disconnected",
    ("central", "await trio.sleep(RACE_INTERVAL)"): BUSY,
    ("scanner", "await trio.sleep(RETRY_INTERVAL)"): BUSY,
    ("peripheral", "await self._links.wait()"): "BlueZ shows our service later than it has taken it",
    ("link", "await self._outlet_changed.wait()"): "the central has not subscribed, or subscribes anew",
    ("link", "await self._inbox_send.send(value)"): "a value comes while the driver is left",
    ("peripheral", "await _until_closed(outlet)"): "one of two, by the generation of BlueZ",
    ("peripheral", "await self._outlet.send(value)"): "5.66 only",
}
"""Reached in some runs only, and what it takes."""


def test_every_await_was_cancelled(outages: list[str]) -> None:
    if len(REACHED.runs) < SCENARIOS or not laboratory.IN_GUEST:
        pytest.skip("the other tests of this file have not all run, or not in the laboratory's guest")
    excused = NEEDS_A_FAULT.keys() | BY_CHANCE.keys()
    known, missed, figures = set(), [], Counter[str]()
    for source in sorted(PACKAGE.glob("*.py")):
        lines = source.read_text().splitlines()
        for place in sorted(awaits_of(source)):
            line = source.stem, lines[place.line - 1].strip()
            known.add(line)
            met = place in REACHED.cancelled, place in REACHED.shielded
            figures["cancelled" if met[0] else "shielded" if met[1] else "not reached"] += 1
            if not any(met) and line not in excused:
                missed.append(f"{place}: {line[1]}")
    outages.append(f"of the awaits: {dict(figures)}")
    assert excused <= known
    assert not missed, "\n".join(missed)
