"""A link on BlueZ: values by sockets and by D-Bus calls, beside ble-reticulum's on the same bluetoothd.

Each of the contestants has a pair of adapters, and a process for each. All are linked before anything is
measured, and those that are not measured just then are silent. In each round every measurement is made with
each of them, one after the other. One that fails is counted for its direction, and made a second time on a
new link; whatever is next is measured all the same. Compared are the rounds that both sides have.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import link_goodput
import trio
from bluez_devices import forget_devices
from link_pairs import Flood, LinkFailed, Pair, open_pair
from link_radio import SIZES
from link_reference import REFERENCE, REFERENCE_SIZES, RETICULUM_NODE, commands, needs
from measuring import Figure, Reference, percentiles

from rns_ble.cli.demo.network import open_nodes
from rns_ble.cli.progress import Progress
from rns_ble.drivers.asyncio_loop import plainly

NODE: Final = Path(__file__).parent / "nodes" / "bluez_node.py"

OURS: Final = ("sockets", "calls")
"""How our values travel."""

PAIRS: Final = len((*OURS, REFERENCE))
ADAPTERS: Final = 2 * PAIRS
"""Of the guest: `hci0` and `hci1` for ble-reticulum, which has `hci0` in places where it should not, and so
on for ours."""

RETICULUMS: Final = ("hci0", "hci1")
"""Adapters of the two Reticulum nodes, ours first and then ble-reticulum's."""

ROLES: Final = ("central", "peripheral")

CPU: Final = ("sender_cpu", "receiver_cpu")

TELLING: Final = 0.1
"""Seconds of the processor, in all rounds, from which on they are compared: ten of the guest's ticks, the
number of which is off by a third now and then. Fewer give any ratio."""

BULK: Final = max(REFERENCE_SIZES)
"""Bytes of the values between which others are timed."""

ATTEMPTS: Final = 3
"""Tries to link a pair. Ble-reticulum's were seen to fail."""

ATTEMPTS_AGAIN: Final = 2
"""The same later on. When they fail, the direction is over for this round."""

TRIES: Final = 2
"""Of one measurement in one round, the second on a new link."""

T = TypeVar("T")


@dataclass
class Contestant:
    """One of those that are compared, and what was measured, by the round."""

    name: str
    adapters: tuple[str, str]
    commands: tuple[list[str], list[str]]
    """The peripheral's, the central's; so are the adapters."""
    floods: dict[tuple[str, int], dict[int, Flood]] = field(default_factory=dict)
    delays: dict[tuple[str, str], dict[int, list[float]]] = field(default_factory=dict)
    failures: dict[str, list[str]] = field(default_factory=lambda: {role: [] for role in ROLES})
    """By the role that had to send."""
    setting_up: dict[str, Any] = field(default_factory=dict)
    """Of the first link."""
    versions: dict[str, str] = field(default_factory=dict)
    links: int = 0
    given_up: tuple[int, str] | None = None
    """The round, and who had to send, when no link was to be had."""
    _pair: Pair | None = None
    _scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    _gone: trio.Event = field(default_factory=trio.Event)

    async def linked(self, nursery: trio.Nursery, directory: Path, progress: Progress) -> Pair:
        """Its pair, which is linked when there is none. Raises `LinkFailed` after some attempts."""
        attempts = ATTEMPTS_AGAIN if self.links else ATTEMPTS
        for attempt in range(1, attempts + 1):
            if self._pair is not None:
                break
            try:
                self._pair = await nursery.start(self._hold, directory)
            except LinkFailed as error:
                progress.say(f"{self.name}: {error}")
                await forget_devices(self.adapters)
                if attempt == attempts:
                    raise
            else:
                progress.say(f"{self.name}: linked")
                self.setting_up = self.setting_up or {**self._pair.setting_up, "attempts": attempt}
                self.versions = self._pair.versions
        assert self._pair is not None
        return self._pair

    async def _hold(self, directory: Path, *, task_status: trio.TaskStatus[Pair]) -> None:
        self.links += 1
        name = f"{self.name}-{self.links}"
        self._gone = trio.Event()
        try:
            with trio.CancelScope() as self._scope:
                async with open_pair(name, *self.commands, directory) as pair:
                    task_status.started(pair)
                    await trio.sleep_forever()
        finally:
            self._gone.set()

    async def unlink(self) -> None:
        """End its pair, and have BlueZ forget it: a process that is gone may leave its link behind."""
        if self._pair is not None:
            self._pair = None
            self._scope.cancel()
            await self._gone.wait()
            await forget_devices(self.adapters)

    def figure(self, sender: str, size: int, what: str) -> Figure:
        """One quantity of the floods of this role and size."""
        return Figure(tuple(float(getattr(flood, what)) for flood in self.floods[sender, size].values()))

    def as_json(self) -> dict[str, Any]:
        """What was measured, by the sender's role and the size of the values."""
        told: dict[str, Any] = {"setting_up": self.setting_up, "links": self.links}
        if self.versions:
            told["versions"] = self.versions
        for sender, failures in self.failures.items():
            told[way(sender)] = {"failures": len(failures)}
            if failures:
                told[way(sender)]["last_failure"] = failures[-1]
        for (sender, size), by_round in self.floods.items():
            floods = list(by_round.values())
            told[way(sender)][str(size)] = {
                "rounds": len(floods),
                "handed_over_per_s": self.figure(sender, size, "handed").as_json(),
                "arriving_per_s": self.figure(sender, size, "arriving").as_json(),
                "kB_arriving_per_s": self.figure(sender, size, "arriving").scaled(size / 1000).as_json(),
                **{what: cost(floods, what) for what in CPU},
                "lost": sum(flood.lost for flood in floods),
                "dropped_by_driver": sum(flood.dropped for flood in floods),
            }
        for (sender, load), rounds in self.delays.items():
            taken = percentiles(list(rounds.values()))
            told[way(sender)].setdefault("delay_ms_of_100_bytes", {})[load] = taken
        return told


