"""Processes of a demo network, in structured concurrency: the ether and the nodes.

1. A process lives as long as its task. The task's end, for whatever reason, is the process's end: it is asked
   by closing its stdin, then told by SIGTERM, then killed, each with a deadline.
2. A process that ends by itself is a failure (`ProcessFailedError`) and ends the network; one that was
   `kill`ed is none.
3. What a process told stays: `events` only grows, so a question about it can't come too late.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Final

import trio

from rns_ble.cli import reticulum_config
from rns_ble.cli.errors import CommandError
from rns_ble.cli.install import write_shim

PLACES: Final = "8"
"""`max_connections` of a node: one more than eight nodes have neighbours, for two of them do not dial each
other for the last place that both have."""

GOODBYE: Final = 8.0
"""Seconds for a process to end by itself: a node's BLE interface may take 5 s to close its links, and LXMF
stores its state."""

TERMINATE: Final = 2.0
"""Seconds from SIGTERM to SIGKILL."""

LOG_LINES: Final = 15
"""Lines of a log that are shown when its process failed."""

LOG_LEVEL: Final = "5"
"""Reticulum's "verbose": names every step of a start and every failure, and no single packet."""

Event = dict[str, Any]


class ProcessFailedError(CommandError):
    """A process of the network ended, or was of no use. The message ends in the last lines of its log."""


class Process:
    """One process that tells JSON objects on stdout, one a line."""

    def __init__(
        self, name: str, command: Sequence[str], logs: Sequence[Path], changes: trio.lowlevel.ParkingLot
    ) -> None:
        """`logs`: what to show when it fails; the first also takes its stderr.

        `changes` is unparked at each event.
        """
        self.name = name
        self.events: list[Event] = []
        self._command = command
        self._logs = logs
        self._changes = changes
        self._killed = False
        self._process: trio.Process
        self._stdin: trio.abc.SendStream
        self._writing = trio.Lock()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start it and take its events until it ends. Cancelled: it is ended, see the rules above.

        Raises `ProcessFailedError` when it ends without having been killed.
        """
        with self._logs[0].open("ab") as log:
            # A session of its own: Ctrl-C on the terminal is for us alone, and we end it in good order.
            self._process = await trio.lowlevel.open_process(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin = self._process.stdin
        try:
            task_status.started()
            await self._listen(self._process.stdout)
            code = await self._process.wait()
            if not self._killed:
                raise self.failure(f"ended with exit code {code}")
        finally:
            with trio.CancelScope(shield=True):
                await self._end()

    async def _listen(self, stdout: trio.abc.ReceiveStream) -> None:
        pending = b""
        async for received in stdout:
            *lines, pending = (pending + received).split(b"\n")
            self.events += map(json.loads, lines)
            self._changes.unpark_all()

    async def _end(self) -> None:
        with trio.move_on_after(GOODBYE):
            await self._stdin.aclose()
            await self._process.wait()
        if self._process.returncode is None:
            self._process.terminate()
            with trio.move_on_after(TERMINATE):
                await self._process.wait()
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        assert self._process.stdout is not None
        await self._process.stdout.aclose()

    async def kill(self) -> None:
        """End it with SIGKILL and wait until it is gone."""
        self._killed = True
        self._process.kill()
        await self._process.wait()

    async def tell(self, command: str, **fields: object) -> None:
        """Send it a command. To a process that has ended nothing is sent: `run` reports that."""
        line = json.dumps({"command": command, **fields}).encode() + b"\n"
        async with self._writing:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._stdin.send_all(line)

    def seen(self, event: str, since: int = 0, **fields: object) -> Event | None:
        """The first event of that name with these values in it, from `events[since]` on."""
        wanted = {"event": event, **fields}
        return next(
            (
                told
                for told in self.events[since:]
                if all(told.get(field) == value for field, value in wanted.items())
            ),
            None,
        )

    async def wait_for(self, event: str, since: int = 0, **fields: object) -> Event:
        """The same, as soon as there is one. Cancelled: nothing changes."""
        while (told := self.seen(event, since, **fields)) is None:
            await self._changes.park()
        return told

    def failure(self, what: str) -> ProcessFailedError:
        """The failure of this process, with the end of its logs."""
        lines = [
            line
            for log in self._logs
            if log.is_file()
            for line in log.read_text(errors="replace").splitlines()
        ]
        shown = "\n".join(f"  | {line}" for line in lines[-LOG_LINES:]) or "  | (nothing)"
        return ProcessFailedError(f"{self.name} {what}; the end of its log:\n{shown}")


class Node(Process):
    """A Reticulum node: see `rns_ble.cli.demo.node` for its commands and events."""

    program: ClassVar = "rns_ble.cli.demo.node"
    """The module that it runs."""

    def __init__(self, name: str, directory: Path, changes: trio.lowlevel.ParkingLot) -> None:
        super().__init__(
            name,
            [sys.executable, "-m", self.program, str(directory)],
            [directory / "stderr", directory / "logfile"],
            changes,
        )
        self.directory = directory

    @property
    def is_ready(self) -> bool:
        """Whether Reticulum is up in it; the properties below have a value then."""
        return self.seen("ready") is not None

    def _ready(self, what: str) -> str:
        ready = self.seen("ready")
        assert ready is not None, f"{self.name} has not said that it is ready"
        return str(ready[what])

    @property
    def identity(self) -> str:
        """Its BLE identity, 32 hexadecimal digits."""
        return self._ready("identity")

    @property
    def delivery(self) -> str:
        """The hash of its LXMF delivery destination, hexadecimal."""
        return self._ready("delivery")

    @property
    def resources(self) -> str:
        """The hash of its destination that takes Resources, hexadecimal."""
        return self._ready("resources")

    @property
    def peers(self) -> dict[str, list[dict[str, Any]]]:
        """Identity → links, over all its BLE interfaces, for the BLE peers it is linked to now."""
        told = next((event for event in reversed(self.events) if event["event"] == "peers"), None)
        peers: dict[str, list[dict[str, Any]]] = {}
        for peer in told["peers"] if told else ():
            peers.setdefault(peer["identity"], []).extend(peer["links"])
        return peers

    def has_heard(self, destination: str, since: int = 0) -> bool:
        """Whether it has heard an announce of that destination, from `events[since]` on."""
        return self.seen("announce", since, destination=destination) is not None


class Network:
    """Nodes that have the same radio. Made by `open_nodes`, and with a radio of its own by `open_network`."""

    def __init__(
        self,
        directory: Path,
        nursery: trio.Nursery,
        keys: Mapping[str, str],
        changes: trio.lowlevel.ParkingLot,
    ) -> None:
        self.directory = directory
        self.keys: Final = keys
        """What the section of every BLE interface has, whichever node's it is."""
        self.nodes: dict[int, Node] = {}
        """By number."""
        self.node_type = Node
        """What `start_node` makes."""
        self._changes = changes
        self._nursery = nursery

    async def start_node(
        self,
        number: int,
        *,
        interfaces: Sequence[Mapping[str, str]] = ({},),
        reticulum: Mapping[str, str] | None = None,
    ) -> Node:
        """Start node `number` (1 and up) and wait until Reticulum is up in it.

        `interfaces`: for each of its BLE interfaces, what its section has on top of the network's `keys`;
        `reticulum`: more keys for its [reticulum] section. A node of a number that was started before takes
        over that one's directory, and so its identities.

        Raises `ProcessFailedError` when not all its BLE interfaces came up.
        """
        directory = self.directory / f"node-{number}"
        write_configuration(directory, [{**self.keys, **keys} for keys in interfaces], reticulum or {})
        self.nodes[number] = node = self.node_type(f"node {number}", directory, self._changes)
        await self._nursery.start(node.run)
        ready = await node.wait_for("ready")
        up = sum(name.startswith(f"{reticulum_config.INTERFACE_TYPE}[") for name in ready["interfaces"])
        if up < len(interfaces):
            raise node.failure(f"has {up} of its {len(interfaces)} BLE interfaces")
        return node

    async def change(self) -> None:
        """Wait for the next event of any process. Cancelled: nothing changes."""
        await self._changes.park()

    def changed(self) -> None:
        """Wake up whoever waits for a change, as an event does."""
        self._changes.unpark_all()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something holds that the nodes' events decide. Cancelled: nothing changes."""
        while not condition():
            await self.change()


