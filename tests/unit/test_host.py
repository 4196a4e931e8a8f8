"""The host with its real threads and real peers; only Bluetooth and Reticulum are missing."""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import pytest
import trio

from rns_ble.host import EVENTS_WAITING, PACKETS_PER_PEER, Host, current_interface
from rns_ble.mesh import Listener
from rns_ble.peer import Peer
from rns_ble.protocol.pairs import Cuts
from rns_ble.trio_thread import run_in_trio

OWN = b"\x01" * 16
PATIENCE = 10.0
"""Seconds to wait for what must happen; reaching it fails the test."""

Run = Callable[[bytes, Listener], Awaitable[object]]


def make_peer(number: int) -> Peer:
    """On the Trio thread."""
    return Peer(bytes([number]) * 16, OWN, None, 128, Cuts(500))  # type: ignore[arg-type]  # it is never run


async def until(condition: Callable[[], bool]) -> None:
    """Wait without a thread of Trio's, which would stay for a while."""
    with trio.fail_after(PATIENCE):
        while not condition():
            await trio.sleep(0.001)


class Recorder:
    """A listener that keeps what it is told, and can be made slow or faulty."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []
        self.threads: set[threading.Thread] = set()
        self.interfaces: set[str | None] = set()
        self.happened = threading.Condition()
        self.open = threading.Event()
        """Packets are taken while it is set."""
        self.open.set()
        self.in_hand = threading.Event()
        """A packet is being taken."""
        self.on: Callable[[str], None] = lambda name: None

    def _tell(self, name: str, *what: object) -> None:
        with self.happened:
            self.told.append((name, *what))
            self.threads.add(threading.current_thread())
            self.interfaces.add(current_interface.get(None))
            self.happened.notify_all()
        self.on(name)

    def mesh_up(self, mesh) -> None:
        self._tell("up")

    def mesh_down(self, reason: str) -> None:
        self._tell("down", reason)

    def peer_joined(self, peer: Peer) -> None:
        self._tell("joined", peer.identity[0])

    def packet_received(self, peer: Peer, packet: bytes) -> None:
        self.in_hand.set()
        self.open.wait(PATIENCE)
        self._tell("packet", peer.identity[0], packet)

    def peer_left(self, peer: Peer) -> None:
        self._tell("left", peer.identity[0])

    def wait_for(self, *what: object) -> None:
        with self.happened:
            assert self.happened.wait_for(lambda: what in self.told, PATIENCE), self.told


class Hosts:
    """Makes hosts, and sees that they leave no thread."""

    def __init__(self) -> None:
        self.listener = Recorder()
        self.made: list[Host] = []

    def make(self, run: Run, identity: Callable[[], bytes | None] = lambda: OWN) -> Host:
        self.made.append(Host("Test", partial(run_in_trio, identity=identity, run=run), self.listener))
        return self.made[-1]

    def start(self, run: Run, identity: Callable[[], bytes | None] = lambda: OWN) -> Host:
        host = self.make(run, identity)
        host.start()
        return host


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    before = set(threading.enumerate())
    hosts = Hosts()
    yield hosts
    hosts.listener.open.set()
    for host in hosts.made:
        host.stop()
    # Nothing is left but what was there before. A thread that the test has just released may still be ending,
    # and Trio's idle threads of other tests may have ended meanwhile.
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE)
    assert set(threading.enumerate()) <= before


@pytest.fixture
def listener(hosts: Hosts) -> Recorder:
    return hosts.listener


async def one_peer(identity: bytes, to: Listener) -> None:
    """Up, with one peer, until cancelled."""
    to.mesh_up(None)
    peer = make_peer(1)
    to.peer_joined(peer)
    try:
        await trio.sleep_forever()
    finally:
        to.peer_left(peer)
        to.mesh_down("stopped")


def blocking(release: threading.Event) -> Run:
    """A run that, after one peer has joined, holds the Trio thread itself until released."""

    async def run(identity: bytes, to: Listener) -> None:
        to.mesh_up(None)
        to.peer_joined(make_peer(1))
        release.wait(PATIENCE)
        await trio.sleep_forever()

    return run


# --- delivery ---


def test_events_arrive_in_their_order_on_one_thread_that_is_not_trios(hosts, listener):
    trio_threads = []

    async def run(identity, to):
        trio_threads.append(threading.current_thread())
        to.mesh_up(None)
        one, other = make_peer(1), make_peer(2)
        to.peer_joined(one)
        to.packet_received(one, b"a")
        to.peer_joined(other)
        to.packet_received(other, b"b")
        to.packet_received(one, b"c")
        to.peer_left(one)
        await trio.lowlevel.checkpoint()
        to.packet_received(other, b"d")
        to.peer_left(other)
        to.mesh_down("tested")
        await trio.sleep_forever()

    host = hosts.start(run)
    listener.wait_for("down", "tested")
    host.stop()
    assert listener.told == [
        ("up",),
        ("joined", 1),
        ("packet", 1, b"a"),
        ("joined", 2),
        ("packet", 2, b"b"),
        ("packet", 1, b"c"),
        ("left", 1),
        ("packet", 2, b"d"),
        ("left", 2),
        ("down", "tested"),
    ]
    assert len(listener.threads) == 1
    assert not listener.threads & {threading.current_thread(), *trio_threads}


def test_the_run_starts_when_the_identity_is_known(hosts, listener):
    answers = iter([None, None, OWN])
    identities = []

    async def run(identity, to):
        identities.append(identity)
        to.mesh_up(None)
        await trio.sleep_forever()

    hosts.start(run, lambda: next(answers))
    listener.wait_for("up")
    assert identities == [OWN]
    assert next(answers, "all asked") == "all asked"


def test_both_threads_work_in_the_name_of_their_interface(hosts, listener):
    names = []

    async def run(identity, to):
        async def child():
            names.append(current_interface.get())
            to.mesh_up(None)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)

    hosts.start(run)
    listener.wait_for("up")
    assert names == ["Test"]
    assert listener.interfaces == {"Test"}


def test_a_peer_that_floods_loses_its_own_packets_only(hosts, listener, caplog):
    listener.open.clear()
    excess = 50
    flooded = threading.Event()

    async def run(identity, to):
        flooding, modest = make_peer(1), make_peer(2)
        to.peer_joined(flooding)
        to.peer_joined(modest)
        to.packet_received(flooding, b"in hand")
        await until(listener.in_hand.is_set)
        for number in range(PACKETS_PER_PEER + excess):
            to.packet_received(flooding, b"%d" % number)
            if number % 100 == 0:
                to.packet_received(modest, b"%d" % number)
        to.peer_left(flooding)
        to.peer_left(modest)
        to.mesh_up(None)
        flooded.set()
        await trio.sleep_forever()

    host = hosts.start(run)
    assert flooded.wait(PATIENCE)
    assert host.packets_dropped == excess
    listener.open.set()
    listener.wait_for("up")
    packets = [event[2] for event in listener.told if event[:2] == ("packet", 1)]
    assert packets == [b"in hand"] + [b"%d" % number for number in range(PACKETS_PER_PEER)]
    assert [event[2] for event in listener.told if event[:2] == ("packet", 2)] == [
        b"0",
        b"100",
        b"200",
        b"300",
    ]
    assert listener.told[-3:] == [("left", 1), ("left", 2), ("up",)]
    assert [record.levelno for record in caplog.records] == [logging.WARNING], "said once, not for each"


def test_a_peer_that_flooded_gets_room_again_and_is_warned_of_again(hosts, listener, caplog):
    async def run(identity, to):
        peer = make_peer(1)
        to.peer_joined(peer)
        for flood in range(2):
            listener.open.clear()
            listener.in_hand.clear()
            to.packet_received(peer, b"in hand")
            await until(listener.in_hand.is_set)
            for _ in range(PACKETS_PER_PEER + 1):
                to.packet_received(peer, b"flood")
            listener.open.set()
            to.mesh_down(f"flood {flood}")
            await until(lambda: listener.told[-1:] == [("down", f"flood {flood}")])  # noqa: B023
        to.mesh_up(None)
        await trio.sleep_forever()

    host = hosts.start(run)
    listener.wait_for("up")
    assert host.packets_dropped == 2
    assert len(caplog.records) == 2


def test_many_peers_together_are_bounded_but_their_coming_and_going_is_not_lost(hosts, listener):
    listener.open.clear()
    peers = EVENTS_WAITING // PACKETS_PER_PEER + 2

    async def run(identity, to):
        joined = [make_peer(number) for number in range(peers)]
        for peer in joined:
            to.peer_joined(peer)
            for _ in range(PACKETS_PER_PEER):
                to.packet_received(peer, b"x")
        for peer in joined:
            to.peer_left(peer)
        to.mesh_up(None)
        await trio.sleep_forever()

    host = hosts.start(run)
    assert listener.in_hand.wait(PATIENCE)
    assert host.ask(lambda: "all told", PATIENCE) == "all told"
    listener.open.set()
    listener.wait_for("up")
    delivered = sum(event[0] == "packet" for event in listener.told)
    assert delivered <= EVENTS_WAITING
    assert delivered + host.packets_dropped == peers * PACKETS_PER_PEER
    for what in ("joined", "left"):
        assert [event[1] for event in listener.told if event[0] == what] == list(range(peers))


def test_what_the_listener_raises_is_logged_and_delivery_goes_on(hosts, listener, caplog):
    def fail(name):
        if name in {"joined", "packet", "left", "down"}:
            raise KeyError(name)

    listener.on = fail

    async def run(identity, to):
        peer = make_peer(1)
        to.peer_joined(peer)
        to.packet_received(peer, b"a")
        to.peer_left(peer)
        to.mesh_down("tested")
        to.mesh_up(None)
        await trio.sleep_forever()

    hosts.start(run)
    listener.wait_for("up")
    assert [event[0] for event in listener.told] == ["joined", "packet", "left", "down", "up"]
    assert [str(record.exc_info[1]) for record in caplog.records] == [
        "'joined'",
        "'packet'",
        "'left'",
        "'down'",
    ]
    assert "Recorder.packet_received" in caplog.records[1].getMessage()


# --- stop ---


def test_stop_cancels_the_run_and_returns_when_all_is_told(hosts, listener):
    host = hosts.start(one_peer)
    listener.wait_for("joined", 1)
    host.stop()
    assert listener.told == [("up",), ("joined", 1), ("left", 1), ("down", "stopped")]


def test_stop_before_start_makes_start_do_nothing(hosts, listener):
    host = hosts.make(one_peer)
    host.stop()
    host.start()
    host.stop()
    assert listener.told == []
    assert "Test radio" not in {thread.name for thread in threading.enumerate()}


def test_stop_while_waiting_for_the_identity(hosts, listener):
    asked = threading.Event()
    host = hosts.start(one_peer, asked.set)
    assert asked.wait(PATIENCE)
    host.stop()
    assert listener.told == []


def test_stop_at_any_moment_of_the_start(hosts):
    for _ in range(50):
        host = hosts.make(one_peer)
        starter = threading.Thread(target=host.start)
        starter.start()
        host.stop()
        starter.join()
        host.stop()


def test_stop_by_several_threads_at_once(hosts, listener):
    host = hosts.start(one_peer)
    listener.wait_for("joined", 1)
    together = threading.Barrier(8)

    def stop():
        together.wait()
        host.stop()

    threads = [threading.Thread(target=stop) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert listener.told == [("up",), ("joined", 1), ("left", 1), ("down", "stopped")]


def test_stop_by_the_delivery_thread_itself(hosts, listener):
    returned = threading.Event()

    def stop(name):
        if name == "joined":
            hosts.made[0].stop()
            returned.set()

    listener.on = stop
    hosts.start(one_peer)
    assert returned.wait(PATIENCE)
    listener.wait_for("down", "stopped")
    assert listener.told == [("up",), ("joined", 1), ("left", 1), ("down", "stopped")]


def test_stop_by_the_trio_thread_itself(hosts, listener, caplog):
    async def run(identity, to):
        to.mesh_up(None)
        hosts.made[0].stop(timeout=1.5)
        await trio.sleep_forever()

    hosts.start(run)
    listener.wait_for("down", "stopped")
    assert "left behind" not in caplog.text, "it has not waited for the thread that waits for it"


def test_what_is_still_waiting_at_stop_is_not_delivered(hosts, listener):
    listener.open.clear()

    async def run(identity, to):
        peer = make_peer(1)
        to.peer_joined(peer)
        for number in range(20):
            to.packet_received(peer, b"%d" % number)
        await trio.sleep_forever()

    host = hosts.start(run)
    assert listener.in_hand.wait(PATIENCE)
    opener = threading.Timer(0.05, listener.open.set)
    opener.start()
    host.stop()
    opener.join()
    assert listener.told == [("joined", 1), ("packet", 1, b"0"), ("left", 1)]


def test_threads_that_put_packets_meet_no_error_while_it_stops(hosts, listener):
    peers = []
    taken = threading.Event()
    over = threading.Event()
    errors = []

    async def run(identity, to):
        peers.append(make_peer(1))
        to.peer_joined(peers[0])
        while True:
            await peers[0].outgoing.take()
            taken.set()

    def hammer():
        try:
            while not over.is_set():
                peers[0].outgoing.put(b"x")
        except BaseException as error:
            errors.append(error)
            raise

    host = hosts.start(run)
    listener.wait_for("joined", 1)
    threads = [threading.Thread(target=hammer) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert taken.wait(PATIENCE)
    host.stop()
    assert listener.told == [("joined", 1), ("left", 1)]
    over.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert errors == []
    assert peers[0].outgoing.put(b"x") is False


def test_a_stack_that_hangs_is_left_behind_and_everybody_told(hosts, listener, caplog):
    release = threading.Event()
    host = hosts.start(blocking(release))
    listener.wait_for("joined", 1)
    host.stop(timeout=1.2)
    assert listener.told == [("up",), ("joined", 1), ("left", 1), ("down", "the Bluetooth stack hangs")]
    assert [record.getMessage() for record in caplog.records] == [
        "the Bluetooth stack does not let go; left behind"
    ]
    assert host.ask(lambda: 1, timeout=0.01) is None
    release.set()


def test_a_log_that_hangs_does_not_hold_up_stop(hosts, listener):
    release = threading.Event()
    entered = threading.Event()

    class Stuck(logging.Handler):
        def emit(self, record):
            entered.set()
            release.wait(PATIENCE)

    logger, handler = logging.getLogger("rns_ble.host"), Stuck()
    logger.addHandler(handler)
    try:
        host = hosts.start(blocking(release))
        listener.wait_for("joined", 1)
        host.stop(timeout=1.2)
        assert entered.is_set()
        assert not release.is_set()
    finally:
        release.set()
        logger.removeHandler(handler)


def test_a_reticulum_that_hangs_is_left_behind(hosts, listener, caplog):
    listener.open.clear()

    async def run(identity, to):
        peer = make_peer(1)
        to.peer_joined(peer)
        to.packet_received(peer, b"a")
        await trio.sleep_forever()

    host = hosts.start(run)
    assert listener.in_hand.wait(PATIENCE)
    host.stop(timeout=1.2)
    assert [record.getMessage() for record in caplog.records] == [
        "Reticulum does not take what was received; left behind"
    ]
    listener.open.set()
    host.stop()
    assert listener.told == [("joined", 1), ("packet", 1, b"a"), ("left", 1)]


def test_without_a_thread_for_the_radio_the_other_one_ends(hosts, listener, monkeypatch):
    def fail():
        raise RuntimeError("can't start new thread")

    host = hosts.make(one_peer)
    monkeypatch.setattr(host._radio, "start", fail)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        host.start()
    host.stop()
    assert listener.told == []


# --- the end of the run ---


def test_a_run_that_crashes_leaves_no_peer_and_is_logged_with_its_traceback(hosts, listener, caplog):
    async def run(identity, to):
        to.mesh_up(None)
        to.peer_joined(make_peer(1))
        to.peer_joined(make_peer(2))
        raise RuntimeError("a bug")

    host = hosts.start(run)
    listener.wait_for("down", "ended by a bug: RuntimeError('a bug')")
    assert listener.told == [
        ("up",),
        ("joined", 1),
        ("joined", 2),
        ("left", 1),
        ("left", 2),
        ("down", "ended by a bug: RuntimeError('a bug')"),
    ]
    host.stop()
    assert [str(record.exc_info[1]) for record in caplog.records] == ["a bug"]


def test_a_callback_that_crashes_trio_itself_leaves_no_peer(hosts, listener, caplog):
    async def run(identity, to):
        to.mesh_up(None)
        to.peer_joined(make_peer(1))
        trio.lowlevel.current_trio_token().run_sync_soon(lambda: 1 / 0)
        await trio.sleep_forever()

    host = hosts.start(run)
    listener.wait_for("left", 1)
    host.stop()
    assert listener.told[-1][0] == "down"
    assert "ZeroDivisionError" in caplog.text


def test_a_run_that_forgets_its_peers_when_cancelled(hosts, listener):
    async def run(identity, to):
        to.mesh_up(None)
        to.peer_joined(make_peer(1))
        await trio.sleep_forever()

    host = hosts.start(run)
    listener.wait_for("joined", 1)
    host.stop()
    assert listener.told == [("up",), ("joined", 1), ("left", 1), ("down", "stopped")]


def test_an_identity_that_can_not_be_told_ends_the_host(hosts, listener, caplog):
    asked = threading.Event()

    def identity():
        asked.set()
        raise AttributeError("no identity")

    host = hosts.start(one_peer, identity)
    assert asked.wait(PATIENCE)
    host.stop()
    assert listener.told == []
    assert "no identity" in caplog.text


# --- ask ---


def test_a_question_is_answered_on_the_trio_thread(hosts, listener):
    host = hosts.make(one_peer)
    assert host.ask(threading.current_thread) is None, "not started"
    host.start()
    listener.wait_for("up")
    thread = host.ask(threading.current_thread)
    assert thread is not None
    assert thread.name == "Test radio"
    assert host.ask(lambda: host.ask(threading.current_thread)) is thread
    host.stop()
    assert host.ask(threading.current_thread) is None, "stopped"


def test_what_a_question_raises_is_raised_where_it_was_asked_and_harms_nobody(hosts, listener):
    host = hosts.start(one_peer)
    listener.wait_for("up")
    with pytest.raises(ZeroDivisionError):
        host.ask(lambda: 1 / 0)
    assert host.ask(lambda: "still there") == "still there"
