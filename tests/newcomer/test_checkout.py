"""The demo and several nodes on one machine: a fresh checkout, its commands typed as the README has them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from tests.newcomer.checkout import publish
from tests.newcomer.documents import Scene, commands_of
from tests.newcomer.terminals import Terminal

INSTALLING = 600.0  # seconds, for a slow line
DEADLINE = 60.0  # seconds in which nodes find one another
ETHER = ("127.0.0.1", 7300)
LINKED = r"BLEPeerInterface\[[^]]+\]\n\s+Status\s+: Up"


@dataclass(frozen=True)
class Newcomer:
    """Somebody with an empty home and a fresh checkout, who has pasted the first command of the README."""

    home: Path
    checkout: Path
    printed: str

    def terminal(self) -> Terminal:
        return Terminal(["bash", "-c"], environment(self.home), self.checkout)


def environment(home: Path) -> dict[str, str]:
    """This process's, without what it has of a virtual environment; pip has its settings and its cache."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))
    }
    real = Path.home()
    return {
        "XDG_CONFIG_HOME": str(real / ".config"),
        "XDG_CACHE_HOME": str(real / ".cache"),
        **kept,
        "HOME": str(home),
    }


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Newcomer:
    if shutil.which("git") is None:
        pytest.skip("a fresh checkout needs git")
    directory = tmp_path_factory.mktemp("newcomer")
    home = directory / "home"
    checkout = home / "rns_ble"
    home.mkdir()
    publish(directory / "rns_ble.git")
    subprocess.run(["git", "clone", "-q", str(directory / "rns_ble.git"), str(checkout)], check=True)
    [demo] = commands_of(Scene.DEMO)
    terminal = Terminal(["bash", "-c"], environment(home), checkout)

    async def paste() -> str:
        with trio.fail_after(INSTALLING):
            return await terminal.run(demo)

    return Newcomer(home, checkout, trio.run(paste))


def test_the_demo(newcomer: Newcomer) -> None:
    assert "SHA-256 matches" in newcomer.printed
    assert newcomer.printed.splitlines()[-1].startswith("Everything arrived")


async def test_several_nodes(newcomer: Newcomer) -> None:
    with socket.socket() as taken:
        if taken.connect_ex(ETHER) == 0:
            pytest.skip("somebody has an ether on this machine already, at the address that the README takes")
    ether, first_node, second_node, look = commands_of(Scene.SEVERAL_NODES)
    terminal = newcomer.terminal
    with trio.fail_after(DEADLINE):
        async with terminal().stays(ether) as first:
            await first.shows("The ether listens")
            async with terminal().stays(first_node) as second:
                await second.shows("wrote .*/ble-two/config")
                async with terminal().stays(second_node) as third:
                    await second.shows("Started rnsd")
                    await third.shows("Started rnsd")
                    shown = await terminal().until(look, LINKED)
    assert "BLEInterface[BLE Interface]" in shown


async def test_a_dongle(newcomer: Newcomer) -> None:
    """The command writes what the interface needs; without a dongle that is as far as it goes."""
    with trio.fail_after(DEADLINE):
        for command in commands_of(Scene.DONGLE):
            await newcomer.terminal().run(f"PATH=$PWD/.venv/bin:$PATH\n{command}")
    written = (newcomer.home / ".reticulum" / "config").read_text()
    assert "driver = bumble" in written
    assert "transport = usb:0" in written


async def test_the_tab_key(newcomer: Newcomer) -> None:
    with trio.fail_after(DEADLINE):
        for command in commands_of(Scene.COMPLETION):
            await newcomer.terminal().run(f"PATH=$PWD/.venv/bin:$PATH\n{command}")
    [written] = (newcomer.home / ".local/share/bash-completion/completions").iterdir()
    assert written.name == "rns-ble"
    assert "rns_ble" in written.read_text()
