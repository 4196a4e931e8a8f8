"""The ground the stations stand on: places, ranges, and what a radio does to those on it.

What is always true:

1. Two stations hear each other when neither is farther away than the other one's radio reaches, and they are
   not blocked at the moment.
2. Everything random comes from one generator, and nothing depends on the order of a set.
3. Attempts and links are counted here, at the drivers' `connect`, and nothing of the mesh's is asked.
"""

from __future__ import annotations

import math
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from rns_ble.drivers.base import DriverState, PeerUnreachable
from rns_ble.testing.air import Air, MockBLEDriver, MockLink

RANGE: Final = 30.0
"""Metres that a link reaches: what telephones and small computers with LE 1M manage in and around houses."""

RSSI_AT_A_METRE: Final = -45
PATH_LOSS: Final = 25.0
"""dB for each ten times the distance (free space has 20, buildings 25 to 35). At `RANGE` it is -82 dBm, and
with `FADING` never below `min_rssi` of the default configuration: who is in range may be dialled. A weaker
radio is as strong at its own range."""
FADING: Final = 3
"""dB up or down, anew at each sighting."""

LASTING: Final = 5.0
"""Seconds after which a link counts as established; a mesh closes no second link so early. One that is turned
away, or lost in its handshake, does not, and its attempt was in vain."""


@dataclass(frozen=True)
class Conditions:
    """What the radio is like. Seconds, probabilities from 0 to 1, and rates per minute."""

    advertising_interval: float = 1.0
    """Default of BlueZ is 1.28 s, Android's 0.1 to 1 s."""
    heard: float = 0.8
    """How probable it is that an advertisement is heard in one interval."""
    connect_time: tuple[float, float] = (0.3, 2.0)
    """From `connect` to a link: the next advertisement, MTU, discovery, identity."""
    connects_lost: float = 0.02
    """Connections that fail to be established (Core Specification, Vol 1 Part F, error 0x3E)."""
    latency: tuple[float, float] = (0.0075, 0.05)
    """Of a value on a link: one connection interval."""
    flaps: float = 0.2
    """Times a minute that a station and one of its neighbours go out of each other's range."""
    flap_time: tuple[float, float] = (1.0, 20.0)
    """How long they stay so."""
    rotation: float = 900.0
    """Between two changes of address of a station that changes it: what telephones take."""


class SimulatedDriver(MockBLEDriver):
    """One adapter in a `World`."""

    air: World

    def __init__(
        self,
        world: World,
        address: str,
        *,
        hides_address: bool = False,
        simultaneous_connects: int = 1,
        most_links: float = math.inf,
        reach: float = RANGE,
    ) -> None:
        """`reach`: metres. All else as `MockBLEDriver`'s."""
        super().__init__(
            world,
            address,
            hides_address=hides_address,
            simultaneous_connects=simultaneous_connects,
            most_links=most_links,
        )
        self.reach = reach
        self.number = world.enter(self)
        self.before_connect: Callable[[str], None] = lambda _address: None
        """Called with the address at each `connect`, before anything happens."""

    def rotate_address(self, address: str) -> None:
        """As `MockBLEDriver.rotate_address`; the world remembers whose the old one was."""
        super().rotate_address(address)
        self.air.stations[self.radio_address] = self

    async def connect(self, address: str) -> MockLink:
        """As `MockBLEDriver.connect`, and counted."""
        self.before_connect(address)
        world = self.air
        world.attempt_began(self, address)
        try:
            link = await super().connect(address)
        finally:
            world.attempt_ended(self, address)
        assert isinstance(link, MockLink)
        world.link_made(link)
        return link


