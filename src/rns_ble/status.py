"""Immutable snapshots: of a running interface, for its socket, and of its mesh (`BLEInterface.snapshot`).

Times are seconds: an age or a duration, never a clock reading, so that a snapshot means the same in
another process. Counters only grow as long as what they belong to lives; rates come of two snapshots.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any

from rns_ble.protocol.fragmentation import ReassemblyStatistics


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """One GATT connection to a peer."""

    address: str
    role: str
    """Ours: `central` or `peripheral`."""
    att_mtu: int
    """Bytes."""
    rssi: int | None
    """dBm."""
    data_path: str
    age: float
    heard: float
    """Seconds since the last recognised value."""
    rx_values_dropped: int
    """Values that found no room on their way up, because the process was busy."""


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """One remote identity. Packets are Reticulum's, bytes are theirs without the fragments' headers."""

    identity: str
    """32 hexadecimal digits."""
    links: tuple[LinkStatus, ...]
    age: float
    rx_packets: int
    rx_bytes: int
    tx_packets: int
    tx_bytes: int
    tx_queued: int
    """Packets that wait to be sent."""
    tx_bytes_queued: int
    tx_dropped: int
    """Packets that found no room in the outgoing queue, had to make room, or lost their links on the way."""
    rx_incomplete: int
    """Packets of which fragments were lost, late or contradictory; of one whose first fragment was lost, each
    fragment that came without it."""
    rx_foreign: int
    """Values that are none of ours, or malformed."""
    reassembly: ReassemblyStatistics
    """What became of the fragments, over all its links, also those that have ended."""


@dataclass(frozen=True, slots=True)
class CandidateStatus:
    """One Bluetooth address that advertises our service."""

    address: str
    name: str | None
    rssi: int | None
    """dBm."""
    seen: float
    """Seconds since the last sighting."""
    identity: str | None
    """Known once a link to this address has been up."""
    attempts: int
    """Those that succeeded or failed. That of a live link is counted when it ends."""
    failures: int
    """Consecutive ones of one kind: it could not be reached, or turned us away."""
    verdict: str
    """Why it is, or is not, being dialled: the name of a `rns_ble.candidate.Verdict` in lower case."""
    verdict_text: str
    """The same in words."""
    verdict_ends: float | None
    """Seconds until the verdict may change by itself; None when only an event changes it."""
    flags: str | None
    """What it says that it can't do: `peripheral-only`, `central-only`, or None."""
    left_alone: float
    """Seconds for which it is still left alone because of its failures (the blacklist); 0 when it is not. The
    verdict may be another one meanwhile, for example while it is not heard."""
    tried: float | None
    """Seconds since the last attempt began, which may be in flight; None when there was none."""
    last_failure: str | None
    """Why the last attempt that failed has; None when there was none since the last success."""


@dataclass(frozen=True, slots=True)
class MeshStatus:
    """All that the mesh knows."""

    identity: str
    address: str | None
    scanning: bool
    advertising: bool
    links: int
    max_connections: int
    attempts_in_flight: tuple[str, ...]
    """Addresses."""
    strangers: int
    """Centrals that are connected and have not told who they are; they take no place of a peer's."""
    peers: tuple[PeerStatus, ...]
    candidates: tuple[CandidateStatus, ...]


@dataclass(frozen=True, slots=True)
class InterfaceStatus:
    """One interface, also while its adapter is missing. This is what its socket tells (docs/status.md)."""

    name: str
    """That of its section in Reticulum's configuration."""
    online: bool
    """As Reticulum sees it."""
    offline_reason: str | None
    """Why it is offline, in the words of the log; None when it is online."""
    driver: str
    """The key `driver`, or the name of the class where the interface brings one of its own."""
    adapter: str | None
    """The key `adapter`."""
    transport: str | None
    """The key `transport`."""
    address: str | None
    """The adapter's own, where it is known."""
    pid: int
    version: str
    """Of rns_ble."""
    rns_version: str
    age: float
    """Seconds since the interface has started."""
    packets_dropped: int
    """Packets received that Reticulum was too slow to take."""
    mesh: MeshStatus | None
    """None while the interface is offline."""


def as_json(status: InterfaceStatus) -> bytes:
    """One line: the snapshot as nested objects, with the names above."""
    return json.dumps(status, default=_members, separators=(",", ":")).encode() + b"\n"


def _members(part: Any) -> dict[str, object]:
    # As dataclasses.asdict, which copies all of it and takes three times as long.
    return {field.name: getattr(part, field.name) for field in fields(part)}
