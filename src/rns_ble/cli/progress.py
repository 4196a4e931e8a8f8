"""What a person sees while something runs: on a terminal a line that changes, elsewhere one now and then."""

from __future__ import annotations

import time
from typing import Final, TextIO

PLAIN_INTERVAL: Final = 10.0
"""Seconds between two lines about an unfinished stage, where lines can't be overwritten."""


class Progress:
    """Writes to one stream, usually stderr."""

    def __init__(self, stream: TextIO, *, quiet: bool = False) -> None:
        self._stream = stream
        self._quiet = quiet
        self._live = stream.isatty()
        self._began = self._shown = time.monotonic()
        self._line = ""

    def say(self, what: str) -> None:
        """A line that stays."""
        self._overwrite("")
        self._write(f"{time.monotonic() - self._began:6.1f} s  {what}\n")

    def show(self, what: str, done: int, total: int) -> None:
        """How far a stage is."""
        if self._live:
            self._overwrite(f"{time.monotonic() - self._began:6.1f} s  {what}: {done} of {total}")
        elif time.monotonic() - self._shown >= PLAIN_INTERVAL:
            self._shown = time.monotonic()
            self.say(f"{what}: {done} of {total} so far")

    def finish(self, what: str, total: int) -> None:
        """A stage is done."""
        self._shown = time.monotonic()
        self.say(f"{what}: all {total}")

    def end(self) -> None:
        """Leave the terminal as it was found."""
        self._overwrite("")

    def _overwrite(self, line: str) -> None:
        if self._live and line != self._line:
            self._write("\r" + line.ljust(len(self._line)) + ("\r" if not line else ""))
            self._line = line

    def _write(self, text: str) -> None:
        if not self._quiet:
            self._stream.write(text)
            self._stream.flush()
