"""What the tests have reached so far, so that the last one can tell what they have not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from rns_ble.testing.checkpoints import Place, Report, Strike, at_every_checkpoint

TAKES_LONG: Final = "takes long: nox -s cancellation"

CANCELLED: set[Place] = set()
"""Where tasks met a cancellation."""
SHIELDED: set[Place] = set()
"""Where tasks were in a shielded scope when it came."""
FIGURES: dict[str, Report] = {}
"""By test."""


def interrupt(name: str, scenario: Callable[[Strike], Awaitable[None]], *, every: bool) -> Report:
    """Run a scenario in virtual time, interrupted everywhere; every run is the same up to there."""
    report = at_every_checkpoint(scenario, every=every)
    assert report.interrupted
    assert report.strayed == 0
    note(name, report)
    return report


def note(name: str, report: Report) -> None:
    CANCELLED.update(report.cancelled)
    SHIELDED.update(report.shielded)
    FIGURES[name] = report
