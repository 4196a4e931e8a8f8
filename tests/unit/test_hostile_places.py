"""A flood of strangers: whose place they can take, and whose they can't."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from typing import Literal

import pytest
import trio

from rns_ble.acquaintances import KNOWN_AFTER, MAXIMUM, SENIORITY, Acquaintances
from rns_ble.drivers.base import BLEDevice, BLEError, LinkLost
from rns_ble.mesh import PEERS_PER_PLACE
from rns_ble.protocol.gatt import IDENTITY_UUID, RX_UUID, SERVICE_UUID, TX_UUID
from rns_ble.strangers import HANDSHAKE_TIMEOUT
from rns_ble.testing import Air, MockBLEDriver
from tests.nodes import Node, address_of, identity_of, running, until
from tests.unit.test_hostile_identity import REAL, config, hand

pytestmark = pytest.mark.virtual_time

FRIEND = 3


class Flood:
    """Strangers, each at an address of his own, that connect whenever they can."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.numbers = count(1)
        self.connects = 0

    async def stranger(self, tells: bool, stays: float) -> None:
        """`tells`: a new invented identity at each connect; else none. `stays`: seconds."""
        driver = MockBLEDriver(self.node.air, f"66:00:00:00:00:{next(self.numbers):02X}")
        driver.set_identity(bytes(16))
        async with driver:
            await driver.start(SERVICE_UUID, RX_UUID, TX_UUID, IDENTITY_UUID)
            while True:
                driver._identity = b"\xff" * 8 + next(self.numbers).to_bytes(8) if tells else b""
                try:
                    link = await driver.connect(self.node.driver.address)
                except BLEError:
                    await trio.sleep(0.1)
                    continue
                self.connects += 1
                with trio.move_on_after(stays):
                    try:
                        if tells:
                            await link.send(bytes.fromhex("0100000001") + b"junk")
                        async for _value in link:
                            pass
                    except LinkLost:
                        pass
                await link.aclose()


def linked(one: Node, other: Node) -> bool:
    return other.identity in one.peers and one.identity in other.peers


# --- strangers that tell nothing ---


async def test_silent_strangers_are_dropped_after_30_seconds_and_are_never_many() -> None:
    air = Air()
    node = Node(air, 1, config(max_connections=3))
    flood = Flood(node)
    async with running(node), trio.open_nursery() as nursery:
        await until(lambda: node.mesh and node.mesh.status().advertising)
        nursery.start_soon(flood.stranger, False, 1000)
        await trio.sleep(10 * HANDSHAKE_TIMEOUT + 5)
        assert flood.connects == 10 + 1
        for _ in range(20):
            nursery.start_soon(flood.stranger, False, 1000)
        for _ in range(300):
            await trio.sleep(0.1)
            assert node.mesh._strangers.borrowed_tokens <= 3
            assert node.mesh.admission.places.borrowed_tokens == 0
        nursery.cancel_scope.cancel()
    assert flood.connects > 100, "they came again and again"


async def test_a_flood_of_silent_strangers_does_not_keep_a_peer_from_its_handshake() -> None:
    air = Air()
    node = Node(air, 1, config(max_connections=3, enable_central=False))
    flood = Flood(node)
    async with running(node), trio.open_nursery() as nursery:
        await until(lambda: node.mesh and node.mesh.status().advertising)
        for _ in range(6):
            nursery.start_soon(flood.stranger, False, 1000)
        await trio.sleep(5)
        async with hand(node, REAL) as real:
            assert identity_of(REAL) in node.peers
            await trio.sleep(60)
            assert real.open
        nursery.cancel_scope.cancel()


# --- strangers that invent identities ---


async def test_invented_identities_do_not_keep_out_a_peer_that_we_know() -> None:
    air = Air()
    node, friend = Node(air, 1, config(max_connections=3)), Node(air, FRIEND)
    flood = Flood(node)
    async with running(node, friend), trio.open_nursery() as nursery:
        await until(lambda: linked(node, friend))
        await trio.sleep(SENIORITY * 60)
        air.separate(address_of(1), address_of(FRIEND))
        await until(lambda: not node.peers)
        for _ in range(6):
            nursery.start_soon(flood.stranger, True, 1000)
        await trio.sleep(30)
        assert len(node.peers) == 3
        air.unite(address_of(1), address_of(FRIEND))
        assert await until(lambda: linked(node, friend)) < 30
        await trio.sleep(600)
        assert linked(node, friend)
        assert node.history.count(f"left {friend.identity[:1].hex()}") == 1
        assert len(node.peers) == 3, "one of them gave way, and no more"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("away", [0.5, 30])
async def test_also_where_the_known_peer_dials(away: float) -> None:
    air = Air()
    node = Node(air, 1, config(max_connections=1, enable_central=False))
    async with running(node):
        async with hand(node, REAL):
            await trio.sleep(600)
        async with hand(node, 9, claims=9) as stranger:
            await trio.sleep(away)  # as long as its grace lasts, or longer
            await node.driver.start_advertising()  # its stack has not noticed yet that it is full
            peer = MockBLEDriver(air, address_of(REAL))
            peer.set_identity(identity_of(REAL))
            async with peer:
                await peer.start(SERVICE_UUID, RX_UUID, TX_UUID, IDENTITY_UUID)
                link = await peer.connect(address_of(1))
                await trio.sleep(5)
                assert link in peer.links
                assert not stranger.open
                assert node.mesh.admission.places.borrowed_tokens == 1


