"""What a sighting tells: the address, how strong it was, and the capability flags of BLE Reticulum v0.3.0.

The flags travel as manufacturer data: `version` (u8, 3), `flags` (u8). Nobody needs to send them, and a node
that can do both roles does not.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from typing import Final

COMPANY_IDENTIFIER: Final = 0xFFFF
"""The company identifier of nobody, for tests (Bluetooth Assigned Numbers, section 7). What follows it may
be anybody's, and is looked at with care."""

CAPABILITY_VERSION: Final = 3
"""The only version of the flags there is."""

RSSI_UNKNOWN: Final = frozenset({-128, -127, 0, 127})
"""dBm that mean "not available": 127 in HCI (Core Specification, Vol 4 Part E, 7.7.65.2), the others in the
stacks on top of it. None is ever measured: receivers end above -110 dBm, and 0 dBm is as strong as the
transmitter itself."""

NAME_MAXIMUM: Final = 32
"""Characters of a name that are kept: more than an advertisement of 31 bytes carries. Extended advertisements
and scan responses may bring 248 bytes."""

_ADDRESS: Final = re.compile(
    r"(?:dev[:_])?([0-9A-F]{2})([:_-]?)" + r"([0-9A-F]{2})\2" * 4 + r"([0-9A-F]{2})",
    re.IGNORECASE,
)


class Capability(enum.Flag):
    """What a node can't do, as it advertises it."""

    NONE = 0
    """It says nothing: both roles."""
    PERIPHERAL_ONLY = 1
    """It never dials, so whoever sees it must."""
    CENTRAL_ONLY = 2
    """It can't be dialled."""


def normalise_address(text: str) -> str:
    """A Bluetooth address as it is written everywhere in here: `AA:BB:CC:DD:EE:FF`.

    Takes either case, the separators `:`, `-`, `_` (one throughout) or none, and the prefixes `dev:` and
    `dev_` (BlueZ's object paths). Raises `ValueError` for all else.
    """
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise ValueError(f"not a Bluetooth address: {text!r}")
    first, _separator, *others = match.groups()
    return ":".join((first, *others)).upper()


def shown_name(name: str | None) -> str | None:
    """A device's name as it may be logged and shown: cut to `NAME_MAXIMUM`, and without control characters,
    which could forge lines of a log or steer a terminal. None for no name.
    """
    return plain(name[:NAME_MAXIMUM]) if name else None


def plain(text: str) -> str:
    """A text that may come from the air, with a question mark for each letter that is more than a letter."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def known_rssi(rssi: int | None) -> int | None:
    """The signal strength in dBm, or None where the stack gave none or a number that means so."""
    return None if rssi in RSSI_UNKNOWN else rssi


def parse_capabilities(manufacturer_data: Mapping[int, bytes]) -> Capability:
    """What a peer says of itself. Unknown version, too short, contradictory: `NONE`. Never raises.

    Bits without a meaning, and bytes after the flags, are left to those who will give them one.
    """
    data = manufacturer_data.get(COMPANY_IDENTIFIER, b"")
    if len(data) < 2 or data[0] != CAPABILITY_VERSION:
        return Capability.NONE
    said = Capability(data[1] & 3)
    return said if said in (Capability.PERIPHERAL_ONLY, Capability.CENTRAL_ONLY) else Capability.NONE


def encode_capabilities(capability: Capability) -> dict[int, bytes]:
    """The manufacturer data to advertise; empty for `NONE`. Raises `ValueError` for both at once."""
    if capability is Capability.NONE:
        return {}
    if capability not in (Capability.PERIPHERAL_ONLY, Capability.CENTRAL_ONLY):
        raise ValueError("a node that neither dials nor can be dialled has nobody to talk to")
    return {COMPANY_IDENTIFIER: bytes((CAPABILITY_VERSION, capability.value))}
