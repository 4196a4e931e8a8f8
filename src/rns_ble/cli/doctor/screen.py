"""How findings look to a person."""

from __future__ import annotations

import os
import shutil
import textwrap
from collections.abc import Iterable
from typing import Final, TextIO

from rns_ble.cli.doctor.finding import Command, Edit, Finding, State

NAME_WIDTH: Final = 19
"""Columns for the names; the longest is JustWorksRepairing."""

MARKS: Final = {
    State.OK: ("✔", "+", "32"),
    State.FAILED: ("✘", "x", "31"),
    State.WARNING: ("!", "!", "33"),
    State.SKIPPED: ("–", "-", "2"),  # noqa: RUF001  (a dash)
}
"""As it should be, as a terminal without Unicode has it, and its colour (ECMA-48, SGR)."""


class Screen:
    """Writes to one stream, in what that can show."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._colour = stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        self._width = shutil.get_terminal_size((110, 24)).columns
        self._plain = False
        try:
            "✔✘–→".encode(stream.encoding or "ascii")  # noqa: RUF001
        except UnicodeError:
            self._plain = True

    def show(self, findings: Iterable[Finding], fix: str = "") -> None:
        """All of them, each with what mends it, and a line that counts. `fix`: the command that does so."""
        findings = list(findings)
        for finding in findings:
            self._show(finding)
        counts = {state: sum(finding.state is state for finding in findings) for state in State}
        self.say("")
        if counts[State.FAILED]:
            self.say(f"{counts[State.FAILED]} of {len(findings)} checks failed.")
        elif counts[State.WARNING]:
            self.say("Nothing keeps the interface from working; see what is marked with !.")
        else:
            self.say("All is well.")
        if counts[State.SKIPPED]:
            self.say(f"What is marked with {MARKS[State.SKIPPED][self._plain]} was not looked at.")
        if fix and any(isinstance(finding.mend, Edit | Command) for finding in findings):
            self.say(f"`{fix}` mends what it can; it shows each change first, and asks.")

    def _show(self, finding: Finding) -> None:
        mark, plain, colour = MARKS[finding.state]
        mark = plain if self._plain else mark
        first, *rest = self._wrap(finding.found)
        self._write(f"\033[{colour}m{mark}\033[0m" if self._colour else mark)
        self.say(f" {finding.name:{NAME_WIDTH}}{first}")
        for line in rest:
            self.say(f"{'':{NAME_WIDTH + 2}}{line}")
        if finding.mend is not None:
            arrow = "->" if self._plain else "→"
            # Not wrapped: it is to be copied.
            self.say(f"{'':{NAME_WIDTH + 2}}{arrow} {finding.mend}")

    def _wrap(self, text: str) -> list[str]:
        room = max(self._width - NAME_WIDTH - 3, 30)
        lines = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False)
        return lines or [""]

    def say(self, text: str) -> None:
        """Lines of text. Names come from other users' processes and from the radio: what would be more to a
        terminal than text is replaced, and so is what the stream can't show.
        """
        self._write("".join(sign if sign.isprintable() or sign in "\n\t" else "?" for sign in text) + "\n")

    def _write(self, text: str) -> None:
        encoding = self._stream.encoding or "ascii"
        self._stream.write(text.encode(encoding, "replace").decode(encoding))
