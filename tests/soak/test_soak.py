"""A short soak: that its machinery works, and that so much neither loses nor leaks.

A quarter of a minute with three nodes; with RNS_BLE_SOAK so many seconds with seven.
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest
import trio

from tests.soak.load import Record, soak
from tests.soak.report import failures, growth, lives, picture, summary

SECONDS = float(os.environ.get("RNS_BLE_SOAK", "15"))
NODES = 7 if "RNS_BLE_SOAK" in os.environ else 3
DEADLINE = 300.0 + SECONDS
"""Seconds until a run that hangs fails; most of the time the machine waits."""


@pytest.mark.soak
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the nodes look into /proc")
async def test_nothing_that_was_delivered_is_lost_and_nothing_leaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOAK_VALUES_A_SECOND", "100")
    samples = io.StringIO()
    with trio.fail_after(DEADLINE):
        record = await soak(tmp_path, NODES, SECONDS, samples, seed=1, kills=False)
    assert failures(record) == []
    assert record.counts["links lost"] > 0
    result = summary(record, NODES, SECONDS)
    assert result["ok"] is True
    assert len(samples.getvalue().splitlines()) == len(record.samples) > 2 * NODES
    assert set(lives(record)) == {(number, 1) for number in range(1, NODES + 1)}
    assert picture(record).count("<polyline") == 6 * NODES


# --- the verdict ---


def quiet() -> Record:
    """A record in which all is well."""
    record = Record()
    record.counts.update({"messages delivered": 3, "resources delivered": 1})
    idle = {"fds": 12, "tasks": 20, "rss": 50_000_000, "objects": 100}
    record.idle = {1: (idle, dict(idle))}
    return record


def test_a_quiet_record_is_good() -> None:
    assert failures(quiet()) == []


@pytest.mark.parametrize(("what", "more"), [("fds", 3), ("tasks", 3), ("objects", 61)])
def test_what_has_grown_is_named(what: str, more: int) -> None:
    record = quiet()
    record.idle[1][1][what] += more - 1
    assert failures(record) == []
    record.idle[1][1][what] += 1
    [failure] = failures(record)
    assert failure.startswith(f"node 1: {what} ")


@pytest.mark.parametrize("where", ["lost", "twice", "not_quiet"])
def test_what_is_lost_or_came_twice_or_does_not_rest_is_a_failure(where: str) -> None:
    record = quiet()
    getattr(record, where).append("something")
    assert failures(record) == ["something"]


def test_a_soak_that_delivered_nothing_shows_nothing() -> None:
    record = quiet()
    record.counts.clear()
    assert failures(record) == ["no message was delivered", "no resource was delivered"]


@pytest.mark.parametrize(("megabytes", "bad"), [(20, False), (40, True)])
def test_memory_that_grows_without_reticulums_list_is_named(megabytes: float, bad: bool) -> None:
    record = quiet()
    for second in range(0, 1500, 5):
        hashes = 2000 * second  # 7.2 MB an hour
        rss = 40_000_000 + hashes + round(megabytes * 1e6 / 3600 * second)
        record.samples.append({"node": 1, "life": 1, "seconds": second, "rss": rss, "hashes_bytes": hashes})
    found = [f"memory grows by {megabytes} MB an hour on top of Reticulum's list of packets"]
    assert failures(record) == (found if bad else [])


def test_growth_is_that_after_the_warm_up_of_each_life() -> None:
    record = Record()
    for life, begin in ((1, 0), (2, 2000)):
        for second in range(0, 1500, 5):
            warm = min(second, 500)
            rss = 40_000_000 + 10_000 * warm + (1000 if life == 2 else 0) * max(0, second - 500)
            record.samples.append({"node": 1, "life": life, "seconds": begin + second, "rss": rss, "fds": 12})
    assert growth(record)["rss"] == {
        "median": pytest.approx(1_800_000, rel=0.01),
        "largest": pytest.approx(3_600_000, rel=0.01),
    }
    assert growth(record)["fds"] == {"median": 0, "largest": 0}
