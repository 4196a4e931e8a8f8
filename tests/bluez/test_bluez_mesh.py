"""Whole meshes on a real bluetoothd: every node in both roles, all in one process."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from rns_ble.config import BLEConfig
from rns_ble.drivers.bluez import BleakDriver
from tests.bluez.laboratory import Laboratory
from tests.nodes import Node, running, until


def node(index: int, adapter: str) -> Node:
    # The grace keeps the test to the lower address's dials.
    return Node(None, index, BLEConfig(power_mode="aggressive"), BleakDriver(adapter))


def complete(nodes: list[Node]) -> bool:
    return all(len(n.peers) == len(nodes) - 1 for n in nodes)


async def exchange(nodes: list[Node], sizes: tuple[int, ...]) -> None:
    """Every node sends packets of these sizes to every other; each receives its own, whole, once."""
    for n in nodes:
        n.packets.clear()
    sent = {
        (a.index, b.index): [
            bytes([a.index, b.index]) + bytes(k % 256 for k in range(size)) for size in sizes
        ]
        for a in nodes
        for b in nodes
        if a is not b
    }
    for number in range(len(sizes)):
        for (a, b), packets in sent.items():
            peers = {n.index: n for n in nodes}
            assert peers[a].peers[peers[b].identity].outgoing.put(packets[number])

    def arrived() -> bool:
        return all(
            [p for _, p in n.packets if p[:2] == bytes([other.index, n.index])] == sent[other.index, n.index]
            for n in nodes
            for other in nodes
            if other is not n
        )

    await until(arrived)


@pytest.mark.parametrize("count", [2, 3])
async def test_nodes_find_each_other_and_exchange_packets(
    take_adapters: Callable[[int], list[str]], count: int
) -> None:
    nodes = [node(index, adapter) for index, adapter in enumerate(take_adapters(count), 1)]
    async with running(*nodes):
        await until(lambda: complete(nodes))
        await exchange(nodes, (1, 19, 100, 498))


async def test_bluetoothd_restarted_takes_every_peer_away_and_brings_it_back(
    lab: Laboratory, adapters: list[str]
) -> None:
    nodes = [node(index, adapter) for index, adapter in enumerate(adapters[:2], 1)]
    async with running(*nodes):
        await until(lambda: complete(nodes))
        await lab.bluetoothd.kill(signal.SIGKILL)
        await until(lambda: not any(n.peers or n.up for n in nodes))
        lab.bluetoothd.start()
        await lab.ready()
        await until(lambda: complete(nodes))
        await exchange(nodes, (100, 400))
