"""The driver contract: what a Bluetooth stack offers to the mesh, and nothing more.

Rules that every driver keeps, and that `rns_ble.testing.driver_suite` checks:

1. A driver moves values; it never looks inside one. The single exception is the 16-byte identity,
   which is a GATT matter: read from the peer's Identity characteristic and written to its RX.
2. A link is owned by whoever received it, and that owner closes it. The driver keeps no second
   copy that could outlive it.
3. `connect` either returns a link that is ready for data or leaves nothing behind: no connection,
   no pending dial, no task. That holds when it fails, when it times out and when it is cancelled.
4. Sends are whole and in order per link. The call returns when the stack has taken the value, so
   that a slow radio slows its sender down.
5. The end of a link, for whatever reason, ends the iteration over it. Nothing else reports it.
6. Leaving `async with driver` releases everything, within `GOODBYE_TIMEOUT`. The driver may then be
   entered again.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType
from typing import Final, Self

import trio

from rns_ble.drivers.terms import (
    GOODBYE_TIMEOUT,
    AdapterFull,
    AdapterUnavailable,
    AdvertisingUnavailable,
    AlreadyConnected,
    BLEError,
    ConfigurationError,
    PeerUnreachable,
    PermissionDenied,
    ProtocolViolation,
)
from rns_ble.protocol.gatt import IDENTITY_LENGTH, value_limit, write_limit

__all__ = [
    "GOODBYE_TIMEOUT",
    "AdapterFull",
    "AdapterUnavailable",
    "AdvertisingUnavailable",
    "AlreadyConnected",
    "BLEDevice",
    "BLEDriverInterface",
    "BLEError",
    "BLELink",
    "ConfigurationError",
    "DriverState",
    "LinkLost",
    "PeerUnreachable",
    "PermissionDenied",
    "ProtocolViolation",
    "Role",
]

SIGHTINGS_BUFFERED: Final = 256
"""Sightings waiting for the mesh. One that finds no room is dropped: the next follows within a second."""

ACCEPTED_BUFFERED: Final = 32
"""Links waiting for the mesh: more than any controller holds at once (7 to 20 in common ones)."""


class LinkLost(BLEError, trio.BrokenResourceError):
    """The link has ended: out of range, closed by the peer, or closed by us."""


class Role(enum.Enum):
    """Our role on a link (Bluetooth Core Specification, Vol 3 Part C, 2.2.2)."""

    CENTRAL = "central"
    PERIPHERAL = "peripheral"


class DriverState(enum.Flag):
    """What the radio does now; scanning and advertising go on side by side."""

    IDLE = 0
    SCANNING = enum.auto()
    ADVERTISING = enum.auto()


@dataclass(frozen=True, slots=True)
class BLEDevice:
    """One sighting of an advertisement that carries our service UUID."""

    address: str
    """Normalised: upper case, colons (`rns_ble.protocol.advertisement.normalise_address`)."""
    rssi: int | None = None
    """dBm; None when the stack gave none or one of the sentinels -127, -128, 0, 127."""
    name: str | None = None
    manufacturer_data: Mapping[int, bytes] = field(default_factory=lambda: MappingProxyType({}))
    """Company identifier → the data after it (Core Specification Supplement, Part A, 1.4)."""


class BLELink(trio.abc.Channel[bytes]):
    """One GATT connection to one peer, in one role: values in, values out.

    `async for value in link` yields what the peer sends (a write to our RX where we are the peripheral,
    a notification of its TX where we are the central) and ends when the link does.
    """

    address: str
    """The peer's Bluetooth address on this link, normalised. It changes where the stack says that the peer's
    has."""
    role: Role
    """Ours."""
    peer_identity: bytes | None = None
    """16 bytes, when the driver has done the handshake: always in the central role, in the peripheral
    role only with drivers that take the identity write themselves."""
    rssi: int | None = None
    """dBm, as the peer was last heard; None when unknown."""
    values_dropped: int = 0
    """Values of the peer's that found no room, where the stack under the link knows no back-pressure."""
    data_path: str = "gatt"
    """How values travel, for the status: for example `socket` or `dbus`."""
    keeps_order: bool = True
    """Whether values arrive in the order in which they were sent. All arrive in either case."""
    shared: object | None = None
    """Not None: what is sent on this link goes to the peers of all links with the same `shared`."""

    @property
    @abstractmethod
    def att_mtu(self) -> int:
        """ATT_MTU in bytes, 23 to 517. May grow until the handshake is done, never shrinks."""

    @property
    def value_limit(self) -> int:
        """The longest value, in bytes, that may be sent now: as peripheral min(ATT_MTU - 3, 512), as central
        min(ATT_MTU - 3, 510), for some peers lose longer writes (`rns_ble.protocol.gatt.WRITE_MAXIMUM`).
        Less, where the driver's own stack loses more.
        """
        limit = write_limit if self.role is Role.CENTRAL else value_limit
        return limit(self.att_mtu)

    @abstractmethod
    async def send(self, value: bytes) -> None:
        """Hand one value to the stack: a write command as central, a notification as peripheral.

        Several tasks may send at once; values go out whole, in the order of the calls.

        Raises `LinkLost` when the link has ended or its `aclose` has begun, also for those that wait then;
        `ValueError` when the value is longer than `value_limit`. Cancelled: the value was sent whole or not
        at all, and the link goes on.
        """

    @abstractmethod
    async def receive(self) -> bytes:
        """The next value from the peer, of any length.

        Raises `trio.EndOfChannel` once the link has ended and all it brought has been received, and
        `trio.ClosedResourceError` after our own `aclose`. Cancelled: nothing is lost.
        """

    async def __anext__(self) -> bytes:
        """Ends with the link, also where it was our own `aclose` that ended it."""
        try:
            return await self.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            raise StopAsyncIteration from None

    @abstractmethod
    async def aclose(self) -> None:
        """Really disconnect, then return. Idempotent; never raises for a peer that is gone.

        Shields itself and takes at most `GOODBYE_TIMEOUT`: the caller needs neither. So, other than with
        `trio.abc.AsyncResource`, being cancelled does not make it forceful: a peer that was not told keeps
        the connection for seconds. Where the other role lives on the same ACL connection, only this role
        ends.
        """