def cost(floods: list[Flood], what: str) -> dict[str, float]:
    """Of all rounds together, because of the ticks: see `Flood`."""
    seconds = float(sum(getattr(flood, what) for flood in floods))
    megabytes = sum(flood.megabytes for flood in floods)
    return {"s": round(seconds, 3), "MB": round(megabytes, 4), "s_per_MB": round(seconds / megabytes, 4)}


def way(sender: str) -> str:
    """The direction in which this role sends."""
    return {"central": "central to peripheral", "peripheral": "peripheral to central"}[sender]


async def measure(
    values: int,
    probes: int,
    resource: int,
    rounds: int,
    reference: Reference | None,
    python: str,
    progress: Progress,
) -> dict[str, Any]:
    """All of it, on the adapters `hci0` and up.

    `values`: of a flood; `probes`: values whose way is timed; `resource`: bytes; `python`: what runs
    ble-reticulum. Links that fail are told in the result, with what was measured all the same. Raises
    `LinkFailed` when one of ours can't be made at the beginning; it may come in exception groups.
    """
    results: dict[str, Any] = {"values_in_a_measurement": values}
    with tempfile.TemporaryDirectory(prefix="link-throughput-") as name:
        directory = Path(name)
        async with plainly(trio.open_nursery()) as nursery:
            run = _Run(nursery, directory, progress)
            failed = await run.line_up(reference, python)
            for number in range(1, rounds + 1):
                # Another one is the first in each round, in case that makes a difference.
                run.contestants.append(run.contestants.pop(0))
                progress.say(f"BlueZ, round {number} of {rounds}: values")
                await run.floods(number, values)
                progress.say(f"BlueZ, round {number} of {rounds}: delays")
                await run.delays(number, probes)
            for one in run.contestants:
                await one.unlink()
        results |= {one.name: one.as_json() for one in run.contestants}
        if failed is not None:
            results[REFERENCE] = {"failed": failed}
        results["ratios"] = _ratios({one.name: one for one in run.contestants})
        results["Reticulum"] = await link_goodput.measure(
            open_nodes(directory, {"driver": "bleak"}),
            [{"adapter": adapter} for adapter in RETICULUMS],
            resource,
            rounds,
            progress,
        )
        if reference is not None and failed is None:
            # After all the others: whatever it leaves behind disturbs nobody then.
            await forget_devices(RETICULUMS)
            results["Reticulum, ble-reticulum"] = await link_goodput.measure_reference(
                directory,
                commands(python, reference, *RETICULUMS, node=RETICULUM_NODE),
                resource,
                rounds,
                progress,
            )
    return results


