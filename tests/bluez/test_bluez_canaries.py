"""What the BlueZ driver uses of bleak's and dbus-next's without a promise of theirs still is as it was."""

from __future__ import annotations

import asyncio
import inspect

from bleak import BleakClient
from bleak.backends.bluezdbus import manager
from bleak.backends.bluezdbus.client import BleakClientBlueZDBus
from bleak.backends.bluezdbus.version import BlueZFeatures
from bleak.backends.device import BLEDevice
from dbus_next.aio import MessageBus
from dbus_next.aio.message_bus import _MessageWriter
from dbus_next.message_bus import BaseMessageBus


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


def test_dbus_next_writes_with_the_writers_socket() -> None:
    source = inspect.getsource(_MessageWriter.write_callback)
    assert "self.sock.send(" in source
    assert "self._writer = _MessageWriter(self)" in inspect.getsource(MessageBus.__init__)


def test_dbus_next_keeps_its_socket_in_four_places() -> None:
    assert "self._loop = " in inspect.getsource(MessageBus.__init__)
    source = inspect.getsource(BaseMessageBus._setup_socket)
    for name in ("_sock", "_stream", "_fd"):
        assert f"self.{name} = " in source
