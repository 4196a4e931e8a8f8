"""A virtual LE controller: Bumble's, with its faults repaired, each in one place.

Seen in Bumble 0.0.236; the tests name each fault and fail without its repair.

- An advertising interval is taken for milliseconds; its unit is 0.625 ms (see `RadioAdvertiser`).
- A scan response carries the advertising data; every signal strength is -50 dBm.
- HCI_Reset leaves advertising, scanning, dials and connections as they were.
- LE Create Connection Cancel is answered and ignored.
- LE Create Connection to a connected address, and two that dial each other, end in a dial that never ends.
- A central is connected even when the advertiser did not hear it.
- The peripheral's host is told made-up connection parameters.
- Disconnect with an unknown handle is never completed, and otherwise at once, also out of range.
- Read RSSI is announced and not implemented, nor is the filter of duplicate reports.
- ACL data is completed when taken, not when it has arrived (see `AirConnection`).
- Data packets are 27 bytes, where everything of the last ten years does 251.
"""

from __future__ import annotations

import asyncio
import struct
from collections import Counter, deque
from typing import TYPE_CHECKING, Final, cast

from bumble import hci, ll
from bumble.controller import Connection, Controller

from rns_ble.drivers.hci.advertiser import RadioAdvertiser
from rns_ble.drivers.hci.air_connection import AirConnection

if TYPE_CHECKING:
    from bumble.transport.common import TransportSink

    from rns_ble.drivers.asyncio_loop import AsyncioLoop
    from rns_ble.drivers.hci.radio import VirtualRadio

ACL_LENGTH: Final = 251
"""Bytes of data in one link-layer packet with the Data Length Extension (Vol 6 Part B, 2.4)."""

ESTABLISHMENT_INTERVALS: Final = 6
"""Connection intervals without a packet after which a new connection counts as never established
(Vol 6 Part B, 4.5.2)."""

ACTIVE_SCANNING: Final = 1

DUPLICATES_KNOWN: Final = 1024
"""Reports whose duplicates a controller knows. Dongles know some tens; more are reported again."""

_COMPLETED_PER_EVENT: Final = 60
"""Handles in one Number Of Completed Packets event: 4 bytes each, in the 255 that an event has."""


