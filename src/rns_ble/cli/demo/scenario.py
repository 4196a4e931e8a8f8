"""What the nodes of a demo do, stage by stage, and how it is seen that it worked.

1. Every node finds every other and links to it.
2. Every node announces its LXMF delivery destination; every other hears it.
3. Every node sends every other an LXMF message, over a Reticulum link, and gets the delivery proof back.
4. Node 1 sends node 2 a Resource of random bytes; what arrives has the same SHA-256.

A network loses packets, so an announce that somebody has not heard is repeated, and a message or a Resource
that failed is sent again, until the deadline of the whole run.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count, permutations
from pathlib import Path
from typing import Final

import trio

from rns_ble.cli.demo.network import Network, Node, ProcessFailedError, open_network
from rns_ble.cli.demo.report import NodeReport, Report
from rns_ble.cli.progress import Progress

ANNOUNCE_AGAIN: Final = 6.0
"""Seconds before an announce that somebody has not heard is repeated. Reticulum holds announces back that
come to a new interface faster than 3 a second (`Interface.IC_BURST_FREQ_NEW`); this stays far below."""

SEND_AGAIN: Final = 2.0
"""Seconds before a message or a Resource that failed is sent again."""


async def run_demo(
    nodes: int, size: int, deadline: float, progress: Progress, *, keep: bool = False
) -> Report:
    """Run all of it in a new temporary directory, which is removed at the end unless `keep`.

    `size`: bytes of the Resource; `deadline`: seconds for everything, clean-up aside. What goes wrong in the
    network never raises: the report says it. Cancelled: every process is ended, the directory removed.
    """
    began = time.monotonic()
    report = Report(nodes=nodes, resource_expected=size)
    with _directory(keep, progress) as directory:
        report.kept = str(directory) if keep else None
        try:
            progress.say(f"starting the ether and {nodes} Reticulum nodes, a process each")
            async with open_network(directory) as network:
                stages = Stages(network, report, progress)
                try:
                    with trio.move_on_after(deadline) as scope:
                        await stages.run()
                    if scope.cancelled_caught:
                        logs = "look into the nodes' logs" if keep else "keep the nodes' logs with --keep"
                        report.error = (
                            f"not everything arrived within {deadline:g} s; "
                            f"give it longer with --timeout, or {logs}"
                        )
                finally:
                    stages.note()
                    report.elapsed_seconds = time.monotonic() - began
        except* ProcessFailedError as failures:
            report.error = "; ".join(map(str, _leaves(failures)))
        finally:
            progress.end()
    return report


@contextmanager
def _directory(keep: bool, progress: Progress) -> Iterator[Path]:
    if keep:
        directory = Path(tempfile.mkdtemp(prefix="rns-ble-demo-"))
        try:
            yield directory
        except BaseException:  # otherwise the report says it
            progress.say(f"configurations and logs stay in {directory}")
            raise
        return
    with tempfile.TemporaryDirectory(prefix="rns-ble-demo-") as name:
        yield Path(name)


def _leaves(group: BaseExceptionGroup[ProcessFailedError]) -> Iterator[ProcessFailedError]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


class Stages:
    """The stages of one run, and what of them is done."""

    def __init__(self, network: Network, report: Report, progress: Progress) -> None:
        self._network = network
        self._report = report
        self._progress = progress
        self._proved: set[tuple[int, int]] = set()
        """(sender, receiver), by number."""

    async def run(self) -> None:
        """All of them, one after the other; returns when everything has arrived."""
        async with trio.open_nursery() as nursery:
            for number in range(1, self._report.nodes + 1):
                nursery.start_soon(self._network.start_node, number)
            await self._until("nodes up", self._ready, self._report.nodes)
        pairs = self._report.pairs
        await self._until("BLE links", lambda: len(self._linked()) // 2, pairs // 2)
        await self._announce()
        async with trio.open_nursery() as nursery:
            for sender in self._network.nodes:
                nursery.start_soon(self._messages, sender)
            await self._until("LXMF messages proved", lambda: len(self._proved), pairs)
        await self._resource(self._network.nodes[1], self._network.nodes[2])

    def note(self) -> None:
        """Write into the report what has arrived so far."""
        self._report.node_reports = [
            NodeReport(
                number=number,
                identity=node.identity if node.is_ready else None,
                linked_to=[other for one, other in self._linked() if one == number],
                att_mtu=[link["att_mtu"] for links in node.peers.values() for link in links],
                announces_heard_of=[other for one, other in self._heard() if one == number],
                lxmf_proved_by=[other for one, other in sorted(self._proved) if one == number],
            )
            for number, node in sorted(self._network.nodes.items())
        ]

    def _pairs(self, holds: Callable[[Node, Node], bool]) -> list[tuple[int, int]]:
        nodes = self._network.nodes
        return [
            (one, other)
            for one, other in permutations(sorted(nodes), 2)
            if nodes[one].is_ready and nodes[other].is_ready and holds(nodes[one], nodes[other])
        ]

    def _ready(self) -> int:
        return sum(node.is_ready for node in self._network.nodes.values())

    def _linked(self) -> list[tuple[int, int]]:
        """(a, b): a has a link to b."""
        return self._pairs(lambda one, other: other.identity in one.peers)

    def _heard(self) -> list[tuple[int, int]]:
        """(a, b): a has heard the announce of b's LXMF destination."""
        return self._pairs(lambda one, other: one.has_heard(other.delivery))

    async def _until(self, what: str, done: Callable[[], int], total: int) -> None:
        while (there := done()) < total:
            self._progress.show(what, there, total)
            await self._network.change()
        self._progress.finish(what, total)

    async def _announce(self) -> None:
        what, total = "announces heard", self._report.pairs
        while len(heard := set(self._heard())) < total:
            unheard = {
                other for one, other in permutations(self._network.nodes, 2) if (one, other) not in heard
            }
            for number in sorted(unheard):
                await self._network.nodes[number].tell("announce", what="delivery")
            with trio.move_on_after(ANNOUNCE_AGAIN):
                await self._until(what, lambda: len(self._heard()), total)

    async def _messages(self, sender: int) -> None:
        """To every other node, one after the other, beginning with the next in the ring.

        All at once would be too much for a small machine: Reticulum takes a packet on a link for lost when
        its proof takes 6 times as long as the link's set-up did, and LXMF then waits 10 s to try again.
        """
        nodes = self._report.nodes
        for distance in range(1, nodes):
            await self._message(sender, (sender - 1 + distance) % nodes + 1)

    async def _message(self, sender: int, receiver: int) -> None:
        one, other = self._network.nodes[sender], self._network.nodes[receiver]
        for attempt in count(1):
            content = f"From node {sender} to node {receiver}, attempt {attempt}"
            await one.tell("send_message", to=other.delivery, content=content)
            while not (proved := one.seen("message_proved", content=content)):
                if one.seen("message_failed", content=content):
                    break
                await self._network.change()
            if proved:
                await other.wait_for(
                    "message_received", content=content, source=one.delivery, signature_valid=True
                )
                self._proved.add((sender, receiver))
                self._network.changed()
                return
            await trio.sleep(SEND_AGAIN)

    async def _resource(self, sender: Node, receiver: Node) -> None:
        while not sender.has_heard(receiver.resources):
            await receiver.tell("announce", what="resources")
            with trio.move_on_after(ANNOUNCE_AGAIN):
                await sender.wait_for("announce", destination=receiver.resources)
        report, size = self._report, self._report.resource_expected
        while True:
            sent_from, received_from = len(sender.events), len(receiver.events)
            await sender.tell("send_resource", to=receiver.resources, size=size)
            while not (proved := sender.seen("resource_proved", sent_from)):
                if sender.seen("resource_failed", sent_from) or sender.seen(
                    "resource_link_closed", sent_from
                ):
                    break
                told = [event for event in sender.events[sent_from:] if event["event"] == "resource_progress"]
                self._progress.show("Resource bytes", int(told[-1]["fraction"] * size) if told else 0, size)
                await self._network.change()
            if proved:
                received = await receiver.wait_for("resource_received", received_from)
                report.resource_bytes = received["bytes"]
                report.resource_seconds = proved["seconds"]
                report.resource_sha256_ok = received["sha256"] == proved["sha256"]
                self._progress.finish("Resource bytes", size)
                return
            await trio.sleep(SEND_AGAIN)