class World(Air):
    """An `Air` with places, and the counts of what has happened in it."""

    def __init__(self, seed: int, conditions: Conditions = Conditions()) -> None:
        super().__init__(advertising_interval=conditions.advertising_interval, random=random.Random(seed))
        self.conditions = conditions
        self.stations: dict[str, SimulatedDriver] = {}
        """Whose an address is, or once was."""
        self.places: list[tuple[float, float]] = []
        """Metres; by the driver's number."""
        self.neighbours: list[list[tuple[SimulatedDriver, float]]] = []
        """Who is in range of whom and how strong, when nothing is in the way; by the driver's number."""
        self._blocked: Counter[frozenset[int]] = Counter()
        # Counts.
        self.attempts: list[tuple[float, int]] = []
        """Each, with its time and the number of the station that dialled."""
        self.links_made: Counter[int] = Counter()
        """Links that lasted and joined two stations that were not linked, by the one that dialled."""
        self.links_doubled: Counter[int] = Counter()
        """Links that lasted and joined two stations that were linked already."""
        self.links_short: Counter[int] = Counter()
        """Links that did not last."""
        self.most_by_one = 0
        """Attempts under way at once by one station at one address, at most."""
        self.most_by_all = 0
        """Attempts under way at once by all stations at one address, at most."""
        self._by_one: Counter[tuple[int, str]] = Counter()
        self._by_all: Counter[str] = Counter()
        self._young: deque[tuple[float, bool, MockLink]] = deque()

    # --- who is where ---

    def new_address(self) -> str:
        """A random address that nobody has or had."""
        while True:
            octets = [self.random.randrange(256) for _ in range(6)]
            address = ":".join(f"{octet:02X}" for octet in octets)
            if address not in self.stations:
                return address

    def enter(self, driver: SimulatedDriver) -> int:
        """For `SimulatedDriver`: its number."""
        self.stations[driver.radio_address] = driver
        return len(self.stations) - 1

    def settle(self, drivers: list[SimulatedDriver], places: list[tuple[float, float]]) -> None:
        """Put the drivers, all that there are, into their places."""
        self.places = places
        self.neighbours = [
            [
                (other, _strength(math.dist(here, there), min(driver.reach, other.reach)))
                for other, there in zip(drivers, places, strict=True)
                if other is not driver and _in_reach(here, there, driver.reach, other.reach)
            ]
            for driver, here in zip(drivers, places, strict=True)
        ]

    def block(self, one: SimulatedDriver, other: SimulatedDriver) -> None:
        """Take two stations out of each other's range; their links are lost. As often as `unblock`."""
        self._blocked[frozenset((one.number, other.number))] += 1
        for link in list(one.links):
            if self.stations[link.address] is other:
                link.lose()

    def unblock(self, one: SimulatedDriver, other: SimulatedDriver) -> None:
        """Bring them back into range."""
        pair = frozenset((one.number, other.number))
        self._blocked[pair] -= 1
        self._blocked += Counter()  # forgets those that are 0

    # --- what drivers ask ---

    def in_range(self, one: str, other: str) -> bool:
        """Whether the station that has, or had, the one address hears the one that has the other now."""
        here, there = self.stations.get(one), self.stations.get(other)
        if here is None or there is None or there.radio_address != other:
            return False
        if frozenset((here.number, there.number)) in self._blocked:
            return False
        return _in_reach(self.places[here.number], self.places[there.number], here.reach, there.reach)

    def strength(self, one: str, other: str) -> int | None:
        """By the distance."""
        here, there = self.stations[one], self.stations[other]
        return next(round(rssi) for driver, rssi in self.neighbours[here.number] if driver is there)

    def travel_time(self, one: str, other: str) -> float:
        """A connection interval."""
        return self.random.uniform(*self.conditions.latency)

    def heard_by(self, listener: MockBLEDriver) -> Iterator[tuple[MockBLEDriver, int | None]]:
        """Those in range of whose advertisements this interval brought one."""
        assert isinstance(listener, SimulatedDriver)
        draw = self.random.random
        heard, number = self.conditions.heard, listener.number
        for driver, rssi in self.neighbours[number]:
            if (
                DriverState.ADVERTISING in driver.state
                and draw() < heard
                and (not self._blocked or frozenset((number, driver.number)) not in self._blocked)
            ):
                yield driver, round(rssi + FADING * (2 * draw() - 1))

    async def reach(self, own_address: str, address: str) -> MockBLEDriver:
        """Waits until the peer advertises in range: an initiator hears nothing else, and no refusal."""
        await trio.sleep(self.random.uniform(*self.conditions.connect_time))
        while not (self.in_range(own_address, address) and self.advertiser(address)):  # noqa: ASYNC110
            await trio.sleep(self.advertising_interval)
        if self.random.random() < self.conditions.connects_lost:
            raise PeerUnreachable(f"the connection to {address} failed to be established")
        return self.stations[address]

    def advertiser(self, address: str) -> MockBLEDriver | None:
        """As in any air, without asking everybody."""
        driver = self.stations[address]
        return driver if driver.radio_address == address and DriverState.ADVERTISING in driver.state else None

    # --- counts ---

    def attempt_began(self, driver: SimulatedDriver, address: str) -> None:
        """For `SimulatedDriver`: `connect` was called."""
        self.attempts.append((trio.current_time(), driver.number))
        self._by_one[driver.number, address] += 1
        self._by_all[address] += 1
        self.most_by_one = max(self.most_by_one, self._by_one[driver.number, address])
        self.most_by_all = max(self.most_by_all, self._by_all[address])

    def attempt_ended(self, driver: SimulatedDriver, address: str) -> None:
        """For `SimulatedDriver`: `connect` is over."""
        self._by_one[driver.number, address] -= 1
        self._by_all[address] -= 1

    def link_made(self, link: MockLink) -> None:
        """For `SimulatedDriver`: `connect` has brought a link."""
        ours, theirs = self.stations[link.own_address], self.stations[link.address]
        doubled = any(self.stations[other.address] is theirs for other in ours.links if other is not link)
        self._young.append((trio.current_time(), doubled, link))

    def judge_links(self, *, all_of_them: bool = False) -> None:
        """Count the links that are `LASTING` old; at the end of a run, all."""
        now = trio.current_time()
        while self._young and (all_of_them or self._young[0][0] + LASTING <= now):
            _, doubled, link = self._young.popleft()
            dialler = self.stations[link.own_address]
            if link not in dialler.links:
                self.links_short[dialler.number] += 1
            else:
                (self.links_doubled if doubled else self.links_made)[dialler.number] += 1

    # --- what happens ---

    async def flap(self, drivers: list[SimulatedDriver]) -> None:
        """Take pairs out of range and bring them back, until cancelled; then all are back."""
        rate = self.conditions.flaps * len(drivers) / 60
        if not rate:
            await trio.sleep_forever()

        async def out_of_range(one: SimulatedDriver, other: SimulatedDriver, seconds: float) -> None:
            self.block(one, other)
            try:
                await trio.sleep(seconds)
            finally:
                self.unblock(one, other)

        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(self.random.expovariate(rate))
                one = self.random.choice(drivers)
                if around := self.neighbours[one.number]:
                    other, _ = self.random.choice(around)
                    seconds = self.random.uniform(*self.conditions.flap_time)
                    nursery.start_soon(out_of_range, one, other, seconds)

    async def rotate(self, driver: SimulatedDriver) -> None:
        """Change the driver's address again and again, until cancelled."""
        await trio.sleep(self.random.uniform(0, self.conditions.rotation))
        while True:
            driver.rotate_address(self.new_address())
            await trio.sleep(self.conditions.rotation)


