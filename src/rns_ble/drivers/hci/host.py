"""The host side: Bumble's `Host` and `Device` with a short way for values, and with their faults repaired.

1. A value takes the short way: HCI packet → L2CAP PDU → link, and back, without Bumble's packet objects.
   These format every packet for the log, also when nobody reads it, and start an asyncio task for each write.
2. What arrived before the end of a connection is handed over before that end: no task, no later callback.
3. A connection may hold only part of the controller's buffers (`AclChannel`), and whoever sends more waits.
4. Nothing that a stranger sends is kept: Bumble remembers every advertiser, every notified value, and the
   keys of every pairing.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

import trio
from bumble import att, hci, smp
from bumble.device import Device
from bumble.host import Host

from rns_ble import quiet

log = quiet.logger(__name__)

L2CAP_HEADER: Final = 4
"""Bytes: length and channel (Vol 3 Part A, 3.1)."""

SHARE_OF_BUFFERS: Final = 4
"""One connection gets at most the fourth part of the controller's data buffers, so that one which does not
answer any more leaves room for the others until its supervision timeout."""
FEWEST_BUFFERS: Final = 4
"""Packets per connection all the same: less than that can't keep a link busy. Small dongles have 8 in all."""

PAIRING_PDUS: Final = 64
"""Pairing PDUs taken on one connection. A pairing has less than 20 each way (Vol 3 Part H, 2.4.4 and 3.6);
each costs milliseconds of cryptography in Python, and some of them Bumble answers again and again."""

MOST_CAPABLE: Final = bytes([smp.IoCapability.KEYBOARD_DISPLAY])
"""The last IO capability there is (Vol 3 Part H, 2.3.2); Bumble's task stumbles over those beyond."""

ACL_DATA: Final = bytes([hci.HCI_ACL_DATA_PACKET])
COMPLETED: Final = bytes([hci.HCI_EVENT_PACKET, hci.HCI_NUMBER_OF_COMPLETED_PACKETS_EVENT])
"""How the two packets begin that come with every value."""
ADVERTISING_REPORTS: Final = (
    hci.HCI_LE_Advertising_Report_Event,
    hci.HCI_LE_Extended_Advertising_Report_Event,
)
"""What a scan brings, dozens a second for each that advertises."""
REPORT: Final = bytes([hci.HCI_EVENT_PACKET, hci.HCI_LE_META_EVENT])
"""How the packet begins that has an advertising report in it, and other events of LE."""
EMPTY_REPORT: Final = 15
"""Bytes of a packet with one advertising report without data (Vol 4 Part E, 7.7.65.2)."""
_ACL_HEADER: Final = 5
"""Bytes: packet type, handle with flags, length (Vol 4 Part E, 5.4.2)."""
_PB_CONTINUING: Final = 0b01


