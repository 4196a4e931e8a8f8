"""The radio's two standing jobs, scanning and advertising, kept as they were asked for.

Each has a wanted state and the state of the controller; `apply` makes them agree, one task at a time. Whoever
changes what is wanted, or learns that the controller has changed by itself, calls it.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

import trio

from rns_ble import quiet
from rns_ble.drivers.base import AdapterUnavailable

if TYPE_CHECKING:
    from rns_ble.drivers.hci.stack import Stack

log = quiet.logger(__name__)

SCAN_INTERVAL: Final = 100.0
SCAN_WINDOW: Final = 50.0
"""Milliseconds: every other advertisement is heard, and half of the time is left to the links."""


RENEWAL: Final = 1.0
"""Seconds after which a scan that goes on reports everybody once more. Nodes advertise ten times as often."""


class Scanning:
    """Active scanning, for some peers have their service's UUID in the scan response.

    The controller leaves out what it has reported already, strangers too: reports would be most of what an
    idle node computes. Every controller can, for Linux asks it of them all. With each scan it forgets whom it
    has reported, so the scan is begun anew: after `RENEWAL`, and where somebody should be heard at once.
    """

    def __init__(self, stack: Stack) -> None:
        self.wanted = False
        self.paused = False
        """While a connection is initiated: not every controller can do both at once."""
        self._stack = stack
        self._on = False
        self._refused = False
        """The controller would not scan when nobody waited for it. It is asked again, and again."""
        self._lock = trio.Lock()
        self._renew_at = math.inf
        self._until_renewal = trio.CancelScope()

    async def apply(self) -> None:
        """Raises `AdapterUnavailable`."""
        async with self._lock:
            wanted = self.wanted and not self.paused
            if wanted == self._on and trio.current_time() < self._renew_at:
                return
            device = self._stack.device
            self._renew_at = math.inf
            if self._on:
                self._on = False
                await self._stack.call_or_fail("to stop scanning", device.stop_scanning)
            if wanted:
                await self._stack.call_or_fail(
                    "to scan",
                    device.start_scanning,
                    active=True,
                    scan_interval=SCAN_INTERVAL,
                    scan_window=SCAN_WINDOW,
                    own_address_type=self._stack.own_address_type,
                    filter_duplicates=True,
                )
                self._on, self._refused = True, False
                self._renew(trio.current_time() + RENEWAL)

    async def resume(self) -> None:
        """End a pause. Shields itself, and logs what fails: it runs when something else has ended."""
        self.paused = False
        await self._go_on()

    async def stop(self) -> None:
        """For good, and not before a scan that is just being begun. Shields itself, and never raises."""
        self.wanted = False
        await self._go_on()

    async def keep_hearing(self) -> NoReturn:
        """Begin the scan anew whenever it is time to."""
        while True:
            with trio.CancelScope(deadline=self._renew_at) as self._until_renewal:
                await trio.sleep_forever()
            await self._go_on()

    def hear_again(self) -> None:
        """Have everybody reported anew: somebody who was reported already may have become of interest."""
        if self._on:
            self._renew(trio.current_time())

    def _renew(self, when: float) -> None:
        self._renew_at = self._until_renewal.deadline = when

    async def _go_on(self) -> None:
        with trio.CancelScope(shield=True):  # each command has its own time-out
            try:
                await self.apply()
            except AdapterUnavailable as error:
                if self._stack.failure is None:
                    log.log(
                        logging.DEBUG if self._refused else logging.WARNING, "not scanning for now: %s", error
                    )
                    self._refused = True
                    self._renew(trio.current_time() + RENEWAL)


class Advertisement(NamedTuple):
    """What is said, at most 31 bytes each."""

    data: bytes
    scan_response: bytes


class Advertising:
    """Connectable advertising that goes on although each new connection ends it in the controller."""

    def __init__(self, stack: Stack, interval: float) -> None:
        """`interval`: seconds."""
        self.wanted: Advertisement | None = None
        self.refused = False
        """The controller would not go on: it has as many connections as it can. The end of one may help."""
        self._stack = stack
        self._interval = interval
        self._on: Advertisement | None = None
        self._lock = trio.Lock()

    async def apply(self) -> None:
        """Raises `AdapterUnavailable`."""
        async with self._lock:
            wanted = self.wanted
            if wanted == self._on:
                return
            device = self._stack.device
            if wanted is None:
                await self._stack.call_or_fail("to stop advertising", device.stop_advertising)
                self._on = None
                return
            # Noted first: a central may connect, and end it, before the call returns.
            self._on, self.refused = wanted, False
            milliseconds = self._interval * 1000
            try:
                await self._stack.call_or_fail(
                    "to advertise",
                    device.start_advertising,
                    own_address_type=self._stack.own_address_type,
                    advertising_data=wanted.data,
                    scan_response_data=wanted.scan_response,
                    advertising_interval_min=milliseconds,
                    advertising_interval_max=milliseconds,
                )
            except AdapterUnavailable as error:
                self._on = None
                if self._stack.failure is not None or not device.connections:
                    raise
                # As many connections as it can have: no failure. The end of one lets us try again.
                self.refused = True
                log.debug("not advertising for now: %s", error)

    def ended_by_connection(self) -> None:
        """A central has connected, and the controller has stopped."""
        self._on = None

    async def go_on(self) -> None:
        """`apply` for when nobody waits for it: never raises."""
        try:
            await self.apply()
        except AdapterUnavailable as error:
            log.debug("not advertising any more: %s", error)
