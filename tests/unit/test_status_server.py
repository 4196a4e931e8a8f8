"""The socket on which an interface shows itself, with real sockets and real files."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import Mock

import pytest
import trio
import trio.lowlevel

from rns_ble import status_server
from rns_ble.protocol.fragmentation import ReassemblyStatistics
from rns_ble.status import CandidateStatus, InterfaceStatus, LinkStatus, MeshStatus, PeerStatus
from rns_ble.status_server import CLIENTS_MAXIMUM, REQUEST_MAXIMUM, serve_status
from rns_ble.status_socket import address_in, file_name, opened
from rns_ble.testing.checkpoints import Strike, at_every_checkpoint

NAME = "BLE Interface"
PATIENCE = 20.0
"""Seconds to wait for what must happen; reaching it fails the test."""


def snapshot(candidates: int = 1) -> InterfaceStatus:
    link = LinkStatus("02:00:00:00:00:02", "central", 517, -50, "socket", 5.0, 0.1, 0)
    peer = PeerStatus("ab" * 16, (link,), 5.0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ReassemblyStatistics(duplicates=2))
    seen = CandidateStatus(
        *("02:00:00:00:00:03", "shed", -70, 1.0, None, 3, 3, "blacklisted", "failed too often"),
        *(42.0, None, 42.0, 18.0, "it does not answer"),
    )
    mesh = MeshStatus("cd" * 16, "02:00:00:00:00:01", True, False, 1, 7, (), 0, (peer,), (seen,) * candidates)
    return InterfaceStatus(
        NAME, True, None, "bleak", None, None, mesh.address, os.getpid(), "1", "2", 9.0, 0, mesh
    )


class Served:
    """A server, and how often it has taken a snapshot."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / file_name(NAME)
        self.taken = 0
        self.answer: Callable[[], InterfaceStatus] = snapshot

    def status(self) -> InterfaceStatus:
        self.taken += 1
        return self.answer()

    async def client(self) -> trio.SocketStream:
        with opened(self.directory) as descriptor:
            return await trio.open_unix_socket(address_in(descriptor, self.path.name))

    async def ask(self) -> dict[str, Any]:
        async with await self.client() as client:
            await client.send_all(b"status\n")
            return await answer(client)


async def answer(client: trio.SocketStream) -> dict[str, Any]:
    """One line, and what is in it."""
    line = b""
    with trio.fail_after(PATIENCE):
        while not line.endswith(b"\n"):
            received = await client.receive_some()
            assert received, line
            line += received
    return json.loads(line)


async def ask_for_ever(client: trio.SocketStream) -> NoReturn:
    while True:
        await client.send_all(b"status\n" * 36)


async def closed(client: trio.SocketStream) -> None:
    """Read until the server has closed the connection."""
    with trio.fail_after(PATIENCE):
        try:
            while await client.receive_some():
                pass
        except trio.BrokenResourceError:  # it had not read all that we sent
            pass


async def there(path) -> None:
    with trio.fail_after(PATIENCE):
        while not path.exists():
            await trio.sleep(0.001)


@asynccontextmanager
async def serving(directory) -> AsyncIterator[Served]:
    served = Served(directory)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_status, directory, NAME, served.status)
        await there(served.path)
        yield served
        nursery.cancel_scope.cancel()
    assert not served.path.exists()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "storage" / "rns_ble"


def subprocess_that_is_killed(script: str, *arguments: str) -> None:
    """Run it until it prints something."""
    with subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)


# --- what is told ---


async def test_a_line_is_asked_for_and_answered_by_one_object_with_all_of_the_snapshot(directory):
    async with serving(directory) as served:
        told = await served.ask()
    assert told["name"] == NAME
    assert told["pid"] == os.getpid()
    assert told["mesh"]["peers"][0]["links"][0]["data_path"] == "socket"
    assert told["mesh"]["peers"][0]["reassembly"] == asdict(ReassemblyStatistics(duplicates=2))
    assert told["mesh"]["candidates"] == [
        {
            "address": "02:00:00:00:00:03",
            "name": "shed",
            "rssi": -70,
            "seen": 1.0,
            "identity": None,
            "attempts": 3,
            "failures": 3,
            "verdict": "blacklisted",
            "verdict_text": "failed too often",
            "verdict_ends": 42.0,
            "flags": None,
            "left_alone": 42.0,
            "tried": 18.0,
            "last_failure": "it does not answer",
        }
    ]


