"""A bounded mailbox of packets into Trio: any thread puts, one Trio task takes, and flows take turns.

A flow is a name for packets whose order among themselves must stay: for Reticulum those of one destination,
which for most of them is a link. Rules:

1. `put` never blocks and never raises; a packet that finds no room is dropped and counted.
2. One wake-up of the Trio thread serves all that was put until it runs: a burst of packets costs one
   `run_sync_soon`, not one each (measured: 798,000 items a second against 40,000).
3. Flows take turns, a packet each. So a packet that is alone in its flow waits for one of every other flow,
   however long those are, and no flow waits for ever.
4. Within a flow packets stay in order, but an urgent one goes before all that are not. So it overtakes, and
   is never overtaken.
5. When there is no room, a flow that has its share or more of it is refused, and for any other the longest
   flow loses its newest packet. Whoever sends more than the radio takes loses what is his, and never what is
   another's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import trio

_Put = tuple[bytes, bytes, bool]
"""Packet, flow, urgent."""

NO_FLOW: Final = b""
"""The flow of packets that nobody has told apart: first in, first out."""


class _Flow:
    __slots__ = ("_others", "_urgent")

    def __init__(self) -> None:
        self._urgent: deque[bytes] = deque()
        self._others: deque[bytes] = deque()

    def __len__(self) -> int:
        return len(self._urgent) + len(self._others)

    def append(self, packet: bytes, *, urgent: bool) -> None:
        (self._urgent if urgent else self._others).append(packet)

    def first(self) -> bytes:
        return (self._urgent or self._others).popleft()

    def newest(self) -> bytes:
        return (self._others or self._urgent).pop()


class Mailbox:
    """Holds at most `capacity` packets, and as many that Trio has not looked at yet. Made inside `trio.run`,
    and tied to that run.

    The second bound is checked without a lock, so threads that put at the very same moment may exceed it by
    one packet each.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.on_drop: Callable[[bytes], object] = lambda _packet: None
        """Called for each packet that is dropped, on the thread that does it; must not block or raise."""
        self.dropped = 0
        """Packets that found no room, or no Trio to take them, or that the taker gave to `drop`."""
        self.bytes_waiting = 0
        """The sum of the lengths of all packets that wait and that Trio has looked at."""
        self._arrivals: deque[_Put] = deque()
        self._flows: dict[bytes, _Flow] = {}  # those with packets, in the order of their turns
        self._sorted = 0  # packets in them
        self._token = trio.lowlevel.current_trio_token()
        self._arrived = trio.Event()
        self._wake_up_scheduled = False

    def __len__(self) -> int:
        """How many packets wait."""
        return self._sorted + len(self._arrivals)

    def put(self, packet: bytes, flow: bytes = NO_FLOW, *, urgent: bool = False) -> bool:
        """Add a packet, from any thread. False: there was no room, or Trio has ended.

        True does not mean that it will be taken: it may have to make room yet, when its flow is the longest.
        """
        full = len(self) >= self.capacity
        if len(self._arrivals) >= self.capacity or (full and self._has_its_share(flow)):
            self.drop(packet)
            return False
        self._arrivals.append((packet, flow, urgent))
        # Append first, look second: whoever clears the mark afterwards will see the packet.
        if not self._wake_up_scheduled:
            self._wake_up_scheduled = True
            try:
                self._token.run_sync_soon(self._wake_up)
            except trio.RunFinishedError:
                self._wake_up_scheduled = False
                self.drop(packet)
                return False
        return True

    def _has_its_share(self, name: bytes) -> bool:
        """Of what Trio has looked at; from any thread, so what it sees may be a moment old."""
        flow = self._flows.get(name, ())
        return len(flow) * len(self._flows) >= self._sorted

    def drop(self, packet: bytes) -> None:
        """Count a packet that will not be sent."""
        self.dropped += 1
        self.on_drop(packet)

    def _wake_up(self) -> None:
        self._wake_up_scheduled = False
        self._sort()
        self._arrived.set()

    def _sort(self) -> None:
        for _ in range(len(self._arrivals)):  # not for as long as threads put more
            packet, name, urgent = self._arrivals.popleft()
            if name not in self._flows:
                self._flows[name] = _Flow()
            self._flows[name].append(packet, urgent=urgent)
            self._sorted += 1
            self.bytes_waiting += len(packet)
            if self._sorted > self.capacity:
                self.drop(self._taken_from(self._longest(name), _Flow.newest))

    def close(self) -> None:
        """Drop all that waits, and all that comes. On the Trio thread."""
        self.capacity = 0
        self._sort()
        while self._flows:
            self.drop(self._taken_from(next(iter(self._flows)), _Flow.first))

    def _longest(self, newest: bytes) -> bytes:
        """Of several, the one that has just grown."""
        return max((newest, *self._flows), key=lambda name: len(self._flows[name]))

    def _taken_from(self, name: bytes, which: Callable[[_Flow], bytes]) -> bytes:
        flow = self._flows[name]
        packet = which(flow)
        if not flow:
            del self._flows[name]
        self._sorted -= 1
        self.bytes_waiting -= len(packet)
        return packet

    async def take(self) -> bytes:
        """The next packet; waits for one. Cancelled: nothing is taken."""
        self._sort()
        while not self._flows:
            self._arrived = trio.Event()
            await self._arrived.wait()
        await trio.lowlevel.checkpoint_if_cancelled()
        name, flow = next(iter(self._flows.items()))
        packet = self._taken_from(name, _Flow.first)
        if flow:
            self._flows[name] = self._flows.pop(name)  # behind all others
        return packet
