"""A node under attack while an honest peer uses it, and what must hold all the while."""

from __future__ import annotations

import logging
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import count

import trio
import trio.lowlevel

from rns_ble.config import BLEConfig
from rns_ble.mesh import PEERS_PER_PLACE
from rns_ble.peer import LINKS_MAXIMUM
from rns_ble.protocol.fragmentation import MAX_BYTES, MAX_PACKETS
from rns_ble.protocol.pairs import CUTS_MAXIMUM
from rns_ble.testing import Air
from rns_ble.testing.virtual_time import run_in_virtual_time
from tests.fuzz.attackers import BesiegedDriver
from tests.fuzz.grammar import Grammar
from tests.nodes import Node, address_of, identity_of, running, until

SERVED_WITHIN = 10.0
"""Seconds in which an honest peer's packet arrives, either way, whatever the attackers do."""


@dataclass
class Report:
    """The figures of a run."""

    seed: int
    values: int = 0
    megabytes: float = 0.0
    links: int = 0
    sightings: int = 0
    virtual_seconds: float = 0.0
    cpu_seconds: float = 0.0
    values_per_second: float = 0.0
    cpu_seconds_per_megabyte: float = 0.0
    exceptions: int = 0
    honest_packets: int = 0
    honest_packet_slowest: float = 0.0
    bytes_in_progress_most: int = 0
    packets_in_progress_most: int = 0
    halves_waiting_most: int = 0
    peers_most: int = 0
    strangers_most: int = 0
    places_most: int = 0
    candidates_most: int = 0
    log_lines: int = 0
    log_lines_a_second_most: int = 0
    traced_peak_bytes: int = 0

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


class _Lines(logging.Handler):
    """Counts what is logged, and keeps what must not be."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines = 0
        self.bugs: list[str] = []
        self._second, self._in_second, self.most = -1, 0, 0

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += 1
        second = int(trio.current_time())
        self._in_second = self._in_second + 1 if second == self._second else 1
        self._second = second
        self.most = max(self.most, self._in_second)
        if record.levelno >= logging.ERROR or record.exc_info:
            self.bugs.append(logging.Formatter().format(record))


def lay_siege(
    values: int, seed: int, progress: Callable[[Report], None] | None = None, *, trace: bool = False
) -> Report:
    """Attack a node with so many values. Raises `AssertionError` for whatever did not hold."""
    report = Report(seed)
    lines = _Lines()
    log = logging.getLogger("rns_ble")
    level = log.level
    log.addHandler(lines)
    log.setLevel(logging.DEBUG)
    if trace:
        tracemalloc.start()
    began = time.process_time()
    try:
        run_in_virtual_time(_siege, values, seed, report, lines, progress, seed=seed)
        report.traced_peak_bytes = tracemalloc.get_traced_memory()[1] if trace else 0
    finally:
        log.removeHandler(lines)
        log.setLevel(level)
        if trace:
            tracemalloc.stop()
    report.cpu_seconds = time.process_time() - began
    report.values_per_second = report.values / report.cpu_seconds
    report.cpu_seconds_per_megabyte = report.cpu_seconds / report.megabytes
    report.log_lines, report.log_lines_a_second_most = lines.lines, lines.most
    report.exceptions = len(lines.bugs)
    assert not lines.bugs, lines.bugs[0]
    return report


async def _siege(
    values: int, seed: int, report: Report, lines: _Lines, progress: Callable[[Report], None] | None
) -> None:
    air = Air(advertising_interval=1)
    grammar = Grammar(seed)
    honest = Node(air, 2)
    driver = BesiegedDriver(air, address_of(1), grammar, lambda: [honest.identity, node.identity])
    node = Node(air, 1, BLEConfig(power_mode="aggressive"), driver)
    node.packets = _Discarded()
    async with running(node, honest), trio.open_nursery() as nursery:
        await until(lambda: honest.identity in node.peers and node.identity in honest.peers)
        if tracemalloc.is_tracing():
            tracemalloc.reset_peak()
        nursery.start_soon(driver.besiege)
        nursery.start_soon(_use, node, honest, report)
        shown = 0
        while driver.figures.values < values:
            await trio.sleep(0.25)
            _check(node, report, lines)
            report.values, report.links = driver.figures.values, driver.figures.links
            report.megabytes = driver.figures.bytes / 1e6
            report.sightings, report.virtual_seconds = driver.figures.sightings, trio.current_time()
            if progress is not None and report.values >= shown:
                shown += max(values // 100, 1)
                progress(report)
        nursery.cancel_scope.cancel()
    assert node.history[:2] == ["up", f"joined {honest.identity[:1].hex()}"]
    who = node.identity[:1].hex()
    assert honest.history == ["up", f"joined {who}", f"left {who}", "down: stopped"], "its link never ended"


class _Discarded(list[tuple[bytes, bytes]]):
    """Packets received, without those of attackers: forged ones come under the honest peer's name as well."""

    def append(self, item: tuple[bytes, bytes]) -> None:
        if item[0] == identity_of(2) and item[1].startswith(b"honest"):
            super().append(item)


async def _use(node: Node, honest: Node, report: Report) -> None:
    """The honest peer and the node send each other packets, and wait for each."""
    for n in count():
        packet = b"honest" + n.to_bytes(8) + bytes(n % 520)
        for one, other in ((node, honest), (honest, node)):
            began = trio.current_time()
            assert one.peers[other.identity].outgoing.put(packet)
            with trio.move_on_after(SERVED_WITHIN):
                while (one.identity, packet) not in other.packets:
                    await trio.sleep(0.02)
            took = trio.current_time() - began
            assert took < SERVED_WITHIN, f"packet {n} of {one} has not arrived"
            other.packets.clear()
            report.honest_packets += 1
            report.honest_packet_slowest = max(report.honest_packet_slowest, took)
        await trio.sleep(1)


def _check(node: Node, report: Report, lines: _Lines) -> None:
    """The bounds that must hold at any moment."""
    assert not lines.bugs, lines.bugs[0]
    mesh = node.mesh
    places = node.config.max_connections
    sessions = [session for peer in mesh.peers.values() for session in peer._sessions.values()]
    for session in sessions:
        report.bytes_in_progress_most = max(
            report.bytes_in_progress_most, session._fragments.bytes_in_progress
        )
        report.packets_in_progress_most = max(
            report.packets_in_progress_most, session._fragments.packets_in_progress
        )
        report.halves_waiting_most = max(report.halves_waiting_most, len(session._halves._waiting))
    report.peers_most = max(report.peers_most, len(mesh.peers))
    report.strangers_most = max(report.strangers_most, mesh._strangers.borrowed_tokens)
    report.places_most = max(report.places_most, int(mesh.admission.places.borrowed_tokens))
    report.candidates_most = max(report.candidates_most, len(mesh.admission.candidates))
    assert report.bytes_in_progress_most <= MAX_BYTES
    assert report.packets_in_progress_most <= MAX_PACKETS
    assert report.halves_waiting_most <= CUTS_MAXIMUM
    assert report.peers_most <= PEERS_PER_PLACE * places
    assert report.strangers_most <= places
    assert report.places_most <= places
    assert report.candidates_most <= node.config.max_discovered_peers
    live = sum(len(peer.links) for peer in mesh.peers.values())
    attempts = len(mesh.admission.in_flight())
    # The radio makes one attempt at a time, and it may have lost its place to a link and not have ended yet.
    assert live + attempts <= mesh.admission.places.borrowed_tokens + 1, (
        "links and attempts have their places"
    )
    assert all(len(peer.links) <= LINKS_MAXIMUM for peer in mesh.peers.values())
