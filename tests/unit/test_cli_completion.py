"""`rns-ble completion`, in the shells themselves, as somebody types."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rns_ble.cli import COMMANDS
from rns_ble.cli.completion import PLACES, SHELLS

PATIENCE = 20.0
"""Seconds for a shell to start, or to answer, on a machine that does other things as well."""

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
"""Colours and movements of the cursor."""

CLEAR_LINE = "\x15"

START = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "PS1='ready''> '; source {script}"),
    "zsh": (
        ["zsh", "-f", "-i"],
        "PS1='ready''> '; fpath+=({script.parent}); autoload -U compinit; compinit -u -D",
    ),
    "fish": (["fish", "--no-config", "-i"], "source {script}; function fish_prompt; echo 'ready''> '; end"),
}
"""How each shell is started without anybody's settings, and what it is told first."""


class Terminal:
    """A shell at a pseudo-terminal."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.screen = ""

    def type(self, keys: str) -> None:
        """Press keys, with an empty screen."""
        self.screen = ""
        os.write(self._fd, keys.encode())

    def shows(self, text: str) -> bool:
        """Whether this comes, within a time that is only there to end a test that fails."""
        end = time.monotonic() + PATIENCE
        while text not in ESCAPES.sub("", self.screen):
            if not select.select([self._fd], [], [], max(0, end - time.monotonic()))[0]:
                return False
            try:
                self.screen += os.read(self._fd, 4096).decode(errors="replace")
            except OSError:  # the shell has ended
                return False
        return True


@contextmanager
def terminal(command: list[str], home: Path) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "HOME": str(home), "XDG_DATA_HOME": str(home)}
    # A shell wants the terminal to be its own.
    command = ["setsid", "--ctty", *command]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as shell:
        os.close(theirs)
        try:
            yield Terminal(ours)
        finally:
            shell.kill()
            os.close(ours)


@pytest.fixture
def script(shell: str, tmp_path: Path) -> Path:
    path = tmp_path / "_rns-ble"
    outcome = subprocess.run(
        [sys.executable, "-m", "rns_ble.cli", "completion", shell], capture_output=True, text=True, check=True
    )
    path.write_text(outcome.stdout)
    return path


@pytest.mark.parametrize("shell", SHELLS)
def test_every_command_and_action_is_in_what_it_prints(script: Path) -> None:
    text = script.read_text()
    for word in (*COMMANDS, "connect", "service-uuid", "bumble"):
        assert word in text


@pytest.mark.parametrize("shell", SHELLS)
def test_it_says_of_its_place_what_the_readme_says(shell: str, script: Path) -> None:
    place, needed = PLACES[shell]
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert f"| {shell} | `rns-ble completion {shell}` | `{place}` | {needed} |\n" in readme
    text = script.read_text()
    assert f"\n# It belongs into {place}, and needs {needed}.\n" in text
    assert "Usage:" not in text
    assert "bash_completion/rns-ble" not in text


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_completes_what_somebody_types(shell: str, script: Path, tmp_path: Path) -> None:
    command, settings = START[shell]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{shell} is not installed")
    with terminal(command, tmp_path) as typed:
        typed.type(settings.format(script=script) + "\n")
        assert typed.shows("ready> "), typed.screen
        for line, shown in (
            ("rns-ble completion z\t", ["zsh"]),
            ("rns-ble radio \t\t", ["scan", "serve", "connect", "race"]),
            ("rns-ble radio connect --driver bu\t", ["bumble"]),
            ("rns-ble install --enab\t", ["--enable"]),
        ):
            typed.type(CLEAR_LINE + line)
            for text in shown:
                assert typed.shows(text), typed.screen
