"""`rns-ble radio` as processes, on whichever radio: options say which."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

RADIO = [sys.executable, "-X", "dev", "-W", "error", "-m", "rns_ble.cli", "radio"]

PATIENCE = 120.0
"""Seconds until a test that hangs fails. Nothing depends on how much of it is used."""

GOODBYE = 20.0
"""Seconds for a program to end after a signal; a driver may take 5, more on a busy machine."""


class Running:
    """A process under way, and what it has printed so far."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.errors = b""
        self._output = b""
        self._printed = trio.lowlevel.ParkingLot()

    async def collect(self) -> None:
        """Take what it prints, until it ends."""

        async def errors() -> None:
            assert self.process.stderr is not None
            async for chunk in self.process.stderr:
                self.errors += chunk
                self._printed.unpark_all()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(errors)
            assert self.process.stdout is not None
            async for chunk in self.process.stdout:
                self._output += chunk
                self._printed.unpark_all()

    @property
    def events(self) -> list[dict[str, Any]]:
        """What `--json` has printed: whole lines only."""
        return [json.loads(line) for line in self._output.split(b"\n")[:-1]]

    async def event(self, name: str, number: int = 1) -> dict[str, Any]:
        """The so-maniest event of that name, as soon as it is there."""
        with trio.fail_after(PATIENCE):
            while len(found := [e for e in self.events if e["event"] == name]) < number:
                await self._printed.park()
        return found[number - 1]

    async def says(self, text: str) -> None:
        """Wait until it has said that on stderr."""
        with trio.fail_after(PATIENCE):
            while text.encode() not in self.errors:
                await self._printed.park()


@asynccontextmanager
async def running(*arguments: str, ends_with: int) -> AsyncIterator[Running]:
    """Run `rns-ble radio …` during the block, and end it as a person does; its exit code must be this."""
    process = await trio.lowlevel.open_process(
        [*RADIO, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    told = Running(process)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(told.collect)
            yield told
            process.send_signal(signal.SIGINT)
            with trio.fail_after(GOODBYE):
                await process.wait()
    finally:
        process.kill()
    assert process.returncode == ends_with, told.errors.decode()
    assert b"Traceback" not in told.errors, told.errors.decode()


@asynccontextmanager
async def serving(*options: str) -> AsyncIterator[Running]:
    """`serve`, from the moment when it advertises."""
    async with running("serve", *options, "--json", ends_with=0) as told:
        await told.event("serving")
        yield told
    assert told.errors == b""


async def radio(*arguments: str) -> tuple[int, str, str]:
    """Run `rns-ble radio …` to its end: exit code, stdout, stderr."""
    with trio.fail_after(PATIENCE):
        outcome = await trio.run_process(
            [*RADIO, *arguments], capture_stdout=True, capture_stderr=True, check=False
        )
    errors = outcome.stderr.decode()
    assert "Traceback" not in errors, errors
    return outcome.returncode, outcome.stdout.decode(), errors


async def checked(*arguments: str) -> dict[str, Any]:
    """Run it with `--json`; all must be well."""
    code, out, errors = await radio(*arguments, "--json")
    assert code == 0, out + errors
    report: dict[str, Any] = json.loads(out)
    assert report["ok"] is True
    return report


async def raced(one: tuple[str, ...], other: tuple[str, ...], rounds: int) -> list[dict[str, Any]]:
    """`race` with these options on both sides; what each reports of its rounds. All must be well."""
    reports: dict[int, dict[str, Any]] = {}

    async def side(number: int, options: tuple[str, ...]) -> None:
        reports[number] = await checked("race", *options, "--rounds", str(rounds))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(side, 0, one)
        nursery.start_soon(side, 1, other)
    for report in reports.values():
        assert len(report["rounds"]) == rounds == sum(report["outcomes"].values())
        assert "no link" not in report["outcomes"]
    return [reports[0], reports[1]]
