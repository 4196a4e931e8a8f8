"""A driver written to the callback contract as others write theirs: locks, threads of its own, and no radio.

It knows nothing of Trio and nothing of this package but the contract's module, and may do whatever the
contract leaves open: tell the identity or the ATT MTU, take the identity write itself, put a prefix before
centrals.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rns_ble.drivers.threaded.contract import BLEDevice, BLEDriverInterface, DriverState

ADVERTISING_INTERVAL = 0.01
QUEUED = 16
"""Values on their way to one driver before a sender waits."""


@dataclass(frozen=True)
class Habits:
    """What such drivers do in different ways."""

    tells_identity: bool = True
    """As central: the whole handshake; else only the ATT MTU, and the rest is asked of it."""
    takes_identity_write: bool = False
    """As peripheral: tells it with a second `on_device_connected`, and it is no data."""
    prefix: str = ""
    """Before the addresses of centrals."""
    late_mtu: bool = False
    """Tells the ATT MTU with `on_mtu_negotiated`, after the connection, and has no `get_peer_mtu`."""
    blocking_connect: bool = False
    """`connect` returns when all is done; else at once."""
    silent_stop: bool = False
    """`stop` does not tell of each link."""


@dataclass
class Ether:
    """Where the drivers meet."""

    att_mtu: int = 517
    drivers: dict[str, LoopbackDriver] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)


@dataclass
class _End:
    """One end of a connection."""

    name: str
    role: str
    peer: LoopbackDriver
    peer_name: str
    subscribed: Callable[[bytes], None] | None = None
    identified: bool = False


class LoopbackDriver(BLEDriverInterface):
    """One driver on an ether."""

    def __init__(self, ether: Ether, address: str, habits: Habits = Habits(), **settings: object) -> None:
        self.ether = ether
        self.address = address
        self.habits = habits
        self.settings = settings
        """What the interface has constructed it with."""
        self.power_mode = ""
        self.calls: list[str] = []
        self.identity = b""
        self.running = False
        self._ends: dict[str, _End] = {}
        self._connecting: set[str] = set()
        self._scanning = self._advertising = False
        self._uuids: tuple[str, str, str, str] = ("", "", "", "")
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(QUEUED)
        if habits.late_mtu:
            self.get_peer_mtu = None

    # --- life ---

    def start(self, service_uuid, rx_char_uuid, tx_char_uuid, identity_char_uuid) -> None:
        self.calls.append("start")
        self._uuids = service_uuid, rx_char_uuid, tx_char_uuid, identity_char_uuid
        self.running = True
        self._jobs = queue.Queue(QUEUED)
        for work in (self._work, self._scan):
            threading.Thread(target=work, args=(self._jobs,), daemon=True).start()
        with self.ether.lock:
            self.ether.drivers[self.address] = self

    def stop(self) -> None:
        self.calls.append("stop")
        if not self.running:
            return
        with self.ether.lock:
            self.running = self._scanning = self._advertising = False
            self.ether.drivers.pop(self.address, None)
        for name in list(self._ends):
            self._drop(name, tell=not self.habits.silent_stop)
        jobs, self._jobs = self._jobs, queue.Queue(QUEUED)
        jobs.put(None)  # there is room: nobody puts anything there any more

    def _post(self, job: Callable[[], None]) -> None:
        """Have it done on our thread; waits for room while there is one."""
        jobs = self._jobs
        while jobs is self._jobs and self.running:
            try:
                jobs.put(job, timeout=0.1)
            except queue.Full:
                continue
            return

    def _work(self, jobs: queue.Queue) -> None:
        """The thread on which the stack delivers."""
        while (job := jobs.get()) is not None:
            job()
            jobs.task_done()

    @property
    def idle(self) -> bool:
        """Whether all has been told, and no connection is under way."""
        return not (self._jobs.unfinished_tasks or self._connecting)

    def _scan(self, jobs: queue.Queue) -> None:
        while self.running and jobs is self._jobs:
            time.sleep(ADVERTISING_INTERVAL)
            if not self._scanning:
                continue
            for other in list(self.ether.drivers.values()):
                if other is not self and other._advertising:
                    self.on_device_discovered(
                        BLEDevice(other.address.lower(), None, -50, [other._uuids[0].upper()])
                    )

    # --- settings ---

    def set_identity(self, identity_bytes: bytes) -> None:
        assert self.running
        self.identity = identity_bytes

    def set_service_discovery_delay(self, seconds: float) -> None:
        pass

    def set_power_mode(self, mode: str) -> None:
        self.power_mode = mode

    def get_local_address(self) -> str:
        return self.address

    @property
    def state(self) -> DriverState:
        if self._advertising:
            return DriverState.ADVERTISING
        return DriverState.SCANNING if self._scanning else DriverState.IDLE

    @property
    def connected_peers(self) -> list[str]:
        return list(self._ends)

    def get_peer_role(self, address: str) -> str | None:
        end = self._ends.get(address)
        return end.role if end else None

    def get_peer_mtu(self, address: str) -> int | None:
        return self.ether.att_mtu if address in self._ends else None

    # --- radio ---

    def start_scanning(self) -> None:
        self._scanning = True

    def stop_scanning(self) -> None:
        self._scanning = False

    def start_advertising(self, device_name: str | None, identity: bytes) -> None:
        assert identity == self.identity
        self._advertising = True

    def stop_advertising(self) -> None:
        self._advertising = False

    def connect(self, address: str) -> None:
        self.calls.append(f"connect {address}")
        with self.ether.lock:
            if address in self._ends or address in self._connecting:
                return  # as ble-reticulum's own
            self._connecting.add(address)
        thread = threading.Thread(target=self._connect, args=(address,), daemon=True)
        thread.start()
        if self.habits.blocking_connect:
            thread.join()

    def _connect(self, address: str) -> None:
        time.sleep(0.02)
        with self.ether.lock:
            self._connecting.discard(address)
            other = self.ether.drivers.get(address.upper())
            if other is None or not other._advertising or not self.running:
                self.on_error("warning", f"Connection timeout to {address}", None)
                return
            theirs = _End(other.habits.prefix + self.address, "peripheral", self, address)
            ours = _End(address, "central", other, theirs.name)
            self._ends[address], other._ends[theirs.name] = ours, theirs
            other._post(lambda: other._connected(theirs))
            if not self.habits.tells_identity:
                self._post(lambda: self._connected(ours))
                return
        if self.on_duplicate_identity_detected(address, other.identity):
            self._drop(address)
            self.on_error("error", f"Connection failed to {address}: duplicate", RuntimeError("duplicate"))
            return
        with self.ether.lock:
            if self._ends.get(address) is ours:
                ours.subscribed = lambda value: self.on_data_received(address, value)
                other._post(lambda: other._written(theirs, self.identity))
                self._post(lambda: self._connected(ours))

    def _connected(self, end: _End) -> None:
        central = end.role == "central"
        more: object = None
        if central and self.habits.tells_identity:
            more = bytearray(end.peer.identity)  # as some platforms do
        elif not self.habits.tells_identity:
            more = self.ether.att_mtu
        self.on_device_connected(end.name, more)
        if self.habits.late_mtu:
            time.sleep(0.01)
            self.on_mtu_negotiated(end.name, self.ether.att_mtu)

    def disconnect(self, address: str) -> None:
        self._drop(address)

    def _drop(self, name: str, *, tell: bool = True) -> None:
        with self.ether.lock:
            end = self._ends.pop(name, None)
            other = end and end.peer._ends.pop(end.peer_name, None)
            if other:
                end.peer._post(lambda: end.peer.on_device_disconnected(other.name))
        if end and tell:
            self.on_device_disconnected(name)

    # --- values ---

    def send(self, address: str, data: bytes) -> None:
        end = self._ends.get(address)
        if end is None:
            raise RuntimeError(f"Not connected to {address}")
        if len(data) > self.ether.att_mtu - 3:
            data = data[: self.ether.att_mtu - 3]  # as BlueZ does
        peer, name = end.peer, end.peer_name
        if end.role == "central":
            peer._post(lambda: peer._written(peer._ends.get(name), data))
        else:
            peer._post(lambda: peer._notified(peer._ends.get(name), data))

    def _written(self, end: _End | None, data: bytes) -> None:
        if end is None:
            return
        first, end.identified = not end.identified, True
        if first and self.habits.takes_identity_write:
            self.on_device_connected(end.name, data)
        else:
            self.on_data_received(end.name, data)

    def _notified(self, end: _End | None, data: bytes) -> None:
        if end is not None and end.subscribed is not None:
            end.subscribed(data)

    def read_characteristic(self, address: str, char_uuid: str) -> bytes:
        assert char_uuid == self._uuids[3]
        return self._ends[address].peer.identity

    def write_characteristic(self, address: str, char_uuid: str, data: bytes) -> None:
        assert char_uuid == self._uuids[1]
        self.send(address, data)

    def start_notify(self, address: str, char_uuid: str, callback: Callable[[bytes], None]) -> None:
        assert char_uuid == self._uuids[2]
        self._ends[address].subscribed = callback
