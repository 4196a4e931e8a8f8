"""Who dials: of two nodes that see each other, one should, and one must.

1. A peripheral-only node never dials, and whoever sees one dials it.
2. A central-only node can't be dialled, and dials whomever it sees.
3. Otherwise the node with the numerically lower address dials at once. The other one gives it
   `dial_grace` and then dials too, because the lower one may not hear us, and a phone, whose address is
   random and hidden from it, can't tell that it is the lower one.
4. Who does not know its own address dials.

Whether the two are linked already is known elsewhere, and asked first.
"""

from __future__ import annotations

import enum

from rns_ble.protocol.advertisement import Capability


class Direction(enum.Enum):
    """Whether we dial a peer, and if not, why not."""

    DIAL = "dial"
    WAIT = "wait"
    """It is the peer's turn. Ask again when it had its time."""
    NEVER_OURS = "never, we are peripheral-only"
    NEVER_THEIRS = "never, the peer is central-only"
    BOTH_PERIPHERAL_ONLY = "never, both are peripheral-only"
    """These two can't ever be linked; somebody should be told."""


def direction(
    own_address: str | None,
    own: Capability,
    peer_address: str,
    peer: Capability,
    *,
    grace_over: bool,
) -> Direction:
    """Whether to dial a peer now. Addresses are normalised; ours is None where the platform hides it.

    `grace_over`: the peer has been seen without a link for `dial_grace`.
    """
    if Capability.PERIPHERAL_ONLY in own:
        if Capability.PERIPHERAL_ONLY in peer:
            return Direction.BOTH_PERIPHERAL_ONLY
        return Direction.NEVER_OURS
    if Capability.CENTRAL_ONLY in peer:
        return Direction.NEVER_THEIRS
    one_sided = Capability.PERIPHERAL_ONLY in peer or Capability.CENTRAL_ONLY in own
    # Normalised addresses are in the order of their numbers: same length, and 0-9 sort before A-F.
    if one_sided or own_address is None or own_address < peer_address or grace_over:
        return Direction.DIAL
    return Direction.WAIT
