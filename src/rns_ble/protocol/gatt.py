"""The GATT service of BLE Reticulum v2.2, and how long a value may be."""

from __future__ import annotations

from typing import Final

SERVICE_UUID: Final = "37145b00-442d-4a94-917f-8f42c5da28e3"
TX_UUID: Final = "37145b00-442d-4a94-917f-8f42c5da28e4"
"""The peripheral notifies the central: read (an empty value), notify."""
RX_UUID: Final = "37145b00-442d-4a94-917f-8f42c5da28e5"
"""The central writes to the peripheral: write, write without response."""
IDENTITY_UUID: Final = "37145b00-442d-4a94-917f-8f42c5da28e6"
"""Read: `RNS.Transport.identity.hash`."""

IDENTITY_LENGTH: Final = 16
"""Bytes of a Reticulum identity hash (128 bits of SHA-256)."""

ATT_MTU_DEFAULT: Final = 23
"""Bytes; what a link has before, or without, an MTU exchange (Core Specification, Vol 3 Part G, 5.2.1)."""
ATT_MTU_REQUESTED: Final = 517
"""Bytes: the longest value and the 5 of a prepared write's header (Vol 3 Part F, 3.4.6.1). A write command or
a notification needs 515, but 517 is what Android and BlueZ ask for."""
ATT_HEADER: Final = 3
"""Bytes that a write command or a notification adds to its value (Vol 3 Part F, 3.4.5.3 and 3.4.7.1)."""
VALUE_MAXIMUM: Final = 512
"""Bytes; no attribute value is longer (Vol 3 Part F, 3.2.9)."""
WRITE_MAXIMUM: Final = VALUE_MAXIMUM - 2
"""Bytes. BlueZ as a server counts the two bytes of the attribute handle to the value, and drops a write of
more than this without a word (seen with 5.66). Whether the peer is BlueZ we do not know."""


def value_limit(att_mtu: int) -> int:
    """The longest value, in bytes, that one write command or notification carries at this ATT_MTU."""
    return min(att_mtu - ATT_HEADER, VALUE_MAXIMUM)


def write_limit(att_mtu: int) -> int:
    """The longest value, in bytes, that a central may write at this ATT_MTU, whatever stack the peer has."""
    return min(value_limit(att_mtu), WRITE_MAXIMUM)
