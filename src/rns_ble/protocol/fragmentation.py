"""Packets into values and back: the fragment codec of BLE Reticulum v2.2.

A fragment is `type` (u8), `sequence` (u16) and `total` (u16), big-endian, then a slice of the packet. The
types are START, CONTINUE and END.

The sender keeps these rules:

1. Every fragment has the 5-byte header, also when it is its packet's only one, and carries at least one
   byte of the packet.
2. The first fragment is START, the last of several END, those between CONTINUE. They go out in order,
   each as long as the value limit allows, the last as long as is left.
3. No fragment is 16 bytes long in all, because several implementations take any such value for the
   identity of a handshake. Only the last fragment can come out at 16. It then gets one byte more from
   the fragment before it, which is full, that is at least 18 bytes long, and so does not become 16
   itself. A lone one (a packet of 11 bytes) is split 6 + 5.

The receiver keeps these. `total` is all that tells one packet on the air from another:

4. Nothing that a peer sends raises. What is not delivered is counted.
5. The type is only looked at for being one of the three; `sequence` and `total` say the rest.
6. A fragment with `total` 1 is a whole packet, and touches no other.
7. At most one packet of each total is in progress. Sequence 0 begins it, and abandons the one before it,
   whose tail was lost. Any other sequence joins it, in any order, or is dropped when there is none.
   The same fragment again is ignored; another one under the same sequence ends the packet.
8. The packet begun last is *the run* for as long as its fragments come in order: a list of payloads, and
   the header that must come next. So is one of more fragments than Reticulum's packets have when the last
   such packet that was delivered had as many. All other packets in progress are dicts from sequence to
   payload, in the order of their beginnings. A run becomes one of them when anything else happens, and
   never comes back.
9. More than `REASSEMBLY_TIMEOUT` after its first fragment, on the caller's clock, a packet is dropped.
10. Memory is set aside when a packet begins: for `total` fragments as long as the first, each with
    `FRAGMENT_COST`. A longer fragment sets its excess aside when it comes. The sum is never above
    `max_bytes`, and what the packets really hold never above the sum.
11. A packet that needs more than `max_bytes` for itself alone is refused. Any other finds room, because
    the oldest ones are evicted for it: so a peer that lost tails, or sent STARTs that lead nowhere, is
    heard again with its next packet and not 30 s later.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from struct import Struct
from typing import Final, Literal

HEADER_LENGTH: Final = 5
"""Bytes of a fragment before its payload."""

VALUE_LIMIT_MINIMUM: Final = 18
"""Bytes; the longest value at the smallest ATT_MTU, 23, is 20 (Core Specification, Vol 3 Part F, 3.4.7.1), of
which BlueZ as a peripheral loses two."""

FRAGMENTS_MAXIMUM: Final = 0xFFFF
"""`total` is a u16."""

REASSEMBLY_TIMEOUT: Final = 30.0
"""Seconds from a packet's first fragment, whatever came since (as in ble-reticulum and microReticulum)."""

FRAGMENT_COST: Final = 256
"""Bytes that a fragment in progress takes besides its own: the bytes object, its entry in a dict that has
just grown, its part of the packet's own objects. CPython 3.11 to 3.13 take under 100 for each of many
fragments, and over 200 for each where a packet has two."""

MAX_PACKETS: Final = 8
"""Packets in progress per link. A sender never interleaves, so a link has one; the others have lost
their tail, and the first of them to be evicted is the one least likely to be completed."""

MAX_BYTES: Final = 256 * 1024
"""Bytes set aside per link: enough for `MAX_PACKETS` times 32 fragments of 512 bytes, the longest packet
that microReticulum takes. Reticulum's own packets have at most 500 bytes."""

_START: Final = 1
_CONTINUE: Final = 2
_END: Final = 3

_PAYLOAD_OF_16: Final = 16 - HEADER_LENGTH
"""Bytes of payload that make a fragment 16 bytes long (rule 3)."""

_TABLED_TOTAL: Final = 40
"""Fragments of the longest packet with ready headers and plans: Reticulum's 500 bytes make 34 at the
smallest value limit. Longer ones are rare, and a peer could make us build large tables for them."""

