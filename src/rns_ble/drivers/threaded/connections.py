"""The links of a driver that calls back from threads, and the one that is being made.

Theory of operation. Each `on_…` of the driver's puts an event into the `Inlet`; on the Trio thread the event
finds the link, or the attempt, that it is about. What is always true:

1. A link is here from the event that told of it until the driver has told of its end, or has been asked to
   disconnect it and had its time.
2. A link as central that nobody waits for, such as one of an attempt that was given up, is disconnected.
3. Who tells the peer's identity has done the handshake. A driver that connects as central and tells only the
   ATT MTU, or nothing, has not: it is then done here, with the driver's calls for characteristics.
4. The answer to "is this identity a duplicate?", for which a thread of the driver's waits, is read from a
   snapshot that is replaced as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import Any, Final, TypeVar, TypeVarTuple

import trio

from rns_ble import quiet
from rns_ble.drivers.base import (
    GOODBYE_TIMEOUT,
    AdapterUnavailable,
    AlreadyConnected,
    LinkLost,
    PeerUnreachable,
    Role,
)
from rns_ble.drivers.threaded import contract
from rns_ble.drivers.threaded.attempt import Attempt, Uuids, shake_hands
from rns_ble.drivers.threaded.calls import Call, Inlet, Threads, said
from rns_ble.drivers.threaded.link import ThreadedLink
from rns_ble.protocol.advertisement import normalise_address
from rns_ble.protocol.gatt import IDENTITY_LENGTH

log = quiet.logger(__name__)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

SEND_TIMEOUT: Final = 10.0
"""Seconds for the driver to take a value; then the link is lost. ble-reticulum's own gives up after 5."""

SEND_FINISH: Final = 0.5
"""Seconds for the driver to take a value of which the sender was cancelled; then the link is given up."""

MTU_GRACE: Final = 0.5
"""Seconds for the ATT MTU to be told after a connection: drivers tell it right after it."""

LINKS_PER_IDENTITY: Final = 2
"""As many links to one identity the mesh takes (`rns_ble.peer.LINKS_MAXIMUM`): an old one and, when the peer
has changed its address, a new one. It finds out itself which of them lives; only a third is a duplicate."""

ROLES: Final = MappingProxyType({role.value: role for role in Role})


