"""A link on BlueZ: values by sockets and by D-Bus calls, beside ble-reticulum's on the same bluetoothd.

Each of the contestants has a pair of adapters, and a process for each. All are linked before anything is
measured, and those that are not measured just then are silent. In each round every measurement is made with
each of them, one after the other.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import link_goodput
from link_pairs import Flood, LinkFailed, Pair, open_pair
from link_radio import SIZES
from link_reference import REFERENCE, REFERENCE_SIZES, commands, needs
from measuring import Figure, Reference

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

ROLES: Final = ("central", "peripheral")

CPU: Final = ("sender_cpu", "receiver_cpu")

TELLING: Final = 0.1
"""Seconds of the processor, in all rounds, from which on they are compared: ten of the guest's ticks, the
number of which is off by a third now and then. Fewer give any ratio."""

BULK: Final = 244
"""Bytes of a value that fills a data channel PDU."""

ATTEMPTS: Final = 3
"""Tries to link a pair. Ble-reticulum's were seen to fail."""


@dataclass
class Contestant:
    """One of those that are compared, and what was measured."""

    name: str
    pair: Pair
    floods: dict[tuple[str, int], list[Flood]] = field(default_factory=dict)
    delays: dict[tuple[str, str], list[list[float]]] = field(default_factory=dict)
    failed: str | None = None

    def figure(self, sender: str, size: int, what: str) -> Figure:
        """One quantity of the floods of this role and size."""
        return Figure(tuple(float(getattr(flood, what)) for flood in self.floods[sender, size]))

    def as_json(self) -> dict[str, Any]:
        """What was measured, by the sender's role and the size of the values."""
        told: dict[str, Any] = {"setting_up": self.pair.setting_up}
        if self.failed is not None:
            told["failed"] = self.failed
        for (sender, size), floods in self.floods.items():
            told.setdefault(way(sender), {})[str(size)] = {
                "handed_over_per_s": self.figure(sender, size, "handed").as_json(),
                "arriving_per_s": self.figure(sender, size, "arriving").as_json(),
                "kB_arriving_per_s": self.figure(sender, size, "arriving").scaled(size / 1000).as_json(),
                **{what: cost(floods, what) for what in CPU},
                "lost": sum(flood.lost for flood in floods),
                "dropped_by_driver": sum(flood.dropped for flood in floods),
            }
        for (sender, load), rounds in self.delays.items():
            cuts = [statistics.quantiles(delays, n=100, method="inclusive") for delays in rounds]
            told.setdefault(way(sender), {}).setdefault("delay_ms_of_100_bytes", {})[load] = {
                "p50": Figure(tuple(cut[49] for cut in cuts)).as_json(),
                "p99": Figure(tuple(cut[98] for cut in cuts)).as_json(),
            }
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
    ble-reticulum. A link that fails is told in the result, with what was measured before. Raises
    `LinkFailed` when one of ours can't be made.
    """
    results: dict[str, Any] = {"values_in_a_measurement": values}
    with tempfile.TemporaryDirectory(prefix="link-throughput-") as name:
        directory = Path(name)
        async with AsyncExitStack() as stack:
            contestants, failed = await _line_up(stack, directory, reference, python, progress)
            for number in range(1, rounds + 1):
                # Another one is the first in each round, in case that makes a difference.
                contestants.append(contestants.pop(0))
                progress.say(f"BlueZ, round {number} of {rounds}: values")
                await _round(contestants, values)
                progress.say(f"BlueZ, round {number} of {rounds}: delays")
                await _delays(contestants, probes)
        results |= {one.name: one.as_json() for one in contestants}
        if failed is not None:
            results[REFERENCE] = {"failed": failed}
        results["ratios"] = _ratios({one.name: one for one in contestants})
        results["Reticulum"] = await link_goodput.measure(
            open_nodes(directory, {"driver": "bleak"}),
            [{"adapter": "hci0"}, {"adapter": "hci1"}],
            resource,
            rounds,
            progress,
        )
    return results


async def _line_up(
    stack: AsyncExitStack, directory: Path, reference: Reference | None, python: str, progress: Progress
) -> tuple[list[Contestant], str | None]:
    """Link the pairs; those that are linked, and what failed at ble-reticulum's."""
    contestants = []
    failed = None
    for number, name in enumerate((REFERENCE, *OURS)):
        adapters = f"hci{2 * number}", f"hci{2 * number + 1}"
        if name == REFERENCE:
            if reference is None:
                continue
            if failed := await needs(python, reference):
                progress.say(f"{name} can't run: {failed}")
                continue
            peripheral, central = commands(python, reference, *adapters)
        else:
            peripheral, central = ([sys.executable, str(NODE), name, adapter] for adapter in adapters)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                pair = await stack.enter_async_context(
                    plainly(open_pair(f"{name}-{attempt}", peripheral, central, directory))
                )
            except LinkFailed as error:
                failed = str(error)
                progress.say(f"{name}: {failed}")
                if attempt == ATTEMPTS and name != REFERENCE:
                    raise
            else:
                failed = None
                pair.setting_up |= {"attempts": attempt}
                contestants.append(Contestant(name, pair))
                progress.say(f"{name}: linked")
                break
    return contestants, failed


