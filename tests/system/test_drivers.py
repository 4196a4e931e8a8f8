"""Interfaces that bring a driver of their own, in Reticulum: one of ours, one of the callback contract."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.reticulum import ROOT, Reticulum

EXAMPLE = """
import sys
sys.path.insert(0, {examples!r})
from rns_ble.interface import BLEInterface
from custom_driver import SocketDriver

class SocketInterface(BLEInterface):
    driver_class = lambda config: SocketDriver({air!r}, {address!r})

interface_class = SocketInterface
"""

CALLBACKS = """
import RNS
from BLEInterface import BLEInterface
from tests.system.callback_driver import CallbackDriver

class OurDriver(CallbackDriver):
    directory = {air!r}
    address = {address!r}

class PhoneInterface(BLEInterface):
    driver_class = OurDriver

    def __init__(self, owner, config=None):
        super().__init__(owner, config)
        self.driver.configure_power(preset=config.get("power_preset", "balanced"))
        RNS.log(f"{{self.max_peers}} peers, {{self.enable_central}}, {{self.enable_peripheral}}")

interface_class = PhoneInterface
"""


@pytest.fixture
def air() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as directory:  # its name has to be short
        yield directory


@pytest.mark.parametrize("lower", ["the callback contract", "ours"])
def test_two_drivers_of_ones_own_exchange_packets(tmp_path: Path, air: str, lower: str) -> None:
    """The lower address dials, so that each is central once."""
    nodes = []
    shims = {"the callback contract": (CALLBACKS, "aliases"), "ours": (EXAMPLE, "none")}
    for name, (shim, aliases) in shims.items():
        node = Reticulum(tmp_path / name.replace(" ", "-"))
        address = f"02:00:00:00:00:{1 if name == lower else 2:02X}"
        text = shim.format(air=air, address=address, examples=str(ROOT / "examples"))
        (node.directory / "interfaces" / "Own.py").write_text(text)
        node.configure({"Own": {"type": "Own", "power_preset": "sparing", "dial_grace": 60}})
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
