"""Interfaces that bring a driver of their own, in Reticulum: one of ours, one of the callback contract."""

from __future__ import annotations

import re
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.reticulum import ROOT, Process, Reticulum

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "drivers.md").read_text(), re.DOTALL)
"""In the guide for those who write a driver."""

SHOWN, CALLING_BACK = (block for block in BLOCKS if "interface_class" in block)
EXAMPLE = f"import sys\nsys.path.insert(0, {str(ROOT / 'examples')!r})\n{SHOWN}"

OF_MY_DRIVER = """
from tests.system.callback_driver import CallbackDriver

class MyDriver(CallbackDriver):
    directory = "/run/radio"
    address = "ADDRESS"
"""

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


@pytest.fixture
def nodes(tmp_path: Path, air: str) -> Iterator[Callable[[str], Reticulum]]:
    """Makes configurations with an interface each, and ends what runs with them."""
    made: list[Reticulum] = []

    def make(shim: str) -> Reticulum:
        node = Reticulum(tmp_path / str(len(made) + 1))
        made.append(node)
        address = f"02:00:00:00:00:{len(made):02X}"
        text = shim.replace("/run/radio", air).replace("ADDRESS", address)
        (node.directory / "interfaces" / "Own.py").write_text(text)
        section = {"type": "Own", "adapter": address, "power_preset": "sparing", "dial_grace": 60}
        node.configure({"Own": section})
        return node

    yield make
    for node in made:
        node.close()


def exchange(*nodes: tuple[Reticulum, str]) -> list[Process]:
    """Two nodes send each other a packet and end; each with `aliases`, or `none`, installed before."""
    processes = [
        node.run("-m", "tests.system.driver_node", str(node.directory), aliases) for node, aliases in nodes
    ]
    for process in processes:
        process.wait_for("received 356 bytes")
        process.wait_for("proved")
    for process in processes:
        assert process.terminate(signal.SIGUSR1) == 0
        assert "Traceback" not in process.output
        assert "[Warning]" not in process.output or "unknown key power_preset" in process.output
    return processes


def test_two_drivers_of_ones_own_exchange_packets(nodes: Callable[[str], Reticulum], air: str) -> None:
    callbacks, ours = exchange((nodes(CALLBACKS), "aliases"), (nodes(EXAMPLE), "none"))
    assert "7 peers, True, True" in callbacks.output
    assert "driver OurDriver sparing" in callbacks.output
    assert "unknown key" not in callbacks.output, "its interface reads keys of its own"
    assert "driver SocketDriver" in ours.output
    assert not list(Path(air).iterdir()), "both have stopped to advertise"


def test_a_driver_that_calls_back_needs_nothing_but_its_interfaces_file(
    nodes: Callable[[str], Reticulum], air: str, tmp_path: Path
) -> None:
    """As in the guide; whatever starts Reticulum knows nothing of it."""
    module = tmp_path / "modules" / "my_driver.py"
    module.parent.mkdir()
    text = OF_MY_DRIVER.replace("/run/radio", air).replace("ADDRESS", "02:00:00:00:00:01")
    module.write_text(text)
    shim = f"import sys\nsys.path.insert(0, {str(module.parent)!r})\n{CALLING_BACK}"
    callbacks, _ = exchange((nodes(shim), "none"), (nodes(EXAMPLE), "none"))
    assert "driver MyDriver" in callbacks.output
