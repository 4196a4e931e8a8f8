"""Stations that speak BLE Reticulum as others do, each with the habits in which they differ from us.

A `Dialect` is a list of such habits, and a `Foreigner` a station that has them. It is small and stubborn on
purpose: it does what it does whatever we do, so a link with it is up to us. Where the habits agree with the
protocol it uses our codec; what differs is written by hand here.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NoReturn

import trio

from rns_ble.drivers.base import BLEError, LinkLost, Role
from rns_ble.protocol.advertisement import Capability, encode_capabilities
from rns_ble.protocol.fragmentation import HEADER_LENGTH, Reassembler
from rns_ble.protocol.gatt import (
    IDENTITY_LENGTH,
    IDENTITY_UUID,
    RX_UUID,
    SERVICE_UUID,
    TX_UUID,
    value_limit,
    write_limit,
)
from rns_ble.protocol.liveness import KEEPALIVE_INTERVAL, SILENCE_LIMIT
from rns_ble.protocol.values import KEEPALIVE, ValueKind, classify, pong
from rns_ble.testing.air import MockLink
from rns_ble.testing.simulation.world import SimulatedDriver

REDIAL: Final = 5.0
"""Seconds between two attempts of a foreigner's at one address, as in ble-reticulum."""

CONNECT_TIMEOUT: Final = 20.0
"""Seconds that a foreigner gives an attempt."""

HANDSHAKE_TIMEOUT: Final = 30.0
"""Seconds that a foreigner waits for our identity (protocol v2.2)."""

SETTLE_TIME: Final = 10.0
"""Seconds that `TieBreak.SETTLED` leaves two links alone, as Columba does."""

PLACES: Final = 7
"""Links of a foreigner, as in ble-reticulum."""


class Dials(enum.Enum):
    """Whom a foreigner dials."""

    ALWAYS = "everybody"
    LOWER_ONLY = "those with a higher address than its own, for ever"
    NEVER = "nobody"


class TooLong(enum.Enum):
    """What its Bluetooth stack does with a value that is longer than the link allows."""

    CARRIED = "it arrives whole"
    CUT_OR_REFUSED = "a notification is cut, a write is refused, as BlueZ does"


class TieBreak(enum.Enum):
    """What it does with two links to one identity."""

    NONE = "it keeps both"
    OLDEST = "it closes the new one at once"
    NEWEST = "it closes the old one at once"
    SETTLED = "after 10 s it closes the one whose central has the higher identity"


@dataclass(frozen=True)
class Dialect:
    """The habits of one implementation. The defaults are ours, as far as a peer can tell."""

    name: str
    dials: Dials = Dials.ALWAYS
    capability: Capability = Capability.NONE
    """What its advertisement says of it."""
    keepalive: float | None = KEEPALIVE_INTERVAL
    """Seconds between its keepalives, whatever else it sends."""
    silence: float | None = None
    """Seconds after which it drops a link on which nothing came but PINGs."""
    answers_probes: bool = False
    beyond_mtu: int | None = None
    """Bytes by which its fragments are longer than ATT_MTU; None: they are as long as a value may be."""
    too_long: TooLong = TooLong.CARRIED
    lone_type: int = 1
    """Of a packet in one fragment: 1 START, 3 END."""
    eats_16: bool = False
    """Whether it takes any value of 16 bytes for a handshake."""
    tie_break: TieBreak = TieBreak.NONE


