"""Whom we know: identities that have been linked before, and since when.

Anybody may invent identities. But nobody can have been linked here for days who came an hour ago. When places
are short, a peer that we have known for long goes before whoever has come just now, so that a flood of
invented identities does not keep it out. It can't do more: while a peer is away, others may claim its
identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

KNOWN_AFTER: Final = 60.0
"""Seconds that a link must have lasted for its peer to be known: longer than an attempt that goes wrong, or a
neighbour who passes by."""

SENIORITY: Final = 10
"""How many times as long somebody must be known to displace another. Peers of a mesh that came up together
are known for about as long, so that none of them ever displaces another."""

FORGOTTEN_AFTER: Final = 7 * 86400.0
"""Seconds without a link after which an identity is forgotten: who comes once a week is still known."""

MAXIMUM: Final = 256
"""Identities; some 50 KB. Far more neighbours than `max_connections` lets anybody have."""


class Acquaintances:
    """Identity → since when it is known, and until when it was last linked."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[float, float]] = {}

    def __len__(self) -> int:
        """How many there are."""
        return len(self._known)

    def linked(self, identity: bytes, since: float, now: float) -> None:
        """A link to this identity has lasted from `since` to `now` (one clock, seconds)."""
        if now - since < KNOWN_AFTER:
            return
        self._known = {who: times for who, times in self._known.items() if now - times[1] < FORGOTTEN_AFTER}
        first, _last = self._known.get(identity, (since, now))
        self._known[identity] = first, now
        if len(self._known) > MAXIMUM:
            # Who is known for the shortest time: a flood can only displace itself.
            del self._known[max(self._known, key=lambda who: self._known[who][0])]

    def known_for(self, identity: bytes, now: float) -> float:
        """Seconds; 0 for who is not known."""
        first, last = self._known.get(identity, (now, now))
        return now - first if now - last < FORGOTTEN_AFTER else 0.0

    def gives_way_to(self, newcomer: bytes, linked: Mapping[bytes, float], now: float) -> bytes | None:
        """Of those who are linked (identity → since when) the one to lose its place; None: nobody."""
        ages = {who: max(now - since, self.known_for(who, now)) for who, since in linked.items()}
        least = min(ages, key=lambda who: ages[who], default=None)
        known_for = self.known_for(newcomer, now)
        if least is None or known_for < KNOWN_AFTER or known_for < SENIORITY * ages[least]:
            return None
        return least
