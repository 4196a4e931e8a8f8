"""What Reticulum gets out of a link: a Resource between two nodes, processes as those of `rns-ble demo`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final

import trio
from measuring import Figure

from rns_ble.cli.demo import network
from rns_ble.cli.demo.network import Network, Process
from rns_ble.cli.progress import Progress

NODE: Final = Path(__file__).parent / "nodes" / "reticulum_node.py"

DEADLINE: Final = 120.0
"""Seconds for the start with the first link, and for one Resource."""

REPEAT: Final = 6.0
"""Seconds before an announce is repeated that may have been lost."""


class CountedNode(network.Node):
    """Runs `nodes/reticulum_node.py`."""

    def __init__(self, name: str, directory: Path, changes: trio.lowlevel.ParkingLot) -> None:
        command = [sys.executable, str(NODE), str(directory)]
        Process.__init__(self, name, command, [directory / "stderr", directory / "logfile"], changes)
        self.directory = directory

    async def busy(self) -> float:
        """Seconds of the processor so far."""
        since = len(self.events)
        await self.tell("count_seconds")
        return float((await self.wait_for("seconds", since))["cpu"])


async def measure(
    nodes: AbstractAsyncContextManager[Network],
    interfaces: Sequence[Mapping[str, str]],
    size: int,
    rounds: int,
    progress: Progress,
) -> dict[str, Any]:
    """Kilobytes per second in both directions, and what they cost.

    `interfaces`: what the configuration of each of the two nodes has besides. `size`: bytes. Raises
    `ProcessFailedError` and `trio.TooSlowError`, in exception groups.
    """
    taken: dict[str, list[tuple[float, float, float]]] = {}
    async with nodes as net:
        net.node_type = CountedNode
        with trio.fail_after(DEADLINE):
            one, two = [await _start(net, number, keys) for number, keys in enumerate(interfaces, 1)]
            await net.until(lambda: two.identity in one.peers and one.identity in two.peers)
        for number in range(1, rounds + 1):
            progress.say(f"Resources, round {number} of {rounds}")
            for sender, receiver in ((one, two), (two, one)):
                with trio.fail_after(DEADLINE):
                    result = await _transfer(net, sender, receiver, size)
                role = sender.peers[receiver.identity][0]["role"]
                way = {"central": "central to peripheral", "peripheral": "peripheral to central"}[role]
                taken.setdefault(way, []).append(result)
    results: dict[str, Any] = {"resource_bytes": size}
    for way, triples in taken.items():
        seconds, sending, receiving = (Figure(one) for one in zip(*triples, strict=True))
        results[way] = {
            "kB_per_s": Figure(tuple(size / 1000 / one for one in seconds.rounds)).as_json(),
            "sender_cpu_s_per_MB": sending.scaled(1e6 / size).as_json(),
            "receiver_cpu_s_per_MB": receiving.scaled(1e6 / size).as_json(),
        }
    return results


async def _start(net: Network, number: int, keys: Mapping[str, str]) -> CountedNode:
    node = await net.start_node(number, interfaces=[keys])
    assert isinstance(node, CountedNode)
    return node


async def _transfer(
    net: Network, sender: CountedNode, receiver: CountedNode, size: int
) -> tuple[float, float, float]:
    """Seconds from a Resource's first packet to its proof; and of the processor, the sender's and the
    receiver's, with the set-up of Reticulum's link. A Resource that Reticulum gives up is sent again.
    """
    while not sender.has_heard(receiver.resources):
        await receiver.tell("announce", what="resources")
        with trio.move_on_after(REPEAT):
            await sender.wait_for("announce", destination=receiver.resources)
    while True:
        before = [await node.busy() for node in (sender, receiver)]
        since, received = len(sender.events), len(receiver.events)
        await sender.tell("send_resource", to=receiver.resources, size=size)
        if told := await _proved(net, sender, since):
            await receiver.wait_for("resource_received", received, sha256=told["sha256"])
            busy = [await node.busy() for node in (sender, receiver)]
            return told["seconds"], busy[0] - before[0], busy[1] - before[1]


async def _proved(net: Network, sender: CountedNode, since: int) -> dict[str, Any] | None:
    """What the sender tells of the Resource's proof; None: it has been given up."""
    while not (told := sender.seen("resource_proved", since)):
        if sender.seen("resource_failed", since) or sender.seen("resource_link_closed", since):
            return None
        await net.change()
    return told