def write_configuration(
    directory: Path, interfaces: Sequence[Mapping[str, str]], reticulum: Mapping[str, str]
) -> None:
    """A Reticulum configuration with these BLE interfaces and no other, and the shim as `install` writes
    it.
    """
    options = {"enable_transport": "no", "share_instance": "no", **reticulum}
    lines = "".join(f"  {key} = {value}\n" for key, value in options.items())
    sections = "\n".join(
        reticulum_config.block(reticulum_config.SECTION_NAME + (f" {number}" if number > 1 else ""), keys)
        for number, keys in enumerate(interfaces, 1)
    )
    write_shim(directory)
    (directory / "config").write_text(
        f"[reticulum]\n{lines}\n[logging]\n  loglevel = {LOG_LEVEL}\n\n[interfaces]\n\n{sections}"
    )


@asynccontextmanager
async def open_nodes(directory: Path, keys: Mapping[str, str]) -> AsyncIterator[Network]:
    """Nodes on a radio that is there already, for example a Bluetooth adapter each.

    `keys`: what the section of every BLE interface has. At the end of the block every process is gone.
    When one of them fails before, the block is cancelled. Raises `ProcessFailedError`, in exception groups.
    """
    async with trio.open_nursery() as nursery:
        yield Network(directory, nursery, keys, trio.lowlevel.ParkingLot())
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_network(directory: Path) -> AsyncIterator[Network]:
    """The same with an ether of its own."""
    arguments = "ether", "--listen", "127.0.0.1:0", "--json", "--until-stdin-ends"
    ether = Process(
        "the ether",
        [sys.executable, "-m", "rns_ble.cli", *arguments],
        [directory / "ether.log"],
        trio.lowlevel.ParkingLot(),
    )
    async with trio.open_nursery() as around:
        await around.start(ether.run)
        listening = await ether.wait_for("listening")
        # The nodes have a nursery of their own: they take leave of each other while there still is an ether.
        keys = {"driver": "bumble", "transport": listening["transport"], "max_connections": PLACES}
        async with open_nodes(directory, keys) as network:
            yield network
        around.cancel_scope.cancel()
