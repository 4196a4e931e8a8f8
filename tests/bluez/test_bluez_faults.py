"""What happens to the BlueZ driver when things break, and that it leaves nothing behind."""

from __future__ import annotations

import gc
import logging
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from dbus_next import Variant

from rns_ble.drivers.asyncio_loop import open_asyncio_loop
from rns_ble.drivers.base import (
    GOODBYE_TIMEOUT,
    AdapterUnavailable,
    BLELink,
    ConfigurationError,
    LinkLost,
    ProtocolViolation,
)
from rns_ble.drivers.bluez import BleakDriver
from rns_ble.drivers.bluez.bus import Refused, Reply, open_bus, refusal
from rns_ble.drivers.bluez.driver import PING_INTERVAL, PING_TIMEOUT
from rns_ble.protocol.gatt import IDENTITY_UUID, RX_UUID, SERVICE_UUID, TX_UUID
from tests.bluez import census, laboratory
from tests.bluez.laboratory import PATIENCE, Laboratory, LaboratoryError

OTHER = Path(__file__).with_name("other_program.py")

VERDICT = PING_INTERVAL + PING_TIMEOUT
"""Seconds until a bluetoothd that is frozen is known to be."""

PEER = """
import sys, trio
from rns_ble.drivers.bluez import BleakDriver
from rns_ble.protocol.gatt import IDENTITY_UUID, RX_UUID, SERVICE_UUID, TX_UUID
async def main():
    async with BleakDriver(sys.argv[1]) as driver:
        driver.set_identity(b"p" * 16)
        await driver.start(SERVICE_UUID, RX_UUID, TX_UUID, IDENTITY_UUID)
        await driver.start_advertising()
        await trio.sleep_forever()
trio.run(main)
"""


async def start(driver: BleakDriver, identity: bytes) -> None:
    driver.set_identity(identity * 16)
    await driver.start(SERVICE_UUID, RX_UUID, TX_UUID, IDENTITY_UUID)
    await driver.start_advertising()
    await driver.start_scanning()


async def sighted(driver: BleakDriver, address: str) -> None:
    with trio.fail_after(PATIENCE):
        async for device in driver.discovered:
            if device.address == address:
                return


async def link(central: BleakDriver, peripheral: BleakDriver) -> tuple[BLELink, BLELink]:
    assert peripheral.address is not None
    await sighted(central, peripheral.address)
    with trio.fail_after(PATIENCE):
        ours = await central.connect(peripheral.address)
        theirs = await peripheral.accepted.receive()
        await theirs.receive()
    return ours, theirs


async def ends(link: BLELink) -> None:
    with trio.fail_after(PATIENCE):
        async for _ in link:
            pass
    with pytest.raises(LinkLost):
        await link.send(b"\x00")


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    with trio.fail_after(PATIENCE):
        while not await condition():
            await trio.sleep(laboratory.POLL)


@asynccontextmanager
async def peer(adapter: str) -> AsyncIterator[trio.Process]:
    """A peripheral in a process of its own."""
    process = await trio.lowlevel.open_process([sys.executable, "-c", PEER, adapter])
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def fails(driver: BleakDriver, fault: Callable[[], Awaitable[None]], within: float) -> str:
    """Enter the driver, break something, and see that the block ends with what has happened."""
    with pytest.RaisesGroup(AdapterUnavailable, allow_unwrapped=True, flatten_subgroups=True) as raised:
        async with driver:
            await start(driver, b"a")
            with trio.fail_after(within + PATIENCE / 2):
                with trio.CancelScope(shield=True):  # it has a second half
                    await fault()
                await trio.sleep_forever()
    error = raised.value
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error)


async def works(driver: BleakDriver) -> None:
    with trio.fail_after(PATIENCE):
        async with driver:
            await start(driver, b"a")


# --- the adapter ------------------------------------------------------------------------------------------


async def test_an_adapter_goes_by_its_address(adapters: list[str]) -> None:
    address = (await laboratory.adapters())[adapters[1]]["Address"]
    async with BleakDriver(address.lower().replace(":", "-")) as driver:
        assert driver.address == address


async def test_an_adapter_that_is_not_there_is_named_with_those_that_are(adapters: list[str]) -> None:
    with pytest.raises(AdapterUnavailable, match=rf"no adapter hci99.*{adapters[0]}"):
        async with BleakDriver("hci99"):
            pass


def test_what_is_no_adapter_is_a_fault_of_the_configuration() -> None:
    with pytest.raises(ConfigurationError, match="adapter = bluetooth0"):
        BleakDriver("bluetooth0")


