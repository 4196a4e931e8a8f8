"""The status of an interface, cancelled at each await. In real time, for its sockets are."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path

import pytest
import trio

from rns_ble import status_server
from rns_ble.status import InterfaceStatus
from rns_ble.status_server import REQUEST_MAXIMUM, serve_status
from rns_ble.status_socket import REQUEST, address_in, file_name, opened
from rns_ble.testing.checkpoints import Strike
from tests.cancellation.reached import awaits_in, interrupt_at_each, note

NAME = "Porch"
LONG = "x" * 1_000_000
"""More than the kernel takes at once."""
PATIENCE = 20.0


def snapshot() -> InterfaceStatus:
    return InterfaceStatus(NAME, False, LONG, None, None, None, None, os.getpid(), "1", "2", 1.0, 0, None)


async def connect(directory: Path) -> trio.SocketStream:
    with opened(directory) as descriptor:
        return await trio.open_unix_socket(address_in(descriptor, file_name(NAME)))


async def all_that_comes(client: trio.SocketStream) -> bytes:
    """Until it is disconnected."""
    return b"".join([received async for received in client])


async def visits(directory: Path) -> None:
    """Clients who ask for something else, who never end what they ask, who ask, and one too many."""
    for nonsense in (b"nonsense\n", b"?" * (REQUEST_MAXIMUM + 1)):
        async with await connect(directory) as client:
            await client.send_all(nonsense)
            assert b"request" in await all_that_comes(client)
    async with await connect(directory) as client:
        await client.send_all(REQUEST)
        async with await connect(directory) as one_too_many:
            assert b"clients" in await all_that_comes(one_too_many)
        answer = b""
        while not answer.endswith(b"\n"):
            answer += await client.receive_some()
        assert LONG.encode() in answer


async def served(directory: Path) -> None:
    """Serve while the clients come."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_status, directory, NAME, snapshot)
        while not (directory / file_name(NAME)).exists():
            await trio.sleep(0.001)
        await visits(directory)
        nursery.cancel_scope.cancel()


def test_the_status_is_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_server, "CLIENTS_MAXIMUM", 1)
    numbers = count()

    async def scenario(strike: Strike) -> None:
        directory = tmp_path / str(next(numbers))
        before = set(os.listdir("/proc/self/fd"))
        with trio.fail_after(PATIENCE):
            with strike.cancelling():
                await served(directory)
            assert set(os.listdir("/proc/self/fd")) == before
            assert not list(directory.glob("*"))
            await served(directory)

    note("status", interrupt_at_each(scenario, awaits_in(["status_server"]), trio.run))
