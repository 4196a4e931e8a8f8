"""`rns-ble status` against Reticulum nodes on the virtual radio."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import trio

import rns_ble
from rns_ble.cli.demo.network import Node
from tests.system.networks import DEADLINE, linked, network, processes_with, start

RNS_BLE = [sys.executable, "-X", "dev", "-W", "error", "-m", "rns_ble.cli"]
SOCKET = Path("storage", "rns_ble", "BLE Interface.sock")


async def rns_ble_(*arguments: str) -> tuple[int, str, str]:
    """Run `rns-ble …` to its end: exit code, stdout, stderr."""
    with trio.fail_after(DEADLINE):
        outcome = await trio.run_process(
            [*RNS_BLE, *arguments],
            stdin=subprocess.DEVNULL,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    errors = outcome.stderr.decode()
    assert "Traceback" not in errors, errors
    return outcome.returncode, outcome.stdout.decode(), errors


async def status(node: Node, *arguments: str) -> tuple[int, dict[str, Any]]:
    """`rns-ble status --json`: its exit code, and what it prints."""
    code, out, errors = await rns_ble_("status", "--json", "--config", str(node.directory), *arguments)
    assert errors == ""
    return code, json.loads(out)


async def test_status_of_two_nodes_on_one_ether(tmp_path: Path) -> None:
    async with network(tmp_path) as net:
        one, two = await start(net, 2)
        await linked(net, one, two)
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
            "transport": net.keys["transport"],
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
        for directory, mode in ((SOCKET.parent, 0o700), (SOCKET, 0o600)):
            assert stat.S_IMODE((one.directory / directory).stat().st_mode) == mode
        os.kill(interface["pid"], signal.SIGSTOP)
        try:
            code, told = await status(one)
        finally:
            os.kill(interface["pid"], signal.SIGCONT)
        assert code == 1
        assert f"process {interface['pid']} does not answer" in told["errors"][0]
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
