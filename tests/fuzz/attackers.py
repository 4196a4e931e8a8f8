"""A driver with attackers in range: who they say they are, what they send, and when they leave."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NoReturn

import trio
import trio.lowlevel

from rns_ble.drivers.base import AlreadyConnected, BLELink, LinkLost, PeerUnreachable, ProtocolViolation, Role
from rns_ble.testing import Air, MockBLEDriver
from tests.fuzz.grammar import Grammar

MTUS = (23, 24, 100, 185, 247, 515, 516, 517)
ATTACKERS = 40
"""Addresses that attack; they also advertise."""


def is_attacker(address: str) -> bool:
    return address.startswith("66:")


class Figures:
    """What was sent."""

    values = 0
    bytes = 0
    links = 0
    sightings = 0


class HostileLink(BLELink):
    """A link whose other end is the grammar. It comes without a radio, so as fast as it is received."""

    def __init__(
        self,
        grammar: Grammar,
        address: str,
        role: Role,
        identity: bytes | None,
        told: list[bytes],
        figures: Figures,
    ) -> None:
        random = grammar.random
        self.address, self.role, self.peer_identity = address, role, identity
        self.keeps_order = random.random() < 0.5
        self._grammar, self._figures = grammar, figures
        self._att_mtu = random.choice(MTUS)
        self._identity = identity or (told[-1] if told else bytes(16))
        self._values = list(reversed(told))
        self._left = int(math.exp(random.uniform(0, 8)))  # bursts, until it is silent or gone
        self._stays = random.random() < 0.3
        self._breaks = random.random() < 0.1
        self._closed = trio.Event()

    @property
    def att_mtu(self) -> int:
        if self._att_mtu < 517 and self._grammar.random.random() < 0.001:
            self._att_mtu += 1
        return self._att_mtu

    async def send(self, value: bytes) -> None:
        assert len(value) <= self.value_limit
        await trio.lowlevel.checkpoint()
        random = self._grammar.random.random()
        if self._closed.is_set() or (self._breaks and random < 0.01):
            self._left = 0
            raise LinkLost("gone")
        if self._breaks and random < 0.02:
            await self._closed.wait()
            raise LinkLost("it has stood still")

    async def receive(self) -> bytes:
        if self._closed.is_set():
            raise trio.ClosedResourceError
        while not self._values:
            await self._pause()
            self._left -= 1
            self._values = self._grammar.burst(self._identity)[::-1]
        value = self._values.pop()
        self._figures.values += 1
        self._figures.bytes += len(value)
        return value

    async def _pause(self) -> None:
        random = self._grammar.random.random()
        if self._left <= 0:
            with trio.move_on_after(1000 if self._stays else 0):
                await self._closed.wait()
            raise (trio.ClosedResourceError if self._closed.is_set() else trio.EndOfChannel)
        if random < 0.5:
            await trio.lowlevel.checkpoint()
        else:
            with trio.move_on_after(0.01 if random < 0.98 else 60 * (random - 0.97)):
                await self._closed.wait()
        if self._closed.is_set():
            raise trio.ClosedResourceError

    async def aclose(self) -> None:
        self._closed.set()
        with trio.CancelScope(shield=True):
            await trio.lowlevel.checkpoint()


class BesiegedDriver(MockBLEDriver):
    """A driver on an `Air`, to which attackers come as well, and whom it hears, and dials."""

    def __init__(
        self, air: Air, address: str, grammar: Grammar, may_claim: Callable[[], list[bytes]]
    ) -> None:
        """`may_claim`: identities of others that the attackers may say are theirs, as of now."""
        super().__init__(air, address)
        self.figures = Figures()
        self._grammar = grammar
        self._may_claim = may_claim

    def _address(self) -> str:
        return f"66:00:00:00:00:{self._grammar.random.randrange(ATTACKERS):02X}"

    def _claimed(self) -> bytes:
        random = self._grammar.random
        if random.random() < 0.3:
            return random.choice(self._may_claim())
        return b"\xff" * 15 + bytes([random.randrange(256)])

    def _told(self) -> list[bytes]:
        """What a central says first: the handshake, late, wrong, or not at all."""
        random = self._grammar.random
        before = self._grammar.burst(bytes(16)) if random.random() < 0.2 else []
        before = [value for value in before if len(value) != 16]
        what = random.random()
        if what < 0.1:
            return before
        if what < 0.2:
            return [*before, random.randbytes(random.choice((0, 15, 17, 32)))]
        return [*before, self._claimed()]

    async def besiege(self) -> NoReturn:
        """Centrals that come, and advertisements."""
        random = self._grammar.random
        while True:
            for _ in range(random.randrange(1, 20)):
                self.figures.sightings += 1
                address = self._address()
                if random.random() < 0.2:
                    address = f"67:{random.randrange(256):02X}:00:00:00:00"
                self._sight(self._grammar.device(address))
            by_driver = random.random() < 0.2  # drivers may take the handshake themselves
            link = HostileLink(
                self._grammar,
                self._address(),
                Role.PERIPHERAL,
                self._claimed() if by_driver else None,
                [] if by_driver else self._told(),
                self.figures,
            )
            if self._accept(link):
                self.figures.links += 1
            await trio.sleep(random.choice((0.001, 0.01, 0.1, 1)))

    async def connect(self, address: str) -> BLELink:
        if not address.startswith(("66:", "67:")):
            return await super().connect(address)
        random = self._grammar.random
        async with self.establishing:
            self.air.connects.append((trio.current_time(), self.radio_address, address))
            await trio.sleep(random.choice((0, 0.05, 1)))
            what = random.random()
            if what < 0.1:
                await trio.sleep_forever()
            if what < 0.4:
                kind = random.choice((PeerUnreachable, ProtocolViolation, AlreadyConnected, LinkLost))
                raise kind("a fuzzed failure")
            self.figures.links += 1
            return HostileLink(self._grammar, address, Role.CENTRAL, self._claimed(), [], self.figures)
