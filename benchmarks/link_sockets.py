"""Our own share of a link on BlueZ: a process that does nothing else plays bluetoothd, and there is no radio.

What is measured is what every value costs that goes through `BluezLink` and its socket, and what one costs
that comes by a D-Bus call, as a peripheral's do; so how fast the driver could be if nothing else took time.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import sys
import tempfile
import termios
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio
from measuring import Figure

from rns_ble.cli.progress import Progress
from rns_ble.drivers.asyncio_loop import open_asyncio_loop
from rns_ble.drivers.base import Role
from rns_ble.drivers.bluez.bus import ADDRESS_VARIABLE, open_bus
from rns_ble.drivers.bluez.link import BluezLink, SocketOutlet
from rns_ble.drivers.bluez.links import Links
from rns_ble.drivers.bluez.peripheral import Peripheral
from rns_ble.drivers.bluez.tree import Tree
from rns_ble.drivers.bluez.uuids import Uuids
from rns_ble.protocol import gatt

PEER: Final = Path(__file__).parent / "nodes" / "socket_peer.py"
BUS_PEER: Final = PEER.with_name("bus_peer.py")

ADAPTER: Final = "/org/bluez/hci0"

UUIDS: Final = Uuids(gatt.SERVICE_UUID, gatt.RX_UUID, gatt.TX_UUID, gatt.IDENTITY_UUID)

VALUES: Final = 10_000
"""In one measurement: half a second at the speed that is wanted."""

AT_ONCE: Final = 100
"""Values that come before any is asked for again: a link has room for that many."""

SIZES: Final = (20, 244, 512)
"""Bytes."""

POLL: Final = 0.01
"""Seconds between two looks whether the other end has begun to read."""

DEADLINE: Final = 60.0
"""Seconds for one measurement; it takes one."""


async def measure(rounds: int, progress: Progress) -> dict[str, Any]:
    """Values per second out, in and in by calls, and the microseconds of the processor that each costs us."""
    ways = {"out": _out, "in": _in, "in by calls": _called}
    runs = [(name, run, size) for size in SIZES for name, run in ways.items()]
    taken: dict[tuple[str, int], list[tuple[float, float]]] = {(name, size): [] for name, _, size in runs}
    for number in range(1, rounds + 1):
        progress.say(f"sockets, round {number} of {rounds}")
        for name, run, size in runs:
            with trio.fail_after(DEADLINE):
                taken[name, size].append(await run(bytes(size)))
    results: dict[str, Any] = {"values_in_a_measurement": VALUES} | {name: {} for name in ways}
    for (name, size), pairs in taken.items():
        seconds, busy = (Figure(one) for one in zip(*pairs, strict=True))
        results[name][str(size)] = {
            "values_per_s": Figure(tuple(VALUES / one for one in seconds.rounds)).as_json(),
            "cpu_us_per_value": busy.scaled(1e6 / VALUES).as_json(),
        }
    return results


async def _out(value: bytes) -> tuple[float, float]:
    """Seconds until all have been read at the other end, and seconds of the processor's for us."""
    async with _peer("drain", len(value)) as ours:
        link = BluezLink("02:00:00:00:00:0A", Role.PERIPHERAL, gatt.ATT_MTU_REQUESTED, _no_goodbye)
        outlet = SocketOutlet(ours, _nothing)
        link.set_outlet(outlet)
        await link.send(value)  # the process has started when it has read this one
        while _unread(ours):  # noqa: ASYNC110 - nothing tells but the kernel, when asked
            await trio.sleep(POLL)
        began, busy = time.perf_counter(), time.process_time()
        for _ in range(VALUES - 1):
            await link.send(value)
        await trio.lowlevel.wait_readable(ours)  # the process says that it has read them all
        seconds, busy = time.perf_counter() - began, time.process_time() - busy
        await link.aclose()
        return seconds, busy


async def _in(value: bytes) -> tuple[float, float]:
    """The same from the first that has come to the last."""
    async with _peer("fill", len(value)) as ours, trio.open_nursery() as nursery:
        link = BluezLink("02:00:00:00:00:0A", Role.CENTRAL, gatt.ATT_MTU_REQUESTED, _no_goodbye)
        nursery.start_soon(link.pump, ours, _nothing)
        ours.send(b"begin")
        await link.receive()
        began, busy = time.perf_counter(), time.process_time()
        for _ in range(VALUES - 1):
            await link.receive()
        seconds, busy = time.perf_counter() - began, time.process_time() - busy
        await link.aclose()
        return seconds, busy


async def _called(value: bytes) -> tuple[float, float]:
    """The same for what a central writes to us, with a ping for each hundred values."""
    accepted, to_accept = trio.open_memory_channel[BluezLink](1)

    def offer(link: BluezLink) -> bool:
        accepted.send_nowait(link)
        return True

    async with _bus(len(value)), open_asyncio_loop() as loop, open_bus(loop) as bus:
        async with trio.open_nursery() as nursery:
            tree = Tree(bus)
            links = Links(bus, tree, ADAPTER)
            peripheral = Peripheral(bus, tree, ADAPTER, links, nursery, offer, targeted=False)
            await peripheral.export(UUIDS, bytes(gatt.IDENTITY_LENGTH))
            await bus.ping()
            link = await to_accept.receive()
            began, busy = time.perf_counter(), time.process_time()
            for received in range(1, VALUES):
                await link.receive()
                if received % AT_ONCE == 0:
                    await bus.ping()
            seconds, busy = time.perf_counter() - began, time.process_time() - busy
            link.end("measured")
        return seconds, busy


@asynccontextmanager
async def _bus(size: int) -> AsyncIterator[None]:
    """A system bus with bluetoothd on it, which is gone afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="link-sockets-") as directory,
        socket.socket(socket.AF_UNIX) as listener,
    ):
        path = f"{directory}/bus"
        listener.bind(path)
        listener.listen()
        before = os.environ.get(ADDRESS_VARIABLE)
        os.environ[ADDRESS_VARIABLE] = f"unix:path={path}"
        arguments: list[object] = [BUS_PEER, listener.fileno(), AT_ONCE, size, UUIDS.service]
        try:
            async with _process(arguments, listener):
                yield
        finally:
            if before is None:
                del os.environ[ADDRESS_VARIABLE]
            else:
                os.environ[ADDRESS_VARIABLE] = before


@asynccontextmanager
async def _peer(what: str, size: int) -> AsyncIterator[socket.socket]:
    """Our end of a socket; the process at the other end is gone afterwards."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    with ours, theirs:
        async with _process([PEER, what, theirs.fileno(), VALUES, size], theirs):
            yield ours


@asynccontextmanager
async def _process(arguments: list[object], shared: socket.socket) -> AsyncIterator[None]:
    """A Python program that has a socket of ours; it is gone afterwards."""
    command = [sys.executable, *map(str, arguments)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio.run_process, command, pass_fds=[shared.fileno()]))
        yield
        nursery.cancel_scope.cancel()


def _unread(sent: socket.socket) -> int:
    """Bytes, as the kernel counts them, that the other end has not read yet."""
    count: int = struct.unpack("i", fcntl.ioctl(sent.fileno(), termios.TIOCOUTQ, bytes(4)))[0]
    return count


def _nothing() -> None:
    """What there is to do when bluetoothd shows that it lives."""


async def _no_goodbye(_link: BluezLink) -> None:
    """Nobody is connected."""
    await trio.lowlevel.checkpoint()
