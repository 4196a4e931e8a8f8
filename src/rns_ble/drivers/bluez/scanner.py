"""Discovery on one adapter, and who was sighted.

BlueZ counts discoveries by D-Bus connection: ours ends with ours, and what other programs discover goes on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import trio
from dbus_next import Variant

from rns_ble import quiet
from rns_ble.drivers.base import AdapterUnavailable, BLEDevice
from rns_ble.drivers.bluez.adapter import is_powered
from rns_ble.drivers.bluez.bus import BLUEZ, Refused
from rns_ble.drivers.bluez.tree import ADAPTER, DEVICE
from rns_ble.protocol.advertisement import known_rssi, normalise_address

if TYPE_CHECKING:
    from rns_ble.drivers.bluez.bus import Bus
    from rns_ble.drivers.bluez.links import Links
    from rns_ble.drivers.bluez.tree import Properties, Tree

log = quiet.logger(__name__)

UNDER_WAY: Final = frozenset({f"{BLUEZ}.Error.InProgress", f"{BLUEZ}.Error.NotReady", f"{BLUEZ}.Error.Busy"})
"""What BlueZ answers while an earlier change of the same thing is under way."""

RETRY_INTERVAL: Final = 0.05
"""Seconds between two tries at what is under way: BlueZ has no signal for it."""

PATIENCE: Final = 20.0
"""Seconds before a discovery that can't be changed counts as a fault. When bluetoothd was killed while it
looked for devices, the kernel goes on with that for 10.24 s, and begins nothing new (Core Specification, Vol
3 Part C, Appendix A, TGAP(gen_disc_scan_min))."""


class Scanner:
    """Wanted by the mesh, paused while a connect is under way, needed by a connect that lacks its device."""

    def __init__(
        self,
        bus: Bus,
        tree: Tree,
        adapter: str,
        nursery: trio.Nursery,
        links: Links,
        sight: Callable[[BLEDevice], None],
    ) -> None:
        """`adapter`: its object path. `sight` is told of each sighting, `links` of its signal strength."""
        self._nursery = nursery
        self.wanted = False
        self._bus = bus
        self._tree = tree
        self._adapter = adapter
        self._links = links
        self._sight = sight
        self._service = ""
        self._running: bool | None = False
        """None: a change was refused, or cancelled before its answer came, so that it may be either."""
        self._pauses = 0
        self._needs = 0
        self._changing = trio.Lock()
        # Device paths. A service that vanishes on a connection goes from the device's UUIDs, and no later
        # advertisement brings it back, such as after the peer's program was started again.
        self._advertisers: set[str] = set()
        self._sighted = trio.lowlevel.ParkingLot()

    def look_for(self, service_uuid: str) -> None:
        """Only who advertises this service is a sighting."""
        self._service = service_uuid.lower()
        self._advertisers.clear()

    async def apply(self) -> None:
        """Bring the discovery to what is wanted. Raises as `Bus.call`, `Refused` where BlueZ goes on
        refusing.
        """
        async with self._changing:
            should = (self.wanted and not self._pauses) or self._needs > 0
            if should == self._running:
                return
            before, self._running = self._running, None
            if before is not False:
                await self._patiently("StopDiscovery")
            if should:
                await self._patiently("SetDiscoveryFilter", "a{sv}", self._filter())
                await self._patiently("StartDiscovery")
            self._running = should

    def _filter(self) -> dict[str, Variant]:
        return {
            "Transport": Variant("s", "le"),
            "UUIDs": Variant("as", [self._service]),
            # ManufacturerData comes with every report, and not only when it changes. RSSI does so anyway,
            # because there is a filter.
            "DuplicateData": Variant("b", True),
        }

    async def _patiently(self, member: str, signature: str = "", *body: Any) -> None:
        deadline = trio.current_time() + PATIENCE
        while True:
            try:
                await self._bus.call(self._adapter, ADAPTER, member, signature, *body)
            except Refused as error:
                if member == "StopDiscovery" and error.name == f"{BLUEZ}.Error.Failed":
                    return  # there was none, perhaps because the adapter was off
                if error.name not in UNDER_WAY or trio.current_time() > deadline:
                    raise
                log.debug("%s", error)
                await trio.sleep(RETRY_INTERVAL)
            else:
                return

    async def _go_on(self) -> None:
        try:
            await self.apply()
        except Refused as error:
            await self._bus.catch_up()
            if is_powered(self._tree, self._adapter):
                raise AdapterUnavailable(f"the adapter does not scan any more: {error}") from error
            log.debug("no scan: %s", error)  # the driver finds out why
        except AdapterUnavailable as error:
            log.debug("no scan: %s", error)  # a stack that fails is told of by its watch

    @asynccontextmanager
    async def pause(self) -> AsyncIterator[None]:
        """No discovery by us inside the block: it would take the radio's time from the connect."""
        self._pauses += 1
        try:
            await self.apply()
            yield
        finally:
            self._pauses -= 1
            self._nursery.start_soon(self._go_on)

    async def wait_for_object(self, path: str) -> None:
        """Until BlueZ has an object for this device; where it is gone, until the device is sighted again."""
        if self._tree.get(path, DEVICE) is not None:
            return
        log.debug("%s is no longer known to BlueZ: waiting for it to be sighted again", path)
        self._needs += 1
        try:
            await self.apply()
            while self._tree.get(path, DEVICE) is None:
                await self._sighted.park()
        finally:
            self._needs -= 1
            self._nursery.start_soon(self._go_on)

    def on_device_changed(self, path: str, changed: Mapping[str, Any]) -> None:
        """Device1 has changed, or is gone: with a signal strength or data that only advertisements bring, a
        sighting.
        """
        self._sighted.unpark_all()
        device = self._tree.get(path, DEVICE)
        if device is None:
            self._advertisers.discard(path)
            return
        if self._service in map(str.lower, device.get("UUIDs", ())):
            self._advertisers.add(path)
        rssi = known_rssi(device.get("RSSI"))
        if (
            rssi is not None
            and path in self._advertisers
            and changed.keys() & {"RSSI", "ManufacturerData"}
            and (self.wanted or self._needs)
        ):
            self._links.heard(path, rssi)
            self._report(device, rssi)

    def _report(self, device: Properties, rssi: int) -> None:
        self._sight(
            BLEDevice(
                normalise_address(str(device["Address"])),
                rssi,
                device.get("Name"),
                {company: bytes(data.value) for company, data in device.get("ManufacturerData", {}).items()},
            )
        )
