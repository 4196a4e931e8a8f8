"""One BLE Reticulum link over BlueZ: values in, values out.

1. A value goes out by the link's `Outlet`: a socket that bluetoothd reads from, or a D-Bus call where there
   is none. The socket is Trio's alone, and a full one makes its sender wait.
2. Values come in by a socket that a task of the driver's pumps, or from D-Bus, into one bounded buffer. A
   full buffer holds the pump, and so the socket, up, and what finds the socket full bluetoothd drops without
   a word; a D-Bus message can't be held up and is dropped and counted.
3. The end: what the socket still holds is pumped first, then the buffer is closed, and so the iteration ends.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Protocol

import trio

from rns_ble import quiet
from rns_ble.drivers.base import BLELink, LinkLost, Role
from rns_ble.protocol.gatt import ATT_MTU_REQUESTED, VALUE_MAXIMUM, value_limit

log = quiet.logger(__name__)

RECEIVE_BUFFERED: Final = 256
"""Values per link, 128 KiB at most, on top of what a socket holds."""

SEND_BUFFER: Final = 16 * 1024
"""Bytes to ask for as the socket's buffer. Linux takes twice that, and counts each value with what it costs
itself, so some 25 of the longest fit. The default holds ten times as many, and whatever comes behind them has
to wait for all: 0.7 s in the laboratory."""


class OutletClosed(Exception):
    """The outlet takes no more, and has closed itself; a link in the peripheral role may get a new one."""


class Outlet(Protocol):
    """How values leave."""

    name: str
    """For the status."""

    async def send(self, value: bytes) -> None:
        """Whole or, when cancelled, not at all. Raises `OutletClosed`, and `BLEError` for what BlueZ
        refuses.
        """

    def close(self) -> None:
        """Idempotent."""


class SocketOutlet:
    """A SOCK_SEQPACKET socket to bluetoothd: one datagram, one value."""

    name = "socket"

    def __init__(self, taken: socket.socket, alive: Callable[[], None]) -> None:
        """`taken`: does not block. `alive` is called when bluetoothd has made room in it, which it does long
        before it answers anything when it has a lot to read.
        """
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self.socket: Final = taken
        self._alive = alive

    async def send(self, value: bytes) -> None:
        """No checkpoint where there is room: whoever sends has had one, for its turn."""
        try:
            while True:
                try:
                    self.socket.send(value)
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self.socket)
                    self._alive()
                else:
                    return
        except (OSError, ValueError, trio.ClosedResourceError) as error:  # a closed one has no number
            self.close()  # whoever shares it waits for that
            raise OutletClosed(str(error)) from error

    def close(self) -> None:
        close(self.socket)


class CallOutlet:
    """A call for each value."""

    name = "dbus"

    def __init__(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        self._send = send

    async def send(self, value: bytes) -> None:
        await self._send(value)

    def close(self) -> None:
        """Nothing is held."""


class BluezLink(BLELink):
    """Owned by whoever got it from `connect` or `accepted`."""

    keeps_order = False  # when the peer's host is BlueZ, too, they may have several ATT bearers

    def __init__(
        self,
        address: str,
        role: Role,
        att_mtu: int,
        say_goodbye: Callable[[BluezLink], Awaitable[None]],
        limit: Callable[[int], int] = value_limit,
    ) -> None:
        """`say_goodbye`: really disconnects; shields itself, takes at most `GOODBYE_TIMEOUT`, never raises.

        `limit`: the longest value at an ATT_MTU, in bytes.
        """
        self.address = address
        self.role = role
        self.live = True
        self.inward = CallOutlet.name
        """How values come in, for the status."""
        self.introduced = False
        """Whether the peer has told an identity. That is the handshake, and no proof of anything."""
        self.values_dropped = 0
        """Values of the peer's that found no room."""
        self.shared_limit: Callable[[], int] = lambda: VALUE_MAXIMUM
        """The longest value that all who will receive it can take whole. One that is longer, because it was
        made before somebody joined, is sent all the same: it is only useless for those it was not meant
        for."""
        self._att_mtu = min(att_mtu, ATT_MTU_REQUESTED)
        self._limit = limit
        self._say_goodbye = say_goodbye
        self._outlet: Outlet | None = None
        self._outlet_changed = trio.Event()
        self._sending = trio.StrictFIFOLock()
        self._send_scope = trio.CancelScope()
        self._inbox_send, self._inbox = trio.open_memory_channel[bytes](RECEIVE_BUFFERED)
        self._inlet: socket.socket | None = None
        self._closing = False
        self._closed = trio.Event()

    def __repr__(self) -> str:
        return f"<BluezLink {self.role.value} to {self.address}>"

    # --- sizes ---

    @property
    def att_mtu(self) -> int:
        """As the contract says."""
        return self._att_mtu

    @property
    def value_limit(self) -> int:
        """Less than ATT_MTU allows while other centrals get our notifications too and can take less."""
        return min(self._limit(self._att_mtu), self.shared_limit())

    def on_att_mtu(self, att_mtu: int) -> None:
        """BlueZ has said how large ATT_MTU is; only a larger one counts."""
        self._att_mtu = max(self._att_mtu, min(att_mtu, ATT_MTU_REQUESTED))

    # --- values out ---

    def set_outlet(self, outlet: Outlet | None) -> None:
        """From now on values leave by this; None: they wait for the next one."""
        before, self._outlet = self._outlet, outlet
        if before is not None and before is not outlet:
            before.close()
        if outlet is not None:
            outward, inward = outlet.name, self.inward
            self.data_path = outward if outward == inward else f"{outward} out, {inward} in"
        self._wake_senders()

    def leaves_by(self, outlet: Outlet | None) -> bool:
        """Whether values leave by this one; None: whether they have to wait for one."""
        return self._outlet is outlet

    def _wake_senders(self) -> None:
        self._outlet_changed.set()
        self._outlet_changed = trio.Event()

    async def send(self, value: bytes) -> None:
        """As the contract says. As peripheral it first waits until the central has subscribed to TX."""
        if len(value) > self._limit(self._att_mtu):
            raise ValueError(f"a value of {len(value)} bytes; this link carries {self.value_limit}")
        async with self._sending:
            while self.live:
                outlet = self._outlet
                if outlet is None:
                    await self._outlet_changed.wait()
                    continue
                try:
                    with trio.CancelScope() as self._send_scope:
                        await outlet.send(value)
                        return
                except OutletClosed as error:
                    if self._outlet is outlet:
                        log.debug("%s: BlueZ takes no more values: %s", self, error)
                        self._outlet = None
                    if self.role is Role.CENTRAL:
                        self.end("BlueZ takes no more values")  # nor will it give us another outlet
            raise LinkLost(f"the link to {self.address} has ended")

    # --- values in ---

    async def receive(self) -> bytes:
        """As the contract says."""
        return await self._inbox.receive()

    def on_value(self, value: bytes) -> bool:
        """A value that came over D-Bus. False: there was no room for it."""
        try:
            self._inbox_send.send_nowait(value)
        except trio.WouldBlock:
            self.values_dropped += 1
            log.debug("%s: no room for a value, %d dropped so far", self, self.values_dropped)
            return False
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # nobody is interested any more
        return True

    async def pump(self, taken: socket.socket, alive: Callable[[], None]) -> None:
        """Carry what a socket brings into the buffer until the socket ends, and the link with it. Once.

        `taken`: does not block. `alive` is called for each value: bluetoothd has sent it.
        """
        self._inlet = taken
        if not self.live:
            self._hang_up(taken)
        try:
            while True:
                await trio.lowlevel.wait_readable(taken)
                # All that has come, at once: bluetoothd loses what finds the socket full.
                with suppress(BlockingIOError):
                    while True:
                        value = taken.recv(VALUE_MAXIMUM)
                        if not value and _hung_up(taken):
                            return
                        alive()
                        await self._put(value)
        except OSError as error:
            log.debug("%s: its socket: %s", self, error)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # closed by us
        finally:
            close(taken)
            self._inlet = None
            self.end("BlueZ has closed its socket")

    async def _put(self, value: bytes) -> None:
        try:
            self._inbox_send.send_nowait(value)
        except trio.WouldBlock:
            await self._inbox_send.send(value)

    # --- the end ---

    def end(self, reason: str) -> None:
        """The link is over, for whatever reason. Idempotent. Does not disconnect."""
        self._retire(reason)
        if self._outlet is not None:
            self._outlet.close()
            self._outlet = None
        if self._inlet is not None:
            self._hang_up(self._inlet)
        else:
            self._inbox_send.close()

    def _retire(self, reason: str) -> None:
        """Nothing is sent any more, and who waits to send learns it."""
        if self.live:
            log.debug("%s ends: %s", self, reason)
            self.live = False
        self._send_scope.cancel()
        self._wake_senders()

    @staticmethod
    def _hang_up(inlet: socket.socket) -> None:
        """Nothing more comes in, but what has come can still be read."""
        with suppress(OSError):
            inlet.shutdown(socket.SHUT_RD)

    async def aclose(self) -> None:
        """As the contract says."""
        self._inbox.close()
        if self._closing:
            with trio.CancelScope(shield=True):
                await self._closed.wait()
            return
        self._closing = True
        self._retire("closed by us")
        try:
            # As central it closes the sockets first, as peripheral last. When a connection ends on which the
            # central is still subscribed, bluetoothd 5.82 closes the notification socket of whoever has been
            # subscribed for longest: its own, if we have not closed that before, or another central's.
            await self._say_goodbye(self)
        finally:
            self.end("closed by us")
            self._closed.set()
        with trio.CancelScope(shield=True):
            await trio.lowlevel.checkpoint()


def close(ours: socket.socket) -> None:
    """Close a socket, so that who waits for it learns it. Idempotent."""
    if ours.fileno() >= 0:
        trio.lowlevel.notify_closing(ours)
        ours.close()


def _hung_up(inlet: socket.socket) -> bool:
    """Tell the end of a socket from an empty value."""
    poll = select.poll()
    poll.register(inlet.fileno(), select.POLLHUP | select.POLLRDHUP)
    return bool(poll.poll(0))
