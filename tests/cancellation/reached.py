"""What the tests have reached so far, so that the last one can tell what they have not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import trio

import rns_ble
from rns_ble.testing.checkpoints import Place, Report, Strike, at_every_checkpoint, awaits_of, way_of

PACKAGE: Final = Path(rns_ble.__file__).parent

TAKES_LONG: Final = "takes long: nox -s cancellation"

CANCELLED: set[Place] = set()
"""Where tasks met a cancellation."""
SHIELDED: set[Place] = set()
"""Where tasks were in a shielded scope when it came."""
RAISED: set[Place] = set()
"""Out of which an exception has come that was thrown in, into the mesh."""
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


# --- by place, for what is not the same in each run ---


def awaits_in(modules: Iterable[str]) -> set[Place]:
    """The awaits of these modules of ours, such as `drivers/base`."""
    return {place for module in modules for place in awaits_of(PACKAGE / f"{module}.py")}


class StrikeAt(Strike):
    """Comes when a task is at this place for the first time; None: never."""

    def __init__(self, place: Place | None, *, waiting: bool = False) -> None:
        """`waiting`: the first time that it has to wait there, and does not only let others run."""
        super().__init__(0 if place is None else 1)
        self.place = place
        self.waiting = waiting

    def acting(
        self,
        act: Callable[[trio.lowlevel.Task], None],
        of: Callable[[trio.lowlevel.Task], bool] = lambda _task: True,
    ) -> AbstractContextManager[None]:
        """See `Strike`."""
        if self.place is None:
            return super().acting(act, of)
        return super().acting(
            act,
            lambda task: self.place in way_of(task) and of(task) and (waits(task) or not self.waiting),
        )


def waits(task: trio.lowlevel.Task) -> bool:
    """For something, which may fail."""
    return task._abort_func is not None


def interrupt_at_each(
    scenario: Callable[[Strike], Awaitable[None]], places: set[Place], run: Callable[..., object]
) -> Report:
    """Run a scenario once to its end, and then once for each of the places to which it has come, interrupted
    there.
    """
    watched = StrikeAt(None)
    run(scenario, watched, instruments=[watched])
    report = Report(len(watched.trail))
    for place in sorted({place for way in watched.trail for place in way} & places):
        for waiting in (True, False):
            strike = StrikeAt(place, waiting=waiting)
            try:
                run(scenario, strike, instruments=[strike])
            except BaseException as error:
                error.add_note(f"interrupted at {place}")
                raise
            if strike.struck:
                break
        assert strike.struck, place
        report.interrupted += 1
        report.cancelled |= strike.cancelled
        report.shielded |= strike.shielded
    return report
