"""Packets from Reticulum's threads into Trio and back: what the interface itself costs, without a radio.

The interface is the real one, with its host, mesh, peers and queues; its driver does nothing. A packet is one
value (500 bytes, ATT MTU 517). Three ways are measured, each with an interface of its own in every round:

- `out`: a thread calls `process_outgoing`, and the packet has arrived when the driver has taken its value:
  queue, Trio, fragments, `link.send`;
- `in`: the driver brings values, and the packet has arrived at `owner.inbound` on the delivery thread:
  `link.receive`, reassembly, queue, thread;
- `round trip`: both, for the link brings back what it was sent. Each packet counts once.

For rates, a thread puts packets into all queues for as long as less than `WINDOW` of each peer have not
arrived, so nothing is dropped, which is checked. For delays, a thread hands over 1,000 packets a second in
all, to one peer after the other, and each is timed from `process_outgoing`, out and all the way back. Python
runs one thread at a time, so what the playing threads do is part of the figures, and a rate can't be higher
than what the processor time for a packet allows. That time depends less on what else the machine does.

`--reference` is taken and changes nothing: ble-reticulum has no bridge to compare. Its interface fragments
and sends on Reticulum's own thread, and hands over to another one inside its driver; with a driver that does
nothing its codec would be all that is left, and `fragment_throughput.py` measures that.

    python benchmarks/bridge.py [--json] [--peers N] [--packets N] [--rounds N]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any, Final, Self
from unittest.mock import Mock, patch

import RNS
import trio
from measuring import Figure, arguments_of, at_least_one, readable_output, setting, side_by_side, table

from rns_ble.drivers.base import BLEDriverInterface, BLELink, DriverState, PeerUnreachable, Role
from rns_ble.interface import BLEInterface, BLEPeerInterface
from rns_ble.protocol.fragmentation import HEADER_LENGTH, Fragmenter
from rns_ble.protocol.gatt import ATT_MTU_REQUESTED, value_limit

PEERS: Final = (1, 7, 20)
"""Links: one; as many as common controllers hold, and as many as others do."""

PEERS_MAXIMUM: Final = 32
"""Links that the driver can hand over at once (`rns_ble.drivers.base.ACCEPTED_BUFFERED`)."""

PACKET: Final = 500
"""Bytes: Reticulum's MTU. One value at `ATT_MTU_REQUESTED`."""

PACKETS: Final = 5000
"""In one run for a rate: a tenth of a second of the rate that is aimed at."""

WINDOW: Final = 75
"""Packets of each peer on their way: what a Resource of Reticulum's keeps in flight, and less than any queue
on the way holds."""

REPORT: Final = 25
"""Arrivals from one word to whoever waits for room to the next. Below `WINDOW`, so that one always comes."""

RATE: Final = 1000
"""Packets a second in all, when delays are measured: ten times what one peer's radio carries."""

OWN: Final = b"\xff" * 16
"""Our identity; the peers' are of their numbers."""

PATIENCE: Final = 30.0
"""Seconds for what must happen."""

LOOK: Final = 0.005
"""Seconds from one look for the peers to the next, while the interface comes up."""

TIMED: Final = ("out", "round trip")
"""Ways of which delays are measured."""

QUANTILES: Final = {"p50": 0.5, "p99": 0.99}

_NUMBER: Final = slice(19, 23)
"""Of a packet's bytes: behind Reticulum's header of flags, hops, destination and context."""


def packet_of(peer: int, number: int = 0) -> bytes:
    """Data for a destination behind this peer, with a number to know it by."""
    return (bytes(2) + bytes([peer]) * 16 + bytes(1) + number.to_bytes(4)).ljust(PACKET, b"\0")


# --- the driver that does nothing ---


