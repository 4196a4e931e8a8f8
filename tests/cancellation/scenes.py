"""Short plays of a mesh, in virtual time, to be interrupted at any checkpoint.

Each scene has a first node, which is interrupted, and others around it. What happens in it does not depend on
what has come before, so that it goes on after an interruption; and where there was none it comes to its aim.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import trio

from rns_ble.config import BLEConfig
from rns_ble.drivers.base import BLEError, BLELink
from rns_ble.drivers.hci import BumbleDriver, VirtualRadio
from rns_ble.mesh import Mesh
from rns_ble.peer import Peer
from rns_ble.protocol.gatt import IDENTITY_UUID, RX_UUID, SERVICE_UUID, TX_UUID
from rns_ble.session import Session
from rns_ble.testing import Air, MockBLEDriver
from rns_ble.testing.air import MockLink
from tests.nodes import Node, address_of, identity_of, running

PATIENCE = 400.0
"""Virtual seconds for all to be as before: a peer that is left alone after three failures, and half of that
again."""

PACKET = bytes(range(250))


def config(**keys) -> BLEConfig:
    return BLEConfig(**{"power_mode": "aggressive", "dial_grace": 3, **keys})


def linked(one: Node, other: Node) -> bool:
    return other.identity in one.peers and one.identity in other.peers


def say(sender: Node, receiver: Node, packet: bytes = PACKET) -> None:
    """Where the two are linked."""
    if receiver.identity in sender.peers:
        sender.peers[receiver.identity].outgoing.put(packet)


class Scene:
    """Two nodes meet and exchange packets; their link is lost in the middle of one, and comes back."""

    def __init__(self, driver: type[MockBLEDriver] = MockBLEDriver) -> None:
        """`driver`: the first node's."""
        self.air = Air(advertising_interval=1, latency=0.01, att_mtu=100)
        self.first = Node(self.air, 1, config(), driver=driver(self.air, address_of(1)))
        self.other = Node(self.air, 2, config())

    @property
    def others(self) -> list[Node]:
        return [self.other]

    async def play(self) -> None:
        await trio.sleep(2)
        for _ in range(2):
            say(self.first, self.other)
            say(self.other, self.first)
        await trio.sleep(6)
        say(self.first, self.other)
        await trio.sleep(0.015)
        self.air.drop(address_of(1), address_of(2))
        await trio.sleep(0.1)
        say(self.first, self.other)  # it waits for the next link
        await trio.sleep(6)

    def came_to_its_aim(self) -> bool:
        return len(self.first.packets) == 2 and len(self.other.packets) == 4 and len(self.air.connects) == 2

    # --- afterwards ---

    def nobody_is_left(self) -> bool:
        """Whether every driver has left the air."""
        return not self.air.drivers

    async def no_link_is_forgotten(self) -> None:
        """Each link of the first node has somebody who serves it; what is in between gets some seconds."""

        def served() -> set[BLELink]:
            return {link for peer in self.first.mesh.peers.values() for link in peer.links}

        with trio.fail_after(6):
            while self.first.up and not set(self.first.driver.links) <= served():
                await trio.sleep(0.5)

    def calm(self) -> None:
        """Whatever the play would have ended, had it not been interrupted."""
        for node in (self.first, *self.others):
            node.driver.repair()
            node.driver.advertisement_to_spare = True
        self.air.rssi = -60

    async def works(self) -> None:
        """The first node finds the other one, and packets go both ways."""
        for sender, receiver in ((self.first, self.other), (self.other, self.first)):
            receiver.packets.clear()
            with trio.fail_after(PATIENCE):
                while (sender.identity, b"works") not in receiver.packets:
                    say(sender, receiver, b"works")
                    await trio.sleep(1)


class TwoLinks(Scene):
    """Both dial, and the second link is closed when it has settled."""

    def __init__(self, driver: type[MockBLEDriver] = MockBLEDriver) -> None:
        super().__init__(driver)
        self.air.one_link_per_pair = False
        self.other.driver = driver(self.air, address_of(2))  # as slow as the first one, or they do not meet
        for node in (self.first, self.other):
            node.driver.hides_address = True

    async def play(self) -> None:
        for _ in range(3):
            await trio.sleep(4)
            say(self.first, self.other)
            say(self.other, self.first)
        await trio.sleep(4)

    def came_to_its_aim(self) -> bool:
        return len(self.air.connects) == 2 and len(self.first.driver.links) == 1


class NewAddress(Scene):
    """The other node is linked, and linked again under a new address: there is room for both."""

    async def play(self) -> None:
        await trio.sleep(3)
        self.other.driver.rotate_address("02:00:00:00:00:99")
        for _ in range(3):
            await trio.sleep(5)
            say(self.first, self.other)
            say(self.other, self.first)

    def came_to_its_aim(self) -> bool:
        return len(self.air.connects) == 2 and len(self.first.driver.links) == 2