async def test_an_adapter_that_is_off_is_powered_on(lab: Laboratory, adapters: list[str]) -> None:
    await laboratory.set_powered(adapters[0], False)
    await works(BleakDriver(adapters[0]))


async def test_powered_off(lab: Laboratory, adapters: list[str]) -> None:
    driver = BleakDriver(adapters[0])
    said = await fails(driver, lambda: laboratory.set_powered(adapters[0], False), 5)
    assert "powered off" in said
    for _ in range(2):
        with pytest.raises(AdapterUnavailable) as raised:
            async with driver:
                pass
        assert str(raised.value) == said
    assert not (await laboratory.adapters())[adapters[0]]["Powered"]
    await laboratory.set_powered(adapters[0], True)
    await works(driver)
    await laboratory.set_powered(adapters[0], False)  # while nobody uses it
    await works(driver)


async def test_powered_off_and_bluetoothd_started_again(lab: Laboratory, adapters: list[str]) -> None:
    driver = BleakDriver(adapters[0])
    await fails(driver, lambda: laboratory.set_powered(adapters[0], False), 5)
    await lab.restart_bluetoothd()
    await laboratory.set_powered(adapters[0], False)
    await works(driver)


async def test_unplugged(lab: Laboratory, adapters: list[str]) -> None:
    driver = BleakDriver(lab.address(0))
    said = await fails(driver, lambda: lab.unplug(0), 5)
    with pytest.raises(AdapterUnavailable, match="no adapter") as raised:
        async with driver:
            pass
    assert said == str(raised.value)
    await lab.plug(0)
    await lab.ready()
    await works(driver)


# --- daemons ----------------------------------------------------------------------------------------------


async def test_bluetoothd_killed_with_a_link(lab: Laboratory, adapters: list[str]) -> None:
    ours = None
    with pytest.RaisesGroup(AdapterUnavailable, allow_unwrapped=True, flatten_subgroups=True) as raised:
        async with BleakDriver(adapters[0]) as one, BleakDriver(adapters[1]) as other:
            await start(one, b"a")
            await start(other, b"b")
            ours, _theirs = await link(one, other)
            await lab.bluetoothd.kill()
            with trio.fail_after(PATIENCE):
                await trio.sleep_forever()
    assert "bluetoothd" in repr(raised.value)
    assert ours is not None
    await ends(ours)
    with pytest.raises(AdapterUnavailable, match="systemctl start bluetooth"):
        async with BleakDriver(adapters[0]):
            pass
    lab.bluetoothd.start()
    await lab.ready()
    await works(BleakDriver(adapters[0]))


async def test_bluetoothd_frozen(lab: Laboratory, adapters: list[str]) -> None:
    async def freeze() -> None:
        lab.bluetoothd.freeze()

    driver = BleakDriver(adapters[0])
    said = await fails(driver, freeze, VERDICT)
    assert "frozen" in said
    lab.bluetoothd.thaw()
    await works(driver)


async def test_bluetoothd_frozen_during_a_connect_that_is_cancelled(
    lab: Laboratory, adapters: list[str]
) -> None:
    async with peer(adapters[1]):
        with pytest.RaisesGroup(AdapterUnavailable, allow_unwrapped=True, flatten_subgroups=True):
            async with BleakDriver(adapters[0]) as driver:
                await start(driver, b"a")
                await sighted(driver, lab.address(1))
                with trio.move_on_after(0.3):
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(driver.connect, lab.address(1))
                        await trio.sleep(0.1)
                        lab.bluetoothd.freeze()
                        frozen = trio.current_time()
                await trio.sleep_forever()
        assert trio.current_time() - frozen < VERDICT + GOODBYE_TIMEOUT
    lab.bluetoothd.thaw()


async def test_calls_that_a_frozen_bluetoothd_does_not_answer_fail_with_the_verdict(
    lab: Laboratory, adapters: list[str]
) -> None:
    async with peer(adapters[1]):
        with pytest.RaisesGroup(AdapterUnavailable, allow_unwrapped=True, flatten_subgroups=True) as raised:
            async with BleakDriver(adapters[0]) as driver:
                await start(driver, b"a")
                await sighted(driver, lab.address(1))
                lab.bluetoothd.freeze()
                frozen = trio.current_time()
                with trio.CancelScope(shield=True):
                    await driver.connect(lab.address(1))
        assert "frozen" in repr(raised.value)
        assert trio.current_time() - frozen < VERDICT + GOODBYE_TIMEOUT
    lab.bluetoothd.thaw()


