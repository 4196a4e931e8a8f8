"""The harness itself: it counts alike each time, and finds what is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from rns_ble.testing.checkpoints import (
    Place,
    Strike,
    at_every_checkpoint,
    awaits_of,
    scopes_around,
    throw_into,
)
from rns_ble.testing.virtual_time import run_in_virtual_time


async def two_tasks(strike: Strike) -> None:
    async def other() -> None:
        await trio.sleep(1)
        await trio.lowlevel.checkpoint()

    with strike.cancelling():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            await trio.sleep(0.5)
            with trio.CancelScope(shield=True):
                await trio.sleep(1)


def test_every_checkpoint_of_every_task_is_interrupted_once() -> None:
    report = at_every_checkpoint(two_tasks)
    # Two sleeps and the end of the nursery here, a sleep and a checkpoint there.
    assert (report.checkpoints, report.interrupted, report.strayed) == (5, 5, 0)
    lines = {place.line for place in awaits_of(Path(__file__))}
    assert {place.line for place in report.cancelled if place.file == __file__} <= lines
    shielded = {place.line for place in report.shielded - report.cancelled if place.file == __file__}
    assert len(shielded) == 1


def test_without_an_interruption_the_block_is_only_watched() -> None:
    strike = Strike(0)
    run_in_virtual_time(two_tasks, strike, instruments=[strike])
    assert len(strike.trail) == 5
    assert not strike.struck
    assert not strike.cancelled


@pytest.mark.parametrize("every", [True, False])
def test_what_is_left_behind_by_one_cancellation_in_many_is_found(every: bool) -> None:
    async def scenario(strike: Strike) -> None:
        limiter = trio.CapacityLimiter(1)
        with strike.cancelling():
            for _ in range(3):
                await trio.sleep(1)
            await limiter.acquire_on_behalf_of("us")
            await trio.sleep(1)  # nobody gives it back from here
            limiter.release_on_behalf_of("us")
        assert not limiter.borrowed_tokens

    with pytest.raises(AssertionError) as raised:
        at_every_checkpoint(scenario, every=every)
    assert "interrupted at checkpoint 4" in raised.value.__notes__[0]
    assert "test_checkpoints.py" in raised.value.__notes__[0]


def test_checkpoints_of_the_same_awaits_are_left_out_if_asked_for() -> None:
    async def scenario(strike: Strike) -> None:
        with strike.cancelling():
            for _ in range(10):
                await trio.sleep(1)

    assert at_every_checkpoint(scenario).interrupted == 10
    report = at_every_checkpoint(scenario, every=False)
    assert (report.checkpoints, report.interrupted) == (10, 1)


def test_an_await_raises_what_is_thrown_into_it() -> None:
    caught: list[Exception] = []

    async def scenario(strike: Strike) -> None:
        with strike.acting(lambda task: throw_into(task, OSError("thrown"))):
            try:
                await trio.sleep(1)
            except OSError as error:
                caught.append(error)

    at_every_checkpoint(scenario)
    assert [str(error) for error in caught] == ["thrown"]


def test_an_await_that_waits_for_nothing_can_not_fail() -> None:
    thrown: list[bool] = []

    async def scenario(strike: Strike) -> None:
        with strike.acting(lambda task: thrown.append(throw_into(task, OSError("thrown")))):
            await trio.lowlevel.cancel_shielded_checkpoint()

    at_every_checkpoint(scenario)
    assert thrown == [False]


def test_the_scopes_around_a_task_come_from_the_inside_out() -> None:
    seen: list[trio.CancelScope] = []

    async def scenario() -> None:
        with trio.CancelScope() as outer, trio.CancelScope() as inner:
            await trio.lowlevel.checkpoint()
            seen.extend(scopes_around(trio.lowlevel.current_task()))
            assert seen[:2] == [inner, outer]

    run_in_virtual_time(scenario)
    assert len(seen) > 2


def test_the_awaits_of_a_module(tmp_path: Path) -> None:
    source = tmp_path / "module.py"
    source.write_text(
        "async def f(x):\n    await x\n    async with x:\n        async for _ in x:\n            f()\n"
    )
    assert awaits_of(source) == {Place(str(source), line) for line in (2, 3, 4)}
