"""Two processes with a link between them, and what is measured on it.

A process is told what to do on its stdin (see `nodes/bluez_node.py`), and ends with its task. What fails is
kept as one line, so that whatever else is measured goes on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import trio

from rns_ble.cli.demo.network import Process, ProcessFailedError
from rns_ble.cli.errors import CommandError
from rns_ble.drivers.asyncio_loop import plainly

DEADLINE: Final = 60.0
"""Seconds for one step of a process: to start, to connect, to hand over all values of a flood."""

LOOK: Final = 0.25
"""Seconds between two questions how many values have arrived. One takes the receiver less than 1 ms."""

QUIET: Final = 3.0
"""Seconds without a value after which the others count as lost: more than a busy guest was seen to pause."""

PROBE_EVERY: Final = 0.04
"""Seconds between two values whose way is timed: 25 a second, beside hundreds in a flood."""


class LinkFailed(CommandError):
    """One end of a link could not do what it was told. The message is one line."""


@dataclass(frozen=True)
class Flood:
    """What became of so many values that were sent without a pause."""

    handed: float
    """Per second, to the stack: what its buffers take counts too."""
    arriving: float
    """Per second, from the first to the last at the other end."""
    lost: int
    dropped: int
    """Of those lost, what the receiving driver knows of. The others BlueZ has dropped."""
    megabytes: float
    """Of 1,000,000 bytes, that have arrived."""
    sender_cpu: float
    receiver_cpu: float
    """Seconds of the processor. The guest's kernel counts them in ticks of 10 ms, by whom it finds running
    then, so that one flood's tell little: see `link_bluez.cost`."""


class Pair:
    """A central and a peripheral, in processes of their own. Made by `open_pair`."""

    def __init__(self, name: str, ends: dict[str, Process], changes: trio.lowlevel.ParkingLot) -> None:
        self.name = name
        self.setting_up: dict[str, Any] = {}
        """What the central told when it was connected."""
        self.versions: dict[str, str] = {}
        """Of what it runs on, where that is not what this program runs on."""
        self._ends = ends
        self._changes = changes
        self._ended: str | None = None

    async def run(self, role: str, *, task_status: trio.TaskStatus[None]) -> None:
        """One of its processes, until it ends. That it fails is noted."""
        try:
            await self._ends[role].run(task_status=task_status)
        except ProcessFailedError as error:
            first, *rest = str(error).splitlines()
            self._ended = " ".join([first, *(line.strip(" |") for line in rest[-1:])])
            self._changes.unpark_all()

    async def ask(self, role: str, command: str, event: str, **fields: object) -> dict[str, Any]:
        """Have an end do something, until it tells that it is done. Raises `LinkFailed`."""
        end = self._ends[role]
        since = len(end.events)
        await end.tell(command, **fields)
        return await self.hear(role, event, since)

    async def hear(self, role: str, event: str, since: int = 0) -> dict[str, Any]:
        """What an end has told since then, or will. Raises `LinkFailed`."""
        end = self._ends[role]
        with trio.move_on_after(DEADLINE):
            while (told := end.seen(event, since)) is None:
                if self._ended is not None:
                    raise LinkFailed(self._ended)
                if failed := end.seen("failed", since):
                    raise LinkFailed(f"{end.name} failed: {failed['reason']}")
                await self._changes.park()
            return told
        errors = [told["reason"] for told in end.events if told["event"] == "error"]
        said = f"; its last error: {errors[-1]}" if errors else ""
        raise LinkFailed(f"{end.name} has not told '{event}' within {DEADLINE:g} s{said}")

    async def connect(self) -> None:
        """Link them. Raises `LinkFailed`."""
        ready = await self.hear("peripheral", "ready")
        address, self.versions = ready["address"], ready.get("versions", {})
        await self.hear("central", "ready")
        await self.ask("peripheral", "advertise", "advertising")
        told = await self.ask("central", "connect", "connected", address=address)
        self.setting_up = {name: value for name, value in told.items() if name != "event"}

    async def introduce(self) -> None:
        """Have a value of one byte go from the central to the peripheral. Raises `LinkFailed`."""
        await self.ask("peripheral", "begin", "began", size=1)
        await self.ask("central", "send", "sent", count=1, size=1)
        if not (await self._arrived("peripheral", 1))["values"]:
            raise LinkFailed(f"{self.name}: a value of one byte has not arrived")

    # --- what is measured ---

    async def flood(self, sender: str, size: int, count: int) -> Flood:
        """So many values of so many bytes, without a pause. `sender`: a role. Raises `LinkFailed`."""
        receiver = other(sender)
        before = {role: (await self.ask(role, "begin", "began", size=size))["cpu"] for role in self._ends}
        sent = await self.ask(sender, "send", "sent", count=count, size=size)
        arrived = await self._arrived(receiver, count)
        busy = {role: (await self.ask(role, "report", "report"))["cpu"] - before[role] for role in self._ends}
        values, seconds = arrived["values"], arrived["seconds"]
        if values < 2 or not seconds:
            raise LinkFailed(f"{self.name}: {values} of {count} values have arrived")
        return Flood(
            handed=count / sent["seconds"],
            arriving=(values - 1) / seconds,
            lost=count - values,
            dropped=arrived.get("dropped", 0),
            megabytes=values * size / 1e6,
            sender_cpu=busy[sender],
            receiver_cpu=busy[receiver],
        )

    async def delays(self, sender: str, count: int, size: int) -> list[float]:
        """Milliseconds that values of 100 bytes were under way, while values of `size` bytes were sent
        between them without a pause; 0: none. Raises `LinkFailed`.
        """
        receiver = other(sender)
        for role in self._ends:
            await self.ask(role, "begin", "began", size=size)
        await self.ask(sender, "probe", "probed", count=count, every=PROBE_EVERY, size=size)
        return [float(one) for one in (await self._arrived(receiver, None if size else count))["delays"]]

    async def limit(self, sender: str) -> int:
        """The longest value that this role may send, in bytes. Raises `LinkFailed`."""
        return int((await self.ask(sender, "begin", "began", size=0))["limit"])

    async def _arrived(self, receiver: str, count: int | None = None) -> dict[str, Any]:
        """What has arrived, when it is so many values or no more come."""
        quiet_since, before = trio.current_time(), -1
        while True:
            told = await self.ask(receiver, "report", "report")
            now = trio.current_time()
            there = told["values"] + len(told.get("delays", ()))
            if there == count or (there == before and now - quiet_since > QUIET):
                return told
            if there != before:
                quiet_since, before = now, there
            await trio.sleep(LOOK)


def other(role: str) -> str:
    """The other one."""
    return "peripheral" if role == "central" else "central"


@asynccontextmanager
async def open_pair(
    name: str, peripheral: Sequence[str], central: Sequence[str], directory: Path
) -> AsyncIterator[Pair]:
    """Start both (`peripheral`, `central`: their commands) and link them. At the end both are gone.

    `directory`: where their logs go. Raises `LinkFailed`, and `OSError` when a command can't be started.
    """
    changes = trio.lowlevel.ParkingLot()
    ends = {
        role: Process(f"{name}'s {role}", command, [directory / f"{name}-{role}.log"], changes)
        for role, command in (("peripheral", peripheral), ("central", central))
    }
    pair = Pair(name, ends, changes)
    async with plainly(trio.open_nursery()) as nursery:
        for role in ends:
            await nursery.start(pair.run, role)
        await pair.connect()
        yield pair
        nursery.cancel_scope.cancel()
