"""Who may be dialled now.

Theory of operation. Every address that advertises our service is a `Candidate`. `Admission.decide` looks at
one candidate and the clock and answers with a `Decision`: dial it, or why not and until when. Nothing else
decides. What is always true:

1. An attempt exists exactly while it borrows its address's limiter (one attempt per address) and the radio's
   (as many as the adapter can establish at once). It begins with one of `max_connections` places as well,
   and gives that to its own link, or to another one that comes in; then it is cancelled. Only an attempt
   to which a peer gave way keeps it. There is no other record of "connecting", so none that could disagree
   or be left behind.
2. The time of an attempt is noted before it starts; pacing counts from there, whatever becomes of it.
3. A link borrows its place from the moment a peer takes it until it has ended, or until it is closed to give
   the place to another.
4. Only a failure of the peer's counts against the peer: an attempt that was cancelled, or that found the
   two adapters linked already, or ours full, does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import trio

from rns_ble import quiet
from rns_ble.candidate import ATTEMPT_INTERVAL, IDENTITY_HOLDS, SEEN_RECENTLY, Attempt, Candidate, Verdict
from rns_ble.config import BLEConfig
from rns_ble.drivers.base import BLEDevice, BLELink, Role
from rns_ble.protocol.advertisement import Capability, parse_capabilities, plain, shown_name
from rns_ble.protocol.direction import Direction, direction
from rns_ble.status import CandidateStatus

log = quiet.logger(__name__)

BLACKLIST_STEPS: Final = 8
"""The blacklist's time grows with each further failure up to this factor (ble-reticulum's figure)."""

FULL_FOR: Final = 600.0
"""Seconds that an adapter which has refused another connection is not asked for one, unless a link of ours
ends. Another program's connection may have ended as well, which nobody tells us."""

TURNED_US_AWAY: Final = "it ended the link before it was of any use"
"""Why an attempt whose link came to nothing has failed."""

_BY_DIRECTION: Final = {
    Direction.NEVER_OURS: Verdict.WE_ARE_PERIPHERAL_ONLY,
    Direction.NEVER_THEIRS: Verdict.CENTRAL_ONLY,
    Direction.BOTH_PERIPHERAL_ONLY: Verdict.BOTH_PERIPHERAL_ONLY,
    Direction.WAIT: Verdict.GRACE,
}


