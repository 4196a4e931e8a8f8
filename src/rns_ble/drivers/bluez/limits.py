"""How long a value may be that BlueZ notifies: two bytes less than ATT has room for.

A central that supports them, as BlueZ does, gets Multiple Handle Value Notifications from BlueZ (5.66 as well
as 5.82), in which each value has its length before it. Which centrals those are we are not told, so that we
leave the room for it in all. What is written to BlueZ has a limit of its own, `WRITE_MAXIMUM` in
`rns_ble.protocol.gatt`.
"""

from __future__ import annotations

from typing import Final

from rns_ble.protocol.gatt import value_limit

LENGTH_LENGTH: Final = 2
"""Bytes of that length (Core Specification, Vol 3 Part F, 3.4.7.4)."""


def notification_limit(att_mtu: int) -> int:
    """The longest value, in bytes, that a peripheral on BlueZ may notify at this ATT_MTU: it cuts what is
    longer.
    """
    return value_limit(att_mtu - LENGTH_LENGTH)
