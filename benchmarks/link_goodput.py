"""What Reticulum gets out of a link: a Resource between two nodes, processes as those of `rns-ble demo`.

`measure_reference` has two nodes with ble-reticulum's interface do the same.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final

import trio
from measuring import Figure

from rns_ble.cli.demo import network
from rns_ble.cli.demo.network import Network, Process, ProcessFailedError
from rns_ble.cli.progress import Progress
from rns_ble.drivers.asyncio_loop import plainly

NODE: Final = Path(__file__).parent / "nodes" / "reticulum_node.py"

DEADLINE: Final = 120.0
"""Seconds for the start with the first link, and for one Resource."""

REFERENCE_DEADLINE: Final = 90.0
"""Seconds for each step of ble-reticulum's nodes: to be linked, to hear an announce, to send a Resource."""

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
    taken: Taken = {}
    async with nodes as net:
        net.node_type = CountedNode
        with trio.fail_after(DEADLINE):
            one, two = [await _start(net, number, keys) for number, keys in enumerate(interfaces, 1)]
            await net.until(lambda: two.identity in one.peers and one.identity in two.peers)
        for number in range(1, rounds + 1):
            progress.say(f"Resources, round {number} of {rounds}")
            for sender, receiver in ((one, two), (two, one)):
                with trio.fail_after(DEADLINE):
                    result = await _transfer(net.change, sender, receiver, size)
                taken.setdefault(_way(sender, receiver), []).append(result)
    return _figures(taken, size)


Taken = dict[str, list[tuple[float, float, float]]]
"""Direction → of each Resource, what `_transfer` tells."""


def _way(sender: CountedNode, receiver: CountedNode) -> str:
    role = sender.peers[receiver.identity][0]["role"]
    return {"central": "central to peripheral", "peripheral": "peripheral to central"}[role]


def _figures(taken: Taken, size: int) -> dict[str, Any]:
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


Change = Callable[[], Awaitable[None]]
"""Waits for the next event of any node."""


async def _transfer(
    change: Change, sender: CountedNode, receiver: CountedNode, size: int
) -> tuple[float, float, float]:
    """Seconds from a Resource's first packet to its proof; and of the processor, the sender's and the
    receiver's, with the set-up of Reticulum's link. A Resource that Reticulum gives up is sent again.
    """
    await _hear(sender, receiver)
    while True:
        before = [await node.busy() for node in (sender, receiver)]
        since, received = len(sender.events), len(receiver.events)
        await sender.tell("send_resource", to=receiver.resources, size=size)
        if told := await _proved(change, sender, since):
            await receiver.wait_for("resource_received", received, sha256=told["sha256"])
            busy = [await node.busy() for node in (sender, receiver)]
            return told["seconds"], busy[0] - before[0], busy[1] - before[1]


async def _hear(sender: CountedNode, receiver: CountedNode) -> None:
    """Have it hear of the receiver's destination."""
    while not sender.has_heard(receiver.resources):
        await receiver.tell("announce", what="resources")
        with trio.move_on_after(REPEAT):
            await sender.wait_for("announce", destination=receiver.resources)


async def _proved(change: Change, sender: CountedNode, since: int) -> dict[str, Any] | None:
    """What the sender tells of the Resource's proof; None: it has been given up."""
    while not (told := sender.seen("resource_proved", since)):
        if sender.seen("resource_failed", since) or sender.seen("resource_link_closed", since):
            return None
        await change()
    return told


# --- ble-reticulum's ---


class ReferenceNode(CountedNode):
    """Runs `nodes/reference_reticulum_node.py`."""

    def __init__(
        self, command: Sequence[str], name: str, directory: Path, changes: trio.lowlevel.ParkingLot
    ) -> None:
        directory.mkdir()
        logs = [directory / "stderr", directory / "logfile"]
        Process.__init__(self, name, [*command[:2], str(directory), *command[2:]], logs, changes)
        self.directory = directory


async def measure_reference(
    directory: Path, commands: Sequence[Sequence[str]], size: int, rounds: int, progress: Progress
) -> dict[str, Any]:
    """As `measure`, for two nodes with ble-reticulum's interface, with the version of RNS that they run on.

    `commands`: what starts each of them, without its directory. What they do not do in time, or that one of
    them ends, is told in the result (`failed`), with what was measured before.
    """
    changes = trio.lowlevel.ParkingLot()
    one, two = nodes = [
        ReferenceNode(command, f"ble-reticulum's node {number}", directory / f"reference-{number}", changes)
        for number, command in enumerate(commands, 1)
    ]
    taken: Taken = {}
    failed = None
    step = "has not started"
    try:
        async with plainly(trio.open_nursery()) as nursery:
            with trio.fail_after(REFERENCE_DEADLINE):
                for node in nodes:
                    await nursery.start(node.run)
                    await node.wait_for("ready")
            step = "the two have not linked"
            with trio.fail_after(REFERENCE_DEADLINE):
                while not (two.identity in one.peers and one.identity in two.peers):
                    await changes.park()
            for number in range(1, rounds + 1):
                progress.say(f"Resources, ble-reticulum, round {number} of {rounds}")
                for sender, receiver in ((one, two), (two, one)):
                    step = f"linked, but {sender.name} has heard no announce of the other's"
                    with trio.fail_after(REFERENCE_DEADLINE):
                        await _hear(sender, receiver)
                    step = f"linked, and announces are heard, but {sender.name} has sent no Resource whole"
                    with trio.fail_after(REFERENCE_DEADLINE):
                        result = await _transfer(changes.park, sender, receiver, size)
                    taken.setdefault(_way(sender, receiver), []).append(result)
            nursery.cancel_scope.cancel()
    except trio.TooSlowError:
        failed = f"{step} within {REFERENCE_DEADLINE:g} s"
    except ProcessFailedError as error:
        failed = f"{step}: {str(error).splitlines()[0]}"
    if failed is not None:
        progress.say(f"ble-reticulum's interface: {failed}")
    ready = one.seen("ready")
    return {
        "RNS": None if ready is None else ready["RNS"],
        **_figures(taken, size),
        **({} if failed is None else {"failed": failed, "last_lines": _last_lines(nodes)}),
    }


def _last_lines(nodes: Sequence[ReferenceNode]) -> list[str]:
    """The last error or warning in the log of each node, for whoever looks for the reason."""
    found = []
    for node in nodes:
        logs = [node.directory / "logfile", node.directory / "stderr"]
        texts = [log.read_text(errors="replace") for log in logs if log.is_file()]
        lines = [line for text in texts for line in text.splitlines()]
        wrong = [line for line in lines if "rror" in line or "[Warning]" in line]
        found += [f"{node.name}: {line.strip()}" for line in wrong[-1:]]
    return found
