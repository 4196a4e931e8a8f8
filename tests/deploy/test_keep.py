"""Wheels of what is installed, wherever pip has put it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.deploy.conftest import ROOT, Wheels

PACK = """
import sysconfig
from importlib import metadata
from pathlib import Path
from deploy.host.keep import pack
print(pack(metadata.distribution("rns-ble"), Path(), sysconfig.get_preferred_scheme("user")))
"""


def test_a_wheel_of_an_installation_for_a_user_has_what_the_first_one_had(
    wheels: Wheels, tmp_path: Path
) -> None:
    """Not in a virtual environment: the places of its files are others."""
    wheel = wheels.build()
    environment = {**os.environ, "PYTHONUSERBASE": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    python = str(Path(sys.base_prefix, "bin", "python3"))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [python, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    options = ["--user", "--quiet", "--no-index", "--no-deps", "--break-system-packages"]
    installed = run("-m", "pip", "install", *options, str(wheel))
    if installed.returncode != 0:
        pytest.skip(f"{python} can't install for a user: {installed.stderr.strip()}")

    packed = run("-c", PACK)

    assert packed.returncode == 0, packed.stderr
    with ZipFile(wheel) as first, ZipFile(tmp_path / packed.stdout.strip()) as again:
        assert sorted(first.namelist()) == sorted(again.namelist())
        for name in first.namelist():
            if not name.endswith(".dist-info/RECORD"):
                assert first.read(name) == again.read(name)
