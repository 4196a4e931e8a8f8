"""The BlueZ driver interrupted at each of its awaits, one after the other, on a real bluetoothd.

In real time no two runs of a scenario have the same checkpoints, so they are not counted. Instead, a run is
interrupted at the first await at which no earlier run of the scenario was, by the lines of the driver that
wait for it. The scenario is run again until a run comes to its end. Several adapters share that work: most
of it is waiting for BlueZ, which takes two seconds to disconnect.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import CoroutineType
from typing import Any, Final, TypeVar

import trio

from rns_ble.drivers.base import BLEError, BLELink, PeerUnreachable
from rns_ble.drivers.bluez import BleakDriver
from rns_ble.testing.checkpoints import (
    Place,
    Strike,
    Way,
    tasks_below,
    throw_into,
    way_of,
    who_waits,
)
from tests.bluez import census
from tests.bluez.awaits import PACKAGE, all_awaits, never_fails
from tests.bluez.laboratory import PATIENCE
from tests.bluez.test_bluez_faults import sighted, start
from tests.bluez.test_bluez_pressure import answer

Meant = Callable[[Way], object]
"""Whether a way is one at which to interrupt."""

NEVER_FAIL: Final = {one.place for one in all_awaits() if never_fails(one)}

RACES_BORNE: Final = 10
"""Runs of one scenario that BlueZ may spoil, of about fifty."""


@dataclass
class Reached:
    """What all scenarios have reached."""

    cancelled: set[Place] = field(default_factory=set)
    shielded: set[Place] = field(default_factory=set)
    runs: dict[str, int] = field(default_factory=dict)

    @property
    def met(self) -> set[Place]:
        """Where tasks were when they were cancelled, whether they could be or not."""
        return self.cancelled | self.shielded


REACHED: Final = Reached()


class Interruption(ABC):
    """One run: it is interrupted at the first way that is `meant` and not among those `seen`."""

    def __init__(self, seen: set[Way], meant: Meant = bool) -> None:
        self.strike = Strike(1)
        self._seen = seen
        self._meant = meant
        self._scope = trio.CancelScope()

    @contextmanager
    def block(self) -> Iterator[Callable[[], None]]:
        """What is interrupted; from when on is told by a call of what it yields."""
        from_now_on = False

        def begin() -> None:
            nonlocal from_now_on
            from_now_on = True

        with self._scope, self.strike.acting(self._act, lambda _task: self._look() and from_now_on):
            yield begin

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """What is interrupted, from its beginning on."""
        with self.block() as begin:
            begin()
            yield

    def _ways(self) -> list[tuple[trio.lowlevel.Task, Way]]:
        """Of the tasks in the block."""
        status = self._scope._cancel_status
        return [] if status is None else [(task, driver_way(task)) for task in tasks_below(status)]

    def _is_new(self, way: Way) -> bool:
        return way not in self._seen and bool(self._meant(way))

    def _look(self) -> bool:
        """Whether a task has come to somewhere new. An asyncio coroutine moves while its Trio task waits."""
        return not self.strike.struck and any(self._is_new(way) for _task, way in self._ways())

    @abstractmethod
    def _act(self, task: trio.lowlevel.Task) -> None:
        """Interrupt. `task` has come to a checkpoint; which one is somewhere new it does not tell."""


class Cancelling(Interruption):
    """The block is cancelled."""

    def _look(self) -> bool:
        if self.strike.struck:
            for task, way in self._ways():
                self._note(task, way)
        return super()._look()

    def _act(self, _task: trio.lowlevel.Task) -> None:
        ways = self._ways()
        self._seen.update(way for _task, way in ways)
        # Who passes through a checkpoint that can't be cancelled, as where a lock is free, is there for one
        # step.
        passing = [way for task, way in ways if task._abort_func is None]
        waiting = [(task, way) for task, way in ways if task._abort_func is not None]
        self.strike.cancel(self._scope)
        REACHED.shielded.update(*passing)
        for task, way in waiting:
            self._note(task, way)

    def _note(self, task: trio.lowlevel.Task, way: Way) -> None:
        met = task._cancel_status.effectively_cancelled
        (REACHED.cancelled if met else REACHED.shielded).update(way)


class Throwing(Interruption):
    """An error comes out of an await, as if what it waits for had failed.

    New is a way on which a line waits out of which none has come yet, in this kind of call or task.
    """

    def __init__(self, thrown: set[Way], kind: type[Exception], meant: Meant = bool) -> None:
        super().__init__(set(), meant)
        self.error = kind("thrown by a test")
        self._thrown = thrown
        """Pairs of a line that waits, and the outermost one: in what."""

    def _is_new(self, way: Way) -> bool:
        return bool(self._meant(way)) and not pairs(way) <= self._thrown

    def _ways(self) -> list[tuple[trio.lowlevel.Task, Way]]:
        """Of the tasks that wait, in our code, for something that may fail: not inside of trio-asyncio."""
        return [
            (task, way)
            for task, way in super()._ways()
            if NEVER_FAIL.isdisjoint(way)
            and thrower(task, way) is not None
            and (code := who_waits(task)) is not None
            and "rns_ble" in code.co_filename
        ]

    def _act(self, _task: trio.lowlevel.Task) -> None:
        task, way = next((task, way) for task, way in self._ways() if self._is_new(way))
        throw = thrower(task, way)
        assert throw is not None
        self._thrown.update(pairs(way))
        throw(self.error)

    @contextmanager
    def borne(self) -> Iterator[None]:
        """What is inside raises nothing but the error, or what the driver has made of it."""
        try:
            yield
        except Exception as raised:
            if not self.strike.struck:
                raise
            for error in leaves(raised):
                if not isinstance(error, BLEError | trio.EndOfChannel) and error is not self.error:
                    raise


def pairs(way: Way) -> set[Way]:
    """Each place of a way, with the outermost one."""
    return {(place, way[-1]) for place in way}


def thrower(task: trio.lowlevel.Task, way: Way) -> Callable[[Exception], object] | None:
    """Has what a task, or the asyncio coroutine that it waits for, raise an error where it waits."""
    waits_for = coroutine_of(task)
    if waits_for is not None and way[:1] == ours(coroutine_way(waits_for.get_coro()))[:1] != ():
        future = waits_for._fut_waiter  # type: ignore[attr-defined]
        return None if future is None or future.done() else future.set_exception
    return None if task._abort_func is None else partial(throw_into, task)


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The exceptions in a group, whatever is in between."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


def driver_way(task: trio.lowlevel.Task) -> Way:
    """The lines of the driver at which a task waits, also those of the asyncio coroutine it waits for.

    That one is a variable of trio-asyncio's: where its name changes, no scenario reaches our coroutines, and
    the last test of each file fails.
    """
    places = list(way_of(task))
    waits_for = coroutine_of(task)
    if waits_for is not None:
        places[:0] = coroutine_way(waits_for.get_coro())
    return ours(places)


def ours(places: Iterable[Place]) -> Way:
    """Those of the driver."""
    return tuple(place for place in places if Path(place.file).parent == PACKAGE)


def coroutine_of(task: trio.lowlevel.Task) -> asyncio.Task[Any] | None:
    """The asyncio task that a Trio task waits for."""
    for frame, _line in task.iter_await_frames():
        future = frame.f_locals.get("future")
        if isinstance(future, asyncio.Task) and not future.done():
            return future
    return None


def coroutine_way(coroutine: Any) -> Way:
    places = []
    while isinstance(coroutine, CoroutineType) and coroutine.cr_frame is not None:
        places.append(Place(coroutine.cr_code.co_filename, coroutine.cr_frame.f_lineno))
        coroutine = coroutine.cr_await
    return tuple(reversed(places))


One = TypeVar("One", bound=Interruption)


async def everywhere(name: str, make: Callable[[], One], *runs: Callable[[One], Awaitable[None]]) -> None:
    """Each of these, side by side, again and again until nothing new can be interrupted in it."""

    async def again_and_again(run: Callable[[One], Awaitable[None]]) -> None:
        races = 0
        while True:
            interruption = make()
            trio.lowlevel.add_instrument(interruption.strike)
            try:
                with trio.fail_after(PATIENCE):
                    await run(interruption)
            except PeerUnreachable:
                races += 1
                assert races <= RACES_BORNE
            else:
                if not interruption.strike.struck:
                    return
            finally:
                trio.lowlevel.remove_instrument(interruption.strike)
                REACHED.runs[name] = REACHED.runs.get(name, 0) + 1

    async with trio.open_nursery() as nursery:
        for run in runs:
            nursery.start_soon(again_and_again, run)


async def cancelled_everywhere(
    name: str, seen: set[Way], *runs: Callable[[Cancelling], Awaitable[None]], meant: Meant = bool
) -> None:
    """Each of these, side by side, cancelled again and again until a run comes to its end."""
    await everywhere(name, lambda: Cancelling(seen, meant), *runs)


def figure(name: str, began: float) -> str:
    return f"interrupted everywhere: {name}: {REACHED.runs[name]} runs in {trio.current_time() - began:.0f} s"


# --- what a scenario does ---------------------------------------------------------------------------------


@asynccontextmanager
async def nothing_left(name: str, outages: list[str]) -> AsyncIterator[None]:
    before = await census.at_rest()
    began = trio.current_time()
    yield
    await census.back_to(before, census.AT_ONCE)
    outages.append(figure(name, began))


@asynccontextmanager
async def an_answering_peer(name: str) -> AsyncIterator[str]:
    """Its address."""
    async with BleakDriver(name) as peripheral, trio.open_nursery() as serving:
        await start(peripheral, b"p")
        serving.start_soon(answer, peripheral)
        assert peripheral.address is not None
        yield peripheral.address
        serving.cancel_scope.cancel()


async def nothing_linked(driver: BleakDriver) -> None:
    assert driver.establishing.borrowed_tokens == 0
    with trio.fail_after(PATIENCE):
        while driver.connected_peers:
            await trio.sleep(0.05)  # the goodbye is BlueZ's to finish


async def echoes(ours: BLELink) -> None:
    for value in (b"out", bytes(500)):
        await ours.send(value)
        while await ours.receive() != value:
            pass  # an echo for another central: BlueZ before 5.69 has one socket for all


async def connects(central: BleakDriver, address: str) -> None:
    """A normal life. What BlueZ remembers of an attempt that was interrupted may spoil the next one."""
    with trio.fail_after(PATIENCE):
        while True:
            await sighted(central, address)
            with suppress(PeerUnreachable):
                ours = await central.connect(address)
                break
        await echoes(ours)
        await ours.aclose()
