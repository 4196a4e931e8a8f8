"""How long a value may be with BlueZ in between, which loses two bytes in both directions.

Seen with 5.66: it counts the attribute handle to the value once more than ATT does.
"""

from __future__ import annotations

from typing import Final

from rns_ble.protocol.gatt import VALUE_MAXIMUM, value_limit

HANDLE_LENGTH: Final = 2
"""Bytes of an attribute handle (Core Specification, Vol 3 Part F, 3.2.2)."""

WRITE_MAXIMUM: Final = VALUE_MAXIMUM - HANDLE_LENGTH
"""Bytes. BlueZ as a server drops a write of more without a word. Whether the peer is BlueZ we do not know."""


def write_limit(att_mtu: int) -> int:
    """The longest value, in bytes, that a central may write at this ATT_MTU."""
    return min(value_limit(att_mtu), WRITE_MAXIMUM)


def notification_limit(att_mtu: int) -> int:
    """The longest value, in bytes, that a peripheral on BlueZ may notify at this ATT_MTU: it cuts what is
    longer.
    """
    return min(value_limit(att_mtu - HANDLE_LENGTH), VALUE_MAXIMUM)
