"""A running interface shows itself: its snapshot on a Unix socket, for who asks.

Theory of operation. `serve_status` is a task beside the mesh, on the same Trio thread. What is always true:

1. The socket's mode is 0600 before it has a name, in a directory of mode 0700.
2. Whatever a client does costs a bounded amount: there are `CLIENTS_MAXIMUM` at most, each with one answer on
   its way, and a snapshot is taken at most once in `LIFETIME`. A client's failure is its own.
3. Without a socket the interface works all the same: the log says why there is none.
4. The file is gone when `serve_status` is, unless somebody has put another one in its place.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import trio

from rns_ble import quiet
from rns_ble.status import InterfaceStatus, as_json
from rns_ble.status_socket import REQUEST, address_in, file_name, opened

log = quiet.logger(__name__)

CLIENTS_MAXIMUM: Final = 16
"""A person has some terminals with `monitor`, a supervisor of services and a script or two."""

IDLE_TIMEOUT: Final = 60.0
"""Seconds in which a client must ask something; `monitor` asks every second."""

SEND_TIMEOUT: Final = 5.0
"""Seconds for a client to take an answer. The kernel takes 200 KB of it for a client that does not read."""

REQUEST_MAXIMUM: Final = 256
"""Bytes of a line that a client sends."""

LIFETIME: Final = 0.1
"""Seconds for which a snapshot is given to whoever asks: a client that asks without pause, or many, take a
hundredth of the Trio thread's time (a snapshot of 100 candidates takes 1 ms)."""

BACKLOG: Final = 16
"""Clients that may wait to be accepted, which takes milliseconds."""


async def serve_status(directory: Path, name: str, status: Callable[[], InterfaceStatus]) -> None:
    """Serve what `status` answers on the socket of the interface `name` in `directory`.

    Runs until cancelled; returns early only when there can be no socket. Cancelled: the socket and its file
    are gone, and every client is disconnected.
    """
    with ExitStack() as stack:
        try:
            listening = stack.enter_context(_listening(directory, file_name(name)))
            # A duplicate, for Trio closes it first, and the file is never one that nobody listens at.
            duplicate = listening.dup()
        except OSError as error:
            _tell(directory, error)
            return
        server = _Server(status)
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(duplicate))
        try:
            await trio.serve_listeners(server.attend, [listener])
        except* Exception:
            log.exception("`rns-ble status` shows this interface no more, which works all the same")


def _tell(directory: Path, error: OSError) -> None:
    if error.errno == errno.EADDRINUSE:
        log.error("`rns-ble status` shows another process, not this interface: %s", error.strerror)
    else:
        log.warning(
            "`rns-ble status` can't show this interface, which works all the same: no socket in %s: %s",
            directory,
            error.strerror or error,
        )


@contextmanager
def _listening(directory: Path, name: str) -> Iterator[socket.socket]:
    """A socket of that name that listens; its file is removed at the end. Raises `OSError`."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (
        opened(directory) as descriptor,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening,
    ):
        os.fchmod(descriptor, 0o700)
        _remove_stale(descriptor, name)
        os.fchmod(listening.fileno(), 0o600)  # what `bind` makes has the mode of the socket (Linux)
        listening.bind(address_in(descriptor, name))
        mine = os.stat(name, dir_fd=descriptor)
        try:
            listening.listen(BACKLOG)
            yield listening
        finally:
            with suppress(OSError):  # removed, or out of reach, by somebody else
                if os.path.samestat(mine, os.stat(name, dir_fd=descriptor)):
                    os.unlink(name, dir_fd=descriptor)


def _remove_stale(directory: int, name: str) -> None:
    """Remove the socket of a process that has ended. Raises `OSError` when it is a live one's."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(address_in(directory, name))
        except FileNotFoundError:
            return
        except ConnectionRefusedError:  # nobody listens
            os.unlink(name, dir_fd=directory)
            return
        except BlockingIOError:  # somebody does, and is busy
            pass
        raise OSError(errno.EADDRINUSE, f"another process serves {name} already")


class _Server:
    """What its clients have in common."""

    def __init__(self, status: Callable[[], InterfaceStatus]) -> None:
        self._status = status
        self._places = trio.CapacityLimiter(CLIENTS_MAXIMUM)
        self._line = b""
        self._fresh_until = -1.0

    async def attend(self, client: trio.SocketStream) -> None:
        """Answer one client until it goes, or has to. Closes its connection."""
        try:
            async with client:
                try:
                    self._places.acquire_nowait()
                except trio.WouldBlock:
                    await _refuse(client, f"there are {CLIENTS_MAXIMUM} clients already")
                    return
                try:
                    await self._converse(client)
                finally:
                    self._places.release()
        except (trio.BrokenResourceError, trio.TooSlowError):
            pass  # it has gone, asks nothing or takes nothing
        except Exception:
            log.exception("a bug in the status; the interface goes on")

    async def _converse(self, client: trio.SocketStream) -> None:
        pending = b""
        while True:
            with trio.fail_after(IDLE_TIMEOUT):
                received = await client.receive_some(REQUEST_MAXIMUM)
            if not received:
                return
            *lines, pending = (pending + received).split(b"\n")
            for line in lines:
                if line.strip() != REQUEST.strip():
                    await _refuse(client, f"the only request is: {REQUEST.strip().decode()}")
                    return
                await _send(client, self._snapshot())
            if len(pending) > REQUEST_MAXIMUM:
                await _refuse(client, f"a request has {REQUEST_MAXIMUM} bytes at most")
                return

    def _snapshot(self) -> bytes:
        now = trio.current_time()
        if now >= self._fresh_until:
            self._line = as_json(self._status())
            self._fresh_until = now + LIFETIME
        return self._line


async def _refuse(client: trio.SocketStream, why: str) -> None:
    await _send(client, json.dumps({"error": why}).encode() + b"\n")


async def _send(client: trio.SocketStream, line: bytes) -> None:
    with trio.fail_after(SEND_TIMEOUT):
        await client.send_all(line)