def _in_reach(here: tuple[float, float], there: tuple[float, float], one: float, other: float) -> bool:
    """Whether two stations that reach so many metres hear each other: the weaker of them decides."""
    return math.dist(here, there) <= min(one, other)


def _strength(distance: float, reach: float) -> float:
    """What is heard, in dBm, at so many metres, between radios of which the weaker reaches so far."""
    return RSSI_AT_A_METRE - PATH_LOSS * math.log10(max(1.0, distance * RANGE / reach))


def scatter(
    reaches: Sequence[float], neighbours: float, generator: random.Random
) -> list[tuple[float, float]]:
    """Random places for stations that reach so many metres each, with so many others within `RANGE` of each
    on average (fewer at the rim).

    The graph of who hears whom is connected: a station that is off all others gets another place.
    """
    count = len(reaches)
    side = RANGE * math.sqrt(math.pi * max(count - 1, 1) / neighbours)
    places = [(generator.uniform(0, side), generator.uniform(0, side)) for _ in range(count)]
    while True:
        pieces = sorted(connected(count, _within_reach(places, reaches)), key=len)
        if len(pieces) == 1:
            return places
        for piece in pieces[:-1]:
            for number in piece:
                places[number] = generator.uniform(0, side), generator.uniform(0, side)


def _within_reach(places: list[tuple[float, float]], reaches: Sequence[float]) -> Iterator[tuple[int, int]]:
    for one, here in enumerate(places):
        for other in range(one):
            if _in_reach(here, places[other], reaches[one], reaches[other]):
                yield one, other


def connected(count: int, edges: Iterable[tuple[int, int]]) -> list[list[int]]:
    """The pieces in which a graph of so many nodes falls, each in the order of its numbers."""
    root = list(range(count))

    def find(node: int) -> int:
        while root[node] != node:
            root[node] = root[root[node]]
            node = root[node]
        return node

    for one, other in edges:
        root[find(one)] = find(other)
    pieces: dict[int, list[int]] = {}
    for node in range(count):
        pieces.setdefault(find(node), []).append(node)
    return list(pieces.values())
