"""All nodes are switched on at once, disturbed for some minutes, then left alone.

`connected` means: the graph whose edges are the pairs of nodes that are peers of each other, over a live
link, is in one piece. `max_connections` limits every node to seven edges, however many are in range.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import trio

from rns_ble.config import BLEConfig
from rns_ble.testing.simulation.dialects import DIALECTS, Foreigner
from rns_ble.testing.simulation.invariants import Checker
from rns_ble.testing.simulation.node import Node
from rns_ble.testing.simulation.report import Report
from rns_ble.testing.simulation.world import RANGE, Conditions, SimulatedDriver, World, connected, scatter
from rns_ble.testing.virtual_time import run_in_virtual_time

CALMING: Final = 60.0
"""Seconds from the last disturbance to the steady state: who was lost has a dial grace first."""

WEAK_REACH: Final = 15.0, 25.0
"""Metres, from and to: an antenna on a board in a case."""
WEAK_LINKS: Final = 3, 6
"""Links, from and to, that a weak radio's controller holds, and so fewer than `max_connections`. Common ones
hold 7 and more; those of microcontrollers as many as somebody has set."""


@dataclass(frozen=True)
class Storm:
    """What to run. Seconds are virtual."""

    nodes: int
    seed: int = 0
    neighbours: float = 7.0
    """Stations in range of each on average. About half have more than `max_connections` allow."""
    arriving: float = 10.0
    """Seconds in which all are switched on."""
    disturbed: float = 180.0
    """Seconds, from the beginning, in which links are lost and addresses change."""
    steady: float = 120.0
    """Seconds at the end in which dialling is to have stopped."""
    rotating: float = 0.25
    """The share of stations that change their address and do not know it, as telephones do."""
    foreign: float = 0.0
    """The share of stations of other implementations, each of a dialect drawn from `DIALECTS`."""
    weak: float = 0.0
    """The share of stations with a weak radio: `WEAK_REACH`, and no more links than `WEAK_LINKS`."""
    aggressive: float = 0.2
    """The share of stations on mains: they scan all the time."""
    conditions: Conditions = field(default_factory=Conditions)

    @property
    def virtual_seconds(self) -> float:
        """How long it lasts."""
        return self.disturbed + CALMING + self.steady


def storm(setting: Storm, progress: Callable[[float], None] = lambda _now: None) -> Report:
    """Run it. Raises `InvariantViolation`. `progress` is called each virtual second, with the time."""
    return run_in_virtual_time(_Run(setting, progress).run, seed=setting.seed)


class _Run:
    def __init__(self, setting: Storm, progress: Callable[[float], None]) -> None:
        self.setting = setting
        self.progress = progress
        self.world = World(setting.seed, setting.conditions)
        self.stations = [self._station(number) for number in range(setting.nodes)]
        self.nodes = [station for station in self.stations if isinstance(station, Node)]
        drivers = [station.driver for station in self.stations]
        reaches = [driver.reach for driver in drivers]
        self.world.settle(drivers, scatter(reaches, setting.neighbours, self.world.random))
        self.by_identity = {station.identity: station.driver.number for station in self.stations}
        self.blacklisted: dict[tuple[int, str, float], bool] = {}
        """Who blacklisted which address until when, and whether the station there took links just then."""
        self.connected_at: float | None = None

    def _station(self, number: int) -> Node | Foreigner:
        draw = self.world.random.random
        rotates = draw() < self.setting.rotating
        reach, most_links = self._radio()
        driver = SimulatedDriver(
            self.world, self.world.new_address(), hides_address=rotates, reach=reach, most_links=most_links
        )
        identity = random.Random(f"{self.setting.seed} {number}").randbytes(16)
        if draw() < self.setting.foreign:
            return Foreigner(driver, identity, self.world.random.choice(DIALECTS))
        config = BLEConfig(power_mode="aggressive" if draw() < self.setting.aggressive else "balanced")
        return Node(driver, identity, config)

    def _radio(self) -> tuple[float, float]:
        """Of one station: how many metres it reaches, and how many links it holds."""
        generator = self.world.random
        if self.setting.weak and generator.random() < self.setting.weak:
            return generator.uniform(*WEAK_REACH), generator.randint(*WEAK_LINKS)
        return RANGE, math.inf

    async def run(self) -> Report:
        setting = self.setting
        with trio.CancelScope() as scope:
            checker = Checker(setting.seed, scope.cancel)
            for node in self.nodes:
                node.driver.before_connect = partial(checker.on_attempt, node)
            trio.lowlevel.add_instrument(checker)
            try:
                async with trio.open_nursery() as nursery:
                    for station in self.stations:
                        nursery.start_soon(self._switch_on, station)
                    nursery.start_soon(self._disturb)
                    await self._watch()
                    report = self._report(checker)
                    nursery.cancel_scope.cancel()
            finally:
                trio.lowlevel.remove_instrument(checker)
        checker.raise_if_violated()
        return report

    async def _switch_on(self, station: Node | Foreigner) -> None:
        await trio.sleep(self.world.random.uniform(0, self.setting.arriving))
        await station.run()

    async def _disturb(self) -> None:
        drivers = [station.driver for station in self.stations]
        with trio.move_on_after(self.setting.disturbed):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.world.flap, drivers)
                for driver in drivers:
                    if driver.hides_address:
                        nursery.start_soon(self.world.rotate, driver)

    async def _watch(self) -> None:
        end = trio.current_time() + self.setting.virtual_seconds
        while trio.current_time() < end:
            await trio.sleep(1)
            self.progress(trio.current_time())
            self.world.judge_links()
            self._look_for_blacklisted()
            late = trio.current_time() >= self.setting.arriving
            if late and self.connected_at is None and len(self._pieces()) == 1:
                self.connected_at = trio.current_time()

    def _look_for_blacklisted(self) -> None:
        """A blacklisting lasts a minute, so that looking each second misses none."""
        now = trio.current_time()
        for node in self.nodes:
            if node.mesh is None:
                continue
            for candidate in node.mesh.admission.candidates.values():
                if candidate.blacklisted_until > now:
                    what = node.driver.number, candidate.address, candidate.blacklisted_until
                    self.blacklisted.setdefault(what, self._takes_links(candidate.address))

    def _takes_links(self, address: str) -> bool:
        driver = self.world.stations[address]
        station = self.stations[driver.number]
        full = driver.is_full or (isinstance(station, Foreigner) and not station.has_room)
        return driver.radio_address == address and not full

    def _edges(self) -> list[tuple[int, int]]:
        """Pairs of stations that are peers of each other over a live link."""
        linked = [station.linked() for station in self.stations]
        return [
            (number, self.by_identity[identity])
            for number, identities in enumerate(linked)
            for identity in identities
            if number < self.by_identity[identity]
            and self.stations[number].identity in linked[self.by_identity[identity]]
        ]

    def _pieces(self) -> list[list[int]]:
        return connected(len(self.stations), self._edges())

    def _report(self, checker: Checker) -> Report:
        world, setting = self.world, self.setting
        now = trio.current_time()
        world.judge_links(all_of_them=True)
        ours = {node.driver.number for node in self.nodes}
        attempts = [time for time, number in world.attempts if number in ours]
        steady = sum(time > now - setting.steady for time in attempts)
        around = [len(neighbours) for neighbours in world.neighbours]

        def of_ours(links: Counter[int]) -> int:
            return sum(links[number] for number in ours)

        links = of_ours(world.links_made)
        return Report(
            nodes=setting.nodes,
            seed=setting.seed,
            neighbours_mean=round(sum(around) / len(around), 2),
            neighbours_most=max(around),
            nodes_foreign=setting.nodes - len(ours),
            links=links,
            links_doubled=of_ours(world.links_doubled),
            links_short=of_ours(world.links_short),
            links_live=len(self._edges()),
            attempts=len(attempts),
            attempts_foreign=len(world.attempts) - len(attempts),
            attempts_per_link=round(len(attempts) / max(links, 1), 3),
            max_concurrent_attempts_per_address=world.most_by_one,
            max_concurrent_attempts_per_address_by_all=world.most_by_all,
            healthy_blacklisted=sum(self.blacklisted.values()),
            connected=len(self._pieces()) == 1,
            time_to_connected=self.connected_at,
            attempts_per_minute_steady=round(steady * 60 / setting.steady, 2),
            steps_checked=checker.steps,
            virtual_seconds=round(now, 3),
        )