@asynccontextmanager
async def gives_way_to_a_friend_who(fails: Literal["refusing", "hanging"]) -> AsyncIterator[Node]:
    """A node with one place that has just closed the link there for a peer that it knows and can't reach."""
    air = Air()
    node, friend = Node(air, 1, config(max_connections=1)), Node(air, FRIEND, config(enable_central=False))
    async with running(node, friend):
        await until(lambda: linked(node, friend))
        await trio.sleep(600)
        air.separate(address_of(1), address_of(FRIEND))
        await until(lambda: not node.peers)
        async with hand(node, 8, claims=8) as first:
            getattr(air, fails).add(address_of(FRIEND))
            air.unite(address_of(1), address_of(FRIEND))
            await until(lambda: not first.open, 30)
        yield node


async def test_a_known_peer_that_can_not_be_reached_displaces_nobody_twice() -> None:
    async with gives_way_to_a_friend_who("refusing") as node, hand(node, 9, claims=9) as second:
        await trio.sleep(600)
        assert second.open


async def test_nor_when_who_gave_way_to_it_is_back_at_once() -> None:
    async with gives_way_to_a_friend_who("hanging") as node:
        async with hand(node, 8, claims=8) as again:
            assert node.mesh.admission.in_flight() == [address_of(FRIEND)]
            assert not again.open
        await trio.sleep(node.config.connection_timeout)
        async with hand(node, 8, claims=8) as back:
            await trio.sleep(600)
            assert back.open


class _Invented(set):
    """Addresses with which a connect never ends."""

    def __contains__(self, address: object) -> bool:
        return str(address).startswith("66:")


async def test_invented_addresses_do_not_keep_us_from_dialling_whom_we_know() -> None:
    air = Air(hanging=_Invented())
    node, friend = Node(air, 1), Node(air, FRIEND, config(enable_central=False))
    async with running(node, friend), trio.open_nursery() as nursery:
        await until(lambda: linked(node, friend))
        await trio.sleep(600)
        air.separate(address_of(1), address_of(FRIEND))

        async def advertise() -> None:
            for n in count():
                node.driver._sight(BLEDevice(f"66:00:00:{n >> 16:02X}:{n >> 8 & 255:02X}:{n & 255:02X}", -20))
                await trio.sleep(0.005)

        nursery.start_soon(advertise)
        await trio.sleep(10)
        air.unite(address_of(1), address_of(FRIEND))
        assert await until(lambda: linked(node, friend), 100) < 10
        assert len(node.mesh.admission.candidates) == 100
        nursery.cancel_scope.cancel()


async def test_one_stranger_does_not_displace_another_nor_whom_we_know() -> None:
    air = Air()
    node = Node(air, 1, config(max_connections=1))
    async with running(node), hand(node, REAL) as real:
        for seconds in (1, 600):
            await trio.sleep(seconds)
            driver = MockBLEDriver(air, address_of(9))
            driver.set_identity(identity_of(9))
            async with driver:
                await driver.start(SERVICE_UUID, RX_UUID, TX_UUID, IDENTITY_UUID)
                await node.driver.start_advertising()
                link = await driver.connect(address_of(1))
                await trio.sleep(1)
                assert link not in driver.links
                assert real.open


async def test_in_a_dense_mesh_nothing_flaps() -> None:
    air = Air(advertising_interval=2)
    nodes = [Node(air, index, config(max_connections=4)) for index in range(1, 9)]
    async with AsyncExitStack() as stack:
        for node in nodes:  # so that they know each other for different times
            await stack.enter_async_context(running(node))
            await trio.sleep(100)
        await trio.sleep(600)
        before = [len(node.history) for node in nodes]
        connects = len(air.connects)
        await trio.sleep(3600)
        assert [len(node.history) for node in nodes] == before
        assert len(air.connects) == connects
        assert all(node.peers for node in nodes)


async def test_identities_that_come_and_go_are_bounded_in_number() -> None:
    air = Air(connect_time=0.001)
    node = Node(air, 1, config(max_connections=2, enable_central=False))
    flood = Flood(node)
    most = 0
    async with running(node), trio.open_nursery() as nursery:
        await until(lambda: node.mesh and node.mesh.status().advertising)
        for _ in range(5):
            nursery.start_soon(flood.stranger, True, 0.01)
        for _ in range(200):
            await trio.sleep(0.01)
            most = max(most, len(node.mesh.peers))
        nursery.cancel_scope.cancel()
    assert flood.connects > 100
    assert most == PEERS_PER_PLACE * 2
    assert len(node.history) < 100, "and so are the interfaces that Reticulum has to make"


# --- whom we know ---


def test_known_is_who_stayed_and_since_the_first_time() -> None:
    known = Acquaintances()
    known.linked(b"short", since=0, now=KNOWN_AFTER - 1)
    known.linked(b"long", since=0, now=KNOWN_AFTER)
    known.linked(b"long", since=1000, now=2000)
    assert known.known_for(b"short", 3000) == 0
    assert known.known_for(b"long", 3000) == 3000
    assert known.known_for(b"nobody", 3000) == 0


def test_a_flood_of_identities_does_not_make_us_forget_old_ones() -> None:
    known = Acquaintances()
    known.linked(b"friend", since=0, now=1000)
    for n in range(3 * MAXIMUM):
        known.linked(n.to_bytes(16), since=1000 + n, now=1100 + n)
    assert known.known_for(b"friend", 5000) == 5000
    assert len(known) == MAXIMUM


def test_who_was_not_linked_for_long_is_forgotten() -> None:
    known = Acquaintances()
    known.linked(b"gone", since=0, now=1000)
    known.linked(b"here", since=0, now=30 * 86400)
    assert known.known_for(b"gone", 30 * 86400) == 0
    assert known.known_for(b"here", 30 * 86400) == 30 * 86400