async def test_leaving_does_not_wait_for_a_bluetoothd_that_is_frozen(
    lab: Laboratory, adapters: list[str]
) -> None:
    with trio.fail_after(2 * PATIENCE):
        async with BleakDriver(adapters[0]) as one, BleakDriver(adapters[1]) as other:
            await start(one, b"a")
            await start(other, b"b")
            await link(one, other)
            lab.bluetoothd.freeze()
            began = trio.current_time()
    # One after the other, each with a second for the connection to the bus and one for bleak's.
    assert trio.current_time() - began < 2 * (GOODBYE_TIMEOUT + 2)
    lab.bluetoothd.thaw()


async def test_the_system_bus_restarted(lab: Laboratory, adapters: list[str]) -> None:
    driver = BleakDriver(adapters[0])
    said = await fails(driver, lab.restart_dbus_daemon, 5)
    assert "D-Bus" in said or "bluetoothd" in said
    await works(driver)


async def test_no_system_bus(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    with socket.socket(socket.AF_UNIX) as nobody_listens:
        nobody_listens.bind(str(tmp_path / "bus"))
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path / 'bus'}")
    with pytest.raises(AdapterUnavailable, match="systemctl start bluetooth"):
        async with BleakDriver("hci0"):
            pass
    gc.collect()
    assert not [str(warning.message) for warning in recwarn]


# --- peers ------------------------------------------------------------------------------------------------


async def test_out_of_range_ends_both_ends_and_back_works_again(lab: Laboratory, adapters: list[str]) -> None:
    async with BleakDriver(adapters[0]) as one, BleakDriver(adapters[1]) as other:
        await start(one, b"a")
        await start(other, b"b")
        ours, theirs = await link(one, other)
        await lab.out_of_range(1)
        await ends(ours)
        await ends(theirs)
        await ours.aclose()
        await theirs.aclose()
        await lab.in_range(1)
        ours, theirs = await link(one, other)
        await ours.send(b"again")
        assert await theirs.receive() == b"again"


async def test_a_peers_process_that_dies_ends_the_link(adapters: list[str]) -> None:
    async with BleakDriver(adapters[0]) as driver, peer(adapters[1]) as process:
        await start(driver, b"a")
        address = (await laboratory.adapters())[adapters[1]]["Address"]
        await sighted(driver, address)
        with trio.fail_after(PATIENCE):
            ours = await driver.connect(address)
        process.send_signal(signal.SIGKILL)
        await ends(ours)
        await ours.aclose()
        assert driver.connected_peers == []


async def test_one_role_ends_and_the_other_goes_on(adapters: list[str]) -> None:
    async with BleakDriver(adapters[0]) as one, BleakDriver(adapters[1]) as other:
        await start(one, b"a")
        await start(other, b"b")
        there = await link(one, other)
        back = await link(other, one)
        for ours, theirs in (there, back):
            await ours.send(b"request")
            assert await theirs.receive() == b"request"
            await theirs.send(b"answer")
            assert await ours.receive() == b"answer"
        with trio.fail_after(GOODBYE_TIMEOUT):
            await there[0].aclose()
        await back[0].send(b"still")
        assert await back[1].receive() == b"still"
        await back[1].send(b"here")
        assert await back[0].receive() == b"here"
        with trio.fail_after(GOODBYE_TIMEOUT):
            await back[0].aclose()
        await ends(there[1])
        await ends(back[1])


async def test_a_device_that_is_no_peer_is_left_as_it_was(adapters: list[str]) -> None:
    async with BleakDriver(adapters[0]) as one, BleakDriver(adapters[1]) as other:
        await start(one, b"a")
        other.set_identity(b"b" * 16)
        # The service that it advertises, but not what is in it.
        await other.start(
            SERVICE_UUID, *(f"0000{n}-0000-1000-8000-00805f9b34fb" for n in ("aa01", "aa02", "aa03"))
        )
        await other.start_advertising()
        assert other.address is not None
        await sighted(one, other.address)
        with trio.fail_after(PATIENCE), pytest.raises(ProtocolViolation, match="lacks 3"):
            await one.connect(other.address)
        assert one.connected_peers == []

        async def disconnected() -> bool:
            return not any(
                interfaces["org.bluez.Device1"]["Connected"]
                for interfaces in (await laboratory.objects()).values()
                if "org.bluez.Device1" in interfaces
            )

        await until(disconnected)


# --- pairing ----------------------------------------------------------------------------------------------


