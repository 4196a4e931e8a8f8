"""Packets per second through the fragment codec, against the least that any codec must do.

For each size of packet and each value limit: packets are cut into values (`fragment`), put together again
from values that come in order (`in order`), and from values of which all but the first come backwards and
twice (`disturbed`). Beside this package's codec, in each round, the same packets go through

- the floor: a header and a slice for each value, in one list comprehension unless one value is enough, and
  for the way back a slice of each value and one join. No rule of the protocol is in it, not even the sequence
  in the header. Slices that are planned once for each length can be faster than that. Where values come
  twice there is no floor: who can tell them apart follows the protocol;
- with `--reference`, ble-reticulum's codec as it runs inside Reticulum at its default log level
  (`reference`), and without its calls of Reticulum's log (`unlogged`): formatting lines that nobody reads is
  a good part of what it does.

Who reassembles has to know how late it is. Ours is told, so that reading the clock for each value counts as
its work here; the reference reads it by itself.

Times are processor time of this process, for nothing here waits.

The last table is memory: what one reassembler holds when it has delivered a packet and waits for the next.

    python benchmarks/fragment_throughput.py [--json] [--packet BYTES] [--packets N] [--rounds N]
                                             [--reference PATH]
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, Final
from unittest.mock import patch

from measuring import arguments_of, at_least_one, readable_output, setting, side_by_side, table

from rns_ble.protocol.fragmentation import FRAGMENT_COST, HEADER_LENGTH, MAX_BYTES, Fragmenter, Reassembler

PACKETS: Final = (20, 100, 250, 500, 564, 4096)
"""Bytes: a keystroke, a link request, a short message; Reticulum's MTU, without and with the longest access
code; and more than this interface ever carries, to see what many fragments do."""

VALUE_LIMITS: Final = (20, 182, 244, 512)
"""Bytes, at the ATT MTUs of 23, the least; 185, what iOS asks for; 247, what fits one data channel PDU of 251
bytes; 517, the most."""

PACKET_MAXIMUM: Final = MAX_BYTES // (min(VALUE_LIMITS) + FRAGMENT_COST) * (min(VALUE_LIMITS) - HEADER_LENGTH)
"""Bytes: a reassembler takes no more in the shortest values."""

FULL: Final = 500
"""Bytes. A round has as many packets as were asked for up to this size, and of longer ones fewer: as many
bytes in all. Otherwise the longest would take most of the time."""

ROUNDS: Final = 25
"""A round of one setting takes milliseconds, so what else the machine does falls into some of them. The
median of this many does not mind."""

IDLE_PEERS: Final = 1000
"""Reassemblers whose memory is measured."""

IDLE_VALUE_LIMIT: Final = 182
"""Bytes; so that their packet was one of several values."""

SENDER: Final = "02:00:00:00:00:02"
"""The reference keeps packets by the address of their sender."""

MEGA: Final = 1e-6

TITLES: Final = {
    "fragment": "packets to values",
    "in order": "values to packets, in order",
    "disturbed": "values to packets, all but the first backwards and twice",
}

Arrivals = list[list[bytes]]
"""The values of each packet, as they come."""
Runs = dict[str, Callable[[], float]]
"""By whom → packets a second, measured now."""
Result = dict[str, dict[str, dict[str, Any]]]
"""What is done → which quantity → whose → `Figure.as_json`."""


# --- the sides ---


def floor_of(value_limit: int) -> Callable[[bytes], list[bytes]]:
    """The least that a fragmenter must do."""
    header = bytes(HEADER_LENGTH)
    size = value_limit - HEADER_LENGTH

    def fragment(packet: bytes) -> list[bytes]:
        if len(packet) <= size:
            return [header + packet]
        return [header + packet[start : start + size] for start in range(0, len(packet), size)]

    return fragment


def without_log(module: ModuleType, run: Callable[[], float]) -> Callable[[], float]:
    """The same run with the reference's module as it is where there is no Reticulum."""

    def unlogged() -> float:
        with patch.object(module, "RNS", None):
            return run()

    return unlogged


# --- runs: each returns packets a second ---


def fragmenting(fragment: Callable[[bytes], list[bytes]], packets: list[bytes]) -> Callable[[], float]:
    """All packets into values."""

    def run() -> float:
        began = time.process_time()
        for packet in packets:
            fragment(packet)
        return len(packets) / (time.process_time() - began)

    return run


def reassembling(receive: Callable[[bytes, float], bytes | None], arrivals: Arrivals) -> Callable[[], float]:
    """All values into packets, by ours."""

    def run() -> float:
        clock = time.monotonic
        began = time.process_time()
        for values in arrivals:
            packet = None
            for value in values:
                packet = receive(value, clock()) or packet
            assert packet is not None
        return len(arrivals) / (time.process_time() - began)

    return run


def reassembling_theirs(receive: Callable[[bytes, str], Any], arrivals: Arrivals) -> Callable[[], float]:
    """All values into packets, by the reference."""

    def run() -> float:
        sender = SENDER
        began = time.process_time()
        for values in arrivals:
            packet = None
            for value in values:
                packet = receive(value, sender) or packet
            assert packet is not None
        return len(arrivals) / (time.process_time() - began)

    return run


def joining(arrivals: Arrivals) -> Callable[[], float]:
    """The least that a reassembler must do."""

    def run() -> float:
        began = time.process_time()
        for values in arrivals:
            b"".join([value[HEADER_LENGTH:] for value in values])
        return len(arrivals) / (time.process_time() - began)

    return run


def disturbed(values: list[bytes]) -> list[bytes]:
    """After the first, which begins the packet, the others from the last on, each twice."""
    return values[:1] + [value for value in reversed(values[1:]) for _ in range(2)]


