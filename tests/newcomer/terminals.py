"""What a person does with several terminals: start something that stays, and look again until it shows."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

LOOK_AGAIN: Final = 1.0
"""Seconds until somebody types the same command again."""

GOODBYE: Final = 10.0
"""Seconds that a program may take to end after Ctrl-C."""


class Terminal:
    """A shell that runs commands, and what they have printed."""

    def __init__(self, shell: Sequence[str], environment: Mapping[str, str], directory: Path) -> None:
        self.output = ""
        self._shell = shell
        self._printed = trio.Event()
        self._how: dict[str, Any] = {
            "env": dict(environment),
            "cwd": directory,
            "check": False,
            "start_new_session": True,
            "deliver_cancel": _press_ctrl_c,
        }

    async def run(self, commands: str) -> str:
        """Run commands to their end, saying yes to everything. Returns what they print; raises if they fail.

        Cancelled: they are ended.
        """
        outcome = await trio.run_process(
            [*self._shell, f"set -e\n{commands}"],
            stdin=b"y\n" * 1000,
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            **self._how,
        )
        self.output = outcome.stdout.decode(errors="replace")
        if outcome.returncode:
            raise AssertionError(f"exit status {outcome.returncode} of\n{commands}\n{self.output}")
        return self.output

    async def until(self, commands: str, pattern: str) -> str:
        """Run commands again and again until what they print has a pattern. Returns what they print."""
        while True:
            try:
                output = await self.run(commands)
            except AssertionError as error:
                output = str(error)
            if re.search(pattern, output):
                return output
            await trio.sleep(LOOK_AGAIN)

    @asynccontextmanager
    async def stays(self, commands: str) -> AsyncIterator[Terminal]:
        """Run something that does not end, and press Ctrl-C at the end of the block.

        What it has printed so far is in `output`: as to a terminal, at once.
        """
        master, slave = pty.openpty()
        async with trio.lowlevel.FdStream(master) as screen, trio.open_nursery() as nursery:
            await nursery.start(
                partial(
                    trio.run_process,
                    [*self._shell, commands],
                    stdin=subprocess.DEVNULL,
                    stdout=slave,
                    stderr=slave,
                    **self._how,
                )
            )
            os.close(slave)
            nursery.start_soon(self._read, screen)
            yield self
            nursery.cancel_scope.cancel()

    async def shows(self, pattern: str) -> None:
        """Wait until what stays has printed a pattern."""
        while not re.search(pattern, self.output):
            self._printed = trio.Event()
            await self._printed.wait()

    async def _read(self, screen: trio.lowlevel.FdStream) -> None:
        with suppress(trio.BrokenResourceError):  # as Linux says that nobody has the other end
            async for chunk in screen:
                self.output += chunk.decode(errors="replace").replace("\r\n", "\n")
                self._printed.set()


async def _press_ctrl_c(process: trio.Process) -> None:
    os.killpg(process.pid, signal.SIGINT)
    await trio.sleep(GOODBYE)
    os.killpg(process.pid, signal.SIGKILL)
