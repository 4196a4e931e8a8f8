"""Nothing has become several times as slow: what we do, beside the least that it could be, in one process.

Compared is processor time, of short rounds that take turns, and of each side its shortest one: whatever else
the machine does makes rounds longer and none shorter. The bounds are twice what was measured and more. A plan
that is made anew for each packet is beyond them, and so is a general way taken where there is a short one.
`benchmarks` has figures.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import trio
import trio.testing

from rns_ble.drivers.base import BLELink, Role
from rns_ble.peer import Peer
from rns_ble.protocol.fragmentation import HEADER_LENGTH, Fragmenter, Reassembler
from rns_ble.protocol.gatt import ATT_MTU_REQUESTED
from rns_ble.protocol.pairs import Cuts
from rns_ble.session import Carrier

ROUNDS = 30
PACKET = bytes(500)
SEVERAL_VALUES = (20, 182, 244)
"""Value limits, in bytes."""
ONE_VALUE = 512


def shortest(*runs: Callable[[], object]) -> list[float]:
    """Seconds of processor time of each run's shortest round."""
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(ROUNDS):
        for run, taken in zip(runs, times, strict=True):
            began = time.process_time()
            run()
            taken.append(time.process_time() - began)
    return [min(taken) for taken in times]


def repeated(step: Callable[[], object]) -> Callable[[], None]:
    """Some hundred times, so that a round is far longer than the clock's resolution."""

    def run() -> None:
        for _ in range(200):
            step()

    return run


@pytest.mark.parametrize("value_limit", [*SEVERAL_VALUES, ONE_VALUE])
def test_fragmenting_is_about_as_fast_as_slicing(value_limit):
    fragment = Fragmenter(value_limit).fragment
    header, size = bytes(HEADER_LENGTH), value_limit - HEADER_LENGTH

    def floor() -> list[bytes]:
        if len(PACKET) <= size:
            return [header + PACKET]
        return [header + PACKET[start : start + size] for start in range(0, len(PACKET), size)]

    ours, least = shortest(repeated(lambda: fragment(PACKET)), repeated(floor))
    assert ours < 2 * least


@pytest.mark.parametrize("value_limit", [*SEVERAL_VALUES, ONE_VALUE])
def test_values_in_order_are_joined_in_some_times_what_slicing_takes(value_limit):
    values = Fragmenter(value_limit).fragment(PACKET)
    receive = Reassembler().receive

    def reassemble() -> None:
        for value in values:
            packet = receive(value, 0.0)
        assert packet == PACKET

    def floor() -> bytes:
        return b"".join([value[HEADER_LENGTH:] for value in values])

    ours, least = shortest(repeated(reassemble), repeated(floor))
    assert ours < 8 * least


@pytest.mark.parametrize("value_limit", SEVERAL_VALUES)
def test_disorder_costs_some_times_what_order_does(value_limit):
    values = Fragmenter(value_limit).fragment(PACKET)
    twice = values[:1] + [value for value in reversed(values[1:]) for _ in range(2)]

    def run_of(arrivals: list[bytes]) -> Callable[[], None]:
        receive = Reassembler().receive

        def reassemble() -> None:
            assert [packet for value in arrivals if (packet := receive(value, 0.0))] == [PACKET]

        return repeated(reassemble)

    disorder, order = shortest(run_of(twice), run_of(values))
    assert disorder < 15 * order


# --- a peer's queue and sender ---


class Link(BLELink):
    """What it takes is gone; like any stack's, its `send` has a checkpoint."""

    address = "02:00:00:00:00:02"
    role = Role.PERIPHERAL
    att_mtu = ATT_MTU_REQUESTED
    taken = 0

    async def send(self, value: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.taken += 1

    async def receive(self) -> bytes:
        return await trio.sleep_forever()

    async def aclose(self) -> None:
        await trio.lowlevel.cancel_shielded_checkpoint()


class Nobody:
    """Is told what happens to the peer."""

    def link_ended(self, peer, session) -> None: ...

    def peer_ended(self, peer) -> None: ...


def test_a_packets_way_through_its_peer_costs_some_times_what_trio_takes_for_a_value_with_a_deadline():
    packets = 100
    times: dict[str, list[float]] = {"peer": [], "trio": []}

    async def through(peer: Peer, link: Link) -> None:
        for _ in range(packets):
            peer.outgoing.put(PACKET, b"flow")
        await trio.testing.wait_all_tasks_blocked()
        assert link.taken == packets

    async def bare(link: Link) -> None:
        for _ in range(packets):
            with trio.move_on_after(30):
                await link.send(PACKET)

    async def main() -> None:
        cuts = Cuts(len(PACKET))
        link = Link()
        peer = Peer(b"\xbb" * 16, b"\xaa" * 16, Nobody(), packets, cuts)
        peer.join(link, Carrier(cuts))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.run)
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(ROUNDS):
                link.taken = 0
                began = time.process_time()
                await through(peer, link)
                times["peer"].append(time.process_time() - began)
                began = time.process_time()
                await bare(Link())
                times["trio"].append(time.process_time() - began)
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert min(times["peer"]) < 4 * min(times["trio"])