class Idle(Scene):
    """Nobody says anything, and scans pause: keepalives, probes and their answers."""

    def __init__(self, driver: type[MockBLEDriver] = MockBLEDriver) -> None:
        super().__init__(driver)
        self.air.advertising_interval = 5
        self.first.config = self.other.config = config(power_mode="saver")

    async def play(self) -> None:
        await trio.sleep(70)

    def came_to_its_aim(self) -> bool:
        (link,) = self.first.mesh.status().peers[0].links
        return link.heard < 16 < link.age


class Stranger(Scene):
    """A central that is slow to tell who it is, pings, and is closed; and one that never tells."""

    async def play(self) -> None:
        self.told = []
        for identity in (identity_of(7), b"?"):
            async with MockBLEDriver(self.air, address_of(7)) as driver:
                driver.set_identity(identity_of(7))
                driver._identity = b"\x00"
                await driver.start(SERVICE_UUID, RX_UUID, TX_UUID, IDENTITY_UUID)
                await trio.sleep(1)
                with trio.move_on_after(40), suppress(BLEError):
                    link = await driver.connect(address_of(1))
                    await self._talk(link, identity)

    async def _talk(self, link: BLELink, identity: bytes) -> None:
        try:
            for value in (identity, b"\x04\x07", b"\x04\x08"):
                await link.send(value)
                await trio.sleep(0.5)
            with trio.move_on_after(31):
                async for value in link:
                    self.told.append(value)
        finally:
            await link.aclose()

    def came_to_its_aim(self) -> bool:
        return (
            self.told.count(b"\x05\x07") == 1 and f"joined {identity_of(7)[:1].hex()}" in self.first.history
        )


class Failures(Scene):
    """The driver fails, more than once, and is repaired; then it does not advertise for a while."""

    def __init__(self, driver: type[MockBLEDriver] = MockBLEDriver) -> None:
        super().__init__(driver)
        self.air.advertising_interval = 2

    async def play(self) -> None:
        for _ in range(2):
            await trio.sleep(2.5)
            say(self.other, self.first)
            self.first.driver.fail()
            await trio.sleep(2.5)
            self.first.driver.repair()
        self.first.driver.advertisement_to_spare = False
        await trio.sleep(10)
        self.first.driver.fail()
        self.first.driver.repair()
        await trio.sleep(20)
        self.first.driver.advertisement_to_spare = True
        await trio.sleep(70)

    def came_to_its_aim(self) -> bool:
        return self.first.history.count("up") >= 3 and self.first.mesh.status().advertising


class Attempts(Scene):
    """Of those that are dialled one hangs, one refuses, one is nobody, one is us, and one is the other node.

    There is one place, so the first node stops advertising, and starts again.
    """

    def __init__(self, driver: type[MockBLEDriver] = MockBLEDriver) -> None:
        super().__init__(driver)
        self.first.config = config(max_connections=1, connection_timeout=8)
        self.air.hanging.add(address_of(5))
        self.air.refusing.add(address_of(6))
        self.air.rssis = {frozenset((address_of(1), address_of(n))): -50 for n in (5, 6, 7, 8)}

    async def play(self) -> None:
        self.air.rssi = None  # the other node is not heard yet
        async with AsyncExitStack() as stack:
            for n in (5, 6, 7, 8):
                driver = await stack.enter_async_context(MockBLEDriver(self.air, address_of(n)))
                driver.set_identity(identity_of(n))
                await driver.start(SERVICE_UUID, RX_UUID, TX_UUID, IDENTITY_UUID)
                await driver.start_advertising()
                driver.advertised_identity = {7: b"?", 8: identity_of(1)}.get(n, identity_of(n))
            await trio.sleep(20)
        self.air.rssi = -60
        await trio.sleep(8)
        self.air.drop(address_of(1), address_of(2))
        await trio.sleep(15)

    def came_to_its_aim(self) -> bool:
        dialled = {address for _, source, address in self.air.connects if source == address_of(1)}
        return dialled >= {address_of(n) for n in (5, 6, 7, 8)} and linked(self.first, self.other)


