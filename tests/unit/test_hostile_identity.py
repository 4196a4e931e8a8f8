"""A stranger claims a peer's identity: what he can't do. A peer changes its address: what it still can."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from rns_ble.config import BLEConfig
from rns_ble.drivers.base import LinkLost, Role
from rns_ble.protocol.fragmentation import Fragmenter, ReassemblyStatistics
from rns_ble.protocol.gatt import IDENTITY_UUID, RX_UUID, SERVICE_UUID, TX_UUID
from rns_ble.testing import Air, MockBLEDriver
from tests.nodes import Node, address_of, identity_of, running, until

pytestmark = pytest.mark.virtual_time

REAL, STRANGER = 2, 0x66
LONE = bytes.fromhex("0100000001")


def config(**keys) -> BLEConfig:
    return BLEConfig(**{"power_mode": "aggressive", **keys})


class Hand:
    """A link to a node that a test holds in its hand, with all that it brings."""

    def __init__(self, link) -> None:
        self.link = link
        self.values: list[bytes] = []

    @property
    def packets(self) -> list[bytes]:
        return [value[5:] for value in self.values if value.startswith(LONE)]

    @property
    def open(self) -> bool:
        return self.link in self.link._driver.links

    async def receive(self, answers: bool) -> None:
        async for value in self.link:
            self.values.append(value)
            if answers and value[:1] == b"\x04":
                await self.link.send(b"\x05" + value[1:])

    async def every(self, seconds: float, value: bytes) -> None:
        try:
            while True:
                await self.link.send(value)
                await trio.sleep(seconds)
        except LinkLost:
            pass


@asynccontextmanager
async def hand(
    node: Node,
    index: int,
    *,
    claims: int = REAL,
    answers: bool = False,
    repeats: tuple[float, bytes] | None = None,
) -> AsyncIterator[Hand]:
    """Somebody at `address_of(index)` who claims to be `claims` and is linked to the node.

    `answers`: PING with PONG. `repeats`: seconds and the value that he sends at that interval.
    """
    assert node.air is not None
    driver = MockBLEDriver(node.air, address_of(index))
    driver.set_identity(identity_of(claims))
    async with driver, trio.open_nursery() as nursery:
        await driver.start(SERVICE_UUID, RX_UUID, TX_UUID, IDENTITY_UUID)
        await until(lambda: node.mesh and node.mesh.status().advertising)
        one = Hand(await driver.connect(node.driver.address))
        nursery.start_soon(one.receive, answers)
        if repeats is not None:
            nursery.start_soon(one.every, *repeats)
        await until(lambda: any(link.peer is one.link for link in node.driver.links) or not one.open)
        await trio.sleep(0.1)
        yield one
        nursery.cancel_scope.cancel()
        await one.link.aclose()


async def send(node: Node, packet: bytes, to: int = REAL) -> None:
    assert node.peers[identity_of(to)].outgoing.put(packet)
    await trio.sleep(0.5)


# --- what he can't do ---


@pytest.mark.parametrize("head_start", [1, 60])
@pytest.mark.parametrize("answers", [False, True])
async def test_packets_go_on_the_real_peers_link_however_loud_the_stranger(head_start, answers) -> None:
    air = Air()
    node = Node(air, 1)
    async with running(node), hand(node, REAL, answers=answers) as real:
        await trio.sleep(head_start)
        async with hand(node, STRANGER, answers=True, repeats=(0.3, LONE + b"it is me")) as stranger:
            for n in range(30):
                await send(node, bytes([n]))
                await trio.sleep(2)
            assert real.packets == [bytes([n]) for n in range(30)]
            assert stranger.packets == []
        assert real.open
        assert node.history == ["up", "joined a2"]


@pytest.mark.parametrize("head_start", [1, 60])
async def test_the_real_link_is_never_closed_for_the_strangers_sake(head_start) -> None:
    air = Air(att_mtu=185)
    node = Node(air, 1)
    async with running(node), hand(node, REAL) as real:
        await trio.sleep(head_start)
        air.att_mtu = 517  # a better link than the real one
        async with hand(node, STRANGER, answers=True):
            await trio.sleep(300)
            assert real.open
        await trio.sleep(60)
        assert real.open
        await send(node, b"still here")
        assert real.packets == [b"still here"]


async def test_a_third_link_is_refused_while_both_live() -> None:
    air = Air()
    node = Node(air, 1)
    async with running(node), hand(node, REAL) as real, hand(node, STRANGER) as second:
        async with hand(node, STRANGER + 1) as third:
            await trio.sleep(1)
            assert (real.open, second.open, third.open) == (True, True, False)
            assert len(node.driver.links) == 2
        await second.link.aclose()
        async with hand(node, STRANGER + 2) as fourth:
            await trio.sleep(1)
            assert (real.open, fourth.open) == (True, True)


async def test_fragments_of_two_links_are_not_joined() -> None:
    air = Air(att_mtu=23)
    node = Node(air, 1)
    packet, forged = bytes(range(40)), bytes(40)
    async with running(node), hand(node, REAL) as real, hand(node, STRANGER) as stranger:
        ours, theirs = Fragmenter(20).fragment(packet), Fragmenter(20).fragment(forged)
        assert len(ours) == 3
        await real.link.send(ours[0])
        await trio.sleep(0.1)
        await stranger.link.send(theirs[1])  # would be taken for the real packet's second
        await trio.sleep(0.1)
        await stranger.link.send(theirs[0])  # would make it abandoned
        await trio.sleep(0.1)
        await real.link.send(ours[1])
        await real.link.send(ours[2])
        await until(lambda: node.packets, 5)
        assert node.packets == [(identity_of(REAL), packet)]


async def test_a_packet_sent_again_on_another_link_arrives_once_and_whole() -> None:
    air = Air(att_mtu=23)
    node = Node(air, 1)
    values = Fragmenter(20).fragment(bytes(range(40)))
    async with running(node), hand(node, REAL) as first, hand(node, STRANGER) as second:
        await first.link.send(values[0])
        await first.link.send(values[1])
        await first.link.aclose()
        for value in values:
            await second.link.send(value)
        await until(lambda: node.packets, 5)
        await trio.sleep(60)
        assert node.packets == [(identity_of(REAL), bytes(range(40)))]
        peer = node.mesh.status().peers[0]
        assert peer.rx_incomplete == 1, "counted although its link is gone"
        assert peer.reassembly == ReassemblyStatistics(packets=1, timed_out=1)


async def test_what_is_lost_and_what_comes_twice_is_told_of_each_link_of_a_peer() -> None:
    air = Air(att_mtu=23)
    node = Node(air, 1)
    values = Fragmenter(20).fragment(bytes(range(40)))
    assert len(values) == 3
    async with running(node), hand(node, REAL) as first, hand(node, STRANGER) as second:
        for value in values[1:]:  # the START was lost
            await first.link.send(value)
        for value in (values[0], values[1], values[1], values[2]):
            await second.link.send(value)
        await until(lambda: node.packets, 5)
        peer = node.mesh.status().peers[0]
        assert peer.reassembly == ReassemblyStatistics(packets=1, unknown_packet=2, duplicates=1)
        assert peer.rx_incomplete == 2


@pytest.mark.parametrize("shown", [b"\x04\x01", b"\x05\x01", b"\x00"])
async def test_what_a_stranger_shows_is_not_expected_of_the_real_peer(shown: bytes) -> None:
    """Else a PING under a claimed identity would have a peer that does not know PING dropped as dead."""
    air = Air()
    node = Node(air, 1)
    async with running(node), hand(node, REAL) as real:
        async with hand(node, STRANGER) as stranger:
            await stranger.link.send(shown)
            await trio.sleep(200)
            assert real.open
        await trio.sleep(200)
        assert real.open
        assert node.history == ["up", "joined a2"]


async def test_after_the_stranger_the_real_peers_next_link_is_not_judged_by_him() -> None:
    air = Air()
    node = Node(air, 1)
    async with running(node):
        async with hand(node, REAL), hand(node, STRANGER) as stranger:
            await stranger.link.send(b"\x04\x01")
            await trio.sleep(1)
        async with hand(node, REAL) as real:
            assert node.history == ["up", "joined a2"], "the same peer, within its grace"
            await trio.sleep(200)
            assert real.open


async def test_a_second_link_takes_no_place_from_others() -> None:
    air = Air()
    node = Node(air, 1, config(max_connections=4))  # two of them free, with the third link one
    async with running(node), hand(node, REAL) as real, hand(node, STRANGER) as stranger:
        await trio.sleep(60)
        assert real.open
        assert stranger.open
        async with hand(node, 3, claims=3) as third:
            await trio.sleep(60)
            assert real.open
            assert third.open
            assert not stranger.open
            assert node.mesh.status().advertising
            async with hand(node, 4, claims=4) as fourth:
                await trio.sleep(60)
                assert real.open
                assert third.open
                assert fourth.open


# --- what honest peers still can ---


async def packets_lost(air: Air, real_answers: dict) -> float:
    """Seconds from a peer's second link until packets go there; its first one is dead, and seems up."""
    node = Node(air, 1)
    async with running(node), hand(node, REAL, **real_answers) as old:
        await trio.sleep(100)

        async def lost(_value: bytes) -> None:
            """From now on nothing comes from the old link, and no end of it is seen."""

        old.link.send = lost
        async with hand(node, STRANGER, answers=True, repeats=(15, b"\x00")) as new:
            began = trio.current_time()
            while not new.packets:
                await send(node, b"hello")
            took = trio.current_time() - began
    return took


