"""How long a value may be that BlueZ notifies: two bytes less than ATT has room for.

Seen with 5.66: it counts the attribute handle to the value once more than ATT does. It does the same with
what is written to it, which every central has to heed (`rns_ble.protocol.gatt.WRITE_MAXIMUM`).
"""

from __future__ import annotations

from typing import Final

from rns_ble.protocol.gatt import value_limit

HANDLE_LENGTH: Final = 2
"""Bytes of an attribute handle (Core Specification, Vol 3 Part F, 3.2.2)."""


def notification_limit(att_mtu: int) -> int:
    """The longest value, in bytes, that a peripheral on BlueZ may notify at this ATT_MTU: it cuts what is
    longer.
    """
    return value_limit(att_mtu - HANDLE_LENGTH)
