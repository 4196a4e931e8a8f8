"""Whether bluetoothd runs when we come, and what D-Bus does about it: on a system bus of the test's own."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import pytest
import trio

from rns_ble.drivers.base import AdapterUnavailable
from rns_ble.drivers.bluez import BleakDriver, bus
from rns_ble.drivers.bluez.examination import BlueZMissing, examine
from tests.bluez import laboratory
from tests.bluez.laboratory import PATIENCE

CONFIGURATION = """
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>custom</type>
  <listen>unix:path={folder}/bus</listen>
  <servicedir>{folder}</servicedir>
  <policy context="default">
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
    <allow own="*"/>
  </policy>
  <limit name="service_start_timeout">{patience}</limit>
</busconfig>
"""

BLUEZ_WITHOUT_ADAPTERS = """
import asyncio, contextlib, os
from dbus_next import Message
from dbus_next.aio import MessageBus
async def main():
    bus = await MessageBus(bus_address=os.environ["DBUS_STARTER_ADDRESS"]).connect()
    bus.add_message_handler(lambda message: message.member == "GetManagedObjects"
        and Message.new_method_return(message, "a{oa{sa{sv}}}", [{}]) or None)
    await bus.request_name("org.bluez")
    with contextlib.suppress(EOFError):
        await bus.wait_for_disconnect()
asyncio.run(main())
"""


class SystemBus(Protocol):
    async def __call__(self, command: str, *, patience: float = PATIENCE) -> None:
        """Start one, which starts bluetoothd by this command, or by none if it is empty.

        `patience`: seconds after which it gives up.
        """


@pytest.fixture
async def system_bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SystemBus]:
    """It ends with the test."""
    async with trio.open_nursery() as nursery:

        async def start(command: str, *, patience: float = PATIENCE) -> None:
            if command:
                service = f"[D-BUS Service]\nName=org.bluez\nExec={command}\n"
                (tmp_path / "org.bluez.service").write_text(service)
            (tmp_path / "conf").write_text(
                CONFIGURATION.format(folder=tmp_path, patience=round(patience * 1000))
            )
            await nursery.start(
                trio.run_process, ["dbus-daemon", f"--config-file={tmp_path}/conf", "--nofork", "--nopidfile"]
            )
            monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/bus")
            with trio.fail_after(PATIENCE):
                while not (tmp_path / "bus").exists():
                    await trio.sleep(laboratory.POLL)

        yield start
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def entered() -> AsyncIterator[None]:
    with trio.fail_after(PATIENCE):
        async with BleakDriver("hci0"):
            yield


@pytest.mark.parametrize(
    "command",
    ["", "/bin/false", "/nowhere/bluetoothd", "/bin/sleep 30"],
    ids=["not installed", "ends at once", "can't be run", "never comes"],
)
async def test_a_bluetoothd_that_does_not_run_can_not_be_reached_why_ever(
    system_bus: SystemBus, command: str
) -> None:
    await system_bus(command, patience=1)
    with pytest.raises(AdapterUnavailable) as raised:
        async with entered():
            pass
    assert str(raised.value) == bus.UNREACHABLE


async def test_a_bluetoothd_that_does_not_come_is_not_waited_for_as_long_as_the_bus_does(
    system_bus: SystemBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus, "START_TIMEOUT", 0.1)
    await system_bus("/bin/sleep 30")
    with pytest.raises(AdapterUnavailable) as raised:
        async with entered():
            pass
    assert str(raised.value) == bus.UNREACHABLE


async def test_a_bluetoothd_that_has_crashed_is_started_where_the_bus_may_do_that(
    system_bus: SystemBus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus, "START_TIMEOUT", PATIENCE)  # for a guest that is slow
    (tmp_path / "bluez.py").write_text(BLUEZ_WITHOUT_ADAPTERS)
    await system_bus(f"{sys.executable} {tmp_path}/bluez.py")
    with pytest.raises(AdapterUnavailable, match="knows no Bluetooth adapter"):
        async with entered():
            pass


async def test_who_only_examines_starts_nothing(system_bus: SystemBus, tmp_path: Path) -> None:
    await system_bus(f"/bin/touch {tmp_path}/started")
    with trio.fail_after(PATIENCE), pytest.raises(BlueZMissing):
        await examine()
    assert not (tmp_path / "started").exists()