class Link(BLELink):
    """A link with nobody at its other end."""

    def __init__(self, bridge: Bridge, peer: int) -> None:
        self.address = f"02:00:00:00:00:{peer:02X}"
        self.role = Role.PERIPHERAL
        self.peer_identity = bytes([peer]) * 16
        self.data_path = "none"
        self._bridge = bridge
        self._peer = peer
        self._ended = trio.Event()

    def has_room(self) -> None:
        """More may be sent. On the thread on which packets arrive."""
        self._bridge.room.set()

    @property
    def att_mtu(self) -> int:
        """As the contract says."""
        return ATT_MTU_REQUESTED

    async def send(self, value: bytes) -> None:
        """Let it vanish. Like any stack's, this has a checkpoint."""
        await trio.lowlevel.checkpoint()
        self._bridge.arrived(self._peer)

    async def receive(self) -> bytes:
        """Nothing, until the end."""
        await self._ended.wait()
        raise trio.EndOfChannel

    async def aclose(self) -> None:
        """As the contract says."""
        self._ended.set()
        await trio.lowlevel.cancel_shielded_checkpoint()


class EchoingLink(Link):
    """Brings back what it was sent."""

    def __init__(self, bridge: Bridge, peer: int) -> None:
        super().__init__(bridge, peer)
        self._echo, self._echoed = trio.open_memory_channel[bytes](1)

    async def send(self, value: bytes) -> None:
        """Have it received."""
        self._bridge.left(value)
        await self._echo.send(value)

    async def receive(self) -> bytes:
        """What was sent."""
        return await self._echoed.receive()

    async def aclose(self) -> None:
        """As the contract says."""
        self._echo.close()
        await super().aclose()


class BringingLink(Link):
    """Brings values, as fast as they are taken."""

    def __init__(self, bridge: Bridge, peer: int) -> None:
        super().__init__(bridge, peer)
        (self._value,) = Fragmenter(value_limit(ATT_MTU_REQUESTED)).fragment(packet_of(peer))
        self._token = trio.lowlevel.current_trio_token()
        self._room = trio.Event()

    def has_room(self) -> None:
        """More may be brought."""
        self._token.run_sync_soon(self._look_again)

    def _look_again(self) -> None:
        self._room.set()

    async def receive(self) -> bytes:
        """The next value, as soon as it may be brought."""
        await trio.lowlevel.checkpoint()
        while not self._bridge.begin(self._peer):
            self._room = trio.Event()
            await self._room.wait()
        return self._value


WAYS: Final = {"out": Link, "in": BringingLink, "round trip": EchoingLink}
"""What is measured, and the links that it takes."""


class NoDriver(BLEDriverInterface):
    """Hands its links over, as made by centrals that have told who they are, and does nothing else."""

    def __init__(self, bridge: Bridge) -> None:
        super().__init__()
        self._bridge = bridge

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[None]:
        yield

    @property
    def address(self) -> str | None:
        """As the contract says."""
        return None

    async def start(
        self, service_uuid: str, rx_char_uuid: str, tx_char_uuid: str, identity_char_uuid: str
    ) -> None:
        """Have all links at once."""
        for link in self._bridge.make_links():
            assert self._accept(link)

    async def stop(self) -> None:
        """As the contract says."""

    @property
    def state(self) -> DriverState:
        """As the contract says."""
        return DriverState.IDLE

    @property
    def connected_peers(self) -> list[str]:
        """As the contract says."""
        return []

    async def start_scanning(self) -> None:
        """As the contract says."""

    async def stop_scanning(self) -> None:
        """As the contract says."""

    async def start_advertising(
        self, device_name: str | None = None, manufacturer_data: Mapping[int, bytes] | None = None
    ) -> None:
        """As the contract says."""

    async def stop_advertising(self) -> None:
        """As the contract says."""

    async def connect(self, address: str) -> BLELink:
        """As the contract says; there is nobody."""
        raise PeerUnreachable(f"{address} is not there")


# --- the interface between them ---