class Connections:
    """All of them, while the driver is entered once."""

    def __init__(
        self,
        theirs: contract.BLEDriverInterface,
        threads: Threads,
        nursery: trio.Nursery,
        inlet: Inlet,
        accept: Callable[[ThreadedLink], bool],
        identity: Callable[[], bytes | None],
    ) -> None:
        """`accept`: as the driver's `_accept`; False also while it is not started. `identity`: ours."""
        self.links: dict[str, ThreadedLink] = {}
        """By the driver's own spelling of the address."""
        self._theirs = theirs
        self._threads = threads
        self._nursery = nursery
        self._inlet = inlet
        self._accept = accept
        self._identity = identity
        self._attempt: Attempt | None = None
        self._linked: Mapping[bytes, frozenset[str]] = {}
        theirs.on_device_connected = _safe(self._on_device_connected)
        theirs.on_device_disconnected = _safe(self._on_device_disconnected)
        theirs.on_data_received = _safe(self._on_data_received)
        theirs.on_mtu_negotiated = _safe(self._on_mtu_negotiated)
        theirs.on_error = _safe(self._on_error)
        theirs.on_duplicate_identity_detected = _safe(self._on_duplicate_identity_detected)
        theirs.on_address_changed = _safe(self._on_address_changed)

    def _tell(self, event: Callable[[*Ts], None], *arguments: *Ts) -> None:
        self._inlet.put(partial(event, *arguments))

    # --- we connect ---

    async def connect(self, name: str, wanted: str, uuids: Uuids) -> ThreadedLink:
        """As the driver's `connect`, which takes turns. `name`: as the driver spells the address `wanted`."""
        while (there := self.links.get(name)) is not None:
            if there.handed_over and not there.parting:
                raise AlreadyConnected(f"{wanted} is linked already")
            await there.gone.wait()
        self._attempt = attempt = Attempt(name, wanted)
        link = None
        try:
            with attempt.scope:
                link = await self._establish(attempt, uuids)
            if attempt.failure is not None:
                raise attempt.failure
            assert link is not None
            link.handed_over = True
            return link
        finally:
            self._attempt = None
            if link is None or not link.handed_over:
                await self._undo(attempt)

    async def _establish(self, attempt: Attempt, uuids: Uuids) -> ThreadedLink:
        # It may return at once or when the link is there; either way the link is told of by an event.
        self._nursery.start_soon(
            self._watch, attempt, self._threads.begin(self._theirs.connect, attempt.name)
        )
        await attempt.linked.wait()
        link = attempt.link
        assert link is not None
        if link.identity is None:
            notified = partial(self._on_notified, link)
            await shake_hands(self._theirs, self._threads, link, uuids, notified, self._identity())
            self._publish()
        with trio.move_on_after(MTU_GRACE):
            await link.mtu_known.wait()
        return link

    async def _watch(self, attempt: Attempt, call: Call[None]) -> None:
        await call.done.wait()
        try:
            call.result()
        except AdapterUnavailable as error:
            attempt.fail(error)
        except Exception as error:  # noqa: BLE001  (a driver may raise anything)
            attempt.fail(PeerUnreachable(f"{attempt.address}: {said(error)}"))

    async def _undo(self, attempt: Attempt) -> None:
        if attempt.link is not None and not attempt.link.gone.is_set():
            await self.part(attempt.link)
        elif attempt.name not in self.links:
            with trio.move_on_after(GOODBYE_TIMEOUT, shield=True), suppress(AdapterUnavailable):
                await self._threads.begin(self._disconnect_theirs, attempt.name).done.wait()

    # --- links come ---

    def _on_device_connected(self, name: str, more: Any = None) -> None:
        # Asked here, on the driver's thread and from its own callback, where drivers expect it.
        mtu: object = None
        if (role := self._role(name)) is None and self._is_gone(name):
            log.debug("%s: told of when it had gone already", name)
            return
        with suppress(Exception):
            mtu = self._theirs.get_peer_mtu(name)  # type: ignore[attr-defined]  # only some have it
        if more is not None and not isinstance(more, int):
            more = bytes(more)  # some platforms hand over arrays of their own
        self._tell(self._connected, name, more, role, mtu)
        if self._is_gone(name):
            # Another thread has told so, perhaps between our question and our event.
            self._tell(self._lost, name)

    def _role(self, name: str) -> Role | None:
        with suppress(Exception):
            return ROLES.get(str(self._theirs.get_peer_role(name)))
        return None

    def _is_gone(self, name: str) -> bool:
        with suppress(Exception):
            return self._theirs.get_peer_role(name) is None and name not in self._theirs.connected_peers
        return False

    def _connected(self, name: str, more: bytes | int | None, role: Role | None, mtu: object) -> None:
        """A connection, or more about one that is known."""
        link = self.links.get(name)
        if link is None:
            try:
                address = normalise_address(name)
            except ValueError as error:
                log.warning("the driver has connected somebody without an address: %s", error)
                return
            if role is None:
                dialled = self._attempt is not None and self._attempt.name == name
                role = Role.CENTRAL if dialled else Role.PERIPHERAL
            self.links[name] = link = ThreadedLink(self, name, address, role)
        if isinstance(mtu, int) and mtu > 0:
            link.negotiated(mtu)
        if isinstance(more, int):
            link.negotiated(more)
        elif more is not None and len(more) == IDENTITY_LENGTH:
            link.identify(more)
        elif more is not None:
            log.debug("%s: an identity of %d bytes", link, len(more))
        self._publish()
        if not (link.handed_over or link.parting):
            self._give_to_whoever_waits(link, self._attempt)

    def _give_to_whoever_waits(self, link: ThreadedLink, attempt: Attempt | None) -> None:
        if link.role is Role.PERIPHERAL:
            link.handed_over = self._accept(link)
            if attempt is not None and attempt.name == link.name:
                attempt.fail(AlreadyConnected(f"{link.address} has connected to us meanwhile"))
        elif attempt is not None and (attempt.link is link or attempt.address == link.address):
            attempt.link = link
            attempt.linked.set()
            return
        if not link.handed_over:
            log.debug("%s: nobody waits for it", link)
            self._nursery.start_soon(self.part, link)

    def _on_duplicate_identity_detected(self, name: str, identity: bytes) -> bool:
        known = bytes(identity)
        others = self._linked.get(known, frozenset()) - {name}
        duplicate = known == self._identity() or len(others) >= LINKS_PER_IDENTITY
        if duplicate:
            self._tell(self._vetoed, name)
        return duplicate

    def _vetoed(self, name: str) -> None:
        with suppress(ValueError):
            address = normalise_address(name)
            if self._attempt is not None and self._attempt.address == address:
                self._attempt.fail(AlreadyConnected(f"{address} is a peer that is linked already"))

    def _publish(self) -> None:
        linked: dict[bytes, frozenset[str]] = {}
        for name, link in self.links.items():
            if link.identity is not None and not link.parting:
                linked[link.identity] = linked.get(link.identity, frozenset()) | {name}
        self._linked = linked

    # --- links change ---

    def _on_mtu_negotiated(self, name: str, mtu: int) -> None:
        self._tell(self._negotiated, name, int(mtu))

    def _negotiated(self, name: str, mtu: int) -> None:
        if (link := self._find(name, had_it=True)) is not None:
            link.negotiated(mtu)

    def _on_address_changed(self, old: str, new: str, _identity: object = None) -> None:
        self._tell(self._address_changed, old, new, normalise_address(new))

    def _address_changed(self, old: str, new: str, address: str) -> None:
        link = self._find(old)
        if link is None or link.name == new:
            return
        if new in self.links:
            self._forget(link)  # of two connections to one peer the driver has closed this one
            return
        del self.links[link.name]
        link.name = new
        # Under this one the peer is sighted from now on, and is linked already.
        link.former_address, link.address = link.address, address
        self.links[new] = link
        self._publish()

    def _find(self, name: str, *, had_it: bool = False) -> ThreadedLink | None:
        """The link of this name; else the only one of this address, or that `had_it` until it has changed.
        Two roles on one connection may have two names, and a value may come under either.
        """
        if name in self.links:
            return self.links[name]
        with suppress(ValueError):
            address = normalise_address(name)
            same = [
                link
                for link in self.links.values()
                if address == link.address or (had_it and address == link.former_address)
            ]
            return same[0] if len(same) == 1 else None
        return None

    # --- values ---

    def _on_data_received(self, name: str, value: bytes) -> None:
        self._inlet.put(partial(self._received, name, bytes(value)), droppable=True)

    def _received(self, name: str, value: bytes) -> None:
        link = self._find(name, had_it=True)
        if link is None:
            log.debug("%s: %d bytes from somebody who is not connected", name, len(value))
        else:
            self._deliver(link, value)

    def _on_notified(self, link: ThreadedLink, value: bytes) -> None:
        self._inlet.put(partial(self._deliver, link, bytes(value)), droppable=True)

    def _deliver(self, link: ThreadedLink, value: bytes) -> None:
        known = link.identity
        link.deliver(value)
        if link.identity is not known:
            self._publish()

    async def transmit(self, link: ThreadedLink, value: bytes) -> None:
        """From a link: see `LinkOwner`."""
        try:
            call = self._threads.begin(self._theirs.send, link.name, value)
        except AdapterUnavailable as error:
            raise LinkLost(str(error)) from error
        with link.waiting:
            try:
                with trio.move_on_after(SEND_TIMEOUT):
                    await call.done.wait()
            finally:
                if not (call.done.is_set() or link.ended.is_set()):
                    with trio.move_on_after(SEND_FINISH, shield=True):
                        await call.done.wait()
                if not (call.done.is_set() or link.ended.is_set()):
                    self._give_up(link, "the driver takes no value")
        if link.ended.is_set():
            raise LinkLost(f"the link to {link.address} has ended")
        try:
            call.result()
        except Exception as error:
            self._give_up(link, said(error))
            raise LinkLost(f"the driver can't send to {link.address}: {said(error)}") from error

    def _give_up(self, link: ThreadedLink, reason: str) -> None:
        log.debug("%s given up: %s", link, reason)
        link.end()
        self._nursery.start_soon(self.part, link)

    # --- links go ---

    def _on_device_disconnected(self, name: str) -> None:
        self._tell(self._disconnected, name)

    def _disconnected(self, name: str) -> None:
        # What is told of the attempt by its name is never about a link of the other role; and what has ended
        # under an address that has changed is not the link.
        dialled = self._attempt is not None and self._attempt.name == name
        self._lost(name, None if dialled else self._find(name))

    def _lost(self, name: str, other: ThreadedLink | None = None) -> None:
        """The connection of this name has gone; where none is called so, that of `other`."""
        link = self.links.get(name, other)
        if link is not None:
            self._forget(link)
        attempt = self._attempt
        if attempt is not None and attempt.link is link and (link is not None or attempt.name == name):
            attempt.fail(PeerUnreachable(f"{attempt.address} dropped the connection"))

    def _forget(self, link: ThreadedLink) -> None:
        link.end()
        link.gone.set()
        if self.links.get(link.name) is link:
            del self.links[link.name]
            self._publish()

    async def part(self, link: ThreadedLink, within: float = GOODBYE_TIMEOUT) -> None:
        """From a link: see `LinkOwner`. In `within` seconds at most."""
        link.end()
        with trio.move_on_after(within, shield=True):
            if link.parting or link.gone.is_set():
                await link.gone.wait()
                return
            link.parting = True
            self._publish()
            try:
                if await self._threads.call(self._disconnect_theirs, link.name):
                    await link.gone.wait()
            except Exception as error:  # noqa: BLE001  (a driver may raise anything)
                log.debug("%s: disconnecting: %s", link, said(error))
        self._forget(link)

    def _disconnect_theirs(self, name: str) -> bool:
        """Whether the driver has it still, and will tell of its end."""
        self._theirs.disconnect(name)
        return name in self._theirs.connected_peers

    async def part_from_all(self, within: float) -> None:
        """Disconnect all, in `within` seconds; what has not gone by then is forgotten."""
        links = list(self.links.values())
        try:
            async with trio.open_nursery() as nursery:
                for link in links:
                    nursery.start_soon(self.part, link, within)
        finally:
            for link in links:
                self._forget(link)

    # --- errors ---

    def _on_error(self, severity: str, message: str, cause: Exception | None = None) -> None:
        text = f"{message} ({type(cause).__name__}: {cause})" if cause is not None else str(message)
        if severity in {"critical", "error"} and self._threads.complain(text):
            return  # whoever has called the driver gets it
        self._tell(self._complained, severity, text)

    def _complained(self, severity: str, text: str) -> None:
        """That a connect has failed is told in no other way than by a message with the address in it."""
        if self._attempt is not None and self._attempt.is_meant_by(text):
            self._attempt.fail(PeerUnreachable(text))
        elif severity in {"critical", "error"}:
            log.error("the driver says: %s", text)
        elif severity == "warning":
            log.warning("the driver says: %s", text)
        else:
            log.debug("the driver says: %s", text)


def _safe(callback: Callable[[*Ts], T]) -> Callable[[*Ts], T | None]:
    """A callback that raises nothing on the driver's thread, whatever it was given."""

    def safe(*arguments: *Ts) -> T | None:
        try:
            return callback(*arguments)
        except Exception:
            log.exception("the driver has called %s with %r", callback.__name__, arguments)
            return None

    return safe
