"""The central role: values over D-Bus where there are no sockets, and what BlueZ remembers of other times."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from rns_ble.drivers.base import BLELink, LinkLost, PeerUnreachable, ProtocolViolation, Role
from rns_ble.drivers.bluez import BleakDriver
from rns_ble.drivers.bluez.bearer import LE_LINK, link_types, only_by_bredr
from rns_ble.drivers.bluez.link import RECEIVE_BUFFERED
from rns_ble.protocol.gatt import RX_UUID, SERVICE_UUID, TX_UUID
from tests.bluez import laboratory
from tests.bluez.laboratory import MAIN_CONF, PATIENCE, Laboratory
from tests.bluez.test_bluez_faults import ends, sighted, start

OTHER = str(Path(__file__).with_name("other_program.py"))

WRITE_ONLY = "write"
BOTH_WRITES = "write,write-without-response"
NOTIFY = "read,notify"
INDICATE = "read,indicate"
INDICATE_SOCKET_SINCE = (5, 82)
"""Of the two generations here, the first whose BlueZ gives a socket for indications."""

CENTRAL = """
import sys, trio
from rns_ble.drivers.bluez import BleakDriver
from rns_ble.protocol.gatt import IDENTITY_UUID, RX_UUID, SERVICE_UUID, TX_UUID
async def main():
    async with BleakDriver(sys.argv[1]) as driver:
        driver.set_identity(b"c" * 16)
        await driver.start(SERVICE_UUID, RX_UUID, TX_UUID, IDENTITY_UUID)
        await driver.start_scanning()
        async for device in driver.discovered:
            if device.address == sys.argv[2]:
                break
        await driver.connect(sys.argv[2])
        print("ready", flush=True)
        await trio.sleep_forever()
trio.run(main)
"""


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@asynccontextmanager
async def running(*command: str) -> AsyncIterator[trio.Process]:
    """A program in a process of its own, which has said that it is ready; killed at the end."""
    process = await trio.lowlevel.open_process([sys.executable, *command], stdout=-1)
    assert process.stdout is not None
    try:
        with trio.fail_after(PATIENCE):
            assert await process.stdout.receive_some() == b"ready\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stdout.aclose()


async def address_of(adapter: str) -> str:
    return str((await laboratory.adapters())[adapter]["Address"])


async def linked(driver: BleakDriver, address: str) -> BLELink:
    await sighted(driver, address)
    with trio.fail_after(PATIENCE):
        return await driver.connect(address)


def values(count: int, link: BLELink) -> list[bytes]:
    """Of all lengths but an identity's, the longest included."""
    lengths = [1, 2, 19, 20, 21, 100, link.value_limit - 1, link.value_limit]
    return [bytes((n + k) % 256 for k in range(lengths[n % len(lengths)])) for n in range(count)]


async def send_back(driver: BleakDriver) -> None:
    """Accepts every central, and sends back what it sends after its identity."""

    async def serve(link: BLELink) -> None:
        with suppress(LinkLost):
            await link.receive()
            async for value in link:
                await link.send(value)
        await link.aclose()

    async with trio.open_nursery() as nursery:
        async for link in driver.accepted:
            nursery.start_soon(serve, link)


async def echoes(link: BLELink, count: int = 60) -> None:
    """What is sent comes back, byte by byte and in order, while both ways are busy."""
    sent = values(count, link)

    async def send() -> None:
        for value in sent:
            await link.send(value)

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            assert [await link.receive() for _ in sent] == sent


async def devices(adapter: str) -> dict[str, dict[str, object]]:
    """Address → properties of what BlueZ knows on this adapter."""
    return {
        interfaces["org.bluez.Device1"]["Address"]: interfaces["org.bluez.Device1"]
        for path, interfaces in (await laboratory.objects()).items()
        if "org.bluez.Device1" in interfaces and f"/{adapter}/" in path
    }


def device_path(adapter: str, address: str) -> str:
    return f"/org/bluez/{adapter}/dev_{address.replace(':', '_')}"


