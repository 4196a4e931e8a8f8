"""A virtual radio between processes: each TCP connection is a virtual controller, and speaks HCI (H4).

A node reaches it as `tcp-client:HOST:PORT`. When its connection ends, however it ends, its controller leaves
the radio, and its peers lose it after the supervision timeout, as when somebody walks away.

1. What one client sends, well-formed or not, costs at most its own connection.
2. A host that does not read has its data kept on the air, where it slows the senders down; a host that reads
   nothing at all, while its events pile up, is dropped.
"""

from __future__ import annotations

from functools import partial
from typing import Final

import trio
from bumble import hci

from rns_ble import quiet
from rns_ble.drivers.asyncio_loop import open_asyncio_loop, plainly
from rns_ble.drivers.hci.controller import RadioController
from rns_ble.drivers.hci.radio import VirtualRadio

log = quiet.logger(__name__)

LOOPBACK: Final = "127.0.0.1"
"""Whoever reaches the ether is on its air, without any password."""

STALL_BYTES: Final = 64 * 1024
"""Not yet sent to a host, from which on data waits on the air: a few hundred packets."""
DROP_BYTES: Final = 1024 * 1024
"""Not yet sent to a host, at which it is given up: only events come by then, so it has not read for long."""

PACKETS_A_TURN: Final = 32
"""Packets of one host that are served before the others get their turn: more than a link has under way."""

_LENGTH_FIELDS: Final = {hci.HCI_COMMAND_PACKET: (3, 1), hci.HCI_ACL_DATA_PACKET: (3, 2)}
"""Packet type → where its length field is, and how long that is, in bytes (Vol 4 Part A, 2; Part E, 5.4).
A host sends nothing else over LE without isochronous channels."""


class H4Splitter:
    """Takes a stream of bytes apart into HCI packets, their type first."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The packets that are complete now. Raises `ValueError` for a packet type a host does not send."""
        self._bytes += data
        packets = []
        at = 0
        while at < len(self._bytes):
            try:
                field, size = _LENGTH_FIELDS[self._bytes[at]]
            except KeyError:
                raise ValueError(f"packet type {self._bytes[at]} from a host") from None
            body = at + field + size
            if len(self._bytes) < body:
                break
            end = body + int.from_bytes(self._bytes[at + field : body], "little")
            if len(self._bytes) < end:
                break
            packets.append(bytes(self._bytes[at:end]))
            at = end
        del self._bytes[:at]
        return packets


class _Client:
    """A node's host at the other end of a TCP connection, and its controller here."""

    def __init__(self, stream: trio.SocketStream, radio: VirtualRadio) -> None:
        self._stream = stream
        self._waiting = bytearray()
        self._wake_up = trio.Event()
        self._overrun = trio.CancelScope()
        # What the kernel holds back is neither seen here nor slowed down, and by default it is megabytes.
        stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, STALL_BYTES)
        self.controller = RadioController(radio)
        self.controller.set_packet_sink(self)

    def on_packet(self, packet: bytes) -> None:
        """From the controller, for the host."""
        self._waiting += packet
        self._wake_up.set()
        if len(self._waiting) >= STALL_BYTES:
            self.controller.stalled = True
        if len(self._waiting) >= DROP_BYTES:
            self._overrun.cancel()

    async def serve(self) -> None:
        """Until the host closes the connection, or has to be dropped. Raises `OSError`, `ValueError`."""
        with self._overrun:
            async with plainly(trio.open_nursery()) as nursery:
                nursery.start_soon(self._send)
                await self._receive()
                nursery.cancel_scope.cancel()
        if self._overrun.cancelled_caught:
            log.warning("a host that does not read was dropped")

    async def _receive(self) -> None:
        splitter = H4Splitter()
        async for data in self._stream:
            for number, packet in enumerate(splitter.feed(bytes(data)), 1):
                self.controller.on_packet(packet)
                if number % PACKETS_A_TURN == 0:
                    await trio.lowlevel.checkpoint()

    async def _send(self) -> None:
        while True:
            await self._wake_up.wait()
            self._wake_up = trio.Event()
            data, self._waiting = self._waiting, bytearray()
            try:
                await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return  # `_receive` sees the end as well
            if self.controller.stalled and len(self._waiting) < STALL_BYTES:
                self.controller.resume()


async def serve_ether(
    host: str = LOOPBACK,
    port: int = 0,
    *,
    radio: VirtualRadio | None = None,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve controllers on one radio until cancelled.

    Port 0 takes a free one; `task_status.started` gets the real one. Raises `OSError` when it can't be had.
    """
    air = radio if radio is not None else VirtualRadio()
    async with open_asyncio_loop():
        listeners = await trio.open_tcp_listeners(port, host=host)
        bound: int = listeners[0].socket.getsockname()[1]
        async with plainly(trio.open_nursery()) as nursery:
            await nursery.start(partial(trio.serve_listeners, partial(serve_host, air), listeners))
            task_status.started(bound)
            log.info("the ether listens on %s, port %d", host, bound)


async def serve_host(radio: VirtualRadio, stream: trio.SocketStream) -> None:
    """A controller on this radio for the host at the other end of a stream, until that ends or is to blame.

    Cancelled: the controller has left, and the stream is closed, when this returns.
    """
    client = _Client(stream, radio)
    try:
        await client.serve()
    except OSError as error:
        log.debug("a host is gone: %s", error)
    except trio.BrokenResourceError as error:
        log.debug("a host is gone: %s", error.__cause__ or error)
    except Exception as error:
        # Bumble raises all kinds of errors for packets that are malformed.
        log.warning("a host was dropped for what it sent: %r", error)
        log.debug("it was here:", exc_info=True)
    finally:
        client.controller.detach()
        await trio.aclose_forcefully(stream)
