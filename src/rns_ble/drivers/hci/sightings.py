"""What is remembered of the addresses that advertise our service: the type, which a connect needs."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rns_ble.protocol.advertisement import known_rssi, normalise_address

if TYPE_CHECKING:
    from bumble import hci

REMEMBERED: Final = 512
"""Addresses; several times what the mesh remembers (100), so that none is forgotten here first."""


@dataclass(slots=True)
class Sighting:
    """The last one of an address."""

    address: hci.Address
    """With its type."""
    rssi: int | None = None
    """dBm."""
    name: str | None = None


class Sightings:
    """By normalised address; the one that was not heard for longest is forgotten first."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Sighting] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def add(self, address: hci.Address, rssi: int, name: str | None) -> tuple[str, Sighting]:
        """`rssi` as the controller gave it; without a name the address keeps the one it had."""
        text = normalise_address(address.to_string(False))
        sighting = self._known.setdefault(text, Sighting(address))
        self._known.move_to_end(text)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        sighting.address, sighting.rssi = address, known_rssi(rssi)
        sighting.name = name or sighting.name
        return text, sighting

    def address(self, text: str) -> hci.Address | None:
        """The address with its type."""
        sighting = self._known.get(text)
        return None if sighting is None else sighting.address

    def rssi(self, text: str) -> int | None:
        """How strong it was heard last, in dBm."""
        sighting = self._known.get(text)
        return None if sighting is None else sighting.rssi
