"""How many lines a peer can make us log."""

from __future__ import annotations

import logging
import threading

import pytest
import trio
import trio.testing

from rns_ble import quiet
from rns_ble.quiet import LINES, WINDOW
from rns_ble.testing import Air
from tests.nodes import Node, running
from tests.unit.test_hostile_identity import REAL, config, hand
from tests.unit.test_hostile_places import Flood, until

pytestmark = pytest.mark.virtual_time

VALUES = 3000


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.DEBUG, "rns_ble")
    return caplog


def per_second(caplog, began: int, seconds: float) -> float:
    return len(caplog.records[began:]) / seconds


async def test_a_flood_of_rubbish_writes_few_lines_and_tells_how_many_more_there_were(lines) -> None:
    air = Air()
    node = Node(air, 1)
    async with running(node), hand(node, REAL) as real:
        began = len(lines.records)
        for _ in range(VALUES):
            await real.link.send(b"\xffrubbish")
            await trio.sleep(0.01)
        await trio.sleep(WINDOW)
        await real.link.send(b"\xffrubbish")
        await trio.sleep(1)
        told = [record.getMessage() for record in lines.records[began:]]
    rubbish = [text for text in told if text.endswith("8 bytes that are none of ours")]
    further = [int(text.split()[0]) for text in told if text.endswith("%d bytes that are none of ours")]
    assert LINES <= len(rubbish) <= 4 * LINES + 1
    assert len(rubbish) + sum(further) == VALUES + 1
    assert len(told) < 5 * LINES


async def besiege(node: Node, *, tells_an_identity: bool) -> None:
    """Half a minute of strangers who come and go."""
    async with running(node):
        await until(lambda: node.mesh and node.mesh.status().advertising)
        driver = Flood(node)
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(driver.stranger, tells_an_identity, 0.01)
            await trio.sleep(30)
            nursery.cancel_scope.cancel()
    assert driver.connects > 500


async def test_a_flood_before_the_identity_does_not_either(lines) -> None:
    await besiege(Node(Air(), 1), tells_an_identity=False)
    assert per_second(lines, 0, 30) < 20


async def test_identities_that_come_and_go_write_few_lines(lines) -> None:
    await besiege(Node(Air(), 1, config(max_connections=3)), tells_an_identity=True)
    assert per_second(lines, 0, 30) < 50


async def test_invented_addresses_write_few_lines(lines) -> None:
    air = Air()
    node = Node(air, 1)
    from rns_ble.drivers.base import BLEDevice

    async with running(node):
        await trio.sleep(1)
        for n in range(5000):
            node.driver._sight(BLEDevice(f"66:00:00:00:{n >> 8:02X}:{n & 255:02X}", -60))
            await trio.sleep(0.002)
        assert len(node.mesh.admission.candidates) == 100
    assert per_second(lines, 0, 10) < 30


def test_on_another_thread_the_clock_is_the_systems(caplog) -> None:
    log = quiet.logger("rns_ble.test")
    assert quiet.logger("rns_ble.test") is log
    assert len(log.filters) == 1

    def say() -> None:
        for _ in range(LINES + 10):
            log.warning("again")

    thread = threading.Thread(target=say)
    thread.start()
    thread.join()
    assert len([r for r in caplog.records if r.name == "rns_ble.test"]) == LINES


def test_a_flood_at_two_interfaces_is_told_by_each_as_if_it_were_alone(caplog) -> None:
    log = quiet.logger("rns_ble.test")
    turn = threading.Barrier(2)

    async def interface(name: str) -> None:
        for _ in range(LINES + 10):
            turn.wait()
            log.warning("rubbish at %s", name)
        await trio.sleep(WINDOW)
        log.warning("something else at %s", name)

    threads = [threading.Thread(target=run, args=(interface, name)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = [r.getMessage() for r in caplog.records if r.name == "rns_ble.test"]
    for name in ("one", "two"):
        assert told.count(f"rubbish at {name}") == LINES
    assert told.count("10 further like it: rubbish at %s") == 2


def run(interface, name: str) -> None:
    trio.run(interface, name, clock=trio.testing.MockClock(autojump_threshold=0))
