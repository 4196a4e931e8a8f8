"""The code itself: style, types, and which part may import which."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

CHECKS = {
    "ruff check": ("ruff", ["-m", "ruff", "check"]),
    "ruff format": ("ruff", ["-m", "ruff", "format", "--check"]),
    "mypy --strict": ("mypy", ["-m", "mypy"]),
    "import contracts": (
        "importlinter",
        ["-c", "import importlinter.cli as cli; cli.lint_imports_command(['--no-logo'])"],
    ),
}


@pytest.mark.parametrize("check", CHECKS)
def test_the_code_passes(check: str) -> None:
    tool, arguments = CHECKS[check]
    pytest.importorskip(tool, reason=f"{tool} is not installed: pip install -e '.[lint]'")
    outcome = subprocess.run([sys.executable, *arguments], cwd=ROOT, check=False)
    assert outcome.returncode == 0, f"{check}: see what it says above"