async def _round(contestants: list[Contestant], values: int) -> None:
    for sender in ROLES:
        limits = [await _limit(one, sender) for one in _ready(contestants) if one.name in OURS]
        sizes = sorted({min(size, *limits) for size in SIZES} | set(REFERENCE_SIZES))
        for size in sizes:
            for one in _ready(contestants):
                if size not in (REFERENCE_SIZES if one.name == REFERENCE else sizes):
                    continue
                try:
                    if one.name == REFERENCE and sender == "peripheral":
                        # Its peripheral forgets each central half a minute after its start, connected or
                        # not, until that one writes again.
                        await one.pair.ask("central", "send", "sent", count=1, size=1)
                    flood = await one.pair.flood(sender, size, values)
                except LinkFailed as error:
                    one.failed = str(error)
                else:
                    one.floods.setdefault((sender, size), []).append(flood)


async def _limit(one: Contestant, sender: str) -> int:
    """The longest value that it may send; what is to be measured anyway when it has just failed."""
    try:
        return await one.pair.limit(sender)
    except LinkFailed as error:
        one.failed = str(error)
        return max(SIZES)


async def _delays(contestants: list[Contestant], probes: int) -> None:
    for sender in ROLES:
        for load, size in (("idle", 0), ("under bulk", BULK)):
            for one in _ready(contestants):
                if one.name == REFERENCE:
                    continue
                try:
                    delays = await one.pair.delays(sender, probes, size)
                except LinkFailed as error:
                    one.failed = str(error)
                else:
                    if len(delays) >= 2:  # all may have been lost
                        one.delays.setdefault((sender, load), []).append(delays)


def _ready(contestants: list[Contestant]) -> Iterator[Contestant]:
    return (one for one in contestants if one.failed is None)


def _ratios(by_name: dict[str, Contestant]) -> dict[str, Any]:
    """Of ours by sockets to each of the others: speeds round by round, seconds of the processor in all, where
    there are enough to tell. One that has failed is compared in the rounds before.
    """
    ours = by_name["sockets"]
    ratios: dict[str, Any] = {}
    for name, one in by_name.items():
        for sender, size in one.floods if one is not ours else ():
            pairs = list(zip(ours.floods.get((sender, size), ()), one.floods[sender, size], strict=False))
            if not pairs:
                continue
            mine, theirs = ([pair[which] for pair in pairs] for which in (0, 1))
            ratios.setdefault(f"sockets to {name}", {}).setdefault(way(sender), {})[str(size)] = {
                "rounds": len(pairs),
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
