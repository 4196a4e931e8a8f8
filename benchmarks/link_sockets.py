"""Our own share of a link on BlueZ: a socket pair in place of the one from bluetoothd, and no radio.

A process that does nothing else plays bluetoothd. What is measured is what every value costs that goes
through `BluezLink` and its socket, so how fast the driver could be if nothing else took time.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
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
from rns_ble.drivers.base import Role
from rns_ble.drivers.bluez.link import BluezLink, SocketOutlet
from rns_ble.protocol.gatt import ATT_MTU_REQUESTED

PEER: Final = Path(__file__).parent / "nodes" / "socket_peer.py"

VALUES: Final = 10_000
"""In one measurement: half a second at the speed that is wanted."""

SIZES: Final = (20, 244, 512)
"""Bytes."""

POLL: Final = 0.01
"""Seconds between two looks whether the other end has begun to read."""

DEADLINE: Final = 60.0
"""Seconds for one measurement; it takes one."""


async def measure(rounds: int, progress: Progress) -> dict[str, Any]:
    """Values per second out and in, and the microseconds of the processor that each costs us."""
    runs = [(name, run, size) for size in SIZES for name, run in (("out", _out), ("in", _in))]
    taken: dict[tuple[str, int], list[tuple[float, float]]] = {(name, size): [] for name, _, size in runs}
    for number in range(1, rounds + 1):
        progress.say(f"sockets, round {number} of {rounds}")
        for name, run, size in runs:
            with trio.fail_after(DEADLINE):
                taken[name, size].append(await run(bytes(size)))
    results: dict[str, Any] = {"values_in_a_measurement": VALUES, "out": {}, "in": {}}
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
        link = BluezLink("02:00:00:00:00:0A", Role.PERIPHERAL, ATT_MTU_REQUESTED, _no_goodbye)
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
        link = BluezLink("02:00:00:00:00:0A", Role.CENTRAL, ATT_MTU_REQUESTED, _no_goodbye)
        nursery.start_soon(link.pump, ours, _nothing)
        ours.send(b"begin")
        await link.receive()
        began, busy = time.perf_counter(), time.process_time()
        for _ in range(VALUES - 1):
            await link.receive()
        seconds, busy = time.perf_counter() - began, time.process_time() - busy
        await link.aclose()
        return seconds, busy


@asynccontextmanager
async def _peer(what: str, size: int) -> AsyncIterator[socket.socket]:
    """Our end of a socket; the process at the other end is gone afterwards."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    with ours, theirs:
        command = [sys.executable, str(PEER), what, str(theirs.fileno()), str(VALUES), str(size)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(trio.run_process, command, pass_fds=[theirs.fileno()]))
            yield ours
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
