"""BlueZ's objects as its signals tell them: all adapters, and the devices under them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from rns_ble.drivers.bluez.bus import BLUEZ, OBJECT_MANAGER, PROPERTIES

if TYPE_CHECKING:
    from dbus_next import Message

    from rns_ble.drivers.bluez.bus import Bus

ADAPTER: Final = "org.bluez.Adapter1"
DEVICE: Final = "org.bluez.Device1"
CHARACTERISTIC: Final = "org.bluez.GattCharacteristic1"

Properties = dict[str, Any]


class Tree:
    """Path → interface → property → value, for every adapter and what is under it, also those of
    other programs and drivers. Read it at any time.

    The callbacks run in the asyncio loop, after the tree was changed.
    """

    def __init__(self, bus: Bus) -> None:
        self.objects: dict[str, dict[str, Properties]] = {}
        self.on_changed: Callable[[str, str, Mapping[str, Any]], None] = lambda *_: None
        """(path, interface, changed properties); also for what has just appeared."""
        self.on_removed: Callable[[str, str], None] = lambda *_: None
        """(path, interface)"""
        self._bus = bus
        bus.on_signal = self._on_signal

    async def load(self) -> None:
        """Subscribe, then read everything. Raises as `Bus.call`."""
        for rule in (
            f"type='signal',sender='{BLUEZ}',interface='{OBJECT_MANAGER}'",
            f"type='signal',sender='{BLUEZ}',interface='{PROPERTIES}',arg0='{ADAPTER}'",
            f"type='signal',sender='{BLUEZ}',interface='{PROPERTIES}',arg0='{DEVICE}'",
        ):
            await self._bus.match(rule)
        reply = await self._bus.call("/", OBJECT_MANAGER, "GetManagedObjects")
        for path, interfaces in reply.body[0].items():
            self._add(path, interfaces)

    def get(self, path: str, interface: str) -> Properties | None:
        """The properties of one object, None where there is no such object."""
        return self.objects.get(path, {}).get(interface)

    def connected(self, path: str) -> bool:
        """Whether a device is connected, in whichever role."""
        device = self.get(path, DEVICE)
        return device is not None and bool(device.get("Connected"))

    def _add(self, path: str, interfaces: Mapping[str, Mapping[str, Any]]) -> None:
        for interface, properties in interfaces.items():
            values = {name: variant.value for name, variant in properties.items()}
            self.objects.setdefault(path, {})[interface] = values
            self.on_changed(path, interface, values)

    def _on_signal(self, message: Message) -> None:
        if message.interface == PROPERTIES and message.member == "PropertiesChanged":
            interface, changed, invalidated = message.body
            known = self.objects.get(message.path, {}).get(interface)
            if known is None:
                return  # it is about to appear, with all its properties
            values = {name: variant.value for name, variant in changed.items()}
            known.update(values)
            for name in invalidated:
                known.pop(name, None)
            self.on_changed(message.path, interface, values)
        elif message.interface == OBJECT_MANAGER and message.member == "InterfacesAdded":
            self._add(*message.body)
        elif message.interface == OBJECT_MANAGER and message.member == "InterfacesRemoved":
            path, interfaces = message.body
            for interface in interfaces:
                if self.objects.get(path, {}).pop(interface, None) is not None:
                    self.on_removed(path, interface)
            if not self.objects.get(path):
                self.objects.pop(path, None)
