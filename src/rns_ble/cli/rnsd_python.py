"""Which Python runs rnsd, and whether it can import this package.

Reticulum is often installed apart from everything else (pipx, a virtual environment, the system). The
interface is imported by rnsd's interpreter, which need not be the one that runs `rns-ble`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pwd
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

IMPORT_TIMEOUT: Final = 20.0
"""Seconds for another interpreter to try one import: a Pi Zero takes about 2 s from a cold card."""


def interpreter_of(script: Path) -> str | None:
    """The interpreter that runs this console script; None when it is none of Python's (or unreadable)."""
    try:
        with script.open("rb") as file:
            lines = [file.readline(4096).decode(errors="replace").strip() for _ in range(2)]
    except OSError:
        return None
    if not lines[0].startswith("#!"):
        return None
    words = shlex.split(lines[0][2:])
    if words and words[0].endswith("/sh") and lines[1].startswith("'''exec'"):
        # What pip writes when the path is too long or has a blank in it: sh runs the second line.
        words = shlex.split(lines[1])[1:]
    if words and Path(words[0]).name == "env":
        found = shutil.which(words[-1])
        words = [found] if found else []
    return words[0] if words and "python" in Path(words[0]).name else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """What one interpreter finds, started as a service would start it."""

    interpreter: str
    python: str = "?"
    rns: str | None = None
    """Version of Reticulum."""
    rns_ble: str | None = None
    """Version of this package, where all of it can be imported."""
    bumble: bool = False
    """Whether the extra of this name is there."""
    error: str | None = None
    """Why something can't be imported."""

    @property
    def kind(self) -> str:
        """How people call such an installation."""
        if _pipx_environment(self.interpreter):
            return "pipx"
        return "virtual environment" if _is_virtual(self.interpreter) else "not in a virtual environment"


_LOOK: Final = r"""
import importlib.util, json, sys
found = {"python": "%d.%d.%d" % sys.version_info[:3]}
found["bumble"] = importlib.util.find_spec("bumble") is not None
try:
    import RNS
    found["rns"] = RNS.__version__
    import rns_ble.interface
    found["rns_ble"] = rns_ble.__version__
except BaseException as error:
    found["error"] = "%s: %s" % (type(error).__name__, error)
sys.stdout.write("\n" + json.dumps(found))
"""


def is_this(interpreter: str) -> bool:
    """Whether that is the interpreter that runs us."""
    # Not resolved: the python of a virtual environment is a link to the one it was made from.
    here = Path(os.path.abspath(interpreter))
    return here.parent == Path(sys.executable).parent and here.resolve() == Path(sys.executable).resolve()


def look_into(interpreter: str, python_path: str | None = None, user: int | None = None) -> Installation:
    """What that interpreter can import. Takes up to `IMPORT_TIMEOUT`; an interpreter that does not work has
    an `error` and nothing else. `python_path`: its PYTHONPATH, for one that runs already. `user`: whose
    process has named it. Root runs it as that user only, who could name anything.
    """
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if is_this(interpreter):
        python_path = python_path or os.environ.get("PYTHONPATH")
    if python_path:
        environment["PYTHONPATH"] = python_path
    try:
        outcome = subprocess.run(
            [interpreter, "-c", _LOOK],
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=IMPORT_TIMEOUT,
            check=True,
            start_new_session=True,  # nothing of our terminal
            **_as_user(user),
        )
        return Installation(interpreter=interpreter, **json.loads(outcome.stdout.splitlines()[-1]))
    except (OSError, ValueError, TypeError, IndexError, subprocess.SubprocessError) as error:
        return Installation(interpreter=interpreter, error=f"{interpreter} does not work: {error}")


def _as_user(user: int | None) -> dict[str, Any]:
    """How root runs something as somebody else; nothing for everybody else."""
    if os.geteuid() != 0 or not user:
        return {}
    try:
        group = pwd.getpwuid(user).pw_gid
    except KeyError:
        group = user
    return {"user": user, "group": group, "extra_groups": ()}


def is_installed(package: str) -> bool:
    """Whether this interpreter finds it."""
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # sys.modules says that it must not be imported
        return False


def how_to_install(interpreter: str, extra: str = "", *, again: bool = False) -> str:
    """The command that installs this package where that interpreter finds it; `extra`: with this one;
    `again`: it is there already.
    """
    wanted = shlex.quote(_origin() + (f"[{extra}]" if extra else ""))
    if environment := _pipx_environment(interpreter):
        return f"pipx inject {'--force ' if again else ''}--include-apps {environment} {wanted}"
    options = (
        "" if _is_virtual(interpreter) or not _is_managed(interpreter) else "--user --break-system-packages "
    )
    return f"{shlex.quote(interpreter)} -m pip install {options}{wanted}"


