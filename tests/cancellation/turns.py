"""Threads and tasks take turns, so that a program on both runs in virtual time, and the same way each time.

Which of two threads comes first is then no matter of luck: either a thread goes on only when all tasks wait,
or, where threads are `prompt`, at once, and is over before the task that has started it does anything else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

import outcome
import pytest
import trio
import trio.testing

from rns_ble.testing.virtual_time import run_in_virtual_time

T = TypeVar("T")

PATIENCE: Final = 60.0
"""Real seconds for a thread whose turn it is to end or to wait: only one that is stuck needs longer."""


class _Turn:
    """One to come: of a thread that waits for it."""

    def __init__(self, condition: Callable[[], object] = lambda: True) -> None:
        self.condition = condition
        self.given = threading.Event()


class Turns:
    """Of the threads that are started with `trio.lowlevel.start_thread_soon`, and of the tasks."""

    def __init__(self, *, prompt: bool = False) -> None:
        self._prompt = prompt
        self._awaited: list[_Turn] = []
        self._over = threading.Semaphore(0)

    def run(self, async_function: Callable[..., Any], *arguments: Any, **keywords: Any) -> None:
        """As `run_in_virtual_time`."""

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._give_turns)
                await async_function(*arguments)
                nursery.cancel_scope.cancel()

        start = trio.lowlevel.start_thread_soon

        def start_in_turn(
            function: Callable[[], T],
            deliver: Callable[[outcome.Outcome[T]], object],
            name: str | None = None,
        ) -> None:
            turn = _Turn()

            def work() -> T:
                turn.given.wait()
                return function()

            def end(ended: outcome.Outcome[T]) -> None:
                deliver(ended)
                self._over.release()

            start(work, end, name)
            if self._prompt:
                self._give(turn)
            else:
                self._awaited.append(turn)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trio.lowlevel, "start_thread_soon", start_in_turn)
            try:
                run_in_virtual_time(main, **keywords)
            finally:
                for turn in self._awaited:  # of a test that has failed
                    turn.given.set()

    def wait_until(self, condition: Callable[[], object]) -> None:
        """On such a thread, in its turn: the others go on, and time passes."""
        turn = _Turn(condition)
        self._awaited.append(turn)
        self._over.release()
        turn.given.wait()

    def _give(self, turn: _Turn) -> None:
        turn.given.set()
        assert self._over.acquire(timeout=PATIENCE)

    async def _give_turns(self) -> None:
        while True:
            await trio.testing.wait_all_tasks_blocked()
            turn = next((turn for turn in self._awaited if turn.condition()), None)
            if turn is None:
                await trio.sleep(0.005)
            else:
                self._awaited.remove(turn)
                self._give(turn)
