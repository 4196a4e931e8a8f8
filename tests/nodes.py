"""Meshes for tests: whole nodes without RNS, on any driver."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from rns_ble.config import BLEConfig
from rns_ble.drivers.base import BLEDriverInterface
from rns_ble.mesh import Mesh
from rns_ble.peer import Peer
from rns_ble.supervisor import supervise
from rns_ble.testing import Air, MockBLEDriver


def address_of(index: int) -> str:
    return f"02:00:00:00:00:{index:02X}"


def identity_of(index: int) -> bytes:
    return bytes([0xA0 + index]) * 16


@dataclass
class Node:
    """One mesh with a listener that keeps what it is told, and checks the order of it."""

    air: Air | None
    """For a mock driver at `address_of(index)`, if no other driver is given."""
    index: int
    config: BLEConfig = field(default_factory=lambda: BLEConfig(power_mode="aggressive"))
    driver: BLEDriverInterface = None
    mesh: Mesh = None
    up: bool = False
    peers: dict[bytes, Peer] = field(default_factory=dict)
    packets: list[tuple[bytes, bytes]] = field(default_factory=list)
    history: list[str] = field(default_factory=list)
    longest_packet: int = 516
    """Bytes: Reticulum's 500, and the access code of 16 that interfaces like ours have by default."""
    linked_elsewhere: Callable[[bytes], bool] = lambda _identity: False
    times: list[float] = field(default_factory=list)
    """On Trio's clock, for each entry of the history."""

    def __post_init__(self) -> None:
        self.driver = self.driver or MockBLEDriver(self.air, address_of(self.index))

    @property
    def identity(self) -> bytes:
        return identity_of(self.index)

    def _note(self, what: str) -> None:
        self.history.append(what)
        self.times.append(trio.current_time())

    def mesh_up(self, mesh: Mesh) -> None:
        assert not self.up
        self.mesh = mesh
        self.up = True
        self._note("up")

    def mesh_down(self, reason: str) -> None:
        assert not self.peers, "every peer has left before"
        self.up = False
        self._note(f"down: {reason}")

    def peer_joined(self, peer: Peer) -> None:
        assert self.up
        assert peer.identity not in self.peers
        self.peers[peer.identity] = peer
        self._note(f"joined {peer.identity[:1].hex()}")

    def packet_received(self, peer: Peer, packet: bytes) -> None:
        assert self.peers[peer.identity] is peer
        self.packets.append((peer.identity, packet))

    def peer_left(self, peer: Peer) -> None:
        assert self.peers.pop(peer.identity) is peer
        self._note(f"left {peer.identity[:1].hex()}")

    async def run(self) -> None:
        await supervise(
            self.driver, self.config, self.identity, self, self.longest_packet, self.linked_elsewhere
        )

    def nothing_borrowed(self) -> bool:
        admission = self.mesh.admission
        limiters = [c.limiter for c in admission.candidates.values()]
        limiters += [admission.radio, admission.places, self.driver.establishing, self.mesh._strangers]
        return not any(limiter.borrowed_tokens for limiter in limiters)


@asynccontextmanager
async def running(*nodes: Node) -> AsyncIterator[None]:
    """The nodes at work; afterwards nothing is left of any of them."""
    async with trio.open_nursery() as nursery:
        for node in nodes:
            nursery.start_soon(node.run)
        yield
        nursery.cancel_scope.cancel()
    for node in nodes:
        assert not node.driver.connected_peers
        assert not node.up
        assert node.mesh is None or node.nothing_borrowed()


async def until(condition, seconds: float = 120) -> float:
    """Wait for a condition; how long it took."""
    began = trio.current_time()
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.05)
    return trio.current_time() - began
