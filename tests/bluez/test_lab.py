"""The laboratory works: what boot promises is there, and every fault that a test can ask for does happen."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from rns_ble.protocol.gatt import SERVICE_UUID
from tests.bluez import laboratory
from tests.bluez.laboratory import PATIENCE, Laboratory, LaboratoryError

SCAN = str(Path(__file__).with_name("scan.py"))


@asynccontextmanager
async def advertising(adapter: str) -> AsyncIterator[str]:
    """BlueZ's own tool advertises the service on this adapter, whose address this is."""
    address = (await laboratory.adapters())[adapter]["Address"]
    process = await trio.lowlevel.open_process(
        ["bluetoothctl"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdin is not None
    assert process.stdout is not None
    said = b""

    async def until(words: bytes) -> None:
        nonlocal said
        while words not in said:
            chunk = await process.stdout.receive_some()  # type: ignore[union-attr]
            assert chunk, said.decode()
            said += chunk

    try:
        with trio.fail_after(PATIENCE):
            await until(b"Agent registered")
            commands = f"select {address}\nmenu advertise\nuuids {SERVICE_UUID}\nback\nadvertise on\n"
            await process.stdin.send_all(commands.encode())
            await until(b"Advertising object registered")
        yield address
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def sees(adapter: str, address: str, seconds: float) -> bool:
    """Whether a scan by bleak on this adapter meets an advertiser of the service with this address."""
    scan = await trio.run_process(
        [sys.executable, SCAN, adapter, address, SERVICE_UUID, str(seconds)],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    assert scan.stderr == b"", scan.stderr.decode()
    return scan.returncode == 0


async def powered(adapter: str) -> bool:
    return bool((await laboratory.adapters()).get(adapter, {}).get("Powered"))


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(PATIENCE):
        while not await condition():  # type: ignore[misc]
            await trio.sleep(laboratory.POLL)


# --- what is there ----------------------------------------------------------------------------------------


async def test_the_adapters_are_on_and_know_no_device(adapters: list[str]) -> None:
    assert len(adapters) >= 2
    for adapter in adapters:
        assert await powered(adapter)
    devices = [
        path for path, interfaces in (await laboratory.objects()).items() if "org.bluez.Device1" in interfaces
    ]
    assert devices == [] or not laboratory.IN_GUEST


async def test_bluetoothd_is_of_the_generation_asked_for(
    bluez_asked_for: str, bluez_version: tuple[int, int]
) -> None:
    major, minor = bluez_version
    assert f"{major}.{minor}" == bluez_asked_for


async def test_a_scan_finds_an_advertiser_on_another_adapter(
    take_adapters: Callable[[int], list[str]],
) -> None:
    near, far = take_adapters(2)
    async with advertising(near) as address:
        assert await sees(far, address, seconds=PATIENCE)


# --- faults -----------------------------------------------------------------------------------------------


async def test_out_of_range_is_out_of_sight_until_it_comes_back(lab: Laboratory, adapters: list[str]) -> None:
    async with advertising(adapters[0]) as address:
        await lab.out_of_range(0)
        assert not await sees(adapters[1], address, seconds=2)
        await lab.in_range(0)
        assert await sees(adapters[1], address, seconds=PATIENCE)


async def test_an_unplugged_controller_takes_its_adapter_along_and_brings_it_back(lab: Laboratory) -> None:
    await lab.unplug(0)

    async def gone() -> bool:
        addresses = {found["Address"] for found in (await laboratory.adapters()).values()}
        return lab.address(0) not in addresses

    await until(gone)
    await lab.plug(0)
    await lab.ready()
    assert await powered(await lab.adapter(0))


async def test_a_controller_can_be_added(lab: Laboratory, adapters: list[str]) -> None:
    controller = await lab.add()
    await lab.ready()
    assert await lab.adapter(controller) not in adapters


async def test_a_blocked_adapter_is_off(lab: Laboratory, adapters: list[str]) -> None:
    lab.block(adapters[0])

    async def off() -> bool:
        return not await powered(adapters[0])

    await until(off)
    assert await powered(adapters[1])
    lab.block(adapters[0], blocked=False)

    async def on() -> bool:
        try:
            await laboratory.set_powered(adapters[0], True)
        except LaboratoryError:
            return False  # BlueZ is still busy with the block
        return await powered(adapters[0])

    await until(on)


async def test_bluetoothd_killed_is_gone_and_comes_back_when_started(
    lab: Laboratory, bluez_version: tuple[int, int]
) -> None:
    killed = lab.bluetoothd.pid
    await lab.bluetoothd.kill()
    with pytest.raises(LaboratoryError, match=r"ServiceUnknown|NoReply"):
        await laboratory.adapters()
    lab.bluetoothd.start()
    await lab.ready()
    assert lab.bluetoothd.pid != killed
    found = await laboratory.adapters()
    assert {laboratory.bluez_version(adapter["Modalias"]) for adapter in found.values()} == {bluez_version}


async def test_bluetoothd_frozen_answers_when_it_is_thawed(lab: Laboratory) -> None:
    answered = trio.Event()

    async def ask() -> None:
        await laboratory.adapters()
        answered.set()

    lab.bluetoothd.freeze()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        with trio.move_on_after(1):
            await answered.wait()
        assert not answered.is_set()
        lab.bluetoothd.thaw()
    assert answered.is_set()


async def test_the_system_bus_restarted_has_the_adapters_again(lab: Laboratory, adapters: list[str]) -> None:
    await lab.restart_dbus_daemon()
    assert list(await laboratory.adapters()) == adapters


async def test_settings_of_a_restart_last_until_the_next_test(lab: Laboratory) -> None:
    await lab.restart_bluetoothd(Channels=3, ExchangeMTU=185)
    settings = laboratory.MAIN_CONF.read_text()
    assert "Channels=3" in settings
    assert "ExchangeMTU=185" in settings
    await lab.reset()
    assert "ExchangeMTU" not in laboratory.MAIN_CONF.read_text()
    assert lab.bluetoothd.running()


async def test_a_command_that_can_not_be_done_says_so(lab: Laboratory) -> None:
    with pytest.raises(LaboratoryError, match="there is no controller 99"):
        await lab.unplug(99)
