"""The receiver's rules, one by one. `test_vectors` has what other implementations send, in whole stories."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rns_ble.protocol.fragmentation import FRAGMENT_COST, Fragmenter, Reassembler, ReassemblyStatistics

from .wire import CONTINUE, END, START, fragment, packet_of, receive_all

limits = st.sampled_from([20, 21, 23, 64, 182, 512])
several_fragments = st.tuples(limits, st.integers(2, 60)).map(
    lambda pair: Fragmenter(pair[0]).fragment(packet_of((pair[0] - 5) * (pair[1] - 1) + 3))
)


def counted(reassembler: Reassembler) -> dict[str, int]:
    """Its statistics, without the zeros."""
    return {name: n for name, n in dataclasses.asdict(reassembler.statistics).items() if n}


# --- order, duplicates, loss ---


@given(values=several_fragments, data=st.data())
def test_any_order_after_the_start_will_do(values, data):
    rest = data.draw(st.permutations(values[1:]))
    expected = b"".join(value[5:] for value in values)
    reassembler = Reassembler()
    assert receive_all(reassembler, [values[0], *rest]) == [expected]
    assert counted(reassembler) == {"packets": 1}
    assert (reassembler.packets_in_progress, reassembler.bytes_in_progress) == (0, 0)


@given(values=several_fragments, data=st.data())
def test_every_fragment_but_the_start_may_come_twice(values, data):
    # The last of all completes the packet, so that what comes after it finds nothing to join.
    rest = data.draw(st.permutations(values[1:] * 2))
    reassembler = Reassembler()
    expected = b"".join(value[5:] for value in values)
    assert receive_all(reassembler, [values[0], *rest]) == [expected]
    again = reassembler.statistics.duplicates + reassembler.statistics.unknown_packet
    assert again == len(values) - 1


@given(values=several_fragments, data=st.data())
def test_one_lost_fragment_loses_its_packet_and_not_the_next(values, data):
    lost = data.draw(st.integers(0, len(values) - 1))
    reassembler = Reassembler()
    assert receive_all(reassembler, values[:lost] + values[lost + 1 :]) == []
    assert receive_all(reassembler, values) == [b"".join(value[5:] for value in values)]


@given(
    totals=st.lists(st.sampled_from([41, 42, 512, 513]), min_size=1, max_size=3),
    moves=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 70), st.integers(1, 60)), max_size=8),
)
def test_a_long_packet_like_the_one_before_is_treated_like_any_other(totals, moves):
    fresh, knowing = Reassembler(), Reassembler()
    total = totals[0]
    assert receive_all(knowing, [fragment(i, total, bytes([i % 256])) for i in range(total)])
    assert knowing.packets_in_progress == 0
    for which, first, count in [(0, 0, 1), *moves, (0, 0, total)]:
        total = totals[which % len(totals)]
        for i in range(first, min(first + count, total)):
            value = fragment(i, total, bytes([i % 256, count % 256]))
            assert fresh.receive(value, 0.0) == knowing.receive(value, 0.0)
            assert fresh.packets_in_progress == knowing.packets_in_progress
            assert fresh.bytes_in_progress == knowing.bytes_in_progress
    assert dataclasses.replace(knowing.statistics, packets=knowing.statistics.packets - 1) == fresh.statistics


@pytest.mark.parametrize("kinds", [(END, START, CONTINUE), (CONTINUE, CONTINUE, CONTINUE), (END, END, START)])
def test_the_type_does_not_matter(kinds):
    values = [fragment(i, 3, bytes([i]), kind) for i, kind in enumerate(kinds)]
    assert receive_all(Reassembler(), values) == [b"\x00\x01\x02"]


def test_a_duplicate_under_another_type_is_a_duplicate():
    reassembler = Reassembler()
    values = [fragment(0, 3, b"a"), fragment(1, 3, b"b"), fragment(1, 3, b"b", END), fragment(2, 3, b"c")]
    assert receive_all(reassembler, values) == [b"abc"]
    assert counted(reassembler) == {"packets": 1, "duplicates": 1}


@pytest.mark.parametrize("earlier", [[1], [2], [1, 3]])
def test_other_bytes_under_a_known_sequence_end_the_packet(earlier):
    reassembler = Reassembler()
    begun = [fragment(0, 4, b"a"), *[fragment(i, 4, b"b") for i in earlier]]
    assert receive_all(reassembler, [*begun, fragment(earlier[0], 4, b"x")]) == []
    assert counted(reassembler) == {"conflicting": 1}
    assert reassembler.packets_in_progress == 0
    assert receive_all(reassembler, [fragment(i, 4, b"b") for i in range(1, 4)]) == []
    assert reassembler.statistics.unknown_packet == 3


# --- several packets ---


@given(
    totals=st.lists(st.integers(2, 50), min_size=2, max_size=8, unique=True),
    data=st.data(),
)
def test_packets_of_different_totals_may_interleave_at_will(totals, data):
    queues = {total: [fragment(i, total, bytes([total, i])) for i in range(total)] for total in totals}
    turns = data.draw(st.permutations([total for total in totals for _ in range(total)]))
    reassembler = Reassembler(max_packets=len(totals))
    delivered = receive_all(reassembler, [queues[total].pop(0) for total in turns])
    assert sorted(delivered) == sorted(b"".join(bytes([total, i]) for i in range(total)) for total in totals)
    assert counted(reassembler) == {"packets": len(totals)}


def test_a_lone_fragment_touches_nothing_in_progress():
    reassembler = Reassembler()
    values = [fragment(0, 3, b"a"), fragment(0, 1, b"lone"), fragment(1, 3, b"b"), fragment(2, 3, b"c")]
    assert receive_all(reassembler, values) == [b"lone", b"abc"]


@pytest.mark.parametrize("already", [1, 2])
def test_a_start_abandons_the_packet_of_its_total_only(already):
    reassembler = Reassembler()
    old = [fragment(0, 2, b"w"), *[fragment(i, 3, b"o") for i in range(already)]]
    new = [fragment(i, 3, b"n") for i in range(3)]
    assert receive_all(reassembler, [*old, *new, fragment(1, 2, b"w")]) == [b"nnn", b"ww"]
    assert counted(reassembler) == {"packets": 2, "abandoned": 1}


# --- what is not delivered ---


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\x01",
        b"\x01\x00\x00\x00",
        fragment(0, 0, b"total is 0", START),
        fragment(1, 1, b"sequence is total", END),
        fragment(3, 2, b"sequence is above total", END),
        fragment(0, 1, b"type 0", 0),
        fragment(0, 2, b"type 4", 4),
        fragment(1, 2, b"type 255", 255),
    ],
)
def test_malformed_values_are_counted_and_touch_nothing(value):
    reassembler = Reassembler()
    assert reassembler.receive(value, 0.0) is None
    assert reassembler.receive(fragment(0, 2, b"a"), 0.0) is None
    assert reassembler.receive(value, 0.0) is None
    assert reassembler.receive(fragment(1, 2, b"b"), 0.0) == b"ab"
    assert counted(reassembler) == {"packets": 1, "malformed": 2}


@pytest.mark.parametrize("total", [1, 2, 3, 50])
@pytest.mark.parametrize("kind", [None, END])
def test_a_packet_without_a_byte_is_never_delivered(total, kind):
    reassembler = Reassembler()
    assert receive_all(reassembler, [fragment(i, total, b"", kind) for i in range(total)]) == []
    assert counted(reassembler) == {"empty": 1}


def test_some_fragments_may_be_empty():
    values = [fragment(0, 3, b""), fragment(1, 3, b"b"), fragment(2, 3, b"")]
    assert receive_all(Reassembler(), values) == [b"b"]


# --- time ---


@pytest.mark.parametrize("total", [3, 50])  # in order from a table of headers, and without
@pytest.mark.parametrize(
    ("last_at", "delivered"), [(30.0, True), (30.001, False), (29.9, True), (1e9, False)]
)
def test_thirty_seconds_from_the_first_fragment(total, last_at, delivered):
    reassembler = Reassembler()
    values = [fragment(i, total, b"x") for i in range(total)]
    for value in values[:-1]:
        assert reassembler.receive(value, 0.0) is None
    assert reassembler.receive(values[-1], last_at) == (b"x" * total if delivered else None)
    expected = {"packets": 1} if delivered else {"timed_out": 1, "unknown_packet": 1}
    assert counted(reassembler) == expected


def test_later_fragments_buy_no_time():
    reassembler = Reassembler()
    assert reassembler.receive(fragment(0, 4, b"x"), 0.0) is None
    assert reassembler.receive(fragment(1, 4, b"x"), 20.0) is None
    assert reassembler.receive(fragment(2, 4, b"x"), 30.0) is None
    assert reassembler.receive(fragment(3, 4, b"x"), 31.0) is None
    assert counted(reassembler) == {"timed_out": 1, "unknown_packet": 1}


def test_nothing_is_over_time_at_exactly_thirty_seconds():
    reassembler = Reassembler()
    reassembler.receive(fragment(0, 2, b"x"), 0.0)
    reassembler.expire(30.0)
    assert reassembler.packets_in_progress == 1
    reassembler.expire(30.1)
    assert reassembler.packets_in_progress == 0


def test_expire_drops_what_is_over_time_and_nothing_else():
    reassembler = Reassembler()
    for at, total in enumerate([2, 3, 4]):
        reassembler.receive(fragment(0, total, b"x"), float(at))
    reassembler.expire(30.0)
    assert reassembler.packets_in_progress == 3
    reassembler.expire(31.5)
    assert reassembler.packets_in_progress == 1
    reassembler.expire(32.5)
    assert (reassembler.packets_in_progress, reassembler.bytes_in_progress) == (0, 0)
    assert counted(reassembler) == {"timed_out": 3}


# --- bounds ---


def test_the_oldest_packet_makes_room_for_a_new_one():
    reassembler = Reassembler(max_packets=2)
    for total in (2, 3, 4):
        reassembler.receive(fragment(0, total, b"x"), 0.0)
    assert reassembler.packets_in_progress == 2
    assert receive_all(reassembler, [fragment(1, 2, b"x")]) == []
    assert receive_all(reassembler, [fragment(1, 3, b"x"), fragment(2, 3, b"x")]) == [b"xxx"]
    assert receive_all(reassembler, [fragment(i, 4, b"x") for i in range(1, 4)]) == [b"xxxx"]
    assert counted(reassembler) == {"packets": 2, "evicted": 1, "unknown_packet": 1}


def test_bytes_are_set_aside_for_what_a_start_announces():
    reassembler = Reassembler()
    reassembler.receive(fragment(0, 10, bytes(15)), 0.0)
    assert reassembler.bytes_in_progress == 10 * (20 + FRAGMENT_COST)
    reassembler.receive(fragment(0, 50, bytes(7)), 0.0)
    assert reassembler.bytes_in_progress == 10 * (20 + FRAGMENT_COST) + 50 * (12 + FRAGMENT_COST)


@pytest.mark.parametrize("total", [10, 65_535])
def test_a_start_that_announces_more_than_there_is_is_dropped(total):
    reassembler = Reassembler(max_bytes=10 * (20 + FRAGMENT_COST) - 1)
    reassembler.receive(fragment(0, 2, b"x"), 0.0)
    reassembler.receive(fragment(0, total, bytes(15)), 0.0)
    assert reassembler.packets_in_progress == 1
    assert receive_all(reassembler, [fragment(1, total, bytes(15)), fragment(1, 2, b"x")]) == [b"xx"]
    assert counted(reassembler) == {"packets": 1, "over_limit": 1, "unknown_packet": 1}


@pytest.mark.parametrize("total", [2, 40, 41, 65_535])
def test_that_holds_for_the_first_packet_of_all(total):
    needed = total * (20 + FRAGMENT_COST)
    for max_bytes, in_progress in [(needed - 1, 0), (needed, 1)]:
        reassembler = Reassembler(max_bytes=max_bytes)
        reassembler.receive(fragment(0, total, bytes(15)), 0.0)
        assert reassembler.packets_in_progress == in_progress
        assert reassembler.statistics.over_limit == 1 - in_progress


def test_a_refused_start_still_abandons_the_packet_before_it():
    reassembler = Reassembler(max_bytes=2 * (20 + FRAGMENT_COST))
    values = [fragment(0, 2, b"old"), fragment(0, 2, bytes(16)), fragment(1, 2, b"new")]
    assert receive_all(reassembler, values) == []
    assert counted(reassembler) == {"abandoned": 1, "over_limit": 1, "unknown_packet": 1}


def test_bytes_evict_the_oldest_too():
    reassembler = Reassembler(max_bytes=10 * (20 + FRAGMENT_COST))
    for total in (4, 5, 6):
        reassembler.receive(fragment(0, total, bytes(15)), 0.0)
    assert reassembler.bytes_in_progress == 6 * (20 + FRAGMENT_COST)
    assert counted(reassembler) == {"evicted": 2}


@pytest.mark.parametrize("order", [(3, 4, 2), (4, 3, 2)])
def test_a_fragment_longer_than_the_first_is_taken_while_it_finds_room(order):
    reassembler = Reassembler(max_bytes=9 * (6 + FRAGMENT_COST))
    assert receive_all(reassembler, [fragment(0, total, b"x") for total in order]) == []
    # It finds as much as 3 * (6 + FRAGMENT_COST), at the cost of the oldest packet that is not its own.
    assert receive_all(reassembler, [fragment(1, 4, bytes(700))]) == []
    assert reassembler.bytes_in_progress == 6 * (6 + FRAGMENT_COST) + 699
    assert counted(reassembler) == {"evicted": 1}
    assert receive_all(reassembler, [fragment(1, 2, b"y")]) == [b"xy"]
    assert receive_all(reassembler, [fragment(2, 4, b"y"), fragment(3, 4, b"z")]) == [
        b"x" + bytes(700) + b"yz"
    ]
    assert reassembler.bytes_in_progress == 0


def test_every_byte_beyond_the_first_fragment_counts_and_the_last_one_fits_exactly():
    most = 3 * (6 + FRAGMENT_COST) + 2
    reassembler = Reassembler(max_bytes=most)
    assert receive_all(reassembler, [fragment(0, 3, b"x"), fragment(1, 3, b"yy")]) == []
    assert reassembler.bytes_in_progress == most - 1
    assert receive_all(reassembler, [fragment(2, 3, b"zz")]) == [b"xyyzz"]
    assert receive_all(reassembler, [fragment(0, 3, b"x"), fragment(1, 3, b"yyyy")]) == []
    assert counted(reassembler) == {"packets": 1, "over_limit": 1}


def test_a_longer_fragment_of_one_packet_takes_no_other_packets_place():
    reassembler = Reassembler(max_packets=2)
    begun = [fragment(0, 2, b"x"), fragment(0, 3, b"x"), fragment(1, 3, b"longer")]
    assert receive_all(reassembler, begun) == []
    assert receive_all(reassembler, [fragment(1, 2, b"y"), fragment(2, 3, b"y")]) == [b"xy", b"xlongery"]


def test_a_packet_that_outgrows_the_bound_is_dropped():
    reassembler = Reassembler(max_bytes=4 * (6 + FRAGMENT_COST))
    values = [fragment(0, 3, b"x"), fragment(1, 3, bytes(400)), fragment(2, 3, b"y")]
    assert receive_all(reassembler, values) == []
    assert counted(reassembler) == {"over_limit": 1, "unknown_packet": 1}
    assert reassembler.bytes_in_progress == 0


@pytest.mark.parametrize("bounds", [{"max_packets": 0}, {"max_bytes": 0}, {"max_packets": -1}])
def test_bounds_that_allow_nothing_are_refused(bounds):
    with pytest.raises(ValueError, match="at least 1"):
        Reassembler(**bounds)


@pytest.mark.parametrize("value_limit", [20, 23, 182, 244, 512])
def test_the_default_bounds_take_far_more_than_reticulum_sends(value_limit):
    reassembler = Reassembler()
    packet = packet_of(8192)
    assert receive_all(reassembler, Fragmenter(value_limit).fragment(packet)) == [packet]


def test_by_default_eight_of_the_longest_packets_of_microreticulum_may_be_in_progress():
    reassembler = Reassembler()
    first, *totals = range(25, 33 + 1)
    for total in (first, *totals):
        assert receive_all(reassembler, [fragment(i, total, bytes(507)) for i in range(total - 1)]) == []
    assert reassembler.packets_in_progress == 8
    assert counted(reassembler) == {"evicted": 1}
    for total in totals:
        assert receive_all(reassembler, [fragment(total - 1, total, b"!")]) == [
            bytes(507 * (total - 1)) + b"!"
        ]


# --- statistics ---


def test_statistics_are_a_snapshot():
    reassembler = Reassembler()
    before = reassembler.statistics
    reassembler.receive(b"", 0.0)
    assert before == ReassemblyStatistics()
    assert reassembler.statistics == ReassemblyStatistics(malformed=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.malformed = 5


def test_incomplete_counts_packets_and_no_fragments():
    every_count = {field.name: 10**i for i, field in enumerate(dataclasses.fields(ReassemblyStatistics))}
    statistics = ReassemblyStatistics(**every_count)
    lost = {"conflicting", "abandoned", "timed_out", "evicted", "over_limit"}
    assert statistics.incomplete == sum(n for name, n in every_count.items() if name in lost)
