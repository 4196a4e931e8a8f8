"""A host to deploy to: this machine by SSH, with a throw-away user environment in which rnsd really runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest

from tests.deploy.sshd import Sshd

ROOT: Final = Path(__file__).parents[2]
PATIENCE: Final = 60.0

SUPERVISOR: Final = """#!/bin/sh
# Ends the rnsd that it has started, and starts another one, as a service manager would.
here={here}
if [ -f "$here/pid" ]; then
    kill "$(cat "$here/pid")"
    while kill -0 "$(cat "$here/pid")" 2>/dev/null; do sleep 0.05; done
fi
setsid "$here/venv/bin/rnsd" --config "$here/reticulum" >>"$here/rnsd.log" 2>&1 </dev/null &
echo $! >"$here/pid"
"""


class Wheels:
    """Wheels of this checkout with other version numbers, and with faults."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._number = 0

    def build(self, *faults: tuple[str, str, str], requires: str = "", version: str = "") -> Path:
        """One with a version of its own, or this one. A fault: a file of the package, a text, another."""
        self._number += 1
        source = self._directory / f"source-{self._number}"
        for name in ("src", "docs"):
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, source)
        line = f'__version__ = "{version or f"0.0.{self._number}"}"'
        self._change(source / "src/rns_ble/__init__.py", r'__version__ = ".*"', line)
        if requires:
            self._change(source / "pyproject.toml", r"dependencies = \[", f'dependencies = ["{requires}",')
        for name, old, new in faults:
            self._change(source / "src/rns_ble" / name, re.escape(old), new)
        return self._wheel(source)

    def other(self, name: str, version: str) -> Path:
        """A wheel of another, empty project."""
        source = self._directory / f"{name}-{version}"
        (source / name).mkdir(parents=True)
        (source / name / "__init__.py").write_text(f'__version__ = "{version}"\n')
        (source / "pyproject.toml").write_text(
            '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
            f'[project]\nname = "{name}"\nversion = "{version}"\n'
        )
        return self._wheel(source)

    @staticmethod
    def _change(path: Path, pattern: str, new: str) -> None:
        changed, count = re.subn(pattern, lambda _: new, path.read_text(), count=1)
        assert count == 1, f"{path} has no {pattern}"
        path.write_text(changed)

    def _wheel(self, source: Path) -> Path:
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-t", "wheel"],
            cwd=source,
            capture_output=True,
            check=True,
        )
        (built,) = (source / "dist").glob("*.whl")
        return built


class Machine:
    """A home directory with a virtual environment, Reticulum in it, and a supervisor that runs its rnsd."""

    def __init__(self, home: Path, transport: str) -> None:
        self.home = home
        self.python = home / "venv/bin/python"
        self.restart = str(home / "supervisor")
        self.config = home / "reticulum"
        venv.create(home / "venv", with_pip=False)
        # What the tests run with, but for this package; beside the environment, where pip changes nothing.
        shared = home / "shared"
        shared.mkdir()
        for entry in Path(sysconfig.get_path("purelib")).iterdir():
            if not entry.name.startswith(("rns_ble", "_rns_ble", "__")) and entry.suffix != ".pth":
                (shared / entry.name).symlink_to(entry)
        (self.site_packages / "shared.pth").write_text(f"{shared}\n")
        rnsd = home / "venv/bin/rnsd"
        rnsd.write_text(f"#!{self.python}\nfrom RNS.Utilities.rnsd import main\nmain()\n")
        rnsd.chmod(0o755)
        (home / "supervisor").write_text(SUPERVISOR.format(here=home))
        (home / "supervisor").chmod(0o755)
        self.config.mkdir()
        self.index = home / "index"
        """What pip finds when it is used by SSH."""
        self.index.mkdir()
        (self.config / "config").write_text(
            "[reticulum]\nshare_instance = no\n[logging]\nloglevel = 6\n[interfaces]\n[[BLE Interface]]\n"
            f"type = BLEInterface\nenabled = yes\ndriver = bumble\ntransport = {transport}\n"
        )

    @property
    def site_packages(self) -> Path:
        (found,) = (self.home / "venv/lib").glob("python*/site-packages")
        return found

    def run(self, *arguments: str) -> str:
        """Run its Python."""
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        command = [str(self.python), *arguments]
        return subprocess.run(
            command, cwd=self.home, env=environment, capture_output=True, text=True, check=False
        ).stdout

    @property
    def installed(self) -> str:
        """The version of this package there, or nothing."""
        return self.run("-c", "import importlib.metadata as m; print(m.version('rns-ble'))").strip()

    def status(self) -> dict[str, Any]:
        """What its interfaces say."""
        printed = self.run(
            "-m", "rns_ble.cli", "status", "--json", "--wait", "30", "--config", str(self.config)
        )
        return dict(json.loads(printed))

    @property
    def processes(self) -> set[int]:
        """The rnsd that run with its configuration."""
        found = set()
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it may have ended meanwhile
                if f"rnsd\0--config\0{self.config}\0".encode() in (entry / "cmdline").read_bytes():
                    found.add(int(entry.name))
        return found

    def close(self) -> None:
        pid = self.home / "pid"
        if pid.exists():
            with suppress(ProcessLookupError):
                os.kill(int(pid.read_text()), signal.SIGKILL)


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Wheels:
    return Wheels(tmp_path_factory.mktemp("wheels"))


@pytest.fixture(scope="session")
def ether() -> Iterator[str]:
    """The virtual radio; its transport."""
    command = [sys.executable, "-m", "rns_ble.cli", "ether", "--listen", "0", "--json", "--until-stdin-ends"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["transport"]
        process.stdin.close()
        process.wait(PATIENCE)


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory, ether: str, wheels: Wheels) -> Iterator[Machine]:
    """With some version of this package, whose interface is online."""
    machine = Machine(tmp_path_factory.mktemp("home"), ether)
    try:
        pip = ["-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
        machine.run(*pip, str(wheels.build()))
        machine.run("-m", "rns_ble.cli", "install", "--config", str(machine.config))
        subprocess.run([machine.restart], check=True)
        status = machine.status()
        assert status["interfaces"], (status, (machine.home / "rnsd.log").read_text())
        assert all(interface["online"] for interface in status["interfaces"])
        yield machine
    finally:
        machine.close()


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory, machine: Machine) -> Iterator[Sshd]:
    """To that machine: what is run there has its home, and no way to a package index."""
    if shutil.which("ssh") is None or shutil.which("ssh-keygen") is None:
        pytest.skip("this machine has no ssh: install openssh-client")
    environment = {
        "HOME": str(machine.home),
        "PATH": f"{machine.home}/venv/bin:{os.defpath}",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(machine.index),
    }
    with Sshd(tmp_path_factory.mktemp("sshd"), environment).running() as sshd:
        yield sshd