class SharedChannel(Scene):
    """Two centrals hear what the first node notifies."""

    def __init__(self, driver: type[MockBLEDriver] = MockBLEDriver) -> None:
        super().__init__(driver)
        shared = driver(self.air, address_of(9), shares_notifications=True)
        self.first = Node(self.air, 9, config(enable_central=False), driver=shared)
        self.other = Node(self.air, 2, config(enable_peripheral=False))
        self.third = Node(self.air, 3, config(enable_peripheral=False))

    @property
    def others(self) -> list[Node]:
        return [self.other, self.third]

    async def play(self) -> None:
        for n in range(3):
            await trio.sleep(2)
            for packet in (PACKET, bytes([n]) * 150):
                say(self.first, self.other, packet)
                say(self.first, self.third, packet)
            say(self.other, self.first)
            await trio.sleep(0.02)
            if n == 1:
                self.air.drop(address_of(9), address_of(3))
                await trio.sleep(6)

    def came_to_its_aim(self) -> bool:
        return len(self.other.packets) >= 5 and len(self.third.packets) >= 4


class OnRadio(Scene):
    """The same with Bumble's stack on a virtual radio: one walks away and back, a dongle is unplugged."""

    def __init__(self) -> None:
        self.radio = VirtualRadio(latency=0.001)
        self.first, self.other = (
            Node(
                None,
                n,
                config(),
                driver=BumbleDriver(
                    self.radio, address=f"C0:00:00:00:00:0{n}", att_mtu=185, advertising_interval=1
                ),
            )
            for n in (1, 2)
        )

    async def play(self) -> None:
        await trio.sleep(3)
        say(self.first, self.other)
        say(self.other, self.first)
        await trio.sleep(0.5)
        self.radio.separate(self.first.driver.address)
        await trio.sleep(3.5)
        self.radio.unite(self.first.driver.address)
        await trio.sleep(5)
        with suppress(KeyError):
            self.radio.unplug(self.first.driver.address)
        await trio.sleep(8)  # its last link was of no use yet, so the other one is left in peace for a while

    def came_to_its_aim(self) -> bool:
        return (
            bool(self.first.packets and self.other.packets)
            and self.first.history.count("up") == 2
            and self.first.history.count(f"joined {identity_of(2)[:1].hex()}") >= 2
        )

    def nobody_is_left(self) -> bool:
        return not self.radio.addresses and not self.radio.connections

    async def no_link_is_forgotten(self) -> None:
        """The radio's end tells: a forgotten connection would stay there."""

    def calm(self) -> None:
        self.radio.unite(self.first.driver.address)


async def pause() -> None:
    await trio.sleep(0.001)


class PausingLink(MockLink):
    """Its calls wait for a moment, as those of a real stack do."""

    async def send(self, value: bytes) -> None:
        await pause()
        await super().send(value)

    async def aclose(self) -> None:
        await super().aclose()
        with trio.CancelScope(shield=True):
            await pause()


class PausingDriver(MockBLEDriver):
    """As `PausingLink`."""

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[None]:
        await pause()
        async with super()._run():
            try:
                yield
            finally:
                with trio.CancelScope(shield=True):
                    await pause()

    async def start(self, *uuids: str) -> None:
        await pause()
        await super().start(*uuids)

    async def start_scanning(self) -> None:
        await pause()
        await super().start_scanning()

    async def stop_scanning(self) -> None:
        await pause()
        await super().stop_scanning()

    async def start_advertising(self, *what: Any) -> None:
        await pause()
        await super().start_advertising(*what)

    async def stop_advertising(self) -> None:
        await pause()
        await super().stop_advertising()

    async def connect(self, address: str) -> BLELink:
        await pause()
        link = await super().connect(address)
        link.__class__ = PausingLink
        return link

    def _accept(self, link: BLELink) -> bool:
        link.__class__ = PausingLink
        return super()._accept(link)


SCENES: list[type[Scene]] = [
    Scene,
    TwoLinks,
    NewAddress,
    Idle,
    Stranger,
    Failures,
    Attempts,
    SharedChannel,
    OnRadio,
]


def is_a_nodes(task: trio.lowlevel.Task | None) -> bool:
    """Whether a task is one of a node's, its driver's included, and not the play's own."""
    while task is not None:
        if task.name.endswith("Node.run"):
            return True
        task = None if task.parent_nursery is None else task.parent_nursery.parent_task
    return False


@asynccontextmanager
async def surrounded(scene: Scene) -> AsyncIterator[None]:
    """The other nodes at work. At the end nobody is left in the air."""
    async with running(*scene.others):
        yield
    assert scene.nobody_is_left()


def nothing_left(
    kinds: tuple[type, ...] = (Mesh, Peer, Session, BLELink, asyncio.Task),
) -> Callable[[], None]:
    """Call what this returns when all is over: no object of ours has come and stayed."""
    gc.collect()
    before = {id(thing) for thing in gc.get_objects() if isinstance(thing, kinds)}

    def check() -> None:
        gc.collect()
        left = [thing for thing in gc.get_objects() if isinstance(thing, kinds) and id(thing) not in before]
        assert not left

    return check