_FLAGS: Final = {
    Capability.PERIPHERAL_ONLY: "peripheral-only",
    Capability.CENTRAL_ONLY: "central-only",
}


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict, and the time (the mesh's clock, seconds) at which it may change by itself."""

    verdict: Verdict
    until: float = math.inf


class Admission:
    """All candidates, and what they may borrow."""

    def __init__(
        self,
        config: BLEConfig,
        candidates: dict[str, Candidate],
        *,
        own_identity: bytes,
        own_address: Callable[[], str | None],
        is_linked: Callable[[str, bytes | None], bool],
        radio_tokens: float,
        longest_silence: float = SEEN_RECENTLY,
        heard_within: float = SEEN_RECENTLY,
        displaces: Callable[[bytes | None], bool] = lambda _identity: False,
    ) -> None:
        """`candidates`: by address; what is known already, and kept up to date here.

        `own_address`: asked at each decision, for it may rotate. `is_linked(address, identity)`: whether
        a live link has that address, or that identity when it is known. `radio_tokens`: how many attempts the
        adapter can have in flight; further ones would only wait for their turn inside the driver, under
        their deadline. `longest_silence`: seconds between two sightings of a peer that has not been away.
        `heard_within`: seconds between two sightings of one that still advertises. Who was not heard for
        longer is not dialled, for it is gone or has no place for us.
        `displaces(identity)`: whether somebody would give it his place, when all are taken.
        """
        self._config = config
        self._own_identity = own_identity
        self._own_address = own_address
        self._is_linked = is_linked
        self._displaces = displaces
        self._longest_silence = longest_silence
        self._heard_within = heard_within
        self.own_capability = Capability.NONE
        """What we are. A peripheral-only node says so in its advertisement; a central-only one has none."""
        if not config.enable_central:
            self.own_capability = Capability.PERIPHERAL_ONLY
        elif not config.enable_peripheral:
            self.own_capability = Capability.CENTRAL_ONLY
        self.candidates = candidates
        self.places = trio.CapacityLimiter(config.max_connections)
        """Borrowed by attempts in flight and by links, in either role."""
        self.radio = trio.CapacityLimiter(radio_tokens)
        self._full_until = -math.inf
        self._warned_both_peripheral_only = False

    # --- sightings ---

    def sighted(self, device: BLEDevice, now: float) -> Candidate | None:
        """Note a sighting. None when its signal strength is unknown, or there is no room to remember it."""
        if device.rssi is None:
            return None
        candidate = self.candidates.get(device.address)
        if candidate is None:
            if len(self.candidates) >= self._config.max_discovered_peers and not self._forget_oldest(now):
                return None
            candidate = Candidate(device.address, seen_since=now, last_seen=now)
            self.candidates[device.address] = candidate
        elif now - candidate.last_seen > self._longest_silence:
            candidate.seen_since = now
        candidate.last_seen = now
        candidate.rssi = device.rssi
        candidate.name = shown_name(device.name) or candidate.name
        candidate.capabilities = parse_capabilities(device.manufacturer_data)
        return candidate

    def _forget_oldest(self, now: float) -> bool:
        forgettable = [
            c
            for c in self.candidates.values()
            if not c.limiter.borrowed_tokens
            and max(c.blacklisted_until, c.paced_until) <= now
            and not self._is_linked(c.address, None)  # a phone's past addresses may go, its link stays
        ]
        if not forgettable:
            return False
        # Invented addresses can be many and new. They do not make us forget whom we know and still hear.
        del self.candidates[min(forgettable, key=lambda c: (self._is_known(c, now), c.last_seen)).address]
        return True

    @staticmethod
    def _is_known(c: Candidate, now: float) -> bool:
        return c.identity is not None and now - c.last_seen <= SEEN_RECENTLY

    # --- decisions ---

    def decide(self, candidate: Candidate, now: float) -> Decision:
        """Whether to dial this candidate now."""
        decision = self._decide(candidate, now)
        if decision.verdict is not candidate.told:
            candidate.told = decision.verdict
            self._tell(candidate, decision.verdict)
        return decision

    def _decide(self, c: Candidate, now: float) -> Decision:
        if c.limiter.borrowed_tokens:
            return Decision(Verdict.IN_FLIGHT)
        if self._is_linked(c.address, None):
            return Decision(Verdict.LINKED)
        if c.identity is not None and now < (holds := c.identified + IDENTITY_HOLDS):
            if c.identity == self._own_identity:
                return Decision(Verdict.OURSELVES, holds)
            if self._is_linked(c.address, c.identity):
                return Decision(Verdict.LINKED, holds)
        if now - c.last_seen > self._heard_within:
            return Decision(Verdict.NOT_SEEN)
        grace_ends = c.seen_since + self._config.dial_grace
        way = direction(
            self._own_address(),
            self.own_capability,
            c.address,
            c.capabilities,
            grace_over=now >= grace_ends,
        )
        if way is not Direction.DIAL:
            return Decision(_BY_DIRECTION[way], grace_ends if way is Direction.WAIT else math.inf)
        if c.rssi is None or c.rssi < self._config.min_rssi:
            return Decision(Verdict.TOO_WEAK)
        if now < c.blacklisted_until:
            return Decision(Verdict.BLACKLISTED, c.blacklisted_until)
        if now < c.paced_until:
            return Decision(Verdict.PACED, c.paced_until)
        if c.last_seen < c.used_until:
            return Decision(Verdict.NOT_SEEN_SINCE)
        if now < self._full_until:
            return Decision(Verdict.ADAPTER_FULL, self._full_until)
        # Who could not be reached the last time has nobody's link closed for another try.
        if not self.places.available_tokens and (c.failures or not self._displaces(c.identity)):
            return Decision(Verdict.NO_PLACE)
        if self.places.available_tokens == 1 and self._keeps_last_place(c):
            return Decision(Verdict.LAST_PLACE)
        if not self.radio.available_tokens:
            return Decision(Verdict.RADIO_BUSY, min(attempt.gives_way_at for attempt in self._attempts()))
        return Decision(Verdict.DIAL)

    def _keeps_last_place(self, c: Candidate) -> bool:
        """Whether we wait to be dialled rather than give our last place to this candidate.

        Nodes that come one by one would else fill up with one another: eight of them, all linked to all, have
        no place for a ninth, who could never reach anybody. As it is, of any nodes that are linked somehow
        the one that dialled last has a place for whoever comes next.
        """
        can_dial_us = self._config.enable_peripheral and Capability.PERIPHERAL_ONLY not in c.capabilities
        return can_dial_us and self.places.borrowed_tokens > 0

    def _tell(self, candidate: Candidate, verdict: Verdict) -> None:
        if verdict is Verdict.BOTH_PERIPHERAL_ONLY and not self._warned_both_peripheral_only:
            self._warned_both_peripheral_only = True
            log.warning(
                "%s is peripheral-only and so are we: neither side dials."
                " Set enable_central = yes on one of them.",
                candidate.address,
            )
        elif verdict in (Verdict.IN_FLIGHT, Verdict.RADIO_BUSY):
            log.debug("%s not dialled: %s; in flight: %s", candidate.address, verdict.value, self.in_flight())
        else:
            log.debug("%s: %s", candidate.address, verdict.value)

    def in_flight(self) -> list[str]:
        """The addresses of the attempts in flight."""
        return [attempt.address for attempt in self._attempts()]

    def _attempts(self) -> Iterator[Attempt]:
        for borrower in self.radio.statistics().borrowers:
            assert isinstance(borrower, Attempt)
            yield borrower

    def due(self, now: float) -> tuple[list[Candidate], float]:
        """Those to dial now, best first, and when to ask again at the latest.

        Attempts that had their time while others wait for the radio are cancelled.
        """
        ready = []
        ask_again = math.inf
        waiting = False
        for candidate in self.candidates.values():
            decision = self.decide(candidate, now)
            if decision.verdict is Verdict.DIAL:
                ready.append(candidate)
            ask_again = min(ask_again, decision.until)
            waiting = waiting or decision.verdict is Verdict.RADIO_BUSY
        if waiting:
            for attempt in self._attempts():
                if now >= attempt.gives_way_at:
                    log.debug("%s given up for others that wait", attempt.address)
                    attempt.scope.cancel()
        ready.sort(key=lambda candidate: candidate.rank(now), reverse=True)
        return ready, ask_again

    # --- attempts ---

    def begin(self, candidate: Candidate, now: float, *, displaces: bool = False) -> Attempt:
        """Record an attempt and borrow what it needs. Raises `trio.WouldBlock`, having borrowed nothing."""
        return Attempt(candidate, (candidate.limiter, self.radio, self.places), now, displaces=displaces)

    def failed(self, candidate: Candidate, now: float, why: str, *, turned_us_away: bool = False) -> None:
        """The peer could not be reached or, if `turned_us_away`, dropped a link before it was of any use.

        `why`: what a user reads beside the verdict; it may have texts from the air in it.

        Only several of one kind in a row tell something. A peer that was full just now, and then was not
        heard twice, is in order.
        """
        if turned_us_away is not candidate.turned_us_away:
            candidate.turned_us_away = turned_us_away
            candidate.failures = 0
        candidate.attempts += 1
        candidate.failures += 1
        candidate.last_failure = plain(why)
        excess = candidate.failures - self._config.max_connection_failures
        if excess >= 0:
            seconds = self._config.connection_retry_backoff * min(excess + 1, BLACKLIST_STEPS)
            candidate.blacklisted_until = now + seconds
            log.debug(
                "%s failed %d times: left alone for %g s", candidate.address, candidate.failures, seconds
            )

    def succeeded(self, candidate: Candidate) -> None:
        """A link to it has proved useful."""
        candidate.attempts += 1
        candidate.successes += 1
        candidate.failures = 0
        candidate.last_failure = None
        candidate.blacklisted_until = -math.inf

    def adapter_full(self, now: float) -> None:
        """The adapter has refused an attempt, for it holds as many connections as it can: fewer than
        `max_connections`, or others have some of them.
        """
        self._full_until = now + FULL_FOR

    # --- links ---

    def identified(self, address: str, identity: bytes, now: float) -> None:
        """A link to this address has told its identity."""
        if (candidate := self.candidates.get(address)) is not None:
            candidate.identity = identity
            candidate.identified = now

    def take_place(self, link: BLELink, attempt: Attempt | None) -> bool:
        """Give the link a place: its attempt's, a free one, or another attempt's, which is cancelled.

        A link that is there is worth more than one that may come; and who is turned away has dialled in vain,
        counts that as our failure, and dials again. False: links have taken `max_connections`.
        """
        if attempt is None and not self.places.available_tokens:
            attempts = (b for b in self.places.statistics().borrowers if isinstance(b, Attempt))
            attempt = next((attempt for attempt in attempts if not attempt.displaces), None)
            if attempt is not None:
                log.debug("%s given up for the link to %s", attempt.address, link.address)
                attempt.scope.cancel()
        if attempt is not None:
            attempt.give_up_place(self.places)
        try:
            self.places.acquire_on_behalf_of_nowait(link)
        except trio.WouldBlock:
            return False
        return True

    def lose_place(self, link: BLELink) -> None:
        """Take its place from a link, for another or because it has ended. Idempotent."""
        if link in self.places.statistics().borrowers:
            self.places.release_on_behalf_of(link)

    def has_place(self, address: str) -> bool:
        """Whether a link with this address has a place, also one that is being closed."""
        return any(
            isinstance(borrower, BLELink) and borrower.address == address
            for borrower in self.places.statistics().borrowers
        )

    def link_ended(self, link: BLELink, identity: bytes, now: float, *, proven: bool) -> None:
        """The link has ended: its place is free, and the dial grace of its peer begins anew.

        `proven`: it was of use, so an attempt that led to it was a success; else it was a failure.
        """
        self.lose_place(link)
        self._full_until = -math.inf
        if link.role is Role.CENTRAL and (dialled := self.candidates.get(link.address)) is not None:
            if proven:
                self.succeeded(dialled)
            else:
                self.failed(dialled, now, TURNED_US_AWAY, turned_us_away=True)
                dialled.paced_until = now + ATTEMPT_INTERVAL
        for candidate in self.candidates.values():
            if candidate.address == link.address or candidate.identity == identity:
                candidate.seen_since = candidate.used_until = now

    # --- status ---

    def status(self, now: float) -> tuple[CandidateStatus, ...]:
        """Every candidate, best first."""
        rows = []
        for c in sorted(self.candidates.values(), key=lambda c: c.rank(now), reverse=True):
            decision = self._decide(c, now)
            rows.append(
                CandidateStatus(
                    address=c.address,
                    name=c.name,
                    rssi=c.rssi,
                    seen=now - c.last_seen,
                    identity=c.identity.hex() if c.identity else None,
                    attempts=c.attempts,
                    failures=c.failures,
                    verdict=decision.verdict.name.lower(),
                    verdict_text=decision.verdict.value,
                    verdict_ends=None if math.isinf(decision.until) else decision.until - now,
                    flags=_FLAGS.get(c.capabilities),
                    left_alone=max(0.0, c.blacklisted_until - now),
                    tried=None if math.isinf(c.last_attempt) else now - c.last_attempt,
                    last_failure=c.last_failure,
                )
            )
        return tuple(rows)
