"""The BlueZ driver's central role, without a bus."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import trio

from rns_ble.drivers.base import Role

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="BlueZ is Linux's")

ADDRESS = "02:00:00:00:00:0A"
PATH = "/org/bluez/hci0/dev_02_00_00_00_00_0A"


@asynccontextmanager
async def no_pause():
    yield


async def nothing(*_: object) -> None:
    """It is there."""


async def test_who_was_cancelled_in_the_goodbye_of_an_earlier_link_neither_dials_nor_says_another(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link in each role has ended, and nobody has closed them yet."""
    from rns_ble.drivers.bluez import central
    from rns_ble.drivers.bluez.link import BluezLink
    from rns_ble.drivers.bluez.links import Links
    from rns_ble.drivers.bluez.tree import DEVICE, Tree

    happened = []

    async def call(_path: str, _interface: str, member: str, *_: object, **_more: object) -> None:
        happened.append(member)
        await trio.sleep_forever()

    async def say_goodbye(link: BluezLink) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(2)
        links.drop(PATH, link)
        happened.append("goodbye")

    bus = SimpleNamespace(call=call, alive=lambda: None)
    tree = Tree(bus)
    tree.objects = {PATH: {DEVICE: {"Address": ADDRESS, "Connected": False}}}
    links = Links(bus, tree, "/org/bluez/hci0")
    for role in Role:
        link = BluezLink(ADDRESS, role, 517, say_goodbye)
        links.put(PATH, link)
        link.end("its service is gone")
    scanner = SimpleNamespace(wait_for_object=nothing, pause=no_pause)
    monkeypatch.setattr(central, "Client", lambda *_: SimpleNamespace(open=nothing, release=nothing))
    async with trio.open_nursery() as nursery:
        ours = central.Central(None, bus, tree, "/org/bluez/hci0", links, scanner, nursery)
        with trio.move_on_after(1) as scope:
            await ours.connect(ADDRESS, SimpleNamespace(service="uuid"), bytes(16))
    assert scope.cancelled_caught
    assert happened == ["goodbye"]
    assert trio.current_time() == 2
    assert not links.attempted
