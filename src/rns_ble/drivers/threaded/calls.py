"""Both ways between Trio and a driver's threads; the only module below the interface that knows threads.

1. A call of the driver's is a thread. Whoever waits for it may stop waiting at any time; the thread goes on
   until the driver returns. While the interpreter ends Python starts no more threads (3.12): then goodbyes
   are said on the Trio thread itself, which is not waited for without end, either.
2. Calls that hang are bounded (`CALLS_MAXIMUM`), over all the times that the driver is entered.
3. Calls in turn are made one after the other, in the order in which they were begun.
4. What the driver tells from its threads is put into one queue and done on the Trio thread, in that order.
   What it tells during a call is done before whoever waits for that call goes on. A callback never waits and
   never raises. The queue is bounded (`EVENTS_MAXIMUM`).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Final, Generic, TypeVar, TypeVarTuple

import outcome
import trio

from rns_ble import quiet
from rns_ble.drivers.base import AdapterUnavailable

log = quiet.logger(__name__)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

CALLS_MAXIMUM: Final = 64
"""Calls in the driver at once: one for each link of the largest controllers in use (20), in either direction,
and then those that never return. With more of these nothing can be expected of the driver."""

EVENTS_MAXIMUM: Final = 4096
"""Events that may wait for the Trio thread, 2 MiB of values: four seconds of the fastest radio. Sightings and
values beyond that are dropped and counted."""

EVENTS_FLOOD: Final = 2 * EVENTS_MAXIMUM
"""Events that wait, of those that may not be dropped, at which the driver is given up: each is a link that
comes, goes or changes, and no controller has so many."""


class DriverComplaint(Exception):
    """What a driver has told `on_error`, on the very thread on which it was called."""


class Call(Generic[T]):
    """A call that is under way, or was."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self._outcome: outcome.Outcome[T]

    def end(self, ended: outcome.Outcome[T]) -> None:
        """From the thread, by way of Trio's."""
        self._outcome = ended
        self.done.set()

    def result(self) -> T:
        """What it returned, or raises what it raised. After `done`; once."""
        return self._outcome.unwrap()


class Threads:
    """What calls a driver's methods."""

    def __init__(self) -> None:
        self._running: dict[object, str] = {}
        self._last_turn = threading.Event()
        """Set when the last call in turn is over, of those that have been begun."""
        self._last_turn.set()
        self._here = threading.local()

    def begin(self, function: Callable[[*Ts], T], *arguments: *Ts) -> Call[T]:
        """Start a call. On the Trio thread. Raises `AdapterUnavailable` where too many hang."""
        if len(self._running) >= CALLS_MAXIMUM:
            names = ", ".join(sorted(set(self._running.copy().values())))
            raise AdapterUnavailable(
                f"{CALLS_MAXIMUM} calls of the driver have not returned ({names}): restart Reticulum"
            )
        call, token, key = Call[T](), trio.lowlevel.current_trio_token(), object()
        self._running[key] = _name(function)

        def deliver(ended: outcome.Outcome[T]) -> None:
            del self._running[key]
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(call.end, ended)

        context = copy_context()  # it says which interface a line of the log is about
        work = partial(context.run, self._call, function, arguments)
        try:
            trio.lowlevel.start_thread_soon(work, deliver)
        except RuntimeError:  # no more threads
            deliver(outcome.capture(work))
        return call

    async def call(self, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """Call, and wait for as long as it takes. Cancelled: the call goes on alone."""
        call = self.begin(function, *arguments)
        await call.done.wait()
        return call.result()

    def begin_in_turn(self, function: Callable[[*Ts], T], *arguments: *Ts) -> Call[T]:
        """As `begin`, for a call that is made when all those begun in turn before it are over."""
        before, mine = self._last_turn, threading.Event()

        def in_turn() -> T:
            before.wait()
            try:
                return function(*arguments)
            finally:
                mine.set()

        in_turn.__name__ = _name(function)
        call = self.begin(in_turn)
        self._last_turn = mine
        return call

    def apart(self, function: Callable[[*Ts], object], *arguments: *Ts, within: float) -> None:
        """Call a function in turn without Trio, and wait at most `within` seconds. What it raises is logged.

        Not while the driver is entered. While the interpreter ends it does nothing.
        """
        before, mine = self._last_turn, threading.Event()

        def run() -> None:
            before.wait()
            try:
                self._call(function, arguments)
            except Exception as error:  # noqa: BLE001  (a driver may raise anything)
                log.debug("%s: %s: %s", _name(function), type(error).__name__, error)
            finally:
                mine.set()

        with suppress(RuntimeError):  # no more threads
            threading.Thread(target=run, name="BLE driver", daemon=True).start()
            self._last_turn = mine
            mine.wait(within)

    def _call(self, function: Callable[[*Ts], T], arguments: tuple[*Ts]) -> T:
        complaints: list[str] = []
        self._here.complaints = complaints
        try:
            value = function(*arguments)
        finally:
            self._here.complaints = None
        if complaints:
            raise DriverComplaint(complaints[0])
        return value

    def complain(self, message: str) -> bool:
        """On any thread. False: it is not one on which the driver is called."""
        complaints: list[str] | None = getattr(self._here, "complaints", None)
        if complaints is None:
            return False
        complaints.append(message)
        return True


def said(error: Exception) -> str:
    """An error's own words."""
    return str(error) or type(error).__name__


def _name(function: Callable[..., object]) -> str:
    return getattr(function, "__name__", repr(function))


class Inlet:
    """The queue from the driver's threads into Trio. Made on the Trio thread."""

    def __init__(self, flooded: Callable[[], None]) -> None:
        """`flooded` is called, on the Trio thread, when the driver has to be given up."""
        self.dropped = 0
        """Sightings and values that found no room."""
        self._token = trio.lowlevel.current_trio_token()
        self._events: deque[Callable[[], None]] = deque()
        self._flooded = flooded
        self._open = True

    def put(self, event: Callable[[], None], *, droppable: bool = False) -> None:
        """On any thread. Never waits, never raises. Once closed, does nothing."""
        waiting = len(self._events)
        if not self._open or waiting > EVENTS_FLOOD:
            return
        if droppable and waiting >= EVENTS_MAXIMUM:
            self.dropped += 1
            return
        self._events.append(event)
        # Every thread asks for itself, or the end of its call could overtake what it has told: another that
        # has asked for all may not have come to do so. Trio does it once.
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._take, idempotent=True)

    def close(self) -> None:
        """What still waits, and whatever comes, is forgotten. On the Trio thread."""
        self._open = False
        self._events.clear()

    def _take(self) -> None:
        if not self._open:
            return  # told in the very moment in which it was closed
        # No more than there are now, so that a flood does not keep all else from running.
        if len(self._events) > EVENTS_FLOOD:
            self._flooded()
        for _ in range(len(self._events)):
            try:
                event = self._events.popleft()
            except IndexError:  # closed by the event before
                return
            try:
                event()
            except Exception:
                log.exception("a bug in what follows from an event of the driver's; going on")
