"""A soak of half a minute: that its machinery works, and that half a minute neither loses nor leaks."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
import trio

from tests.soak.load import soak
from tests.soak.report import failures, lives, picture, summary

NODES = 3
SECONDS = 20.0
DEADLINE = 300.0
"""Seconds until a run that hangs fails; most of the time the machine waits."""


@pytest.mark.soak
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the nodes look into /proc")
async def test_nothing_that_was_delivered_is_lost_and_nothing_leaks(tmp_path: Path) -> None:
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
