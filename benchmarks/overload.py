"""How long small packets wait while Resources fill the queue, and what that costs the Resources.

One peer on a link as slow as a radio, in virtual time. Each Resource puts its window into the queue at once
and the next one when the last of it has left and been asked for again, as Reticulum does. Small packets come
at random among them. Reported is the time from a packet's `put` to its last bit on the air, with flows taking
turns (`turns`), and in the order of arrival (`arrival`), which is what one queue for all would do.

    python benchmarks/overload.py [--json] [--seconds S] [--rate VALUES] [--resources N] [--rounds N]
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
from functools import partial
from itertools import count
from typing import Any

import trio
from measuring import readable_output, setting

from rns_ble.flows import flow_of
from rns_ble.mailbox import NO_FLOW
from rns_ble.peer import Peer
from rns_ble.protocol.fragmentation import Reassembler
from rns_ble.protocol.pairs import Cuts
from rns_ble.session import Carrier, Session
from rns_ble.testing.slow_link import VALUES_A_SECOND, SlowLink
from rns_ble.testing.virtual_time import run_in_virtual_time

ATT_MTUS = (23, 185, 517)
"""Bytes: the least, what iOS asks for, the most."""
WINDOW = 75
"""Parts of a Resource that Reticulum has on their way at most (`RNS.Resource.WINDOW_MAX_FAST`)."""
ASKED_AGAIN = 0.05
"""Seconds from a window's last part to the next window: the request's way back, and the receiver's work."""
QUEUE = 128
"""Packets: `outgoing_queue`."""
EVERY = 0.25
"""Seconds between two small packets, on average."""
LEAST_PACKETS = 2
"""Of each kind in a setting: `statistics.quantiles` takes no fewer."""

DATA, ANNOUNCE, LINK_REQUEST, PROOF = range(4)
SMALL = {
    # Packet type, bytes in all, and whether it belongs to the first Resource's own link.
    "proof, same link": (PROOF, 115, True),
    "proof": (PROOF, 115, False),
    "link request": (LINK_REQUEST, 86, False),
    "data of another link": (DATA, 131, False),
    "announce": (ANNOUNCE, 220, False),
}


def packet(kind: int, destination: bytes, length: int, number: int) -> bytes:
    """A packet with Reticulum's header, and a number to know it by."""
    return (bytes([kind, 0]) + destination + number.to_bytes(4)).ljust(length, b"\0")


class Nobody:
    """Is told what happens to the peer."""

    def packet_received(self, peer: Peer, packet: bytes) -> None:
        """See `rns_ble.peer.PeerOwner`."""

    def link_ended(self, peer: Peer, session: Session) -> None:
        """See `rns_ble.peer.PeerOwner`."""

    async def places_short(self) -> None:
        """See `rns_ble.peer.PeerOwner`. There is room for all."""
        await trio.sleep_forever()

    def peer_ended(self, peer: Peer) -> None:
        """See `rns_ble.peer.PeerOwner`."""


class Load:
    """The traffic of one run."""

    def __init__(self, peer: Peer, link: SlowLink, seed: int, *, turns: bool) -> None:
        self.waits: dict[str, list[float]] = {}
        """What it is → seconds from `put` to its last bit, of each packet that has left."""
        self._peer = peer
        self._random = random.Random(seed)
        self._turns = turns
        self._on_the_way: dict[int, tuple[str, float]] = {}
        self._numbers = count()
        self._reassembler = Reassembler()
        self._windows: list[tuple[set[int], trio.Event]] = []
        self._last = 0.0
        self.drops = 0
        link.on_value = self._left
        peer.outgoing.on_drop = self._dropped

    def put(self, what: str, kind: int, destination: bytes, length: int) -> int:
        """Put a packet into the peer's queue; its number."""
        number = next(self._numbers)
        self._on_the_way[number] = what, trio.current_time()
        raw = packet(kind, destination, length, number)
        flow, urgent = flow_of(raw) if self._turns else (NO_FLOW, False)
        self._peer.outgoing.put(raw, flow, urgent=urgent)
        return number

    def _left(self, time: float, value: bytes) -> None:
        whole = self._reassembler.receive(value, time)
        if whole is None:
            return
        number = int.from_bytes(whole[18:22])
        what, put = self._on_the_way.pop(number)
        self.waits.setdefault(what, []).append(time - put)
        self._last = time
        self._over(number)

    def _dropped(self, raw: bytes) -> None:
        # The receiver asks for it again with the next window.
        number = int.from_bytes(raw[18:22])
        del self._on_the_way[number]
        self.drops += 1
        self._over(number)

    def _over(self, number: int) -> None:
        for window, complete in self._windows:
            window.discard(number)
            if not window:
                complete.set()

    async def resource(self, link: bytes) -> None:
        """Window after window."""
        while True:
            window = {self.put("part", DATA, link, 500) for _ in range(WINDOW)}
            window &= self._on_the_way.keys()  # and not dropped at once
            complete = trio.Event()
            self._windows.append((window, complete))
            await complete.wait()
            self._windows.remove((window, complete))
            await trio.sleep_until(self._last + ASKED_AGAIN)

    async def small(self, link: bytes) -> None:
        """Small packets at random."""
        while True:
            await trio.sleep(self._random.expovariate(1 / EVERY))
            what = self._random.choice(list(SMALL))
            kind, length, same = SMALL[what]
            self.put(what, kind, link if same else self._random.randbytes(16), length)


