"""A sender that is faster than the radio: what waits how long, what is dropped, and who is not held up.

The unit of time is a value's: what the radio needs for one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.lowlevel

from rns_ble.config import BLEConfig
from rns_ble.peer import Peer
from rns_ble.protocol.fragmentation import Reassembler
from rns_ble.protocol.pairs import Cuts
from rns_ble.protocol.values import ValueKind, classify, ping
from rns_ble.session import SEND_TIMEOUT, Carrier
from rns_ble.testing import Air, MockBLEDriver
from rns_ble.testing.slow_link import VALUES_A_SECOND, VALUES_BUFFERED, SlowLink
from tests.nodes import Node, address_of, running, until

pytestmark = pytest.mark.virtual_time

QUEUE = 128
VALUE = 1 / VALUES_A_SECOND
ON_THE_CONTROLLER = VALUES_BUFFERED * VALUE
"""What a value waits in the controller, where nobody can overtake."""


class Receiver:
    """The other end: whole packets, and when the last bit of each was on the air."""

    def __init__(self, peer: Peer, link: SlowLink) -> None:
        self.packets: list[bytes] = []
        self.values: list[tuple[float, bytes]] = []
        self.put_at: dict[bytes, float] = {}
        self.waited: dict[bytes, float] = {}
        self._peer = peer
        self._reassembler = Reassembler()
        link.on_value = self._on_value

    def _on_value(self, time: float, value: bytes) -> None:
        self.values.append((time, value))
        packet = self._reassembler.receive(value, time)
        if packet is not None:
            self.packets.append(packet)
            self.waited[packet] = time - self.put_at[packet]

    def put(self, packet: bytes, flow: bytes, *, urgent: bool = False) -> bool:
        self.put_at[packet] = trio.current_time()
        return self._peer.outgoing.put(packet, flow, urgent=urgent)

    def waits(self, what: bytes) -> list[float]:
        return [wait for packet, wait in self.waited.items() if packet.startswith(what)]


class Nobody:
    def packet_received(self, peer, packet) -> None: ...
    def link_ended(self, peer, session) -> None: ...
    def peer_ended(self, peer) -> None: ...


@asynccontextmanager
async def slow_peer(att_mtu: int = 517, **options) -> AsyncIterator[tuple[Peer, SlowLink, Receiver]]:
    cuts = Cuts(516)
    link = SlowLink(att_mtu=att_mtu, **options)
    peer = Peer(b"\xbb" * 16, b"\xaa" * 16, Nobody(), QUEUE, cuts)
    peer.join(link, Carrier(cuts))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.run)
        yield peer, link, Receiver(peer, link)
        nursery.cancel_scope.cancel()


def bulk(number: int, length: int = 500) -> bytes:
    return (b"bulk" + number.to_bytes(4)).ljust(length, b"\0")


def small(number: int) -> bytes:
    return (b"small" + number.to_bytes(4)).ljust(115, b"\0")


@pytest.mark.parametrize(("att_mtu", "values"), [(517, 1), (185, 3), (23, 34)])
@pytest.mark.parametrize("same_link", [True, False], ids=["proof on the same link", "another link"])
async def test_a_small_packet_waits_for_one_packet_and_not_for_the_queue(
    att_mtu: int, values: int, same_link: bool
) -> None:
    own = -(-115 // (att_mtu - 8)) + 1  # and one, where the last would be 16 bytes long
    # Two packets' time: the one that is being sent, and, after it, the other flow's turn.
    bound = ON_THE_CONTROLLER + (2 * values + own) * VALUE
    async with slow_peer(att_mtu) as (peer, _, receiver):
        for number in range(1, 20):
            while len(peer.outgoing) < 75:  # as much as a Resource has on its way
                receiver.put(bulk(peer._tx_packets * 1000 + len(receiver.put_at)), b"resource")
                await trio.lowlevel.checkpoint()
            receiver.put(small(number), b"resource" if same_link else b"other", urgent=same_link)
            await trio.sleep(bound + 0.3 * number * VALUE)
        await until(lambda: len(receiver.waits(b"small")) == 19)
    assert max(receiver.waits(b"small")) <= bound
    assert max(receiver.waits(b"bulk")) > 40 * values * VALUE, "there was a queue"


async def test_bulk_gets_its_half_under_a_flood_of_small_packets() -> None:
    async with slow_peer() as (peer, _, receiver):
        for number in range(2000):
            receiver.put(bulk(number), b"resource")
            receiver.put(small(number), b"other")
            await trio.sleep(VALUE)
    sent = len(receiver.waits(b"bulk")), len(receiver.waits(b"small"))
    assert min(sent) == pytest.approx(1000, abs=VALUES_BUFFERED + 2)
    assert peer.status().tx_dropped == 4000 - sum(sent)


async def test_what_is_on_one_link_arrives_in_order_whatever_else_is_sent() -> None:
    async with slow_peer() as (_, _, receiver):
        for number in range(60):
            receiver.put(bulk(number, 500 if number % 3 else 20), b"one")
            receiver.put(small(number), b"two")
            if number % 5 == 0:
                await trio.sleep(2 * VALUE)
        await until(lambda: len(receiver.packets) == 120)
    for what in (b"bulk", b"small"):
        arrived = [packet for packet in receiver.packets if packet.startswith(what)]
        assert arrived == sorted(arrived)


async def test_a_link_that_is_closed_behind_its_data_is_closed_after_them() -> None:
    """The packet that closes a link is as short as a proof, and must not be taken for one."""
    async with slow_peer() as (_, _, receiver):
        for number in range(20):
            receiver.put(bulk(number), b"link")
        receiver.put(b"proof", b"link", urgent=True)
        receiver.put(b"close", b"link")
        await until(lambda: b"close" in receiver.packets)
    assert receiver.packets.index(b"proof") < 3
    assert receiver.packets[-1] == b"close"


async def test_drops_are_counted_where_they_are_seen() -> None:
    async with slow_peer() as (peer, _, receiver):
        dropped = []
        peer.outgoing.on_drop = dropped.append
        for number in range(300):
            receiver.put(bulk(number), b"resource")
            await trio.sleep(VALUE / 10)
        assert receiver.put(small(1), b"other"), "the queue is full, but not of these"
        await trio.sleep(VALUE / 10)
        status = peer.status()
        assert status.tx_queued == QUEUE
        assert status.tx_bytes_queued == (QUEUE - 1) * 500 + 115
        assert status.tx_dropped == len(dropped) == 301 - QUEUE - status.tx_packets - 1
        await until(lambda: not len(peer.outgoing))
        await trio.sleep(1)
        status = peer.status()
        assert (status.tx_queued, status.tx_bytes_queued) == (0, 0)
        assert status.tx_packets + status.tx_dropped == 301
        assert receiver.waits(b"small")


async def test_what_a_peer_that_is_given_up_had_in_its_queue_is_counted() -> None:
    async with slow_peer(rate=0) as (peer, link, receiver):
        dropped = []
        peer.outgoing.on_drop = dropped.append
        for number in range(10):
            receiver.put(bulk(number), b"resource")
        await trio.sleep(1)
        assert not dropped
        await link.aclose()
        await trio.sleep(5)
        assert receiver.put(small(0), b"other") is False
    # One was in hand when the link was lost, and waited for another link.
    assert sorted(dropped) == sorted([*map(bulk, range(10)), small(0)])


async def test_an_answer_to_a_ping_does_not_wait_for_the_queue() -> None:
    async with slow_peer() as (_, link, receiver):
        for number in range(QUEUE):
            receiver.put(bulk(number), b"resource")
        await trio.sleep(10 * VALUE)
        link.hear(ping(7))
        asked = trio.current_time()
        await trio.sleep(20 * VALUE)
    [answered] = [time for time, value in receiver.values if classify(value, b"") is ValueKind.PONG]
    assert answered - asked <= ON_THE_CONTROLLER + 2 * VALUE


async def test_a_peer_that_takes_nothing_holds_up_no_other() -> None:
    async with slow_peer(rate=0) as (stuck, _, _), slow_peer() as (_, _, receiver):
        stuck.outgoing.put(bulk(0))
        for number in range(100):
            receiver.put(bulk(number), b"resource")
        await until(lambda: len(receiver.packets) == 100, seconds=2)


async def test_of_a_shared_channel_that_takes_nothing_all_links_end_at_once() -> None:
    """Not one after the other, while each keeps the rest waiting for `SEND_TIMEOUT`."""
    air = Air()
    passive = BLEConfig(power_mode="aggressive", enable_central=False)
    hub = Node(air, 9, passive, driver=MockBLEDriver(air, address_of(9), shares_notifications=True))
    centrals = [Node(air, index) for index in (1, 2, 3)]
    async with running(hub, *centrals):
        await until(lambda: len(hub.peers) == 3)
        links = list(hub.driver.links)

        async def hang(_value: bytes) -> None:
            await trio.sleep_forever()

        for link in links:
            link.send = hang
        for peer in hub.peers.values():
            peer.outgoing.put(bulk(0))
        began = trio.current_time()
        await until(lambda: not any(link in hub.driver.links for link in links))
        assert trio.current_time() - began < SEND_TIMEOUT + 2
        await until(lambda: len(hub.peers) == 3 and all(peer.links for peer in hub.peers.values()))
