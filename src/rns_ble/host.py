"""The threads: one runs Trio, one delivers what the mesh tells to whoever may be slow.

Theory of operation. The `Host` is the mesh's `Listener`. On the Trio thread it puts each event into one
queue; the delivery thread takes them out and tells its own listener, in the same order. What is always true:

1. Nothing that the mesh tells waits or raises on the Trio thread. Packets are bounded, per peer and in all,
   and dropped and counted beyond that; all other events are kept.
2. The delivery thread alone decides what its listener has been told, so that when all is over, however it
   ended, each peer that joined is told to have left, once, and then that the mesh is down.
3. `stop` may be called by any thread, at any time, by several at once, and returns within its timeout.
4. There is no lock: `_stopping` is set before the token is looked at, the token is published before
   `_stopping` is looked at, so one of the two sides always sees the other.
5. Trio is not imported here: what runs in it is loaded on its thread (`rns_ble.trio_thread`).
"""

from __future__ import annotations

# Before the interpreter may have begun to end: this one can't be loaded then any more, and asyncio needs it.
import concurrent.futures.thread  # noqa: F401
import contextlib
import enum
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import ContextVar
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final, TypeVar

from rns_ble import quiet
from rns_ble.drivers.terms import GOODBYE_TIMEOUT

if TYPE_CHECKING:
    import trio

    from rns_ble.mesh import Listener, Mesh
    from rns_ble.peer import Peer

log = quiet.logger(__name__)

T = TypeVar("T")

PACKETS_PER_PEER: Final = 256
"""Packets from one peer that may wait for delivery: three times what a Reticulum Resource keeps in flight
(75), so only a peer that floods us, or a Reticulum that stands still, meets it."""

EVENTS_WAITING: Final = 2048
"""Events in all that may wait before packets are dropped: the bound of the memory, 1 MB of full packets."""

DELIVERY_TIMEOUT: Final = 1.0
"""Seconds kept for the delivery thread to end: it has at most one packet in hand."""

STOP_TIMEOUT: Final = 2 * GOODBYE_TIMEOUT + DELIVERY_TIMEOUT
"""Seconds for all to end: the links, all at once, then the driver, then the delivery. Reticulum waits for us
at its end, and for as long as it takes; unless a peer has just vanished that is some tenths of a second."""

LOG_TIMEOUT: Final = 0.5
"""Seconds to wait for a warning that we leave something behind; a log that can be written to takes none."""

current_interface: ContextVar[str] = ContextVar("current_interface")
"""The name of the interface that this thread, or Trio task, works for: what a log line is headed with."""


class _What(enum.Enum):
    UP = enum.auto()
    DOWN = enum.auto()
    JOINED = enum.auto()
    PACKET = enum.auto()
    LEFT = enum.auto()
    END = enum.auto()


class _Backlog:
    """The packets of one peer on their way. Each counter has one writer, so none needs a lock."""

    __slots__ = ("delivered", "full", "peer", "put")

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.put = 0
        self.delivered = 0
        self.full = False


_Event = tuple[_What, _Backlog | None, object]


