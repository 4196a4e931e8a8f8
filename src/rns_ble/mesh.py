"""The nursery tree of one adapter: discover, dial, accept, and one nursery per peer.

Theory of operation, as a sighting walks it: `_discover` takes it from the driver into `Admission`; if that
says "dial", `_dial` begins an attempt, which is a task; the driver's `connect` brings a link whose handshake
is done; `_adopt` hands the link to the `Peer` of its identity, which serves and closes it. A link that
another central made comes in by `_accept`, and `_greet` waits for its handshake before `_adopt`.

1. A link has one owner at any moment, and changes hands without a checkpoint between; whoever owns it last
   closes it.
2. `Listener.peer_left` follows each `peer_joined` exactly once, also when the mesh is cancelled or fails.
3. A peer's failure, even a bug in serving it, ends that peer only. A failure of the driver ends the mesh,
   and `rns_ble.supervisor` starts another one.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final, NoReturn, Protocol

import trio

from rns_ble import quiet
from rns_ble.acquaintances import Acquaintances
from rns_ble.admission import Admission
from rns_ble.candidate import SEEN_RECENTLY, Attempt, Candidate, Verdict
from rns_ble.config import BLEConfig
from rns_ble.drivers.base import (
    GOODBYE_TIMEOUT,
    AdapterFull,
    AdvertisingUnavailable,
    AlreadyConnected,
    BLEDriverInterface,
    BLEError,
    BLELink,
    DriverState,
    LinkLost,
    PeerUnreachable,
    ProtocolViolation,
)
from rns_ble.peer import Peer
from rns_ble.protocol.advertisement import encode_capabilities
from rns_ble.protocol.gatt import IDENTITY_UUID, RX_UUID, TX_UUID
from rns_ble.protocol.pairs import Cuts
from rns_ble.session import Carriers, Session
from rns_ble.status import MeshStatus
from rns_ble.strangers import Strangers

log = quiet.logger(__name__)

PACKET_MAXIMUM: Final = 500
"""Bytes of Reticulum's longest packet (`RNS.Reticulum.MTU`), without an access code."""

PEERS_PER_PLACE: Final = 4
"""Peers for each of `max_connections`, those in their grace included. Each costs Reticulum an interface. When
every link is lost and its place taken by another at once, there are 2; the rest is for several that come and
go within one grace."""

DISPLACEMENT_INTERVAL: Final = 10.0
"""Seconds between two links that are closed to give their place to somebody whom we know better."""

PROVEN_AFTER: Final = 10.0
"""Seconds after which a link that brought nothing still counts as a success of its attempt. A peer that
takes our connection only to drop it (it is full, it is another program) must not be dialled for ever."""

SCAN_WINDOW: Final = 2.0
"""Seconds of one scan in the power modes that pause: BlueZ and Android advertise every 1.28 s or faster by
default, so one window hears each of them at least once."""

SAVER_INTERVAL: Final = 60.0
"""Seconds from one scan to the next in power mode `saver` and in nodes that do not dial, at least."""

ADVERTISING_RETRY: Final = 60.0
"""Seconds from a refusal to advertise to the next try. Nothing tells when another program has ended its
advertisement; one call a minute costs nothing, and we can dial meanwhile."""


class Listener(Protocol):
    """What the mesh tells. Called on the Trio thread; must neither block nor raise."""

    def mesh_up(self, mesh: Mesh) -> None:
        """The radio is on."""

    def mesh_down(self, reason: str) -> None:
        """The radio is off, or could not be turned on; every peer has left before."""

    def peer_joined(self, peer: Peer) -> None:
        """A new identity is linked."""

    def packet_received(self, peer: Peer, packet: bytes) -> None:
        """A packet from it, between its `peer_joined` and its `peer_left`."""

    def peer_left(self, peer: Peer) -> None:
        """A bug or the mesh's end ended it, or it was without a link for `rns_ble.peer.DETACH_GRACE`."""


