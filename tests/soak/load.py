"""The load of a soak: announces, messages and Resources without end, links that are lost, nodes that die.

What a sender was told is written down with what arrived, so that afterwards it can be said of everything that
Reticulum called delivered whether it was.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from typing import Any, TextIO

import trio

from rns_ble.cli.demo import network
from rns_ble.cli.demo.network import Network, open_network
from rns_ble.cli.demo.scenario import ANNOUNCE_AGAIN

SAMPLES_EVERY = 5.0
OBJECTS_EVERY = 30.0
"""Seconds; counting objects takes a node some tens of milliseconds."""
LINK_LOST_EVERY = 8.0
NODE_KILLED_EVERY = 150.0
ANNOUNCED_EVERY = 60.0
"""Seconds, each node both of its destinations."""
PAUSE = 4.0
"""Seconds, on average, between two messages of a node, and between two of its Resources: the load is for a
machine that other processes use, too."""
RESOURCE_BYTES = 2_000, 40_000
LONGEST_ANSWER = 180.0
"""Seconds for Reticulum to say what became of something. LXMF tries for minutes."""
ALL_LINKED = 180.0
"""Seconds for the nodes to find each other; seven of them on a slow machine."""

OPTIONS = {"static_transport_identity": "yes"}
"""With this Reticulum keeps its transport identity, which is the node's BLE identity, over a restart."""


class SoakNode(network.Node):
    program = "tests.soak.node"


@dataclass
class Record:
    """What happened."""

    counts: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    """What Reticulum said was delivered, and is not there."""
    twice: list[str] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    idle: dict[int, tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=dict)
    """Node → its sample before the load, and after it, with all links up. The first is its latest life's."""
    not_quiet: list[str] = field(default_factory=list)
    """What had not come to rest after the load."""


