"""What starts rnsd on this host: a systemd service, or a command of the host's own."""

from __future__ import annotations

import os
import pwd
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.host.command import Problem, check
from deploy.host.order import Order
from rns_ble.cli.rnsd_python import interpreter_of

ASK_LIMIT: Final = 30.0
"""Seconds for systemctl to tell what it knows."""
RESTART_LIMIT: Final = 120.0
"""Seconds for a restart: systemd gives a service 90 to stop, unless its unit says otherwise."""

ARGUMENTS: Final = re.compile(r"argv\[\]=(.*?) ; ignore_errors=")


@dataclass(frozen=True)
class Service:
    """How rnsd is restarted, and what is known of it."""

    what: str
    restart_command: list[str]
    program: Path
    """rnsd, or whichever program starts Reticulum there."""
    interpreter: str
    config: str | None
    """As the service hands it to rnsd; None: Reticulum finds it."""
    user: pwd.struct_passwd | None
    """Who runs it; None: we."""

    @property
    def owner(self) -> pwd.struct_passwd | None:
        """Who installs into its environment; None: we. Root leaves no files of its own in a user's."""
        if os.geteuid() != 0:
            return None
        uid = Path(self.interpreter).parent.stat().st_uid
        return None if uid == 0 else pwd.getpwuid(uid)

    def restart(self) -> None:
        """Raises `Problem` when that fails, or takes longer than it may."""
        check(self.restart_command, self.what, limit=RESTART_LIMIT)


def find(order: Order) -> Service:
    """Find it. Raises `Problem` that says what to write into the list of hosts."""
    command, user = [], None
    if order.restart is not None:
        what, restart = "the restart command", ["sh", "-c", order.restart]
    else:
        systemctl = _systemctl(order.scope)
        shown = _show(systemctl, order.service)
        if shown.get("LoadState") != "loaded":
            raise Problem(
                f"`{shlex.join(systemctl)}` knows no {order.service}: give `service`, `scope` or `restart`"
            )
        what, restart = f"restarting {order.service}", [*systemctl, "restart", order.service]
        command = _arguments(shown.get("ExecStart", ""))
        user = _other_user(shown.get("User", ""))
    program = _program(order, command)
    named = Path(program).name.startswith("python")
    interpreter = str(program) if named else interpreter_of(program)
    if interpreter is None:
        raise Problem(f"{program} is no script of Python's: give `rnsd`, the program that starts Reticulum")
    return Service(what, restart, program, interpreter, order.config or _option(command, "--config"), user)


def _systemctl(scope: str | None) -> list[str]:
    if scope == "system" or (scope is None and os.geteuid() == 0):
        return ["systemctl"]
    # A session that PAM has not set up lacks it.
    os.environ.setdefault("XDG_RUNTIME_DIR", f"/run/user/{os.geteuid()}")
    return ["systemctl", "--user"]


def _show(systemctl: list[str], unit: str) -> dict[str, str]:
    asked = [*systemctl, "show", "--property=LoadState,ExecStart,User", "--", unit]
    lines = check(asked, f"asking systemd about {unit}", limit=ASK_LIMIT).splitlines()
    return {key: value for key, _, value in (line.partition("=") for line in lines)}


def _arguments(exec_start: str) -> list[str]:
    match = ARGUMENTS.search(exec_start)
    return match[1].split() if match else []


def _option(command: list[str], name: str) -> str | None:
    for word, following in zip(command, [*command[1:], ""], strict=True):
        if word == name and following:
            return following
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return None


def _other_user(name: str) -> pwd.struct_passwd | None:
    if not name or os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise Problem(f"the service runs as {name}, whom this host does not know") from None


def _program(order: Order, command: list[str]) -> Path:
    if order.rnsd is not None:
        program = Path(order.rnsd).expanduser()
        if not program.is_file():
            raise Problem(f"there is no {program}: correct `rnsd`")
        return program
    if command:
        return Path(command[0])
    # An SSH session that is no login has no ~/.local/bin on its PATH, and pipx puts rnsd there.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path.home() / ".local/bin")])
    found = shutil.which("rnsd", path=path)
    if found is None:
        raise Problem("there is no rnsd on PATH: install Reticulum there first, or give `rnsd`")
    return Path(found)
