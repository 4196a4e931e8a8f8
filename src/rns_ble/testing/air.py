"""A Bluetooth driver without a radio: `MockBLEDriver`, and the `Air` between several of them.

All of it is one Trio run; under `run_in_virtual_time` it is deterministic and takes no real time. What the
air does to a link is set on the `Air`: range, signal strength, latency, ATT MTU, how long a connect takes,
who refuses one and with whom it hangs, how far values overtake each other. An `Air` of another kind overrides
`heard_by`, `reach`, `strength` and `travel_time`, by which drivers ask who is where. Values are never lost
one by one: on a real link the Link Layer repeats them until they arrive or the link is lost (Core
Specification, Vol 6 Part B, 4.5.9), so it is links that are lost here.
"""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import trio

from rns_ble.drivers.base import (
    AdapterFull,
    AdapterUnavailable,
    AdvertisingUnavailable,
    AlreadyConnected,
    BLEDevice,
    BLEDriverInterface,
    BLEError,
    BLELink,
    DriverState,
    LinkLost,
    PeerUnreachable,
    ProtocolViolation,
    Role,
)
from rns_ble.protocol.advertisement import normalise_address
from rns_ble.protocol.gatt import ATT_MTU_REQUESTED, IDENTITY_LENGTH, value_limit, write_limit

VALUES_BUFFERED: Final = 16
"""Values on their way per direction before a sender waits: about what a controller's ACL buffers hold."""


def _pair(one: str, other: str) -> frozenset[str]:
    return frozenset((one, other))


@dataclass
class Air:
    """What lies between the drivers. Addresses are normalised; change anything at any time."""

    advertising_interval: float = 0.1
    """Seconds between two advertisements of one driver."""
    connect_time: float = 0.05
    """Seconds from `connect` to a link, when nothing hinders."""
    latency: float = 0.0
    """Seconds that a value travels."""
    overtaking: int = 0
    """How many values a value may overtake, as with several ATT bearers (EATT)."""
    random: random.Random = field(default_factory=lambda: random.Random(0))
    """Decides which value overtakes which."""
    att_mtu: int = ATT_MTU_REQUESTED
    """Bytes; of links made from now on that `att_mtus` does not name."""
    att_mtus: dict[frozenset[str], int] = field(default_factory=dict)
    """Per pair of addresses."""
    rssi: int | None = -60
    """dBm, of pairs that `rssis` does not name."""
    rssis: dict[frozenset[str], int | None] = field(default_factory=dict)
    refusing: set[str] = field(default_factory=set)
    """Addresses that refuse every connect."""
    hanging: set[str] = field(default_factory=set)
    """Addresses with which a connect never ends."""
    one_link_per_pair: bool = True
    """Whether two adapters that are linked refuse a second link, as they do on a real radio while neither
    changes its address."""
    drivers: list[MockBLEDriver] = field(default_factory=list)
    """Those that are open."""
    connects: list[tuple[float, str, str]] = field(default_factory=list)
    """Every connect that reached the radio: (time, from, to)."""
    _apart: set[frozenset[str]] = field(default_factory=set)

    def in_range(self, one: str, other: str) -> bool:
        """Whether two addresses hear each other."""
        return _pair(one, other) not in self._apart

    def separate(self, one: str, other: str) -> None:
        """Take two addresses out of each other's range; their links are lost."""
        self._apart.add(_pair(one, other))
        self.drop(one, other)

    def unite(self, one: str, other: str) -> None:
        """Bring them back into range."""
        self._apart.discard(_pair(one, other))

    def drop(self, one: str, other: str) -> None:
        """Lose the links between two addresses, once."""
        for driver in self.drivers:
            for link in list(driver.links):
                if _pair(link.own_address, link.address) == _pair(one, other):
                    link.lose()

    def strength(self, one: str, other: str) -> int | None:
        """The signal between two addresses, in dBm; None when unknown."""
        return self.rssis.get(_pair(one, other), self.rssi)

    def travel_time(self, one: str, other: str) -> float:
        """Seconds that a value travels between two addresses; asked once for each end of a link."""
        return self.latency

    def heard_by(self, listener: MockBLEDriver) -> Iterator[tuple[MockBLEDriver, int | None]]:
        """Whose advertisement a scanning driver hears now, and how strong."""
        for driver in self.drivers:
            if driver is not listener and self.in_range(listener.radio_address, driver.radio_address):
                yield driver, self.strength(listener.radio_address, driver.radio_address)

    async def reach(self, own_address: str, address: str) -> MockBLEDriver:
        """What `connect` does up to the connection: the driver at this address.

        Takes the time that the radio does, without end when nobody answers. Raises `PeerUnreachable`.
        """
        await trio.sleep(self.connect_time)
        if address in self.hanging or not self.in_range(own_address, address):
            await trio.sleep_forever()
        peer = self.advertiser(address)
        if peer is None or address in self.refusing:
            raise PeerUnreachable(f"{address} refuses the connection")
        return peer

    def advertiser(self, address: str) -> MockBLEDriver | None:
        """The driver that advertises under this address."""
        for driver in self.drivers:
            if driver.radio_address == address and DriverState.ADVERTISING in driver.state:
                return driver
        return None


