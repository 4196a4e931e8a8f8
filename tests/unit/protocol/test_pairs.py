"""Packets in two halves, on links where values overtake each other or get lost."""

from __future__ import annotations

import random
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rns_ble.protocol.fragmentation import REASSEMBLY_TIMEOUT, Fragmenter, Reassembler
from rns_ble.protocol.pairs import OVERTAKING_TIME, WHOLE, Cuts, PairFragmenter, PairReassembler

from .wire import fragment

LIMIT = 510
LONGEST = [506, 508, 513, 516, 521, 532, 564]
"""Bytes of the longest packet with access codes from 6 to 64 bytes."""

longest = st.sampled_from(LONGEST)
seeds = st.integers(0, 2**32)


def packets_for(cuts: Cuts, number: int, source: random.Random) -> list[bytes]:
    lengths = range(WHOLE + 1, cuts.longest + 1)
    return [n.to_bytes(4, "big") + source.randbytes(source.choice(lengths) - 4) for n in range(number)]


def values_of(cuts: Cuts, packets: list[bytes]) -> list[bytes]:
    fragmenter = PairFragmenter(cuts)
    return [value for packet in packets for value in fragmenter.fragment(packet, LIMIT)]


def receiver(cuts: Cuts) -> PairReassembler:
    return PairReassembler(cuts, Reassembler())


def received(reassembler: PairReassembler, values: list[bytes], now: float = 0.0) -> list[bytes]:
    return [packet for value in values if (packet := reassembler.receive(value, now)) is not None]


def shuffled(values: list[bytes], source: random.Random, reach: int) -> list[bytes]:
    """In an order in which no value is more than `reach` places from its own."""
    places = count()
    return sorted(values, key=lambda _: next(places) + source.uniform(0, reach))


# --- the cuts ---


@pytest.mark.parametrize("length", LONGEST)
def test_each_half_tells_its_cut_for_every_packet_and_every_cut(length: int) -> None:
    cuts = Cuts(length)
    assert len(cuts.places) >= 8
    for cut in cuts.places:
        for size in range(WHOLE + 1, length + 1):
            assert cuts.of_first(cut) == cut
            assert cuts.of_second(size - cut) == cut


@pytest.mark.parametrize("length", LONGEST)
def test_no_half_is_too_long_nor_as_long_as_an_identity(length: int) -> None:
    cuts = Cuts(length)
    for cut in cuts.places:
        for size in range(WHOLE + 1, length + 1):
            for half in (cut, size - cut):
                assert 5 + half <= LIMIT
                assert 5 + half > 16


@pytest.mark.parametrize(
    ("longest", "places"),
    [
        (506, range(12, 140)),  # without a limit it would be 483 cuts
        (508, range(12, 396, 3)),
        (516, range(12, 486, 11)),  # the usual access code
        (564, range(59, 473, 59)),
        (999, range(494, 495)),
        (1000, range(0)),  # its second half could have 11 bytes
    ],
)
def test_the_cuts_are_part_of_the_protocol(longest: int, places: range) -> None:
    assert list(Cuts(longest).places) == list(places)


@pytest.mark.parametrize("length", [0, 500, WHOLE])
def test_packets_that_always_fit_one_value_are_not_cut(length: int) -> None:
    cuts = Cuts(length)
    assert not cuts.places
    assert cuts.of_second(100) is None
    assert PairFragmenter(cuts).fragment(bytes(length or 1), LIMIT) is None


def test_what_is_no_such_packet_is_for_the_ordinary_fragmenter() -> None:
    fragmenter = PairFragmenter(Cuts(516))
    for size, limit in ((505, 510), (507, 512), (516, 509), (516, 182), (517, 510), (1, 510)):
        assert fragmenter.fragment(bytes(size), limit) is None
    assert fragmenter.fragment(bytes(506), 510) is not None
    assert fragmenter.fragment(bytes(508), 512) is not None


@pytest.mark.parametrize("length", [900, 999])
def test_where_there_is_room_for_one_cut_it_serves_one_packet_after_the_other(length: int) -> None:
    cuts = Cuts(length)
    assert len(cuts.places) == 1
    packets = packets_for(cuts, 5, random.Random(length))
    assert received(receiver(cuts), values_of(cuts, packets)) == packets


# --- any receiver ---


@given(longest, seeds)
def test_an_ordinary_reassembler_joins_them_when_they_come_in_order(length: int, seed: int) -> None:
    cuts = Cuts(length)
    packets = packets_for(cuts, 2 * len(cuts.places), random.Random(seed))
    ordinary = Reassembler()
    joined = [ordinary.receive(value, 0.0) for value in values_of(cuts, packets)]
    assert joined[1::2] == packets
    assert set(joined[::2]) == {None}


@given(st.lists(st.integers(1, 516), min_size=1, max_size=20), seeds)
def test_what_an_ordinary_sender_sends_at_the_same_limits_is_joined(sizes: list[int], seed: int) -> None:
    source = random.Random(seed)
    packets = [source.randbytes(size) for size in sizes]
    for limit in (510, 512):
        values = [value for packet in packets for value in Fragmenter(limit).fragment(packet)]
        assert received(receiver(Cuts(516)), values) == packets


# --- overtaking and loss ---


@given(longest, seeds)
def test_in_order_means_in_order(length: int, seed: int) -> None:
    cuts = Cuts(length)
    packets = packets_for(cuts, 3 * len(cuts.places), random.Random(seed))
    assert received(receiver(cuts), values_of(cuts, packets)) == packets


