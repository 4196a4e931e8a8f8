"""`rns-ble status` against Reticulum nodes on the virtual radio."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
from pathlib import Path
from typing import Any

import trio

import rns_ble
from rns_ble.cli.demo.network import Node
from rns_ble.cli.running import Running, ask_all
from tests.system.neighbour import until
from tests.system.networks import (
    DEADLINE,
    RNS_BLE,
    linked,
    network,
    processes_with,
    rns_ble_ended,
    start,
    status,
)
from tests.system.reticulum import Reticulum
from tests.system.terminal import terminal

SOCKET = Path("storage", "rns_ble", "BLE Interface.sock")


def state_of(pid: int) -> str:
    """As Linux has it: T is stopped (proc(5))."""
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


async def test_two_nodes_as_programs_and_people_see_them(tmp_path: Path) -> None:
    async with network(tmp_path) as net:
        one, two = await start(net, 2)
        await linked(net, one, two)
        interface = await status_for_programs(one, two, net.keys["transport"])
        await status_for_people(one, two)
        await scan_for_both(one, two, net.keys["transport"])
        await scan_on_a_terminal(one, two)
        await monitor_for_programs(one, two)
        await monitor_on_a_terminal(one, two)
        await monitor_on_a_terminal_without_a_shell(one, two)
        await monitor_on_a_terminal_that_is_gone(one, two)
        await monitor_without_a_screen(one, two)
        await status_of_a_process_that_stands_still(one, interface["pid"])
    assert not (one.directory / SOCKET).exists(), "gone with the node"
    code, told = await status(one)
    assert code == 1
    assert told == {
        "interfaces": [],
        "errors": [
            f"no Reticulum runs with {one.directory}: start rnsd, "
            "or restart it, if this package was upgraded since it was started"
        ],
    }


async def status_for_programs(one: Node, two: Node, transport: str) -> dict[str, Any]:
    code, told = await status(one, "--wait", "60")
    assert code == 0
    assert told["errors"] == []
    [interface] = told["interfaces"]
    mesh = interface.pop("mesh")
    assert interface.pop("age") > 0
    assert interface == {
        "name": "BLE Interface",
        "online": True,
        "offline_reason": None,
        "driver": "bumble",
        "adapter": None,
        "transport": transport,
        "address": mesh["address"],
        "pid": interface["pid"],
        "version": rns_ble.__version__,
        "rns_version": interface["rns_version"],
        "packets_dropped": 0,
    }
    assert interface["pid"] in processes_with(str(one.directory))
    [peer] = mesh["peers"]
    assert peer["identity"] == two.identity
    [link] = peer["links"]
    assert (link["att_mtu"], link["data_path"]) == (517, "acl")
    for path, mode in ((SOCKET.parent, 0o700), (SOCKET, 0o600)):
        assert stat.S_IMODE((one.directory / path).stat().st_mode) == mode
    return interface


async def status_of_a_process_that_stands_still(one: Node, pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    try:
        code, told = await status(one)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert code == 1
    assert f"process {pid} does not answer" in told["errors"][0]


async def status_for_people(one: Node, two: Node) -> None:
    code, out, errors = await rns_ble_ended("status", "--config", str(one.directory))
    assert (code, errors) == (0, "")
    assert out.startswith("BLE Interface: online\n  driver bumble on tcp-client:")
    [row] = [line for line in out.splitlines() if two.identity in line]
    assert re.search(r" (central|peripheral) +[0-9A-F:]{17} +-50 +517 +acl .* B ", row), row


async def scan_for_both(one: Node, two: Node, transport: str) -> None:
    """With a running interface, and without."""
    config = ("--config", str(one.directory))
    code, out, errors = await rns_ble_ended("scan", *config)
    assert (code, errors) == (0, "")
    [row] = out.splitlines()[1:]
    assert re.fullmatch(rf"[0-9A-F:]{{17}} +-50 .* {two.identity[:16]} +- +linked", row), row
    keys = ("--driver", "bumble", "--transport", transport)
    code, out, errors = await rns_ble_ended("scan", *keys, "--seconds", "2", "--json")
    assert code == 0
    assert "opening the adapter (driver bumble)" in errors
    nodes = json.loads(out)["nodes"]
    assert len(nodes) == 2
    for node in nodes:
        assert node["verdict"] in ("dial", "grace")


async def monitor_for_programs(one: Node, two: Node) -> None:
    code, out, errors = await rns_ble_ended(
        "monitor", "--config", str(one.directory), "--json", "--interval", "0.2", "--seconds", "0.5"
    )
    assert (code, errors) == (0, "")
    for line in out.splitlines():
        assert json.loads(line)["interfaces"][0]["mesh"]["peers"][0]["identity"] == two.identity


async def monitor_on_a_terminal(one: Node, two: Node) -> None:
    command = (*RNS_BLE, "monitor", "--config", str(one.directory), "--interval", "0.2")
    async with terminal(*command) as seen:
        before = seen.attributes
        await seen.shows(two.identity[:8])
        await seen.shows("BLE Interface: online")
        assert seen.attributes != before, "keys come at once"
        assert seen.raw.startswith(b"\x1b[?1049h")
        assert b"\x1b[32mBLE Interface: online\x1b[m" in seen.raw

        seen.resize(40, 5)
        await seen.shows("j and k scroll")
        assert seen.display[1] == "BLE Interface: online"
        assert all(len(line) <= 40 for line in seen.display)
        await seen.type(b"j")
        await seen.until(lambda: seen.display[1].startswith("  driver bumble"))
        await seen.type(b"\x1b[6~ \x1b[6~")
        await seen.shows(two.identity[:8])
        await seen.type(b"k" * 30)
        seen.resize(1, 1)
        seen.resize(120, 30)
        await seen.until(lambda: seen.display[1] == "BLE Interface: online")
        await seen.shows("tx/s")
        assert seen.display[0].startswith("rns-ble monitor  ")
        assert seen.display[0].endswith("  q leaves")

        await seen.type(b"\x1a")
        with trio.fail_after(DEADLINE):
            while state_of(seen.job) != "T":
                await trio.sleep(0.01)
        assert seen.attributes == before
        await seen.until(lambda: seen.raw.endswith(b"\x1b[?1049l"))
        os.kill(seen.job, signal.SIGCONT)
        await seen.until(lambda: seen.raw.count(b"\x1b[?1049h") == 2)
        await seen.shows("BLE Interface: online")

        await seen.type(b"q")
        assert await seen.ends() == 0
        await seen.until(lambda: seen.raw.endswith(b"\x1b[?7h\x1b[?25h\x1b[?1049l"))
        assert seen.attributes == before
    async with terminal(*command, environment={"NO_COLOR": "1"}) as seen:
        await seen.shows("BLE Interface: online")
        os.kill(seen.job, signal.SIGTERM)
        assert await seen.ends() == 128 + signal.SIGTERM
        await seen.until(lambda: seen.raw.endswith(b"interrupted by SIGTERM; everything is cleaned up\r\n"))
        assert b"\x1b[?1049l" in seen.raw
        assert re.search(rb"\x1b\[\d+m", seen.raw) is None
        assert seen.attributes == before


async def monitor_on_a_terminal_without_a_shell(one: Node, two: Node) -> None:
    """Ctrl-Z must not stop what nobody can continue."""
    command = (*RNS_BLE, "monitor", "--config", str(one.directory))
    async with terminal(*command, job_control=False) as seen:

        async def shown(times: int) -> None:
            """On a screen that has been entered so many times."""
            await seen.until(
                lambda: two.identity[:8].encode() in b"".join(seen.raw.split(b"\x1b[?1049h")[times:])
            )

        await shown(1)
        await seen.type(b"\x1a")
        await shown(2)
        await seen.type(b"\x1a")  # is still ours to handle
        await shown(3)
        await seen.type(b"q")
        assert await seen.ends() == 0


async def monitor_on_a_terminal_that_is_gone(one: Node, two: Node) -> None:
    async with terminal(*RNS_BLE, "monitor", "--config", str(one.directory)) as seen:
        await seen.shows(two.identity[:8])
        await seen.hang_up()
        await seen.ends()


async def monitor_without_a_screen(one: Node, two: Node) -> None:
    command = (*RNS_BLE, "monitor", "--config", str(one.directory), "--interval", "0.2")
    async with terminal(*command, columns=200, environment={"TERM": "dumb"}) as seen:
        await seen.shows("this terminal can't be drawn on; Ctrl-C ends")
        await seen.until(lambda: seen.raw.count(two.identity.encode()) >= 2)
        await seen.type(b"\x03")
        assert await seen.ends() == 0
        assert b"\x1b" not in seen.raw


async def scan_on_a_terminal(one: Node, two: Node) -> None:
    async with terminal(*RNS_BLE, "scan", "--config", str(one.directory)) as seen:
        await seen.shows("rns-ble scan  as BLE Interface sees them  q leaves")
        await seen.shows(f"{two.identity[:16]}  -     linked")
        await seen.type(b"\x03")
        assert await seen.ends() == 0
        await seen.shows(f"{two.identity[:16]}  -     linked")
        assert seen.raw.rstrip().endswith(b"linked"), "the last table stays"


def asked(reticulum: Reticulum) -> Running:
    return ask_all(reticulum.directory)


def test_an_interface_whose_adapter_is_missing_says_so_and_another_one_is_online(
    reticulum: Reticulum,
) -> None:
    reticulum.configure(
        {
            "works": {},
            "a/ö": {"type": "BLEInterface", "driver": "bumble", "transport": "tcp-client:127.0.0.1:1"},
        }
    )
    rnsd = reticulum.rnsd()
    rnsd.wait_for("offline: ")
    rnsd.wait_for("online")
    until(lambda: sum(one["online"] for one in asked(reticulum).interfaces) == 1)
    until(lambda: "opened" in str([one["offline_reason"] for one in asked(reticulum).interfaces]))
    offline, online = asked(reticulum).interfaces
    assert (offline["name"], offline["online"], offline["mesh"]) == ("a/ö", False, None)
    assert offline["offline_reason"] in next(line for line in rnsd.lines if "offline: " in line)
    assert (online["name"], online["driver"], online["adapter"]) == ("works", "NeighbourDriver", None)
    assert online["address"] == "02:00:00:00:00:01"
    assert rnsd.terminate() == 0
    assert list((reticulum.directory / "storage" / "rns_ble").iterdir()) == []


def test_without_a_place_for_its_socket_the_interface_works(reticulum: Reticulum) -> None:
    storage = reticulum.directory / "storage"
    storage.mkdir()
    (storage / "rns_ble").write_text("a file")
    reticulum.configure({"works": {}})
    rnsd = reticulum.rnsd()
    rnsd.wait_for("joined")
    [line] = [line for line in rnsd.lines if "no socket in" in line]
    assert line.endswith(f"works all the same: no socket in {storage / 'rns_ble'}: File exists"), line
    assert asked(reticulum) == Running()


def test_of_two_processes_with_one_directory_the_first_is_shown(reticulum: Reticulum) -> None:
    reticulum.configure({"works": {}})
    first = reticulum.rnsd()
    first.wait_for("joined")
    second = reticulum.rnsd()
    second.wait_for("another process serves works.sock already")
    second.wait_for("joined")
    assert second.terminate() == 0
    [interface] = asked(reticulum).interfaces
    assert interface["pid"] == first.process.pid


async def test_monitor_waits_for_an_rnsd_that_is_restarted(reticulum: Reticulum) -> None:
    reticulum.configure({"works": {}})
    first = reticulum.rnsd()
    first.wait_for("joined")
    config = ("--config", str(reticulum.directory))
    async with terminal(*RNS_BLE, "monitor", *config, "--interval", "0.2") as seen:
        await seen.shows(f"process {first.process.pid}, up ")
        first.process.kill()
        await seen.shows("no interface answers any more; waiting for one")
        second = reticulum.rnsd()
        await seen.shows(f"process {second.process.pid}, up ")
        await seen.shows("works: online")
