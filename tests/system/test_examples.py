"""The examples as somebody uses them who follows examples/README.md."""

from __future__ import annotations

import codecs
import fcntl
import os
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import trio
from RNS.Interfaces.Interface import Interface

from rns_ble.cli.demo.network import Node
from rns_ble.cli.reticulum_config import block
from tests.system.networks import DEADLINE, announce, deliver, network, rnstatus, shared

EXAMPLES = Path(__file__).parents[2] / "examples"
VIRTUAL_RADIO = "tcp-client:127.0.0.1:7300"
"""What the examples' configurations name."""

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
"""What moves the cursor of a terminal and has no width."""


def changed(config: Path, changes: Mapping[str, str]) -> str:
    """The text of a configuration in which each of these was found once, and replaced."""
    text = config.read_text()
    for old, new in changes.items():
        assert text.count(old) == 1, f"{old} is in {config} {text.count(old)} times"
        text = text.replace(old, new)
    return text


class Chat:
    """A running chat.py, and what it has shown."""

    def __init__(
        self,
        process: trio.Process,
        screen: trio.abc.ReceiveStream,
        keyboard: trio.abc.SendStream,
        prompt: str,
    ):
        self.process = process
        self._prompt = prompt
        self.shown = ""
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._screen = screen
        self._keyboard = keyboard

    async def type(self, text: str) -> None:
        # While a line is shown the terminal is in nobody's hands, and takes Ctrl-D for itself.
        while not CONTROL.sub("", self.shown).rstrip().endswith(self._prompt):
            assert await self.read(), f"ended without a prompt:\n{self.shown}"
        await self._keyboard.send_all(text.encode())

    async def read(self) -> bool:
        """Take what comes next on the screen; False when nothing will."""
        try:
            received = await self._screen.receive_some(65536)
        except trio.BrokenResourceError:  # how a pseudo-terminal says that nobody is at its other end
            return False
        self.shown += self._decode(received)
        return bool(received)

    async def shows(self, pattern: str) -> re.Match[str]:
        while not (found := re.search(pattern, self.shown)):
            assert await self.read(), f"ended without {pattern!r}:\n{self.shown}"
        return found

    async def ends(self) -> int:
        while await self.read():
            pass
        return await self.process.wait()


