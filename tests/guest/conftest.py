"""The laboratory, and the guests: one for each file of tests, with each generation of BlueZ.

Two for each processor run at a time, for they mostly wait. With so many kernels something can be late
without being wrong; so tests that fail there have a second guest when all others have ended, alone.
What passes only then is told at the end.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import pytest
import trio

HERE: Final = Path(__file__).parent
CHECKOUT: Final = HERE.parents[1]
LAB: Final = CHECKOUT / "tests" / "bluez" / "lab"

GENERATIONS: Final = ("5.66", "5.82")
CONTROLLERS: Final = "4"  # a peripheral and three centrals
TIME_LIMIT: Final = "900"  # seconds; a guest that hangs is stopped then, and its output shown
HANGS: Final = "faulthandler_timeout=180"  # seconds in one test, after which pytest shows where it stands
IMPOSSIBLE: Final = 77  # setup's exit status on a machine that can't have the laboratory
LAST_LINE: Final = re.compile(r"=+ .*\d (passed|failed|skipped|error).* in \d")  # pytest's
COUNT: Final = re.compile(r"(\d+) (passed|failed|skipped|error)")
FAILED: Final = re.compile(r"(?:FAILED|ERROR) (tests/.+?)(?: - |$)")
GOODBYE: Final = 10  # seconds that a guest, or the build, may take to end when it is interrupted

Show = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """How something ended, and every line that it printed."""

    status: int
    lines: list[str]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def counts(self) -> Counter[str]:
        """How many tests passed, were skipped and failed; empty when pytest did not get that far."""
        last = next((line for line in reversed(self.lines) if LAST_LINE.match(line)), "")
        return Counter({what: int(number) for number, what in COUNT.findall(last)})

    @property
    def good(self) -> bool:
        return self.status == 0 and bool(self.counts)

    @property
    def failed(self) -> list[str]:
        """The tests that failed, by pytest's names for them."""
        return [match[1] for line in self.lines if (match := FAILED.match(line))]


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


GUESTS = pytest.StashKey[Guests]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if (guests := config.stash.get(GUESTS, None)) is not None and guests.generations:
        terminalreporter.section("tests/bluez in the guest")
        for name, generation in sorted(guests.generations.items()):
            counts = ", ".join(f"{number} {what}" for what, number in sorted(generation.counts.items()))
            terminalreporter.line(f"BlueZ {name}: {counts or 'no test ended'}")
            for test in generation.late:
                terminalreporter.line(f"BlueZ {name}: passed in a second guest, alone: {test}")


def _generations(session: pytest.Session) -> list[str]:
    """Those whose test is among those to be run."""
    chosen = {
        item.callspec.params["generation"]
        for item in session.items
        if isinstance(item, pytest.Function) and HERE in item.path.parents
    }
    return [generation for generation in GENERATIONS if generation in chosen]


@pytest.fixture(scope="session")
def guests(request: pytest.FixtureRequest) -> Guests:
    """Builds the laboratory, and runs the guests. What takes minutes tells, line by line, what it does."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    stash = request.config.stash

    def show(line: str) -> None:
        with capture.global_and_fixture_disabled():
            sys.stdout.write(f"\n{line}")
            sys.stdout.flush()

    try:
        stash[GUESTS] = trio.run(_run_all, _generations(request.session), show)
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt):
            raise KeyboardInterrupt from None  # which pytest does not look for in a group
        raise
    return stash[GUESTS]


async def _run_all(names: list[str], show: Show) -> Guests:
    setup = await _run(["bash", str(LAB / "setup"), *names], show)
    if setup.status != 0:
        return Guests(setup, {})
    generations = {name: Generation() for name in names}
    processors = sorted(os.sched_getaffinity(0))
    to_do = iter(list(itertools.product(_files(), names)))
    again: list[tuple[str, list[str], Outcome]] = []

    async def work(processor: int) -> None:
        for file, name in to_do:
            outcome = await _run_guest(name, processor, show, [file])
            generations[name].counts += outcome.counts
            if not outcome.good:
                again.append((name, outcome.failed or [file], outcome))

    async with trio.open_nursery() as nursery:
        for processor in (*processors, *processors):
            nursery.start_soon(work, processor)
    for name, tests, first in again:
        generation = generations[name]
        second = await _run_guest(name, processors[0], show, tests)
        if second.good:
            generation.late += tests
        else:
            generation.failures += [first.text, second.text]
    return Guests(setup, generations)


def _files() -> list[str]:
    """The long ones first, so that none is left over at the end."""
    files = (CHECKOUT / "tests" / "bluez").glob("test_*.py")
    return [str(file.relative_to(CHECKOUT)) for file in sorted(files, key=lambda file: -file.stat().st_size)]


async def _run_guest(generation: str, processor: int, show: Show, tests: list[str]) -> Outcome:
    def progress(line: str) -> None:
        if line.startswith("tests/"):
            show(f"BlueZ {generation}: {line}")
        elif line.startswith("  BlueZ "):
            show(line.strip())  # a figure that a test gives

    boot = ["bash", str(LAB / "boot"), "--bluez", generation, "-n", CONTROLLERS, "-t", TIME_LIMIT]
    pytest_ = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-o", HANGS, *tests]
    outcome = await _run(
        ["taskset", "-c", str(processor), *boot, "--python", sys.executable, *pytest_], progress
    )
    if not outcome.good:
        for test in outcome.failed or tests:
            show(f"BlueZ {generation}: failed: {test}")
    return outcome


async def _run(command: list[str], show: Show) -> Outcome:
    """Runs a command, and shows each line when it comes. Cancelled: ends it, and all that it has started."""
    lines = []
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(
            partial(
                trio.run_process,
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
                cwd=CHECKOUT,
                start_new_session=True,
                deliver_cancel=_end,
            )
        )
        assert process.stdout is not None
        async for line in _lines(process.stdout):
            lines.append(line)
            show(line)
    assert process.returncode is not None
    return Outcome(process.returncode, lines)


async def _lines(stream: trio.abc.ReceiveStream) -> AsyncIterator[str]:
    rest = b""
    async for chunk in stream:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace").rstrip()
    if rest:
        yield rest.decode(errors="replace").rstrip()


async def _end(process: trio.Process) -> None:
    os.killpg(process.pid, signal.SIGTERM)
    await trio.sleep(GOODBYE)
    os.killpg(process.pid, signal.SIGKILL)
