"""What a storm has come to, in figures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Report:
    """Attempts and links are counted at the drivers; the nodes' candidates tell who is blacklisted, and their
    listeners who is connected. Times are virtual seconds.

    Everything here is the same in each run with the same seed.
    """

    nodes: int
    nodes_foreign: int
    """Of these, those of other implementations."""
    seed: int
    neighbours_mean: float
    """Stations in range of a station."""
    neighbours_most: int
    links: int
    """Links that ours dialled and that were established: they lasted 5 s, and joined two stations that were
    not linked just then."""
    links_doubled: int
    """Links between two stations that were linked already: one of them had changed its address."""
    links_short: int
    """Links that did not last 5 s."""
    links_live: int
    """Pairs of stations that are linked at the end."""
    attempts: int
    """Calls of a driver's `connect` by ours."""
    attempts_foreign: int
    """By others, who dial as they always do."""
    attempts_per_link: float
    max_concurrent_attempts_per_address: int
    """Of one station at one address."""
    max_concurrent_attempts_per_address_by_all: int
    """Of all stations together at one address: neighbours may dial the same newcomer at once."""
    healthy_blacklisted: int
    """Times that a station which is there and takes connections was blacklisted by another."""
    connected: bool
    """Whether the graph of live links is in one piece at the end; that of who is in range always is."""
    time_to_connected: float | None
    """Until it first was, with the last station switched on and in spite of all disturbances."""
    attempts_per_minute_steady: float
    """Of all nodes of ours together, in the last two minutes: nothing is lost or moves any more."""
    steps_checked: int
    """Steps of tasks after which the invariants were checked."""
    virtual_seconds: float
