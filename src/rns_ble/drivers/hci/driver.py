"""A driver without BlueZ: Bumble's host on an HCI controller, virtual or real.

A central's link is offered on `accepted` as soon as the central is connected, before it has used our service:
the mesh's deadline for the handshake then also counts for those that never do.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import trio
from bumble import hci

from rns_ble.drivers.asyncio_loop import open_asyncio_loop, plainly
from rns_ble.drivers.base import (
    AlreadyConnected,
    BLEDevice,
    BLEDriverInterface,
    BLEError,
    BLELink,
    ConfigurationError,
    DriverState,
    LinkLost,
    PeerUnreachable,
    Role,
)
from rns_ble.drivers.hci.advertising_data import decode, encode
from rns_ble.drivers.hci.gatt_service import GattService, Uuids
from rns_ble.drivers.hci.handshake import shake_hands
from rns_ble.drivers.hci.link import HciLink
from rns_ble.drivers.hci.radio import VirtualRadio
from rns_ble.drivers.hci.sightings import Sightings
from rns_ble.drivers.hci.stack import Stack
from rns_ble.drivers.hci.standing_jobs import Advertisement, Advertising, Scanning
from rns_ble.drivers.hci.transports import open_transport
from rns_ble.drivers.names import check_transport
from rns_ble.protocol.advertisement import normalise_address
from rns_ble.protocol.gatt import ATT_MTU_DEFAULT, ATT_MTU_REQUESTED

if TYPE_CHECKING:
    from bumble.device import Connection

ADVERTISING_INTERVAL: Final = 0.1
"""Seconds; the second of the intervals that the Core Specification recommends while somebody waits to be
found (Vol 3 Part C, Appendix A, TGAP(adv_fast_interval2))."""

STATIC_ADDRESS_BITS: Final = 0xC0
"""The two top bits of a static random address (Vol 6 Part B, 1.3.2.1)."""


class BumbleDriver(BLEDriverInterface):
    """One HCI controller.

    Several drivers that are entered one inside the other share an asyncio loop, which the outermost opens.
    """

    def __init__(
        self,
        transport: str | VirtualRadio | None,
        *,
        address: str | None = None,
        att_mtu: int = ATT_MTU_REQUESTED,
        advertising_interval: float = ADVERTISING_INTERVAL,
    ) -> None:
        """`transport`: a `VirtualRadio`, on which the driver makes a controller of its own, or the name of a
        transport of Bumble's: `usb:0`, `serial:/dev/ttyACM0,1000000`, `tcp-client:HOST:PORT`.

        `address`: a static random address. By default the controller's public address, or where it has none
        a random one, the same as long as this object lives. `att_mtu`: the most to ask for and to agree to,
        in bytes. `advertising_interval`: seconds.

        Raises `ConfigurationError`.
        """
        super().__init__()
        if transport is None:
            raise ConfigurationError("driver = bumble needs a transport, for example usb:0")
        if isinstance(transport, str):
            check_transport(transport)
        if not ATT_MTU_DEFAULT <= att_mtu <= ATT_MTU_REQUESTED:
            raise ConfigurationError(f"att_mtu = {att_mtu}: from {ATT_MTU_DEFAULT} to {ATT_MTU_REQUESTED}")
        self._transport = transport
        self._static_address = _static_address(address)
        self._prefers_public = address is None and isinstance(transport, str)
        self._address = None if self._prefers_public else self._static_address.to_string(False)
        self._att_mtu = att_mtu
        self._advertising_interval = advertising_interval
        self._sightings = Sightings()
        self._stack: Stack | None = None

    # --- life ---

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[None]:
        async with (
            open_asyncio_loop() as loop,
            plainly(trio.open_nursery()) as nursery,
            open_transport(loop, self._transport) as transport,
        ):
            body = trio.CancelScope()
            stack = Stack(
                loop,
                transport,
                self._static_address,
                on_failure=lambda _error: body.cancel(),
                on_report=self._on_report,
                on_att_pdu=self._on_att_pdu,
                on_connection=self._on_connection,
            )
            self._stack, self._nursery = stack, nursery
            self._uuids: Uuids | None = None
            self._service: GattService | None = None
            self._links: dict[int, HciLink] = {}  # by connection handle; also those that are being made
            self._scanning = Scanning(stack)
            self._advertising = Advertising(stack, self._advertising_interval)
            nursery.start_soon(stack.watch_loop)
            nursery.start_soon(self._scanning.keep_hearing)
            try:
                await stack.power_on(prefer_public=self._prefers_public)
                self._address = stack.address.to_string(False)
                try:
                    with body:
                        yield
                except Exception as error:
                    if stack.failure is not None and _is_of_the_stack(error):
                        raise stack.gone() from error
                    raise
                if stack.failure is not None:
                    raise stack.gone()
            finally:
                self._stack = None
                await self._scanning.stop()
                await stack.power_off()
                nursery.cancel_scope.cancel()

    def _open(self) -> Stack:
        if self._stack is None:
            raise RuntimeError("the driver is used outside of its `async with`")
        return self._stack

    # --- identity and services ---

    @property
    def address(self) -> str | None:
        """None until a controller of which we take the public address was opened for the first time."""
        return self._address

    async def start(
        self, service_uuid: str, rx_char_uuid: str, tx_char_uuid: str, identity_char_uuid: str
    ) -> None:
        """Also raises `ConfigurationError` for what is no UUID."""
        stack = self._open()
        if self._identity is None:
            raise RuntimeError("set_identity comes before start")
        uuids = Uuids.parse(service_uuid, rx_char_uuid, tx_char_uuid, identity_char_uuid)
        await trio.lowlevel.checkpoint()
        self._service = GattService(stack.device, uuids, self._identity, self._att_mtu, self._link_of)
        self._uuids = uuids

    async def stop(self) -> None:
        """Does nothing where the stack has failed: that ended everything."""
        if self._stack is None or self._stack.failure is not None:
            return
        await self.stop_scanning()
        await self.stop_advertising()
        await self._stack.disconnect_all()

    # --- radio ---

    @property
    def state(self) -> DriverState:
        state = DriverState.IDLE
        if self._stack is not None and self._scanning.wanted:
            state |= DriverState.SCANNING
        if self._stack is not None and self._advertising.wanted and not self._advertising.refused:
            state |= DriverState.ADVERTISING
        return state

    @property
    def connected_peers(self) -> list[str]:
        if self._stack is None:
            return []
        return sorted({link.address for link in self._links.values() if link.handed_over and link.live})

    async def start_scanning(self) -> None:
        self._open()
        self._scanning.wanted = True
        await self._scanning.apply()

    async def stop_scanning(self) -> None:
        self._open()
        self._scanning.wanted = False
        await self._scanning.apply()

    def _on_report(self, report: Any) -> None:
        """An advertising report; legacy and extended ones have the same names for what matters."""
        uuids = self._uuids
        if uuids is None or not self._scanning.wanted:
            return
        said = decode(report.data)
        if uuids.service in said.uuids:
            address, sighting = self._sightings.add(report.address, report.rssi, said)
        elif (news := self._sightings.complete(report.address, said)) is not None:
            address, sighting = news
        else:
            return
        for link in self._links.values():
            if link.address == address:
                link.rssi = sighting.rssi
        self._sight(BLEDevice(address, sighting.rssi, sighting.name, sighting.manufacturer_data))

    async def start_advertising(
        self, device_name: str | None = None, manufacturer_data: Mapping[int, bytes] | None = None
    ) -> None:
        """Called again with other arguments, these count.

        Raises `ConfigurationError` for a name over 8 bytes, or more manufacturer data than there is room for.
        """
        self._open()
        if self._uuids is None:
            raise RuntimeError("start comes before start_advertising")
        self._advertising.wanted = Advertisement(*encode(self._uuids.service, device_name, manufacturer_data))
        await self._advertising.apply()

    async def stop_advertising(self) -> None:
        self._open()
        self._advertising.wanted = None
        await self._advertising.apply()

    # --- links ---

    def _link_of(self, connection: Connection) -> HciLink | None:
        return self._links.get(connection.handle)

    def _on_connection(self, connection: Connection, asked_for: bool) -> None:
        stack = self._stack
        if stack is None:
            return  # leaving: `power_off` ends it
        address = normalise_address(connection.peer_address.to_string(False))
        link = HciLink(stack, connection, address, stack.host.channels[connection.handle])
        self._links[connection.handle] = link
        connection.once("disconnection", lambda _reason: self._on_disconnected(link))
        link.rssi = self._sightings.rssi(address)
        if link.role is Role.PERIPHERAL:
            self._advertising.ended_by_connection()
            self._nursery.start_soon(self._advertising.go_on)
            if self._service is not None:
                link.value_handle = self._service.notifying_handle
                link.handed_over = self._accept(link)
        if not link.handed_over and not asked_for:
            self._nursery.start_soon(link.aclose)

    def _on_disconnected(self, link: HciLink) -> None:
        if self._links.get(link.connection.handle) is link:
            del self._links[link.connection.handle]
        link.on_disconnected()
        self._scanning.hear_again()  # its peer has a place for somebody now, and may advertise again
        if self._stack is not None and self._advertising.refused:
            self._nursery.start_soon(self._advertising.go_on)

    def _on_att_pdu(self, handle: int, pdu: bytes) -> bool:
        """True: it was for us. All that a server says is; Bumble's client would keep what is notified."""
        link = self._links.get(handle)
        if link is None or not pdu:
            return True
        if pdu[0] & 1:
            link.on_server_pdu(pdu)
            return True
        return self._service is not None and self._service.take(link, pdu)

    async def connect(self, address: str) -> BLELink:
        """Also raises `PeerUnreachable` for an address that was not sighted before."""
        stack, wanted = self._open(), normalise_address(address)
        uuids, identity = self._uuids, self._identity
        if uuids is None or identity is None:
            raise RuntimeError("start comes before connect")
        async with self.establishing:
            if any(link.address == wanted for link in self._links.values()):
                raise AlreadyConnected(f"{wanted} is connected already")
            typed = self._sightings.address(wanted)
            if typed is None:
                raise PeerUnreachable(f"{wanted} has not been sighted: scan until it is")
            connection = await self._dial(stack, typed)
            link = self._link_of(connection)
            try:
                if link is None or link.connection is not connection:
                    raise LinkLost("the connection has ended")
                await shake_hands(link, uuids, identity, self._att_mtu)
                link.handed_over = True
            except LinkLost as error:
                if stack.failure is not None:
                    raise stack.gone() from error
                raise PeerUnreachable(f"{wanted} dropped the connection during the handshake") from error
            finally:
                if link is None or not link.handed_over:
                    await stack.disconnect(connection)
            return link

    async def _dial(self, stack: Stack, address: hci.Address) -> Connection:
        self._scanning.paused = True
        try:
            await self._scanning.apply()
            return await stack.dial(address)
        finally:
            await self._scanning.resume()


def _is_of_the_stack(error: Exception) -> bool:
    """Whether a failing stack explains what the block has raised: all of it came from here."""
    if isinstance(error, ExceptionGroup):
        return error.split(BLEError)[1] is None
    return isinstance(error, BLEError)


def _static_address(address: str | None) -> hci.Address:
    """A static random address as asked for, or a new one. Raises `ConfigurationError` for another kind."""
    if address is None:
        number = secrets.token_bytes(6)
        return hci.Address(number[:5] + bytes([number[5] | STATIC_ADDRESS_BITS]))
    try:
        text = normalise_address(address)
    except ValueError as error:
        raise ConfigurationError(f"address = {address}: {error}") from None
    if int(text[:2], 16) < STATIC_ADDRESS_BITS:
        raise ConfigurationError(f"address = {address}: a static random address begins with C0 to FF")
    return hci.Address(text)
