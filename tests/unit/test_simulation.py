"""Storms small enough for every day; that of 500 nodes is `benchmarks/storm.py`."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

import rns_ble.candidate
from rns_ble.admission import Admission
from rns_ble.candidate import Attempt
from rns_ble.mesh import Mesh
from rns_ble.peer import Peer
from rns_ble.testing.simulation import Conditions, InvariantViolation, Storm, storm
from rns_ble.testing.simulation.world import RANGE, connected, scatter

ROUGH = Conditions(connects_lost=0.05, flaps=1.0, rotation=120.0)
"""Rougher than any day: each node loses a neighbour once a minute, telephones change address every two."""


@pytest.mark.parametrize("seed", range(4))
def test_a_storm_of_ten(seed: int) -> None:
    report = storm(Storm(10, seed, disturbed=120, steady=30, conditions=ROUGH))
    assert report.max_concurrent_attempts_per_address == 1
    assert report.healthy_blacklisted == 0
    assert report.connected
    assert report.attempts_per_minute_steady == 0
    assert report.steps_checked > 5_000


def test_a_storm_of_fifty() -> None:
    report = storm(Storm(50, 1, disturbed=30, steady=30))
    assert report.neighbours_most > 7, "or max_connections would not matter"
    assert report.max_concurrent_attempts_per_address == 1
    assert report.attempts_per_link <= 1.5
    assert report.healthy_blacklisted == 0
    assert report.connected
    assert report.attempts_per_minute_steady < 1


@pytest.mark.parametrize("seed", [1, 2])
def test_a_storm_of_weak_radios(seed: int) -> None:
    """Two in five have a shorter range, and a controller that is full before `max_connections` is reached."""
    report = storm(Storm(50, seed, disturbed=30, steady=30, weak=0.4))
    assert report.max_concurrent_attempts_per_address == 1
    assert report.attempts_per_link <= 1.5
    assert report.healthy_blacklisted == 0
    assert report.attempts_per_minute_steady < 1


def test_the_same_seed_gives_the_same_storm_and_another_another() -> None:
    setting = Storm(6, 5, disturbed=40, steady=1, conditions=ROUGH)
    assert storm(setting) == storm(setting)
    other = storm(replace(setting, seed=6))
    assert replace(other, seed=5) != storm(setting)


@pytest.mark.parametrize("seed", [0, 1])
def test_who_comes_late_into_a_crowd_finds_a_place(seed: int) -> None:
    """Ten in one room, one after the other: the first eight must not close themselves to the rest."""
    calm = Conditions(flaps=0.0, rotation=10_000.0)
    report = storm(Storm(10, seed, neighbours=1000, arriving=300, disturbed=300, steady=1, conditions=calm))
    assert report.neighbours_mean == 9
    assert report.connected
    assert report.attempts_per_link <= 1.5


def break_pacing(monkeypatch) -> None:
    monkeypatch.setattr(rns_ble.candidate, "ATTEMPT_INTERVAL", 1.0)


def forget_links(monkeypatch) -> None:
    monkeypatch.setattr(Mesh, "_is_linked", lambda *_: False)


def keep_the_radio(monkeypatch) -> None:
    def release(attempt: Attempt) -> None:
        while len(attempt._limiters) > 2:
            attempt._limiters.pop().release_on_behalf_of(attempt)
        attempt._limiters.pop(0).release_on_behalf_of(attempt)

    monkeypatch.setattr(Attempt, "_release", release)


def take_places_for_nothing(monkeypatch) -> None:
    monkeypatch.setattr(Admission, "take_place", lambda *_: True)


def never_leave(monkeypatch) -> None:
    monkeypatch.setattr(Mesh, "peer_ended", lambda mesh, peer: mesh.peers.pop(peer.identity))


def serve_two_peers(monkeypatch) -> None:
    adopt = Mesh._adopt

    def adopt_anew(mesh: Mesh, *arguments) -> bool:
        mesh.peers.clear()
        return adopt(mesh, *arguments)

    monkeypatch.setattr(Mesh, "_adopt", adopt_anew)
    monkeypatch.setattr(Peer, "links", property(lambda peer: list(peer._sessions)))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_pacing, "s after the attempt before"),
        (forget_links, "whose identity is linked"),
        (keep_the_radio, "an attempt without the limiter of its address"),
        (take_places_for_nothing, "without a place"),
        (never_leave, "a second interface for"),
        (serve_two_peers, "a second interface for"),
    ],
)
def test_a_mesh_that_breaks_a_rule_is_caught(damage, message: str, monkeypatch) -> None:
    damage(monkeypatch)
    with pytest.raises(InvariantViolation, match=rf"{message}.*<Node \d .* s, seed 3\)"):
        storm(Storm(6, 3, conditions=replace(ROUGH, flaps=6.0)))


def test_places_are_random_and_in_one_piece() -> None:
    places = scatter([RANGE] * 100, 5, random.Random(1))
    edges = [
        (one, other)
        for one in range(100)
        for other in range(one)
        if math.dist(places[one], places[other]) <= RANGE
    ]
    assert len(connected(100, edges)) == 1
    assert connected(4, [(0, 1), (2, 3)]) == [[0, 1], [2, 3]]
    assert scatter([RANGE] * 100, 5, random.Random(2)) != places
