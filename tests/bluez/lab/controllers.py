"""Virtual LE controllers for BlueZ: Bumble's, on /dev/vhci, on one link.

    controllers.py N [SOCKET [PORT]]

Each line sent to the Unix socket SOCKET is one command, answered with one line, `ok` or what went wrong:

    add         a new controller appears; the answer is `ok I`
    add I       controller I, which was unplugged, appears again, with the address that it had
    remove I    controller I is unplugged
    out I       controller I goes out of range
    in I        it comes back into range

Controller I has the public address C0:FF:EE:00:00:I. The kernel gives an adapter that appears the lowest
number that is free: at first controller I is hciI.

Each TCP connection to PORT on the loopback is one more controller on the same air, and speaks HCI (H4), for
hosts that are not BlueZ: C0:FF:EE:00:01:00 and so on.

Where Bumble's controller does not do what a real one does, and BlueZ minds, it is put right here.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import sys
from collections.abc import Callable
from typing import Any, cast

from bumble import hci
from bumble.controller import Controller
from bumble.link import LocalLink
from bumble.transport.common import PacketParser

# Seconds until both ends notice that a link is gone. BlueZ asks for 0.42 s to 20 s; the tests don't wait
# longer than they must.
SUPERVISION_TIMEOUT = 0.5
# Seconds until a central notices that its new connection is none: six connection events (Core Specification,
# Vol 6 Part B, 4.5.2), of the 0.03 s to 0.05 s that Linux asks for.
ESTABLISHMENT_TIMEOUT = 0.3
# Seconds that a link-layer request takes on the air: some connection events. When it takes no time,
# bluetoothd 5.66 may see the L2CAP connection before the kernel's event "device connected"; it never signals
# Connected then.
LINK_LAYER_DELAY = 0.05


class Vhci:
    """The controller's end of /dev/vhci: one packet for each read and write.

    A packet is refused when the host has just powered the adapter off; that ends nothing.
    """

    def __init__(self) -> None:
        self.sink: Any = None
        self.fd = os.open("/dev/vhci", os.O_RDWR | os.O_NONBLOCK)
        os.write(self.fd, b"\xff\x00")
        asyncio.get_running_loop().add_reader(self.fd, self._read)

    def set_packet_sink(self, sink: Any) -> None:
        self.sink = sink

    def _read(self) -> None:
        packet = os.read(self.fd, 4096)
        if packet[0] != 0xFF:  # 0xFF tells the number that the kernel gave to the adapter
            self.sink.on_packet(packet)

    def on_packet(self, packet: bytes) -> None:
        with contextlib.suppress(OSError):
            os.write(self.fd, packet)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.fd)
        os.close(self.fd)


class Air(LocalLink):
    """What is between the controllers, with a range. It knows the public addresses, which BlueZ uses."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.out_of_range: set[Controller] = set()

    def _reach(self, sender: Controller | None, receiver: Controller | None) -> Controller | None:
        """The receiver, if it hears the sender."""
        return receiver if sender and receiver and not self.out_of_range & {sender, receiver} else None

    def send_acl_data(
        self, sender_controller: Controller, destination_address: Any, transport: Any, data: bytes
    ) -> None:
        # Bumble names the sender's random address as the source, whichever the connection has.
        receiver = self._reach(sender_controller, self.find_le_controller(destination_address))
        connection = sender_controller.le_connections.get(destination_address)
        if connection and receiver:
            asyncio.get_running_loop().call_soon(
                receiver.on_link_acl_data, connection.self_address, transport, data
            )

    def send_advertising_pdu(self, sender_controller: Controller, packet: Any) -> None:
        for controller in self.controllers - {sender_controller}:
            if self._reach(sender_controller, controller):
                asyncio.get_running_loop().call_soon(controller.on_ll_advertising_pdu, packet)

    def send_ll_control_pdu(self, sender_address: Any, receiver_address: Any, packet: Any) -> None:
        sender = self.find_le_controller(sender_address)
        if receiver := self._reach(sender, self.find_le_controller(receiver_address)):
            asyncio.get_running_loop().call_later(
                LINK_LAYER_DELAY, receiver.on_ll_control_pdu, sender_address, packet
            )

    def not_established(self, central: Any, peripheral: Any) -> None:
        """The central finds that nobody answers on its new connection."""
        controller = self.find_le_controller(central)
        if controller and (connection := controller.le_connections.get(peripheral)):
            asyncio.get_running_loop().call_later(
                ESTABLISHMENT_TIMEOUT, cast(LabController, controller).not_established, connection
            )

    def lose(self, controller: LabController) -> None:
        """Ends the controller's connections as its peers, and it, would see it."""
        for connection in list(controller.le_connections.values()):
            peer = self.find_le_controller(connection.peer_address)
            ends: list[tuple[Any, Any]] = [(controller, connection)]
            if peer and connection.self_address in peer.le_connections:
                ends.append((peer, peer.le_connections[connection.self_address]))
            for end, its_connection in ends:
                asyncio.get_running_loop().call_later(SUPERVISION_TIMEOUT, end.time_out, its_connection)


