"""What the tests of whole networks do again and again, with the processes of `rns_ble.cli.demo.network`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import permutations
from pathlib import Path
from typing import Any

import trio

from rns_ble.cli.demo.network import Network, Node, open_network, open_nodes

DEADLINE = 300.0
"""Seconds until a test that hangs fails. Nothing depends on how much of it is used."""

RESOURCE_FAILURES = ("resource_failed", "resource_link_closed")

RNS_BLE = [sys.executable, "-X", "dev", "-W", "error", "-m", "rns_ble.cli"]

REPEAT = 6.0
"""Seconds before something that the network may have lost is sent again."""


@asynccontextmanager
async def network(directory: Path, keys: Mapping[str, str] | None = None) -> AsyncIterator[Network]:
    """A radio that nodes can join, for one test; a process that fails, fails the test with its log.

    `keys`: what their BLE interfaces have in their sections, where the radio is there already; without, an
    ether is started.
    """
    with trio.fail_after(DEADLINE):
        async with open_network(directory) if keys is None else open_nodes(directory, keys) as net:
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


async def transfer(net: Network, sender: Node, receiver: Node, size: int) -> float:
    """Send a Resource of random bytes; it arrives whole. Seconds from its first packet to its proof."""
    while not sender.has_heard(receiver.resources):
        await receiver.tell("announce", what="resources")
        with trio.move_on_after(REPEAT):
            await sender.wait_for("announce", destination=receiver.resources)
    sent_since, received_since = len(sender.events), len(receiver.events)
    await sender.tell("send_resource", to=receiver.resources, size=size)
    await net.until(
        lambda: any(sender.seen(event, sent_since) for event in ("resource_proved", *RESOURCE_FAILURES))
    )
    proved = sender.seen("resource_proved", sent_since)
    assert proved, sender.events[sent_since:]
    received = await receiver.wait_for("resource_received", received_since)
    assert proved["bytes"] == received["bytes"] == size
    assert proved["sha256"] == received["sha256"]
    return float(proved["seconds"])


def shared() -> dict[str, str]:
    """What makes a node answer to `rnstatus`, under a name of its own."""
    return {"share_instance": "yes", "instance_name": f"rns-ble-{uuid.uuid4().hex}"}


async def rnstatus(node: Node) -> list[dict[str, Any]]:
    """What `rnstatus` shows of the interfaces of a node that is `shared`."""
    outcome = await trio.run_process(
        [sys.executable, "-m", "RNS.Utilities.rnstatus", "--config", str(node.directory), "-j"],
        # Unbuffered: at its exit Reticulum replaces stdout, and what was still in the buffer may be lost.
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        capture_stdout=True,
        stdin=subprocess.DEVNULL,
    )
    # Reticulum's own log goes to stdout, too.
    printed = [line for line in outcome.stdout.splitlines() if line.startswith(b"{")]
    assert len(printed) == 1, outcome.stdout
    return list(json.loads(printed[0])["interfaces"])


async def rns_ble_ended(*arguments: str) -> tuple[int, str, str]:
    """Run `rns-ble …` to its end: exit code, stdout, stderr."""
    with trio.fail_after(DEADLINE):
        outcome = await trio.run_process(
            [*RNS_BLE, *arguments],
            stdin=subprocess.DEVNULL,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    errors = outcome.stderr.decode()
    assert "Traceback" not in errors, errors
    return outcome.returncode, outcome.stdout.decode(), errors


async def status(node: Node, *arguments: str) -> tuple[int, dict[str, Any]]:
    """`rns-ble status --json`: its exit code, and what it prints."""
    code, out, errors = await rns_ble_ended("status", "--json", "--config", str(node.directory), *arguments)
    assert "--wait" in arguments or errors == ""
    return code, json.loads(out)


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