DIALECTS: Final = (
    Dialect("always-dials"),
    Dialect("lower-address-only", dials=Dials.LOWER_ONLY),
    Dialect("peripheral-only", dials=Dials.NEVER, capability=Capability.PERIPHERAL_ONLY),
    Dialect("peripheral-only-untold", dials=Dials.NEVER),
    Dialect("never-keepalive", keepalive=None),
    Dialect("45-s-silence", silence=SILENCE_LIMIT),
    Dialect("answers-probes", answers_probes=True),
    Dialect("longer-values", beyond_mtu=2),
    Dialect("longer-values-on-bluez", beyond_mtu=0, too_long=TooLong.CUT_OR_REFUSED, keepalive=None),
    Dialect("end-for-one", lone_type=3, beyond_mtu=0),
    Dialect("eats-16", eats_16=True, silence=SILENCE_LIMIT),
    Dialect("keeps-oldest", tie_break=TieBreak.OLDEST),
    Dialect("keeps-newest", tie_break=TieBreak.NEWEST),
    Dialect("settles-itself", tie_break=TieBreak.SETTLED, eats_16=True),
)
"""Every habit of the other implementations, one at a time or as they come together."""


class _Link:
    """A link in use by a foreigner."""

    def __init__(self, link: MockLink, identity: bytes) -> None:
        self.link = link
        self.identity = identity
        self.since = self.heard = trio.current_time()
        self.scope = trio.CancelScope()
        self.reassembler = Reassembler()
        self.turn = trio.StrictFIFOLock()