class LabController(Controller):
    """Bumble's controller, so that Linux gets along with it."""

    # Linux waits for LE Enhanced Connection Complete when a controller has either of these features, and
    # Bumble never sends that event.
    le_features = Controller.le_features & ~(
        hci.LeFeatureMask.LL_PRIVACY | hci.LeFeatureMask.LE_EXTENDED_ADVERTISING
    )
    le_acl_data_packet_length = 251
    supported_max_tx_octets = 251
    supported_max_rx_octets = 251

    def __init__(self, *arguments: Any) -> None:
        self.reported: set[Any] = set()
        super().__init__(*arguments)

    def on_hci_le_set_scan_enable_command(self, command: Any) -> Any:
        self.reported.clear()
        return super().on_hci_le_set_scan_enable_command(command)

    def on_advertising_pdu(self, pdu: Any) -> None:
        # Bumble reports everybody each time, also where the host wants each once (Core Specification, Vol 6
        # Part B, 4.4.3.5).
        enabled = self.le_scan_enable
        self.le_scan_enable = enabled and not (
            self.filter_duplicates and pdu.advertiser_address in self.reported
        )
        try:
            super().on_advertising_pdu(pdu)  # it may also be somebody to connect to
        finally:
            self.le_scan_enable = enabled
        if enabled:
            self.reported.add(pdu.advertiser_address)

    def time_out(self, connection: Any) -> None:
        if connection in self.le_connections.values():
            self.on_le_disconnected(connection, hci.HCI_ErrorCode.CONNECTION_TIMEOUT_ERROR)

    def not_established(self, connection: Any) -> None:
        if connection in self.le_connections.values():
            self.on_le_disconnected(connection, hci.HCI_ErrorCode.CONNECTION_FAILED_TO_BE_ESTABLISHED_ERROR)

    def on_le_connect_ind(self, packet: Any) -> None:
        self.connect_ind = packet
        super().on_le_connect_ind(packet)
        # Of several centrals that answer one advertisement Bumble's first one gets the connection, as it
        # should be, but the others are not told that theirs came to nothing.
        ours = packet.advertiser_address == self.le_legacy_advertiser.address
        if ours and packet.initiator_address not in self.le_connections:
            cast(Air, self.link).not_established(packet.initiator_address, packet.advertiser_address)

    def send_hci_packet(self, packet: Any) -> None:
        if isinstance(packet, hci.HCI_LE_Connection_Complete_Event) and packet.role == hci.Role.PERIPHERAL:
            # Bumble tells the peripheral made-up values, which it would then ask the central to use.
            packet.connection_interval = self.connect_ind.interval
            packet.peripheral_latency = self.connect_ind.latency
            packet.supervision_timeout = self.connect_ind.timeout
        super().send_hci_packet(packet)

    def on_hci_reset_command(self, command: Any) -> Any:
        # Bumble leaves advertising, scanning and connections as they were.
        self.le_legacy_advertiser.stop()
        self.le_scan_enable = False
        self.pending_le_connection = None
        cast(Air, self.link).lose(self)
        self.le_connections.clear()
        return super().on_hci_reset_command(command)

    def on_hci_le_create_connection_cancel_command(self, command: Any) -> Any:
        # Bumble answers, but neither forgets the connection nor says that it came to nothing.
        pending, self.pending_le_connection = self.pending_le_connection, None
        if not pending:
            return hci.HCI_StatusReturnParameters(hci.HCI_ErrorCode.COMMAND_DISALLOWED_ERROR)
        asyncio.get_running_loop().call_soon(
            self.send_hci_packet,
            hci.HCI_LE_Connection_Complete_Event(
                status=hci.HCI_ErrorCode.UNKNOWN_CONNECTION_IDENTIFIER_ERROR,
                connection_handle=0,
                role=hci.Role.CENTRAL,
                peer_address_type=pending.peer_address_type,
                peer_address=pending.peer_address,
                connection_interval=0,
                peripheral_latency=0,
                supervision_timeout=0,
                central_clock_accuracy=0,
            ),
        )
        return super().on_hci_le_create_connection_cancel_command(command)


