"""The links of one adapter by device, and the ACL connections under them.

One ACL connection carries both roles between two adapters, and BlueZ can only end the whole of it. So the
last role that ends takes the connection down, and before that a role ends by itself alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from rns_ble import quiet
from rns_ble.drivers.base import GOODBYE_TIMEOUT, BLEError, Role
from rns_ble.drivers.bluez.bearer import also_by_bredr
from rns_ble.drivers.bluez.tree import ADAPTER, DEVICE
from rns_ble.protocol.advertisement import normalise_address

if TYPE_CHECKING:
    from rns_ble.drivers.bluez.bus import Bus
    from rns_ble.drivers.bluez.link import BluezLink
    from rns_ble.drivers.bluez.tree import Tree

log = quiet.logger(__name__)

DISCONNECT_TIMEOUT: Final = GOODBYE_TIMEOUT - 1.0
"""Seconds; BlueZ takes 2.0 s, and what else a goodbye does must fit into the rest."""

FORGET_TIMEOUT: Final = 0.5
"""Seconds; BlueZ asks nobody for that."""

KEPT: Final = ("Connected", "Paired", "Bonded", "Trusted", "Blocked")
"""Properties of devices that are not ours to remove."""


class Links:
    """Device path → link, for each role."""

    def __init__(self, bus: Bus, tree: Tree, adapter: str) -> None:
        self._bus = bus
        self._tree = tree
        self._adapter = adapter
        self._links: dict[Role, dict[str, BluezLink]] = {role: {} for role in Role}
        self.attempted: set[str] = set()
        """Device paths on whose connection we are making a link as central, which is in no table yet."""
        self._rssis: dict[str, int] = {}  # device path → dBm; BlueZ itself drops it when a discovery ends
        self._changed = trio.lowlevel.ParkingLot()

    def get(self, role: Role, path: str) -> BluezLink | None:
        """The link in this role, also one that is being made or closed."""
        return self._links[role].get(path)

    def put(self, path: str, link: BluezLink) -> None:
        """Remember a link until `drop`, and tell it how the peer was last heard."""
        self._links[link.role][path] = link
        link.rssi = self._rssis.get(path)

    def drop(self, path: str, link: BluezLink) -> None:
        """Forget a link. Idempotent."""
        if self._links[link.role].get(path) is link:
            del self._links[link.role][path]

    def of(self, role: Role) -> dict[str, BluezLink]:
        """Device path → link, as of now."""
        return dict(self._links[role])

    def all(self) -> list[BluezLink]:
        """Every link that is remembered."""
        return [link for links in self._links.values() for link in links.values()]

    def introduced(self, path: str) -> bool:
        """Whether we have a live link, in either role, with a peer that has told its identity."""
        links = [links[path] for links in self._links.values() if path in links]
        return any(link.live and link.introduced for link in links)

    def addresses(self) -> list[str]:
        """Of those with a live link."""
        return sorted({link.address for link in self.all() if link.live})

    def in_use(self, path: str, *, but: Role) -> bool:
        """Whether a live link in another role, or an attempt at one, needs this device's connection."""
        if but is Role.PERIPHERAL and path in self.attempted:
            return True
        return any(
            path in links and links[path].live for role, links in self._links.items() if role is not but
        )

    # --- names ---

    def path_of(self, address: str) -> str:
        """The device's object path. That of a paired device keeps the private address it was paired under."""
        for path, interfaces in self._tree.objects.items():
            if (
                DEVICE in interfaces
                and path.startswith(f"{self._adapter}/")
                and self.address_of(path) == address
            ):
                return path
        return f"{self._adapter}/dev_{address.replace(':', '_')}"

    def address_of(self, path: str) -> str:
        """The address that the device has now."""
        device = self._tree.get(path, DEVICE) or {}
        return normalise_address(str(device.get("Address") or path.rpartition("/")[2]))

    # --- what BlueZ says ---

    def on_device_changed(self, path: str) -> None:
        """Device1 has changed, or is gone."""
        if self._tree.get(path, DEVICE) is None:
            self._rssis.pop(path, None)
        if not self._tree.connected(path):
            for links in self._links.values():
                if path in links:
                    link = links.pop(path)
                    link.end("disconnected")
        self.wake()

    def heard(self, path: str, rssi: int) -> None:
        """The device was sighted with this signal strength, in dBm."""
        self._rssis[path] = rssi
        for links in self._links.values():
            if path in links:
                links[path].rssi = rssi

    def wake(self) -> None:
        """Something that `wait` may be for has changed."""
        self._changed.unpark_all()

    async def wait(self) -> None:
        """Until a device, a characteristic or the adapter has changed."""
        await self._changed.park()

    # --- connections ---

    async def disconnect(self, path: str, *, pending: bool = False) -> None:
        """Take a device's connection down and wait for its end, `DISCONNECT_TIMEOUT` at most. Never raises.

        `pending`: also where there is only an attempt at one. Where the device is connected by BR/EDR, too,
        nothing is done: Device1.Disconnect would end that with it, and what the user hears by it.
        """
        if also_by_bredr(self._adapter, self.address_of(path)):
            log.debug("%s stays connected, which it is by BR/EDR as well", path)
            return
        with trio.move_on_after(DISCONNECT_TIMEOUT, shield=True) as scope:
            try:
                if pending or self._tree.connected(path):
                    await self._bus.call(path, DEVICE, "Disconnect", timeout=DISCONNECT_TIMEOUT)
            except BLEError as error:
                log.debug("disconnecting %s: %s", path, error)
            else:
                while self._tree.connected(path):
                    await self.wait()
        if scope.cancelled_caught:
            log.debug("%s has not been disconnected in time", path)

    async def forget(self, path: str) -> None:
        """Have BlueZ remove a device that an attempt has failed with, and what it knows of its services.

        Not one that is connected, nor one about which the user has decided something. Never raises.
        """
        device = self._tree.get(path, DEVICE)
        if device is None or any(device.get(name) for name in KEPT):
            return
        with trio.move_on_after(FORGET_TIMEOUT, shield=True):
            try:
                await self._bus.call(self._adapter, ADAPTER, "RemoveDevice", "o", path)
            except BLEError as error:
                log.debug("removing %s: %s", path, error)
