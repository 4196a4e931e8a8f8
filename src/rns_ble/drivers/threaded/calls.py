"""Both ways between Trio and a driver's threads; the only module below the interface that knows threads.

1. A call of the driver's is a task in a nursery and a thread. Whoever waits for it may stop waiting at any
   time; the thread goes on until the driver returns, and the nursery's end abandons it.
2. Calls that hang are bounded (`CALLS_MAXIMUM`), over all the times that the driver is entered.
3. What the driver tells from its threads is put into one queue and done on the Trio thread, in that order.
   What it tells during a call is done before whoever waits for that call goes on. A callback never waits and
   never raises. The queue is bounded (`EVENTS_MAXIMUM`).
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Generic, TypeVar, TypeVarTuple

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
        self._value: T
        self._error: Exception | None = AdapterUnavailable("the driver was left during the call")

    def result(self) -> T:
        """What it returned, or raises what it raised. After `done`."""
        if self._error is not None:
            raise self._error
        return self._value


class Threads:
    """What calls a driver's methods."""

    def __init__(self) -> None:
        self._running: dict[object, str] = {}  # written by the threads, one entry each
        self._turn = threading.Lock()
        self._here = threading.local()
        # The threads that hang are counted above; this one may belong to a run of Trio that has ended.
        self._limiter = trio.CapacityLimiter(math.inf)

    def begin(self, nursery: trio.Nursery, function: Callable[[*Ts], T], *arguments: *Ts) -> Call[T]:
        """Start a call."""
        call = Call[T]()
        if len(self._running) >= CALLS_MAXIMUM:
            names = ", ".join(sorted(set(self._running.copy().values())))
            call._error = AdapterUnavailable(
                f"{CALLS_MAXIMUM} calls of the driver have not returned ({names}): restart Reticulum"
            )
            call.done.set()
        else:
            nursery.start_soon(self._run, call, function, arguments)
        return call

    async def _run(self, call: Call[T], function: Callable[[*Ts], T], arguments: tuple[*Ts]) -> None:
        try:
            call._value = await trio.to_thread.run_sync(
                self._on_thread, function, arguments, abandon_on_cancel=True, limiter=self._limiter
            )
            call._error = None
        except Exception as error:  # noqa: BLE001  (for whoever asks for the result)
            call._error = error
        finally:
            call.done.set()

    def _on_thread(self, function: Callable[[*Ts], T], arguments: tuple[*Ts]) -> T:
        key = object()
        self._running[key] = getattr(function, "__name__", repr(function))
        complaints: list[str] = []
        self._here.complaints = complaints
        try:
            value = function(*arguments)
        finally:
            self._here.complaints = None
            del self._running[key]
        if complaints:
            raise DriverComplaint(complaints[0])
        return value

    def in_turn(self, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """Call a function when no other one is called in this way. On a thread that may wait."""
        with self._turn:
            return function(*arguments)

    def complain(self, message: str) -> bool:
        """On any thread. False: it is not one on which the driver is called."""
        complaints: list[str] | None = getattr(self._here, "complaints", None)
        if complaints is None:
            return False
        complaints.append(message)
        return True

    def apart(self, function: Callable[[*Ts], object], *arguments: *Ts, within: float) -> None:
        """Call a function without Trio, and wait at most `within` seconds. What it raises is logged."""

        def run() -> None:
            try:
                self._on_thread(function, arguments)
            except Exception as error:  # noqa: BLE001  (a driver may raise anything)
                log.debug("%s: %s: %s", getattr(function, "__name__", function), type(error).__name__, error)

        thread = threading.Thread(target=run, name="BLE driver", daemon=True)
        thread.start()
        thread.join(within)


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
        self._called = False  # whether `_take` will run and has not begun: several may be called, never none

    def put(self, event: Callable[[], None], *, droppable: bool = False) -> None:
        """On any thread. Never waits, never raises. Once closed, does nothing."""
        waiting = len(self._events)
        if not self._open or waiting > EVENTS_FLOOD:
            return
        if droppable and waiting >= EVENTS_MAXIMUM:
            self.dropped += 1
            return
        self._events.append(event)
        if not self._called:
            self._called = True
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._take)

    def close(self) -> None:
        """What still waits, and whatever comes, is forgotten. On the Trio thread."""
        self._open = False
        self._events.clear()

    def _take(self) -> None:
        self._called = False
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
