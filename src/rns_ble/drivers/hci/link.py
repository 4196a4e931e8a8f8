"""One BLE Reticulum link over an LE connection: values in, values out.

1. Values from the peer are put into a bounded buffer as they arrive. ATT knows no back-pressure for write
   commands and notifications, so one that finds no room is dropped and counted; a write request that finds
   none is answered when there is room again, and its sender waits so long.
2. A value goes out when the controller has room for the whole of it, by connection (`AclChannel`). So senders
   are slowed to the speed of the radio, and what is in memory is a few packets.
3. The end of the connection ends the link: what has arrived can still be received, then `EndOfChannel`.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import trio
from bumble import att, hci

from rns_ble import quiet
from rns_ble.drivers.base import BLELink, LinkLost, Role
from rns_ble.protocol.gatt import ATT_HEADER, ATT_MTU_DEFAULT, ATT_MTU_REQUESTED

if TYPE_CHECKING:
    from bumble.device import Connection

    from rns_ble.drivers.hci.att_client import AttClient
    from rns_ble.drivers.hci.host import AclChannel
    from rns_ble.drivers.hci.stack import Stack

log = quiet.logger(__name__)

RECEIVE_BUFFERED: Final = 256
"""Values per link, 128 KiB at most: a second of what a fast radio brings, should the mesh be busy so long."""

DRAIN_TIMEOUT: Final = 0.5
"""Seconds for what was sent to reach the peer before we disconnect: some connection intervals, and a part of
`GOODBYE_TIMEOUT`."""

_ATT_ON_L2CAP: Final = struct.Struct("<HHBH")
"""Length and channel of L2CAP, operation code and attribute handle of ATT."""


class HciLink(BLELink):
    """Owned by whoever got it from `connect` or `accepted`."""

    data_path = "acl"

    def __init__(self, stack: Stack, connection: Connection, address: str, channel: AclChannel) -> None:
        """`address`: the peer's, normalised."""
        self.address = address
        self.role = Role.CENTRAL if connection.role == hci.Role.CENTRAL else Role.PERIPHERAL
        self.connection = connection
        self.handed_over = False
        """Whether somebody owns it; until then it is being made."""
        self.values_dropped = 0
        """Values of the peer's that found no room."""
        self.client: AttClient | None = None
        """During the handshake."""
        self.value_handle: int | None = None
        """Attribute handle of what we send to: as central the peer's RX, as peripheral our own TX."""
        self.notified_handle: int | None = None
        """As central: attribute handle of the peer's TX, from the subscription on."""
        self._stack = stack
        self._channel = channel
        self._att_mtu = ATT_MTU_DEFAULT
        self._operation = (
            att.Opcode.ATT_WRITE_COMMAND
            if self.role is Role.CENTRAL
            else att.Opcode.ATT_HANDLE_VALUE_NOTIFICATION
        )
        self._sending = trio.StrictFIFOLock()
        self._inbox_send, self._inbox = trio.open_memory_channel[bytes](RECEIVE_BUFFERED)
        self._held: bytes | None = None  # a write request's value without room, not answered yet
        self._may_send = self.role is Role.CENTRAL
        self._closing = False
        self._waiting = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        return f"<HciLink {self.role.value} to {self.address}>"

    @property
    def att_mtu(self) -> int:
        """Grows with the exchange that the central begins; another one later counts only if it is larger."""
        self._att_mtu = min(max(self._att_mtu, self.connection.att_mtu), ATT_MTU_REQUESTED)
        return self._att_mtu

    @property
    def live(self) -> bool:
        """Whether the connection stands, and we have not given it up."""
        return self._channel.open

    # --- values out ---

    async def send(self, value: bytes) -> None:
        """As peripheral it first waits until the central has subscribed to TX."""
        if len(value) > self.value_limit:
            raise ValueError(f"a value of {len(value)} bytes; this link carries {self.value_limit}")
        packets = self._channel.packets(ATT_HEADER + len(value))
        async with self._sending:
            while self.live and not self._closing:
                if not self._may_send:
                    await self._waiting.park()
                elif not self._channel.has_room(packets):
                    await self._channel.wait()
                else:
                    break
            else:
                raise LinkLost(f"the link to {self.address} has ended")
            assert self.value_handle is not None
            length = ATT_HEADER + len(value)
            header = _ATT_ON_L2CAP.pack(length, att.ATT_CID, self._operation, self.value_handle)
            self._stack.host.send_acl_sdu(self.connection.handle, header + value)

    def on_subscription(self, subscribed: bool) -> None:
        """The central has written to the Client Characteristic Configuration of our TX."""
        self._may_send = subscribed
        if subscribed:
            self._waiting.unpark_all()

    # --- values in ---

    async def receive(self) -> bytes:
        value = await self._inbox.receive()
        if self._held is not None:
            self._take_held()
        return value

    def on_value(self, value: bytes) -> None:
        """A write command or a notification of the peer's."""
        if not self._store(value):
            self.values_dropped += 1
            log.debug("%s: no room for a value, %d dropped so far", self, self.values_dropped)

    def on_write_request(self, value: bytes) -> None:
        """A write of the peer's that wants an answer."""
        if self._held is not None:
            # The peer may not ask again before it is answered (Vol 3 Part F, 3.3.2).
            log.debug("%s: a write request before the last one was answered", self)
            self.values_dropped += 1
        elif self._store(value):
            self._answer_write()
        else:
            self._held = value

    def _store(self, value: bytes) -> bool:
        try:
            self._inbox_send.send_nowait(value)
        except trio.WouldBlock:
            return False
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # nobody is interested any more
        return True

    def _take_held(self) -> None:
        if self._held is not None and self._store(self._held):
            self._held = None
            self._answer_write()

    def _answer_write(self) -> None:
        self.send_pdu(bytes([att.Opcode.ATT_WRITE_RESPONSE]))

    # --- ATT around the values ---

    def send_pdu(self, pdu: bytes) -> None:
        """A request, a response or a confirmation: ATT allows one at a time, so no room is waited for."""
        if self.live:  # the handle may be another connection's by now
            self._stack.host.send_l2cap_pdu(self.connection.handle, att.ATT_CID, pdu)

    def on_server_pdu(self, pdu: bytes) -> None:
        """What the peer says as a server: the odd operation codes."""
        if pdu[0] == att.Opcode.ATT_HANDLE_VALUE_NOTIFICATION:
            if int.from_bytes(pdu[1:3], "little") == self.notified_handle:
                self.on_value(pdu[ATT_HEADER:])
        elif pdu[0] == att.Opcode.ATT_HANDLE_VALUE_INDICATION:
            # Not for us (of services that changed, perhaps), but the peer waits for it.
            self.send_pdu(bytes([att.Opcode.ATT_HANDLE_VALUE_CONFIRMATION]))
        elif self.client is not None:
            self.client.on_pdu(pdu)

    # --- the end ---

    def on_disconnected(self) -> None:
        """The connection has ended."""
        self._inbox_send.close()
        self._waiting.unpark_all()
        if self.client is not None:
            self.client.end()

    async def aclose(self) -> None:
        """What was sent before gets `DRAIN_TIMEOUT` to leave."""
        self._inbox.close()
        self._closing = True  # who waits to send learns it now, and may use another link
        self._waiting.unpark_all()
        self._channel.wake()
        with trio.CancelScope(shield=True):
            with trio.move_on_after(DRAIN_TIMEOUT):
                while self._channel.outstanding:
                    await self._channel.wait()
            if not await self._stack.disconnect(self.connection):
                self._channel.end()
                self.on_disconnected()
            await trio.lowlevel.checkpoint()