class BLEDriverInterface(ABC):
    """One adapter (or virtual controller) and the stack that drives it.

    ::

        async with driver:                       # opens the stack; a failure of it ends this block
            driver.set_identity(identity)
            await driver.start(SERVICE, RX, TX, IDENTITY)
            await driver.start_advertising()
            await driver.start_scanning()
            async for device in driver.discovered: ...
            link = await driver.connect(device.address)

    A stack that fails raises `AdapterUnavailable` out of the `async with` block, whose body is cancelled; it
    may come in an exception group, so catch it with `except*`.
    Not safe to enter twice at once.
    """

    heard_again_within: float = 5.0
    """Seconds in which a scan that goes on sights everybody who advertises: over twice the longest interval
    in use, which is 2 s. A driver whose stack tells of each peer more seldom says so here."""

    discovered: trio.MemoryReceiveChannel[BLEDevice]
    """Sightings, newest last; made anew at each entry."""
    accepted: trio.MemoryReceiveChannel[BLELink]
    """Links that other centrals made to us; made anew at each entry. Every one of them is closed at exit."""

    def __init__(self, *, simultaneous_connects: int = 1) -> None:
        """`simultaneous_connects`: how many links may be under way at once. LE controllers have one initiator
        (Core Specification, Vol 4 Part E, 7.8.12: a second create-connection is "command disallowed").
        """
        self.establishing: Final = trio.CapacityLimiter(simultaneous_connects)
        """Held by `connect` from its first to its last step. Its `total_tokens` tells the mesh how many
        attempts make sense at once."""
        self._discovered_send: trio.MemorySendChannel[BLEDevice]
        self._accepted_send: trio.MemorySendChannel[BLELink]
        self._identity: bytes | None = None
        self._running: AbstractAsyncContextManager[None] | None = None

    # --- life ---

    @abstractmethod
    def _run(self) -> AbstractAsyncContextManager[None]:
        """The stack's life: open it, yield, release all of it. An `asynccontextmanager` of the driver's.

        What it holds at its end is released in a shielded scope with a deadline.
        """

    async def __aenter__(self) -> Self:
        """Open the stack. Raises `AdapterUnavailable` or `PermissionDenied`."""
        self._running = running = self._with_channels()
        await running.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        """Stop, close every link, release the stack."""
        assert self._running is not None
        running, self._running = self._running, None
        return await running.__aexit__(kind, error, trace)

    @asynccontextmanager
    async def _with_channels(self) -> AsyncIterator[None]:
        self._discovered_send, self.discovered = trio.open_memory_channel[BLEDevice](SIGHTINGS_BUFFERED)
        self._accepted_send, self.accepted = trio.open_memory_channel[BLELink](ACCEPTED_BUFFERED)
        async with self._run():
            yield

    def _sight(self, device: BLEDevice) -> None:
        """For drivers: report a sighting. Never blocks, never raises."""
        with suppress(trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            self._discovered_send.send_nowait(device)  # see SIGHTINGS_BUFFERED

    def _accept(self, link: BLELink) -> bool:
        """For drivers: offer a link that a central made. Never blocks. False: the driver must close it."""
        try:
            self._accepted_send.send_nowait(link)
        except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        return True

    # --- identity and services ---

    @property
    @abstractmethod
    def address(self) -> str | None:
        """Our Bluetooth address as peers see it, normalised; None where the platform hides it."""

    def set_identity(self, identity: bytes) -> None:
        """What our Identity characteristic answers and `connect` writes: 16 bytes. Before `start`.

        Raises `ValueError` for another length.
        """
        if len(identity) != IDENTITY_LENGTH:
            raise ValueError(f"an identity is {IDENTITY_LENGTH} bytes, not {len(identity)}")
        self._identity = bytes(identity)

    @abstractmethod
    async def start(
        self, service_uuid: str, rx_char_uuid: str, tx_char_uuid: str, identity_char_uuid: str
    ) -> None:
        """Put the GATT service up. Neither scans nor advertises yet.

        Raises `AdapterUnavailable`, and `RuntimeError` before `set_identity`.
        """

    @abstractmethod
    async def stop(self) -> None:
        """Stop scanning and advertising and close every link. Idempotent."""

    # --- radio ---

    @property
    @abstractmethod
    def state(self) -> DriverState:
        """What was asked for and is in force; a pause of scanning while a connect lasts does not show."""

    @property
    @abstractmethod
    def connected_peers(self) -> list[str]:
        """Addresses with at least one live link, in either role."""

    @abstractmethod
    async def start_scanning(self) -> None:
        """Report sightings of our service on `discovered`, the same device again and again. Idempotent."""

    @abstractmethod
    async def stop_scanning(self) -> None:
        """Idempotent."""

    @abstractmethod
    async def start_advertising(
        self, device_name: str | None = None, manufacturer_data: Mapping[int, bytes] | None = None
    ) -> None:
        """Advertise connectably with our service UUID, and go on while centrals are connected. Idempotent.

        A controller that has no room for another connection does not advertise. That is no failure: `state`
        lacks `ADVERTISING` until a link has ended, and then it goes on by itself.

        `device_name`: at most 8 bytes of UTF-8, for flags, a 128-bit UUID and it fill the 31 bytes. Raises
        `AdvertisingUnavailable` where the adapter can't advertise, or has no advertisement to spare just now:
        everything else goes on then, and it may be tried again. Also raises `AdapterUnavailable`,
        `ConfigurationError` for what does not fit, and `RuntimeError` before `start`.
        """

    @abstractmethod
    async def stop_advertising(self) -> None:
        """Idempotent. Links stay."""

    @abstractmethod
    async def connect(self, address: str) -> BLELink:
        """Connect as central to an address sighted before, as far as a link that is ready for data.

        In this order: ACL connection, ATT MTU exchange (we ask for 517), service discovery, read Identity,
        subscribe to TX, write our own identity to RX with response as the very first write.

        Has no time-out of its own (the caller sets a deadline); waits for its turn on `establishing`.
        Raises `PeerUnreachable`, `ProtocolViolation` (no such service; Identity not 16 bytes),
        `AlreadyConnected`, `AdapterFull` (where the stack tells), `AdapterUnavailable`. Cancelled: all is
        undone, shielded, within `GOODBYE_TIMEOUT`.
        """