# --- values over D-Bus ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rx", "tx", "old", "new"),
    [
        (WRITE_ONLY, INDICATE, "dbus", "dbus out, socket in"),
        (BOTH_WRITES, INDICATE, "socket out, dbus in", "socket"),
        (WRITE_ONLY, NOTIFY, "dbus out, socket in", "dbus out, socket in"),
        (BOTH_WRITES, NOTIFY, "socket", "socket"),
    ],
)
async def test_values_go_over_dbus_where_bluez_has_no_socket_for_them(
    adapters: list[str], bluez_version: tuple[int, int], rx: str, tx: str, old: str, new: str
) -> None:
    async with (
        running(OTHER, "serve", adapters[1], rx, tx, "0"),
        BleakDriver(adapters[0]) as driver,
    ):
        await start(driver, b"a")
        link = await linked(driver, await address_of(adapters[1]))
        assert link.data_path == (old if bluez_version < INDICATE_SOCKET_SINCE else new)
        assert link.att_mtu == 517
        await echoes(link)
        await link.aclose()


@pytest.mark.parametrize(
    ("member", "uuid"),
    [("StartNotify", TX_UUID), ("AcquireNotify", TX_UUID), ("AcquireWrite", RX_UUID)],
    ids=["StartNotify", "AcquireNotify", "AcquireWrite"],
)
async def test_another_program_that_uses_the_peer_is_in_the_way_and_that_is_said(
    adapters: list[str], member: str, uuid: str
) -> None:
    address = await address_of(adapters[1])
    async with (
        running(OTHER, "serve", adapters[1], BOTH_WRITES, NOTIFY, "0"),
        BleakDriver(adapters[0]) as driver,
    ):
        await start(driver, b"a")
        await sighted(driver, address)
        async with running(OTHER, "hold", adapters[0], address, member, uuid):
            with trio.fail_after(PATIENCE), pytest.raises(PeerUnreachable, match="another program"):
                await driver.connect(address)
            assert driver.connected_peers == []
        link = await linked(driver, address)
        assert link.data_path == "socket"
        await echoes(link)
        await link.aclose()


async def test_a_link_over_dbus_ends_with_its_peer_and_leaves_nothing(
    lab: Laboratory, adapters: list[str]
) -> None:
    async with (
        running(OTHER, "serve", adapters[1], WRITE_ONLY, INDICATE, "0"),
        BleakDriver(adapters[0]) as driver,
    ):
        await start(driver, b"a")
        counts = []
        for _ in range(3):
            link = await linked(driver, lab.address(1))
            await lab.out_of_range(1)
            await ends(link)
            await link.aclose()
            assert driver.connected_peers == []
            counts.append(open_files())
            await lab.in_range(1)
        assert counts[1] == counts[2]


async def test_values_over_dbus_that_find_no_room_are_counted(
    adapters: list[str], bluez_version: tuple[int, int]
) -> None:
    if bluez_version >= INDICATE_SOCKET_SINCE:
        pytest.skip("this BlueZ gives a socket, which makes the peer wait")
    async with (
        running(OTHER, "serve", adapters[1], WRITE_ONLY, INDICATE, "0"),
        BleakDriver(adapters[0]) as driver,
    ):
        await start(driver, b"a")
        link = await linked(driver, await address_of(adapters[1]))
        count = RECEIVE_BUFFERED + 20
        with trio.fail_after(PATIENCE):
            for n in range(count):
                await link.send(n.to_bytes(2, "big"))
            while link.values_dropped < count - RECEIVE_BUFFERED:
                await trio.sleep(laboratory.POLL)
            kept = [await link.receive() for _ in range(RECEIVE_BUFFERED)]
        assert kept == [n.to_bytes(2, "big") for n in range(RECEIVE_BUFFERED)]
        assert link.values_dropped == count - RECEIVE_BUFFERED
        await link.aclose()


# --- the signal -------------------------------------------------------------------------------------------


async def test_a_link_in_either_role_has_the_signal_strength_with_which_its_peer_was_heard(
    adapters: list[str],
) -> None:
    async with BleakDriver(adapters[0]) as driver, BleakDriver(adapters[1]) as other:
        await start(driver, b"a")
        await start(other, b"b")
        await sighted(driver, await address_of(adapters[1]))
        theirs = await linked(other, await address_of(adapters[0]))
        with trio.fail_after(PATIENCE):
            ours = await driver.accepted.receive()
        assert ours.rssi is not None
        assert theirs.rssi is not None


async def test_a_scan_that_goes_on_hears_a_peer_again(adapters: list[str]) -> None:
    """Although controllers report each once for every discovery."""
    address = await address_of(adapters[1])
    async with BleakDriver(adapters[0]) as driver, BleakDriver(adapters[1]) as other:
        await start(driver, b"a")
        await start(other, b"b")
        await sighted(driver, address)
        with trio.fail_after(driver.heard_again_within):
            await trio.sleep(0.5)  # what comes at once is the scan response
            while (await driver.discovered.receive()).address != address:
                pass


