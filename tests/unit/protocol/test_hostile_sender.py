"""A peer that means ill can't raise anything, take more memory than it is allowed, or deafen us."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rns_ble.protocol.fragmentation import Reassembler

from .wire import fragment, receive_all

MAX_PACKETS = 8
MAX_BYTES = 64 * 1024

values = st.one_of(
    st.binary(max_size=24),
    # Well formed more often than not, with totals and sequences that meet.
    st.builds(
        fragment,
        sequence=st.one_of(st.just(0), st.integers(0, 5)),
        total=st.one_of(st.integers(0, 6), st.just(65_535)),
        payload=st.one_of(st.binary(max_size=3), st.just(bytes(600))),
        kind=st.one_of(st.none(), st.integers(0, 4)),
    ),
)


@given(
    story=st.lists(st.tuples(values, st.sampled_from([0, 0, 0, 1, 31])), max_size=60),
    max_packets=st.integers(1, 4),
    max_bytes=st.one_of(st.integers(1, 1000), st.integers(1000, 6000)),
)
def test_whatever_comes_nothing_raises_and_the_bounds_hold(story, max_packets, max_bytes):
    reassembler = Reassembler(max_packets=max_packets, max_bytes=max_bytes)
    now = 0
    received = delivered = 0
    for value, pause in story:
        now += pause
        received += len(value)
        packet = reassembler.receive(value, now)
        if packet is not None:
            assert packet
            delivered += len(packet)
        assert delivered <= received
        assert 0 <= reassembler.packets_in_progress <= max_packets
        assert 0 <= reassembler.bytes_in_progress <= max_bytes
        assert (reassembler.packets_in_progress == 0) == (reassembler.bytes_in_progress == 0)


def starts_of_every_total() -> Iterator[bytes]:
    for total in range(2, 65_536, 13):
        yield fragment(0, total)


def the_smallest_packets_all_at_once() -> Iterator[bytes]:
    for _ in range(20):
        for total in range(2, 10):
            yield fragment(0, total)
            yield fragment(total - 1, total) if total > 2 else fragment(0, 2)


def header_only_fragments_in_order() -> Iterator[bytes]:
    for total in range(2, 250, 5):
        for sequence in range(total - 1):
            yield fragment(sequence, total)


def one_byte_fragments_backwards() -> Iterator[bytes]:
    for total in range(2, 250, 5):
        yield fragment(0, total, b"x")
        for sequence in range(total - 1, 1, -1):
            yield fragment(sequence, total, b"x")


def a_short_start_then_long_fragments() -> Iterator[bytes]:
    for total in range(20, 60, 3):
        yield fragment(0, total)
        for sequence in range(1, total - 1):
            yield fragment(sequence, total, bytes(600))


def long_fragments_of_several_totals_in_turn() -> Iterator[bytes]:
    for sequence in range(9):
        for total in range(10, 20):
            yield fragment(sequence, total, bytes(507))


def complete_packets() -> Iterator[bytes]:
    for total in (2, 40, 41, 100, 512, 513):
        for sequence in range(total):
            yield fragment(sequence, total, bytes(507 if total < 100 else 100))


SENDERS = [
    starts_of_every_total,
    the_smallest_packets_all_at_once,
    header_only_fragments_in_order,
    one_byte_fragments_backwards,
    a_short_start_then_long_fragments,
    long_fragments_of_several_totals_in_turn,
    complete_packets,
]


@pytest.mark.parametrize("sender", SENDERS)
def test_memory_really_held_is_never_more_than_is_set_aside(sender: Callable[[], Iterator[bytes]]):
    reassembler = Reassembler(max_packets=MAX_PACKETS, max_bytes=MAX_BYTES)
    hostile = sender()
    value = next(hostile)
    # The counters, and what the interpreter keeps for a running generator: both are there once. So are the
    # headers of the last long packet that was delivered, of 512 fragments at most.
    once = 2048 + 512 * 60
    most = 0
    tracemalloc.start()
    try:
        empty, _peak = tracemalloc.get_traced_memory()
        reassembler.receive(value, 0.0)
        for value in hostile:
            reassembler.receive(value, 0.0)
            held = tracemalloc.get_traced_memory()[0] - empty
            set_aside = reassembler.bytes_in_progress
            assert set_aside <= MAX_BYTES
            assert held <= set_aside + once
            most = max(most, held)
    finally:
        tracemalloc.stop()
    assert most <= MAX_BYTES + once


@pytest.mark.parametrize("sender", SENDERS)
def test_the_next_good_packet_is_heard_at_once(sender):
    reassembler = Reassembler(max_packets=MAX_PACKETS, max_bytes=MAX_BYTES)
    receive_all(reassembler, list(sender()))
    for total in (2, 5, 34, 60):
        good = [fragment(sequence, total, b"good") for sequence in range(total)]
        assert receive_all(reassembler, good) == [b"good" * total]