def _pipx_environment(interpreter: str) -> str | None:
    parts = Path(interpreter).parts
    if "pipx" in parts and "venvs" in parts[:-1]:
        return parts[parts.index("venvs") + 1]
    return None


def _is_virtual(interpreter: str) -> bool:
    return Path(interpreter).parent.parent.joinpath("pyvenv.cfg").is_file()


def _is_managed(interpreter: str) -> bool:
    """Whether its distribution keeps pip from installing beside its own packages (PEP 668)."""
    library = Path(interpreter).parent.parent / "lib"
    return any(library.glob("python3*/EXTERNALLY-MANAGED"))


def _origin() -> str:
    """What pip was given to install this package: its name, or the directory of a clone (PEP 610)."""
    try:
        direct = json.loads(metadata.distribution("rns-ble").read_text("direct_url.json") or "{}")
    except metadata.PackageNotFoundError:
        direct = {}
    url = urlsplit(direct.get("url", ""))
    return unquote(url.path) if url.scheme == "file" else "rns-ble"


def on_path() -> tuple[str, str] | None:
    """The rnsd that a shell would start, and its interpreter; None where there is none, or no Python's."""
    rnsd = shutil.which("rnsd")
    interpreter = interpreter_of(Path(rnsd)) if rnsd else None
    return (rnsd, interpreter) if rnsd and interpreter else None


def beside() -> tuple[str, str] | None:
    """The rnsd of this installation, whether a shell finds it or not, and its interpreter; else None."""
    rnsd = Path(sys.executable).with_name("rnsd")
    return (str(rnsd), sys.executable) if rnsd.exists() else None


UNIT: Final = "rnsd.service"
"""What people call it; Reticulum's manual does, too."""

_EXEC_START: Final = re.compile(r"^ExecStart[ \t]*=[ \t]*[-@:+!]*\"?([^\s\"]*)", re.MULTILINE)
"""The program, after the signs that say how it is started; none: forget those before (systemd.service(5))."""


def in_service(root: Path = Path("/")) -> tuple[str, str] | None:
    """The rnsd that systemd would start for this user or for the machine, and its interpreter; None without
    such a unit.
    """
    user = (Path.home() / ".config" / "systemd" / "user",)
    machine = (root / "etc/systemd/system", root / "usr/lib/systemd/system", root / "lib/systemd/system")
    for directories in (user, machine):
        unit = next((place / UNIT for place in directories if os.path.isfile(place / UNIT)), None)
        if unit is None:
            continue
        program = _started_by([unit, *_drop_ins(directories)])
        interpreter = str(program) if "python" in program.name else interpreter_of(program)
        if interpreter is not None:
            return str(unit), interpreter
    return None


def _drop_ins(directories: Sequence[Path]) -> list[Path]:
    """What changes the unit, in the order in which systemd reads it (systemd.unit(5)): by name, and of two
    with one name the one in the first directory.
    """
    found: dict[str, Path] = {}
    for directory in reversed(directories):
        found |= {path.name: path for path in (directory / f"{UNIT}.d").glob("*.conf")}
    return [found[name] for name in sorted(found)]


def _started_by(files: Iterable[Path]) -> Path:
    """The program that a unit and its drop-ins start; no path at all where they start none."""
    programs: list[str] = []
    for file in files:
        with suppress(OSError):  # unreadable
            for program in _EXEC_START.findall(file.read_text(errors="replace")):
                programs = [*programs, program] if program else []
    return Path(programs[0].replace("%h", str(Path.home()))) if programs else Path()


def warning(driver: str = "bleak") -> str | None:
    """What is wrong with the rnsd that a shell would start, or else the one of this installation, and what to
    do; None when nothing is.

    `driver`: what the interface is to use; that has to be there as well.
    """
    found = on_path() or beside()
    if found is None:
        return None
    rnsd, interpreter = found
    extra = "bumble" if driver == "bumble" else ""
    if is_this(interpreter):  # which has imported us
        importable, has_extra = True, not extra or is_installed(extra)
    else:
        there = look_into(interpreter)
        importable, has_extra = there.rns_ble is not None, not extra or there.bumble
    if not importable:
        lacks = "can't import rns_ble"
    elif not has_extra:
        lacks = f"lacks the extra {extra}, which driver = {driver} needs"
    else:
        return None
    return (
        f"{rnsd} runs with {interpreter}, which {lacks}, so the interface won't load there: "
        f"{how_to_install(interpreter, extra, again=importable)}"
    )
