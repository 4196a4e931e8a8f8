"""Which Python runs rnsd, and whether it can import this package.

Reticulum is often installed apart from everything else (pipx, a virtual environment, the system). The
interface is imported by rnsd's interpreter, which need not be the one that runs `rns-ble`.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Final
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


def can_import(interpreter: str, package: str) -> bool:
    """Whether this interpreter imports that package, started as a service would start it."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    try:
        outcome = subprocess.run(
            [interpreter, "-c", f"import {package}"],
            env=environment,
            cwd="/",
            capture_output=True,
            timeout=IMPORT_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return outcome.returncode == 0


def how_to_install(interpreter: str) -> str:
    """The command that installs this package where that interpreter finds it."""
    parts = Path(interpreter).parts
    if "pipx" in parts and "venvs" in parts[:-1]:
        environment = parts[parts.index("venvs") + 1]
        return f"pipx inject --include-apps {environment} {_origin()}"
    return f"{shlex.quote(interpreter)} -m pip install {_origin()}"


def _origin() -> str:
    """What pip was given to install this package: its name, or the directory of a clone (PEP 610)."""
    try:
        direct = json.loads(metadata.distribution("rns-ble").read_text("direct_url.json") or "{}")
    except metadata.PackageNotFoundError:
        direct = {}
    url = urlsplit(direct.get("url", ""))
    return shlex.quote(unquote(url.path)) if url.scheme == "file" else "rns-ble"


def warning() -> str | None:
    """What is wrong with the rnsd that a shell would start, and what to do; None when nothing is."""
    rnsd = shutil.which("rnsd")
    interpreter = interpreter_of(Path(rnsd)) if rnsd else None
    if interpreter is None or os.path.abspath(interpreter) == os.path.abspath(sys.executable):
        # Not resolved: the python of a virtual environment is a link to the one it was made from.
        return None
    if can_import(interpreter, "rns_ble"):
        return None
    return (
        f"{rnsd} runs with {interpreter}, which can't import rns_ble, so the interface won't load there: "
        f"{how_to_install(interpreter)}"
    )
