"""Interrupt a program at each of its checkpoints, one after the other: is nothing ever left behind?

A checkpoint is a moment in which a task has come to an `await` that waits, or lets others run. A program
on Trio can be cancelled there and nowhere else, so a scenario that was cancelled once at every checkpoint has
met every cancellation it can meet. In virtual time it is the same scenario each time, up to the interruption.

::

    async def scenario(strike: Strike) -> None:
        async with MockBLEDriver(air, "02:00:00:00:00:01") as driver:
            with strike.cancelling():
                link = await driver.connect(address)
                await link.aclose()
            assert not driver.connected_peers

    report = at_every_checkpoint(scenario)

`at_every_checkpoint` runs it once to its end, and then once for each checkpoint that it has met. Its report
says at which lines of which files a task was cancelled. `awaits_of` lists all such lines of a module, so that
a test can tell which of them no scenario has reached.

Trio's own attributes that are used here are private; where they change,
the tests of this module fail.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple, NoReturn

import trio

from rns_ble.testing.virtual_time import run_in_virtual_time


class Place(NamedTuple):
    """A line of source at which a task waits."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{Path(self.file).name}:{self.line}"


Way = tuple[Place, ...]
"""The awaits in which a task is, innermost first."""


def _any(_task: trio.lowlevel.Task) -> bool:
    return True


