"""Linux's own Bluetooth: BlueZ over D-Bus, bleak as central, our own GATT server as peripheral.

The name is imported lazily: bleak and dbus-next are loaded with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rns_ble.drivers.bluez.driver import BleakDriver

__all__ = ["BleakDriver"]


def __getattr__(name: str) -> Any:
    if name != "BleakDriver":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rns_ble.drivers.bluez.driver import BleakDriver  # noqa: PLC0415 - lazily, see above

    return BleakDriver