@dataclass
class _Run:
    """The pairs, and where they are."""

    nursery: trio.Nursery
    directory: Path
    progress: Progress
    contestants: list[Contestant] = field(default_factory=list)

    async def line_up(self, reference: Reference | None, python: str) -> str | None:
        """Link the pairs. What ble-reticulum's needs and lacks, so that it is left out; None: nothing."""
        failed = None
        for number, name in enumerate((REFERENCE, *OURS)):
            adapters = f"hci{2 * number}", f"hci{2 * number + 1}"
            if name == REFERENCE:
                if reference is None:
                    continue
                if failed := await needs(python, reference):
                    self.progress.say(f"{name} can't run: {failed}")
                    continue
                peripheral, central = commands(python, reference, *adapters)
            else:
                peripheral, central = ([sys.executable, str(NODE), name, adapter] for adapter in adapters)
            one = Contestant(name, adapters, (peripheral, central))
            self.contestants.append(one)
            try:
                await one.linked(self.nursery, self.directory, self.progress)
            except LinkFailed:
                if name != REFERENCE:  # that one is tried again in each round
                    raise
        return failed

    async def floods(self, number: int, values: int) -> None:
        """Those of one round."""
        for sender in ROLES:
            limits = [
                limit
                for one in self.contestants
                if one.name in OURS
                and (limit := await self._measured(one, number, sender, _limit)) is not None
            ]
            sizes = sorted({min(size, *limits, SIZES[-1]) for size in SIZES} | set(REFERENCE_SIZES))
            for size in sizes:

                async def flood(pair: Pair, sender: str, size: int = size) -> Flood:
                    return await pair.flood(sender, size, values)

                for one in self.contestants:
                    if size not in (REFERENCE_SIZES if one.name == REFERENCE else sizes):
                        continue
                    if (outcome := await self._measured(one, number, sender, flood)) is not None:
                        one.floods.setdefault((sender, size), {})[number] = outcome

    async def delays(self, number: int, probes: int) -> None:
        """Those of one round."""
        for sender in ROLES:
            for load, size in (("idle", 0), ("under bulk", BULK)):

                async def delays(pair: Pair, sender: str, size: int = size) -> list[float]:
                    return await pair.delays(sender, probes, size)

                for one in self.contestants:
                    taken = await self._measured(one, number, sender, delays)
                    if taken is not None and len(taken) >= 2:  # all may have been lost
                        one.delays.setdefault((sender, load), {})[number] = taken

    async def _measured(
        self, one: Contestant, number: int, sender: str, what: Callable[[Pair, str], Awaitable[T]]
    ) -> T | None:
        """One measurement; None: it has failed in each of its tries."""
        for _ in range(TRIES):
            if one.given_up == (number, sender):
                return None
            try:
                pair = await one.linked(self.nursery, self.directory, self.progress)
            except LinkFailed as error:
                one.given_up = number, sender
                one.failures[sender].append(str(error))
                return None
            try:
                if one.name == REFERENCE and sender == "peripheral":
                    # Its peripheral knows a central from its first value on, and forgets it every half
                    # minute, connected or not, until it writes again.
                    await pair.introduce()
                return await what(pair, sender)
            except LinkFailed as error:
                one.failures[sender].append(str(error))
                self.progress.say(f"{one.name}, {way(sender)}: {error}")
                await one.unlink()
        return None


async def _limit(pair: Pair, sender: str) -> int:
    """The longest value that it may send."""
    return await pair.limit(sender)


def _ratios(by_name: dict[str, Contestant]) -> dict[str, Any]:
    """Of ours by sockets to each of the others, in the rounds that both have: speeds round by round, seconds
    of the processor in all, where there are enough to tell.
    """
    ours = by_name["sockets"]
    ratios: dict[str, Any] = {}
    for name, one in by_name.items():
        for sender, size in one.floods if one is not ours else ():
            by_round = [side.floods.get((sender, size), {}) for side in (ours, one)]
            shared = sorted(by_round[0].keys() & by_round[1].keys())
            if not shared:
                continue
            mine, theirs = ([floods[number] for number in shared] for floods in by_round)
            ratios.setdefault(f"sockets to {name}", {}).setdefault(way(sender), {})[str(size)] = {
                "rounds": len(shared),
                **{what: _faster(mine, theirs, what) for what in ("handed", "arriving")},
                **{what: _cheaper(mine, theirs, what) for what in CPU},
            }
    return ratios


def _faster(ours: list[Flood], theirs: list[Flood], what: str) -> dict[str, float]:
    """The ratio of two speeds, round by round."""
    one, two = (Figure(tuple(float(getattr(flood, what)) for flood in floods)) for floods in (ours, theirs))
    return one.per(two).as_json()


def _cheaper(ours: list[Flood], theirs: list[Flood], what: str) -> float | str:
    """The ratio of what a megabyte costs."""
    one, two = cost(ours, what), cost(theirs, what)
    if min(one["s"], two["s"]) < TELLING:
        return f"can't tell: {one['s']} s to {two['s']} s"
    return float(f"{one['s_per_MB'] / two['s_per_MB']:.4g}")
