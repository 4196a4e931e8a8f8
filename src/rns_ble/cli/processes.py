"""Which process is behind something, as /proc tells it: its name, its user, its Python."""

from __future__ import annotations

import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rns_ble.cli.running import user_name

PROC: Final = Path("/proc")

CONNECT_TIMEOUT: Final = 3.0
"""Seconds for a program on this machine to take a connection; it takes milliseconds."""

STARTED_WITHIN: Final = 0.1
"""Seconds by which a start and the change of a file must lie apart to be told in order: the kernel counts
starts in hundredths."""

_LISTENING: Final = "0A"
"""TCP's state as /proc/net/tcp has it (Linux, include/net/tcp_states.h)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process that runs now. What this user may not see of it is None or empty."""

    pid: int
    uid: int
    user: str
    command: tuple[str, ...]
    interpreter: str | None
    """Its Python; None when it is no Python program, or one that carries its own inside."""
    directory: Path | None
    """Where it was started."""
    home: Path
    """Its HOME, or its user's home."""
    python_path: str | None
    """Its PYTHONPATH."""

    @property
    def name(self) -> str:
        """What a person calls it: the script's name rather than that of its Python."""
        words = [Path(word).name for word in self.command if not word.startswith("-")]
        script = words[1:] if words and self.interpreter and "python" in words[0] else words
        return next(iter(script or words), f"process {self.pid}")

    def option(self, *names: str) -> str | None:
        """The value of one of its options, `--name VALUE` or `--name=VALUE`."""
        for word, following in zip(self.command, (*self.command[1:], ""), strict=True):
            name, equals, value = word.partition("=")
            if name in names:
                return value if equals else following
        return None

    def __str__(self) -> str:
        return f"{self.name} (process {self.pid}, user {self.user})"


def look_at(pid: int) -> Process | None:
    """What can be seen of a process; None when it has ended."""
    place = PROC / str(pid)
    try:
        user = place.stat().st_uid
        words = (place / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    environment: dict[str, str] = {}
    directory = program = None
    with suppress(OSError):  # another user's
        for item in (place / "environ").read_bytes().decode(errors="replace").split("\0"):
            environment.setdefault(*item.partition("=")[::2])
        directory = (place / "cwd").readlink()
        program = str((place / "exe").readlink())
    command = tuple(words[:-1] if words[-1:] == [""] else words)
    return Process(
        pid=pid,
        uid=user,
        user=user_name(user),
        command=command,
        interpreter=_interpreter(command, environment, program),
        directory=directory,
        home=Path(environment.get("HOME") or os.path.expanduser(f"~{user_name(user)}")),
        python_path=environment.get("PYTHONPATH"),
    )


def _interpreter(command: tuple[str, ...], environment: dict[str, str], program: str | None) -> str | None:
    """As it was called: what a link in a virtual environment points to would be the wrong one."""
    called = command[0] if command else ""
    if "python" not in Path(called).name:
        return program if program and "python" in Path(program).name else None
    if os.path.isabs(called):
        return called
    return shutil.which(called, path=environment.get("PATH")) or program


def everybody() -> Iterator[int]:
    """All processes' numbers."""
    return (int(path.name) for path in PROC.iterdir() if path.name.isdigit())


def holders(target: str) -> list[Process]:
    """Who has it open, as far as this user may see: a device's path, or a socket as `socket:[1234]`."""
    found = (look_at(pid) for pid in everybody() if target in _opened_by(pid))
    return [process for process in found if process is not None]


def _opened_by(pid: int) -> Iterator[str]:
    with suppress(OSError):  # another user's, or it has ended
        for descriptor in os.listdir(PROC / str(pid) / "fd"):
            with suppress(OSError):  # closed a moment ago
                yield os.readlink(PROC / str(pid) / "fd" / descriptor)


def accepts(host: str, port: int) -> str | None:
    """Why nobody takes a TCP connection there; None when somebody does."""
    try:
        socket.create_connection((host, port), timeout=CONNECT_TIMEOUT).close()
    except OSError as error:
        return error.strerror or str(error)
    return None


def listener_on_tcp(port: int) -> tuple[int, str] | None:
    """Who listens on a TCP port of 127.0.0.1: the user, and the socket, as `holders` takes it."""
    with suppress(OSError):
        for line in (PROC / "net" / "tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1] == f"0100007F:{port:04X}" and fields[3] == _LISTENING:
                return int(fields[7]), f"socket:[{fields[9]}]"
    return None


def capabilities(pid: int) -> int | None:
    """Its effective capabilities, a bit each (capabilities(7)); None when it has ended, or hides them."""
    with suppress(OSError):
        status = (PROC / str(pid) / "status").read_text()
        if found := re.search(r"^CapEff:\s*(\w+)", status, re.MULTILINE):
            return int(found[1], 16)
    return None


def started(pid: int) -> float | None:
    """When a process was started, as `time.time` counts; None when it has ended."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    since_boot = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + since_boot