class Soak:
    def __init__(self, net: Network, nodes: int, record: Record, to: TextIO | None, seed: int) -> None:
        self._net = net
        self._nodes = nodes
        self._record = record
        self._to = to
        self._random = random.Random(seed)
        self._began = trio.current_time()
        self._numbers = 0
        self._before: dict[int, dict[str, Any]] = {}
        self._dead: set[int] = set()
        self._lives: Counter[int] = Counter()

    # --- before and after ---

    async def run(self, seconds: float, kills: bool) -> None:
        """The whole of it. Raises `trio.TooSlowError` when the nodes do not come together."""
        with trio.fail_after(ALL_LINKED):
            async with trio.open_nursery() as nursery:
                for number in range(1, self._nodes + 1):
                    nursery.start_soon(self._start, number)
            await self._linked()
            await self._introduce()
        for number in self._net.nodes:
            self._before[number] = await self._sample(number, objects=True)
        self._began = trio.current_time()
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(seconds):
                async with trio.open_nursery() as load:
                    load.start_soon(self._samples)
                    load.start_soon(self._lose_links)
                    if kills:
                        load.start_soon(self._kill_nodes, nursery)
                    for number in range(1, self._nodes + 1):
                        load.start_soon(self._announce, number)
                        for send in (self._message, self._resource):
                            load.start_soon(self._again_and_again, nursery, number, send)
        await self._come_to_rest()

    async def _start(self, number: int) -> None:
        await self._net.start_node(number, reticulum=OPTIONS)
        self._lives[number] += 1

    async def _linked(self) -> None:
        nodes = self._net.nodes
        await self._net.until(
            lambda: (
                len(nodes) == self._nodes
                and all(node.is_ready for node in nodes.values())
                and all(other.identity in one.peers for one, other in permutations(nodes.values(), 2))
            )
        )

    async def _introduce(self) -> None:
        """All announce until all have heard all, so that what is sent at first is not sent in vain."""

        def heard(one: network.Node, other: network.Node) -> bool:
            return one.has_heard(other.delivery) and one.has_heard(other.resources)

        nodes = self._net.nodes.values()
        while unheard := {other for one, other in permutations(nodes, 2) if not heard(one, other)}:
            for node in unheard:
                for what in ("delivery", "resources"):
                    await node.tell("announce", what=what)
            with trio.move_on_after(ANNOUNCE_AGAIN):
                await self._net.until(lambda: all(heard(one, other) for one, other in permutations(nodes, 2)))

    async def _come_to_rest(self) -> None:
        """With no load: all linked again, one link each, nothing queued."""
        last: dict[int, dict[str, Any]] = {}
        with trio.move_on_after(ALL_LINKED):
            await self._linked()
            while True:
                last = {number: await self._sample(number, objects=True) for number in self._net.nodes}
                if not any(self._restless(sample) for sample in last.values()):
                    break
                await trio.sleep(1)
        for number, sample in last.items():
            self._record.not_quiet += [f"node {number}: {what}" for what in self._restless(sample)]
            self._record.idle[number] = self._before[number], sample
        if not last:
            self._record.not_quiet.append("the nodes did not find each other again")

    def _restless(self, sample: dict[str, Any]) -> list[str]:
        others = self._nodes - 1
        wanted = {"links": others, "places": others, "peers": others}
        wanted |= dict.fromkeys(("queued", "attempts", "radio", "strangers"), 0)
        return [
            f"{what} {sample.get(what)} instead of {count}"
            for what, count in wanted.items()
            if sample.get(what) != count
        ]

    # --- samples ---

    async def _samples(self) -> None:
        objects_at = 0.0
        while True:
            now = trio.current_time()
            objects = now >= objects_at
            if objects:
                objects_at = now + OBJECTS_EVERY
            for number in sorted(self._net.nodes):
                if number not in self._dead:
                    with trio.move_on_after(SAMPLES_EVERY):
                        await self._sample(number, objects=objects)
            await trio.sleep_until(max(trio.current_time(), now + SAMPLES_EVERY))

    async def _sample(self, number: int, *, objects: bool) -> dict[str, Any]:
        node = self._net.nodes[number]
        self._numbers += 1
        asked = self._numbers
        await node.tell("sample", number=asked, objects=objects)
        told = await node.wait_for("sample", max(0, len(node.events) - 50), number=asked)
        sample = {
            **told,
            "node": number,
            "life": self._lives[number],
            "seconds": round(trio.current_time() - self._began, 1),
        }
        self._record.samples.append(sample)
        if self._to is not None:
            self._to.write(json.dumps(sample) + "\n")
            self._to.flush()
        return sample

    # --- what goes wrong ---

    async def _lose_links(self) -> None:
        while True:
            await trio.sleep(self._random.uniform(0.5, 1.5) * LINK_LOST_EVERY)
            number = self._random.randint(1, self._nodes)
            if number not in self._dead:
                await self._net.nodes[number].tell("lose_a_link")
                self._record.counts["links lost"] += 1

    async def _kill_nodes(self, nursery: trio.Nursery) -> None:
        while True:
            await trio.sleep(self._random.uniform(0.5, 1.5) * NODE_KILLED_EVERY)
            number = self._random.choice([n for n in self._net.nodes if n not in self._dead])
            self._dead.add(number)
            nursery.start_soon(self._kill_and_revive, number)

    async def _kill_and_revive(self, number: int) -> None:
        await self._net.nodes[number].kill()
        self._record.counts["nodes killed"] += 1
        await self._start(number)
        node = self._net.nodes[number]
        with trio.move_on_after(ALL_LINKED):
            await self._net.until(lambda: len(node.peers) == self._nodes - 1)
        self._before[number] = await self._sample(number, objects=True)
        self._dead.discard(number)
        for what in ("delivery", "resources"):
            await node.tell("announce", what=what)

    # --- traffic ---

    async def _announce(self, number: int) -> None:
        await trio.sleep(self._random.uniform(0, 5))
        while True:
            for what in ("delivery", "resources"):
                if number not in self._dead:
                    await self._net.nodes[number].tell("announce", what=what)
                    self._record.counts["announces"] += 1
            await trio.sleep(ANNOUNCED_EVERY)

    async def _again_and_again(
        self, nursery: trio.Nursery, number: int, send: Callable[[int, int], Awaitable[str]]
    ) -> None:
        """One after the other; what has begun is seen to its end also when the load has ended."""
        while True:
            await trio.sleep(self._random.expovariate(1 / PAUSE))
            other = self._random.choice([n for n in range(1, self._nodes + 1) if n != number])
            if self._dead & {number, other}:
                continue
            done = trio.Event()
            nursery.start_soon(self._one, number, other, send, done)
            await done.wait()

    async def _one(
        self, number: int, other: int, send: Callable[[int, int], Awaitable[str]], done: trio.Event
    ) -> None:
        lives = self._lives[number], self._lives[other]
        with trio.move_on_after(LONGEST_ANSWER) as scope:
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def leave_when_killed() -> None:
                    await self._net.until(lambda: bool(self._dead & {number, other}))
                    nursery.cancel_scope.cancel()

                outcome = await send(number, other)
                nursery.cancel_scope.cancel()
        name = send.__name__.strip("_")
        if scope.cancelled_caught:
            outcome = "without an answer"
        elif lives != (self._lives[number], self._lives[other]) or self._dead & {number, other}:
            outcome = "cut short by a death"
        self._record.counts[f"{name}s {outcome}"] += 1
        done.set()

    async def _message(self, number: int, other: int) -> str:
        sender, receiver = self._net.nodes[number], self._net.nodes[other]
        if not sender.has_heard(receiver.delivery):
            return "not tried"
        self._numbers += 1
        content = f"{number} to {other}, {self._numbers} ".ljust(self._random.choice((40, 200, 2000)), ".")
        since, there = len(sender.events), len(receiver.events)
        await sender.tell("send_message", to=receiver.delivery, content=content)
        while not sender.seen("message_proved", since, content=content):
            if sender.seen("message_failed", since, content=content):
                return "failed"
            await self._net.change()
        return await self._arrived(receiver, there, "message", content=content, source=sender.delivery)

    async def _resource(self, number: int, other: int) -> str:
        sender, receiver = self._net.nodes[number], self._net.nodes[other]
        if not sender.has_heard(receiver.resources):
            return "not tried"
        since, there = len(sender.events), len(receiver.events)
        self._numbers += 1
        tag, size = self._numbers, self._random.randint(*RESOURCE_BYTES)
        await sender.tell("send_tagged", to=receiver.resources, size=size, tag=tag)
        sent = await sender.wait_for("sent", since, tag=tag)
        if not sent["proved"]:
            return "failed"
        return await self._arrived(receiver, there, "resource", bytes=size, sha256=sent["sha256"])

    async def _arrived(self, receiver: network.Node, since: int, what: str, **fields: object) -> str:
        """Reticulum says it was delivered. So it must be there, once; the event may be a moment behind."""
        event = f"{what}_received"
        with trio.move_on_after(30):
            await receiver.wait_for(event, since, **fields)
            await trio.sleep(1)
        told = [e for e in receiver.events[since:] if {"event": event, **fields}.items() <= e.items()]
        if not told:
            self._record.lost.append(f"{receiver.name} has not got {what} {fields}")
            return "lost"
        if len(told) > 1:
            self._record.twice.append(f"{receiver.name} has got {what} {fields} {len(told)} times")
        return "delivered"


async def soak(
    directory: Path, nodes: int, seconds: float, samples: TextIO | None = None, *, seed: int, kills: bool
) -> Record:
    """Run it. Every process is gone afterwards, whatever happens."""
    record = Record()
    async with open_network(directory) as net:
        net.node_type = SoakNode
        await Soak(net, nodes, record, samples, seed).run(seconds, kills)
    return record