class DesktopAgent:
    """Asks its user, who refuses."""

    interface = "org.bluez.Agent1"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def properties(self) -> dict[str, Variant]:
        return {}

    def call(self, member: str, body: Sequence[Any]) -> Reply | None:
        self.asked.append(member)
        raise Refused("org.bluez.Error.Rejected", "no", member)


@asynccontextmanager
async def a_value_written(adapter: str, address: str, value: str) -> AsyncIterator[None]:
    """Another program on this adapter has connected the peer and written this value to it (hexadecimal)."""
    command = [sys.executable, str(OTHER), "write", adapter, address, RX_UUID, value]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        with trio.fail_after(PATIENCE):
            assert await process.stdout.receive_some() == b"ready\n"
        yield
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stdout.aclose()


async def pair_in_vain(adapter: str, address: str) -> None:
    """The laboratory's controllers do not encrypt: agents are asked all the same, and that is all."""
    path = f"/org/bluez/{adapter}/dev_{address.replace(':', '_')}"
    with pytest.raises(LaboratoryError, match="Authentication"):
        await laboratory.call_bluez(path, "org.bluez.Device1", "Pair")


async def test_a_desktops_agent_stays_the_one_that_is_asked(lab: Laboratory, adapters: list[str]) -> None:
    desktop = DesktopAgent()
    async with open_asyncio_loop() as loop, open_bus(loop) as bus:
        bus.offer("/desktop", desktop)
        await bus.call(
            "/org/bluez", "org.bluez.AgentManager1", "RegisterAgent", "os", "/desktop", "KeyboardDisplay"
        )
        async with BleakDriver(adapters[0]) as one, BleakDriver(adapters[1]) as other:
            await start(one, b"a")
            await start(other, b"b")
            await link(other, one)
            await pair_in_vain(adapters[1], lab.address(0))
    assert desktop.asked[:1] == ["RequestConfirmation"]  # of what is on the display that it has


@pytest.mark.parametrize("acquaintance", ["none", "a link without an identity", "a link"])
async def test_only_who_has_told_its_identity_on_a_link_may_pair(
    lab: Laboratory, adapters: list[str], caplog: pytest.LogCaptureFixture, acquaintance: str
) -> None:
    caplog.set_level(logging.DEBUG, "rns_ble.drivers.bluez.advertiser")
    async with (
        BleakDriver(adapters[0]) as one,
        BleakDriver(adapters[1]) as other,
        AsyncExitStack() as stack,
    ):
        await start(one, b"a")
        await start(other, b"b")
        if acquaintance == "a link":
            await link(other, one)
        else:
            await sighted(other, lab.address(0))
        if acquaintance == "a link without an identity":
            await stack.enter_async_context(a_value_written(adapters[1], lab.address(0), "00"))
            with trio.fail_after(PATIENCE):
                assert await (await one.accepted.receive()).receive() == b"\x00"
        await pair_in_vain(adapters[1], lab.address(0))
    path = f"/org/bluez/{adapters[0]}/dev_{lab.address(1).replace(':', '_')}"
    may = acquaintance == "a link"
    assert (f"{path} may pair" in caplog.text) == may
    assert (f"RequestAuthorization('{path}',): rejected" in caplog.text) != may


# --- nothing is left --------------------------------------------------------------------------------------


async def test_entering_and_linking_and_leaving_leaves_nothing(adapters: list[str]) -> None:
    before = await census.at_rest()
    for _ in range(3):
        async with BleakDriver(adapters[0]) as one, BleakDriver(adapters[1]) as other:
            await start(one, b"a")
            await start(other, b"b")
            ours, _theirs = await link(one, other)
            with trio.move_on_after(0.1):
                await sighted(other, "nobody")
            await ours.aclose()
    await census.back_to(before, census.AT_ONCE)


def test_errors_say_what_to_do() -> None:
    said = {
        "org.freedesktop.DBus.Error.AccessDenied": "group bluetooth",
        "org.bluez.Error.Blocked": "rfkill unblock",
    }
    for name, what in said.items():
        error = refusal(name, "text", "StartDiscovery")
        assert isinstance(error, AdapterUnavailable)
        assert what in str(error)
    assert isinstance(refusal("org.bluez.Error.Failed", "text", "Connect"), Refused)
    same = refusal("org.bluez.Error.Failed", "Operation already in progress", "Connect")
    assert isinstance(same, Refused)
    assert same.name == "org.bluez.Error.InProgress"


def test_importing_the_package_imports_neither_bleak_nor_dbus() -> None:
    program = (
        "import sys, rns_ble, rns_ble.drivers.bluez\n"
        "sys.exit('bleak' in sys.modules or 'dbus_next' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