@pytest.mark.parametrize(
    ("habits", "seconds"),
    [({"answers": True}, 6), ({"repeats": (15, b"\x00")}, 21)],
    ids=["knows the probe", "sends keepalives"],
)
async def test_a_peer_that_left_its_old_link_without_a_word_is_served_on_the_new_one(habits, seconds) -> None:
    assert await packets_lost(Air(), habits) < seconds


async def test_a_peer_whose_old_link_ends_is_served_on_the_new_one_at_once() -> None:
    air = Air()
    node = Node(air, 1)
    async with running(node), hand(node, REAL) as old, hand(node, STRANGER) as new:
        await send(node, b"one")
        air.drop(address_of(1), address_of(REAL))
        await send(node, b"two")
        assert (old.packets, new.packets) == ([b"one"], [b"two"])
        assert node.history == ["up", "joined a2"]


async def test_two_of_us_keep_both_links_after_a_change_of_address_and_use_the_same_one() -> None:
    air = Air()
    one, phone = Node(air, 1), Node(air, 2)
    async with running(one, phone):
        await until(lambda: len(one.driver.links) == 1)
        await trio.sleep(60)
        for n in range(3):
            phone.driver.rotate_address(f"02:00:00:00:00:9{n}")
            await trio.sleep(60)
            assert len(one.driver.links) == 2
            one.peers[phone.identity].outgoing.put(b"to the phone")
            phone.peers[one.identity].outgoing.put(b"to the other")
            await until(lambda n=n: len(one.packets) == len(phone.packets) == n + 1)
        assert one.history == ["up", "joined a2"]
        assert phone.history == ["up", "joined a1"]
        air.drop(address_of(1), address_of(2))
        await trio.sleep(60)
        one.peers[phone.identity].outgoing.put(b"to the phone")
        await until(lambda: len(phone.packets) == 4)