class Mesh:
    """One run of the mesh on a driver that is open. Made inside `trio.run`; runs once."""

    def __init__(
        self,
        driver: BLEDriverInterface,
        config: BLEConfig,
        identity: bytes,
        listener: Listener,
        candidates: dict[str, Candidate] | None = None,
        longest_packet: int = PACKET_MAXIMUM,
        linked_elsewhere: Callable[[bytes], bool] = lambda _identity: False,
        acquaintances: Acquaintances | None = None,
    ) -> None:
        """`identity`: 16 bytes, `RNS.Transport.identity.hash`. `candidates`: a former mesh's, so that we know
        whom to leave alone also after the driver has failed. `longest_packet`: bytes, access code included;
        the same in all nodes, or they could not read one another's packets. `linked_elsewhere`: whether a
        peer of that identity is linked to another mesh of ours, on another adapter; it is not dialled then,
        for one link is enough. `acquaintances`: a former mesh's.
        """
        self._driver = driver
        self._config = config
        self._identity = identity
        self._listener = listener
        self._linked_elsewhere = linked_elsewhere
        self.peers: dict[bytes, Peer] = {}
        """Identity → peer, as long as the peer takes links."""
        self.admission = Admission(
            config,
            {} if candidates is None else candidates,
            own_identity=identity,
            own_address=lambda: driver.address,
            is_linked=self._is_linked,
            radio_tokens=driver.establishing.total_tokens,
            longest_silence=max(SEEN_RECENTLY, _scan_interval(config) + SCAN_WINDOW),
            heard_within=min(SEEN_RECENTLY, _heard_within(config, driver)),
            displaces=lambda identity: self._least_known(identity) is not None,
        )
        self._cuts = Cuts(longest_packet)
        self._carriers = Carriers(self._cuts)
        self._acquaintances = acquaintances or Acquaintances()
        self._displaced_at = -math.inf
        self._strangers = Strangers(config.max_connections)
        # Parked here: who waits for a link, an attempt or a candidate to change.
        self._changes = trio.lowlevel.ParkingLot()
        self._lost = trio.Event()  # a link, since the last scan began
        self._ask_again = math.inf
        self._nursery: trio.Nursery

    async def run(self) -> NoReturn:
        """Run until cancelled, or until the driver fails with a `BLEError`."""
        self._driver.set_identity(self._identity)
        await self._driver.start(self._config.service_uuid, RX_UUID, TX_UUID, IDENTITY_UUID)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._listener.mesh_up(self)
            nursery.start_soon(self._accept)
            nursery.start_soon(self._scan)
            nursery.start_soon(self._discover)
            if self._config.enable_peripheral:
                nursery.start_soon(self._advertise)
            if self._config.enable_central:
                nursery.start_soon(self._dial)
        raise AssertionError("the mesh's tasks never end by themselves")

    def _is_linked(self, address: str, identity: bytes | None) -> bool:
        if identity is not None and self._linked_elsewhere(identity):
            return True
        if identity is not None and identity in self.peers and self.peers[identity].links:
            return True
        # Also while the link is being closed: it may take the connection of another one with it.
        return self.admission.has_place(address)

    def _links(self) -> Iterator[BLELink]:
        for peer in self.peers.values():
            yield from peer.links

    # --- the radio's two standing jobs ---

    async def _scan(self) -> None:
        pause = _scan_interval(self._config) - SCAN_WINDOW
        await self._driver.start_scanning()
        while pause > 0:
            self._lost = trio.Event()
            await trio.sleep(SCAN_WINDOW)
            await self._driver.stop_scanning()
            with trio.move_on_after(pause):
                await self._lost.wait()  # a peer that was lost may be back within its grace
            await self._driver.start_scanning()

    async def _advertise(self) -> None:
        """Advertise unless links have taken all places: a peer we could only turn away should not dial.

        Attempts do not count here, or of two nodes that dial each other for their last place neither could.
        Where the adapter does not advertise we only dial.
        """

        def wanted() -> bool:
            return sum(1 for _ in self._links()) < self._config.max_connections

        advertising = False
        level = logging.WARNING
        try:
            while True:
                if wanted() == advertising:
                    await self._changes.park()
                elif advertising:
                    await self._driver.stop_advertising()
                    advertising = False
                else:
                    try:
                        await self._driver.start_advertising(
                            self._config.device_name, encode_capabilities(self.admission.own_capability)
                        )
                        advertising = True
                    except AdvertisingUnavailable as error:
                        log.log(level, "nobody can connect to us: %s (trying again by itself)", error)
                        level = logging.DEBUG  # the next time it is no news
                        with trio.move_on_after(ADVERTISING_RETRY):
                            while wanted():
                                await self._changes.park()
        finally:
            # Beside the goodbyes to all links: whoever loses his must not hear us, and dial us once more.
            with trio.move_on_after(GOODBYE_TIMEOUT, shield=True), suppress(BLEError):
                await self._driver.stop_advertising()

    # --- central role ---

    async def _discover(self) -> None:
        async for device in self._driver.discovered:
            now = trio.current_time()
            candidate = self.admission.sighted(device, now)
            if candidate is not None:
                decision = self.admission.decide(candidate, now)
                if decision.verdict is Verdict.DIAL or decision.until < self._ask_again:
                    self._changes.unpark_all()

    async def _dial(self) -> None:
        while True:
            now = trio.current_time()
            ready, self._ask_again = self.admission.due(now)
            for candidate in ready:
                # Asked again, for the one before it may have taken the radio, or the last place.
                if self.admission.decide(candidate, now).verdict is Verdict.DIAL:
                    displaces = not self.admission.places.available_tokens
                    if self._make_room(candidate.identity):
                        attempt = self.admission.begin(candidate, now, displaces=displaces)
                        self._nursery.start_soon(self._attempt, attempt)
            with trio.move_on_at(self._ask_again):
                await self._changes.park()

    async def _attempt(self, attempt: Attempt) -> None:
        candidate = attempt.candidate
        timeout = min(self._config.connection_timeout, attempt.patience)
        try:
            with attempt, attempt.scope:
                with trio.fail_after(timeout):
                    link = await self._driver.connect(attempt.address)
                await self._hand_over(link, link.peer_identity, attempt)
        except AlreadyConnected as error:
            log.debug("%s: %s", attempt.address, error)
        except AdapterFull as error:
            log.debug("%s: %s", attempt.address, error)
            self.admission.adapter_full(trio.current_time())
        except (PeerUnreachable, ProtocolViolation, LinkLost) as error:
            log.debug("%s: %s: %s", attempt.address, type(error).__name__, error)
            self.admission.failed(candidate, trio.current_time(), str(error))
        except trio.TooSlowError:
            why = f"no link within {timeout:g} s"
            log.debug("%s: %s", attempt.address, why)
            self.admission.failed(candidate, trio.current_time(), why)
        finally:
            self._changes.unpark_all()

    # --- peripheral role ---

    async def _accept(self) -> None:
        async for link in self._driver.accepted:
            self._nursery.start_soon(self._greet, link)

    async def _greet(self, link: BLELink) -> None:
        """See a central through its handshake."""
        identity = link.peer_identity
        try:
            if identity is None:
                identity = await self._strangers.identity(link)
        finally:
            await self._hand_over(link, identity, None)

    # --- peers ---

    async def _hand_over(self, link: BLELink, identity: bytes | None, attempt: Attempt | None) -> None:
        """Give the link to the peer of this identity, or close it. No checkpoint comes before either."""
        adopted = False
        try:
            adopted = identity is not None and self._adopt(link, identity, attempt)
        finally:
            if not adopted:
                await link.aclose()

    def _adopt(self, link: BLELink, identity: bytes, attempt: Attempt | None) -> bool:
        self.admission.identified(link.address, identity, trio.current_time())
        if identity == self._identity:
            log.debug("%s says it is us: not taken", link.address)
            return False
        peer = self.peers.get(identity)
        if peer is not None and not peer.takes_links:
            log.debug("%s turned away: there are links to %s already", link.address, peer)
            return False
        if peer is None and len(self.peers) >= PEERS_PER_PLACE * self._config.max_connections:
            log.debug("%s turned away: too many identities come and go", link.address)
            return False
        if not self.admission.take_place(link, attempt) and not (
            self._make_room(identity) and self.admission.take_place(link, None)
        ):
            log.debug("%s turned away: %s", link.address, Verdict.NO_PLACE.value)
            return False
        if peer is None:
            peer = Peer(identity, self._identity, self, self._config.outgoing_queue, self._cuts)
            self.peers[identity] = peer
            self._nursery.start_soon(self._run_peer, peer)
            self._listener.peer_joined(peer)
        log.debug("%s: linked as %s, ATT MTU %d, to %s", link.address, link.role.value, link.att_mtu, peer)
        peer.join(link, self._carriers.of(link))
        self._changes.unpark_all()
        return True

    # --- places ---

    def _make_room(self, identity: bytes | None) -> bool:
        """When all places are taken, close the links to the peer that we know least, if it is to give way.

        Whether there is a place now.
        """
        if not self.admission.places.available_tokens and (peer := self._least_known(identity)) is not None:
            log.debug("%s gives way to %s, which is known for longer", peer, (identity or b"").hex())
            self._displaced_at = trio.current_time()
            for link in peer.links:
                self.admission.lose_place(link)
            peer.give_up_links()
        return self.admission.places.available_tokens > 0

    def _least_known(self, newcomer: bytes | None) -> Peer | None:
        """The peer that gives way to a newcomer; None: nobody does."""
        now = trio.current_time()
        linked = {peer.identity: peer.since for peer in self.peers.values() if peer.links}
        if newcomer is None or newcomer in linked or now < self._displaced_at + DISPLACEMENT_INTERVAL:
            return None
        least = self._acquaintances.gives_way_to(newcomer, linked, now)
        return None if least is None else self.peers[least]

    async def _run_peer(self, peer: Peer) -> None:
        try:
            await peer.run()
        except* Exception:
            log.exception("%s given up because of a bug", peer)

    def packet_received(self, peer: Peer, packet: bytes) -> None:
        """From the peer: see `PeerOwner`."""
        self._listener.packet_received(peer, packet)

    def link_ended(self, peer: Peer, session: Session) -> None:
        """From the peer: see `PeerOwner`."""
        now = trio.current_time()
        self._acquaintances.linked(peer.identity, session.since, now)
        proven = session.heard_anything or session.closed_by_us or now - session.since >= PROVEN_AFTER
        self.admission.link_ended(session.link, peer.identity, now, proven=proven)
        self._lost.set()
        self._changes.unpark_all()

    async def places_short(self) -> None:
        """From the peer: see `PeerOwner`."""
        while self.admission.places.available_tokens > 1:  # the last one is kept free, too
            await self._changes.park()

    def peer_ended(self, peer: Peer) -> None:
        """From the peer: see `PeerOwner`."""
        del self.peers[peer.identity]
        self._listener.peer_left(peer)

    # --- status ---

    def status(self) -> MeshStatus:
        """A snapshot. On the Trio thread only."""
        state = self._driver.state
        return MeshStatus(
            identity=self._identity.hex(),
            address=self._driver.address,
            scanning=DriverState.SCANNING in state,
            advertising=DriverState.ADVERTISING in state,
            links=sum(1 for _ in self._links()),
            max_connections=self._config.max_connections,
            attempts_in_flight=tuple(self.admission.in_flight()),
            strangers=self._strangers.borrowed_tokens,
            peers=tuple(peer.status() for peer in self.peers.values()),
            candidates=self.admission.status(trio.current_time()),
        )


def _heard_within(config: BLEConfig, driver: BLEDriverInterface) -> float:
    """Seconds between two sightings of a peer that is there, at most. Each scan tells of everybody anew."""
    interval = _scan_interval(config)
    return interval + SCAN_WINDOW if interval > SCAN_WINDOW else driver.heard_again_within


def _scan_interval(config: BLEConfig) -> float:
    """Seconds from the start of one scan to the next; `SCAN_WINDOW` or less: without a pause."""
    if not config.enable_central or config.power_mode == "saver":
        # Who never dials only looks for others that do not either, to warn of them.
        return max(config.discovery_interval, SAVER_INTERVAL)
    return 0.0 if config.power_mode == "aggressive" else config.discovery_interval
