"""Interfaces that bring a driver of their own, in Reticulum: one of ours, one of the callback contract."""

from __future__ import annotations

import re
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.reticulum import ROOT, Reticulum

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "drivers.md").read_text(), re.DOTALL)
"""In the guide for those who write a driver."""

[SHOWN] = [block for block in BLOCKS if "interface_class" in block]
EXAMPLE = f"import sys\nsys.path.insert(0, {str(ROOT / 'examples')!r})\n{SHOWN}"

CALLBACKS = """
import RNS
from BLEInterface import BLEInterface
from tests.system.callback_driver import CallbackDriver

class OurDriver(CallbackDriver):
    directory = "/run/radio"
    address = "ADDRESS"

class PhoneInterface(BLEInterface):
    driver_class = OurDriver

    def __init__(self, owner, config=None):
        super().__init__(owner, config)
        self.driver.configure_power(preset=config.get("power_preset", "balanced"))
        RNS.log(f"{self.max_peers} peers, {self.enable_central}, {self.enable_peripheral}")

interface_class = PhoneInterface
"""


@pytest.fixture
def air() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as directory:  # its name has to be short
        yield directory


def test_two_drivers_of_ones_own_exchange_packets(tmp_path: Path, air: str) -> None:
    nodes = []
    for number, (shim, aliases) in enumerate([(CALLBACKS, "aliases"), (EXAMPLE, "none")], 1):
        node = Reticulum(tmp_path / str(number))
        address = f"02:00:00:00:00:{number:02X}"
        text = shim.replace("/run/radio", air).replace("ADDRESS", address)
        (node.directory / "interfaces" / "Own.py").write_text(text)
        section = {"type": "Own", "adapter": address, "power_preset": "sparing", "dial_grace": 60}
        node.configure({"Own": section})
        nodes.append(node)
        node.run("-m", "tests.system.driver_node", str(node.directory), aliases)
    try:
        processes = [process for node in nodes for process in node.processes]
        for process in processes:
            process.wait_for("received 356 bytes")
            process.wait_for("proved")
        for process in processes:
            assert process.terminate(signal.SIGUSR1) == 0
            assert "Traceback" not in process.output
            assert "[Warning]" not in process.output or "unknown key power_preset" in process.output
        callbacks, ours = processes
        assert "7 peers, True, True" in callbacks.output
        assert "driver OurDriver sparing" in callbacks.output
        assert "unknown key" not in callbacks.output, "its interface reads keys of its own"
        assert "driver SocketDriver" in ours.output
        assert not list(Path(air).iterdir()), "both have stopped to advertise"
    finally:
        for node in nodes:
            node.close()
