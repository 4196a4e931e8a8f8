"""What a check says, and what mends it: the one shape that all checks have."""

from __future__ import annotations

import difflib
import enum
import os
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rns_ble.cli.doctor.case import Case


class State(enum.StrEnum):
    """How a check came out."""

    OK = "ok"
    FAILED = "failed"
    """The interface can't work like this."""
    WARNING = "warning"
    """It works, and something is worth knowing or doing."""
    SKIPPED = "skipped"
    """The check could not be made, so nothing is said about what it looks for."""


@dataclass(frozen=True, slots=True)
class Edit:
    """A file as it should be."""

    what: str
    """The change in words, for somebody who makes it by hand."""
    path: Path
    after: bytes

    def __str__(self) -> str:
        return self.what

    def diff(self) -> str:
        """The change as a unified diff, line by line."""
        before = self.path.read_bytes() if self.path.exists() else b""
        old, new = (side.decode(errors="replace").splitlines(keepends=True) for side in (before, self.after))
        lines = difflib.unified_diff(old, new, str(self.path), f"{self.path}, mended")
        return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)

    @property
    def whose(self) -> int | None:
        """The user who has to make it; None where that is this one.

        Root does not write where another user could have put a link to anything.
        """
        nearest = next(path for path in (self.path, *self.path.parents) if path.exists())
        if os.geteuid() == 0:
            owners = (path.lstat().st_uid for path in (nearest, self.path.parent) if path.exists())
            return next(filter(None, owners), None)
        return None if os.access(nearest, os.W_OK) else nearest.stat().st_uid


@dataclass(frozen=True, slots=True)
class Command:
    """A command to run."""

    argv: tuple[str, ...]
    as_root: bool = False
    """Whether nobody else may run it."""

    def __str__(self) -> str:
        return ("sudo " if self.needs_root else "") + shlex.join(self.argv)

    @property
    def needs_root(self) -> bool:
        """Whether this user may not run it."""
        return self.as_root and os.geteuid() != 0

    @property
    def whose(self) -> int | None:
        """The user who has to run it; None where that is this one."""
        return 0 if self.needs_root else None


Mend = Edit | Command | str
"""What mends a thing; a text where only a person can."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    name: str
    """What was looked at."""
    state: State
    found: str
    mend: Mend | None = None


Check = Callable[["Case"], Iterator[Finding]]
"""Looks at one subject. Never raises because of what it finds."""


def ok(name: str, found: str) -> Finding:
    """All is well there."""
    return Finding(name, State.OK, found)


def failed(name: str, found: str, mend: Mend) -> Finding:
    """The interface can't work like this."""
    return Finding(name, State.FAILED, found, mend)


def warning(name: str, found: str, mend: Mend | None = None) -> Finding:
    """It works, and there is something to know."""
    return Finding(name, State.WARNING, found, mend)


def skipped(name: str, why: str) -> Finding:
    """It could not be looked at."""
    return Finding(name, State.SKIPPED, why)
