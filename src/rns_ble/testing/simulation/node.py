"""One of our nodes in a `World`: the mesh as it runs in the interface, without Reticulum above it."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final, NoReturn

import trio

from rns_ble.config import BLEConfig
from rns_ble.mesh import Mesh
from rns_ble.peer import Peer
from rns_ble.supervisor import supervise
from rns_ble.testing.simulation.world import SimulatedDriver

LONGEST_PACKET: Final = 564
"""Bytes: Reticulum's 500 with an access code of 64, the longest that there is."""

CURRENT: Final[ContextVar[Node | None]] = ContextVar("node", default=None)
"""Whose task this is. Every task of a node's descends from its `run`, and inherits this."""


class Node:
    """The mesh on a simulated adapter. It is the mesh's `Listener`, and keeps what it is told."""

    def __init__(self, driver: SimulatedDriver, identity: bytes, config: BLEConfig) -> None:
        self.driver = driver
        self.identity = identity
        self.config = config
        self.mesh: Mesh | None = None
        """The mesh that runs now."""
        self.peers: dict[bytes, Peer] = {}
        """The RNS interfaces, by identity."""
        self.joins = 0
        """How many RNS interfaces there have been."""
        self.packets: list[tuple[bytes, bytes]] = []
        """Received: identity and packet."""
        self.broken: list[str] = []
        """What this listener was told that can't be."""

    def __repr__(self) -> str:
        return f"<Node {self.driver.number} {self.driver.radio_address}>"

    async def run(self) -> NoReturn:
        """Until cancelled. Everything is closed then."""
        CURRENT.set(self)
        await supervise(self.driver, self.config, self.identity, self, LONGEST_PACKET)

    def linked(self) -> set[bytes]:
        """The identities with a live link."""
        return {identity for identity, peer in self.peers.items() if peer.links}

    async def send(self, identity: bytes, packet: bytes) -> None:
        """Queue a packet for a peer that is linked."""
        assert self.peers[identity].outgoing.put(packet), "a test sends less than the queue holds"
        await trio.lowlevel.checkpoint()

    # --- the mesh's listener ---

    def mesh_up(self, mesh: Mesh) -> None:
        """See `rns_ble.mesh.Listener`."""
        self.mesh = mesh

    def mesh_down(self, reason: str) -> None:
        """See `rns_ble.mesh.Listener`."""
        self.mesh = None
        if self.peers:
            self.broken.append(f"the mesh is down ({reason}) and {len(self.peers)} peers have not left")

    def peer_joined(self, peer: Peer) -> None:
        """See `rns_ble.mesh.Listener`."""
        if peer.identity in self.peers:
            self.broken.append(f"a second interface for {peer}")
        self.peers[peer.identity] = peer
        self.joins += 1

    def packet_received(self, peer: Peer, packet: bytes) -> None:
        """See `rns_ble.mesh.Listener`."""
        if self.peers.get(peer.identity) is not peer:
            self.broken.append(f"a packet from {peer}, which has no interface")
        self.packets.append((peer.identity, packet))

    def peer_left(self, peer: Peer) -> None:
        """See `rns_ble.mesh.Listener`."""
        if self.peers.pop(peer.identity, None) is not peer:
            self.broken.append(f"{peer} left and had not joined")
