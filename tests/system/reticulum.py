"""Reticulum in processes of its own: it is a singleton, takes over signals and can't be stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0
"""Seconds to wait for what must happen; reaching it fails the test."""

SHIMS = {
    # What a user writes, and all that a user writes.
    "BLEInterface": "from rns_ble.interface import BLEInterface as interface_class\n",
    "Neighbourly": "from tests.system.neighbour import Neighbourly as interface_class\n",
    "Hanging": "from tests.system.neighbour import Hanging as interface_class\n",
}


class Process:
    """A running process whose output goes to a file, so that it never waits for its reader."""

    def __init__(self, arguments: list[str], output: Path) -> None:
        self._output = output
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-X", "dev", *arguments],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    @property
    def output(self) -> str:
        return self._output.read_text()

    @property
    def lines(self) -> list[str]:
        """The log's lines without their time."""
        return [
            line.partition("] ")[2] if line.startswith("[") else line for line in self.output.splitlines()
        ]

    def wait_for(self, text: str, count: int = 1) -> None:
        """Until the output contains the text so many times."""
        deadline = time.monotonic() + PATIENCE
        while self.output.count(text) < count:
            assert self.process.poll() is None, f"ended without {text!r}:\n{self.output}"
            assert time.monotonic() < deadline, f"no {text!r}:\n{self.output}"
            time.sleep(0.05)

    def wait(self) -> int:
        return self.process.wait(PATIENCE)

    def terminate(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it as a user or the system would; its exit code."""
        self.process.send_signal(number)
        return self.wait()


class Reticulum:
    """A configuration directory, and processes that use it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.processes: list[Process] = []
        interfaces = directory / "interfaces"
        interfaces.mkdir(parents=True)
        for name, text in SHIMS.items():
            (interfaces / f"{name}.py").write_text(text)

    def configure(
        self, interfaces: Mapping[str, Mapping[str, object]], loglevel: int = 6, **options: object
    ) -> None:
        """Write the configuration. An interface is of type Neighbourly where it does not say."""
        options = {"share_instance": "no", "enable_transport": "no", **options}
        text = ["[reticulum]", *(f"{key} = {value}" for key, value in options.items())]
        text += ["[logging]", f"loglevel = {loglevel}", "[interfaces]"]
        for name, section in interfaces.items():
            text.append(f"[[{name}]]")
            keys = {"type": "Neighbourly", "enabled": "yes", **section}
            text += [f"{key} = {value}" for key, value in keys.items()]
        (self.directory / "config").write_text("\n".join(text) + "\n")

    def run(self, *arguments: str) -> Process:
        output = self.directory / f"output-{len(self.processes)}"
        self.processes.append(Process([*arguments], output))
        return self.processes[-1]

    def rnsd(self) -> Process:
        return self.run("-m", "RNS.Utilities.rnsd", "--config", str(self.directory))

    def scenario(self, name: str, *, fails: bool = False) -> Any:
        """Run a function of `tests.system.scenarios` to its end; what it returned.

        `fails`: something is meant to go wrong, so tracebacks may be logged.
        """
        process = self.run("-m", "tests.system.scenarios", name, str(self.directory))
        assert process.wait() == 0, process.output
        assert "Warning" not in process.output, process.output
        assert fails == ("Traceback" in process.output), process.output
        return json.loads((self.directory / "result").read_text())

    def close(self) -> None:
        for process in self.processes:
            if process.process.poll() is None:
                process.process.kill()
                process.wait()
