"""What comes in from BlueZ's peripheral role, in any order, without a bus."""

from __future__ import annotations

import sys
from contextlib import suppress
from random import Random
from types import SimpleNamespace

import pytest
import trio
import trio.lowlevel

from rns_ble.drivers.base import ACCEPTED_BUFFERED
from tests.fuzz.grammar import Grammar

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="BlueZ is Linux's")

ADAPTER = "/org/bluez/hci0"
PATHS = [f"{ADAPTER}/dev_66_00_00_00_00_0{n}" for n in range(6)]
STEPS = 1500


class Centrals:
    """They write, subscribe and leave; whoever got their links receives and closes."""

    def __init__(self, nursery: trio.Nursery, *, targeted: bool) -> None:
        from rns_ble.drivers.bluez.links import Links
        from rns_ble.drivers.bluez.peripheral import Peripheral
        from rns_ble.drivers.bluez.tree import DEVICE, Tree

        self.random, self.grammar = Random(1), Grammar(1)
        self.nursery = nursery
        bus = SimpleNamespace(call=self.call, alive=lambda: None)
        self.tree = Tree(bus)
        self.devices = {path: {"Connected": True} for path in PATHS}
        self.tree.objects = {path: {DEVICE: device} for path, device in self.devices.items()}
        self.links = Links(bus, self.tree, ADAPTER)
        self.peripheral = Peripheral(
            bus, self.tree, ADAPTER, self.links, nursery, self.offer, targeted=targeted
        )
        self.offered = []
        self.received = 0

    async def call(self, path: str, *_what: object, **_more: object) -> None:
        """To bluetoothd, that it should disconnect."""
        self.disconnected(path)

    def disconnected(self, path: str) -> None:
        self.devices[path]["Connected"] = False
        self.links.on_device_changed(path)
        self.peripheral.on_device_changed(path)

    def offer(self, link) -> bool:
        if self.random.random() < 0.1 or len(self.offered) >= ACCEPTED_BUFFERED:
            return False
        self.offered.append(link)
        return True

    def leave(self, options: dict) -> None:
        self.disconnected(options["device"])
        self.devices[options["device"]]["Connected"] = True

    def subscribe(self, options: dict) -> None:
        reply = self.peripheral._acquire_notify(options)
        if self.random.random() < 0.5:
            reply.gift.close()
        else:
            self.nursery.start_soon(self.unsubscribe_later, reply.gift)

    async def unsubscribe_later(self, gift) -> None:
        try:
            await trio.sleep(0.05)
        finally:
            gift.close()

    def write(self, options: dict) -> None:
        from rns_ble.drivers.bluez.bus import Refused

        for value in [self.random.randbytes(16), *self.grammar.burst(bytes(16))]:
            with suppress(Refused):  # there is no room: the central is told
                self.peripheral._write_value(value, options)

    async def step(self) -> None:
        random = self.random
        options = {"device": random.choice(PATHS), "mtu": random.choice((23, 185, 517, 600))}
        if random.random() < 0.2:
            del options["mtu"]
        random.choice((self.leave, self.subscribe, *[self.write] * 6))(options)
        if self.offered and random.random() < 0.2:
            link = random.choice(self.offered)
            with trio.move_on_after(0.001):
                async for _value in link:
                    self.received += 1
            if random.random() < 0.5:
                self.offered.remove(link)
                await link.aclose()
        if random.random() < 0.1:
            await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("targeted", [True, False])
async def test_values_handshakes_and_goodbyes_in_any_order(targeted: bool) -> None:
    from rns_ble.drivers.bluez.link import RECEIVE_BUFFERED

    async with trio.open_nursery() as nursery:
        centrals = Centrals(nursery, targeted=targeted)
        for _ in range(STEPS):
            await centrals.step()
            links = centrals.links.all()
            assert len(links) <= len(PATHS)
            assert all(link._inbox.statistics().current_buffer_used <= RECEIVE_BUFFERED for link in links)
            assert centrals.peripheral._closed <= set(PATHS)
        for link in [*centrals.offered, *centrals.links.all()]:
            await link.aclose()
        nursery.cancel_scope.cancel()
    assert centrals.received > 1000


@pytest.mark.parametrize("targeted", [True, False])
async def test_only_who_has_told_an_identity_on_a_link_that_lives_is_let_pair(targeted: bool) -> None:
    from rns_ble.drivers.bluez.advertiser import Agent
    from rns_ble.drivers.bluez.bus import Refused

    async with trio.open_nursery() as nursery:
        centrals = Centrals(nursery, targeted=targeted)
        centrals.random = Random(5)  # which has the first link taken
        agent = Agent(centrals.links.introduced)
        stranger = {"device": PATHS[0], "mtu": 517}

        def may_pair() -> bool:
            try:
                agent.call("RequestAuthorization", [PATHS[0]])
            except Refused:
                return False
            return True

        assert not may_pair()
        centrals.peripheral._acquire_notify(stranger).gift.close()
        assert not may_pair()
        centrals.peripheral._write_value(bytes(15), stranger)
        assert not may_pair()
        centrals.peripheral._write_value(bytes(16), stranger)
        assert may_pair()
        for member in ("AuthorizeService", "RequestConfirmation", "RequestPasskey", "RequestPinCode"):
            with pytest.raises(Refused):
                agent.call(member, [PATHS[0], 0])
        centrals.links.all()[0].end("by us")
        assert not may_pair()
        nursery.cancel_scope.cancel()


async def test_a_stranger_cuts_nobodys_values_and_a_peer_with_a_small_att_mtu_does() -> None:
    """BlueZ before 5.69: what is notified goes to all."""
    async with trio.open_nursery() as nursery:
        centrals = Centrals(nursery, targeted=False)
        centrals.random = Random(5)  # which has both links taken
        peer, stranger = {"device": PATHS[0], "mtu": 517}, {"device": PATHS[1], "mtu": 23}
        gift = centrals.peripheral._acquire_notify(peer).gift
        centrals.peripheral._write_value(bytes(16), peer)
        centrals.peripheral._write_value(b"x", stranger)
        ours, theirs = centrals.offered
        assert (ours.value_limit, theirs.value_limit) == (512, 18)
        with pytest.raises(ValueError, match="18"):  # nor is he sent more than he takes
            await theirs.send(bytes(19))
        centrals.peripheral._write_value(bytes(16), stranger)
        assert (ours.value_limit, theirs.value_limit) == (18, 18)
        theirs.end("he leaves")
        assert ours.value_limit == 512
        gift.close()
        nursery.cancel_scope.cancel()
