"""Packets per second through the fragment codec, against the least that any codec must do.

For each ATT MTU, packets of one size are split into fragments and put together again, and beside that
the floor is measured: slicing the packet and adding a header (the least a fragmenter must do), and joining
the payloads (the least a reassembler must do), with no rule of the protocol in them.

The four are run in turn, round after round, so that a change of the machine's speed meets all of them;
reported are the medians of the rounds.

    python benchmarks/fragment_throughput.py [--json] [--packet BYTES] [--packets N] [--rounds N]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable

import rns_ble
from rns_ble.protocol.fragmentation import HEADER_LENGTH, Fragmenter, Reassembler
from rns_ble.protocol.gatt import value_limit

ATT_MTUS = (23, 185, 247, 517)
"""Bytes: the least, what iOS asks for, what fits one data channel PDU of 251 bytes, the most."""


def seconds(run: Callable[[], None]) -> float:
    """How long one run takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def measure(att_mtu: int, packets: list[bytes], rounds: int) -> dict[str, float]:
    """Median packets per second of each, at this ATT MTU."""
    limit = value_limit(att_mtu)
    size = limit - HEADER_LENGTH
    fragmenter, reassembler = Fragmenter(limit), Reassembler()
    fragments = [fragmenter.fragment(packet) for packet in packets]
    header = bytes(HEADER_LENGTH)

    def fragment() -> None:
        for packet in packets:
            fragmenter.fragment(packet)

    def fragment_floor() -> None:
        for packet in packets:
            [header + packet[start : start + size] for start in range(0, len(packet), size)]

    def reassemble() -> None:
        now = 0.0
        for values in fragments:
            now += 0.001
            for value in values:
                packet = reassembler.receive(value, now)
            assert packet is not None

    def reassemble_floor() -> None:
        for values in fragments:
            b"".join([value[HEADER_LENGTH:] for value in values])

    runs = {
        "fragment": fragment,
        "fragment_floor": fragment_floor,
        "reassemble": reassemble,
        "reassemble_floor": reassemble_floor,
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(seconds(run))
    return {name: round(len(packets) / statistics.median(taken)) for name, taken in times.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Packets per second through the fragment codec.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--packet", type=int, default=500, metavar="BYTES", help="size of a packet (500)")
    parser.add_argument("--packets", type=int, default=2000, metavar="N", help="packets in a round (2000)")
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="rounds (15)")
    arguments = parser.parse_args()
    if min(arguments.packet, arguments.packets, arguments.rounds) < 1:
        parser.error("sizes and numbers start at 1")

    packets = [os.urandom(arguments.packet) for _ in range(arguments.packets)]
    results = {str(mtu): measure(mtu, packets, arguments.rounds) for mtu in ATT_MTUS}
    if arguments.json:
        setting = {
            "benchmark": "fragment_throughput",
            "unit": "packets/s",
            "rns_ble": rns_ble.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "packet_bytes": arguments.packet,
            "packets": arguments.packets,
            "rounds": arguments.rounds,
        }
        print(json.dumps({**setting, "by_att_mtu": results}))
        return
    print(f"packets of {arguments.packet} bytes per second (medians of {arguments.rounds} rounds)\n")
    print(f"{'ATT MTU':>7}  {'fragment':>10}  {'floor':>10}  {'reassemble':>10}  {'floor':>10}")
    for mtu, result in results.items():
        print(f"{mtu:>7}" + "".join(f"  {value:>10,}" for value in result.values()))


if __name__ == "__main__":
    main()
