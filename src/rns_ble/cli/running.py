"""The BLE interfaces that run with a Reticulum configuration: find their sockets and ask them.

Nothing but the standard library, so that asking costs a moment. When nobody answers, it is worth more time to
tell why (`rns_ble.cli.absence`).
"""

from __future__ import annotations

import json
import os
import pwd
import shlex
import socket
import struct
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rns_ble.status_socket import DIRECTORY, REQUEST, STORAGE, SUFFIX, address_in, opened

TIMEOUT: Final = 2.0
"""Seconds for an answer, which takes milliseconds where the process has time."""

CHUNK: Final = 65536
"""Bytes."""

ANSWER_MAXIMUM: Final = 4 << 20
"""Bytes of an answer: a candidate takes under 400 and a peer some 1500, so there is room for some 10,000
addresses, a hundred times what an interface remembers by default. Whoever asks may be root, and whoever
answers any user."""

SUDO_PATH: Final = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
"""Where sudo looks for a command (`secure_path` in Debian's sudoers), and so not in virtual environments."""

_CREDENTIALS: Final = struct.Struct("iII")
"""`struct ucred` of unix(7): pid, uid, gid."""

Interface = dict[str, Any]
"""`rns_ble.status.InterfaceStatus` as JSON has it: nested dictionaries and lists."""


@dataclass
class Running:
    """What was found."""

    interfaces: list[Interface] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    """Of sockets that are there and could not be asked: a line each, with what to do."""

    @property
    def ok(self) -> bool:
        """Whether there is an interface, and all that there are can be asked and are online."""
        return bool(self.interfaces) and not self.errors and all(i["online"] for i in self.interfaces)


def ask_all(directory: Path, timeout: float = TIMEOUT) -> Running:
    """Ask every interface that runs with this configuration directory. Takes `timeout` seconds for each at
    most.

    Empty when none runs; never raises for what it finds.
    """
    running = Running()
    sockets = directory / STORAGE / DIRECTORY
    try:
        with opened(sockets) as descriptor:
            for name in sorted(os.listdir(descriptor)):
                if name.endswith(SUFFIX):
                    _ask_into(running, sockets / name, address_in(descriptor, name), timeout)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except PermissionError:
        running.errors.append(not_yours(sockets, directory))
    return running


def _ask_into(running: Running, path: Path, address: str, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(address)
        except (ConnectionRefusedError, FileNotFoundError):
            return  # of a process that has ended
        except PermissionError:
            running.errors.append(not_yours(path, path.parents[2]))
            return
        except (TimeoutError, BlockingIOError):
            running.errors.append(f"{path} is busy: too many programs ask it")
            return
        pid, _uid = peer_of(connection)
        try:
            running.interfaces.append(_ask(connection, deadline))
        except TimeoutError:
            running.errors.append(
                f"{path.stem}: process {pid} does not answer. Is it stopped, or the machine overloaded? "
                "A restart of it helps otherwise"
            )
        except (ValueError, OSError) as error:
            running.errors.append(f"{path.stem}: process {pid} gives no answer: {error}")


def _ask(connection: socket.socket, deadline: float) -> Interface:
    connection.sendall(REQUEST)
    received = bytearray()
    while not received.endswith(b"\n"):
        if len(received) > ANSWER_MAXIMUM:
            raise ValueError(f"it says more than {ANSWER_MAXIMUM} bytes")
        if (left := deadline - time.monotonic()) <= 0:
            raise TimeoutError
        connection.settimeout(left)
        chunk = connection.recv(CHUNK)
        if not chunk:
            raise ValueError("it closed the connection")
        received += chunk
    answer = json.loads(received)
    if not isinstance(answer, dict) or "online" not in answer:
        raise ValueError(str(answer.get("error", answer) if isinstance(answer, dict) else answer))
    return answer


def peer_of(connection: socket.socket) -> tuple[int, int]:
    """Which process listens at the other end, and its user: (pid, uid)."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _gid = _CREDENTIALS.unpack(data)
    return pid, uid


def user_name(uid: int) -> str:
    """Of this user, or the number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


def as_user(uid: int, *arguments: str) -> str:
    """`rns-ble` with these arguments, as that user types it."""
    program = Path(sys.argv[0]).absolute()
    found = program.name == "rns-ble" and str(program.parent) not in SUDO_PATH
    command = shlex.join([str(program) if found else "rns-ble", *arguments])
    return f"sudo {command}" if uid == 0 else f"sudo -u {shlex.quote(user_name(uid))} {command}"


def not_yours(path: Path, directory: Path) -> str:
    """What to say of a path that may not be opened."""
    owner = owner_of(path)
    command = as_user(owner, "status", "--config", str(directory))
    return f"{directory} is used by {user_name(owner)}'s rnsd: {command}"


def owner_of(path: Path) -> int:
    """The user whom the path belongs to, or the nearest directory above of which that can be seen."""
    for place in (path, *path.parents):
        try:
            return place.stat().st_uid
        except OSError:
            continue
    return 0