class MockLink(BLELink):
    """One end of a link through the air."""

    def __init__(self, driver: MockBLEDriver, own_address: str, address: str, role: Role) -> None:
        air = driver.air
        self.address = address
        self.own_address = own_address
        self.role = role
        self.rssi = air.strength(own_address, address)
        self.data_path = "air"
        self.peer: MockLink
        self.keeps_order = not air.overtaking
        self.shared = driver if driver.shares_notifications and role is Role.PERIPHERAL else None
        self._driver = driver
        self._att_mtu = air.att_mtus.get(_pair(own_address, address), air.att_mtu)
        self._latency = air.travel_time(own_address, address)
        self._inbox_send, self._inbox = trio.open_memory_channel[tuple[float, bytes]](VALUES_BUFFERED)
        self._arriving: list[tuple[float, bytes]] = []
        self._sending = trio.StrictFIFOLock()
        self._closed = False
        driver.links[self] = None

    @property
    def att_mtu(self) -> int:
        return self._att_mtu

    @property
    def value_limit(self) -> int:
        limit = write_limit if self.role is Role.CENTRAL else value_limit
        return min(limit(link._att_mtu) for link in self._reaching())

    def _reaching(self) -> list[MockLink]:
        """The links whose peers hear what is sent on this one."""
        return [
            self,
            *(link for link in self._driver.links if self.shared and link.shared and link is not self),
        ]

    async def send(self, value: bytes) -> None:
        if len(value) > self.value_limit:
            raise ValueError(f"value of {len(value)} bytes on a link that carries {self.value_limit}")
        await self.transmit(value)

    async def transmit(self, value: bytes) -> None:
        """As `send`, for a station with a stack that lets values of any length through."""
        async with self._sending:
            arrival = trio.current_time() + self._latency
            for link in self._reaching():
                try:
                    await link.peer._inbox_send.send((arrival, bytes(value)))
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    if link is self:
                        raise LinkLost(f"link to {self.address} has ended") from None

    async def receive(self) -> bytes:
        if self._closed:
            raise trio.ClosedResourceError
        if not self._arriving:
            self._arriving.append(await self._inbox.receive())
        air = self._driver.air
        while len(self._arriving) <= air.overtaking:
            try:
                self._arriving.append(self._inbox.receive_nowait())
            except (trio.WouldBlock, trio.EndOfChannel):
                break
        place = air.random.randrange(len(self._arriving))
        arrival, value = self._arriving[place]
        if arrival > trio.current_time():
            await trio.sleep_until(arrival)
        del self._arriving[place]
        return value

    def lose(self) -> None:
        """End the link on both sides, as when it is out of range."""
        for end in (self, self.peer):
            end._inbox_send.close()
            end._driver.links.pop(end, None)

    async def aclose(self) -> None:
        self.lose()
        self._closed = True
        self._inbox.close()
        await trio.lowlevel.cancel_shielded_checkpoint()


