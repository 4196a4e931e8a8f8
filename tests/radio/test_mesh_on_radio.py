"""Whole meshes on a real ATT and GATT stack: virtual controllers, one process, virtual time."""

from __future__ import annotations

import pytest
import trio

from rns_ble.config import BLEConfig
from rns_ble.drivers.asyncio_loop import open_asyncio_loop
from rns_ble.drivers.base import Role
from rns_ble.drivers.hci import BumbleDriver, VirtualRadio
from tests.nodes import Node, running, until

pytestmark = pytest.mark.virtual_time


def address_of(index: int) -> str:
    return f"C0:00:00:00:00:{index:02X}"


def node(radio: VirtualRadio, index: int, *, att_mtu: int = 517, **keys) -> Node:
    config = BLEConfig(**{"power_mode": "aggressive", **keys})
    return Node(None, index, config, BumbleDriver(radio, address=address_of(index), att_mtu=att_mtu))


def linked(one: Node, other: Node) -> bool:
    return other.identity in one.peers and one.identity in other.peers


def links(*nodes: Node) -> list[tuple]:
    return [
        (n.index, link.role, link.address, link.att_mtu)
        for n in nodes
        for peer in n.mesh.peers.values()
        for link in peer.links
    ]


def send(sender: Node, receiver: Node, packet: bytes) -> None:
    assert sender.peers[receiver.identity].outgoing.put(packet)


@pytest.mark.parametrize("att_mtu", [23, 185, 247, 517])
async def test_handshake_and_packets_in_both_roles(att_mtu: int) -> None:
    radio = VirtualRadio(latency=0.005)
    one, other = node(radio, 1), node(radio, 2, att_mtu=att_mtu)
    packets = [bytes((n + size) % 256 for n in range(size)) for size in (1, 11, 16, 100, 500, 564, 4096)]
    async with open_asyncio_loop(), running(one, other):
        await until(lambda: linked(one, other))
        assert links(one, other) == [
            (1, Role.CENTRAL, address_of(2), att_mtu),
            (2, Role.PERIPHERAL, address_of(1), att_mtu),
        ]
        for packet in packets:
            send(one, other, packet)
            send(other, one, packet)
        await until(lambda: len(one.packets) == len(other.packets) == len(packets))
        assert one.packets == [(other.identity, packet) for packet in packets]
        assert other.packets == [(one.identity, packet) for packet in packets]


async def test_four_nodes_each_in_both_roles_and_packets_between_all() -> None:
    radio = VirtualRadio(latency=0.005)
    nodes = [node(radio, index) for index in range(1, 5)]
    async with open_asyncio_loop(), running(*nodes):
        await until(lambda: all(len(n.peers) == 3 for n in nodes))
        roles = {
            n.index: sorted(role.value for i, role, _, _ in links(*nodes) if i == n.index) for n in nodes
        }
        # The lower address dials; nobody's order of finding the others matters for that.
        assert roles == {
            1: ["central"] * 3,
            2: ["central", "central", "peripheral"],
            3: ["central", "peripheral", "peripheral"],
            4: ["peripheral"] * 3,
        }
        for sender in nodes:
            for receiver in nodes:
                if sender is not receiver:
                    send(sender, receiver, bytes([sender.index, receiver.index]) * 280)
        await until(lambda: all(len(n.packets) == 3 for n in nodes))
        for n in nodes:
            expected = [(o.identity, bytes([o.index, n.index]) * 280) for o in nodes if o is not n]
            assert sorted(n.packets) == sorted(expected)


async def test_two_simultaneous_dials_end_with_one_usable_peer() -> None:
    radio = VirtualRadio(latency=0.02)
    # Neither leaves the first dial to the other.
    one, other = node(radio, 1, dial_grace=0), node(radio, 2, dial_grace=0)
    async with open_asyncio_loop(), running(one, other):
        await until(lambda: linked(one, other))
        await trio.sleep(60)
        assert (len(links(one)), len(links(other))) == (1, 1)
        assert one.history == ["up", "joined a2"]
        assert other.history == ["up", "joined a1"]
        send(one, other, b"there")
        send(other, one, b"and back")
        await until(lambda: one.packets and other.packets)
        assert not [c for n in (one, other) for c in n.mesh.status().candidates if c.failures]


