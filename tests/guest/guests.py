"""The laboratory, and the guests: one for each file of tests, with each generation of BlueZ.

Two for each processor run at a time, for they mostly wait. With so many kernels something can be late
without being wrong; so tests that fail there have another guest when all others have ended, with a
processor of its own.
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
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import trio

HERE: Final = Path(__file__).parent
CHECKOUT: Final = HERE.parents[1]
LAB: Final = CHECKOUT / "tests" / "bluez" / "lab"

CONTROLLERS: Final = "4"  # a peripheral and three centrals
TIME_LIMIT: Final = "900"  # seconds; a guest that hangs is stopped then, and its output shown
HANGS: Final = "faulthandler_timeout=180"  # seconds in one test, after which pytest shows where it stands
LAST_LINE: Final = re.compile(r"=+ .*\d (passed|failed|skipped|error).* in \d")  # pytest's
COUNT: Final = re.compile(r"(\d+) (passed|failed|skipped|error)")
FAILED: Final = re.compile(r"(?:FAILED|ERROR) (tests/.+?)(?: - |$)")
SHOWN: Final = 20  # lines at most of why a guest's tests have failed
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


@dataclass(frozen=True)
class Guest:
    """One that has run."""

    generation: str
    tests: list[str]
    outcome: Outcome

    @property
    def failed(self) -> list[str]:
        """What failed in it; all of it where that can't be told."""
        return [] if self.outcome.good else self.outcome.failed or self.tests


async def build(generations: list[str], show: Show) -> Outcome:
    """The laboratory, as far as it is not there."""
    return await _run(["bash", str(LAB / "setup"), *generations], show)


async def run_all(generations: list[str], show: Show) -> list[Guest]:
    """A guest for each file with each generation."""
    processors = sorted(os.sched_getaffinity(0))
    to_do = iter(list(itertools.product(_files(), generations)))
    guests = []

    async def work(processor: int) -> None:
        for file, generation in to_do:
            guests.append(await run_one(generation, processor, show, [file]))

    async with trio.open_nursery() as nursery:
        for processor in (*processors, *processors):
            nursery.start_soon(work, processor)
    return guests


async def run_again(failed: list[Guest], times: int, show: Show) -> list[list[Guest]]:
    """For each of these the guests that its tests have anew, up to the first in which all pass.

    It is the whole file each time, for its last test may sum up the others.
    """
    again: list[list[Guest]] = [[] for _ in failed]
    to_do = iter(list(zip(failed, again, strict=True)))

    async def work(processor: int) -> None:
        for guest, its in to_do:
            while len(its) < times and not (its and its[-1].outcome.good):
                its.append(await run_one(guest.generation, processor, show, guest.tests))

    async with trio.open_nursery() as nursery:
        for processor in sorted(os.sched_getaffinity(0)):
            nursery.start_soon(work, processor)
    return again


def _files() -> list[str]:
    """The long ones first, so that none is left over at the end: those that run their scenarios once for each
    await, then by size.
    """
    once_for_each = ("cancelled", "fails")
    files = (CHECKOUT / "tests" / "bluez").glob("test_*.py")
    order = sorted(
        files, key=lambda file: (not any(word in file.name for word in once_for_each), -file.stat().st_size)
    )
    return [str(file.relative_to(CHECKOUT)) for file in order]


async def run_one(generation: str, processor: int, show: Show, tests: list[str]) -> Guest:
    """A guest for these tests."""

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
        # With the reason, as pytest's summary gives it.
        for line in [line for line in outcome.lines if FAILED.match(line)] or tests:
            show(f"BlueZ {generation}: failed: {line}")
        for line in [line for line in outcome.lines if line.startswith("E  ")][:SHOWN]:
            show(line)
        if not outcome.counts:  # it did not come to the end of its tests: perhaps not to their beginning
            show("\n".join(outcome.lines[-SHOWN:]))
    return Guest(generation, tests, outcome)


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
