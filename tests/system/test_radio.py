"""`rns-ble radio` on the ether: each side a process with a Bluetooth host of its own."""

from __future__ import annotations

import shlex
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from rns_ble.cli.demo.network import Process
from tests.system.radio import checked, raced, radio, running, serving

NOWHERE = "C0:FF:EE:00:00:FF"


@asynccontextmanager
async def ether(directory: Path) -> AsyncIterator[tuple[str, ...]]:
    """The options with which a program is on a fresh ether."""
    command = [sys.executable, "-m", "rns_ble.cli", "ether", "--listen", "127.0.0.1:0", "--json"]
    process = Process(
        "the ether",
        [*command, "--until-stdin-ends"],
        [directory / "ether.log"],
        trio.lowlevel.ParkingLot(),
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(process.run)
        listening = await process.wait_for("listening")
        yield "--driver", "bumble", "--transport", listening["transport"]
        nursery.cancel_scope.cancel()


async def test_what_is_sent_comes_back(tmp_path: Path) -> None:
    async with ether(tmp_path) as options, serving(*options) as server:
        address = (await server.event("serving"))["address"]
        report = await checked("connect", address, *options, "--count", "30")
        assert (report["address"], report["att_mtu"], report["data_path"]) == (address, 517, "acl")
        assert report["setup_seconds"] > 0
        assert [check["size"] for check in report["checks"]] == [6, 20, 255, 509, 510]
        for check in report["checks"]:
            assert check["ok"]
            assert check["arrived"] == 30
            assert check["values_per_second"] > 0
        ended = await server.event("disconnected")
        assert (ended["values"], ended["foreign"], ended["dropped"]) == (150, 0, 0)
        assert ended["address"] == (await server.event("connected"))["address"]


async def test_a_person_is_told_what_happens_and_that_all_is_well(tmp_path: Path) -> None:
    async with ether(tmp_path) as options, serving(*options):
        code, out, errors = await radio("connect", *options, "--bytes", "100", "--bytes", "7")
        assert code == 0
        lines = out.splitlines()
        assert lines[-1] == "All is well."
        assert [line.split()[0] for line in lines[-4:-2]] == ["100", "7"]
        assert all(line.endswith("identical, in order") for line in lines[-4:-2])
        assert "connected, handshake done" in errors


async def test_a_size_that_does_not_fit_is_wrong_usage(tmp_path: Path) -> None:
    async with ether(tmp_path) as options, serving(*options):
        code, out, errors = await radio("connect", *options, "--bytes", "511", "-q")
        assert (code, out) == (2, "")
        assert errors == "rns-ble radio: --bytes 511: this link takes values of 6 to 510 bytes\n"


async def test_a_scan_lists_who_serves(tmp_path: Path) -> None:
    async with ether(tmp_path) as options:
        code, out, _ = await radio("scan", *options, "--seconds", "1")
        assert code == 1
        assert out.startswith("Nobody was heard in 1 s. ")
        async with serving(*options) as server:
            address = (await server.event("serving"))["address"]
            report = await checked("scan", *options, "--seconds", "3")
            [device] = report["devices"]
            assert device["address"] == address
            assert -127 < device["rssi"] < 20
            assert device["sightings"] > 1
            code, out, _ = await radio("scan", *options, "--seconds", "1")
            assert code == 0
            assert out.splitlines()[1].startswith(address)


async def test_a_service_of_ones_own_keeps_others_away(tmp_path: Path) -> None:
    async with ether(tmp_path) as options, serving(*options):
        other = (*options, "--service-uuid", "b1e00000-0000-4000-8000-000000000000")
        code, _, errors = await radio("connect", *other, "--timeout", "1", "-q")
        assert code == 1
        typed = shlex.join(other)
        assert errors == (
            f"rns-ble radio: nobody was heard within 1 s: start `rns-ble radio serve {typed}` on the other "
            f"machine, and see with `rns-ble radio scan {typed}` who is in range\n"
        )


async def test_who_is_not_there_is_one_line(tmp_path: Path) -> None:
    async with ether(tmp_path) as options:
        for action in ("connect", "race"):
            code, out, errors = await radio(action, NOWHERE, *options, "--timeout", "1", "-q")
            assert (code, out) == (1, "")
            assert errors.startswith(f"rns-ble radio: {NOWHERE} was not heard within 1 s: start ")
            assert errors.count("\n") == 1


async def test_a_radio_that_is_not_there_is_one_line() -> None:
    transport = "tcp-client:127.0.0.1:1"
    for action in ("scan", "serve", "connect", "race"):
        code, out, errors = await radio(action, "--driver", "bumble", "--transport", transport)
        assert (code, out) == (1, "")
        assert errors.startswith(f"rns-ble radio: {transport} can't be opened")
        assert "start what listens there first" in errors
        assert errors.count("\n") == 1


async def test_two_sides_that_race_always_end_with_a_link(tmp_path: Path) -> None:
    async with ether(tmp_path) as options:
        one, other = await raced(options, options, 8)
    # A host of Bumble's has one connection to another, so each link is one side's own.
    mirrored = {"one link, ours": "one link, theirs", "one link, theirs": "one link, ours"}
    for ours, theirs in zip(one["rounds"], other["rounds"], strict=True):
        assert mirrored[ours["outcome"]] == theirs["outcome"]


async def test_an_interrupt_ends_a_connection_on_both_sides(tmp_path: Path) -> None:
    async with ether(tmp_path) as options, serving(*options) as server:
        async with running("connect", *options, "--count", "65535", ends_with=130) as client:
            await client.says("connected")
            await server.event("connected")
        assert client.errors.endswith(b"rns-ble radio: interrupted by SIGINT; everything is cleaned up\n")
        await server.event("disconnected")


async def test_serving_can_have_an_end(tmp_path: Path) -> None:
    async with ether(tmp_path) as options:
        code, out, errors = await radio("serve", *options, "--seconds", "0.5")
    assert (code, errors) == (0, "")
    assert out.startswith("Serving as ")
    assert out.count("\n") == 1
