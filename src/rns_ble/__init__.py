"""Bluetooth Low Energy as a transport of the Reticulum Network Stack.

The public names are imported lazily, so that `import rns_ble` costs nothing and brings in
neither RNS nor a Bluetooth library (both change their process: RNS installs signal handlers,
trio-asyncio an event loop policy).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from rns_ble.config import BLEConfig
    from rns_ble.drivers.base import BLEDevice, BLEDriverInterface, BLEError, BLELink
    from rns_ble.interface import BLEInterface, BLEPeerInterface

_HOMES = {
    "BLEConfig": "rns_ble.config",
    "BLEDevice": "rns_ble.drivers.base",
    "BLEDriverInterface": "rns_ble.drivers.base",
    "BLEError": "rns_ble.drivers.base",
    "BLEInterface": "rns_ble.interface",
    "BLELink": "rns_ble.drivers.base",
    "BLEPeerInterface": "rns_ble.interface",
}

__all__ = [
    "BLEConfig",
    "BLEDevice",
    "BLEDriverInterface",
    "BLEError",
    "BLEInterface",
    "BLELink",
    "BLEPeerInterface",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415  (lazy on purpose)

    return getattr(import_module(_HOMES[name]), name)
