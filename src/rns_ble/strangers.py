"""Centrals that have connected to us and not told their identity yet.

They have places of their own, so that they never take a peer's. When all are taken and another one comes,
whoever has been there for longest gives way: a peer tells its identity within a second, so a flood of
connections that tell none can't keep it out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import trio

from rns_ble import quiet
from rns_ble.drivers.base import BLELink
from rns_ble.protocol.values import ValueKind, classify

log = quiet.logger(__name__)

HANDSHAKE_TIMEOUT: Final = 30.0
"""Seconds a central may stay without telling its identity (protocol v2.2)."""


@dataclass(eq=False)
class _Stranger:
    since: float
    scope: trio.CancelScope = field(init=False)

    def __post_init__(self) -> None:
        self.scope = trio.CancelScope(deadline=self.since + HANDSHAKE_TIMEOUT)


class Strangers:
    """At most `places` of them."""

    def __init__(self, places: int) -> None:
        self._places = trio.CapacityLimiter(places)  # borrowed by a `_Stranger` each

    @property
    def borrowed_tokens(self) -> int:
        """How many there are."""
        return int(self._places.borrowed_tokens)

    async def identity(self, link: BLELink) -> bytes | None:
        """The first 16-byte value that a central sends; all before it is dropped. None: turn it out."""
        stranger = _Stranger(trio.current_time())
        if not self._places.available_tokens:
            self._oldest().scope.cancel()
        await self._places.acquire_on_behalf_of(stranger)
        try:
            with stranger.scope:
                async for value in link:
                    if classify(value, None) is ValueKind.IDENTITY:
                        return value
                    log.debug("%s: %d bytes before its identity dropped", link.address, len(value))
        finally:
            self._places.release_on_behalf_of(stranger)
        log.debug("%s told no identity", link.address)
        return None

    def _oldest(self) -> _Stranger:
        strangers = [s for s in self._places.statistics().borrowers if isinstance(s, _Stranger)]
        return min(strangers, key=lambda stranger: (stranger.scope.cancel_called, stranger.since))