class RadioController(Controller):
    """A controller on a `VirtualRadio`. Made where an asyncio loop is current, and tied to that loop.

    Everything for the host goes through one queue, delivered in order by one callback of the loop.
    """

    # A host that sees extended advertising or privacy uses commands that this radio does not do.
    le_features = Controller.le_features & ~(
        hci.LeFeatureMask.LL_PRIVACY
        | hci.LeFeatureMask.LE_EXTENDED_ADVERTISING
        | hci.LeFeatureMask.LE_PERIODIC_ADVERTISING
    )
    le_acl_data_packet_length = ACL_LENGTH
    supported_max_tx_octets = ACL_LENGTH
    supported_max_rx_octets = ACL_LENGTH
    suggested_max_tx_octets = ACL_LENGTH

    le_legacy_advertiser: RadioAdvertiser

    def __init__(self, radio: VirtualRadio, name: str = "virtual controller") -> None:
        self.radio = radio
        self.loop = cast("AsyncioLoop", asyncio.get_running_loop())
        super().__init__(name, link=radio)
        self.le_legacy_advertiser = RadioAdvertiser(self)
        self.stalled = False
        """Whether the host has no room: then data waits on the air, as with a receiver that answers NACK."""
        self._for_host: deque[bytes] = deque()
        self._completed: Counter[int] = Counter()
        self._reported: set[tuple[hci.Address, int]] = set()
        """Whose reports of which kind the host has had in this scan."""
        self._delivery: asyncio.Handle | None = None

    @property
    def air_address(self) -> str:
        """The address it is known by on the air: the random one when the host set one."""
        own = self.random_address if any(bytes(self.random_address)) else self.public_address
        return own.to_string(False)

    @property
    def is_listening(self) -> bool:
        """Whether an advertisement matters to it."""
        return self.le_scan_enable or self.pending_le_connection is not None

    @property
    def is_full(self) -> bool:
        """Whether it has as many connections as it can."""
        return len(self.le_connections) >= self.radio.connections_per_controller

    # --- to and from the host ---

    def on_packet(self, packet: bytes) -> None:
        """From the host. Data by a short way; the long one formats each packet for a log nobody reads."""
        if packet[0] != hci.HCI_ACL_DATA_PACKET:
            super().on_packet(packet)
            return
        header, length = struct.unpack_from("<HH", packet, 1)
        if length != len(packet) - 5 or length > self.le_acl_data_packet_length:
            raise ValueError(f"ACL data packet of {len(packet) - 5} bytes says {length}")
        connection = self.find_le_connection_by_handle(header & 0xFFF)
        if connection is not None:  # else: it has just ended
            cast("AirConnection", connection).send_acl(header >> 12 & 0b11, packet[5:])

    def send_hci_packet(self, packet: hci.HCI_Packet) -> None:
        """An event for the host."""
        self._to_host(bytes(packet))

    def on_air_data(self, connection: AirConnection, pb_flag: int, data: bytes) -> None:
        """Data from the air for the host."""
        header = struct.pack("<BHH", hci.HCI_ACL_DATA_PACKET, pb_flag << 12 | connection.handle, len(data))
        self._to_host(header + data)

    def on_packet_completed(self, connection: AirConnection) -> None:
        """A data packet of the host's has arrived at the other end."""
        self._completed[connection.handle] += 1
        self._schedule()

    def _to_host(self, packet: bytes) -> None:
        self._for_host.append(packet)
        self._schedule()

    def _schedule(self) -> None:
        if self._delivery is None and self.hci_sink is not None and self.loop.is_running():
            self._delivery = self.loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._delivery = None
        packets, self._for_host = self._for_host, deque()
        completed, self._completed = list(self._completed.items()), Counter()
        for first in range(0, len(completed), _COMPLETED_PER_EVENT):
            handles, counts = zip(*completed[first : first + _COMPLETED_PER_EVENT], strict=True)
            self._hand_over(bytes(hci.HCI_Number_Of_Completed_Packets_Event(list(handles), list(counts))))
        for packet in packets:
            self._hand_over(packet)

    def _hand_over(self, packet: bytes) -> None:
        if self.hci_sink is None:
            return
        try:
            self.hci_sink.on_packet(packet)
        except Exception as error:  # noqa: BLE001  (reported; one packet must not cost those after it)
            self.loop.call_exception_handler({"message": "host failed on a packet", "exception": error})

    def resume(self) -> None:
        """The host has room again."""
        self.stalled = False
        for connection in list(self.le_connections.values()):
            far = cast("AirConnection", connection).far
            if far is not None:
                far.pump()

    # --- life ---

    def detach(self) -> None:
        """Leave the radio. Peers lose their connections after the supervision timeout. Idempotent."""
        self._forget_everything()
        self.hci_sink = None
        self.radio.remove_controller(self)

    def unplug(self) -> None:
        """Leave the radio, and let the host see that the transport is gone."""
        host: TransportSink | None = self.hci_sink
        self.detach()
        if not self.terminated.done():
            self.terminated.set_result(None)
        lost = getattr(host, "on_transport_lost", None)
        if lost is not None:
            lost()

    def _forget_everything(self) -> None:
        self.le_legacy_advertiser.stop()
        self.le_scan_enable = False
        self.pending_le_connection = None
        for connection in self.le_connections.values():
            cast("AirConnection", connection).end()
        self.le_connections.clear()
        self._for_host.clear()
        self._completed.clear()

    def on_hci_reset_command(self, command: hci.HCI_Reset_Command) -> hci.HCI_StatusReturnParameters:
        """Back to the state after power-on (Vol 4 Part E, 7.3.2), without events for what ends by it."""
        self._forget_everything()
        self.random_address = hci.Address.ANY_RANDOM
        return super().on_hci_reset_command(command)

    # --- advertisements ---

    def hear(self, advertiser: RadioController, rssi: int) -> None:
        """An advertisement, in dBm."""
        source = advertiser.le_legacy_advertiser
        if not source.enabled:
            return  # another central was faster on this advertising event; there will be others
        if self.le_scan_enable and not self.stalled:
            event = hci.HCI_LE_Advertising_Report_Event
            self._report(event.EventType.ADV_IND, source.address, source.advertising_data, rssi)
            if self.le_scan_type == ACTIVE_SCANNING:
                self._report(event.EventType.SCAN_RSP, source.address, source.scan_response_data, rssi)
        pending = self.pending_le_connection
        if pending is not None and pending.peer_address == source.address:
            self._initiate(advertiser)

    def on_hci_le_set_scan_enable_command(
        self, command: hci.HCI_LE_Set_Scan_Enable_Command
    ) -> hci.HCI_StatusReturnParameters:
        """What is a duplicate counts from here (Vol 6 Part B, 4.4.3.5)."""
        self._reported.clear()
        return super().on_hci_le_set_scan_enable_command(command)

    def _report(self, kind: int, address: hci.Address, data: bytes, rssi: int) -> None:
        if self.filter_duplicates:
            if (address, kind) in self._reported:
                return
            if len(self._reported) >= DUPLICATES_KNOWN:
                self._reported.clear()
            self._reported.add((address, kind))
        report = hci.HCI_LE_Advertising_Report_Event.Report(
            event_type=kind, address_type=address.address_type, address=address, data=data, rssi=rssi
        )
        self.send_hci_packet(hci.HCI_LE_Advertising_Report_Event([report]))

    # --- connections ---

    def _initiate(self, advertiser: RadioController) -> None:
        """Answer an advertisement with CONNECT_IND, which says nothing yet about being heard."""
        pending, self.pending_le_connection = self.pending_le_connection, None
        assert pending is not None
        if isinstance(pending, hci.HCI_LE_Extended_Create_Connection_Command):
            interval, timeout = pending.connection_interval_maxs[0], pending.supervision_timeouts[0]
        else:
            interval, timeout = pending.connection_interval_max, pending.supervision_timeout
        is_public = pending.own_address_type == hci.OwnAddressType.PUBLIC
        own = self.public_address if is_public else self.random_address
        connection = AirConnection(
            self,
            hci.Role.CENTRAL,
            self_address=own,
            peer_address=pending.peer_address,
            interval=interval,
            supervision_timeout=timeout,
        )
        self._connected(connection, interval, timeout)
        if not advertiser.on_connect_ind(connection, interval, timeout):
            wait = ESTABLISHMENT_INTERVALS * connection.interval
            self.loop.call_later(wait, self._not_established, connection)

    def _not_established(self, connection: AirConnection) -> None:
        reason = hci.HCI_ErrorCode.CONNECTION_FAILED_TO_BE_ESTABLISHED_ERROR
        self.on_le_disconnected(connection, reason)

    def on_connect_ind(self, theirs: AirConnection, interval: int, timeout: int) -> bool:
        """CONNECT_IND from a central. False: not heard, or not taken."""
        central = theirs.self_address
        if self.air_address in self.radio.deaf or self.is_full or central in self.le_connections:
            return False
        ours = AirConnection(
            self,
            hci.Role.PERIPHERAL,
            self_address=theirs.peer_address,
            peer_address=central,
            interval=interval,
            supervision_timeout=timeout,
        )
        ours.far, theirs.far = theirs, ours
        self.le_legacy_advertiser.stop()
        self._connected(ours, interval, timeout)
        pending = self.pending_le_connection
        if pending is not None and pending.peer_address == central:
            # Both dialled each other, and the other was faster.
            self._end_dial(hci.HCI_ErrorCode.CONNECTION_ALREADY_EXISTS_ERROR)
        return True

    def _connected(self, connection: AirConnection, interval: int, timeout: int) -> None:
        self.le_connections[connection.peer_address] = connection
        self.send_hci_packet(
            hci.HCI_LE_Connection_Complete_Event(
                status=hci.HCI_ErrorCode.SUCCESS,
                connection_handle=connection.handle,
                role=connection.role,
                peer_address_type=connection.peer_address.address_type,
                peer_address=connection.peer_address,
                connection_interval=interval,
                peripheral_latency=0,
                supervision_timeout=timeout,
                central_clock_accuracy=0,
            )
        )

    def _end_dial(self, status: hci.HCI_ErrorCode) -> None:
        pending, self.pending_le_connection = self.pending_le_connection, None
        assert pending is not None
        self.send_hci_packet(
            hci.HCI_LE_Connection_Complete_Event(
                status=status,
                connection_handle=0,
                role=hci.Role.CENTRAL,
                peer_address_type=pending.peer_address_type,
                peer_address=pending.peer_address,
                connection_interval=0,
                peripheral_latency=0,
                supervision_timeout=0,
                central_clock_accuracy=0,
            )
        )

    def on_hci_le_create_connection_command(self, command: hci.HCI_LE_Create_Connection_Command) -> None:
        """Refused for an address that is connected, and when there is no place (Vol 4 Part E, 7.8.12)."""
        if command.peer_address in self.le_connections:
            status = hci.HCI_ErrorCode.CONNECTION_ALREADY_EXISTS_ERROR
            self._send_hci_command_status(status, command.op_code)
        elif self.is_full:
            status = hci.HCI_ErrorCode.CONNECTION_LIMIT_EXCEEDED_ERROR
            self._send_hci_command_status(status, command.op_code)
        else:
            super().on_hci_le_create_connection_command(command)

    def on_hci_le_set_advertising_enable_command(
        self, command: hci.HCI_LE_Set_Advertising_Enable_Command
    ) -> hci.HCI_StatusReturnParameters:
        """Refused where nobody could connect any more (Vol 4 Part E, 7.8.9)."""
        if command.advertising_enable and self.is_full:
            return hci.HCI_StatusReturnParameters(hci.HCI_ErrorCode.CONNECTION_LIMIT_EXCEEDED_ERROR)
        return super().on_hci_le_set_advertising_enable_command(command)

    def on_hci_le_create_connection_cancel_command(
        self, command: hci.HCI_LE_Create_Connection_Cancel_Command
    ) -> hci.HCI_StatusReturnParameters:
        """Ends the dial with an event (Vol 4 Part E, 7.8.13)."""
        if self.pending_le_connection is None:
            return hci.HCI_StatusReturnParameters(hci.HCI_ErrorCode.COMMAND_DISALLOWED_ERROR)
        # The command completes first, and the event comes after.
        cancelled = hci.HCI_ErrorCode.UNKNOWN_CONNECTION_IDENTIFIER_ERROR
        self.loop.call_soon(self._end_cancelled_dial, self.pending_le_connection, cancelled)
        return super().on_hci_le_create_connection_cancel_command(command)

    def _end_cancelled_dial(self, dial: object, status: hci.HCI_ErrorCode) -> None:
        if self.pending_le_connection is dial:
            self._end_dial(status)

    def on_hci_disconnect_command(self, command: hci.HCI_Disconnect_Command) -> None:
        """Refused for a handle of no connection (Vol 4 Part E, 7.1.6).

        The connection ends when the peer has acknowledged it, or when it has been silent for the
        supervision timeout (Vol 6 Part B, 5.1.6).
        """
        connection = cast(
            "AirConnection | None", self.find_le_connection_by_handle(command.connection_handle)
        )
        if connection is None:
            status = hci.HCI_ErrorCode.UNKNOWN_CONNECTION_IDENTIFIER_ERROR
            self._send_hci_command_status(status, command.op_code)
        elif connection.is_heard:
            super().on_hci_disconnect_command(command)
        else:
            self._send_hci_command_status(hci.HCI_COMMAND_STATUS_PENDING, command.op_code)
            connection.send_ll_control_pdu(ll.TerminateInd(command.reason))
            connection.watch()

    def on_le_disconnected(self, connection: Connection, reason: int) -> None:
        """A connection has ended on this side."""
        ours = cast("AirConnection", connection)
        if ours.alive:
            ours.end()
            super().on_le_disconnected(connection, reason)

    def on_hci_read_rssi_command(
        self, command: hci.HCI_Read_RSSI_Command
    ) -> hci.HCI_Read_RSSI_ReturnParameters:
        """Vol 4 Part E, 7.5.4."""
        connection = self.find_le_connection_by_handle(command.handle)
        if connection is None:
            unknown = hci.HCI_ErrorCode.UNKNOWN_CONNECTION_IDENTIFIER_ERROR
            return hci.HCI_Read_RSSI_ReturnParameters(status=unknown, handle=command.handle, rssi=127)
        return hci.HCI_Read_RSSI_ReturnParameters(
            status=hci.HCI_ErrorCode.SUCCESS,
            handle=command.handle,
            rssi=self.radio.rssi_of(connection),
        )