class Bridge:
    """An interface with its peers, and what is on its way through it.

    Packets begin on one thread and arrive on one, so each counter has one writer.
    """

    def __init__(self, peers: int, link: type[Link]) -> None:
        """`link`: of which kind."""
        self.peers: Final = range(1, peers + 1)
        self.links: dict[int, Link] = {}
        self.room = threading.Event()
        """Set when a thread that found no room may look again."""
        self._link = link
        self._to_begin = self._to_arrive = 0
        self._begun = [0] * (peers + 1)
        self._arrived = [0] * (peers + 1)
        self._all_arrived = threading.Event()
        self._handed_over: list[float] = []
        self._delays: dict[str, list[float]] = {way: [] for way in TIMED}
        section = {"name": "Bridge", "max_connections": str(peers)}
        self._interface = BLEInterface(self, section, NoDriver(self))

    def make_links(self) -> Iterator[Link]:
        """One for each peer."""
        for peer in self.peers:
            self.links[peer] = self._link(self, peer)
            yield self.links[peer]

    def __enter__(self) -> Self:
        """Wait until all peers are there."""
        self._interface.final_init()
        deadline = time.monotonic() + PATIENCE
        while not (self._interface.clients == len(self.peers) and self._all_online()):
            assert time.monotonic() < deadline
            time.sleep(LOOK)
        return self

    def _all_online(self) -> bool:
        return all(interface.online for interface in self._interface.peers)

    def __exit__(self, *_error: object) -> None:
        """End it."""
        self._interface.detach()

    # --- what is on its way ---

    def begin(self, peer: int) -> bool:
        """Count one packet more, if there is one and room for it."""
        if not self._to_begin or self._begun[peer] - self._arrived[peer] >= WINDOW:
            return False
        self._to_begin -= 1
        self._begun[peer] += 1
        return True

    def arrived(self, peer: int) -> None:
        """Count it when it is through."""
        self._arrived[peer] += 1
        self._to_arrive -= 1
        if not self._to_arrive:
            self._all_arrived.set()
        elif self._arrived[peer] % REPORT == 0:
            self.links[peer].has_room()

    def left(self, value: bytes) -> None:
        """The driver has taken this one."""
        if self._handed_over:
            self._note("out", value[HEADER_LENGTH:])

    def inbound(self, packet: bytes, interface: BLEPeerInterface) -> None:
        """Take a packet, as Reticulum's transport does."""
        if self._handed_over:
            self._note("round trip", packet)
        self.arrived(interface.identity[0])

    def _note(self, what: str, packet: bytes) -> None:
        since = self._handed_over[int.from_bytes(packet[_NUMBER])]
        self._delays[what].append(time.perf_counter() - since)

    # --- runs ---

    def rate(self, packets: int) -> float:
        """Packets a second."""
        began = time.perf_counter()
        self._to_begin = self._to_arrive = packets
        if self._link is BringingLink:
            for link in self.links.values():
                link.has_room()
        else:
            self._send_all()
        self._wait()
        return packets / (time.perf_counter() - began)

    def _send_all(self) -> None:
        packets = {interface: packet_of(interface.identity[0]) for interface in self._interface.peers}
        while self._to_begin:
            self.room.clear()  # before the look: what arrives after it sets it again
            full = True
            for interface, packet in packets.items():
                while self.begin(interface.identity[0]):
                    interface.process_outgoing(packet)
                    full = False
            if full and self._to_begin:
                assert self.room.wait(PATIENCE)

    def delays(self, packets: int) -> dict[str, list[float]]:
        """Seconds that each packet took, sorted, at `RATE`."""
        self._to_arrive = packets
        interfaces = self._interface.peers
        began = time.perf_counter()
        for number in range(packets):
            interface = interfaces[number % len(interfaces)]
            packet = packet_of(interface.identity[0], number)
            time.sleep(max(0.0, began + number / RATE - time.perf_counter()))
            self._handed_over.append(time.perf_counter())
            interface.process_outgoing(packet)
        self._wait()
        return {what: sorted(delays) for what, delays in self._delays.items()}

    def _wait(self) -> None:
        assert self._all_arrived.wait(PATIENCE)
        assert not self._interface.tx_drops
        assert not self._interface.packets_dropped