class MockBLEDriver(BLEDriverInterface):
    """A driver on an `Air`. Fulfils the contract of `rns_ble.drivers.base` to the letter."""

    def __init__(
        self,
        air: Air,
        address: str,
        *,
        hides_address: bool = False,
        simultaneous_connects: int = 1,
        shares_notifications: bool = False,
        most_links: float = math.inf,
    ) -> None:
        """`hides_address`: behave like a platform that does not tell its own address, as Android.
        `shares_notifications`: what it notifies goes to all of its centrals, as with BlueZ before 5.69.
        `most_links`: how many the controller holds; then it does not advertise, and connects to nobody.
        """
        super().__init__(simultaneous_connects=simultaneous_connects)
        self.air = air
        self.shares_notifications = shares_notifications
        self.hides_address = hides_address
        self.most_links = most_links
        self.links: dict[MockLink, None] = {}  # a set would be in another order in each run
        self.advertised_identity: bytes | None = None
        """What the Identity characteristic answers; a test may set it to something no peer should accept."""
        self.radio_address = normalise_address(address)
        """The address that others see."""
        self.advertisement_to_spare = True
        """Whether `start_advertising` succeeds."""
        self._device_name: str | None = None
        self._manufacturer_data: Mapping[int, bytes] = {}
        self._service_uuid: str | None = None
        self._state = DriverState.IDLE
        self._failure: BLEError | None = None
        self._failed: trio.Event
        self._scan_requested: trio.Event

    # --- life ---

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[None]:
        if self._failure is not None:
            raise self._failure
        self._failed = trio.Event()
        self._scan_requested = trio.Event()
        self.air.drivers.append(self)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._fail_when_told)
                nursery.start_soon(self._hear_advertisements)
                yield
                nursery.cancel_scope.cancel()
        finally:
            await self.stop()
            self.air.drivers.remove(self)

    def fail(self, error: BLEError | None = None) -> None:
        """Make the stack fail, now and at each entry until `repair`."""
        self._failure = error or AdapterUnavailable("the adapter was unplugged: plug it in again")
        if self in self.air.drivers:
            self._failed.set()

    def repair(self) -> None:
        """Let the next entry succeed."""
        self._failure = None

    async def _fail_when_told(self) -> None:
        await self._failed.wait()
        if self._failure is not None:
            raise self._failure

    def rotate_address(self, address: str) -> None:
        """Take another address, as phones do; links keep the one they were made under."""
        self.radio_address = normalise_address(address)

    # --- identity and services ---

    @property
    def address(self) -> str | None:
        return None if self.hides_address else self.radio_address

    def set_identity(self, identity: bytes) -> None:
        super().set_identity(identity)
        self.advertised_identity = identity

    async def start(
        self, service_uuid: str, rx_char_uuid: str, tx_char_uuid: str, identity_char_uuid: str
    ) -> None:
        await trio.lowlevel.checkpoint()
        self._service_uuid = service_uuid.lower()

    async def stop(self) -> None:
        self._state = DriverState.IDLE
        for link in list(self.links):
            link.lose()
        await trio.lowlevel.cancel_shielded_checkpoint()

    # --- radio ---

    @property
    def state(self) -> DriverState:
        return self._state & ~DriverState.ADVERTISING if self.is_full else self._state

    @property
    def is_full(self) -> bool:
        """Whether its controller holds as many links as it can."""
        return len(self.links) >= self.most_links

    @property
    def connected_peers(self) -> list[str]:
        return sorted({link.address for link in self.links})

    async def start_scanning(self) -> None:
        await trio.lowlevel.checkpoint()
        self._state |= DriverState.SCANNING
        self._scan_requested.set()

    async def stop_scanning(self) -> None:
        await trio.lowlevel.checkpoint()
        self._state &= ~DriverState.SCANNING
        self._scan_requested = trio.Event()

    async def start_advertising(
        self, device_name: str | None = None, manufacturer_data: Mapping[int, bytes] | None = None
    ) -> None:
        await trio.lowlevel.checkpoint()
        if not self.advertisement_to_spare:
            raise AdvertisingUnavailable("the adapter has no advertisement to spare")
        self._device_name = device_name
        self._manufacturer_data = manufacturer_data or {}
        self._state |= DriverState.ADVERTISING

    async def stop_advertising(self) -> None:
        await trio.lowlevel.checkpoint()
        self._state &= ~DriverState.ADVERTISING

    async def _hear_advertisements(self) -> None:
        while True:
            await self._scan_requested.wait()
            for driver, rssi in self.air.heard_by(self):
                if DriverState.ADVERTISING in driver.state and driver._service_uuid == self._service_uuid:
                    self._sight(
                        BLEDevice(
                            address=driver.radio_address,
                            rssi=rssi,
                            name=driver._device_name,
                            manufacturer_data=driver._manufacturer_data,
                        )
                    )
            await trio.sleep(self.air.advertising_interval)

    async def connect(self, address: str) -> BLELink:
        async with self.establishing:
            own_address = self.radio_address
            self.air.connects.append((trio.current_time(), own_address, address))
            if self.air.one_link_per_pair and address in self.connected_peers:
                raise AlreadyConnected(f"{address} is linked already")
            if self.is_full:
                raise AdapterFull(f"the controller holds no more than {self.most_links} links")
            peer = await self.air.reach(own_address, address)
            if self.air.one_link_per_pair and address in self.connected_peers:
                raise AlreadyConnected(f"{address} is linked already")
            return await self._establish(peer, own_address, address)

    async def _establish(self, peer: MockBLEDriver, own_address: str, address: str) -> BLELink:
        ours = MockLink(self, own_address, address, Role.CENTRAL)
        theirs = MockLink(peer, address, own_address, Role.PERIPHERAL)
        ours.peer, theirs.peer = theirs, ours
        try:
            if not peer._accept(theirs):
                raise PeerUnreachable(f"{address} dropped the connection")
            await trio.sleep(self.air.latency)
            identity = peer.advertised_identity
            if identity is None or len(identity) != IDENTITY_LENGTH:
                raise ProtocolViolation(f"{address} has no identity of {IDENTITY_LENGTH} bytes")
            ours.peer_identity = identity
            assert self._identity is not None, "set_identity comes before connect"
            try:
                await ours.send(self._identity)
            except LinkLost:
                raise PeerUnreachable(f"{address} dropped the connection") from None
        except BaseException:
            await ours.aclose()
            raise
        return ours