class Stream:
    """A controller's end of a TCP connection to its host."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    def on_packet(self, packet: bytes) -> None:
        self._writer.write(packet)


class Lab:
    """The controllers, and the commands that change what they see of each other."""

    def __init__(self) -> None:
        self.air = Air()
        self.plugged: list[tuple[Vhci, LabController] | None] = []
        self.hosts = itertools.count()

    def _controller(self, index: int) -> LabController:
        return self._plugged(index)[1]

    def _plugged(self, index: int) -> tuple[Vhci, LabController]:
        if not 0 <= index < len(self.plugged) or (plugged := self.plugged[index]) is None:
            raise ValueError(f"there is no controller {index}")
        return plugged

    def add(self, index: int | None = None) -> str:
        if index is None:
            index = len(self.plugged)
            self.plugged.append(None)
        elif not 0 <= index < len(self.plugged) or self.plugged[index] is not None:
            raise ValueError(f"controller {index} was never there, or still is")
        vhci = Vhci()
        address = f"C0:FF:EE:00:00:{index:02X}/P"
        self.plugged[index] = vhci, LabController(f"lab{index}", vhci, vhci, self.air, address)
        return str(index)

    def remove(self, index: int) -> None:
        vhci, controller = self._plugged(index)
        self.plugged[index] = None
        self._forget(controller)
        vhci.close()

    def _forget(self, controller: LabController) -> None:
        self.air.lose(controller)
        controller.le_legacy_advertiser.stop()
        controller.host = None
        self.air.remove_controller(controller)
        self.air.out_of_range.discard(controller)

    def out_of_range(self, index: int) -> None:
        self.air.out_of_range.add(self._controller(index))
        self.air.lose(self._controller(index))

    def in_range(self, index: int) -> None:
        self.air.out_of_range.discard(self._controller(index))

    def run(self, line: str) -> str:
        """Runs one command; the answer to it."""
        commands: dict[str, Callable[..., str | None]] = {
            "add": self.add,
            "remove": self.remove,
            "out": self.out_of_range,
            "in": self.in_range,
        }
        try:
            name, *arguments = line.split()
            answer = commands[name](*map(int, arguments))
        except (ValueError, TypeError, KeyError) as error:
            return f"{line.strip()!r}: {error!r}"
        return f"ok {answer or ''}".strip()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(f"{self.run(line.decode())}\n".encode())
        writer.close()

    async def serve_host(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = f"C0:FF:EE:00:01:{next(self.hosts) % 256:02X}/P"
        controller = LabController("host", None, Stream(writer), self.air, address)
        parser = PacketParser(controller)
        try:
            while packets := await reader.read(65536):
                parser.feed_data(packets)
        finally:
            self._forget(controller)
            writer.close()


async def main(count: int, path: str | None = None, port: str | None = None) -> None:
    lab = Lab()
    for _ in range(count):
        lab.add()
    if port:
        await asyncio.start_server(lab.serve_host, "127.0.0.1", int(port))
    if path:
        await asyncio.start_unix_server(lab.serve, path)
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    logging.basicConfig(level=os.environ.get("LOGLEVEL", "WARNING"))
    asyncio.run(main(int(sys.argv[1]), *sys.argv[2:]))