async def test_a_central_that_was_not_heard_before_has_a_signal_strength_once_it_is(
    adapters: list[str],
) -> None:
    address = await address_of(adapters[1])
    async with BleakDriver(adapters[0]) as driver, BleakDriver(adapters[1]) as other:
        await start(driver, b"a")
        await driver.stop_scanning()
        await start(other, b"b")
        await linked(other, await address_of(adapters[0]))
        with trio.fail_after(PATIENCE):
            ours = await driver.accepted.receive()
            assert ours.rssi is None
            await driver.start_scanning()
            while (device := await driver.discovered.receive()).address != address:
                pass
        assert ours.rssi == device.rssi is not None


# --- two roles on one connection --------------------------------------------------------------------------


async def test_a_cancelled_connect_leaves_the_other_role_and_no_file(adapters: list[str]) -> None:
    async with BleakDriver(adapters[0]) as driver, BleakDriver(adapters[1]) as other:
        await start(driver, b"a")
        await start(other, b"b")
        before = open_files()
        at_other = await linked(other, await address_of(adapters[0]))
        with trio.fail_after(PATIENCE):
            ours = await driver.accepted.receive()
            assert await ours.receive() == b"b" * 16
        await sighted(driver, ours.address)
        for delay in (0, 0.001, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.09, 0.12):
            back = None
            with trio.move_on_after(delay):
                back = await driver.connect(ours.address)
            if back is not None:
                await back.aclose()
            with trio.fail_after(PATIENCE):
                await at_other.send(b"there")
                assert await ours.receive() == b"there"
                await ours.send(b"back")
                assert await at_other.receive() == b"back"
            with suppress(trio.WouldBlock):  # it may have got as far as to be a link there
                await other.accepted.receive_nowait().aclose()
        back = await linked(driver, ours.address)
        assert back.data_path == "socket"
        for link in back, ours, at_other:
            await link.aclose()
        with trio.fail_after(PATIENCE):
            while open_files() > before:  # BlueZ may keep a subscription as long as the connection
                await trio.sleep(laboratory.POLL)


@pytest.mark.parametrize("delay", [0, 0.3, 1.5])
async def test_a_link_that_is_made_while_another_one_is_being_closed_lasts(
    adapters: list[str], delay: float
) -> None:
    async with BleakDriver(adapters[0]) as driver, BleakDriver(adapters[1]) as other:
        await start(driver, b"a")
        await start(other, b"b")
        before = await linked(driver, await address_of(adapters[1]))
        async with trio.open_nursery() as serving:
            serving.start_soon(send_back, other)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(before.aclose)
                await trio.sleep(delay)
                with trio.fail_after(PATIENCE):
                    after = await driver.connect(before.address)
            await trio.sleep(3)  # longer than BlueZ takes to disconnect
            await before.aclose()
            await echoes(after)
            await after.aclose()
            serving.cancel_scope.cancel()


# --- what BlueZ remembers ---------------------------------------------------------------------------------


async def handles(adapter: str) -> set[str]:
    return {
        path.rpartition("/")[2]
        for path, interfaces in (await laboratory.objects()).items()
        if f"/{adapter}/dev_" in path
        and interfaces.get("org.bluez.GattCharacteristic1", {}).get("UUID") in (RX_UUID, TX_UUID)
    }


@pytest.mark.parametrize("close", [True, False])
async def test_a_peer_that_comes_back_with_other_handles(adapters: list[str], close: bool) -> None:
    address = await address_of(adapters[1])
    seen = []
    async with BleakDriver(adapters[0]) as driver:
        await start(driver, b"a")
        for padding in ("0", "7"):
            async with running(OTHER, "serve", adapters[1], BOTH_WRITES, "read,notify", padding) as peer:
                link = await linked(driver, address)
                await echoes(link)
                seen.append(await handles(adapters[0]))
                if close:
                    await link.aclose()
                else:  # BlueZ keeps the connection when a peer's program ends
                    peer.send_signal(signal.SIGKILL)
                    await ends(link)
            await link.aclose()
    assert not seen[0] & seen[1]


async def test_a_connection_that_a_killed_process_has_left(adapters: list[str]) -> None:
    address = await address_of(adapters[1])
    async with (
        running(OTHER, "serve", adapters[1], BOTH_WRITES, NOTIFY, "0"),
        running("-c", CENTRAL, adapters[0], address) as process,
    ):
        process.send_signal(signal.SIGKILL)
        await process.wait()
        assert (await devices(adapters[0]))[address]["Connected"]
        async with BleakDriver(adapters[0]) as driver:
            await start(driver, b"a")
            with trio.fail_after(PATIENCE):
                link = await driver.connect(address)
            await echoes(link)
            await link.aclose()


