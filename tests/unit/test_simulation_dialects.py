"""Ours with every other dialect, and ours with ours in each configuration: one interface, all packets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from rns_ble.config import BLEConfig
from rns_ble.protocol.gatt import value_limit
from rns_ble.testing.simulation import Checker, Conditions, Node, SimulatedDriver, World
from rns_ble.testing.simulation.dialects import DIALECTS, Dialect, Dials, Foreigner, TooLong

pytestmark = pytest.mark.virtual_time

LOW, HIGH = "02:00:00:00:00:01", "02:00:00:00:00:02"
OURS, THEIRS = bytes(range(16)), bytes(range(100, 116))
SIZES = (1, 11, 16, 100, 500, 564)

BOTH_ROLES = BLEConfig()
PERIPHERAL_ONLY = BLEConfig(enable_central=False)
CENTRAL_ONLY = BLEConfig(enable_peripheral=False)
CONFIGURATIONS = {"both": BOTH_ROLES, "peripheral": PERIPHERAL_ONLY, "central": CENTRAL_ONLY}

LONG_ENOUGH = 200.0
"""Seconds in which a link that one side does not like is lost: the longest limit of any dialect is 45 s."""

CALM = Conditions(heard=1.0, connects_lost=0.0)


@asynccontextmanager
async def world_of(
    make: Callable[[World], list[Node | Foreigner]], att_mtu: int
) -> AsyncIterator[list[Node | Foreigner]]:
    """Stations five metres from each other, at work, with every invariant checked."""
    world = World(0, CALM)
    world.att_mtu = att_mtu
    stations = make(world)
    world.settle([s.driver for s in stations], [(5.0 * n, 0.0) for n in range(len(stations))])
    with trio.CancelScope() as scope:
        checker = Checker(0, scope.cancel)
        trio.lowlevel.add_instrument(checker)
        try:
            async with trio.open_nursery() as nursery:
                for station in stations:
                    if isinstance(station, Node):
                        station.driver.before_connect = lambda address, node=station: checker.on_attempt(
                            node, address
                        )
                    nursery.start_soon(station.run)
                yield stations
                nursery.cancel_scope.cancel()
        finally:
            trio.lowlevel.remove_instrument(checker)
    checker.raise_if_violated()
    assert checker.steps


async def until(condition: Callable[[], object], seconds: float) -> None:
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.05)


async def passes(sender: Node | Foreigner, receiver: Node | Foreigner, size: int) -> None:
    packet = bytes((size + n) % 251 for n in range(size))
    receiver.packets.clear()
    await sender.send(receiver.identity, packet)
    await until(lambda: receiver.packets, 10)
    assert receiver.packets == [(sender.identity, packet)]


async def linked_for_good(one: Node | Foreigner, other: Node | Foreigner, links: int = 1) -> None:
    """Linked within a minute, no more than so many links after three more, and nobody dials by then."""
    world = one.driver.air
    await until(lambda: one.identity in other.linked() and other.identity in one.linked(), 60)
    await trio.sleep(LONG_ENOUGH)
    assert one.linked() == {other.identity}
    assert other.linked() == {one.identity}
    assert 1 <= len(one.driver.links) == len(other.driver.links) <= links
    assert world.attempts[-1][0] < trio.current_time() - 100
    for station in (one, other):
        if isinstance(station, Node):
            assert station.joins == 1, "one interface, and the same all the time"


def can_link(dialect: Dialect, ours: str, we_are_lower: bool) -> bool:
    """Whether the roles allow it at all."""
    if ours == "peripheral":  # so they must dial us, and we can't make them
        return dialect.dials is Dials.ALWAYS or (dialect.dials is Dials.LOWER_ONLY and not we_are_lower)
    return True


PAIRS = [
    pytest.param(dialect, ours, lower, id=f"{dialect.name}-{ours}-{'lower' if lower else 'higher'}")
    for dialect in DIALECTS
    for ours in CONFIGURATIONS
    for lower in (True, False)
    if can_link(dialect, ours, lower)
]


def ours_and_theirs(dialect: Dialect, ours: str, we_are_lower: bool) -> Callable[[World], list]:
    def make(world: World) -> list[Node | Foreigner]:
        own, other = (LOW, HIGH) if we_are_lower else (HIGH, LOW)
        return [
            Node(SimulatedDriver(world, own), OURS, CONFIGURATIONS[ours]),
            Foreigner(SimulatedDriver(world, other), THEIRS, dialect),
        ]

    return make


@pytest.mark.parametrize(("dialect", "ours", "we_are_lower"), PAIRS)
@pytest.mark.parametrize("att_mtu", [185, 517])
async def test_ours_with_another(dialect: Dialect, ours: str, we_are_lower: bool, att_mtu: int) -> None:
    async with world_of(ours_and_theirs(dialect, ours, we_are_lower), att_mtu) as (node, foreigner):
        await linked_for_good(node, foreigner)
        # Whose stack cuts or refuses its own values can only send what fits one.
        longest = value_limit(att_mtu) - 7 if dialect.too_long is TooLong.CUT_OR_REFUSED else max(SIZES)
        for size in SIZES:
            await passes(node, foreigner, size)
            if size <= longest:
                await passes(foreigner, node, size)


@pytest.mark.parametrize("we_dial", [True, False])
async def test_values_that_its_stack_cuts_or_refuses_harm_nothing_else(we_dial: bool) -> None:
    dialect = next(d for d in DIALECTS if d.too_long is TooLong.CUT_OR_REFUSED)
    ours = "central" if we_dial else "peripheral"
    async with world_of(ours_and_theirs(dialect, ours, True), 517) as (node, foreigner):
        await linked_for_good(node, foreigner)
        if we_dial:
            await foreigner.send(node.identity, bytes(564))  # its notifications are cut
        else:
            with pytest.raises(ValueError, match="no write of 517 bytes"):
                await foreigner.send(node.identity, bytes(564))
            assert foreigner.refused == 1
        await trio.sleep(60)
        assert node.joins == 1
        for size in (1, 500):
            await passes(foreigner, node, size)
            await passes(node, foreigner, size)


@pytest.mark.parametrize(
    ("one", "other"),  # two that only dial, or only wait, can't be linked
    [(one, other) for one in CONFIGURATIONS for other in CONFIGURATIONS if one != other or one == "both"],
)
@pytest.mark.parametrize("hidden", [False, True])
async def test_ours_with_ours(one: str, other: str, hidden: bool) -> None:

    def make(world: World) -> list[Node | Foreigner]:
        return [
            Node(SimulatedDriver(world, LOW, hides_address=hidden), OURS, CONFIGURATIONS[one]),
            Node(SimulatedDriver(world, HIGH, hides_address=hidden), THEIRS, CONFIGURATIONS[other]),
        ]

    async with world_of(make, 517) as (first, second):
        await linked_for_good(first, second)
        for size in SIZES:
            await passes(first, second, size)
            await passes(second, first, size)


@pytest.mark.parametrize("dialect", [d for d in DIALECTS if d.dials is Dials.ALWAYS], ids=lambda d: d.name)
async def test_both_dial_at_once_and_two_links_come_of_it(dialect: Dialect) -> None:
    """As with a telephone, whose address as a central is not the one under which it advertises."""
    async with world_of(ours_and_theirs(dialect, "both", True), 517) as (node, foreigner):
        world = node.driver.air
        world.one_link_per_pair = False
        world.conditions = replace(CALM, connect_time=(2.0, 2.0))
        await until(lambda: len(node.driver.links) == 2, 10)
        await trio.sleep(1)  # what is on its way on a link that the other side closes at once is lost
        await passes(node, foreigner, 500)
        await passes(foreigner, node, 500)
        await linked_for_good(node, foreigner)
        await passes(node, foreigner, 564)
        await passes(foreigner, node, 100)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
async def test_an_address_that_changes_ends_in_one_interface(dialect: Dialect) -> None:
    """A telephone's address changes under its link, and it is found anew. Two links may stay while there
    are places for others.
    """
    telephone = replace(dialect, dials=Dials.ALWAYS if dialect.dials is Dials.LOWER_ONLY else dialect.dials)
    async with world_of(ours_and_theirs(telephone, "both", True), 517) as (node, foreigner):
        await until(lambda: foreigner.identity in node.linked(), 60)
        await trio.sleep(30)
        foreigner.driver.rotate_address("02:00:00:00:00:33")
        await linked_for_good(node, foreigner, links=2)
        await passes(node, foreigner, 500)
        await passes(foreigner, node, 500)
