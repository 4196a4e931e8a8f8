"""A BLE interface that is detached has given everything back, with the real stack under it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import trio

from tests.system.networks import DEADLINE, network, start

SCRIPT = """
import json, os, pathlib, sys, tempfile, threading, time
import RNS
from rns_ble.interface import BLEInterface

directory, transport = sys.argv[1:]
reticulum = RNS.Reticulum(directory, logdest=RNS.LOG_FILE)

def held():
    return {
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "files": sorted(os.listdir("/proc/self/fd")),
        "temporary": sorted(os.listdir(tempfile.gettempdir())),
        "children": pathlib.Path(f"/proc/self/task/{os.getpid()}/children").read_text().split(),
    }

def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)

before = held()
rounds = []
for number in range(2):
    section = {"name": f"BLE {number}", "driver": "bumble", "transport": transport}
    interface = BLEInterface(RNS.Transport, section)
    reticulum._add_interface(interface)
    wait_for(lambda: interface.clients)
    linked, during = interface.clients, held()
    interface.detach()
    # Reticulum's own threads may be in the middle of something.
    wait_for(lambda: held() == before)
    rounds.append({"linked": linked, "during": during, "after": held()})
print(json.dumps({"before": before, "rounds": rounds}), flush=True)
os._exit(0)
"""


async def test_detach_leaves_no_thread_no_file_no_process_and_no_temporary_directory(tmp_path: Path) -> None:
    alone, temporary = tmp_path / "alone", tmp_path / "temporary"
    alone.mkdir()
    temporary.mkdir()
    (alone / "config").write_text("[reticulum]\nshare_instance = no\nenable_transport = no\n[interfaces]\n")
    async with network(tmp_path) as net:
        [neighbour] = await start(net, 1)
        with trio.fail_after(DEADLINE):
            outcome = await trio.run_process(
                [sys.executable, "-X", "dev", "-W", "error", "-c", SCRIPT, str(alone), net.keys["transport"]],
                env={**os.environ, "TMPDIR": str(temporary)},
                stdin=subprocess.DEVNULL,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )
        assert (outcome.returncode, outcome.stderr.decode()) == (0, "")
        told = json.loads(outcome.stdout)
        for round_ in told["rounds"]:
            assert round_["linked"] == 1
            assert len(round_["during"]["threads"]) > len(told["before"]["threads"])
            assert round_["after"] == told["before"]
        # The neighbour sees it go, too.
        await net.until(lambda: not neighbour.peers)
