"""What the BlueZ driver uses of bleak, dbus-next and dbus-fast without a promise of theirs is as it was.

That of trio-asyncio is watched over in test_asyncio_loop.py.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if not sys.platform.startswith("linux"):
    pytest.skip("BlueZ is Linux's", allow_module_level=True)

import dbus_fast.aio
import dbus_next._private.unmarshaller
from bleak import BleakClient
from bleak.backends.bluezdbus import manager
from bleak.backends.bluezdbus.client import BleakClientBlueZDBus
from bleak.backends.bluezdbus.version import BlueZFeatures
from bleak.backends.device import BLEDevice
from dbus_next import Message
from dbus_next.aio import MessageBus
from dbus_next.signature import SignatureTree

from rns_ble.drivers import asyncio_loop, bluez
from rns_ble.drivers.bluez.bus import _Connection
from rns_ble.drivers.bluez.unmarshaller import Unmarshaller

WATCHED = {
    # bleak
    "_backend",
    "_bus",
    "_bus_watcher_task",
    "_global_instances",
    "_on_disconnected",
    # dbus-fast
    "_finalize",
    # dbus-next; dbus-fast's `_sock`, too
    "_fd",
    "_get",
    "_loop",
    "_sock",
    "_stream",
    "_writer",
    # trio-asyncio
    "_FakedPolicy",
    "_original_policy",
    "policy",
}
"""The private names that are used; each has a test here or in test_asyncio_loop.py."""


# --- none is forgotten ---


def sources() -> list[ast.Module]:
    files = [*Path(inspect.getfile(bluez)).parent.glob("*.py"), Path(inspect.getfile(asyncio_loop))]
    return [ast.parse(file.read_text()) for file in files]


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_every_private_name_of_somebody_elses_is_watched() -> None:
    used, ours = set(), set()
    for node in (node for source in sources() for node in ast.walk(source)):
        match node:
            case ast.Attribute(value=ast.Name(id="self"), attr=name):
                ours.add(name)
            case ast.Attribute(attr=name) if private(name):
                used.add(name)
            case ast.ImportFrom(module=str(module), names=names) if not module.startswith("rns_ble"):
                used |= {alias.name for alias in names if private(alias.name)}
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                ours.add(name)
    assert "_writer" in used
    assert used - ours - WATCHED == set()


# --- bleak ---


async def client() -> BleakClient:
    return BleakClient(
        BLEDevice("02:00:00:00:00:00", None, {"path": "/org/bluez/hci0/dev_02_00_00_00_00_00", "props": {}}),
        bluez={"adapter": "hci0"},
    )


def test_bleaks_client() -> None:
    backend = asyncio.run(client())._backend  # type: ignore[attr-defined]
    assert isinstance(backend, BleakClientBlueZDBus)
    assert backend._bus is None
    assert list(inspect.signature(backend._on_disconnected).parameters) == []


def test_bleaks_client_with_no_bus_and_not_connected_disconnects_at_once() -> None:
    async def disconnect() -> None:
        await (await client()).disconnect()

    asyncio.run(disconnect())


def test_bleak_asks_for_the_version_unless_it_was_asked_for() -> None:
    assert isinstance(BlueZFeatures.checked_bluez_version, bool)
    assert "BlueZFeatures.checked_bluez_version" in inspect.getsource(BleakClientBlueZDBus.connect)


def test_bleak_skips_the_connect_of_a_connected_device() -> None:
    assert "manager.is_connected(self._device_path)" in inspect.getsource(BleakClientBlueZDBus.connect)


def test_bleak_keeps_a_manager_for_each_loop() -> None:
    assert isinstance(manager._global_instances, dict)
    source = inspect.getsource(manager.BlueZManager.__init__)
    assert "self._bus:" in source
    assert "self._bus_watcher_task:" in source
    assert "manager._bus._finalize(None)" in inspect.getsource(manager.get_global_bluez_manager)


# --- both D-Bus libraries, on a bus that never answers ---


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """Its address, and where it listens."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "bus"))
        listener.listen()
        yield f"unix:path={tmp_path / 'bus'}", listener


def test_dbus_next_keeps_its_socket_in_these_places(bus: tuple[str, socket.socket]) -> None:
    async def look() -> None:
        connection = MessageBus(bus_address=bus[0])
        assert isinstance(connection._sock, socket.socket)
        assert connection._fd == connection._sock.fileno()
        assert connection._writer.sock is connection._sock
        assert connection._loop is asyncio.get_running_loop()
        connection._stream.close()
        assert connection._sock.fileno() == connection._fd  # so it takes both
        connection._sock.close()

    asyncio.run(look())


def test_dbus_next_writes_with_the_writers_socket(bus: tuple[str, socket.socket]) -> None:
    class Wrapper:
        def send(self, data: bytes) -> int:
            sent.append(bytes(data))
            return len(data)

    sent: list[bytes] = []

    async def write() -> None:
        connection = MessageBus(bus_address=bus[0])
        connection._writer.sock = Wrapper()
        connection.unique_name = ":1.0"  # as if the bus had answered
        written = asyncio.get_running_loop().create_future()
        connection._writer.schedule_write(Message(path="/there", member="Is", serial=1), written)
        await written
        connection._stream.close()
        connection._sock.close()

    asyncio.run(write())
    assert b"/there" in b"".join(sent)


def test_dbus_next_reads_with_our_unmarshaller_and_its_sockets(bus: tuple[str, socket.socket]) -> None:
    async def look() -> None:
        connection = _Connection(bus_address=bus[0], negotiate_unix_fd=True)
        assert isinstance(connection._unmarshaller, Unmarshaller)
        assert connection._unmarshaller.sock is connection._sock
        connection._stream.close()
        connection._sock.close()

    asyncio.run(look())
    assert SignatureTree._get("a{sv}").types[0].signature == "a{sv}"
    assert "SignatureTree._get(signature)" in inspect.getsource(dbus_next._private.unmarshaller)


def test_dbus_fast_lets_go_of_a_connection_that_was_not_made(bus: tuple[str, socket.socket]) -> None:
    async def give_up() -> None:
        connection = dbus_fast.aio.MessageBus(bus_address=bus[0])
        assert connection._sock is None
        bus[1].setblocking(False)
        connecting = asyncio.create_task(connection.connect())
        accepted, _ = await asyncio.get_running_loop().sock_accept(bus[1])
        with accepted:
            assert await asyncio.get_running_loop().sock_recv(accepted, 1) == b"\0"
            assert isinstance(connection._sock, socket.socket)
            assert connection.unique_name is None
            connection._finalize(None)
            assert connection._sock.fileno() == -1
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)

    asyncio.run(give_up())


def test_dbus_fast_that_was_cancelled_has_closed_its_socket_or_still_has_it(
    bus: tuple[str, socket.socket],
) -> None:
    async def cancel() -> None:
        connection = dbus_fast.aio.MessageBus(bus_address=bus[0])
        connecting = asyncio.create_task(connection.connect())
        bus[1].setblocking(False)
        accepted, _ = await asyncio.get_running_loop().sock_accept(bus[1])
        with accepted:
            await asyncio.get_running_loop().sock_recv(accepted, 1)
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
            if connection._sock is not None:
                connection._finalize(None)
            while await asyncio.get_running_loop().sock_recv(accepted, 4096):
                pass  # it ends: nothing of it is open

    asyncio.run(cancel())
