"""Reticulum over a real bluetoothd: nodes as processes, each with an adapter or two, a passphrase and a
configuration directory as a user has them. What they do is what the demo's nodes do.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import permutations
from pathlib import Path

import pytest
import trio

from rns_ble.cli.demo.network import Network, Node
from tests.bluez import laboratory
from tests.system.networks import (
    RNS_BLE,
    announce,
    deliver,
    linked,
    network,
    rns_ble_ended,
    rnstatus,
    shared,
    status,
    transfer,
)
from tests.system.terminal import terminal

MEGABYTE = 1024 * 1024
KEYS = {"driver": "bleak", "passphrase": "correct horse"}
QUIET = 15.0
"""Seconds in which links that have settled stay: longer than two links to one identity are left alone."""

Show = Callable[[str], None]
Interfaces = Sequence[Mapping[str, str]]


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str], bluez_version: tuple[int, int]) -> Show:
    """Prints a figure, in spite of pytest's capture, with the time since the test began."""
    began = time.monotonic()

    def show(line: str) -> None:
        with capsys.disabled():
            version = ".".join(map(str, bluez_version))
            sys.stdout.write(f"\n  BlueZ {version}, {time.monotonic() - began:5.1f} s: {line}")
            sys.stdout.flush()

    return show


async def start(net: Network, *nodes: Interfaces) -> list[Node]:
    """Nodes 1 and up, with these BLE interfaces each; all can be asked by `rnstatus`."""
    async with trio.open_nursery() as nursery:
        for number, interfaces in enumerate(nodes, 1):

            async def start_one(number: int = number, interfaces: Interfaces = interfaces) -> None:
                await net.start_node(number, interfaces=interfaces, reticulum=shared())

            nursery.start_soon(start_one)
    return [net.nodes[number] for number in range(1, len(nodes) + 1)]


async def rnstatus_shows(node: Node, wanted: dict[str, list[str]]) -> None:
    """Wait until `rnstatus` shows these peers as up: identity → the names of the interfaces that have it."""
    while await _shown_peers(node) != wanted:
        await trio.sleep(1)  # one that has just left is still in the list, or one is just coming back


async def _shown_peers(node: Node) -> dict[str, list[str]]:
    shown = await rnstatus(node)
    parents = {i["name"]: i for i in shown if i["type"] == "BLEInterface"}
    peers: dict[str, list[str]] = {}
    for interface in shown:
        if interface["type"] == "BLEPeerInterface" and interface["status"]:
            parent = parents[interface["parent_interface_name"]]
            assert parent["status"] is True
            identity = interface["name"].rpartition("/")[2].rstrip("]")
            peers.setdefault(identity, []).append(parent["short_name"])
    return {identity: sorted(names) for identity, names in peers.items()}


async def shown_by_rns_ble(one: Node, two: Node) -> None:
    """`status`, `scan`, and `monitor` until it has shown the peer and how fast it is."""
    code, told = await status(one)
    assert code == 0
    [interface] = told["interfaces"]
    [peer] = interface["mesh"]["peers"]
    assert (interface["driver"], peer["identity"]) == ("bleak", two.identity)
    assert peer["rx_bytes"] > 0
    assert peer["links"][0]["data_path"] == one.peers[two.identity][0]["data_path"]
    config = ("--config", str(one.directory))
    _, out, _ = await rns_ble_ended("scan", "--json", *config)
    verdicts = {node["identity"]: node["verdict"] for node in json.loads(out)["nodes"]}
    assert verdicts.get(two.identity, "linked") == "linked"
    async with terminal(*RNS_BLE, "monitor", *config, columns=80, lines=24) as seen:
        await seen.shows(two.identity[:8])
        await seen.until(lambda: any(line.count(" B ") >= 2 for line in seen.display))
        await seen.type(b"q")
        assert await seen.ends() == 0


async def off_and_on(one: Node, adapter: str) -> str:
    """Switch the adapter off and on again, as `rns-ble status` sees it; why it was offline."""
    await laboratory.set_powered(adapter, False)
    while (told := (await status(one))[1]["interfaces"][0])["online"]:
        await trio.sleep(0.1)
    assert told["mesh"] is None
    await laboratory.set_powered(adapter, True)
    code, again = await status(one, "--wait", "120")
    assert code == 0
    assert again["interfaces"][0]["pid"] == told["pid"]
    return str(told["offline_reason"])


