"""Sender and receiver with bad air between them, against a model that is as plain as can be."""

from __future__ import annotations

import dataclasses
from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from rns_ble.protocol.fragmentation import Fragmenter, Reassembler

from .wire import packet_of, parse


class Model:
    """What protocol and bounds say, without a thought of speed. Times are whole seconds."""

    def __init__(self, max_packets: int) -> None:
        self.max_packets = max_packets
        self.begun: dict[int, int] = {}  # total → time of the first fragment, oldest first
        self.payloads: dict[tuple[int, int], bytes] = {}  # (total, sequence) → payload
        self.counts: Counter[str] = Counter()

    def forget(self, total: int, why: str) -> None:
        del self.begun[total]
        self.payloads = {key: payload for key, payload in self.payloads.items() if key[0] != total}
        self.counts[why] += 1

    def expire(self, now: int) -> None:
        for total in [total for total, begun in self.begun.items() if now - begun > 30]:
            self.forget(total, "timed_out")

    def receive(self, value: bytes, now: int) -> bytes | None:
        if len(value) < 5:
            self.counts["malformed"] += 1
            return None
        kind, sequence, total, payload = parse(value)
        if kind not in (1, 2, 3) or sequence >= total:
            self.counts["malformed"] += 1
            return None
        if total == 1:
            self.counts["packets" if payload else "empty"] += 1
            return payload or None
        self.expire(now)
        if sequence == 0:
            if total in self.begun:
                self.forget(total, "abandoned")
            if len(self.begun) == self.max_packets:
                self.forget(next(iter(self.begun)), "evicted")
            self.begun[total] = now
        elif total not in self.begun:
            self.counts["unknown_packet"] += 1
            return None
        elif (total, sequence) in self.payloads:
            if self.payloads[total, sequence] == payload:
                self.counts["duplicates"] += 1
            else:
                self.forget(total, "conflicting")
            return None
        self.payloads[total, sequence] = payload
        if any((total, i) not in self.payloads for i in range(total)):
            return None
        packet = b"".join(self.payloads[total, i] for i in range(total))
        self.forget(total, "packets" if packet else "empty")
        return packet or None


class BadAir(RuleBasedStateMachine):
    """Packets are cut and wait in the air as fragments, which arrive, get lost, double or change places."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.air: list[bytes] = []
        self.seed = 0

    @initialize(max_packets=st.integers(1, 4))
    def power_on(self, max_packets: int) -> None:
        self.reassembler = Reassembler(max_packets=max_packets, max_bytes=2**20)
        self.model = Model(max_packets)

    def arrive(self, value: bytes) -> None:
        assert self.reassembler.receive(value, self.now) == self.model.receive(value, self.now)

    # Few limits and short packets, so that equal totals meet; 700 bytes are more fragments than have a table.
    @rule(value_limit=st.sampled_from([18, 20, 21, 30]), length=st.one_of(st.integers(1, 64), st.just(700)))
    def send(self, value_limit, length):
        self.seed += 1
        self.air += Fragmenter(value_limit).fragment(packet_of(length, self.seed))

    @precondition(lambda self: self.air)
    @rule(length=st.integers(1, 64), data=st.data())
    def send_on_another_link(self, length, data):
        self.seed += 1
        place = 0
        for value in Fragmenter(20).fragment(packet_of(length, self.seed)):
            place = data.draw(st.integers(place, len(self.air)))
            self.air.insert(place, value)
            place += 1

    @precondition(lambda self: self.air)
    @rule(count=st.integers(1, 12))
    def arrive_in_order(self, count):
        for value in self.air[:count]:
            self.arrive(value)
        del self.air[:count]

    @precondition(lambda self: self.air)
    @rule()
    def all_arrive(self):
        self.arrive_in_order(len(self.air))

    @precondition(lambda self: self.air)
    @rule(data=st.data())
    def one_overtakes(self, data):
        self.arrive(self.air.pop(data.draw(st.integers(0, min(20, len(self.air) - 1)))))

    @precondition(lambda self: self.air)
    @rule(data=st.data())
    def one_is_lost(self, data):
        del self.air[data.draw(st.integers(0, min(20, len(self.air) - 1)))]

    @precondition(lambda self: self.air)
    @rule(data=st.data())
    def one_arrives_and_will_again(self, data):
        self.arrive(self.air[data.draw(st.integers(0, min(20, len(self.air) - 1)))])

    @precondition(lambda self: self.air)
    @rule(data=st.data(), kind=st.integers(0, 4), payload=st.sampled_from([b"", b"?", bytes(40)]))
    def one_arrives_changed(self, data, kind, payload):
        value = self.air[data.draw(st.integers(0, min(20, len(self.air) - 1)))]
        self.arrive(bytes([kind]) + value[1:])
        self.arrive(value[:5] + payload)

    @rule(value=st.binary(max_size=8))
    def noise_arrives(self, value):
        self.arrive(value)

    @rule(seconds=st.sampled_from([1, 10, 29, 30, 31]))
    def time_passes(self, seconds):
        self.now += seconds

    @rule()
    def the_books_are_equal(self):
        self.reassembler.expire(self.now)
        self.model.expire(self.now)
        counts = dataclasses.asdict(self.reassembler.statistics)
        assert {name: n for name, n in counts.items() if n} == self.model.counts
        assert self.reassembler.packets_in_progress == len(self.model.begun)

    def teardown(self) -> None:
        if hasattr(self, "model"):
            self.the_books_are_equal()


TestBadAir = BadAir.TestCase
TestBadAir.settings = settings(
    settings.default, max_examples=2 * settings.default.max_examples, stateful_step_count=40
)
