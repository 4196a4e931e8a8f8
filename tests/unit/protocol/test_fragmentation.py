"""The sender's rules."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rns_ble.protocol.fragmentation import Fragmenter, Reassembler

from .wire import CONTINUE, END, START, packet_of, parse, receive_all


def check_every_rule(packet: bytes, value_limit: int) -> None:
    values = Fragmenter(value_limit).fragment(packet)
    fragments = [parse(value) for value in values]
    total = len(fragments)
    full = value_limit - 5

    assert b"".join(f.payload for f in fragments) == packet
    assert [f.sequence for f in fragments] == list(range(total))
    assert {f.total for f in fragments} == {total}
    assert [f.kind for f in fragments] == ([START, *[CONTINUE] * (total - 2), END] if total > 1 else [START])
    assert all(f.payload for f in fragments)
    assert all(len(value) <= value_limit for value in values)
    assert all(len(value) != 16 for value in values)
    # As few fragments as there can be, and as full, except where 16 bytes had to be avoided.
    if len(packet) == 11:
        assert [len(f.payload) for f in fragments] == [6, 5]
    else:
        assert total == -(-len(packet) // full)
        moved = 1 if len(packet) % full == 11 else 0
        assert [len(f.payload) for f in fragments[:-1]] == [full] * (total - 2) + [full - moved] * (total > 1)

    assert receive_all(Reassembler(max_bytes=2**30), values) == [packet]


@pytest.mark.parametrize("value_limit", range(18, 48))
def test_every_short_packet_at_every_small_limit(value_limit):
    for length in range(1, 150):
        check_every_rule(packet_of(length), value_limit)


@pytest.mark.parametrize("around", [9, 10, 11, 12, 13])
def test_no_limit_makes_a_fragment_of_16_bytes(around):
    for value_limit in range(18, 518):
        fragmenter = Fragmenter(value_limit)
        for full_ones in range(4):
            values = fragmenter.fragment(bytes(full_ones * (value_limit - 5) + around))
            assert all(len(value) != 16 for value in values)


@given(value_limit=st.integers(18, 600), length=st.integers(1, 5000))
def test_any_packet_at_any_limit(value_limit, length):
    check_every_rule(packet_of(length), value_limit)


@given(value_limit=st.integers(18, 512), full_ones=st.integers(0, 80), beyond=st.integers(-2, 16))
def test_packets_near_a_whole_number_of_fragments(value_limit, full_ones, beyond):
    check_every_rule(packet_of(max(1, full_ones * (value_limit - 5) + beyond)), value_limit)


def test_65535_fragments_and_not_one_more():
    longest = 65_535 * 15
    check_every_rule(packet_of(longest), 20)
    with pytest.raises(ValueError, match=r"^983026 bytes need more than 65535 fragments of 20 bytes$"):
        Fragmenter(20).fragment(bytes(longest + 1))


def test_the_longest_packet_may_end_in_the_trap():
    check_every_rule(packet_of(65_534 * 15 + 11), 20)


@pytest.mark.parametrize("value_limit", [18, 512])
def test_an_empty_packet_is_refused(value_limit):
    with pytest.raises(ValueError, match=r"^an empty packet has no fragments$"):
        Fragmenter(value_limit).fragment(b"")


@pytest.mark.parametrize("value_limit", [17, 5, 0, -1])
def test_a_limit_that_no_link_has_is_refused(value_limit):
    with pytest.raises(ValueError, match="at least 18 bytes, not"):
        Fragmenter(value_limit)


def test_the_limit_can_be_asked_for():
    assert Fragmenter(244).value_limit == 244


def test_kept_plans_take_bounded_memory_and_stay_right():
    many_lengths = range(1000, 2200)
    long_packets = range(10_000, 20_000, 100)
    tracemalloc.start()
    try:
        before, _peak = tracemalloc.get_traced_memory()
        fragmenter = Fragmenter(60)
        for length in [*many_lengths, *long_packets]:
            fragmenter.fragment(bytes(length))
            kept = tracemalloc.get_traced_memory()[0] - before
            assert kept < 3_000_000
    finally:
        tracemalloc.stop()
    for length in range(1000, 2200, 37):
        check_every_rule(packet_of(length), 60)


@pytest.mark.parametrize("value_limit", [18, 20, 60])
def test_long_packets_come_out_right_whatever_came_before(value_limit):
    one, other = (packet_of(length) for length in (50 * value_limit, 50 * value_limit + 1))
    for packet in (one, one, other, packet_of(500), other, one, packet_of(1100 * value_limit), one):
        check_every_rule(packet, value_limit)