async def test_one_connection_may_ask_again_and_again_and_in_pieces(directory):
    async with serving(directory) as served, await served.client() as client:
        for piece in (b"sta", b"tus\nstatus", b"\r\n", b"status\n"):
            await client.send_all(piece)
        received = b""
        while received.count(b"\n") < 3:
            received += await client.receive_some()
        assert all(json.loads(line)["name"] == NAME for line in received.splitlines())


async def test_who_asks_without_pause_gets_the_same_snapshot_for_a_moment(directory, monkeypatch):
    monkeypatch.setattr(status_server, "LIFETIME", 3600.0)
    async with serving(directory) as served:
        for _ in range(5):
            await served.ask()
    assert served.taken == 1


# --- the file ---


async def test_nobody_else_can_open_it_from_the_first_moment_on(directory, monkeypatch):
    modes = []
    bind = socket.socket.bind

    class Watched(socket.socket):
        def bind(self, address) -> None:
            bind(self, address)
            modes.append(stat.S_IMODE(os.stat(address).st_mode))

    monkeypatch.setattr(status_server.socket, "socket", Watched)
    before = os.umask(0)
    try:
        async with serving(directory) as served:
            assert stat.S_IMODE(served.path.stat().st_mode) == 0o600
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    finally:
        os.umask(before)
    assert modes == [0o600]


async def test_a_directory_that_was_open_to_others_is_closed(directory):
    directory.mkdir(parents=True)
    directory.chmod(0o755)
    async with serving(directory):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


async def test_a_directory_with_a_name_too_long_for_a_socket(tmp_path: Path):
    directory = tmp_path / ("long" * 40) / ("longer" * 30)
    assert len(str(directory)) > 300
    async with serving(directory) as served:
        assert (await served.ask())["name"] == NAME


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("BLE Interface", "BLE Interface.sock"),
        ("BLE Interface 2", "BLE Interface 2.sock"),
        ("../../etc", "..%2F..%2Fetc.sock"),
        ("", ".sock"),
        ("a\n\0b", "a%0A%00b.sock"),
        ("Küche", "K%C3%BCche.sock"),
        ("\udcff", "%FF.sock"),
    ],
)
def test_any_name_of_an_interface_is_a_name_of_a_file(name: str, file: str):
    assert file_name(name) == file


def test_long_names_stay_short_and_apart():
    names = {file_name("ü" * 500 + str(number)) for number in range(100)}
    assert len(names) == 100
    assert all(len(address_in(1_000_000, name)) <= 107 for name in names)


async def test_the_socket_of_a_process_that_was_killed_is_replaced(directory):
    script = (
        "import socket, sys, time; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()\n"
        "print('listens', flush=True); time.sleep(1000)"
    )
    directory.mkdir(parents=True)
    path = directory / file_name(NAME)
    subprocess_that_is_killed(script, str(path))
    assert path.is_socket()
    async with trio.open_nursery() as nursery:
        served = Served(directory)
        nursery.start_soon(serve_status, directory, NAME, served.status)
        with trio.fail_after(PATIENCE):
            while not served.taken:
                with suppress(OSError):
                    assert (await served.ask())["name"] == NAME
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("busy", [False, True])
async def test_the_socket_of_a_live_process_is_left_alone(directory, busy: bool, caplog):
    directory.mkdir(parents=True)
    path = directory / file_name(NAME)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen(0)
        waiting = []
        while busy:
            waiting.append(socket.socket(socket.AF_UNIX))
            waiting[-1].setblocking(False)
            if waiting[-1].connect_ex(str(path)) == errno.EAGAIN:
                break
        theirs = path.stat()
        await serve_status(directory, NAME, snapshot)
        assert os.path.samestat(path.stat(), theirs)
        for one in waiting:
            one.close()
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert "another process serves BLE Interface.sock already" in record.getMessage()


async def test_who_was_replaced_does_not_remove_the_other_ones(directory):
    async with trio.open_nursery() as nursery:
        served = Served(directory)
        nursery.start_soon(serve_status, directory, NAME, served.status)
        await there(served.path)
        served.path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(served.path))
            nursery.cancel_scope.cancel()
            await trio.lowlevel.checkpoint()
    assert served.path.exists()


async def test_a_directory_that_is_removed_meanwhile_is_no_harm(directory):
    async with trio.open_nursery() as nursery:
        served = Served(directory)
        nursery.start_soon(serve_status, directory, NAME, served.status)
        await there(served.path)
        served.path.unlink()
        directory.rmdir()
        nursery.cancel_scope.cancel()


async def test_a_process_without_descriptors_to_spare_keeps_its_interface(directory, monkeypatch, caplog):
    monkeypatch.setattr(socket.socket, "dup", Mock(side_effect=OSError(errno.EMFILE, "Too many open files")))
    await serve_status(directory, NAME, snapshot)
    assert caplog.messages[0].endswith(f"no socket in {directory}: Too many open files")
    assert not list(directory.iterdir())


