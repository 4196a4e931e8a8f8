"""The guests run beside all other tests, and their own test comes last: it waits for them.

What fails in one of many guests has a second guest then, alone. What passes only there is told at the end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
import trio

from tests.guest.guests import CHECKOUT, GOODBYE, Guest, Outcome, run_one

HERE: Final = Path(__file__).parent

GENERATIONS: Final = ("5.66", "5.82")
IMPOSSIBLE: Final = 77  # setup's exit status on a machine that can't have the laboratory
WANTED: Final = "RNS_BLE_GUEST"


@dataclass
class Generation:
    """What became of the tests with one BlueZ."""

    counts: Counter[str] = field(default_factory=Counter)
    """Of the first guests."""
    late: list[str] = field(default_factory=list)
    """What passed in a second guest only."""
    failures: list[str] = field(default_factory=list)
    """The output of each guest in which a test failed twice."""


@dataclass(frozen=True)
class Guests:
    """What became of the laboratory, and of the tests in it, if it could be built."""

    setup: Outcome
    generations: dict[str, Generation]


class FirstRound:
    """The process that runs all guests once."""

    def __init__(self, generations: list[str], result: Path) -> None:
        self.generations = generations
        self._result = result
        # That of pytest's own output, which is not captured just now.
        self._output = os.dup(sys.stdout.fileno())
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.guest", str(result), *generations],
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=self._output,
            start_new_session=True,
        )

    def show(self, line: str) -> None:
        os.write(self._output, f"\n{line}".encode())

    def wait(self) -> tuple[Outcome, list[Guest]]:
        status = self._process.wait()
        assert status == 0, f"python -m tests.guest ended with status {status}; its output says why"
        said = json.loads(self._result.read_text())
        guests = [
            Guest(guest["generation"], guest["tests"], Outcome(**guest["outcome"]))
            for guest in said["guests"]
        ]
        return Outcome(**said["setup"]), guests

    def end(self) -> None:
        """End it, if it runs still, and all that it has started."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(2 * GOODBYE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._output)


FIRST_ROUND = pytest.StashKey[FirstRound]()
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
        config.stash[FIRST_ROUND] = FirstRound(generations, factory.mktemp("guests") / "result.json")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if (first := session.config.stash.get(FIRST_ROUND, None)) is not None:
        first.end()


@pytest.fixture(scope="session")
def guests(request: pytest.FixtureRequest) -> Guests:
    """Waits for the guests, and has what failed in them repeated."""
    first = request.config.stash[FIRST_ROUND]
    setup, ran = first.wait()
    generations = {name: Generation() for name in first.generations}
    processor = min(os.sched_getaffinity(0))
    for guest in ran:
        generation = generations[guest.generation]
        generation.counts += guest.outcome.counts
        if not guest.to_repeat:
            continue
        second = trio.run(run_one, guest.generation, processor, first.show, guest.to_repeat)
        if second.outcome.good:
            generation.late += guest.to_repeat
        else:
            generation.failures += [guest.outcome.text, second.outcome.text]
    request.config.stash[GUESTS] = told = Guests(setup, generations if ran else {})
    return told


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if (guests := config.stash.get(GUESTS, None)) is not None and guests.generations:
        terminalreporter.section("tests/bluez in the guest")
        for name, generation in sorted(guests.generations.items()):
            counts = ", ".join(f"{number} {what}" for what, number in sorted(generation.counts.items()))
            terminalreporter.line(f"BlueZ {name}: {counts or 'no test ended'}")
            for test in generation.late:
                terminalreporter.line(f"BlueZ {name}: passed in a second guest, alone: {test}")
