"""Which of Reticulum's packets must stay in order, and which may overtake them: read from the header.

The order of two packets matters only when they are for the same destination, which for most of them is a
link: its last packet closes it, and what comes after that is lost; and a Resource's next list of parts, when
it comes before the parts that were asked for with the list before, makes the receiver ask for those again. A
proof may overtake all others, but none may overtake it, for the next one may close the link. Announces are
all one flow, though each is for another destination: however many there are, they have one turn.

So a packet's length won't do to tell what may overtake: the one that closes a link is as short as any. Nor do
we look at the context, which tells more: the rules above need none of it.
"""

from __future__ import annotations

from typing import Final

from RNS.Cryptography import hkdf

# The header (Reticulum manual, Understanding Reticulum, Wire Format): flags, hops, an access code if there is
# one, one or two addresses, context.
_ACCESS_CODE: Final = 0b1000_0000
_TWO_ADDRESSES: Final = 0b0100_0000
_TYPE: Final = 0b11
_ANNOUNCE: Final = 0b01
_PROOF: Final = 0b11
_FIRST_ADDRESS: Final = 2
_ADDRESS_LENGTH: Final = 16
"""Bytes. Of two addresses the destination's is the second, the first is that of the next node on the way."""

ANNOUNCES: Final = b"announces"
"""Their flow; no destination has an address of this length."""


def flow_of(packet: bytes) -> tuple[bytes, bool]:
    """The name of its flow, and whether it goes first there. Any bytes are some packet."""
    flags = packet[0] if packet else 0
    if flags & _TYPE == _ANNOUNCE:
        return ANNOUNCES, False
    destination = _FIRST_ADDRESS + (_ADDRESS_LENGTH if flags & _TWO_ADDRESSES else 0)
    return packet[destination : destination + _ADDRESS_LENGTH], flags & _TYPE == _PROOF


def without_access_code(packet: bytes, size: int, key: bytes) -> bytes:
    """A header that `flow_of` can read, of a packet that Reticulum has masked with an access code.

    `size`, in bytes, and `key` are the interface's. A packet without access code is returned as it is.
    """
    addresses = _FIRST_ADDRESS + size
    if len(packet) <= addresses or not packet[0] & _ACCESS_CODE:
        return packet
    # The mask's beginning does not depend on its length (RFC 5869), so the header's is all that is derived.
    mask = hkdf(
        length=addresses + 2 * _ADDRESS_LENGTH,
        derive_from=packet[_FIRST_ADDRESS:addresses],
        salt=key,
        context=None,
    )
    header = bytes(masked ^ by for masked, by in zip(packet, mask, strict=False))
    return header[:_FIRST_ADDRESS] + header[addresses:]
