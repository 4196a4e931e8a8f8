"""The end of a process, and of the Trio thread in it, at any moment: nothing hangs, nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trio

from rns_ble.host import STOP_TIMEOUT, Host
from rns_ble.mesh import Listener, Mesh
from rns_ble.peer import Peer
from rns_ble.supervisor import supervise
from rns_ble.testing.checkpoints import Strike
from rns_ble.trio_thread import main, run_in_trio
from tests.cancellation.reached import interrupt
from tests.cancellation.scenes import Scene, surrounded
from tests.nodes import running
from tests.system.neighbour import EAGER, NeighbourDriver
from tests.system.reticulum import ROOT, Reticulum

OWN = bytes([7]) * 16
PATIENCE = 20.0


# --- the host, cancelled at every checkpoint ---


@pytest.mark.usefixtures("quiet")
def test_the_host_is_stopped(every: bool) -> None:
    """What `stop` does to the Trio thread, from before the identity is known to the last goodbye."""

    async def scenario(strike: Strike) -> None:
        scene = Scene()
        node = scene.first
        known_at = 0.3

        def identity() -> bytes | None:
            return node.identity if trio.current_time() >= known_at else None

        async with surrounded(scene):
            host = Host("Test", lambda _host: None, node)

            async def run(own: bytes, _host: Listener) -> None:
                await supervise(node.driver, node.config, own, node)

            def stop(_task: object) -> None:
                host._stopping = True
                if host._token is not None:
                    strike.cancel(host._scope)

            with strike.acting(stop):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(main, host, identity, run)
                    await scene.play()
                    host._scope.cancel()
            assert not node.up
            assert not node.peers
            assert node.mesh is None or node.nothing_borrowed()
            async with running(node):
                await scene.works()

    interrupt("host", scenario, every=every)


# --- the Trio thread dies ---


class Told:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.peers: list[Peer] = []
        self.linked = threading.Event()

    def mesh_up(self, mesh: Mesh) -> None:
        self.told.append("up")

    def mesh_down(self, reason: str) -> None:
        self.told.append("down")

    def peer_joined(self, peer: Peer) -> None:
        self.told.append("joined")
        self.peers.append(peer)
        self.linked.set()

    def packet_received(self, peer: Peer, packet: bytes) -> None:
        pass

    def peer_left(self, peer: Peer) -> None:
        self.told.append("left")


def live_host() -> tuple[Host, Told, NeighbourDriver]:
    """With a neighbour that it is linked to."""
    told, driver = Told(), NeighbourDriver(EAGER)
    run = partial(supervise, driver, EAGER)
    host = Host("Test", partial(run_in_trio, identity=lambda: OWN, run=run), told)
    host.start()
    assert told.linked.wait(PATIENCE)
    return host, told, driver


def crash(error: BaseException) -> Callable[[], None]:
    def callback() -> None:
        raise error

    return callback


@pytest.mark.parametrize("error", [RuntimeError("a bug"), OSError("a bug"), MemoryError()], ids=repr)
def test_the_trio_thread_dies_while_others_send_and_stop(error: Exception, caplog) -> None:
    """Four threads send, three stop, and in between Trio itself crashes."""
    before = set(threading.enumerate())
    host, told, _driver = live_host()
    over = threading.Event()
    failed: list[BaseException] = []

    def guarded(function: Callable[[], object]) -> None:
        try:
            function()
        except BaseException as raised:
            failed.append(raised)
            raise

    def hammer() -> None:
        while not over.is_set():
            told.peers[0].outgoing.put(b"packet")

    senders = [threading.Thread(target=guarded, args=(hammer,)) for _ in range(4)]
    for thread in senders:
        thread.start()
    assert host._token is not None
    host._token.run_sync_soon(crash(error))
    stoppers = [threading.Thread(target=guarded, args=(host.stop,)) for _ in range(3)]
    began = time.monotonic()
    for thread in stoppers:
        thread.start()
    for thread in stoppers:
        thread.join(PATIENCE)
    assert time.monotonic() - began < STOP_TIMEOUT
    assert host.ask(lambda: 1) is None
    over.set()
    for thread in senders:
        thread.join(PATIENCE)
    assert not failed
    assert told.told == ["up", "joined", "left", "down"]
    assert told.peers[0].outgoing.put(b"late") is False
    assert set(threading.enumerate()) <= before
    # Whichever came first: a crash is said once, and a stop is none.
    assert caplog.text.count("offline for good because of a bug") <= 1
    assert "left behind" not in caplog.text


# --- the process ends ---

SCRIPT = """
import sys, threading, time
import RNS
from rns_ble.drivers.hci import BumbleDriver, VirtualRadio
from rns_ble.interface import BLEInterface
from tests.system.neighbour import NeighbourDriver, until

moment, kind, directory = float(sys.argv[1]), sys.argv[2], sys.argv[3]
reticulum = RNS.Reticulum(directory, loglevel=RNS.LOG_ERROR)
driver = NeighbourDriver(None) if kind == "air" else BumbleDriver(VirtualRadio(), address="C0:00:00:00:00:01")
interface = BLEInterface(RNS.Transport, {"name": "Test"}, driver)
if kind == "bumble":
    interface.final_init()  # Reticulum does not know it, and can't detach it
else:
    reticulum._add_interface(interface)
if moment < 0:
    until(lambda: interface.peers)
    sender = interface.peers[0]
    def hammer():
        while True:
            sender.process_outgoing(b"packet")
    threading.Thread(target=hammer, daemon=True).start()
    time.sleep(0.05)
else:
    time.sleep(moment)
print("end", flush=True)
"""


def test_the_interpreter_ends_without_a_detach(tmp_path: Path, every: bool) -> None:
    """At once, while the stack opens, when it is up, and with a peer and threads that send to it."""
    cases = [(-1.0, "air"), (0.01, "bumble")]
    if every:
        cases += [(moment, kind) for kind in ("air", "bumble") for moment in (0.0, 0.02, 0.05, 0.3)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    processes = []
    for number, (moment, kind) in enumerate(cases):
        directory = tmp_path / str(number)
        directory.mkdir()
        (directory / "config").write_text("[reticulum]\nshare_instance = no\n[interfaces]\n")
        command = [sys.executable, "-X", "dev", "-c", SCRIPT, str(moment), kind, str(directory)]
        processes.append(
            subprocess.Popen(
                command,
                env=environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        ends = [(process.communicate(timeout=3 * PATIENCE), process.returncode) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert ends == [(("end\n", ""), 0)] * len(cases)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_rnsd_while_it_starts(tmp_path: Path, number: signal.Signals) -> None:
    reticulum = Reticulum(tmp_path / "reticulum")
    try:
        reticulum.configure({"Porch": {}})
        rnsd = reticulum.rnsd()
        rnsd.wait_for("Started rnsd")
        assert rnsd.terminate(number) == 0
        assert "Traceback" not in rnsd.output
    finally:
        reticulum.close()