async def test_a_device_that_somebody_else_has_connected(adapters: list[str]) -> None:
    address = await address_of(adapters[1])
    async with (
        running(OTHER, "serve", adapters[1], BOTH_WRITES, NOTIFY, "0"),
        BleakDriver(adapters[0]) as driver,
    ):
        await start(driver, b"a")
        await sighted(driver, address)
        await laboratory.call_bluez(device_path(adapters[0], address), "org.bluez.Device1", "Connect")
        with trio.fail_after(PATIENCE):
            link = await driver.connect(address)
        await echoes(link)
        await link.aclose()


@asynccontextmanager
async def no_peer(adapter: str) -> AsyncIterator[BleakDriver]:
    """Advertises the service, but not what is in it."""
    async with BleakDriver(adapter) as driver:
        driver.set_identity(b"b" * 16)
        await driver.start(
            SERVICE_UUID, *(f"0000{n}-0000-1000-8000-00805f9b34fb" for n in ("aa01", "aa02", "aa03"))
        )
        await driver.start_advertising()
        yield driver


async def test_a_device_that_the_user_trusts_is_never_removed(adapters: list[str]) -> None:
    address = await address_of(adapters[1])
    path = device_path(adapters[0], address)
    async with no_peer(adapters[1]), BleakDriver(adapters[0]) as driver:
        await start(driver, b"a")
        await sighted(driver, address)
        await laboratory.call_bluez(
            path,
            "org.freedesktop.DBus.Properties",
            "Set",
            "ssv",
            ["org.bluez.Device1", "Trusted", laboratory.Variant("b", True)],
        )
        with trio.fail_after(PATIENCE), pytest.raises(ProtocolViolation):
            await driver.connect(address)
        assert (await devices(adapters[0]))[address]["Trusted"]


async def test_a_device_with_a_live_link_is_never_removed(adapters: list[str]) -> None:
    ours, theirs = await address_of(adapters[0]), await address_of(adapters[1])
    async with no_peer(adapters[1]) as other, BleakDriver(adapters[0]) as driver:
        await start(driver, b"a")
        await sighted(driver, theirs)
        await other.start_scanning()
        await sighted(other, ours)
        async with running(OTHER, "write", adapters[1], ours, RX_UUID, "62" * 16):
            with trio.fail_after(PATIENCE):
                link = await driver.accepted.receive()
                assert await link.receive() == b"b" * 16
                assert link.role is Role.PERIPHERAL
                with pytest.raises(ProtocolViolation):
                    await driver.connect(theirs)
            assert driver.connected_peers == [theirs]
            assert (await devices(adapters[0]))[theirs]["Connected"]
        await link.aclose()


# --- addresses --------------------------------------------------------------------------------------------


async def test_peers_with_random_addresses(lab: Laboratory, adapters: list[str]) -> None:
    await lab.bluetoothd.kill(signal.SIGTERM)
    MAIN_CONF.write_text(MAIN_CONF.read_text() + "\n[General]\nPrivacy=device\n")
    lab.bluetoothd.start()
    await lab.ready()
    async with (
        running(OTHER, "serve", adapters[1], BOTH_WRITES, NOTIFY, "0"),
        BleakDriver(adapters[0]) as driver,
    ):
        await start(driver, b"a")
        with trio.fail_after(PATIENCE):
            device = await driver.discovered.receive()
            link = await driver.connect(device.address)
        assert (await devices(adapters[0]))[device.address]["AddressType"] == "random"
        assert link.address == device.address != lab.address(1)
        await echoes(link)
        await link.aclose()


async def test_the_kernel_tells_that_a_connection_is_le(adapters: list[str]) -> None:
    address = await address_of(adapters[1])
    number = int(adapters[0].removeprefix("hci"))
    async with (
        running(OTHER, "serve", adapters[1], BOTH_WRITES, NOTIFY, "0"),
        BleakDriver(adapters[0]) as driver,
    ):
        await start(driver, b"a")
        assert link_types(number, address) == frozenset()
        link = await linked(driver, address)
        assert link_types(number, address) == {LE_LINK}
        assert not only_by_bredr(f"/org/bluez/{adapters[0]}", address)
        await link.aclose()
    assert link_types(99, address) == frozenset()
