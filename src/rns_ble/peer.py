"""One remote identity: its links, its outgoing queue, and the tasks that serve them.

Theory of operation. A `Peer` lives from its first link until it has been without one for `DETACH_GRACE`.
Its nursery holds one sender and, for each link, a receiver and a heartbeat. What is always true:

1. Packets are received on every link and sent on the oldest that is alive, as far as we know. Anybody may
   tell any identity, so a second link changes nothing for the first: neither is it closed, nor does what
   comes on the one count for the other. There are `LINKS_MAXIMUM` at most.
2. One sender: the fragments of a packet go out on one link, and no other packet's come between them. If the
   link is lost on the way, the whole packet is sent once more on another.
3. A link's end ends its two tasks and nothing else; whatever ended it, the link is closed.
4. Of two links to one identity we close one in two cases: two dials have met (`_met`), or places are short;
   then the younger goes. And not before both are `SETTLE_TIME` old, since a peer that resolves
   duplicates itself needs that long.
5. `PeerOwner.peer_ended` is called exactly once, and after it the peer takes no more links.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, fields
from itertools import takewhile
from typing import Final, Protocol

import trio

from rns_ble import quiet
from rns_ble.drivers.base import BLELink, LinkLost, Role
from rns_ble.mailbox import Mailbox
from rns_ble.protocol.fragmentation import ReassemblyStatistics
from rns_ble.protocol.liveness import Action, Habits
from rns_ble.protocol.pairs import Cuts
from rns_ble.protocol.values import KEEPALIVE, ValueKind, classify, ping, pong
from rns_ble.session import Carrier, Session
from rns_ble.status import LinkStatus, PeerStatus

log = quiet.logger(__name__)

DETACH_GRACE: Final = 2.0
"""Seconds without a link before the peer is given up: a phone that changes its address is back sooner."""

SETTLE_TIME: Final = 10.0
"""Seconds that two links to one identity are left alone: Columba's own tie-break takes that long."""

LINKS_MAXIMUM: Final = 2
"""Links to one identity: an old one and, after a change of the peer's address, a new one. Whoever claims the
identity of a peer gets one of them at most."""

SEND_ATTEMPTS: Final = 2
"""Links on which one packet is tried. A third loss in a row is no accident: the packet may be its cause, and
Reticulum sends again what matters."""


class PeerOwner(Protocol):
    """Who is told what happens to a peer: the mesh. Called in the peer's tasks; must not block or raise."""

    def packet_received(self, peer: Peer, packet: bytes) -> None:
        """A packet has arrived whole."""

    def link_ended(self, peer: Peer, session: Session) -> None:
        """A link has ended and is closed."""

    async def places_short(self) -> None:
        """Return when there is hardly a place left for anybody else."""

    def peer_ended(self, peer: Peer) -> None:
        """The peer has been given up."""


