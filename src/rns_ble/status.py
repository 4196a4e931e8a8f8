"""Immutable snapshots of a running interface: what `BLEInterface.snapshot` answers.

Times are seconds: an age or a duration, never a clock reading, so that a snapshot means the same in
another process.
"""

from __future__ import annotations

from dataclasses import dataclass


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
    """Packets of which fragments were lost, late or contradictory."""
    rx_foreign: int
    """Values that are none of ours, or malformed."""


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
    """Why it is, or is not, being dialled."""
    verdict_ends: float | None
    """Seconds until the verdict may change by itself; None when only an event changes it."""


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
    peers: tuple[PeerStatus, ...]
    candidates: tuple[CandidateStatus, ...]