@pytest.mark.parametrize("att_mtus", [(517, 185), (185, 517)])
async def test_of_two_dials_that_met_the_one_with_the_larger_att_mtu_stays(att_mtus) -> None:
    air = Air(one_link_per_pair=False, att_mtu=att_mtus[0])
    one, other = Node(air, 1, config(dial_grace=3600)), Node(air, 2, config(dial_grace=3600))
    other.driver.hides_address = True
    one.driver.hides_address = True
    connect = other.driver.connect

    async def later(address: str):
        await trio.sleep(2)
        air.att_mtu = att_mtus[1]
        return await connect(address)

    async with running(one):
        other.driver.connect = later
        async with running(other):
            await until(lambda: len(one.driver.links) == 2)
            await trio.sleep(9)
            assert len(one.driver.links) == 2, "never closed within 10 s"
            await until(lambda: len(one.driver.links) == 1, 10)
            (link,) = one.driver.links
            assert link.att_mtu == 517
            assert {link.role for link in other.driver.links} == {
                Role.PERIPHERAL if link.role is Role.CENTRAL else Role.CENTRAL
            }
            connects = len(air.connects)
            await trio.sleep(300)
            assert len(air.connects) == connects


async def test_a_race_that_is_none_closes_nothing() -> None:
    """The same address once more, in the same role: not two dials that met."""
    air = Air(one_link_per_pair=False, att_mtu=185)
    node = Node(air, 1)
    async with running(node), hand(node, REAL) as real:
        air.att_mtu = 517
        link = await real.link._driver.connect(address_of(1))
        await trio.sleep(60)
        assert real.open
        await link.aclose()