class Peer:
    """A remote identity with at least one link to it, now or up to `DETACH_GRACE` ago."""

    def __init__(
        self, identity: bytes, own_identity: bytes, owner: PeerOwner, outgoing_queue: int, cuts: Cuts
    ) -> None:
        self.identity = identity
        self.outgoing = Mailbox(outgoing_queue)
        """Packets to send; `put` from any thread."""
        self._own_identity = own_identity
        self._owner = owner
        self._cuts = cuts
        self.since: Final = trio.current_time()
        """On Trio's clock."""
        self._sessions: dict[BLELink, Session] = {}
        self._nursery: trio.Nursery | None = None
        self._grace_over = trio.Event()
        self._over = False
        self._joined = trio.Event()
        self._links_lost_at = self.since
        self._habits = Habits()
        self._rx_packets = self._rx_bytes = self._rx_foreign = 0
        self._reassembly = ReassemblyStatistics()  # of links that have ended
        self._tx_packets = self._tx_bytes = 0

    def __repr__(self) -> str:
        return f"<Peer {self.identity.hex()}>"

    # --- life ---

    async def run(self) -> None:
        """Serve the peer until it is given up. Cancelled: every link is closed first."""
        async with trio.open_nursery() as nursery:
            try:
                self._take_on_all(nursery)
                nursery.start_soon(self._send_packets)
                while self._sessions or not self._grace_over.is_set():
                    self._grace_over = trio.Event()  # a link may have joined in the step in which it was set
                    await self._grace_over.wait()
            finally:
                self._over = True
                self.outgoing.close()
                self._owner.peer_ended(self)
            nursery.cancel_scope.cancel()

    def join(self, link: BLELink, carrier: Carrier) -> None:
        """Take over a link whose handshake is done. From now on the peer closes it."""
        # A link that follows another may come back dead, so what was known counts. Beside a live one it may
        # be a stranger's, and what he shows must not be expected of the peer.
        habits = Habits() if self._live() else self._habits
        session = Session(link, trio.current_time(), habits, carrier, self._cuts)
        self._sessions[link] = session
        if self._nursery is not None:
            self._nursery.start_soon(self._serve, session)
        self._joined.set()

    def _take_on_all(self, nursery: trio.Nursery) -> None:
        # Not in `run` itself: a local variable there would keep the first link for as long as the peer lives.
        self._nursery = nursery
        for session in self._sessions.values():
            nursery.start_soon(self._serve, session)

    def _live(self) -> list[Session]:
        """The links on which can be sent, oldest first."""
        return [session for session in self._sessions.values() if not session.lost]

    @property
    def links(self) -> list[BLELink]:
        """The live links."""
        return [session.link for session in self._live()]

    def give_up_links(self) -> None:
        """Close all links to it."""
        for session in self._sessions.values():
            session.give_up(by_us=True)

    @property
    def takes_links(self) -> bool:
        """Whether there may be another link to it."""
        return len(self._live()) < LINKS_MAXIMUM

    async def _serve(self, session: Session) -> None:
        """Carry one link to its end; then, if it was the last, wait for another before giving up."""
        link = session.link
        try:
            with session.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._heartbeat, session)
                    self._beside_others(nursery, session)
                    async for value in link:
                        self._received(session, value)
                    nursery.cancel_scope.cancel()
        except* LinkLost as lost:
            log.debug("%s: link to %s lost: %s", self, link.address, "; ".join(map(str, lost.exceptions)))
        finally:
            session.ended()
            try:
                await link.aclose()
            finally:
                # Only now can the peer be linked anew: some stacks take seconds to disconnect.
                del self._sessions[link]
                self._reassembly = _sum((self._reassembly, session.reassembly))
                self._links_lost_at = trio.current_time()
                if trio.current_effective_deadline() == -math.inf:
                    # The mesh ends, perhaps since our adapter has failed: that is not the peer's fault.
                    session.closed_by_us = True
                self._owner.link_ended(self, session)
        if not self._sessions:
            await trio.sleep_until(self._links_lost_at + DETACH_GRACE)
            if not self._sessions and trio.current_time() >= self._links_lost_at + DETACH_GRACE:
                self._grace_over.set()

    def _beside_others(self, nursery: trio.Nursery, session: Session) -> None:
        for older in takewhile(lambda other: other is not session, self._sessions.values()):
            older.doubt(trio.current_time())
            nursery.start_soon(self._settle, older, session)

    async def _settle(self, older: Session, younger: Session) -> None:
        """Of two links, close the one that is one too many, if ever it is."""
        await trio.sleep_until(younger.since + SETTLE_TIME)
        if self._met(older, younger):
            # Not by `value_limit`, which differs by role: each side would close what the other keeps.
            second = min(older, younger, key=lambda s: (s.link.att_mtu, self._central_rank(s), s.since))
        else:
            second = younger
            await self._owner.places_short()
        if not (older.lost or younger.lost):
            log.debug("%s: closing the second link, to %s", self, second.link.address)
            second.give_up(by_us=True)

    @staticmethod
    def _met(older: Session, younger: Session) -> bool:
        """Whether these are two dials that have met. The two sides may then see them in different orders, and
        each would close what the other keeps, so there is a rule for both.

        A stranger would have to dial from the peer's address within `SETTLE_TIME` of the peer's own link.
        """
        return (
            older.link.address == younger.link.address
            and older.link.role is not younger.link.role
            and younger.since < older.since + SETTLE_TIME
        )

    def _central_rank(self, session: Session) -> bytes:
        """Higher for the link whose central has the lower identity; both sides come to the same order."""
        central = self._own_identity if session.link.role is Role.CENTRAL else self.identity
        return bytes(255 - byte for byte in central)

    # --- in ---

    def _received(self, session: Session, value: bytes) -> None:
        if self._over:
            return  # cancelled, and this link's task had the value in hand
        now = trio.current_time()
        kind = classify(value, self.identity)
        session.liveness.heard(kind, now)
        if kind is ValueKind.FRAGMENT:
            session.heard_anything = True
            packet = session.receive(value, now)
            if packet is not None:
                self._rx_packets += 1
                self._rx_bytes += len(packet)
                self._owner.packet_received(self, packet)
        elif kind is ValueKind.FOREIGN:
            self._rx_foreign += 1
            log.debug("%s: %d bytes that are none of ours", self, len(value))
        else:
            session.heard_anything = True
            if kind is ValueKind.PING:
                # Answered by the heartbeat, for a receiver that sends can be made to wait by a peer that
                # does the same; and of a burst of PINGs one answer says it all.
                session.last_ping = value
                session.called.set()

    # --- out ---

    async def _send_packets(self) -> None:
        while True:
            packet = await self.outgoing.take()
            sent = False
            try:
                sent = await self._send_packet(packet)
            except ValueError as error:
                log.debug("%s: packet of %d bytes not sent: %s", self, len(packet), error)
            finally:
                if not sent:
                    self.outgoing.drop(packet)

    async def _send_packet(self, packet: bytes) -> bool:
        for _ in range(SEND_ATTEMPTS):
            session = await self._session_to_send_on()
            try:
                await session.send_packet(packet)
            except LinkLost as lost:
                log.debug("%s: link to %s lost while sending: %s", self, session.link.address, lost)
                continue
            self._tx_packets += 1
            self._tx_bytes += len(packet)
            return True
        return False

    async def _session_to_send_on(self) -> Session:
        while not (live := self._live()):
            self._joined = trio.Event()
            await self._joined.wait()
        if len(live) == 1:
            return live[0]
        now = trio.current_time()
        return min(live, key=lambda session: session.liveness.overdue(now))

    # --- heartbeat ---

    async def _heartbeat(self, session: Session) -> None:
        """Keepalives, probes and their answers on one link. Raises `LinkLost` when the peer is dead."""
        try:
            await self._beat(session)
        except LinkLost:
            if not session.broken:
                raise
            # The link ends by itself, and what it has brought is still to be received.

    async def _beat(self, session: Session) -> None:
        while True:
            with trio.move_on_at(session.liveness.next_due()):
                await session.called.wait()
            session.called = trio.Event()
            if session.last_ping:
                answer, session.last_ping = pong(session.last_ping), b""
                await session.send(answer, ValueKind.PONG)
            now = trio.current_time()
            session.expire(now)
            for action in session.liveness.poll(now):
                match action:
                    case Action.SEND_KEEPALIVE:
                        await session.send(KEEPALIVE, ValueKind.KEEPALIVE)
                    case Action.SEND_PING:
                        await session.send(ping(0), ValueKind.PING)
                    case Action.SILENT:
                        raise LinkLost("the peer, which sends keepalives, has gone silent")
                    case Action.DATA_DEAD:
                        raise LinkLost("the peer, which answers probes, answers none")

    # --- status ---

    def status(self) -> PeerStatus:
        """A snapshot."""
        now = trio.current_time()
        reassembly = _sum((self._reassembly, *(s.reassembly for s in self._sessions.values())))
        return PeerStatus(
            identity=self.identity.hex(),
            links=tuple(
                LinkStatus(
                    address=s.link.address,
                    role=s.link.role.value,
                    att_mtu=s.link.att_mtu,
                    rssi=s.link.rssi,
                    data_path=s.link.data_path,
                    age=now - s.since,
                    heard=now - s.liveness.last_heard,
                    rx_values_dropped=s.link.values_dropped,
                )
                for s in self._live()
            ),
            age=now - self.since,
            rx_packets=self._rx_packets,
            rx_bytes=self._rx_bytes,
            tx_packets=self._tx_packets,
            tx_bytes=self._tx_bytes,
            tx_queued=len(self.outgoing),
            tx_bytes_queued=self.outgoing.bytes_waiting,
            tx_dropped=self.outgoing.dropped,
            rx_incomplete=reassembly.incomplete + reassembly.unknown_packet,
            rx_foreign=self._rx_foreign + reassembly.malformed,
            reassembly=reassembly,
        )


def _sum(links: Iterable[ReassemblyStatistics]) -> ReassemblyStatistics:
    """What became of the fragments of several links."""
    rows = list(map(asdict, links))
    return ReassemblyStatistics(
        **{field.name: sum(row[field.name] for row in rows) for field in fields(ReassemblyStatistics)}
    )
