"""What of the driver contract can be said without Trio: its errors, and how long a goodbye may take.

For whoever must not load Trio; all of it is in `rns_ble.drivers.base` as well.
"""

from __future__ import annotations

from typing import Final

GOODBYE_TIMEOUT: Final = 5.0
"""Seconds a driver may take to close a link or itself. BlueZ waits 2.0 s before it drops an ACL
connection, so a shorter deadline would leave every link behind."""


class BLEError(Exception):
    """Something Bluetooth failed. The message says what to do about it, where anything can be done."""


class AdapterUnavailable(BLEError):
    """The adapter, or the stack under it, is missing, off or gone. Ends `async with driver`."""


class PermissionDenied(AdapterUnavailable):
    """The adapter is there, but this user may not use it."""


class AdvertisingUnavailable(BLEError):
    """The adapter works but does not advertise. Whoever only connects to others does not need that."""


class PeerUnreachable(BLEError):
    """An attempt to connect failed on the peer's side: not in range, refused, no such service."""


class AlreadyConnected(BLEError):
    """The two adapters are linked already, so the attempt never was made. No failure of the peer's."""


class AdapterFull(BLEError):
    """The controller holds no more connections, so the attempt never was made. No failure of the peer's."""


class ProtocolViolation(BLEError):
    """The peer does not speak BLE Reticulum (for example: its Identity is not 16 bytes)."""


class ConfigurationError(BLEError, ValueError):
    """The configuration can't work. Names the key, the value and what is allowed."""