async def run(att_mtu: int, arguments: argparse.Namespace, seed: int, *, turns: bool) -> Load:
    """One run."""
    cuts = Cuts(516)
    link = SlowLink(rate=arguments.rate, att_mtu=att_mtu)
    peer = Peer(b"\xbb" * 16, b"\xaa" * 16, Nobody(), QUEUE, cuts)
    peer.join(link, Carrier(cuts))
    load = Load(peer, link, seed, turns=turns)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.run)
        links = [bytes([number]) * 16 for number in range(arguments.resources)]
        for resource in links:
            nursery.start_soon(load.resource, resource)
        nursery.start_soon(load.small, links[0])
        await trio.sleep(arguments.seconds)
        peer.outgoing.on_drop = lambda _packet: None  # what waits at the end is not lost
        nursery.cancel_scope.cancel()
    return load


def measure(att_mtu: int, arguments: argparse.Namespace, *, turns: bool) -> dict[str, Any]:
    """All rounds of one setting: waits in milliseconds, and how fast the Resources were."""
    print(f"ATT MTU {att_mtu}, {'in turns' if turns else 'by arrival'}", file=sys.stderr)
    waits: dict[str, list[float]] = {}
    drops = 0
    for seed in range(arguments.rounds):
        load = run_in_virtual_time(partial(run, att_mtu, arguments, seed, turns=turns))
        drops += load.drops
        for what, times in load.waits.items():
            waits.setdefault(what, []).extend(times)
    parts = waits.pop("part", [])
    for what in SMALL:
        if len(waits.get(what, ())) < LEAST_PACKETS:
            sys.exit(f"overload.py: too few packets ({what}, ATT MTU {att_mtu}): more --seconds or --rounds")
    return {
        "wait_ms": {
            what: {
                "median": round(1000 * statistics.median(waits[what])),
                "p99": round(1000 * statistics.quantiles(waits[what], n=100)[98]),
                "packets": len(waits[what]),
            }
            for what in SMALL
        },
        "parts_per_second": round(len(parts) / arguments.seconds / arguments.rounds, 1),
        "dropped": drops,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="How long small packets wait while Resources are sent.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--seconds", type=float, default=100.0, metavar="S", help="virtual, a round (100)")
    parser.add_argument(
        "--rate", type=float, default=VALUES_A_SECOND, metavar="VALUES", help="a second (100)"
    )
    parser.add_argument("--resources", type=int, default=1, metavar="N", help="at once, to one peer (1)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds (3)")
    arguments = parser.parse_args()
    if min(arguments.resources, arguments.rounds) < 1 or not all(
        0 < number < math.inf for number in (arguments.seconds, arguments.rate)
    ):
        parser.error("--resources and --rounds start at 1, --seconds and --rate are above 0")

    results = {
        str(att_mtu): {
            order: measure(att_mtu, arguments, turns=order == "turns") for order in ("arrival", "turns")
        }
        for att_mtu in ATT_MTUS
    }
    with readable_output():
        if arguments.json:
            about = setting(
                "overload",
                values_per_second=arguments.rate,
                resources=arguments.resources,
                seconds=arguments.seconds,
                rounds=arguments.rounds,
            )
            print(json.dumps({**about, "by_att_mtu": results}))
            return
        print(f"ms from put to air at {arguments.rate:g} values a second; Resources: {arguments.resources}\n")
        print(f"{'ATT MTU':>7}  {'':22}{'by arrival':>15}{'by turns':>17}")
        print(f"{'':7}  {'':22}{'median':>8}{'p99':>7}{'median':>10}{'p99':>7}")
        for att_mtu, by_order in results.items():
            for what in SMALL:
                cells = [by_order[order]["wait_ms"][what] for order in ("arrival", "turns")]
                figures = "".join(
                    f"{c['median']:>{w}}{c['p99']:>7}" for c, w in zip(cells, (8, 10), strict=True)
                )
                print(f"{att_mtu:>7}  {what:22}{figures}")
            parts = [by_order[order]["parts_per_second"] for order in ("arrival", "turns")]
            print(f"{att_mtu:>7}  {'parts a second':22}{parts[0]:>15}{parts[1]:>17}")
            drops = [by_order[order]["dropped"] for order in ("arrival", "turns")]
            print(f"{att_mtu:>7}  {'packets dropped':22}{drops[0]:>15}{drops[1]:>17}")


if __name__ == "__main__":
    main()