@contextmanager
def reticulum() -> Iterator[None]:
    """As much of Reticulum as an interface asks for: our identity, a directory for the status socket, and
    somebody who knows the limits of announces, which nobody reads here.
    """
    with (
        tempfile.TemporaryDirectory() as directory,
        patch.multiple(RNS.Transport, ready=True, identity=SimpleNamespace(hash=OWN)),
        patch.multiple(RNS.Reticulum, storagepath=directory, get_instance=Mock()),
        patch.object(RNS, "loglevel", RNS.LOG_WARNING),
    ):
        yield


# --- results ---


def measure(peers: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Packets a second on each way, and milliseconds, with so many peers."""
    costs: dict[str, list[float]] = {way: [] for way in WAYS}
    quantiles: dict[str, list[float]] = {f"{way}, {name}": [] for way in TIMED for name in QUANTILES}

    def rate(way: str) -> float:
        with Bridge(peers, WAYS[way]) as bridge:
            began = time.process_time()
            packets_per_second = bridge.rate(arguments.packets)
            costs[way].append((time.process_time() - began) / arguments.packets)
        return packets_per_second

    def delay() -> float:
        with Bridge(peers, EchoingLink) as bridge:
            delays = bridge.delays(RATE)
        for way, times in delays.items():
            for name, share in QUANTILES.items():
                quantiles[f"{way}, {name}"].append(times[int(share * len(times))])
        return quantiles["round trip, p99"][-1]

    runs = {way: partial(rate, way) for way in WAYS}
    figures = side_by_side({**runs, "delay": delay}, arguments.rounds)
    del figures["delay"]
    return {
        "packets_per_second": {way: figure.as_json() for way, figure in figures.items()},
        "processor_us": {way: Figure(tuple(values)).scaled(1e6).as_json() for way, values in costs.items()},
        "delay_ms": {
            name: Figure(tuple(values)).scaled(1000).as_json() for name, values in quantiles.items()
        },
    }


def text(figure: dict[str, float], digits: int) -> str:
    """The median, and in brackets the least and the most."""
    median, least, most = (f"{figure[name]:,.{digits}f}" for name in ("median", "least", "most"))
    return f"{median} ({least} to {most})"


def main() -> None:
    """Measure and print."""
    parser = arguments_of("Packets through the interface, with a driver that does nothing.", rounds=7)
    parser.add_argument(
        "--peers",
        type=at_least_one,
        action="append",
        metavar="N",
        help=f"links; may be repeated ({', '.join(map(str, PEERS))})",
    )
    parser.add_argument(
        "--packets", type=at_least_one, default=PACKETS, metavar="N", help=f"packets for a rate ({PACKETS})"
    )
    arguments = parser.parse_args()
    if arguments.peers and max(arguments.peers) > PEERS_MAXIMUM:
        parser.error(f"--peers goes up to {PEERS_MAXIMUM}")

    results: dict[str, dict[str, Any]] = {}
    with reticulum():
        for peers in arguments.peers or PEERS:
            print(f"peers: {peers}", file=sys.stderr)
            results[str(peers)] = measure(peers, arguments)
    with readable_output():
        if arguments.json:
            about = setting(
                "bridge",
                packets=arguments.packets,
                packet_bytes=PACKET,
                packets_per_second_of_delays=RATE,
                rounds=arguments.rounds,
            )
            print(json.dumps({**about, "by_peers": results}))
            return
        for title, quantity, digits in (
            ("packets a second", "packets_per_second", 0),
            ("microseconds of processor time for a packet, all threads", "processor_us", 1),
            (f"milliseconds at {RATE:,} packets a second", "delay_ms", 2),
        ):
            heads = ["peers", *next(iter(results.values()))[quantity]]
            rows = [
                [peers, *(text(figure, digits) for figure in result[quantity].values())]
                for peers, result in results.items()
            ]
            print(f"{title}: medians of {arguments.rounds} rounds (least to most)\n{table(heads, rows)}\n")


if __name__ == "__main__":
    main()