_KEPT_TOTAL: Final = 512
"""Fragments of the longest packet that leaves something behind for the next one like it: on each link the
headers of the last one, 30 KiB at most, and for each value limit its plan."""

_PLANS: Final = 512
"""Plans kept for each value limit: one for every length of Reticulum's packets. At most 3 MB."""

_HEADER: Final = Struct(">BHH")


def _headers(total: int) -> tuple[bytes, ...]:
    """The headers of a packet of `total` fragments, in order; `total` is at least 2."""
    pack = _HEADER.pack
    middle = [pack(_CONTINUE, sequence, total) for sequence in range(1, total - 1)]
    return (pack(_START, 0, total), *middle, pack(_END, total - 1, total))


_LONE: Final = _HEADER.pack(_START, 0, 1)
_TABLE: Final = {total: _headers(total) for total in range(2, _TABLED_TOTAL + 1)}
_RUNS: Final[dict[bytes, tuple[bytes | None, ...]]] = {table[0]: (*table, None) for table in _TABLE.values()}
"""From a START to all headers of its packet; None: it is complete."""


_Plan = tuple[tuple[bytes, slice], ...]
"""Header, and slice of the packet, of each fragment."""


class _Plans(dict[int, _Plan]):
    """For one value limit: from the length of a packet that does not fit a lone fragment to its plan."""

    def __init__(self, value_limit: int) -> None:
        super().__init__()
        self.value_limit = value_limit
        self._last_long: tuple[int, _Plan] = (-1, ())

    def __missing__(self, length: int) -> _Plan:
        last, plan = self._last_long
        if length == last:
            return plan
        if length == 0:
            raise ValueError("an empty packet has no fragments")
        payload = self.value_limit - HEADER_LENGTH
        if length > payload * FRAGMENTS_MAXIMUM:
            raise ValueError(
                f"{length} bytes need more than {FRAGMENTS_MAXIMUM} fragments of {self.value_limit} bytes"
            )
        bounds = [*range(0, length, payload), length]
        if bounds[-1] - bounds[-2] == _PAYLOAD_OF_16:
            if len(bounds) == 2:
                bounds.insert(1, 6)
            else:
                bounds[-2] -= 1
        total = len(bounds) - 1
        headers = _TABLE.get(total) or _headers(total)
        plan = tuple(zip(headers, map(slice, bounds[:-1], bounds[1:]), strict=True))
        if total <= _TABLED_TOTAL:
            if len(self) >= _PLANS:
                self.clear()
            self[length] = plan
        elif total <= _KEPT_TOTAL:
            self._last_long = length, plan
        return plan


_plans = lru_cache(maxsize=8)(_Plans)  # Fragmenters of one value limit share; 8: a little over one per link


class Fragmenter:
    """Cuts packets for values of at most `value_limit` bytes. Keeps nothing from one packet to the next."""

    def __init__(self, value_limit: int) -> None:
        """Raises `ValueError` for a `value_limit` below the 18 bytes that every link carries."""
        if value_limit < VALUE_LIMIT_MINIMUM:
            raise ValueError(f"a value limit is at least {VALUE_LIMIT_MINIMUM} bytes, not {value_limit}")
        self.value_limit: Final = value_limit
        self._lone: Final = value_limit - HEADER_LENGTH
        self._plans: Final = _plans(value_limit)

    def fragment(self, packet: bytes) -> list[bytes]:
        """The values to send: in this order, with no other packet's between them.

        Raises `ValueError` for an empty packet, and for one that needs more than 65,535 fragments.
        """
        length = len(packet)
        if 0 < length <= self._lone and length != _PAYLOAD_OF_16:
            return [_LONE + packet]
        return [header + packet[part] for header, part in self._plans[length]]