async def test_two_nodes(tmp_path: Path, take_adapters: Callable[[int], list[str]], show: Show) -> None:
    """Announces, messages with proof and a megabyte, each both ways; and what `rns-ble` shows of it."""
    first, second = take_adapters(2)
    async with network(tmp_path, KEYS) as net:
        one, two = await start(net, [{"adapter": first}], [{"adapter": second}])
        show("two nodes are up")
        await linked(net, one, two)
        [link] = one.peers[two.identity]
        show(f"linked: ATT MTU {link['att_mtu']}, {link['role']}, {link['data_path']}")
        await announce(net, one, two)
        await announce(net, two, one)
        show("announces heard both ways")
        await deliver(net, one, two, "short")
        await deliver(net, two, one, "and back")
        show("LXMF delivered and proved both ways")
        await shown_by_rns_ble(one, two)
        show("status, scan and monitor show the other")
        for sender, receiver in permutations((one, two)):
            seconds = await transfer(net, sender, receiver, MEGABYTE)
            role = sender.peers[receiver.identity][0]["role"]
            show(f"1 MB from the {role} in {seconds:.1f} s, {MEGABYTE / seconds / 1000:.1f} kB/s, intact")
        for one_, other in permutations((one, two)):
            await rnstatus_shows(one_, {other.identity: ["BLE Interface"]})
        show("rnstatus shows each the other")
        reason = await off_and_on(one, first)
        assert "has been powered off" in reason or "can't be powered on" in reason
        show(f"status, while the adapter was off: {reason}")


async def test_three_nodes_are_a_full_mesh(
    tmp_path: Path, take_adapters: Callable[[int], list[str]], show: Show
) -> None:
    async with network(tmp_path, KEYS) as net:
        nodes = await start(net, *([{"adapter": adapter}] for adapter in take_adapters(3)))
        await linked(net, *nodes)
        show("three nodes are linked, each with each")
        for node in nodes:
            await announce(net, node, *(other for other in nodes if other is not node))
        show("all announces heard by all")
        for sender, receiver in permutations(nodes, 2):
            await deliver(net, sender, receiver, f"{sender.name} to {receiver.name}")
        show("LXMF delivered and proved between each two, both ways")
        for node in nodes:
            others = {other.identity: ["BLE Interface"] for other in nodes if other is not node}
            await rnstatus_shows(node, others)


async def test_two_interfaces_of_one_process(
    tmp_path: Path, take_adapters: Callable[[int], list[str]], show: Show
) -> None:
    """One adapter is named as BlueZ names it, the other by its address. Each links to a neighbour once and
    keeps the link.
    """
    first, second, third = take_adapters(3)
    address = (await laboratory.adapters())[second]["Address"]
    interfaces = ["BLE Interface", "BLE Interface 2"]
    async with network(tmp_path, KEYS) as net:
        both, neighbour = await start(net, [{"adapter": first}, {"adapter": address}], [{"adapter": third}])

        def linked_by() -> list[str]:
            return sorted(link["interface"] for link in both.peers.get(neighbour.identity, []))

        await net.until(lambda: linked_by() == interfaces)
        show("the neighbour is linked to both interfaces")
        while True:
            with trio.move_on_after(QUIET) as quiet:
                await both.wait_for("peers", len(both.events))
            if quiet.cancelled_caught and linked_by() == interfaces:
                break
        show(f"for {QUIET:g} s nothing has changed")
        for sender, receiver in permutations((both, neighbour)):
            await announce(net, sender, receiver)
        for sender, receiver in permutations((both, neighbour)):
            await deliver(net, sender, receiver, f"from {sender.name}")
            seconds = await transfer(net, sender, receiver, MEGABYTE // 8)
            show(f"message, and 128 kB in {seconds:.1f} s, from {sender.name}")
        assert both.identity not in both.peers, "two interfaces of one node are no peers of each other"
        await rnstatus_shows(both, {neighbour.identity: interfaces})
        await rnstatus_shows(neighbour, {both.identity: interfaces[:1]})
