"""A short siege: the long one is `nox -s fuzz -- --values 10000000`."""

from __future__ import annotations

import pytest

from rns_ble.quiet import LINES, WINDOW
from tests.fuzz.siege import lay_siege

KINDS = 40
"""Texts that an attacker can have logged, at most."""


@pytest.mark.parametrize("seed", [1, 2])
def test_a_node_under_siege_serves_its_peer_and_keeps_its_bounds(seed: int) -> None:
    report = lay_siege(50_000, seed)
    assert report.values >= 50_000
    assert report.links > 50
    assert report.honest_packets > 30
    assert report.log_lines <= KINDS * LINES * (report.virtual_seconds / WINDOW + 1)
    # They were met, or the siege has not tried hard.
    assert report.bytes_in_progress_most > 200_000
    assert report.packets_in_progress_most == 8
    assert report.candidates_most == 100
    assert report.places_most == 7


def test_a_siege_is_the_same_each_time() -> None:
    one, other = lay_siege(5_000, 3), lay_siege(5_000, 3)
    for report in (one, other):
        report.cpu_seconds = report.values_per_second = report.cpu_seconds_per_megabyte = 0
    assert one == other


def test_memory_stays_bounded() -> None:
    """Of the whole process, 7 links and 100 candidates: 40 of 256 KiB each at most."""
    assert lay_siege(10_000, 4, trace=True).traced_peak_bytes < 10e6
