"""What a value on RX or TX is. After the handshake every value is exactly one of `ValueKind`.

The kinds are told apart in the order of the enumeration. Only one pair of them needs an order at all: 16
bytes that begin like a fragment may be the identity, sent again.
"""

from __future__ import annotations

import enum
from typing import Final

from rns_ble.protocol.fragmentation import HEADER_LENGTH
from rns_ble.protocol.gatt import IDENTITY_LENGTH

KEEPALIVE: Final = b"\x00"
"""Says that the link is alive, and nothing about whether data gets through it."""

_PING: Final = 0x04
_PONG: Final = 0x05


class ValueKind(enum.Enum):
    """What a value is, and with that what to do about it."""

    KEEPALIVE = "keepalive"
    """`00`. The link is alive."""
    PING = "ping"
    """`04 n`. To be answered at once, on the same link, with `pong`."""
    PONG = "pong"
    """`05 n`. The data path works in both directions."""
    IDENTITY = "identity"
    """16 bytes: the handshake, or the handshake again."""
    FRAGMENT = "fragment"
    """For the `Reassembler`, which may still find it malformed."""
    FOREIGN = "foreign"
    """Not ours: to be dropped and counted."""


def classify(value: bytes, peer_identity: bytes | None) -> ValueKind:
    """Tell what a received value is. Never raises for any bytes.

    `peer_identity`: 16 bytes, or None in the peripheral role before the handshake. Then any 16 bytes are
    the identity, and nothing else means anything yet.
    """
    length = len(value)
    if peer_identity is None:
        return ValueKind.IDENTITY if length == IDENTITY_LENGTH else ValueKind.FOREIGN
    if length >= HEADER_LENGTH:
        if value == peer_identity:
            return ValueKind.IDENTITY
        if 1 <= value[0] <= 3:
            return ValueKind.FRAGMENT
    elif value == KEEPALIVE:
        return ValueKind.KEEPALIVE
    elif length == 2:
        if value[0] == _PING:
            return ValueKind.PING
        if value[0] == _PONG:
            return ValueKind.PONG
    return ValueKind.FOREIGN


def ping(nonce: int) -> bytes:
    """A probe of the data path. `nonce`: 0 to 255, else `ValueError`."""
    return bytes((_PING, nonce))


def pong(ping_value: bytes) -> bytes:
    """The answer to a received PING. Raises `ValueError` for a value that is none."""
    if len(ping_value) != 2 or ping_value[0] != _PING:
        raise ValueError(f"not a PING: {ping_value.hex(' ')}")
    return bytes((_PONG, ping_value[1]))