async def test_without_a_place_for_a_socket_the_log_says_why(tmp_path: Path, caplog):
    (tmp_path / "storage").write_text("a file")
    await serve_status(tmp_path / "storage" / "rns_ble", NAME, snapshot)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "`rns-ble status` can't show this interface, which works all the same: "
        f"no socket in {tmp_path / 'storage' / 'rns_ble'}: Not a directory"
    )


# --- clients that misbehave ---


@pytest.mark.parametrize(
    ("rubbish", "said"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "the only request is: status"),
        (b"\n", "the only request is: status"),
        (b"\xff\x00\n", "the only request is: status"),
        (b"x" * (REQUEST_MAXIMUM + 1), f"a request has {REQUEST_MAXIMUM} bytes at most"),
        (b"x" * 100_000, f"a request has {REQUEST_MAXIMUM} bytes at most"),
    ],
)
async def test_rubbish_is_answered_by_what_is_wrong_and_ends_the_connection(
    directory: Path, rubbish: bytes, said: str
):
    async with serving(directory) as served:
        async with await served.client() as client:
            await client.send_all(rubbish)
            assert await answer(client) == {"error": said}
            await closed(client)
        assert served.taken == 0
        assert (await served.ask())["name"] == NAME


async def test_a_client_that_never_reads_is_dropped_and_others_are_served_meanwhile(
    directory: Path, monkeypatch
):
    monkeypatch.setattr(status_server, "SEND_TIMEOUT", 0.2)
    async with serving(directory) as served:
        served.answer = lambda: snapshot(candidates=5000)
        async with await served.client() as client:
            await client.send_all(b"status\n" * 36)
            assert len((await served.ask())["mesh"]["candidates"]) == 5000
            with trio.fail_after(PATIENCE), pytest.raises(trio.BrokenResourceError):
                await ask_for_ever(client)  # the server waits for us to read, and then is gone
            await closed(client)


async def test_a_client_that_asks_nothing_is_dropped(directory, monkeypatch):
    monkeypatch.setattr(status_server, "IDLE_TIMEOUT", 0.05)
    async with serving(directory) as served, await served.client() as client:
        await closed(client)


async def test_clients_beyond_the_maximum_are_turned_away_until_one_goes(directory):
    async with serving(directory) as served:
        clients = [await served.client() for _ in range(CLIENTS_MAXIMUM)]
        for client in clients:
            await client.send_all(b"status\n")
            await answer(client)
        async with await served.client() as one_more:
            assert await answer(one_more) == {"error": f"there are {CLIENTS_MAXIMUM} clients already"}
            await closed(one_more)
        await clients.pop().aclose()
        with trio.fail_after(PATIENCE):
            while "name" not in await served.ask():
                await trio.sleep(0.01)
        for client in clients:
            await client.send_all(b"status\n")
            assert (await answer(client))["name"] == NAME
            await client.aclose()


async def test_a_bug_in_the_snapshot_ends_that_connection_only(directory, caplog):
    async with serving(directory) as served:

        def fail() -> InterfaceStatus:
            raise KeyError("bug")

        served.answer = fail
        async with await served.client() as client:
            await client.send_all(b"status\n")
            await closed(client)
        served.answer = snapshot
        assert (await served.ask())["name"] == NAME
    assert [record.getMessage() for record in caplog.records] == [
        "a bug in the status; the interface goes on"
    ]


async def test_a_socket_that_fails_does_not_take_the_interface_along(directory, monkeypatch, caplog):
    async def fail(_listener: trio.SocketListener) -> trio.SocketStream:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(trio.SocketListener, "accept", fail)
    await serve_status(directory, NAME, snapshot)
    assert "shows this interface no more" in caplog.text
    assert list(directory.iterdir()) == []


def test_cancelled_at_any_checkpoint_it_leaves_no_file_and_no_descriptor(tmp_path: Path):
    numbers = iter(range(10_000))

    async def scenario(strike: Strike) -> None:
        served = Served(tmp_path / str(next(numbers)))
        before = set(os.listdir("/proc/self/fd"))
        with strike.cancelling():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve_status, served.directory, NAME, served.status)
                await there(served.path)
                await served.ask()
                async with await served.client() as rude:
                    await rude.send_all(b"rubbish\n")
                    await closed(rude)
                nursery.cancel_scope.cancel()
        assert not served.path.exists()
        assert set(os.listdir("/proc/self/fd")) == before

    report = at_every_checkpoint(scenario, every=False, run=trio.run)
    assert report.interrupted > 10