class Foreigner:
    """A station of another implementation in a `World`."""

    def __init__(self, driver: SimulatedDriver, identity: bytes, dialect: Dialect) -> None:
        self.driver = driver
        self.identity = identity
        self.dialect = dialect
        self.packets: list[tuple[bytes, bytes]] = []
        """Received: identity and packet."""
        self.refused = 0
        """Packets that its own Bluetooth stack would not send."""
        self._links: list[_Link] = []
        self._identities: dict[str, bytes] = {}
        self._last_attempt: dict[str, float] = {}
        self._nursery: trio.Nursery

    def __repr__(self) -> str:
        return f"<{self.dialect.name} {self.driver.number} {self.driver.radio_address}>"

    @property
    def has_room(self) -> bool:
        """Whether it takes another link. It advertises in either case, as other implementations do."""
        return len(self._links) < PLACES

    def linked(self) -> set[bytes]:
        """The identities with a live link."""
        return {use.identity for use in self._links}

    async def run(self) -> NoReturn:
        """Until cancelled. Everything is closed then."""
        async with self.driver as driver, trio.open_nursery() as nursery:
            self._nursery = nursery
            driver.set_identity(self.identity)
            await driver.start(SERVICE_UUID, RX_UUID, TX_UUID, IDENTITY_UUID)
            await driver.start_advertising(None, encode_capabilities(self.dialect.capability))
            nursery.start_soon(self._accept)
            if self.dialect.dials is not Dials.NEVER:
                await driver.start_scanning()
                nursery.start_soon(self._dial)
        raise AssertionError("its tasks never end by themselves")

    # --- links ---

    async def _dial(self) -> None:
        async for device in self.driver.discovered:
            now = trio.current_time()
            if (
                self.has_room
                and (self.dialect.dials is Dials.ALWAYS or self.driver.radio_address < device.address)
                and now >= self._last_attempt.get(device.address, -REDIAL) + REDIAL
                and self._identities.get(device.address) not in self.linked()
            ):
                self._last_attempt[device.address] = now
                try:
                    with trio.fail_after(CONNECT_TIMEOUT):
                        link = await self.driver.connect(device.address)
                except (BLEError, trio.TooSlowError):
                    continue
                assert link.peer_identity is not None
                self._identities[device.address] = link.peer_identity
                self._nursery.start_soon(self._use, link, link.peer_identity)

    async def _accept(self) -> None:
        async for link in self.driver.accepted:
            assert isinstance(link, MockLink)
            self._nursery.start_soon(self._greet, link)

    async def _greet(self, link: MockLink) -> None:
        identity = None
        with trio.move_on_after(HANDSHAKE_TIMEOUT):
            async for value in link:
                if len(value) == IDENTITY_LENGTH:
                    identity = value
                    break
        if identity is None:
            await link.aclose()
        else:
            self._identities[link.address] = identity
            await self._use(link, identity)

    async def _use(self, link: MockLink, identity: bytes) -> None:
        others = [use for use in self._links if use.identity == identity]
        try:
            if (others and self.dialect.tie_break is TieBreak.OLDEST) or not self.has_room:
                return
            use = _Link(link, identity)
            self._links.append(use)
            if others and self.dialect.tie_break is TieBreak.NEWEST:
                others[0].scope.cancel()
            try:
                with use.scope:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._send_keepalives, use)
                        nursery.start_soon(self._watch_silence, use)
                        nursery.start_soon(self._settle, use)
                        async for value in link:
                            await self._received(use, value)
                        nursery.cancel_scope.cancel()
            except* LinkLost:
                pass
            finally:
                self._links.remove(use)
        finally:
            await link.aclose()

    async def _settle(self, use: _Link) -> None:
        """`TieBreak.SETTLED`."""
        if self.dialect.tie_break is not TieBreak.SETTLED:
            return
        await trio.sleep(SETTLE_TIME)
        both = [other for other in self._links if other.identity == use.identity]
        if len(both) > 1:
            max(both, key=self._central_identity).scope.cancel()

    def _central_identity(self, use: _Link) -> bytes:
        return self.identity if use.link.role is Role.CENTRAL else use.identity

    # --- values ---

    async def _send_keepalives(self, use: _Link) -> None:
        if self.dialect.keepalive is None:
            return
        while True:
            await trio.sleep(self.dialect.keepalive)
            await use.link.send(KEEPALIVE)

    async def _watch_silence(self, use: _Link) -> None:
        if self.dialect.silence is None:
            return
        while True:
            ends = use.heard + self.dialect.silence
            if ends <= trio.current_time():
                use.scope.cancel()
            await trio.sleep_until(ends)

    async def _received(self, use: _Link, value: bytes) -> None:
        if self.dialect.eats_16 and len(value) == IDENTITY_LENGTH:
            return
        now = trio.current_time()
        match classify(value, use.identity):
            case ValueKind.KEEPALIVE:
                use.heard = now
            case ValueKind.FRAGMENT:
                use.heard = now
                packet = use.reassembler.receive(value, now)
                if packet is not None:
                    self.packets.append((use.identity, packet))
            case ValueKind.PING if self.dialect.answers_probes:
                await use.link.send(pong(value))

    async def send(self, identity: bytes, packet: bytes) -> None:
        """Send a packet on the link to this identity that it has had for longest.

        Raises `LinkLost`, and `ValueError` when its Bluetooth stack refuses a value, having counted it.
        """
        use = next(use for use in self._links if use.identity == identity)
        async with use.turn:
            for value in self._fragments(packet, use.link.att_mtu):
                await self._transmit(use.link, value)

    def _fragments(self, packet: bytes, att_mtu: int) -> Iterator[bytes]:
        """As others cut: each as long as they believe a value may be, none moved because of its length."""
        beyond = self.dialect.beyond_mtu
        size = (value_limit(att_mtu) if beyond is None else att_mtu + beyond) - HEADER_LENGTH
        parts = [packet[start : start + size] for start in range(0, len(packet), size)]
        for sequence, part in enumerate(parts):
            if len(parts) == 1:
                kind = self.dialect.lone_type
            elif sequence == 0:
                kind = 1
            else:
                kind = 3 if sequence == len(parts) - 1 else 2
            yield bytes([kind]) + sequence.to_bytes(2, "big") + len(parts).to_bytes(2, "big") + part

    async def _transmit(self, link: MockLink, value: bytes) -> None:
        if self.dialect.too_long is TooLong.CUT_OR_REFUSED:
            if link.role is Role.PERIPHERAL:
                value = value[: value_limit(link.att_mtu)]
            elif len(value) > write_limit(link.att_mtu):
                self.refused += 1
                raise ValueError(f"the stack takes no write of {len(value)} bytes")
        await link.transmit(value)