def runs_of(value_limit: int, packets: list[bytes], module: ModuleType | None) -> dict[str, Runs]:
    """What is done → by whom → the run. All reassemblers get the same values, those of our fragmenter."""
    fragment = Fragmenter(value_limit).fragment
    in_order = [fragment(packet) for packet in packets]
    orders = {"in order": in_order}
    if len(in_order[0]) > 1:
        orders["disturbed"] = [disturbed(values) for values in in_order]
    runs: dict[str, Runs] = {
        "fragment": {
            "ours": fragmenting(fragment, packets),
            "floor": fragmenting(floor_of(value_limit), packets),
        },
        **{order: {"ours": reassembling(Reassembler().receive, orders[order])} for order in orders},
    }
    runs["in order"]["floor"] = joining(in_order)
    if module is not None:
        theirs = {"fragment": fragmenting(module.BLEFragmenter(value_limit).fragment_packet, packets)}
        for order, arrivals in orders.items():
            theirs[order] = reassembling_theirs(module.BLEReassembler().receive_fragment, arrivals)
        for what, run in theirs.items():
            runs[what] |= {"reference": run, "unlogged": without_log(module, run)}
    return runs


# --- results ---


def measure(size: int, value_limit: int, arguments: argparse.Namespace, module: ModuleType | None) -> Result:
    """What is done → packets/s and MB/s of each side, and how many times the others' speed ours is."""
    packets = [os.urandom(size) for _ in range(max(1, arguments.packets * FULL // max(size, FULL)))]
    result: Result = {}
    for what, runs in runs_of(value_limit, packets, module).items():
        figures = side_by_side(runs, arguments.rounds)
        ours = figures["ours"]
        result[what] = {
            "packets_per_second": {side: figure.as_json() for side, figure in figures.items()},
            "megabytes_per_second": {
                side: figure.scaled(size * MEGA).as_json() for side, figure in figures.items()
            },
            "ours_per": {
                side: ours.per(figure).as_json() for side, figure in figures.items() if side != "ours"
            },
        }
    return result


def bytes_held(make: Callable[[], object]) -> float:
    """Bytes that one of many such objects holds."""
    make()  # whatever is made once for all of them is there before
    held: list[object] = [None] * IDLE_PEERS
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for place in range(IDLE_PEERS):
            held[place] = make()
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return round((after - before) / IDLE_PEERS)


def memory(module: ModuleType | None) -> dict[str, float]:
    """Bytes of a reassembler that has delivered one packet, and waits for the next."""
    values = Fragmenter(IDLE_VALUE_LIMIT).fragment(os.urandom(FULL))

    def ours() -> object:
        reassembler = Reassembler()
        assert [reassembler.receive(value, 0.0) for value in values][-1]
        return reassembler

    def theirs() -> object:
        assert module is not None
        reassembler = module.BLEReassembler()
        assert [reassembler.receive_fragment(value, SENDER) for value in values][-1]
        return reassembler

    held = {"ours": bytes_held(ours)}
    return held if module is None else held | {"reference": bytes_held(theirs)}


# --- output ---


def tables(results: dict[str, dict[str, Result]]) -> Iterator[str]:
    """One for each thing that is done."""
    for what in ("fragment", "in order", "disturbed"):
        lines = [
            (size, limit, result[what])
            for size, by_limit in results.items()
            for limit, result in by_limit.items()
            if what in result
        ]
        if not lines:
            continue
        others = list(lines[0][2]["ours_per"])
        rows = [
            [
                size,
                limit,
                *(
                    f"{done['packets_per_second']['ours'][which]:,.0f}"
                    for which in ("median", "least", "most")
                ),
                f"{done['megabytes_per_second']['ours']['median']:.1f}",
                *(
                    f"{ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['most']:.2f})"
                    for ratio in done["ours_per"].values()
                ),
            ]
            for size, limit, done in lines
        ]
        heads = ["bytes", "limit", "packets/s", "least", "most", "MB/s", *(f"per {side}" for side in others)]
        yield f"{TITLES[what]}\n{table(heads, rows)}\n"


def main() -> None:
    """Measure and print."""
    parser = arguments_of("Packets per second through the fragment codec.", rounds=ROUNDS)
    parser.add_argument(
        "--packet", type=at_least_one, action="append", metavar="BYTES",
        help=f"size of a packet; may be repeated ({', '.join(map(str, PACKETS))})",
    )  # fmt: skip
    parser.add_argument(
        "--packets", type=at_least_one, default=200, metavar="N", help="packets of 500 bytes in a round (200)"
    )
    arguments = parser.parse_args()
    if arguments.packet and max(arguments.packet) > PACKET_MAXIMUM:
        parser.error(
            f"--packet goes up to {PACKET_MAXIMUM}: more is not reassembled from the shortest values"
        )
    module = arguments.reference.load("BLEFragmentation") if arguments.reference else None

    results: dict[str, dict[str, Result]] = {}
    for size in arguments.packet or PACKETS:
        print(f"packets of {size} bytes", file=sys.stderr)
        results[str(size)] = {str(limit): measure(size, limit, arguments, module) for limit in VALUE_LIMITS}
    held = memory(module)
    with readable_output():
        if arguments.json:
            about = setting(
                "fragment_throughput", arguments.reference, packets=arguments.packets, rounds=arguments.rounds
            )
            print(json.dumps({**about, "by_packet": results, "bytes_per_reassembler": held}))
            return
        print(f"medians of {arguments.rounds} rounds; per: how many times as fast ours is (least to most)\n")
        for text in tables(results):
            print(text)
        print(f"bytes that a reassembler holds after a packet, of {IDLE_PEERS:,}")
        print(table(["whose", "bytes"], [[whose, f"{size:,.0f}"] for whose, size in held.items()]))


if __name__ == "__main__":
    main()
