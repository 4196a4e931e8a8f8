"""Interfaces whose driver has no radio but brings a neighbour along: a whole mesh node without Reticulum."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from rns_ble.config import BLEConfig
from rns_ble.interface import BLEInterface
from rns_ble.peer import Peer
from rns_ble.supervisor import supervise
from rns_ble.testing import Air, MockBLEDriver

OURS, THEIRS = "02:00:00:00:00:01", "02:00:00:00:00:02"
IDENTITY = b"\xb0" * 16
EAGER = BLEConfig(power_mode="aggressive")


class Neighbour:
    """The other end, as a listener to its own mesh. Everything may be used from any thread."""

    def __init__(self) -> None:
        self.packets: list[bytes] = []
        self._peer: Peer | None = None

    def mesh_up(self, mesh) -> None:
        pass

    def mesh_down(self, reason: str) -> None:
        pass

    def peer_joined(self, peer: Peer) -> None:
        self._peer = peer

    def packet_received(self, peer: Peer, packet: bytes) -> None:
        self.packets.append(packet)

    def peer_left(self, peer: Peer) -> None:
        self._peer = None

    def send(self, packet: bytes) -> None:
        until(lambda: self._peer is not None)
        assert self._peer is not None
        assert self._peer.outgoing.put(packet)


class NeighbourDriver(MockBLEDriver):
    """A driver on an air with one neighbour, who is there as long as the driver is open."""

    def __init__(self, config: BLEConfig) -> None:
        super().__init__(Air(), OURS)
        self.neighbour = Neighbour()

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[None]:
        other = MockBLEDriver(self.air, THEIRS)
        async with super()._run(), trio.open_nursery() as nursery:
            nursery.start_soon(supervise, other, EAGER, IDENTITY, self.neighbour)
            yield
            nursery.cancel_scope.cancel()


class HangingDriver(NeighbourDriver):
    """A driver whose stack never lets go, and takes the thread with it."""

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[None]:
        async with super()._run():
            try:
                yield
            finally:
                threading.Event().wait()


class Neighbourly(BLEInterface):
    driver_class = NeighbourDriver
    driver: NeighbourDriver

    @property
    def neighbour(self) -> Neighbour:
        return self.driver.neighbour

    def on_trio_thread(self, function: Callable[..., Any], *arguments: object) -> Any:
        return self._host.ask(lambda: function(*arguments))

    def separate(self) -> None:
        self.on_trio_thread(self.driver.air.separate, OURS, THEIRS)

    def unite(self) -> None:
        self.on_trio_thread(self.driver.air.unite, OURS, THEIRS)


class Hanging(BLEInterface):
    driver_class = HangingDriver


def until(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    """Wait for another thread to make it true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
