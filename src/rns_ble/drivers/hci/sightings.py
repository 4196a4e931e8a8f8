"""What is remembered of the addresses that advertise our service.

The type, which a connect needs, and what advertisement and scan response have said together.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from rns_ble.protocol.advertisement import known_rssi, normalise_address

if TYPE_CHECKING:
    from bumble import hci

    from rns_ble.drivers.hci.advertising_data import Report

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
    manufacturer_data: Mapping[int, bytes] = field(default_factory=dict)


class Sightings:
    """By normalised address; the one that was not heard for longest is forgotten first."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Sighting] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def add(self, address: hci.Address, rssi: int, said: Report) -> tuple[str, Sighting]:
        """A report that carries our service. `rssi` as the controller gave it."""
        text = normalise_address(address.to_string(False))
        sighting = self._known.setdefault(text, Sighting(address))
        self._known.move_to_end(text)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        sighting.address, sighting.rssi = address, known_rssi(rssi)
        self._complete(sighting, said)
        return text, sighting

    def complete(self, address: hci.Address, said: Report) -> tuple[str, Sighting] | None:
        """The other half: the scan response may bring a name or flags, and not the service again.

        None when that is no news.
        """
        text = normalise_address(address.to_string(False))
        sighting = self._known.get(text)
        if sighting is None or not self._complete(sighting, said):
            return None
        return text, sighting

    def _complete(self, sighting: Sighting, said: Report) -> bool:
        known = sighting.name, sighting.manufacturer_data
        sighting.name = said.name or sighting.name
        sighting.manufacturer_data = said.manufacturer_data or sighting.manufacturer_data
        return known != (sighting.name, sighting.manufacturer_data)

    def address(self, text: str) -> hci.Address | None:
        """The address with its type."""
        sighting = self._known.get(text)
        return None if sighting is None else sighting.address

    def rssi(self, text: str) -> int | None:
        """How strong it was heard last, in dBm."""
        sighting = self._known.get(text)
        return None if sighting is None else sighting.rssi
