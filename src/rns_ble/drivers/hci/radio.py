"""The air between virtual controllers of one process: who hears whom, how strong, how late.

Bumble's `LocalLink` has no range, no time and no signal strength, looks controllers up by an address that
several of them may share, and always names the sender's random address as the source of data. Here an
advertisement goes to whoever is in range, and a connection knows its other end (`AirConnection`).

Only legacy advertising (ADV_IND), which is what BLE Reticulum advertises with.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final

from bumble import hci, ll
from bumble.controller import Controller
from bumble.link import LocalLink

from rns_ble.protocol.advertisement import normalise_address

if TYPE_CHECKING:
    from rns_ble.drivers.hci.controller import RadioController

DEFAULT_RSSI: Final = -50
"""dBm, between any two controllers: some metres. Bumble's constant."""

CONNECTIONS_PER_CONTROLLER: Final = 20
"""As many as good dongles hold (nRF52 with Zephyr: 20); Android phones hold 7 or more."""


class VirtualRadio(LocalLink):
    """The shared air of virtual controllers. Change any public attribute at any time.

    Controllers are named by the address they advertise and connect from, in any form that
    `normalise_address` takes. Deterministic: the same calls at the same times give the same radio.
    """

    def __init__(
        self, *, latency: float = 0.0, loss: float = 0.0, rssi: int = DEFAULT_RSSI, seed: int = 0
    ) -> None:
        """`latency`: seconds from one controller to another. `loss`: the share, 0 to 1, of transmissions that
        is lost; the Link Layer repeats each after a connection interval, and gives the connection up when
        the supervision timeout is reached. `rssi`: dBm of pairs that `set_rssi` does not name.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.latency = latency
        self.loss = loss
        self.rssi = rssi
        self.connections_per_controller = CONNECTIONS_PER_CONTROLLER
        self.deaf: set[str] = set()
        """Addresses that are heard but hear no CONNECT_IND, as with a transmitter weaker than the peer's."""
        # In the order of their arrival: a set's order would change from run to run.
        self._attached: dict[RadioController, None] = {}
        self._rssis: dict[frozenset[str], int] = {}
        self._apart: set[frozenset[str]] = set()
        self._away: set[str] = set()
        self._random = random.Random(seed)

    # --- what tests and demos set ---

    def set_rssi(self, one: str, other: str, rssi: int) -> None:
        """How strong two addresses hear each other, in dBm."""
        self._rssis[_pair(one, other)] = rssi

    def separate(self, one: str, other: str | None = None) -> None:
        """Take two addresses out of each other's range, or one out of everybody's.

        Their connections are lost after their supervision timeout, unless `unite` comes before.
        """
        if other is None:
            self._away.add(normalise_address(one))
        else:
            self._apart.add(_pair(one, other))
        for connection in self._connections():
            if not self.in_contact(connection.pair):
                connection.watch()

    def unite(self, one: str, other: str | None = None) -> None:
        """Undo `separate` with the same arguments. What waited on the connections then arrives."""
        if other is None:
            self._away.discard(normalise_address(one))
        else:
            self._apart.discard(_pair(one, other))
        for connection in self._connections():
            if self.in_contact(connection.pair):
                connection.regain()

    def unplug(self, address: str) -> None:
        """Pull a controller out: its host loses the transport, its peers their connections, in time.

        Raises `KeyError` when no controller has the address.
        """
        wanted = normalise_address(address)
        for controller in self._attached:
            if controller.air_address == wanted:
                controller.unplug()
                return
        raise KeyError(address)

    # --- what they look at ---

    @property
    def connections(self) -> list[tuple[str, str]]:
        """Connections that stand: (address of the central, address of the peripheral)."""
        return [
            (connection.self_address.to_string(False), connection.peer_address.to_string(False))
            for connection in self._connections()
            if connection.role == hci.Role.CENTRAL
        ]

    @property
    def dialling(self) -> list[str]:
        """Addresses of the controllers that wait for an advertisement in order to connect."""
        return [
            controller.air_address
            for controller in self._attached
            if controller.pending_le_connection is not None
        ]

    @property
    def addresses(self) -> list[str]:
        """Addresses of all controllers, in the order of their arrival."""
        return [controller.air_address for controller in self._attached]

    def in_range(self, one: str, other: str) -> bool:
        """Whether two addresses hear each other."""
        return self.in_contact(_pair(one, other))

    # --- for controllers and connections ---

    def add_controller(self, controller: Controller) -> None:
        """Called by Bumble's constructor of a controller."""
        super().add_controller(controller)
        self._attached[controller] = None  # type: ignore[index]  # nothing else is ever added

    def remove_controller(self, controller: Controller) -> None:
        """Idempotent."""
        if controller in self.controllers:
            super().remove_controller(controller)
            del self._attached[controller]  # type: ignore[arg-type]

    def in_contact(self, pair: frozenset[str]) -> bool:
        """Whether the two normalised addresses hear each other."""
        return pair not in self._apart and not (self._away and pair & self._away)

    def repeats(self, most: int) -> int | None:
        """How often a packet is lost before it arrives; None when that is `most` times or more."""
        for times in range(most):
            if self._random.random() >= self.loss:
                return times
        return None

    def advertise(self, advertiser: RadioController) -> None:
        """One advertising event: whoever listens and is in range hears it."""
        address = advertiser.le_legacy_advertiser.address.to_string(False)
        for controller in list(self._attached):
            if controller is not advertiser and controller.is_listening:
                pair = frozenset((address, controller.air_address))
                if self.in_contact(pair):
                    controller.hear(advertiser, self._rssis.get(pair, self.rssi))

    def send_advertising_pdu(self, sender_controller: Controller, packet: ll.AdvertisingPdu) -> None:
        """Not on this air: Bumble's own advertiser and its extended advertising."""

    def rssi_of(self, connection: Any) -> int:
        """What the Read RSSI command answers for a connection."""
        return self._rssis.get(connection.pair, self.rssi)

    def _connections(self) -> list[Any]:
        return [
            connection
            for controller in self._attached
            for connection in list(controller.le_connections.values())
        ]


def _pair(one: str, other: str) -> frozenset[str]:
    return frozenset((normalise_address(one), normalise_address(other)))
