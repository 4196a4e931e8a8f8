"""What the tests of whole networks do again and again, with the processes of `rns_ble.cli.demo.network`."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import permutations
from pathlib import Path

import trio

from rns_ble.cli.demo.network import Network, Node, open_network

DEADLINE = 120.0
"""Seconds until a test that hangs fails. Nothing depends on how much of it is used."""

REPEAT = 6.0
"""Seconds before something that the network may have lost is sent again."""


@asynccontextmanager
async def network(directory: Path) -> AsyncIterator[Network]:
    """An ether that nodes can join, for one test; a process that fails, fails the test with its log."""
    with trio.fail_after(DEADLINE):
        async with open_network(directory) as net:
            yield net


async def start(net: Network, count: int, **options: dict[str, str]) -> list[Node]:
    """Nodes 1 to `count`, all up; options as of `Network.start_node`."""
    async with trio.open_nursery() as nursery:
        for number in range(1, count + 1):

            async def start_one(number: int = number) -> None:
                await net.start_node(number, **options)

            nursery.start_soon(start_one)
    return [net.nodes[number] for number in range(1, count + 1)]


async def linked(net: Network, *nodes: Node) -> None:
    """Wait until each of them has every other for a peer."""
    await net.until(lambda: all(other.identity in one.peers for one, other in permutations(nodes, 2)))


async def announce(net: Network, announcer: Node, *hearers: Node) -> None:
    """Announce its LXMF destination until each of these has heard it, from now on."""
    since = {hearer: len(hearer.events) for hearer in hearers}
    while not all(hearer.has_heard(announcer.delivery, since[hearer]) for hearer in hearers):
        await announcer.tell("announce", what="delivery")
        with trio.move_on_after(REPEAT):
            await net.until(
                lambda: all(hearer.has_heard(announcer.delivery, since[hearer]) for hearer in hearers)
            )


async def deliver(net: Network, sender: Node, receiver: Node, content: str) -> None:
    """Deliver an LXMF message: it arrives whole, properly signed, and the proof comes back."""
    proved_since, received_since = len(sender.events), len(receiver.events)
    while not sender.seen("message_proved", proved_since, content=content):
        failed_since = len(sender.events)
        await sender.tell("send_message", to=receiver.delivery, content=content)
        await net.until(
            lambda: (
                (
                    sender.seen("message_proved", proved_since, content=content)
                    or sender.seen("message_failed", failed_since, content=content)  # noqa: B023  (awaited here)
                )
                is not None
            )
        )
    await receiver.wait_for(
        "message_received", received_since, content=content, source=sender.delivery, signature_valid=True
    )


def processes_with(argument: str) -> list[int]:
    """The processes that have this text in their command line, ours aside."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:  # it has ended meanwhile
                continue
            if argument.encode() in command:
                found.append(int(entry.name))
    return found
