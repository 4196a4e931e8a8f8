"""The manual page is made from the command line's parsers, and `man` understands it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rns_ble.cli import COMMANDS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def page() -> str:
    generator = [sys.executable, str(ROOT / "docs" / "tools" / "manual.py")]
    return subprocess.run(generator, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def shown(page: str) -> str:
    if shutil.which("man") is None or shutil.which("groff") is None:
        pytest.skip("man or groff is not installed")
    outcome = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", "-"],
        input=page,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "MANWIDTH": "1000", "MANPAGER": "cat", "MAN_KEEP_FORMATTING": ""},
    )
    assert outcome.stderr == ""
    return " ".join(outcome.stdout.split())


def test_it_has_a_section_for_every_command(page: str) -> None:
    sections = [line.removeprefix(".SH ") for line in page.splitlines() if line.startswith(".SH ")]
    assert sections[:4] == ["NAME", "SYNOPSIS", "DESCRIPTION", "COMMANDS"]
    for command in COMMANDS:
        assert any(section.startswith(f"RNS\\-BLE {command.upper()}") for section in sections)


def test_man_shows_what_help_says(shown: str) -> None:
    assert "rns-ble - Bluetooth Low Energy as a transport of the Reticulum Network Stack" in shown
    assert "rns-ble radio connect [-h]" in shown
    assert "--driver DRIVER write `driver = …` into the section" in shown
    assert "[ADDRESS] the other machine's (default: whoever is heard first)" in shown
    for command, summary in COMMANDS.items():
        assert f"{command} {summary[0].upper()}{summary[1:]}." in shown