async def test_the_same_identity_on_a_new_address_keeps_its_interface() -> None:
    radio = VirtualRadio(latency=0.005)
    one, phone = node(radio, 1), node(radio, 2)
    async with open_asyncio_loop(), running(one):
        async with running(phone):
            await until(lambda: linked(one, phone))
        # The phone's radio has closed the link; it comes back with another address, at once.
        phone = Node(None, 2, phone.config, BumbleDriver(radio, address=address_of(0x99)))
        async with running(phone):
            await until(lambda: linked(one, phone) and links(one))
            assert links(one)[0][2] == address_of(0x99)
            assert one.history == ["up", "joined a2"]
            send(one, phone, b"hello again")
            await until(lambda: phone.packets)


async def test_a_link_lost_in_the_middle_of_a_packet() -> None:
    radio = VirtualRadio(latency=0.05)
    one, other = node(radio, 1), node(radio, 2, att_mtu=23)
    packet = bytes(n % 256 for n in range(4096))
    async with open_asyncio_loop(), running(one, other):
        await until(lambda: linked(one, other))
        await trio.sleep(6)
        send(one, other, packet)
        await trio.sleep(0.3)
        assert not other.packets
        radio.separate(address_of(1), address_of(2))
        await until(lambda: not links(one))
        radio.unite(address_of(1), address_of(2))
        await until(lambda: links(one) and linked(one, other))
        # Lost for longer than the grace, and with it what was queued; or not, and then the packet is whole.
        send(one, other, b"next")
        await until(lambda: (one.identity, b"next") in other.packets)
        assert set(other.packets) <= {(one.identity, b"next"), (one.identity, packet)}


async def test_a_peer_that_hears_nobody_hangs_the_attempt_until_the_time_out() -> None:
    radio = VirtualRadio()
    one, deaf = node(radio, 1, connection_timeout=10), node(radio, 2, dial_grace=3600)
    radio.separate(address_of(1), address_of(2))
    async with open_asyncio_loop(), running(one, deaf):
        await until(lambda: deaf.mesh and deaf.mesh.status().advertising)
        radio.unite(address_of(1), address_of(2))
        await until(lambda: one.mesh.admission.candidates)
        radio.deaf.add(address_of(2))
        await trio.sleep(60)
        (candidate,) = one.mesh.status().candidates
        assert 2 <= candidate.attempts <= 5
        assert candidate.failures >= 1
        assert not one.peers
        radio.deaf.clear()
        await until(lambda: linked(one, deaf), 300)


@pytest.mark.parametrize("milliseconds", range(0, 1200, 60))
async def test_cancelled_at_any_moment_nothing_is_left_on_the_radio(milliseconds: int) -> None:
    radio = VirtualRadio(latency=0.01)
    async with open_asyncio_loop():
        nodes = [node(radio, index) for index in range(1, 4)]
        async with running(*nodes):
            await trio.sleep(milliseconds / 1000)
        assert radio.connections == radio.dialling == radio.addresses == []


async def test_a_node_that_vanishes_is_noticed_and_heals_when_it_is_back() -> None:
    radio = VirtualRadio()
    one, other = node(radio, 1), node(radio, 2)
    async with open_asyncio_loop(), running(one, other):
        await until(lambda: linked(one, other))
        for n in range(3):
            radio.unplug(address_of(2))  # the dongle is pulled out; the driver fails, and starts again
            await until(lambda: not other.peers)
            await until(lambda: linked(one, other) and links(other))
            await trio.sleep(30)  # until the link that was cut off has been noticed on the other side as well
            await until(lambda: linked(one, other))
            send(other, one, bytes([n]))
            send(one, other, bytes([n]))
            await until(lambda n=n: len(one.packets) == len(other.packets) == n + 1)