@asynccontextmanager
async def chat(name: str, *options: object, terminal: bool = False) -> AsyncIterator[Chat]:
    """A chat on a pseudo-terminal or on pipes. What still runs in the end is killed."""
    command = [sys.executable, str(EXAMPLES / "chat" / "chat.py"), name, *map(str, options)]
    start = partial(trio.lowlevel.open_process, command, stderr=subprocess.STDOUT, start_new_session=True)
    if terminal:
        ours, its = os.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        # Nobody here answers when it asks the terminal where the cursor is.
        environment = {**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
        process = await start(stdin=its, stdout=its, env=environment)
        os.close(its)
        screen = keyboard = trio.lowlevel.FdStream(ours)
        prompt = f"{name}>"
    else:
        process = await start(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        screen, keyboard = process.stdout, process.stdin
        prompt = ""
    try:
        yield Chat(process, screen, keyboard, prompt)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await screen.aclose()
            await keyboard.aclose()


async def test_two_chats_exchange_lines_and_see_them_proved(tmp_path: Path) -> None:
    async with network(tmp_path) as net:
        for name in ("anna", "ben"):
            (tmp_path / name).mkdir()
            # The radio is the one line that differs from what chat.py writes itself.
            radio = {VIRTUAL_RADIO: net.keys["transport"]}
            (tmp_path / name / "config").write_text(changed(EXAMPLES / "chat" / "config", radio))
        async with (
            chat("anna", "--directory", tmp_path / "anna", terminal=True) as anna,
            chat("ben", "--directory", tmp_path / "ben") as ben,
        ):
            await ben.type("This is early\n")
            await ben.shows("Nobody is here yet; whoever comes first gets it")
            await anna.shows(r"\* ben is here \(1 hop\)")
            await ben.shows(r"\* anna is here \(1 hop\)")
            await anna.shows("ben: This is early")
            await ben.shows(r"✓ anna has got it, proved after \d+\.\d\d s: This is early")
            await anna.type("Grüße\r")
            await ben.shows("anna: Grüße")
            await anna.shows(r"✓ ben has got it, proved after \d+\.\d\d s: Grüße")
            await ben.type("No \x1b[31mred\n")
            await anna.shows(r"ben: No �\[31mred")
            await anna.type("\x04")
            assert await anna.ends() == 0
            ben.process.send_signal(signal.SIGINT)
            assert await ben.ends() == 0
            for one in (anna, ben):
                assert "Traceback" not in one.shown, one.shown
                assert "unverified" not in one.shown, one.shown


async def test_what_keeps_a_chat_from_working_is_said_in_words(tmp_path: Path) -> None:
    new, wrong, broken = tmp_path / "new" / "anna", tmp_path / "wrong", tmp_path / "broken"
    for directory in (wrong, broken):
        directory.mkdir()
    example = EXAMPLES / "chat" / "config"
    (wrong / "config").write_text(changed(example, {"driver = bumble": "driver = bumbel"}))
    (broken / "config").write_text("[reticulum\n")
    with trio.fail_after(DEADLINE):
        async with (
            chat("anna", "--directory", new, terminal=True) as without_radio,
            chat("ben", "--directory", wrong) as with_a_slip,
            chat("carl", "--directory", broken) as with_a_broken_file,
        ):
            await without_radio.shows("Ctrl-D ends")
            async with chat("anna", "--directory", new) as second:
                assert await second.ends() == 1
                assert second.shown == f"chat: a chat with {new} is running already: take another name\n"
            assert await with_a_slip.ends() == 1
            assert "can't be used: driver = bumbel; allowed: bleak or bumble" in with_a_slip.shown
            assert f"chat: no BLE interface came up: see {wrong}, what `config` " in with_a_slip.shown
            assert await with_a_broken_file.ends() == 1
            assert re.fullmatch(rf"chat: {broken}/config: .* at line 1\.\n", with_a_broken_file.shown)
            # Unless somebody happens to have an ether on this machine.
            await without_radio.shows(r"- Bluetooth: (offline: .*`rns-ble ether`|online)")
            await without_radio.type("Anybody?\r")
            await without_radio.shows("Nobody is here yet")
            without_radio.process.send_signal(signal.SIGTERM)
            assert await without_radio.ends() == 1
            assert "1 of your messages did not arrive" in without_radio.shown
    assert (new / "config").read_text() == example.read_text()


class BehindTheGateway(Node):
    """A node that has no Bluetooth, and the gateway's port."""

    port: int

    async def run(self, **options: Any) -> None:
        tcp = {"type": "TCPClientInterface", "target_host": "127.0.0.1", "target_port": str(self.port)}
        with (self.directory / "config").open("a") as config:
            config.write(block("The gateway", tcp))
        await super().run(**options)


async def test_the_gateway_joins_bluetooth_and_tcp_and_goes_on_without_lora(tmp_path: Path) -> None:
    gateway = SimpleNamespace(directory=tmp_path / "gateway")
    gateway.directory.mkdir()
    config = gateway.directory / "config"
    [internet] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    [house] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    elsewhere, port = (listener.socket.getsockname()[1] for listener in (internet, house))
    await house.aclose()
    async with internet, network(tmp_path) as net, trio.open_nursery() as nursery:
        changes = {
            # What the comments tell to change for a radio that is virtual, a gateway elsewhere and an RNode.
            "# driver = bumble": "driver = bumble",
            f"# transport = {VIRTUAL_RADIO}": f"transport = {net.keys['transport']}",
            "= no\n    target_host = reticulum.example.org\n    target_port = 4242": "= yes\n"
            f"    target_host = 127.0.0.1\n    target_port = {elsewhere}",
            "type = RNodeInterface\n    enabled = no": "type = RNodeInterface\n    enabled = yes",
            "port = /dev/ttyACM0": f"port = {gateway.directory / 'not-plugged-in'}",
            # What other tests on this machine may have as well.
            "share_instance = yes": "".join(f"{key} = {value}\n" for key, value in shared().items()),
            "listen_ip = 0.0.0.0\n    listen_port = 4242": f"listen_ip = 127.0.0.1\n    listen_port = {port}",
        }
        config.write_text(changed(EXAMPLES / "gateway" / "config", changes))
        install = [sys.executable, "-m", "rns_ble.cli", "install", "--config", str(gateway.directory)]
        installed = await trio.run_process(install, capture_stdout=True)
        assert b"left as it is, to be changed there" in installed.stdout

        nursery.start_soon(net.start_node, 1)
        rnsd = [sys.executable, "-m", "RNS.Utilities.rnsd", "--config", str(gateway.directory)]
        with (gateway.directory / "output").open("wb") as output:
            await nursery.start(partial(trio.run_process, rnsd, stdout=output, stderr=output))
        async with await internet.accept():  # the gateway is there, and calls on others
            BehindTheGateway.port, net.node_type = port, BehindTheGateway
            without_bluetooth = await net.start_node(2, interfaces=[])
            await net.until(lambda: 1 in net.nodes and bool(net.nodes[1].peers))
            with_bluetooth = net.nodes[1]
            async with trio.open_nursery() as announcing:
                announcing.start_soon(announce, net, with_bluetooth, without_bluetooth)
                announcing.start_soon(announce, net, without_bluetooth, with_bluetooth)
            heard = with_bluetooth.seen("announce", destination=without_bluetooth.delivery)
            assert heard["hops"] == 2, "through the gateway"
            await deliver(net, with_bluetooth, without_bluetooth, "From Bluetooth to TCP")
            await deliver(net, without_bluetooth, with_bluetooth, "From TCP to Bluetooth")

            up_and_mode = {
                # TCPInterface[Internet/127.0.0.1:4242] is that of the section Internet, and so on.
                re.split(r"[\[/\]]", one["name"])[1]: (one["status"], one["mode"])
                for one in await rnstatus(gateway)
            }
            expected = {
                "BLE Interface": (True, Interface.MODE_GATEWAY),
                "House": (True, Interface.MODE_GATEWAY),
                "Client on House": (True, Interface.MODE_GATEWAY),
                "Internet": (True, Interface.MODE_BOUNDARY),
                "LoRa": (False, Interface.MODE_INTERNAL),
            }
            assert up_and_mode.items() >= expected.items()
        assert "Traceback" not in (gateway.directory / "output").read_text()
        nursery.cancel_scope.cancel()
