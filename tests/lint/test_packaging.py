"""The source distribution: whoever packages from it can run the tests as in a checkout."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

BROUGHT_BY_HATCHLING = {"pyproject.toml", ".gitignore"}


@pytest.mark.skipif(
    not (ROOT / ".git").exists() or shutil.which("git") is None, reason="no checkout, or no git"
)
def test_the_source_distribution_has_all_of_the_checkout() -> None:
    # In a container the checkout may be another user's, at which git balks.
    command = ["git", "-c", "safe.directory=*", "ls-files"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    tracked = {line.partition("/")[0] for line in listed.stdout.splitlines()}
    targets = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    assert set(targets["sdist"]["include"]) | BROUGHT_BY_HATCHLING == tracked