_Drop = Literal[
    "malformed", "empty", "unknown_packet", "duplicates", "conflicting", "abandoned", "timed_out", "evicted",
    "over_limit",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ReassemblyStatistics:
    """What became of a link's fragments since its `Reassembler` was made."""

    packets: int = 0
    """Packets delivered."""
    malformed: int = 0
    """Values that are no fragment: under 5 bytes, unknown type, `sequence` not below `total`."""
    empty: int = 0
    """Packets complete without a single byte; not delivered."""
    unknown_packet: int = 0
    """Fragments that found no packet of their total: its START was lost, or it is over."""
    duplicates: int = 0
    """Fragments that came again unchanged; ignored."""
    conflicting: int = 0
    """Packets dropped because a fragment came again with other bytes."""
    abandoned: int = 0
    """Packets that gave way to a START of the same total."""
    timed_out: int = 0
    """Packets dropped because 30 s were over."""
    evicted: int = 0
    """Packets dropped, oldest first, so that another found room."""
    over_limit: int = 0
    """Packets that needed more than `max_bytes` for themselves alone."""

    @property
    def incomplete(self) -> int:
        """Packets begun and not delivered, for whatever reason."""
        return self.conflicting + self.abandoned + self.timed_out + self.evicted + self.over_limit


@dataclass(slots=True)
class _Packet:
    """A packet in progress that is not the run."""

    payloads: dict[int, bytes]
    deadline: float
    first_length: int
    reserved: int


class Reassembler:
    """Joins the fragments that come on one link to packets."""

    def __init__(self, *, max_packets: int = MAX_PACKETS, max_bytes: int = MAX_BYTES) -> None:
        """`max_packets`: in progress at once. `max_bytes`: set aside for them. `ValueError` below 1."""
        if max_packets < 1 or max_bytes < 1:
            raise ValueError(f"at least 1 packet and 1 byte, not {max_packets} and {max_bytes}")
        self.max_packets: Final = max_packets
        self.max_bytes: Final = max_bytes
        self._always_fits: Final = max_bytes // _TABLED_TOTAL - FRAGMENT_COST
        """Bytes of a START whose packet, if it is the only one and one of `_RUNS`, finds room."""
        self._others: dict[int, _Packet] = {}  # by total, oldest first
        # The run; there is one while `_next` is a header.
        self._next: bytes | None = None
        self._run: list[bytes] = []
        self._run_headers: tuple[bytes | None, ...] = ()
        self._run_deadline = 0.0
        self._run_first_length = 0
        self._last_long: tuple[bytes | None, ...] = (None,)  # as those in `_RUNS`
        self._packets = 0
        self._drops: dict[_Drop, int] = {}

    def receive(self, value: bytes, now: float) -> bytes | None:
        """Take one value; the packet that it completes, or None. Never raises for any bytes.

        `now`: seconds on a monotonic clock of the caller's, the same for every call.
        """
        header = value[:HEADER_LENGTH]
        if header == self._next and len(value) <= self._run_first_length and now <= self._run_deadline:
            run = self._run
            run.append(value[HEADER_LENGTH:])
            self._next = self._run_headers[len(run)]
            if self._next is not None:
                return None
            self._run = []
            if packet := b"".join(run):  # as `_join`, without its call
                self._packets += 1
                return packet
            self._drop("empty")
            return None
        if header == _LONE and len(value) > HEADER_LENGTH:
            self._packets += 1
            return value[HEADER_LENGTH:]
        if self._next is None and not self._others:
            headers = _RUNS.get(header)
            if headers is not None and len(value) <= self._always_fits:
                self._start_run(headers, value, now)
                return None
        return self._receive_any(value, now)

    def expire(self, now: float) -> None:
        """Drop what is over time. `receive` does so too; this is for a peer that has fallen silent."""
        if self._next is not None and now > self._run_deadline:
            self._end_run()
            self._drop("timed_out")
        while self._others:
            total, oldest = next(iter(self._others.items()))
            if now <= oldest.deadline:
                break
            del self._others[total]
            self._drop("timed_out")

    @property
    def statistics(self) -> ReassemblyStatistics:
        """A snapshot; it does not change any more."""
        return ReassemblyStatistics(packets=self._packets, **self._drops)

    @property
    def packets_in_progress(self) -> int:
        """Packets begun and not over, at most `max_packets`."""
        return len(self._others) + (self._next is not None)

    @property
    def bytes_in_progress(self) -> int:
        """Bytes set aside for them (rule 10), at most `max_bytes`."""
        reserved = sum(packet.reserved for packet in self._others.values())
        return reserved if self._next is None else reserved + self._run_reserved

    # --- the run ---

    def _start_run(self, headers: tuple[bytes | None, ...], first: bytes, now: float) -> None:
        """Begin a packet as the run, there being none; it has found room."""
        self._next = headers[1]
        self._run = [first[HEADER_LENGTH:]]
        self._run_headers = headers
        self._run_deadline = now + REASSEMBLY_TIMEOUT
        self._run_first_length = len(first)

    @property
    def _run_reserved(self) -> int:
        return (len(self._run_headers) - 1) * (self._run_first_length + FRAGMENT_COST)

    def _end_run(self) -> None:
        self._next = None
        self._run = []

    def _run_to_others(self) -> None:
        if self._next is not None:
            self._others[len(self._run_headers) - 1] = _Packet(
                dict(enumerate(self._run)), self._run_deadline, self._run_first_length, self._run_reserved
            )
            self._end_run()

    # --- everything else ---

    def _receive_any(self, value: bytes, now: float) -> bytes | None:
        if len(value) < HEADER_LENGTH:
            self._drop("malformed")
            return None
        kind, sequence, total = _HEADER.unpack_from(value)
        if not _START <= kind <= _END or sequence >= total:
            self._drop("malformed")
            return None
        if total == 1:
            return self._join((value[HEADER_LENGTH:],))
        self.expire(now)
        self._run_to_others()
        if sequence == 0:
            self._begin(total, value, now)
            return None
        return self._add(total, sequence, value)

    def _begin(self, total: int, first: bytes, now: float) -> None:
        if self._others.pop(total, None):
            self._drop("abandoned")
        reserved = total * (len(first) + FRAGMENT_COST)
        if reserved > self.max_bytes:
            self._drop("over_limit")
            return
        self._make_room(reserved, packets=1)
        header = first[:HEADER_LENGTH]
        headers = _RUNS.get(header) or (self._last_long if header == self._last_long[0] else None)
        if headers is not None:
            self._start_run(headers, first, now)
        else:
            self._others[total] = _Packet(
                {0: first[HEADER_LENGTH:]}, now + REASSEMBLY_TIMEOUT, len(first), reserved
            )

    def _add(self, total: int, sequence: int, value: bytes) -> bytes | None:
        packet = self._others.get(total)
        if packet is None:
            self._drop("unknown_packet")
            return None
        payloads = packet.payloads
        payload = value[HEADER_LENGTH:]
        known = payloads.get(sequence)
        if known is not None:
            if known == payload:
                self._drop("duplicates")
                return None
            del self._others[total]
            self._drop("conflicting")
            return None
        excess = len(value) - packet.first_length
        if excess > 0:
            if packet.reserved + excess > self.max_bytes:
                del self._others[total]
                self._drop("over_limit")
                return None
            self._make_room(excess, besides=total)
            packet.reserved += excess
        payloads[sequence] = payload
        if len(payloads) < total:
            return None
        del self._others[total]
        if _TABLED_TOTAL < total <= _KEPT_TOTAL:
            # Not sooner: who makes us build the headers has sent as many fragments.
            self._last_long = (*_headers(total), None)
        return self._join([payloads[sequence] for sequence in range(total)])

    def _make_room(self, wanted: int, *, packets: int = 0, besides: int = 0) -> None:
        """Evict the oldest, never the one with total `besides`, until so many bytes and packets fit in."""
        while (
            len(self._others) + packets > self.max_packets or self.bytes_in_progress + wanted > self.max_bytes
        ):
            del self._others[next(total for total in self._others if total != besides)]
            self._drop("evicted")

    def _join(self, payloads: Iterable[bytes]) -> bytes | None:
        packet = b"".join(payloads)
        if not packet:
            self._drop("empty")
            return None
        self._packets += 1
        return packet

    def _drop(self, why: _Drop) -> None:
        self._drops[why] = self._drops.get(why, 0) + 1
