"""`rns-ble demo` and `rns-ble ether` as programs: what they print, how they end, what they leave behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from tests.system.networks import DEADLINE, processes_with

RNS_BLE = [sys.executable, "-m", "rns_ble.cli"]


def environment(directory: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(directory)}


def assert_nothing_left(directory: Path) -> None:
    assert list(directory.iterdir()) == []
    assert processes_with(str(directory)) == []


@pytest.mark.parametrize("nodes", [2, 4])
async def test_the_demo_succeeds_and_says_so_in_one_json_object(tmp_path: Path, nodes: int) -> None:
    with trio.fail_after(DEADLINE):
        outcome = await trio.run_process(
            [*RNS_BLE, "demo", "--json", "--nodes", str(nodes), "--size", "64k"],
            env=environment(tmp_path),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    assert outcome.stdout.count(b"\n") == 1, outcome.stdout
    report = json.loads(outcome.stdout)
    assert report["error"] is None, report["error"]
    assert report["missing"] == []
    assert outcome.returncode == 0
    pairs = nodes * (nodes - 1)
    assert (
        report.items()
        >= {
            "ok": True,
            "nodes": nodes,
            "announces_heard": pairs,
            "announces_expected": pairs,
            "lxmf_delivered": pairs,
            "lxmf_expected": pairs,
            "resource_bytes": 64 * 1024,
            "resource_sha256_ok": True,
            "links": pairs // 2,
        }.items()
    )
    assert report["resource_seconds"] > 0
    assert report["elapsed_seconds"] > report["resource_seconds"]
    assert_nothing_left(tmp_path)


async def interrupted_demo(
    directory: Path, interrupt: Callable[[trio.Process], None]
) -> tuple[int, bytes, bytes]:
    """A demo with a Resource that takes longer than the test, and `interrupt` once everything runs."""
    out: list[bytes] = []
    err: list[bytes] = []
    running = trio.Event()
    process = await trio.lowlevel.open_process(
        [*RNS_BLE, "demo", "--json", "--size", "64M"],
        env=environment(directory),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None

    async def collect(stream: trio.abc.ReceiveStream, into: list[bytes]) -> None:
        async for chunk in stream:
            into.append(chunk)
            if b"LXMF messages proved: all" in b"".join(into):
                running.set()

    try:
        with trio.fail_after(DEADLINE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(collect, process.stdout, out)
                nursery.start_soon(collect, process.stderr, err)
                await running.wait()
                interrupt(process)
                await process.wait()
    finally:
        process.kill()
    assert process.returncode is not None
    return process.returncode, b"".join(out), b"".join(err)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_the_demo_and_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    code, out, err = await interrupted_demo(tmp_path, lambda process: process.send_signal(number))
    assert code == 128 + number
    said = f"interrupted by {number.name}; everything is cleaned up"
    assert json.loads(out) == {"errors": [said]}
    assert err.splitlines()[-1] == f"rns-ble demo: {said}".encode()
    assert_nothing_left(tmp_path)


async def test_a_node_that_dies_ends_the_demo_with_its_log_and_leaves_nothing(tmp_path: Path) -> None:
    def kill_node_2(_: trio.Process) -> None:
        [directory] = tmp_path.iterdir()
        [node] = processes_with(str(directory / "node-2"))
        os.kill(node, signal.SIGKILL)

    code, out, _ = await interrupted_demo(tmp_path, kill_node_2)
    report = json.loads(out)
    assert code == 1
    assert report["ok"] is False
    assert report["lxmf_delivered"] == 2, "what had arrived before is still reported"
    assert re.match(r"node 2 ended with exit code -9; the end of its log:\n  \| ", report["error"])
    assert_nothing_left(tmp_path)


async def test_a_demo_that_takes_too_long_says_what_is_missing(tmp_path: Path) -> None:
    with trio.fail_after(DEADLINE):
        outcome = await trio.run_process(
            [*RNS_BLE, "demo", "--quiet", "--timeout", "0.5"],
            env=environment(tmp_path),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    assert (outcome.returncode, outcome.stderr) == (1, b"")
    assert b"not everything arrived within 0.5 s; give it longer with --timeout, or " in outcome.stdout
    assert b"--keep" in outcome.stdout
    assert b"node 2 has got 0 of the Resource's 262144 bytes" in outcome.stdout
    assert_nothing_left(tmp_path)


@pytest.mark.parametrize("form", ["table", "json"])
def test_what_is_kept_is_said_on_stdout_also_when_quiet(tmp_path: Path, form: str) -> None:
    outcome = subprocess.run(
        [*RNS_BLE, "demo", "--keep", "-q", "--size", "4k", *(["--json"] if form == "json" else [])],
        env=environment(tmp_path),
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )
    assert (outcome.returncode, outcome.stderr) == (0, b"")
    [directory] = tmp_path.iterdir()
    if form == "json":
        assert json.loads(outcome.stdout)["kept"] == str(directory)
    else:
        assert outcome.stdout.decode().splitlines()[-1].endswith(f" stay in {directory}")
    assert (directory / "node-2" / "logfile").is_file()
    assert processes_with(str(directory)) == []


async def test_an_ether_says_where_it_listens_and_ends_on_a_signal() -> None:
    process = await trio.lowlevel.open_process(
        [*RNS_BLE, "ether", "--listen", "127.0.0.1:0"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        with trio.fail_after(DEADLINE):
            said = b""
            while b"\n" not in said:
                said += await process.stdout.receive_some()
            found = re.search(rb"driver = bumble, transport = tcp-client:127\.0\.0\.1:(\d+)\n", said)
            assert found
            stream = await trio.open_tcp_stream("127.0.0.1", int(found[1]))
            await stream.aclose()
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
    finally:
        process.kill()


async def test_an_ether_that_cannot_listen_is_one_line() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    with trio.fail_after(DEADLINE):
        outcome = await trio.run_process(
            [*RNS_BLE, "ether", "--listen", str(port)], capture_stderr=True, check=False
        )
    await listeners[0].aclose()
    assert outcome.returncode == 1
    assert outcome.stderr.startswith(f"rns-ble ether: can't listen on 127.0.0.1:{port}: ".encode())
    assert outcome.stderr.count(b"\n") == 1