@given(longest, seeds)
def test_every_packet_arrives_intact_when_values_overtake_as_many_as_there_are_cuts(
    length: int, seed: int
) -> None:
    source = random.Random(seed)
    cuts = Cuts(length)
    packets = packets_for(cuts, 5 * len(cuts.places), source)
    # A packet is two values, and its halves are one apart.
    values = shuffled(values_of(cuts, packets), source, 2 * len(cuts.places) - 2)
    assert sorted(received(receiver(cuts), values)) == packets


@given(longest, seeds, st.floats(0.01, 0.5))
def test_of_packets_that_lose_no_half_all_arrive_and_none_is_made_up(
    length: int, seed: int, loss: float
) -> None:
    """Up to the number of cuts on their way at once, and nothing later under the same names."""
    source = random.Random(seed)
    cuts = Cuts(length)
    packets = packets_for(cuts, len(cuts.places), source)
    values = values_of(cuts, packets)
    lost = {value for value in values if source.random() < loss}
    arriving = shuffled([value for value in values if value not in lost], source, len(values))
    whole = [
        packet for packet, a, b in zip(packets, values[::2], values[1::2], strict=True) if not {a, b} & lost
    ]
    assert sorted(received(receiver(cuts), arriving)) == whole


def test_a_half_whose_other_half_was_lost_gives_way_to_the_next_of_its_cut() -> None:
    cuts = Cuts(516)
    packets = packets_for(cuts, len(cuts.places) + 1, random.Random(0))
    values = values_of(cuts, packets)
    reassembler = receiver(cuts)
    assert received(reassembler, [values[0], *values[2:]]) == packets[1:]
    assert reassembler.incomplete == 1


def test_every_half_that_is_left_alone_counts_once() -> None:
    cuts = Cuts(516)
    starts = values_of(cuts, packets_for(cuts, 2 * len(cuts.places), random.Random(0)))[::2]
    reassembler = receiver(cuts)
    assert received(reassembler, starts + starts[-1:]) == []  # the last one twice, unchanged
    assert reassembler.incomplete == len(cuts.places)
    reassembler.expire(REASSEMBLY_TIMEOUT)
    assert reassembler.incomplete == len(cuts.places)
    reassembler.expire(REASSEMBLY_TIMEOUT + 0.1)
    assert reassembler.incomplete == 2 * len(cuts.places)


def test_a_start_waits_thirty_seconds_for_its_end() -> None:
    cuts = Cuts(516)
    packet = bytes(range(256)) * 2
    start, end = values_of(cuts, [packet])
    reassembler = receiver(cuts)
    assert reassembler.receive(start, 10.0) is None
    assert reassembler.receive(end, 40.0) == packet
    assert reassembler.receive(start, 50.0) is None
    assert reassembler.receive(end, 80.1) is None


def test_an_end_waits_a_quarter_of_a_second_for_its_start() -> None:
    cuts = Cuts(516)
    packet = bytes(range(256)) * 2
    start, end = values_of(cuts, [packet])
    reassembler = receiver(cuts)
    assert reassembler.receive(end, 10.0) is None
    assert reassembler.receive(start, 10.0 + OVERTAKING_TIME) == packet
    assert reassembler.receive(end, 20.0) is None
    assert reassembler.receive(start, 20.1 + OVERTAKING_TIME) is None
    assert reassembler.incomplete == 1
    reassembler.expire(20.2 + OVERTAKING_TIME + REASSEMBLY_TIMEOUT)
    assert reassembler.incomplete == 2


# --- anything else ---


@pytest.mark.parametrize(
    "header", ["00 0001 0002", "04 0001 0002", "ff 0001 0002", "03 0002 0002", "03 0003 0002"]
)
def test_what_is_malformed_is_no_half_whatever_its_length(header: str) -> None:
    cuts = Cuts(516)
    ordinary = Reassembler()
    reassembler = PairReassembler(cuts, ordinary)
    packet = bytes(range(256)) * 2
    start, end = values_of(cuts, [packet])
    assert received(reassembler, [start, bytes.fromhex(header) + end[5:]]) == []
    assert ordinary.statistics.malformed == 1
    assert received(reassembler, [end]) == [packet]


def test_a_fragment_without_payload_is_an_ordinary_one_in_its_time() -> None:
    reassembler = receiver(Cuts(516))
    values = [fragment(0, 3, b"a"), fragment(1, 3), fragment(2, 3, b"b")]
    assert received(reassembler, values) == [b"ab"]
    assert received(reassembler, values[:1], now=10.0) == []
    assert received(reassembler, values[1:], now=40.1) == []


@given(st.lists(st.binary(max_size=20) | st.binary(min_size=6, max_size=520), max_size=50))
def test_nothing_that_comes_raises_or_is_kept_without_bound(values: list[bytes]) -> None:
    reassembler = receiver(Cuts(516))
    received(reassembler, values)
    assert len(reassembler._waiting) <= 128


@given(st.integers(0, 65_535), st.integers(0, 65_535), st.integers(0, 255), st.binary(max_size=512))
def test_headers_of_all_kinds(sequence: int, total: int, kind: int, payload: bytes) -> None:
    reassembler = receiver(Cuts(516))
    value = bytes([kind]) + sequence.to_bytes(2, "big") + total.to_bytes(2, "big") + payload
    packet = reassembler.receive(value, 0.0)
    if packet is not None:
        assert (sequence, total, packet) == (0, 1, payload)
