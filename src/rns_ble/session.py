"""A link in use, and what its packets leave by.

On most links that is the link itself. But some stacks have one channel for several links, and what is sent on
one reaches the peers of all (`BLELink.shared`). There

1. packets take turns, whichever peer they are for: fragments of two would be joined crosswise;
2. a packet that Reticulum sends to all of these peers, to each by itself, is transmitted once. Whoever has
   heard it with another does not get it again.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final
from weakref import WeakValueDictionary

import trio

from rns_ble.drivers.base import BLELink, LinkLost
from rns_ble.protocol.fragmentation import Fragmenter, Reassembler, ReassemblyStatistics
from rns_ble.protocol.gatt import ATT_MTU_REQUESTED
from rns_ble.protocol.liveness import Habits, Liveness
from rns_ble.protocol.pairs import Cuts, PairFragmenter, PairReassembler
from rns_ble.protocol.values import ValueKind

SEND_TIMEOUT: Final = 30.0
"""Seconds for the stack to take one value, after which the link counts as lost: the ATT transaction
time-out (Core Specification, Vol 3 Part F, 3.3.3), the longest that a live link can stand still."""

HEARD_TIME: Final = 10.0
"""Seconds that a packet which somebody has heard with another is remembered, until it is his turn. Reticulum
sends to all peers at once; only a queue can lie between."""

HEARD_MAXIMUM: Final = 256
"""Packets remembered, twice what a queue holds; of one that is forgotten, a peer gets another copy."""


class Session:
    """A link in use, with what is known of its health, and the packets that are arriving on it.

    These are the link's own, for whoever is at its other end may have told somebody else's identity.
    """

    def __init__(self, link: BLELink, now: float, habits: Habits, carrier: Carrier, cuts: Cuts) -> None:
        self.link = link
        self.since = now
        self.liveness = Liveness(now, habits)
        self.heard_anything = False
        """Whether a value has come that is of a kind we know."""
        self.closed_by_us = False
        self.broken = False
        """Whether the link has ended under us. What it has brought may still be received."""
        self.scope = trio.CancelScope()
        self.called = trio.Event()
        """Set when the heartbeat has something to send that was not due before."""
        self.last_ping = b""
        """The PING to be answered; empty when none is."""
        self._fragments = Reassembler()
        self._halves = PairReassembler(cuts, self._fragments)
        self._packets = 0
        self._carrier = carrier
        carrier.sessions.add(self)

    @property
    def pairs(self) -> bool:
        """Whether the peer's packets may come in two halves that overtake those of others."""
        return not self.link.keeps_order and self.link.att_mtu == ATT_MTU_REQUESTED

    def receive(self, fragment: bytes, now: float) -> bytes | None:
        """The packet that this fragment completes, or None. Never raises."""
        packet = (self._halves if self.pairs else self._fragments).receive(fragment, now)
        self._packets += packet is not None
        return packet

    def expire(self, now: float) -> None:
        """Drop packets of which the rest has not come in time."""
        self._halves.expire(now)
        self._fragments.expire(now)

    @property
    def reassembly(self) -> ReassemblyStatistics:
        """What became of its fragments. A half without the other is a packet that was too late, too."""
        ordinary = self._fragments.statistics
        late = ordinary.timed_out + self._halves.incomplete
        return replace(ordinary, packets=self._packets, timed_out=late)

    def doubt(self, now: float) -> None:
        """Have the peer asked at once whether it is still there."""
        self.liveness.doubt(now)
        self.called.set()

    async def send(self, value: bytes, kind: ValueKind) -> None:
        """Send one value. Raises `LinkLost`, also when the stack does not take it within `SEND_TIMEOUT`."""
        with trio.move_on_after(SEND_TIMEOUT) as timeout:
            try:
                await self.link.send(value)
            except LinkLost:
                self.broken = True
                raise
        if timeout.cancelled_caught:
            self._carrier.give_up()
            raise LinkLost(f"the stack took no value for {SEND_TIMEOUT:g} s")
        self.liveness.sent(kind, trio.current_time())

    async def send_packet(self, packet: bytes) -> None:
        """Send a packet, all of it or, when the link is lost or we are cancelled, perhaps a part.

        Raises `LinkLost`, and `ValueError` for a packet that can't be sent on this link.
        """
        await self._carrier.send(self, packet)

    def give_up(self, *, by_us: bool) -> None:
        """End the session; its tasks close the link."""
        self.closed_by_us = self.closed_by_us or by_us
        self.scope.cancel()

    def ended(self) -> None:
        """The link is no longer served, so what was arriving on it has come to nothing."""
        self.broken = True  # also for those that compare it with another, and would close that one
        self.expire(math.inf)
        self._carrier.leave(self)

    @property
    def lost(self) -> bool:
        """Whether nothing can be sent any more; its tasks may still be receiving, or closing the link."""
        return self.broken or self.scope.cancel_called


