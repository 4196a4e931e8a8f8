"""The driver contract of ble-reticulum, as a driver written to it imports it: `bluetooth_driver`.

Its methods are called and block until they have done their part; what happens is told by calling the `on_…`
attributes, from whatever thread. Such a driver runs under this interface through `rns_ble.drivers.threaded`.
New drivers are better written to `rns_ble.drivers.base`. Nothing here depends on anything of ours.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class BLEDevice:
    """A sighting."""

    address: str
    name: str | None
    rssi: int
    """dBm."""
    service_uuids: list[str] = field(default_factory=list)
    manufacturer_data: dict[int, bytes] = field(default_factory=dict)


class DriverState(enum.Enum):
    """What a driver does; there is no value for both at once."""

    IDLE = enum.auto()
    SCANNING = enum.auto()
    ADVERTISING = enum.auto()


class BLEDriverInterface(ABC):
    """What such a driver offers. Addresses are its own words, often with a prefix for centrals (`dev:…`)."""

    on_device_discovered: Callable[[BLEDevice], object] | None = None
    on_device_connected: Callable[[str, bytes | int | None], object] | None = None
    """Address, and the peer's identity or the ATT MTU or nothing. May be called again when more is known."""
    on_device_disconnected: Callable[[str], object] | None = None
    on_data_received: Callable[[str, bytes], object] | None = None
    on_mtu_negotiated: Callable[[str, int], object] | None = None
    on_error: Callable[[str, str, Exception | None], object] | None = None
    """Severity (`critical`, `error`, `warning`, …), message, cause."""
    on_duplicate_identity_detected: Callable[[str, bytes], bool | None] | None = None
    """Address, identity. What it returns counts: if true, do not make this connection."""
    on_address_changed: Callable[[str, str, str], object] | None = None
    """Old address, new address, identity in hexadecimal."""

    @abstractmethod
    def start(self, service_uuid: str, rx_char_uuid: str, tx_char_uuid: str, identity_char_uuid: str) -> None:
        """Open the stack and put the GATT service up."""

    @abstractmethod
    def stop(self) -> None:
        """End everything."""

    @abstractmethod
    def set_identity(self, identity_bytes: bytes) -> None:
        """What the Identity characteristic answers; after `start`, before `start_advertising`."""

    @property
    @abstractmethod
    def state(self) -> DriverState:
        """What it does."""

    @property
    @abstractmethod
    def connected_peers(self) -> list[str]:
        """The addresses of all peers."""

    @abstractmethod
    def start_scanning(self) -> None:
        """Report devices by `on_device_discovered`."""

    @abstractmethod
    def stop_scanning(self) -> None:
        """Stop that."""

    @abstractmethod
    def start_advertising(self, device_name: str | None, identity: bytes) -> None:
        """Be found."""

    @abstractmethod
    def stop_advertising(self) -> None:
        """Stop that."""

    @abstractmethod
    def connect(self, address: str) -> None:
        """Begin to connect. The outcome is told by `on_device_connected` or `on_error`."""

    @abstractmethod
    def disconnect(self, address: str) -> None:
        """Disconnect a peer, in whichever role."""

    @abstractmethod
    def send(self, address: str, data: bytes) -> None:
        """Send one value: written as central, notified as peripheral."""

    @abstractmethod
    def read_characteristic(self, address: str, char_uuid: str) -> bytes:
        """Read from a peripheral."""

    @abstractmethod
    def write_characteristic(self, address: str, char_uuid: str, data: bytes) -> None:
        """Write to a peripheral, with response."""

    @abstractmethod
    def start_notify(self, address: str, char_uuid: str, callback: Callable[[bytes], None]) -> None:
        """Subscribe to a peripheral's characteristic."""

    @abstractmethod
    def get_local_address(self) -> str | None:
        """Our Bluetooth address; 00:00:00:00:00:00 where the platform hides it."""

    @abstractmethod
    def get_peer_role(self, address: str) -> str | None:
        """Our role on the connection: `central` or `peripheral`; None when there is none."""

    @abstractmethod
    def set_service_discovery_delay(self, seconds: float) -> None:
        """How long to wait between connection and service discovery."""

    @abstractmethod
    def set_power_mode(self, mode: str) -> None:
        """`aggressive`, `balanced` or `saver`: how much to scan."""
