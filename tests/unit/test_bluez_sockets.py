"""What the sockets to bluetoothd tell of it: whether it lives."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from rns_ble.drivers.base import Role

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="BlueZ is Linux's")

VALUE = bytes(400)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Ours, and bluetoothd's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        for one in (ours, theirs):
            one.setblocking(False)
        yield ours, theirs


class Life:
    """Counts the signs of it."""

    def __init__(self) -> None:
        self.signs = 0

    def alive(self) -> None:
        self.signs += 1


async def no_goodbye(_link: object) -> None:
    """Nothing is connected."""


async def test_who_reads_lives_and_who_lets_a_socket_be_filled_perhaps_not(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    from rns_ble.drivers.bluez.link import OutletClosed, SocketOutlet

    ours, theirs = pair
    life = Life()
    outlet = SocketOutlet(ours, life.alive)
    sent = 0

    async def flood() -> None:
        nonlocal sent
        while True:
            await outlet.send(VALUE)
            sent += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood)
        await wait_all_tasks_blocked()
        fits = sent
        assert fits > 10
        assert life.signs == 0
        for _ in range(fits):
            theirs.recv(len(VALUE))
        await wait_all_tasks_blocked()
        assert sent > fits
        assert life.signs == 1
        nursery.cancel_scope.cancel()
    outlet.close()
    with pytest.raises(OutletClosed):
        await outlet.send(VALUE)


async def test_one_that_fails_closes_itself(pair: tuple[socket.socket, socket.socket]) -> None:
    """Links may share it; each learns it from that."""
    from rns_ble.drivers.bluez.link import OutletClosed, SocketOutlet

    ours, theirs = pair
    outlet = SocketOutlet(ours, Life().alive)
    theirs.close()
    with pytest.raises(OutletClosed):
        await outlet.send(VALUE)
    assert outlet.socket.fileno() < 0


async def test_who_sends_lives(pair: tuple[socket.socket, socket.socket]) -> None:
    from rns_ble.drivers.bluez.link import BluezLink

    ours, theirs = pair
    life = Life()
    link = BluezLink("02:00:00:00:00:0A", Role.CENTRAL, 517, no_goodbye)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.pump, ours, life.alive)
        await wait_all_tasks_blocked()
        assert life.signs == 0
        for _ in range(3):
            theirs.send(VALUE)
            assert await link.receive() == VALUE
        theirs.close()
    assert life.signs == 3
    await link.aclose()


async def test_links_that_share_a_full_socket_wait_for_one_another(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """BlueZ before 5.69 has one for all. A keepalive is sent while a packet waits for room."""
    from rns_ble.drivers.bluez.link import BluezLink, SocketOutlet
    from rns_ble.drivers.bluez.peripheral import _SharedOutlet

    ours, theirs = pair
    shared = _SharedOutlet(SocketOutlet(ours, Life().alive))
    links = [BluezLink(f"02:00:00:00:00:0{n}", Role.PERIPHERAL, 517, no_goodbye) for n in (1, 2)]
    for link in links:
        link.set_outlet(shared)

    async def flood(link: BluezLink) -> None:
        while True:
            await link.send(VALUE)

    got = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood, links[0])
        await wait_all_tasks_blocked()
        nursery.start_soon(links[1].send, b"keepalive")
        await wait_all_tasks_blocked()
        while b"keepalive" not in got:
            got.append(theirs.recv(len(VALUE)))
            await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert all(link.live for link in links)
    for link in links:
        await link.aclose()
    shared.socket.close()
