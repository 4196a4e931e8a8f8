"""A home of its own for each test, with nothing of this machine's in reach."""

from __future__ import annotations

from pathlib import Path

import pytest

from rns_ble.cli.doctor.case import Case
from rns_ble.cli.install import SHIM


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Also the configuration directory of `case`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/nowhere")
    return tmp_path


@pytest.fixture
def instance(home: Path) -> str:
    """A name for Reticulum's shared instance that nobody else on this machine has."""
    return f"doctor-{home.name}-{home.stat().st_ino}"


@pytest.fixture
def locked_rnsd(home: Path) -> Path:
    """An rnsd whose Python this user may not run, so that no check waits for its imports."""
    (home / "python3").touch(mode=0o600)
    script = home / "bin" / "rnsd"
    script.parent.mkdir()
    script.write_text(f"#!{home}/python3\n")
    script.chmod(0o755)
    return script


@pytest.fixture
def case(home: Path) -> Case:
    """The home's configuration, with system files below it, too."""
    return Case(str(home), root=home)


@pytest.fixture
def well(home: Path, instance: str) -> Path:
    """A configuration with which nothing is wrong; the directory."""
    (home / "interfaces").mkdir()
    (home / "interfaces" / "BLEInterface.py").write_text(SHIM)
    (home / "config").write_text(
        f"[reticulum]\ninstance_name = {instance}\n\n"
        "[interfaces]\n[[BLE Interface]]\ntype = BLEInterface\nenabled = yes\n"
    )
    return home