class AclChannel:
    """The data of one connection: what the controller holds of ours, and the PDU that is arriving."""

    def __init__(self, packet_length: int, buffers: int) -> None:
        """`packet_length`: bytes of data per HCI packet. `buffers`: packets the controller holds in all."""
        self.packet_length = packet_length
        self.window = max(FEWEST_BUFFERS, buffers // SHARE_OF_BUFFERS)
        self.outstanding = 0
        """Packets that the controller has, or will have, and has not completed."""
        self.open = True
        self.pairing_pdus = 0
        self._waiting = trio.lowlevel.ParkingLot()
        self._pdu = bytearray()
        self._pdu_length = 0

    def packets(self, length: int) -> int:
        """How many HCI packets an L2CAP PDU of that many bytes of payload takes."""
        return -(-(length + L2CAP_HEADER) // self.packet_length)

    def has_room(self, packets: int) -> bool:
        """Whether a PDU may be given to the controller now. One that is larger than the window goes alone."""
        return not self.outstanding or self.outstanding + packets <= self.window

    async def wait(self) -> None:
        """Until packets are completed, or the connection ends. Cancelled: nothing happens."""
        await self._waiting.park()

    def complete(self, packets: int) -> None:
        """The controller has completed so many packets."""
        self.outstanding = max(0, self.outstanding - packets)
        self._waiting.unpark_all()

    def wake(self) -> None:
        """Let those that wait look again at what they wait for."""
        self._waiting.unpark_all()

    def end(self) -> None:
        """The connection is gone, or given up."""
        self.open = False
        self.outstanding = 0
        self._waiting.unpark_all()

    def assemble(self, pb_flag: int, data: bytes) -> bytes | bytearray | None:
        """The L2CAP PDU, header included, that is complete with this fragment."""
        if pb_flag != _PB_CONTINUING:
            if len(data) < L2CAP_HEADER:
                return None
            self._pdu_length = L2CAP_HEADER + int.from_bytes(data[:2], "little")
            if len(data) == self._pdu_length:
                return data
            self._pdu = bytearray(data)
        else:
            self._pdu += data
        if len(self._pdu) < self._pdu_length:
            return None
        pdu, self._pdu = self._pdu, bytearray()
        # A fragment that belongs to nothing, or that is too long, spoils its PDU only.
        whole, self._pdu_length = len(pdu) == self._pdu_length, 0
        return pdu if whole and pdu else None


class _AclPacket(hci.HCI_Packet):
    """A data packet that is bytes already, for Bumble's queue."""

    def __init__(self, packet: bytes) -> None:
        self.packet = packet

    def __bytes__(self) -> bytes:
        return self.packet


class RadioHost(Host):
    """Bumble's host, with an `AclChannel` for each LE connection."""

    def __init__(self) -> None:
        super().__init__()
        self.channels: dict[int, AclChannel] = {}
        """By connection handle."""
        self.on_att_pdu: Callable[[int, bytes], None] | None = None
        """Takes (connection handle, ATT PDU)."""

    # --- from the controller ---

    def on_packet(self, packet: bytes) -> None:
        """Data and completions by the short way, all else by Bumble's."""
        if packet[:1] == ACL_DATA and self.ready:
            self._on_acl(packet)
        elif packet[:2] == COMPLETED:
            self._on_completed(packet)
        elif not _says_nothing(packet):
            super().on_packet(packet)

    def on_hci_packet(self, packet: hci.HCI_Packet) -> None:
        """Advertising reports come in without being formatted for the log: they come all the time."""
        if isinstance(packet, ADVERTISING_REPORTS) and self.snooper is None:
            self.on_hci_event_packet(packet)
        else:
            super().on_hci_packet(packet)

    def _on_acl(self, packet: bytes) -> None:
        header, length = struct.unpack("<HH", packet[1:_ACL_HEADER].ljust(4, b"\0"))
        handle = header & 0xFFF
        channel = self.channels.get(handle)
        if channel is None or length != len(packet) - _ACL_HEADER:
            log.debug("ACL packet of %d bytes for handle %d dropped", len(packet), handle)
            return
        pdu = channel.assemble(header >> 12 & 0b11, packet[_ACL_HEADER:])
        if pdu is None:
            return
        cid, payload = int.from_bytes(pdu[2:4], "little"), bytes(pdu[L2CAP_HEADER:])
        if cid == att.ATT_CID and self.on_att_pdu is not None:
            self.on_att_pdu(handle, payload)
        elif (connection := self.connections.get(handle)) is not None:
            _tolerate(handle, self.on_l2cap_pdu, connection, cid, payload)

    def _on_completed(self, packet: bytes) -> None:
        """Pairs of handle and count, after how many there are (Vol 4 Part E, 7.7.19)."""
        pairs = packet[4:]
        for handle, count in struct.iter_unpack("<HH", pairs[: len(pairs) // 4 * 4]):
            queue = self.get_data_packet_queue(handle)
            if queue is not None:
                queue.on_packets_completed(count, handle)
            if handle in self.channels:
                self.channels[handle].complete(count)

    def on_hci_le_connection_complete_event(self, event: Any) -> None:
        """Also what the enhanced events end in."""
        if event.status == hci.HCI_ErrorCode.SUCCESS and self.le_acl_packet_queue is not None:
            queue = self.le_acl_packet_queue
            self.channels[event.connection_handle] = AclChannel(queue.max_packet_size, queue.max_in_flight)
        super().on_hci_le_connection_complete_event(event)

    def on_hci_disconnection_complete_event(self, event: hci.HCI_Disconnection_Complete_Event) -> None:
        """The handle may be another connection's with the next event."""
        if event.status == hci.HCI_ErrorCode.SUCCESS:
            channel = self.channels.pop(event.connection_handle, None)
            if channel is not None:
                channel.end()
        super().on_hci_disconnection_complete_event(event)

    def end_channels(self) -> None:
        """All connections are gone with the controller."""
        channels, self.channels = self.channels, {}
        for channel in channels.values():
            channel.end()

    # --- to the controller ---

    def send_acl_sdu(self, connection_handle: int, sdu: bytes) -> None:
        """An L2CAP PDU, header included, in as many packets as it takes. What Bumble sends comes here too."""
        channel, queue = self.channels.get(connection_handle), self.le_acl_packet_queue
        if channel is None or queue is None:
            return  # it has just ended
        header = connection_handle
        for first in range(0, len(sdu), channel.packet_length):
            data = sdu[first : first + channel.packet_length]
            packet = struct.pack("<BHH", hci.HCI_ACL_DATA_PACKET, header, len(data)) + data
            channel.outstanding += 1
            queue.enqueue(_AclPacket(packet), connection_handle)
            header = connection_handle | _PB_CONTINUING << 12

    def send_hci_packet(self, packet: hci.HCI_Packet) -> None:
        """Data goes out without being formatted for the log."""
        if isinstance(packet, _AclPacket) and self.snooper is None:
            if self.hci_sink is not None:
                self.hci_sink.on_packet(packet.packet)
        else:
            super().send_hci_packet(packet)


class RadioDevice(Device):
    """Bumble's device, with the driver in place of its GATT client and of its memory of advertisers."""

    host: RadioHost

    def __init__(
        self,
        host: RadioHost,
        address: hci.Address,
        on_report: Callable[[Any], None],
        on_att_pdu: Callable[[int, bytes], bool],
    ) -> None:
        """`on_report` takes an advertising report; `on_att_pdu` takes (handle, PDU) and says whether it was
        for it, otherwise Bumble's GATT server gets it.
        """
        self._on_report = on_report
        self._on_att_pdu = on_att_pdu
        super().__init__(name="", address=address, host=host)
        host.on_att_pdu = self.on_gatt_pdu

    def on_advertising_report(self, report: Any) -> None:
        """Bumble would keep something of every address there is, for ever."""
        self._on_report(report)

    def on_smp_pdu(self, connection_handle: int, pdu: bytes) -> None:
        """Who wants to pair, may, within bounds. What belongs to no pairing is dropped: Bumble would begin
        one for it, and two Bumble hosts tell each other for ever that it has failed.
        """
        channel = self.host.channels.get(connection_handle)
        pairing = connection_handle in self.smp_manager.sessions
        if pdu[:1] == bytes([smp.CommandCode.PAIRING_REQUEST]) and pdu[1:2] > MOST_CAPABLE:
            return
        if channel is None or not (pairing or pdu[:1] == bytes([smp.CommandCode.PAIRING_REQUEST])):
            return
        channel.pairing_pdus += 1
        if channel.pairing_pdus <= PAIRING_PDUS:
            super().on_smp_pdu(connection_handle, pdu)

    def on_gatt_pdu(self, connection_handle: int, pdu: bytes) -> None:
        """An ATT PDU; called with handle and bytes, as Bumble's decorated method is."""
        if connection_handle in self.connections and not self._on_att_pdu(connection_handle, pdu):
            _tolerate(connection_handle, super().on_gatt_pdu, connection_handle, pdu)


def _says_nothing(packet: bytes) -> bool:
    """Whether this is an advertising report without data: what an active scan gets from whoever has put all
    into the advertisement itself, so every other report.
    """
    return (
        len(packet) == EMPTY_REPORT
        and packet[:2] == REPORT
        and packet[3:5] == bytes([hci.HCI_LE_ADVERTISING_REPORT_EVENT, 1])
    )


def _tolerate(handle: int, take: Callable[..., object], *args: Any) -> None:
    """Let Bumble take what a peer sent: it raises all kinds of errors for what is malformed."""
    try:
        take(*args)
    except Exception:
        # Not louder: whoever sent it may send it again and again.
        log.debug("what came on handle %d was not understood", handle, exc_info=True)
