"""Advertising data: what we advertise, and what a report says (Core Specification Supplement, Part A, 1)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple
from uuid import UUID

from rns_ble.drivers.base import ConfigurationError

LEGACY_LENGTH: Final = 31
"""Bytes of a legacy advertisement, and of a scan response (Core Specification, Vol 6 Part B, 2.3.1.1)."""
DEVICE_NAME_LENGTH: Final = 8
"""Bytes of UTF-8: what flags and a 128-bit UUID leave."""

FLAGS: Final = 0x01
INCOMPLETE_UUIDS_128: Final = 0x06
COMPLETE_UUIDS_128: Final = 0x07
SHORTENED_NAME: Final = 0x08
COMPLETE_NAME: Final = 0x09
MANUFACTURER_DATA: Final = 0xFF
"""AD types (Bluetooth Assigned Numbers, 2.3)."""

GENERAL_DISCOVERABLE_LE_ONLY: Final = 0x06
"""LE General Discoverable Mode, BR/EDR Not Supported (Supplement, Part A, 1.3)."""


class Report(NamedTuple):
    """What an advertising report says, as far as it matters here."""

    uuids: frozenset[bytes]
    """128-bit service UUIDs, little-endian as on the air."""
    name: str | None
    manufacturer_data: Mapping[int, bytes]


def uuid_on_air(uuid: str) -> bytes:
    """16 bytes, little-endian. Raises `ConfigurationError` for what is no 128-bit UUID."""
    try:
        return UUID(uuid).bytes[::-1]
    except ValueError:
        raise ConfigurationError(f"{uuid!r} is not a 128-bit UUID") from None


def encode(
    service_uuid: bytes, device_name: str | None, manufacturer_data: Mapping[int, bytes] | None
) -> tuple[bytes, bytes]:
    """Advertising data and scan response. The name goes into the latter where the former has no room left.

    `service_uuid` as on the air. Raises `ConfigurationError` for a name over 8 bytes, and for manufacturer
    data that an advertisement can't carry.
    """
    advertisement = _structure(FLAGS, bytes([GENERAL_DISCOVERABLE_LE_ONLY]))
    advertisement += _structure(COMPLETE_UUIDS_128, service_uuid)
    for company, data in (manufacturer_data or {}).items():
        advertisement += _structure(MANUFACTURER_DATA, company.to_bytes(2, "little") + data)
    if len(advertisement) > LEGACY_LENGTH:
        raise ConfigurationError(f"manufacturer data: {len(advertisement)} bytes in all, of {LEGACY_LENGTH}")
    name = _structure(COMPLETE_NAME, device_name.encode()) if device_name else b""
    if len(name) > 2 + DEVICE_NAME_LENGTH:
        raise ConfigurationError(f"device_name = {device_name}: at most {DEVICE_NAME_LENGTH} bytes of UTF-8")
    if len(advertisement) + len(name) <= LEGACY_LENGTH:
        return advertisement + name, b""
    return advertisement, name


def _structure(kind: int, data: bytes) -> bytes:
    return bytes([len(data) + 1, kind]) + data


def decode(data: bytes) -> Report:
    """Never raises: what is cut off or malformed is left out."""
    uuids: set[bytes] = set()
    name = None
    manufacturer_data: dict[int, bytes] = {}
    at = 0
    while at + 1 < len(data) and data[at]:
        kind, content = data[at + 1], data[at + 2 : at + 1 + data[at]]
        at += 1 + data[at]
        if kind in (INCOMPLETE_UUIDS_128, COMPLETE_UUIDS_128):
            uuids.update(content[i : i + 16] for i in range(0, len(content) - 15, 16))
        elif kind in (SHORTENED_NAME, COMPLETE_NAME):
            name = content.decode(errors="replace")
        elif kind == MANUFACTURER_DATA and len(content) >= 2:
            manufacturer_data[int.from_bytes(content[:2], "little")] = content[2:]
    return Report(frozenset(uuids), name, MappingProxyType(manufacturer_data))
