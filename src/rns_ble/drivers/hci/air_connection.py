"""One end of a connection through the virtual air, and what is on its way from it to the other end.

1. What is put in comes out at the other end in the same order, link-layer control and data in one queue:
   an LL_TERMINATE_IND never overtakes a value.
2. Nothing is lost while the connection lasts. On a real link the Link Layer repeats a packet until it is
   acknowledged or the connection is lost (Core Specification, Vol 6 Part B, 4.5.9), so loss costs time, and
   what is sent out of range waits.
3. A data packet is completed, which frees its place in the sending controller, when it has arrived. Bumble
   completes it as soon as it takes it, and so has no limit to what is on its way.
4. An end that hears no more of the other ends after its supervision timeout, whatever became of the other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from bumble import hci, ll
from bumble.controller import Connection
from bumble.core import PhysicalTransport

if TYPE_CHECKING:
    from rns_ble.drivers.hci.controller import RadioController
    from rns_ble.drivers.hci.radio import VirtualRadio

INTERVAL_UNIT: Final = 0.00125
"""Seconds; of a connection interval in HCI (Vol 4 Part E, 7.8.12)."""
TIMEOUT_UNIT: Final = 0.01
"""Seconds; of a supervision timeout in HCI (same section)."""

MOST_ON_THEIR_WAY: Final = 1024
"""Packets from one end. A host that minds flow control has no more than its controller has buffers, 64."""

PB_FIRST: Final = 0b10
"""Packet boundary flag of the first fragment of an L2CAP PDU, controller to host (Vol 4 Part E, 5.4.2)."""
PB_CONTINUING: Final = 0b01


class AirConnection(Connection):
    """Bumble's connection, with its own way to the other end instead of a look-up by address."""

    controller: RadioController

    def __init__(
        self,
        controller: RadioController,
        role: hci.Role,
        *,
        self_address: hci.Address,
        peer_address: hci.Address,
        interval: int,
        supervision_timeout: int,
    ) -> None:
        """`interval` and `supervision_timeout` in HCI's units."""
        super().__init__(
            controller=controller,
            handle=controller.allocate_connection_handle(),
            role=role,
            self_address=self_address,
            peer_address=peer_address,
            link=controller.radio,
            transport=PhysicalTransport.LE,
            link_type=hci.HCI_Connection_Complete_Event.LinkType.ACL,
        )
        self.radio: VirtualRadio = controller.radio
        self.interval = interval * INTERVAL_UNIT
        self.supervision_timeout = supervision_timeout * TIMEOUT_UNIT
        self.pair = frozenset((self_address.to_string(False), peer_address.to_string(False)))
        self.alive = True
        self.far: AirConnection | None = None
        """The other end; none when the CONNECT_IND was not heard."""
        self._on_its_way: deque[tuple[float, ll.ControlPdu | tuple[int, bytes]]] = deque()
        self._arrival: asyncio.TimerHandle | None = None
        self._supervision: asyncio.TimerHandle | None = None

    @property
    def is_heard(self) -> bool:
        """Whether the other end would acknowledge what is sent now."""
        return self.far is not None and self.far.alive and self.radio.in_contact(self.pair)

    # --- sending ---

    def on_hci_acl_data_packet(self, packet: hci.HCI_AclDataPacket) -> None:
        """The host's data: a fragment of an L2CAP PDU, sent on as it is."""
        self.send_acl(packet.pb_flag, packet.data)

    def send_acl(self, pb_flag: int, data: bytes) -> None:
        """`pb_flag` as the host set it: 0b01 for a continuing fragment, all else begins a PDU.

        Raises `ValueError` for a host that does not mind flow control: it would fill the memory.
        """
        if len(self._on_its_way) >= MOST_ON_THEIR_WAY:
            raise ValueError(f"a host has {MOST_ON_THEIR_WAY} packets on their way: it minds no flow control")
        self._put((PB_CONTINUING if pb_flag == PB_CONTINUING else PB_FIRST, data))

    def send_ll_control_pdu(self, packet: ll.ControlPdu) -> None:
        """Link-layer control, in order with the data."""
        self._put(packet)

    def _put(self, pdu: ll.ControlPdu | tuple[int, bytes]) -> None:
        due = 0.0  # at once, or as soon as all before it has arrived
        if self.radio.latency or self.radio.loss:
            repeats = self.radio.repeats(round(self.supervision_timeout / self.interval))
            if repeats is None:
                self.watch()
                if self.far is not None:
                    self.far.watch()
                return
            due = self.controller.loop.time() + self.radio.latency + repeats * self.interval
        self._on_its_way.append((due, pdu))
        if len(self._on_its_way) == 1:
            self.pump()

    # --- arriving ---

    def pump(self) -> None:
        """Let arrive what is due, as far as the other end hears it and has room."""
        far = self.far
        while self._on_its_way and far is not None and far.alive:
            if not self.radio.in_contact(self.pair) or far.controller.stalled:
                return  # `unite` or `resume` will pump again
            due, pdu = self._on_its_way[0]
            if due:
                wait = due - far.controller.loop.time()
                if wait > 0:
                    if self._arrival is None:
                        self._arrival = far.controller.loop.call_later(wait, self._arrive)
                    return
            self._on_its_way.popleft()
            if isinstance(pdu, tuple):
                far.controller.on_air_data(far, *pdu)
                if self.alive:
                    self.controller.on_packet_completed(self)
            else:
                far.controller.on_ll_control_pdu(self.self_address, pdu)

    def _arrive(self) -> None:
        self._arrival = None
        self.pump()

    # --- ending ---

    def watch(self) -> None:
        """The other end is not heard any more: end after the supervision timeout, unless it comes back."""
        if self.alive and self._supervision is None:
            self._supervision = self.controller.loop.call_later(self.supervision_timeout, self._time_out)

    def regain(self) -> None:
        """The other end is in range again."""
        if self.far is not None and self.far.alive:
            self._forget_supervision()
            self.pump()

    def _time_out(self) -> None:
        self._supervision = None
        self.controller.on_le_disconnected(self, hci.HCI_ErrorCode.CONNECTION_TIMEOUT_ERROR)

    def end(self) -> None:
        """Called when this end is gone; the other learns it from an LL_TERMINATE_IND, or from silence."""
        self.alive = False
        self._forget_supervision()
        if self.far is not None:
            self.far.watch()

    def _forget_supervision(self) -> None:
        if self._supervision is not None:
            self._supervision.cancel()
            self._supervision = None