class Host:
    """Has `work(host)` done on a thread of its own, and delivers what it tells to `listener`."""

    def __init__(self, name: str, work: Callable[[Host], object], listener: Listener) -> None:
        """`work` runs Trio, says so (`running`), and ends when that scope is cancelled. `listener` is called
        on the delivery thread; what it raises is logged and goes no further.
        """
        self.name = name
        self.packets_dropped = 0
        """Packets received that found no room on their way to the listener."""
        self._work = work
        self._listener = listener
        self._events: SimpleQueue[_Event] = SimpleQueue()
        self._backlogs: dict[Peer, _Backlog] = {}
        self._stopping = False
        self._token: trio.lowlevel.TrioToken | None = None
        self._scope: trio.CancelScope
        """There before the token is."""
        # Daemons, so that a Bluetooth stack that hangs can't keep the process from ending.
        self._radio = threading.Thread(target=self._do_work, name=f"{name} radio", daemon=True)
        self._delivery = threading.Thread(target=self._deliver, name=f"{name} delivery", daemon=True)

    # --- life ---

    def start(self) -> None:
        """Start the threads; once. After `stop`: does nothing."""
        if self._stopping:
            return
        self._delivery.start()
        try:
            self._radio.start()
        except RuntimeError:  # no thread to be had
            self._put(_What.END, None, "no thread for the radio")
            raise

    def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """Cancel the run and wait, at most `timeout` seconds, for both threads to end.

        When this returns in time the listener has been told all it will ever be told. Called on one of the
        two threads themselves, it does not wait for that one, which then ends by itself; nor, on the Trio
        thread, for the delivery, which ends after it.
        """
        deadline = time.monotonic() + timeout
        self._stopping = True
        if self._token is not None:
            with contextlib.suppress(RuntimeError):  # trio.RunFinishedError
                self._token.run_sync_soon(self._scope.cancel)
        if threading.current_thread() is self._radio:
            return
        if not _ended(self._radio, deadline - DELIVERY_TIMEOUT):
            self._warn("the Bluetooth stack does not let go; left behind")
            self._put(_What.END, None, "the Bluetooth stack hangs")
        if not _ended(self._delivery, deadline):
            self._warn("Reticulum does not take what was received; left behind")

    def _warn(self, message: str) -> None:
        """Log, without waiting for the log: a signal may have stopped the thread that has it locked, and
        that thread may be waiting for `stop`.
        """

        def say() -> None:
            current_interface.set(self.name)
            log.warning(message)

        with contextlib.suppress(RuntimeError):  # no more threads: the interpreter is ending
            teller = threading.Thread(target=say, daemon=True)
            teller.start()
            teller.join(LOG_TIMEOUT)

    def ask(self, question: Callable[[], T], timeout: float = 1.0) -> T | None:
        """What `question` answers on the Trio thread; what it raises is raised here.

        None: not running, or no answer within `timeout` seconds.
        """
        if threading.current_thread() is self._radio:
            return question()
        if self._token is None:
            return None
        answer: Future[T] = Future()

        def on_trio_thread() -> None:
            try:
                answer.set_result(question())
            except Exception as error:  # noqa: BLE001  (the asker's; raised here it would end the run)
                answer.set_exception(error)

        try:
            self._token.run_sync_soon(on_trio_thread)
        except RuntimeError:  # trio.RunFinishedError
            return None
        try:
            return answer.result(timeout)
        except TimeoutError:
            return None

    # --- the Trio thread ---

    def _do_work(self) -> None:
        current_interface.set(self.name)
        reason = "ended by a bug"
        try:
            self._work(self)
            reason = "stopped"
        except Exception as error:
            reason = f"ended by a bug: {error!r}"
            log.exception("offline for good because of a bug; a restart of Reticulum brings it back")
        finally:
            self._put(_What.END, None, reason)

    def running(self, token: trio.lowlevel.TrioToken, scope: trio.CancelScope) -> bool:
        """From the work: Trio runs, and `scope` ends it. False: it is to end at once."""
        self._scope = scope
        self._token = token
        return not self._stopping

    def _put(self, what: _What, backlog: _Backlog | None, extra: object) -> None:
        self._events.put((what, backlog, extra))

    def mesh_up(self, mesh: Mesh) -> None:
        """From the mesh: see `Listener`."""
        self._put(_What.UP, None, mesh)

    def mesh_down(self, reason: str) -> None:
        """From the mesh: see `Listener`."""
        self._put(_What.DOWN, None, reason)

    def peer_joined(self, peer: Peer) -> None:
        """From the mesh: see `Listener`."""
        self._backlogs[peer] = backlog = _Backlog(peer)
        self._put(_What.JOINED, backlog, None)

    def packet_received(self, peer: Peer, packet: bytes) -> None:
        """From the mesh: see `Listener`."""
        backlog = self._backlogs[peer]
        waiting = backlog.put - backlog.delivered
        if waiting >= PACKETS_PER_PEER or self._events.qsize() >= EVENTS_WAITING:
            self.packets_dropped += 1
            if not backlog.full:
                backlog.full = True
                log.warning("packets of %s dropped: Reticulum is slower than they arrive", peer)
            return
        if backlog.full and waiting <= PACKETS_PER_PEER // 2:
            backlog.full = False
        backlog.put += 1
        self._put(_What.PACKET, backlog, packet)

    def peer_left(self, peer: Peer) -> None:
        """From the mesh: see `Listener`."""
        self._put(_What.LEFT, self._backlogs.pop(peer), None)

    # --- the delivery thread ---

    def _deliver(self) -> None:
        current_interface.set(self.name)
        told = self._listener
        joined: dict[Peer, None] = {}
        up = False
        while True:
            what, backlog, extra = self._events.get()
            if what is _What.PACKET:
                assert backlog is not None
                backlog.delivered += 1
                if not self._stopping:
                    _tell(told.packet_received, backlog.peer, extra)
            elif what is _What.JOINED:
                assert backlog is not None
                joined[backlog.peer] = None
                _tell(told.peer_joined, backlog.peer)
            elif what is _What.LEFT:
                assert backlog is not None
                del joined[backlog.peer]
                _tell(told.peer_left, backlog.peer)
            elif what is _What.UP:
                up = True
                _tell(told.mesh_up, extra)
            elif what is _What.DOWN:
                up = False
                _tell(told.mesh_down, extra)
            else:
                for peer in joined:
                    _tell(told.peer_left, peer)
                if up:
                    _tell(told.mesh_down, extra)
                return


def _tell(method: Callable[..., None], *what: object) -> None:
    try:
        method(*what)
    except Exception:
        log.exception("a bug in %s; going on", getattr(method, "__qualname__", method))


def _ended(thread: threading.Thread, deadline: float) -> bool:
    """Wait for a thread until the deadline (`time.monotonic`). True also where there is none to wait for."""
    if thread is threading.current_thread() or thread.ident is None:
        return True
    thread.join(max(0.0, deadline - time.monotonic()))
    return not thread.is_alive()
