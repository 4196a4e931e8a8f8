"""The `[[BLE Interface]]` section of Reticulum's configuration, as one frozen value."""

from __future__ import annotations

from dataclasses import dataclass

from rns_ble.protocol.gatt import SERVICE_UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class BLEConfig:
    """Every key that the interface knows, under its own name."""

    name: str = "BLE Interface"
    service_uuid: str = SERVICE_UUID
    device_name: str | None = None
    enable_central: bool = True
    enable_peripheral: bool = True
    discovery_interval: float = 5.0
    max_connections: int = 7
    min_rssi: int = -85
    connection_timeout: float = 30.0
    power_mode: str = "balanced"
    max_discovered_peers: int = 100
    connection_retry_backoff: float = 60.0
    max_connection_failures: int = 3
    dial_grace: float = 20.0
    outgoing_queue: int = 128
    driver: str = "bleak"
    adapter: str | None = None
    transport: str | None = None