class Carrier:
    """What the packets of one link leave by. They have one sender, the peer's."""

    def __init__(self, cuts: Cuts) -> None:
        """`cuts`: of packets on links that do not keep the order of values."""
        self.sessions: set[Session] = set()
        """Whose peers hear what is sent."""
        self._fragmenter: Fragmenter | None = None
        self._pairs = PairFragmenter(cuts)

    async def send(self, session: Session, packet: bytes) -> None:
        """As `Session.send_packet`."""
        if session.lost:
            raise LinkLost("the link was lost before the packet was sent")
        for value in self._fragment(session, packet):
            await session.send(value, ValueKind.FRAGMENT)

    def give_up(self) -> None:
        """It takes nothing any more. That ends all who share it, for each would find out for himself, one
        after the other, and keep the rest waiting.
        """
        for session in self.sessions:
            session.give_up(by_us=False)

    def leave(self, session: Session) -> None:
        """Its link has ended."""
        self.sessions.discard(session)

    def _fragment(self, session: Session, packet: bytes) -> list[bytes]:
        limit = session.link.value_limit
        if not session.link.keeps_order:
            halves = self._pairs.fragment(packet, limit)
            if halves is not None:
                return halves
        if self._fragmenter is None or self._fragmenter.value_limit != limit:
            self._fragmenter = Fragmenter(limit)
        return self._fragmenter.fragment(packet)


class SharedCarrier(Carrier):
    """The channel that several links share."""

    def __init__(self, cuts: Cuts) -> None:
        super().__init__(cuts)
        self._turn = trio.StrictFIFOLock()
        self._heard: dict[bytes, tuple[float, set[Session]]] = {}  # packet → deadline, whose turn is to come

    async def send(self, session: Session, packet: bytes) -> None:
        """As `Session.send_packet`; a packet that the peer has heard already is not sent again."""
        async with self._turn:
            if not session.lost and self._has_heard(session, packet):
                return
            others = [other for other in self.sessions if other is not session]
            await super().send(session, packet)
            self._have_heard(others, packet)

    def leave(self, session: Session) -> None:
        """Its link has ended."""
        super().leave(session)
        for _deadline, listeners in self._heard.values():
            listeners.discard(session)

    def _has_heard(self, session: Session, packet: bytes) -> bool:
        if packet not in self._heard:
            return False
        deadline, listeners = self._heard[packet]
        if session not in listeners or trio.current_time() > deadline:
            return False
        listeners.discard(session)
        return True

    def _have_heard(self, others: list[Session], packet: bytes) -> None:
        listeners = {other for other in others if other in self.sessions}
        if not listeners:
            return
        now = trio.current_time()
        for other in listeners:
            other.liveness.sent(ValueKind.FRAGMENT, now)
        self._heard.pop(packet, None)  # so that the dict is in the order of the deadlines
        self._heard[packet] = now + HEARD_TIME, listeners
        while len(self._heard) > HEARD_MAXIMUM or next(iter(self._heard.values()))[0] < now:
            del self._heard[next(iter(self._heard))]


class Carriers:
    """The carriers of all links: one each, or one for all that share a channel, while one of them is used."""

    def __init__(self, cuts: Cuts) -> None:
        """`cuts`: as `Carrier`'s."""
        self._cuts = cuts
        self._shared: WeakValueDictionary[object, SharedCarrier] = (
            WeakValueDictionary()
        )  # by `BLELink.shared`

    def of(self, link: BLELink) -> Carrier:
        """What packets for this link leave by."""
        if link.shared is None:
            return Carrier(self._cuts)
        carrier = self._shared.get(link.shared)
        if carrier is None:
            self._shared[link.shared] = carrier = SharedCarrier(self._cuts)
        return carrier
