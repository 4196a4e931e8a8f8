"""The guests run beside all other tests, and their own test comes last: it waits for them.

The laboratory is built before, for that keeps every processor busy, and other tests would be late. What
fails in one of many guests has another one at the end, or two. What passes only there is told.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar, TypeVarTuple

import pytest
import trio

from tests.guest.guests import CHECKOUT, GOODBYE, Guest, Outcome, build, run_again

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

HERE: Final = Path(__file__).parent

GENERATIONS: Final = ("5.66", "5.82")
REPEATS: Final = 2
"""More guests at most for what fails in its first one: bluetoothd 5.82 crashes by itself now and then where
links are interrupted (docs/bluez-lab.md), in about one of ten guests that do little else."""

IMPOSSIBLE: Final = 77  # setup's exit status on a machine that can't have the laboratory
WANTED: Final = "RNS_BLE_GUEST"


@dataclass
class Generation:
    """What became of the tests with one BlueZ."""

    counts: Counter[str] = field(default_factory=Counter)
    """Of the first guests."""
    late: list[str] = field(default_factory=list)
    """What passed in another guest only."""
    failures: list[str] = field(default_factory=list)
    """The output of each guest, where a test failed in all of them."""


@dataclass(frozen=True)
class Guests:
    """What became of the laboratory, and of the tests in it, if it could be built."""

    setup: Outcome
    generations: dict[str, Generation]


class FirstRound:
    """The process that runs all guests once."""

    def __init__(self, generations: list[str], result: Path, output: int) -> None:
        self._result = result
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.guest", str(result), *generations],
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=output,
            start_new_session=True,
        )

    def wait(self) -> list[Guest]:
        status = self._process.wait()
        assert status == 0, f"python -m tests.guest ended with status {status}; its output says why"
        return [
            Guest(guest["generation"], guest["tests"], Outcome(**guest["outcome"]))
            for guest in json.loads(self._result.read_text())
        ]

    def end(self) -> None:
        """End it, if it runs still, and all that it has started."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(2 * GOODBYE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _run(function: Callable[[*Ts], Awaitable[T]], *arguments: *Ts) -> T:
    """`trio.run`, interrupted in the way that pytest looks for: not in a group."""
    try:
        return trio.run(function, *arguments)
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise


class Rounds:
    """The laboratory, and the guests that run in it."""

    def __init__(self, generations: list[str], result: Path) -> None:
        """Builds the laboratory where it is not there, and begins the first round."""
        self._generations = generations
        # That of pytest's own output, which is not captured just now.
        self._output = os.dup(sys.stdout.fileno())
        self._setup = _run(build, generations, self._show)
        self._first = None if self._setup.status else FirstRound(generations, result, self._output)

    def _show(self, line: str) -> None:
        os.write(self._output, f"\n{line}".encode())

    def all(self) -> Guests:
        """What became of them, when all have run and what failed was repeated."""
        generations = {name: Generation() for name in self._generations}
        first = self._first.wait() if self._first is not None else []
        for guest in first:
            generations[guest.generation].counts += guest.outcome.counts
        failed = [guest for guest in first if guest.failed]
        for guest, again in zip(failed, _run(run_again, failed, REPEATS, self._show), strict=True):
            generation = generations[guest.generation]
            if again[-1].outcome.good:
                generation.late += guest.failed
            else:
                generation.failures += [each.outcome.text for each in (guest, *again)]
        return Guests(self._setup, generations)

    def end(self) -> None:
        if self._first is not None:
            self._first.end()
        os.close(self._output)


ROUNDS = pytest.StashKey[Rounds]()
GUESTS = pytest.StashKey[Guests]()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: HERE in item.path.parents)


def pytest_collection_finish(session: pytest.Session) -> None:
    config = session.config
    chosen = {
        item.callspec.params["generation"]
        for item in session.items
        if isinstance(item, pytest.Function) and HERE in item.path.parents
    }
    generations = [generation for generation in GENERATIONS if generation in chosen]
    if WANTED in os.environ and generations and not config.option.collectonly:
        factory: pytest.TempPathFactory = config._tmp_path_factory  # type: ignore[attr-defined]
        config.stash[ROUNDS] = Rounds(generations, factory.mktemp("guests") / "result.json")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if (rounds := session.config.stash.get(ROUNDS, None)) is not None:
        rounds.end()


@pytest.fixture(scope="session")
def guests(request: pytest.FixtureRequest) -> Guests:
    """Waits for them."""
    request.config.stash[GUESTS] = guests = request.config.stash[ROUNDS].all()
    return guests


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if (guests := config.stash.get(GUESTS, None)) is not None and not guests.setup.status:
        terminalreporter.section("tests/bluez in the guest")
        for name, generation in sorted(guests.generations.items()):
            counts = ", ".join(f"{number} {what}" for what, number in sorted(generation.counts.items()))
            terminalreporter.line(f"BlueZ {name}: {counts or 'no test ended'}")
            for test in generation.late:
                terminalreporter.line(f"BlueZ {name}: passed in another guest only: {test}")
