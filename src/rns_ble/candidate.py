"""One address that advertises our service: what is known of it, why it is dialled or not, an attempt at it.

Nothing here decides whom to dial; `rns_ble.admission` does.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

import trio

from rns_ble.protocol.advertisement import Capability

ATTEMPT_INTERVAL: Final = 5.0
"""Seconds between the starts of two attempts at one address (ble-reticulum's figure), and after it has turned
us away: faster only meets the peer in the state that made the first attempt fail."""

ATTEMPT_PATIENCE: Final = 5.0
"""Seconds that an attempt has the radio for itself while others wait for it. An advertiser is heard by then:
the slowest intervals in use are 1 to 2 s. Dialling one that is gone would hold the radio for
`connection_timeout`. And no longer at all when a link to it has ended just before: its node may be back under
another address, and nobody is heard, to wait for the radio, while an attempt has it."""

IDENTITY_HOLDS: Final = 3600.0
"""Seconds for which an address is taken to be of the identity that was last told there, and is not dialled
where that is ours, or linked already. Anybody can tell any identity from any address; without an end the
address's owner would not be dialled any more. A node's second adapter is asked once an hour."""

SEEN_RECENTLY: Final = 30.0
"""Seconds after which a sighting says nothing any more. ble-reticulum's score gives it 0 points then; a
peer that still advertised would have been seen again some ten times. Who scans more often knows sooner: see
`heard_within`."""

# The score's parts (ble-reticulum's figures): what is near, has worked and was seen just now comes first.
RSSI_FLOOR: Final = -100
"""dBm; 0 points, and one for each dB above."""
RSSI_CEILING: Final = -30
"""dBm; no points for more."""
HISTORY_POINTS: Final = 50
"""When every attempt has succeeded."""
HISTORY_UNKNOWN: Final = 25
"""Points before the first attempt."""
RECENCY_POINTS: Final = 25
"""When it has been seen in the last `RECENCY_FULL`; falling to 0 at `SEEN_RECENTLY`."""
RECENCY_FULL: Final = 5.0
"""Seconds."""


class Verdict(enum.Enum):
    """Why a candidate is, or is not, dialled; the value is what a user reads."""

    DIAL = "to be dialled"
    LINKED = "linked"
    OURSELVES = "it has our own identity"
    IN_FLIGHT = "an attempt is in flight"
    RADIO_BUSY = "the adapter is busy with another attempt"
    PACED = "tried just now"
    BLACKLISTED = "failed too often"
    GRACE = "it has the lower address, so it dials first"
    WE_ARE_PERIPHERAL_ONLY = "we do not dial (enable_central = no)"
    BOTH_PERIPHERAL_ONLY = "neither side dials (both peripheral-only)"
    CENTRAL_ONLY = "it takes no connections (central-only)"
    TOO_WEAK = "signal below min_rssi"
    NOT_SEEN = "not seen lately"
    NOT_SEEN_SINCE = "not seen since its last link or attempt"
    NO_PLACE = "max_connections reached"
    ADAPTER_FULL = "the adapter holds no more connections"
    LAST_PLACE = "the last place is for somebody who dials us"


@dataclass(slots=True, eq=False)
class Candidate:
    """What is known of one address. Times are readings of the mesh's clock, in seconds."""

    address: str
    seen_since: float
    """Since when it has been seen without a link; the dial grace counts from here."""
    last_seen: float
    rssi: int | None = None
    name: str | None = None
    capabilities: Capability = Capability.NONE
    identity: bytes | None = None
    """The last one that was told on a link to or from this address."""
    identified: float = -math.inf
    """When that was."""
    attempts: int = 0
    """Those that succeeded or failed; not those that were cancelled, or are in flight."""
    successes: int = 0
    failures: int = 0
    """Consecutive ones of one kind."""
    turned_us_away: bool = False
    """The kind: whether it took our connection and dropped it, or could not be reached."""
    last_failure: str | None = None
    """Why the last of them failed, as it may be shown; None once one has succeeded."""
    last_attempt: float = -math.inf
    """Its start."""
    paced_until: float = -math.inf
    """It is not tried again before."""
    used_until: float = -math.inf
    """When the last attempt or link ended. Only a sighting after it says that the address is still in use: a
    phone, or a node that was restarted, comes back under another one."""
    blacklisted_until: float = -math.inf
    told: Verdict | None = None
    """The verdict last logged: each change is one line."""
    limiter: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(1))

    def has_just_left(self, now: float) -> bool:
        """Whether a link to it ended a moment ago, and nothing was tried in vain since."""
        return self.identity is not None and not self.failures and now - self.used_until <= SEEN_RECENTLY

    def score(self, now: float) -> float:
        """0 to 145 points."""
        rssi = RSSI_FLOOR if self.rssi is None else min(max(self.rssi, RSSI_FLOOR), RSSI_CEILING)
        history = HISTORY_POINTS * self.successes / self.attempts if self.attempts else HISTORY_UNKNOWN
        fading = (SEEN_RECENTLY - (now - self.last_seen)) / (SEEN_RECENTLY - RECENCY_FULL)
        return rssi - RSSI_FLOOR + history + RECENCY_POINTS * min(max(fading, 0.0), 1.0)

    def rank(self, now: float) -> tuple[bool, float]:
        """The highest is dialled first: whoever has been linked before, however strong the signals of others
        that somebody may have invented, then by score.
        """
        return self.successes > 0, self.score(now)


class Attempt:
    """An attempt in flight: the borrower of its three limiters. `with attempt:` gives them back."""

    def __init__(
        self,
        candidate: Candidate,
        limiters: tuple[trio.CapacityLimiter, ...],
        now: float,
        *,
        displaces: bool,
    ) -> None:
        """Borrow, or raise `trio.WouldBlock` and borrow nothing. Records the attempt in the candidate."""
        self.candidate = candidate
        self.displaces = displaces
        """Whether somebody's link was closed for it. Then it gives way to nobody: it succeeds, or counts as a
        failure, after which no other link is closed for its candidate."""
        self.address = candidate.address
        self._since = now
        self.patience: Final = ATTEMPT_PATIENCE if candidate.has_just_left(now) else math.inf
        """Seconds after which it is given up, if `connection_timeout` is not over before."""
        self.scope = trio.CancelScope()
        """Cancelled when others wait for the radio: see `ATTEMPT_PATIENCE`."""
        self._limiters: list[trio.CapacityLimiter] = []
        try:
            for limiter in limiters:
                limiter.acquire_on_behalf_of_nowait(self)
                self._limiters.append(limiter)
        except trio.WouldBlock:
            self._release()
            raise
        candidate.last_attempt = now
        candidate.paced_until = now + ATTEMPT_INTERVAL

    def _release(self) -> None:
        while self._limiters:
            self._limiters.pop().release_on_behalf_of(self)

    @property
    def gives_way_at(self) -> float:
        """When it may be cancelled for others; never, once it has been, or when somebody gave way to it."""
        return math.inf if self.displaces or self.scope.cancel_called else self._since + ATTEMPT_PATIENCE

    def give_up_place(self, places: trio.CapacityLimiter) -> None:
        """Give one limiter back early, if it has it still: a link takes the place in the same step."""
        if places in self._limiters:
            self._limiters.remove(places)
            places.release_on_behalf_of(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.candidate.used_until = trio.current_time()
        self._release()
