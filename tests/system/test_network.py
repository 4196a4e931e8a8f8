"""Reticulum between processes: each node its own RNS, its own Bluetooth host, one ether between them."""

from __future__ import annotations

from pathlib import Path

import trio

from rns_ble.cli.demo.network import Node
from tests.system.networks import announce, deliver, linked, network, rnstatus, shared, start, transfer


async def test_messages_are_delivered_with_proof_both_ways(tmp_path: Path) -> None:
    async with network(tmp_path) as net:
        one, two = await start(net, 2)
        await linked(net, one, two)
        await announce(net, one, two)
        await announce(net, two, one)
        await deliver(net, one, two, "short")
        await deliver(net, two, one, "and back")
        # More than a packet of Reticulum's holds: LXMF makes a Resource of it.
        await deliver(net, one, two, "long, ünd in Ünicode. " * 200)


async def test_a_resource_of_one_megabyte_arrives_intact(tmp_path: Path) -> None:
    async with network(tmp_path) as net:
        one, two = await start(net, 2)
        await linked(net, one, two)
        await transfer(net, one, two, 1024 * 1024)


async def packets_arrived(receiver: Node, sender: Node) -> None:
    """Wait until packets of this sender have come over the air, whether Reticulum takes them or not."""
    while True:
        since = len(receiver.events)
        await receiver.tell("count_packets")
        if (await receiver.wait_for("packets", since))["by_identity"][sender.identity]["received"] > 0:
            return
        await trio.sleep(0.1)


async def test_only_who_has_the_passphrase_gets_anything_through(tmp_path: Path) -> None:
    right, wrong = {"passphrase": "correct horse"}, {"passphrase": "incorrect horse"}
    async with network(tmp_path) as net:
        async with trio.open_nursery() as nursery:
            for number, options in enumerate((right, right, wrong, {}), start=1):
                nursery.start_soon(lambda n=number, o=options: net.start_node(n, interfaces=[o]))
        one, two, outsider, unaware = nodes = [net.nodes[number] for number in range(1, 5)]
        # Bluetooth links know nothing of the passphrase.
        await linked(net, *nodes)

        await announce(net, one, two)
        await announce(net, two, one)
        await deliver(net, one, two, "among us")
        for stranger in (outsider, unaware):
            await stranger.tell("announce", what="delivery")
        for stranger, others in ((outsider, (one, two, unaware)), (unaware, (one, two, outsider))):
            for other in others:
                await packets_arrived(stranger, other)
                await packets_arrived(other, stranger)

        # Once more, behind everything that the strangers sent; and a moment for what may still be on its way.
        await announce(net, one, two)
        await announce(net, two, one)
        await trio.sleep(1.0)
        assert {event["destination"] for event in one.events if event["event"] == "announce"} == {
            two.delivery
        }
        assert {event["destination"] for event in two.events if event["event"] == "announce"} == {
            one.delivery
        }
        assert not outsider.seen("announce")
        assert not unaware.seen("announce")


async def test_the_mesh_heals_when_a_node_is_killed_and_comes_back(tmp_path: Path) -> None:
    # With this, Reticulum keeps its transport identity, which is the node's BLE identity, over a restart.
    options = {"static_transport_identity": "yes"}
    async with network(tmp_path) as net:
        one, two, three = await start(net, 3, reticulum=options)
        await linked(net, one, two, three)
        await announce(net, two, one, three)
        await announce(net, one, two)
        await deliver(net, two, one, "before")

        await two.kill()
        await net.until(lambda: two.identity not in one.peers and two.identity not in three.peers)
        reborn = await net.start_node(2, reticulum=options)
        assert (reborn.identity, reborn.delivery) == (two.identity, two.delivery)

        await linked(net, one, reborn, three)
        await announce(net, reborn, one, three)
        await announce(net, one, reborn, three)
        await announce(net, three, reborn)
        await deliver(net, reborn, one, "after")
        # From a node without a Reticulum link to the dead one, which LXMF would try first, for long.
        await deliver(net, three, reborn, "after, from elsewhere")


async def test_rnstatus_shows_the_peers(tmp_path: Path) -> None:
    async with network(tmp_path) as net:
        async with trio.open_nursery() as nursery:
            for number in (1, 2, 3):
                nursery.start_soon(lambda n=number: net.start_node(n, reticulum=shared()))
        one, two, three = nodes = [net.nodes[number] for number in (1, 2, 3)]
        await linked(net, *nodes)
        await announce(net, two, one)
        await announce(net, three, one)

        shown = await rnstatus(one)
        [parent] = [interface for interface in shown if interface["type"] == "BLEInterface"]
        peers = [interface for interface in shown if interface["type"] == "BLEPeerInterface"]
        assert parent["status"] is True
        assert parent["clients"] == parent["peers"] == 2
        assert len(peers) == 2
        for peer in peers:
            assert peer["parent_interface_name"] == parent["name"]
            assert peer["status"] is True
            assert peer["rxb"] > 0
        for other in (two, three):
            assert any(other.identity in peer["name"] for peer in peers)
        assert parent["rxb"] == sum(peer["rxb"] for peer in peers)
