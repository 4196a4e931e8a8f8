"""A program on a pseudo-terminal of its own, and an emulator that shows what a person would see."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import sys
import termios
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pyte
import trio

PATIENCE = 30.0
"""Seconds to wait for what must happen; reaching it fails the test."""

# Ctrl-C, Ctrl-Z and a resize reach whoever has the terminal for its controlling one.
_LEADER = (sys.executable, "-I", "-S", str(Path(__file__).with_name("session_leader.py")))


class Terminal:
    """What the program has written, and what is to be seen of it."""

    def __init__(self, master: int, slave: int, columns: int, lines: int) -> None:
        self.raw = b""
        self.leader: trio.Process
        self._screen = pyte.Screen(columns, lines)
        self._emulator = pyte.ByteStream(self._screen)
        self._slave = slave
        self._master = trio.lowlevel.FdStream(master)
        self._descriptor = master
        self._written = trio.lowlevel.ParkingLot()

    async def watch(self) -> None:
        """Take what the program writes, until it ends."""
        try:
            async for chunk in self._master:
                self.raw += chunk
                self._emulator.feed(chunk)
                self._written.unpark_all()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # Linux's way to say that nobody has the terminal open any more; or `hang_up`

    @property
    def display(self) -> list[str]:
        return [line.rstrip() for line in self._screen.display]

    @property
    def attributes(self) -> list[Any]:
        """How the terminal is set: what a program must put back."""
        return termios.tcgetattr(self._slave)

    @property
    def job(self) -> int:
        """The program's process, once it has shown something below a leader with job control."""
        return os.tcgetpgrp(self._descriptor)

    async def until(self, condition: Callable[[], Any]) -> None:
        with trio.move_on_after(PATIENCE) as patience:
            while not condition():
                await self._written.park()
        assert not patience.cancelled_caught, "\n".join(self.display)

    async def shows(self, text: str) -> None:
        await self.until(lambda: any(text in line for line in self.display))

    async def type(self, keys: bytes) -> None:
        await self._master.send_all(keys)

    def resize(self, columns: int, lines: int) -> None:
        self._screen.resize(lines, columns)
        fcntl.ioctl(self._descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    async def hang_up(self) -> None:
        """Close the window."""
        await self._master.aclose()

    async def ends(self) -> int:
        """Wait until the program has ended; its exit code."""
        with trio.fail_after(PATIENCE):
            return await self.leader.wait()


@asynccontextmanager
async def terminal(
    *command: str,
    columns: int = 100,
    lines: int = 30,
    environment: Mapping[str, str] | None = None,
    job_control: bool = True,
) -> AsyncIterator[Terminal]:
    """Run a program on a terminal of its own during the block; killed at its end, if it still runs.

    Without `job_control` nobody can continue it, once it is stopped.
    """
    master, slave = pty.openpty()
    told = Terminal(master, slave, columns, lines)
    told.resize(columns, lines)
    inherited = {
        name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")
    }
    try:
        told.leader = await trio.lowlevel.open_process(
            [*_LEADER, "job-control" if job_control else "none", *command],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**inherited, "TERM": "xterm-256color", **(environment or {})},
        )
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(told.watch)
                yield told
                nursery.cancel_scope.cancel()
        finally:
            told.leader.terminate()  # which kills the program first
            with trio.CancelScope(shield=True):
                await told.leader.wait()
    finally:
        os.close(slave)
        await told._master.aclose()
