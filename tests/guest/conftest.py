"""The laboratory, and the guests: two for each generation of BlueZ, with half of the tests each.

One more than there are processors run at a time.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import pytest
import trio

HERE: Final = Path(__file__).parent
CHECKOUT: Final = HERE.parents[1]
LAB: Final = CHECKOUT / "tests" / "bluez" / "lab"

GENERATIONS: Final = ("5.66", "5.82")
FIRST_HALF: Final = tuple(
    f"tests/bluez/test_{name}.py"
    for name in (
        *("bluez_central", "bluez_conformance", "bluez_faults", "bluez_interop", "bluez_mesh", "bluez_order"),
        "lab",
    )
)
HALVES: Final = (FIRST_HALF, ("tests/bluez", *(f"--ignore={file}" for file in FIRST_HALF)))
CONTROLLERS: Final = "4"  # a peripheral and three centrals
TIME_LIMIT: Final = "1200"  # seconds; a guest that hangs is stopped then, and its output shown
HANGS: Final = "faulthandler_timeout=180"  # seconds in one test, after which pytest shows where it stands
IMPOSSIBLE: Final = 77  # setup's exit status on a machine that can't have the laboratory
COUNTS: Final = re.compile(r"\d (passed|failed|skipped|error).* in \d")  # in pytest's last line
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
    def counts(self) -> str:
        """How many tests passed, were skipped and failed; empty when pytest did not get that far."""
        return next((line.strip("= ") for line in reversed(self.lines) if COUNTS.search(line)), "")


@dataclass(frozen=True)
class Guests:
    """What became of the laboratory, and of the runs of each generation, if there were any."""

    setup: Outcome
    runs: dict[str, list[Outcome]]


GUESTS = pytest.StashKey[Guests]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if (guests := config.stash.get(GUESTS, None)) is not None and guests.runs:
        terminalreporter.section("tests/bluez in the guest")
        for generation, runs in sorted(guests.runs.items()):
            for run in runs:
                terminalreporter.line(f"BlueZ {generation}: {run.counts or 'ended before its tests did'}")


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


async def _run_all(generations: list[str], show: Show) -> Guests:
    setup = await _run(["bash", str(LAB / "setup"), *generations], show)
    runs: dict[str, list[Outcome]] = {}
    if setup.status == 0:
        # A guest mostly waits, for time-outs and for the air; but too many at once make one another late.
        processors = sorted(os.sched_getaffinity(0))
        next_processor = itertools.cycle(processors)
        places = trio.CapacityLimiter(len(processors) + 1)

        async def run(generation: str, half: tuple[str, ...]) -> None:
            async with places:
                await _run_guest(generation, half, next(next_processor), show, runs)

        async with trio.open_nursery() as nursery:
            for generation, half in itertools.product(generations, HALVES):
                nursery.start_soon(run, generation, half)
    return Guests(setup, runs)


async def _run_guest(
    generation: str, half: tuple[str, ...], processor: int, show: Show, runs: dict[str, list[Outcome]]
) -> None:
    def progress(line: str) -> None:
        if line.startswith("tests/"):
            show(f"BlueZ {generation}: {line}")
        elif line.startswith("  BlueZ "):
            show(line.strip())  # a figure that a test gives

    boot = ["bash", str(LAB / "boot"), "--bluez", generation, "-n", CONTROLLERS, "-t", TIME_LIMIT]
    tests = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-o", HANGS, *half]
    command = ["taskset", "-c", str(processor), *boot, "--python", sys.executable, *tests]
    run = await _run(command, progress)
    runs.setdefault(generation, []).append(run)
    summary = [i for i, line in enumerate(run.lines) if "short test summary" in line]
    for line in run.lines[summary[-1] if summary else -1 :]:
        show(f"BlueZ {generation}: {line}")


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
