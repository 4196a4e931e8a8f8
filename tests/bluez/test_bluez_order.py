"""Full-size packets with an access code, two values each: at full speed, and to several centrals."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import trio

from rns_ble.config import BLEConfig
from rns_ble.drivers.base import Role
from rns_ble.drivers.bluez import BleakDriver
from rns_ble.status import LinkStatus
from tests.bluez.laboratory import Laboratory
from tests.nodes import Node, running, until

FULL = 516
"""Bytes: Reticulum's 500 and an access code of 16."""

COUNT = 600
"""Packets each way. BlueZ's sockets hold some tens of values, so most of them are on their way together."""

TARGETED_SINCE = (5, 69)

CRASHES = (5, 82)
"""With more ATT bearers than one this bluetoothd ends as soon as the second one is opened (getpeername in
src/gatt-database.c fails). It is Debian's default that it has only one."""


def node(index: int, adapter: str) -> Node:
    return Node(None, index, BLEConfig(power_mode="aggressive"), BleakDriver(adapter))


def packets_of(index: int, count: int) -> list[bytes]:
    """Different ones, of sizes that need two values."""
    source = random.Random(index)
    lengths = (FULL, 512, 508)
    return [
        bytes([index]) + number.to_bytes(4, "big") + source.randbytes(source.choice(lengths) - 5)
        for number in range(count)
    ]


async def send(node: Node, to: Node, packets: list[bytes]) -> None:
    for packet in packets:
        while not node.peers[to.identity].outgoing.put(packet):
            await trio.sleep(0.01)


def link(node: Node) -> LinkStatus:
    (peer,) = node.mesh.status().peers
    return peer.links[0]


@pytest.mark.parametrize("channels", [1, 3])
async def test_full_size_packets_arrive_intact_in_both_roles_at_once(
    lab: Laboratory,
    adapters: list[str],
    bluez_version: tuple[int, int],
    channels: int,
    record_property: Callable[[str, object], None],
) -> None:
    if channels > 1 and bluez_version == CRASHES:
        pytest.skip("this bluetoothd crashes with more than one ATT bearer")
    await lab.restart_bluetoothd(Channels=channels)
    nodes = [node(index, adapter) for index, adapter in enumerate(adapters[:2], 1)]
    async with running(*nodes):
        await until(lambda: all(n.peers for n in nodes))
        assert {link(n).role for n in nodes} == {role.value for role in Role}
        sent = {n.index: packets_of(n.index, COUNT) for n in nodes}
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, nodes[0], nodes[1], sent[1])
            nursery.start_soon(send, nodes[1], nodes[0], sent[2])
        with trio.move_on_after(60):
            while not all(len(n.packets) == COUNT for n in nodes):
                await trio.sleep(0.05)
        record_property("seconds", trio.current_time() - began)
        for n, other in (nodes, nodes[::-1]):
            received = [packet for _identity, packet in n.packets]
            assert set(received) <= set(sent[other.index]), "a packet that nobody sent"
            assert sorted(received) == sorted(sent[other.index])


# --- one peripheral, several centrals ---


def hub_and_centrals(adapters: list[str]) -> tuple[Node, list[Node]]:
    first, *others = (
        Node(
            None,
            index,
            BLEConfig(power_mode="aggressive", enable_central=index > 1, enable_peripheral=index == 1),
            BleakDriver(adapter),
        )
        for index, adapter in enumerate(adapters, 1)
    )
    return first, others


async def test_each_of_three_centrals_receives_its_own_packets(
    take_adapters: Callable[[int], list[str]], bluez_version: tuple[int, int]
) -> None:
    hub, centrals = hub_and_centrals(take_adapters(4))
    async with running(hub, *centrals):
        await until(lambda: len(hub.peers) == 3)
        sent = {n.index: packets_of(n.index, 60) for n in centrals}
        async with trio.open_nursery() as nursery:
            for n in centrals:
                nursery.start_soon(send, hub, n, sent[n.index])
        own = {n.index: lambda n=n: [p for _, p in n.packets if p[0] == n.index] for n in centrals}
        await until(lambda: all(len(packets()) >= 60 for packets in own.values()))
        for n in centrals:
            assert sorted(own[n.index]()) == sorted(sent[n.index])
            if bluez_version >= TARGETED_SINCE:
                assert len(n.packets) == 60, "somebody else's"
        # All to the hub at once, which has to know whose is whose.
        async with trio.open_nursery() as nursery:
            for n in centrals:
                nursery.start_soon(send, n, hub, sent[n.index])
        await until(lambda: len(hub.packets) == 180)
        for n in centrals:
            assert sorted(p for identity, p in hub.packets if identity == n.identity) == sorted(sent[n.index])


async def test_a_packet_to_all_reaches_each_central_once(take_adapters: Callable[[int], list[str]]) -> None:
    hub, centrals = hub_and_centrals(take_adapters(4))
    async with running(hub, *centrals):
        await until(lambda: len(hub.peers) == 3)
        packets = packets_of(1, 30)
        for packet in packets:
            for n in centrals:
                assert hub.peers[n.identity].outgoing.put(packet)
        await until(lambda: all(len(n.packets) >= 30 for n in centrals))
        await trio.sleep(1)
        for n in centrals:
            assert sorted(packet for _, packet in n.packets) == sorted(packets)
