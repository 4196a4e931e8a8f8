"""`rns-ble radio` on a real bluetoothd: as on two machines, each program with an adapter."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from tests.bluez import laboratory
from tests.bluez.laboratory import Laboratory
from tests.system.radio import checked, raced, radio, running, serving

Pair = tuple[tuple[str, ...], tuple[str, ...], str, str]
"""The options of one side and of the other, and their adapters' addresses."""


@pytest.fixture
async def pair(take_adapters: Callable[[int], list[str]]) -> Pair:
    """One adapter goes by its name, the other by its address."""
    one, other = take_adapters(2)
    present = await laboratory.adapters()
    addresses = present[one]["Address"], present[other]["Address"]
    return ("--adapter", one), ("--adapter", addresses[1]), *addresses


def say(line: str, version: tuple[int, int], capsys: pytest.CaptureFixture[str]) -> None:
    """Print a figure in spite of pytest's capture."""
    with capsys.disabled():
        sys.stdout.write(f"\n  BlueZ {'.'.join(map(str, version))}: {line}")
        sys.stdout.flush()


async def test_what_is_sent_comes_back(
    pair: Pair, bluez_version: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    here, there, own, address = pair
    async with serving(*there) as server:
        assert (await server.event("serving"))["address"] == address
        for _ in range(2):  # the second time BlueZ knows the device
            report = await checked("connect", address, *here, "--count", "30")
            assert report["address"] == address
            assert report["data_path"] == "socket"
            largest = report["checks"][-1]
            assert largest["size"] == report["value_limit"] == report["checks"][-2]["size"] + 1
            assert all(check["ok"] and check["arrived"] == 30 for check in report["checks"])
            rates = ", ".join(
                f"{check['values_per_second']:.0f}/s of {check['size']} B" for check in report["checks"]
            )
            say(f"connected in {report['setup_seconds']:.2f} s, ATT MTU {report['att_mtu']}; there and back "
                f"{rates}", bluez_version, capsys)  # fmt: skip
        ended = await server.event("disconnected", 2)
        assert (ended["address"], ended["values"], ended["foreign"], ended["dropped"]) == (own, 150, 0, 0)


async def test_a_scan_lists_who_serves(pair: Pair) -> None:
    here, there, _, address = pair
    code, out, _ = await radio("scan", *here, "--seconds", "1")
    assert code == 1
    assert out.startswith("Nobody was heard in 1 s. ")
    async with serving(*there):
        [device] = (await checked("scan", *here, "--seconds", "3"))["devices"]
        assert device["address"] == address
        assert device["sightings"] >= 1  # controllers report each once for every discovery


async def test_two_sides_that_race_always_end_with_a_link(
    pair: Pair, bluez_version: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    here, there, own, address = pair
    for report in await raced((address, *here), (own, *there), 3):
        again = sum(len(round_["dials"]) > 1 for round_ in report["rounds"])
        lost = sum(round_["lost"] for round_ in report["rounds"])
        say(f"race: {report['outcomes']}; {again} rounds took more than one dial, {lost} links were lost",
            bluez_version, capsys)  # fmt: skip


async def test_an_interrupt_ends_a_connection_on_both_sides(pair: Pair) -> None:
    here, there, _, address = pair
    async with serving(*there) as server:
        async with running("connect", address, *here, "--count", "65535", ends_with=130) as client:
            await client.says("connected")
            await server.event("connected")
        assert client.errors.endswith(b"rns-ble radio: interrupted by SIGINT; everything is cleaned up\n")
        await server.event("disconnected")
        known = [
            interfaces.get("org.bluez.Device1", {}) for interfaces in (await laboratory.objects()).values()
        ]
        assert not any(device.get("Connected") for device in known)


async def test_what_a_person_can_put_right_is_one_line(lab: Laboratory, adapters: list[str]) -> None:
    async def complaint(*options: str) -> str:
        code, out, errors = await radio("connect", "C0:FF:EE:00:00:FF", *options, "--timeout", "1", "-q")
        assert (code, out) == (1, "")
        assert errors.count("\n") == 1
        return errors.removeprefix("rns-ble radio: ")

    adapter = "--adapter", adapters[0]
    assert (await complaint(*adapter)).startswith(
        "C0:FF:EE:00:00:FF was not heard within 1 s: start `rns-ble "
    )
    known = await complaint("--adapter", "hci99")
    assert known.startswith("there is no adapter hci99; BlueZ knows hci0 (C0:FF:EE:00:00:00), hci1")
    await lab.bluetoothd.kill()
    assert "systemctl start bluetooth" in await complaint(*adapter)