class Strike(trio.abc.Instrument):
    """One interruption to come: at the checkpoint with this number, counted from 1 inside of a block.

    0: it never comes, and the block is only watched.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.trail: list[Way] = []
        """The checkpoints so far: where each task was that had come to one."""
        self.struck = False
        """Whether the interruption has come."""
        self.cancelled: set[Place] = set()
        """Where tasks met the cancellation."""
        self.shielded: set[Place] = set()
        """Where tasks were, or have come to, in spite of it: in a shielded scope."""
        self._act: Callable[[trio.lowlevel.Task], None] | None = None
        self._of: Callable[[trio.lowlevel.Task], bool] = _any
        self._scopes: list[Any] = []  # the cancel statuses of the scopes that were struck

    @contextmanager
    def cancelling(self) -> Iterator[trio.CancelScope]:
        """A block that is cancelled at the checkpoint. All tasks count, as long as the block lasts."""
        with trio.CancelScope() as scope:
            try:
                with self.acting(lambda _task: self.cancel(scope)):
                    yield scope
            finally:
                self._scopes.clear()  # what the block's end waits for is its own

    @contextmanager
    def acting(
        self,
        act: Callable[[trio.lowlevel.Task], None],
        of: Callable[[trio.lowlevel.Task], bool] = _any,
    ) -> Iterator[None]:
        """A block during which the checkpoints of all tasks count, or only those of some, and at the one in
        question `act` is called with the task that has just come to it. Neither `act` nor `of` may raise.
        """
        self._act, self._of = act, of
        try:
            yield
        finally:
            self._act, self._of = None, _any

    def cancel(self, scope: trio.CancelScope) -> None:
        """For `act`: cancel a scope, and note which awaits meet it."""
        status = scope._cancel_status
        if status is None:
            return  # it has not been entered, or was left already
        # Whoever runs anyway meets it at its next await.
        waiting = [task for task in tasks_below(status) if task._abort_func is not None]
        scope.cancel()
        self._scopes.append(status)
        for task in waiting:
            self._note(task)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """From Trio: a task has come to a checkpoint, or to its end."""
        if getattr(task.coro, "cr_frame", None) is None:
            return  # it has ended
        if self._scopes and any(status.encloses(task._cancel_status) for status in self._scopes):
            self._note(task)
        if self._act is None:
            return
        if not self._of(task):
            return
        if self.struck:
            return
        self.trail.append(way_of(task))
        if len(self.trail) == self.number:
            self.struck = True
            self._act(task)

    def _note(self, task: trio.lowlevel.Task) -> None:
        met = self.cancelled if task._cancel_status.effectively_cancelled else self.shielded
        met.update(way_of(task))


def way_of(task: trio.lowlevel.Task) -> Way:
    """The awaits in which a task is, innermost first."""
    return tuple(Place(frame.f_code.co_filename, line) for frame, line in task.iter_await_frames())[::-1]


def who_waits(task: trio.lowlevel.Task) -> CodeType | None:
    """The innermost code of a waiting task, without Trio's, and trio-asyncio's for what asyncio does."""
    codes = [frame.f_code for frame, _line in task.iter_await_frames()]
    while codes and (
        f"{os.sep}trio{os.sep}" in codes[-1].co_filename or codes[-1].co_name.startswith("run_aio")
    ):
        codes.pop()
    return codes[-1] if codes else None


def scopes_around(task: trio.lowlevel.Task) -> Iterator[trio.CancelScope]:
    """The cancel scopes in which a task is, innermost first; those of nurseries, too."""
    status: Any = task._cancel_status
    while status is not None:
        yield status._scope
        status = status.parent


def throw_into(task: trio.lowlevel.Task, error: Exception) -> bool:
    """Have the await at which a task waits raise this, as if what it waits for had failed.

    False: it waits for nothing, but only lets other tasks run.
    """

    def throw() -> NoReturn:
        raise error

    if task._abort_func is None:
        return False
    task._attempt_abort(throw)
    return True


def tasks_below(status: Any) -> Iterator[trio.lowlevel.Task]:
    """All tasks under the cancel status of a scope."""
    yield from status.tasks
    for child in status.children:
        yield from tasks_below(child)


@dataclass
class Report:
    """What `at_every_checkpoint` has done."""

    checkpoints: int
    """Of the scenario when it is not interrupted."""
    interrupted: int = 0
    """How many of them were interrupted, each in a run of its own."""
    strayed: int = 0
    """How many of these runs came by another way to their checkpoint: 0 in virtual time."""
    cancelled: set[Place] = field(default_factory=set)
    """Where tasks met a cancellation."""
    shielded: set[Place] = field(default_factory=set)
    """Where tasks were in a shielded scope when it came, or came to during it."""


def at_every_checkpoint(
    scenario: Callable[[Strike], Awaitable[None]],
    *,
    every: bool = True,
    run: Callable[..., object] = run_in_virtual_time,
    **keywords: Any,
) -> Report:
    """Run the scenario once to its end, and then again for each checkpoint, interrupted there.

    `every`: False leaves out the checkpoints to which a task came by the same awaits as to one before, which
    is faster by far and still meets every await. `run` is what runs an async function on Trio; it gets
    `instruments` and all other keywords. What a run raises is raised here, with a note that tells the
    checkpoint.
    """
    trail = _strike(scenario, Strike(0), run, keywords).trail
    report = Report(len(trail))
    seen: set[Way] = set()
    for number, way in enumerate(trail, 1):
        if not every and way in seen:
            continue
        seen.add(way)
        strike = _strike(scenario, Strike(number), run, keywords)
        report.interrupted += strike.struck
        report.strayed += strike.trail != trail[:number]
        report.cancelled |= strike.cancelled
        report.shielded |= strike.shielded
    return report


def _strike(
    scenario: Callable[[Strike], Awaitable[None]],
    strike: Strike,
    run: Callable[..., object],
    keywords: dict[str, Any],
) -> Strike:
    try:
        run(scenario, strike, instruments=[strike], **keywords)
    except BaseException as error:
        if strike.struck:
            way = " < ".join(map(str, strike.trail[-1]))
            error.add_note(f"interrupted at checkpoint {strike.number}: {way}")
        raise
    return strike


def awaits_of(source: Path) -> set[Place]:
    """Every line of a module on which it waits: `await`, `async for` and `async with`."""
    waits = (ast.Await, ast.AsyncFor, ast.AsyncWith)
    tree = ast.parse(source.read_text(encoding="utf-8"))
    lines = {node.lineno for node in ast.walk(tree) if isinstance(node, waits)}
    return {Place(str(source), line) for line in lines}
