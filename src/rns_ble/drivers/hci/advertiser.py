"""Legacy advertising of a virtual controller."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bumble import hci
from bumble.controller import LegacyAdvertiser

if TYPE_CHECKING:
    from rns_ble.drivers.hci.controller import RadioController

ADVERTISING_UNIT: Final = 0.000625
"""Seconds (Vol 4 Part E, 7.8.5)."""
SHORTEST_ADVERTISING: Final = 0.02
"""Seconds between two advertising events of a connectable advertiser, at least (Vol 6 Part B, 4.4.2.2)."""


class RadioAdvertiser(LegacyAdvertiser):
    """Legacy advertising in the time that HCI means."""

    controller: RadioController

    @property
    def interval(self) -> float:
        """Seconds between two advertising events. The 0 to 10 ms of random delay are left out."""
        return max(self.advertising_interval_min * ADVERTISING_UNIT, SHORTEST_ADVERTISING)

    def start(self) -> None:
        """Advertise at once, and then at the interval."""
        self.stop()
        self.enabled = True
        self.timer_handle = self.controller.loop.call_soon(self._advertise)

    def _advertise(self) -> None:
        kind = hci.HCI_LE_Set_Advertising_Parameters_Command.AdvertisingType.ADV_IND
        if self.advertising_type == kind:
            self.controller.radio.advertise(self.controller)
        if self.enabled:
            self.timer_handle = self.controller.loop.call_later(self.interval, self._advertise)
