"""Test values on one link: asked for and sent back, compared byte by byte.

A test value begins with MAGIC, kind, the asker's nonce and a number; the rest is random. No value of BLE
Reticulum begins with MAGIC, so a node that meets us drops them, and we answer none of its own. The nonce is
for BlueZ before 5.69, where what goes back to one central reaches all of them.
"""

from __future__ import annotations

import enum
import secrets
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import trio

from rns_ble.drivers.base import BLELink, LinkLost

MAGIC: Final = 0x7E

WINDOW: Final = 16
"""Values that may be on their way. Fewer than any driver buffers (256), so that two sides that answer each
other can't make each other wait, and a stack without back-pressure loses none."""

SILENCE: Final = 10.0
"""Seconds without any answer after which what is missing counts as lost; a busy BlueZ takes 1 s."""

_HEADER: Final = struct.Struct(">BB2sH")
VALUE_MINIMUM: Final = _HEADER.size
"""Bytes."""


class _Kind(enum.IntEnum):
    HELLO = 0x48
    """Says the longest value, in bytes, that its sender can send, in place of the number."""
    ASK = 0x51
    ANSWER = 0x41
    """An ASK sent back, all but its kind."""
    SIGNAL = 0x53
    """An event between the two programs, by its number."""


@dataclass
class Check:
    """What became of the values of one size."""

    size: int
    """Bytes."""
    count: int
    seconds: float = 0.0
    arrived: int = 0
    damaged: int = 0
    """Of those that arrived."""
    disordered: int = 0
    """Of those that arrived: after one that was sent later."""

    @property
    def lost(self) -> int:
        """Not back after `SILENCE`."""
        return self.count - self.arrived

    @property
    def ok(self) -> bool:
        """All came back, as they were, in order."""
        return not (self.lost or self.damaged or self.disordered)

    @property
    def values_per_second(self) -> float:
        """There and back counts as one."""
        return self.arrived / self.seconds if self.seconds else 0.0


class Exchange:
    """The traffic of one link. `run` has to run for anything else to work."""

    def __init__(self, link: BLELink) -> None:
        self.link: Final = link
        self.answered = 0
        """Values sent back."""
        self.answered_bytes = 0
        self.foreign = 0
        """Values that were none of ours."""
        self.ended = False
        self._nonce = secrets.token_bytes(2)
        self._peer_limit: int | None = None
        self._signals: set[int] = set()
        self._expected: dict[int, bytes] = {}
        self._check = Check(0, 0)
        self._newest = -1
        self._window = trio.Semaphore(WINDOW)
        self._changes = trio.lowlevel.ParkingLot()

    async def run(self) -> None:
        """Take what comes, and answer what is asked, until the link ends."""
        try:
            async for value in self.link:
                await self._take(value)
                self._changes.unpark_all()
        except LinkLost:
            pass  # the iteration would have told the same a moment later
        finally:
            self.ended = True
            self._changes.unpark_all()

    async def _take(self, value: bytes) -> None:
        if len(value) < VALUE_MINIMUM or value[0] != MAGIC:
            self.foreign += 1
            return
        _, kind, nonce, number = _HEADER.unpack_from(value)
        # Who may send us more than we may send back is none of ours: both sides keep to the smaller limit.
        if kind == _Kind.ASK and len(value) <= self.link.value_limit:
            await self.link.send(bytes((MAGIC, _Kind.ANSWER)) + value[2:])
            self.answered += 1
            self.answered_bytes += len(value)
        elif kind == _Kind.HELLO:
            if self._peer_limit is None:
                self._peer_limit = number
                await self._say(_Kind.HELLO, self.link.value_limit)
        elif kind == _Kind.SIGNAL:
            self._signals.add(number)
        elif kind == _Kind.ANSWER and nonce == self._nonce:
            self._compare(number, value)
        else:
            self.foreign += 1

    async def _say(self, kind: _Kind, number: int) -> None:
        await self.link.send(_HEADER.pack(MAGIC, kind, self._nonce, number))

    async def _until_link_has(self, what: str) -> None:
        if self.ended:
            raise LinkLost(f"the link to {self.link.address} ended {what}")
        await self._changes.park()

    # --- between the two programs ---

    async def hello(self) -> int:
        """Tell our limit; the peer's, in bytes. Raises `LinkLost`, and `trio.TooSlowError` without an answer.

        Only a program of ours answers.
        """
        await self._say(_Kind.HELLO, self.link.value_limit)
        with trio.fail_after(SILENCE):
            while self._peer_limit is None:
                await self._until_link_has("before it was greeted")
        return self._peer_limit

    async def signal(self, number: int) -> None:
        """Tell the peer that something has happened. Raises `LinkLost`."""
        await self._say(_Kind.SIGNAL, number)

    def was_signalled(self, number: int) -> bool:
        """Whether the peer has told it."""
        return number in self._signals

    async def signalled(self, number: int) -> None:
        """Wait until the peer tells it. Raises `LinkLost`."""
        while number not in self._signals:
            await self._until_link_has("while we waited for the other side")

    async def until_ended(self) -> None:
        """Wait until the link has ended."""
        while not self.ended:
            await self._changes.park()

    # --- values ---

    async def check(self, size: int, count: int) -> Check:
        """Have so many values of that size sent back. One check at a time.

        `size`: bytes, from VALUE_MINIMUM to what both sides can send. Raises `LinkLost`.
        """
        self._check = check = Check(size, count)
        self._expected.clear()
        self._newest = -1
        self._window = trio.Semaphore(WINDOW)
        began = trio.current_time()

        async def ask() -> None:
            with suppress(LinkLost):  # the receiver is told, too
                for number in range(count):
                    await self._window.acquire()
                    header = _HEADER.pack(MAGIC, _Kind.ASK, self._nonce, number)
                    value = header + secrets.token_bytes(size - VALUE_MINIMUM)
                    self._expected[number] = value
                    await self.link.send(value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            silence = trio.CancelScope()
            while check.arrived < count and not self.ended and not silence.cancelled_caught:
                with trio.move_on_after(SILENCE) as silence:
                    await self._changes.park()
            nursery.cancel_scope.cancel()
        check.seconds = trio.current_time() - began
        if self.ended and check.lost:
            raise LinkLost(f"the link to {self.link.address} ended while values were on their way")
        return check

    def _compare(self, number: int, value: bytes) -> None:
        expected = self._expected.pop(number, None)
        if expected is None:
            self.foreign += 1
            return
        self._check.arrived += 1
        self._check.damaged += value[2:] != expected[2:]
        self._check.disordered += number < self._newest
        self._newest = max(self._newest, number)
        self._window.release()
