"""A driver of one's own in some hundred lines. Its radio is a directory of Unix sockets: docs/drivers.md."""

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

import trio
from trio.socket import AF_UNIX, SOCK_SEQPACKET, SocketType, socket

from rns_ble.drivers import base
from rns_ble.drivers.base import DriverState, Role


class SocketLink(base.BLELink):
    """A connection; one message of SOCK_SEQPACKET is one value."""

    att_mtu = 517

    def __init__(self, driver: "SocketDriver", connection: SocketType, address: str, role: Role) -> None:
        self.address, self.role, self._connection, self._links = address, role, connection, driver.links
        self._turn = trio.StrictFIFOLock()
        self._arrived, self._values = trio.open_memory_channel[bytes](64)
        self._links.append(self)
        driver.nursery.start_soon(self._listen)

    async def _listen(self) -> None:
        over = (OSError, trio.ClosedResourceError, trio.BrokenResourceError)
        try:
            with suppress(*over), self._connection, self._arrived:
                while value := await self._connection.recv(self.att_mtu):
                    await self._arrived.send(value)
        finally:
            self._links.remove(self)

    async def send(self, value: bytes) -> None:
        if len(value) > self.value_limit:
            raise ValueError(f"a value of {len(value)} bytes; this link carries {self.value_limit}")
        try:
            async with self._turn:
                await self._connection.send(value)
        except (OSError, trio.ClosedResourceError):
            raise base.LinkLost(f"the link to {self.address} has ended") from None

    async def receive(self) -> bytes:
        return await self._values.receive()

    async def aclose(self) -> None:
        self._values.close()
        self._connection.close()


class SocketDriver(base.BLEDriverInterface):
    """While it advertises, the directory has a socket that is named after its address and identity."""

    address, state = "", DriverState.IDLE

    def __init__(self, directory: str, address: str) -> None:
        super().__init__()
        self.directory, self.address, self.path = Path(directory), address, Path()
        self.links: list[SocketLink] = []

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as self.nursery:
            self.nursery.start_soon(self._look_around)
            try:
                yield
            finally:
                await self.stop()
                self.nursery.cancel_scope.cancel()

    async def start(self, *_uuids: str, **_named: str) -> None:
        self.identity = self._identity or b""
        self.path = self.directory / f"{self.address} {self.identity.hex()}"

    async def stop(self) -> None:
        await self.stop_scanning()
        await self.stop_advertising()
        for link in self.links:
            await link.aclose()

    @property
    def connected_peers(self) -> list[str]:
        return sorted({link.address for link in self.links})

    async def start_scanning(self) -> None:
        self.state |= DriverState.SCANNING

    async def stop_scanning(self) -> None:
        self.state &= ~DriverState.SCANNING

    async def _look_around(self) -> None:
        while True:
            await trio.sleep(0.1)
            if DriverState.SCANNING in self.state:
                for path in set(self.directory.iterdir()) - {self.path}:
                    self._sight(base.BLEDevice(path.name[:17], rssi=-50))

    async def start_advertising(self, _name: str | None = None, _data: object = None) -> None:
        if DriverState.ADVERTISING not in self.state:
            self.path.unlink(missing_ok=True)  # left behind by a process that was killed
            await self.nursery.start(self._advertise)
            self.state |= DriverState.ADVERTISING

    async def _advertise(self, task_status: trio.TaskStatus[None]) -> None:
        with socket(AF_UNIX, SOCK_SEQPACKET) as self.door, suppress(trio.ClosedResourceError):
            await self.door.bind(str(self.path))
            self.door.listen()
            task_status.started()
            while True:
                connection, name = await self.door.accept()
                link = SocketLink(self, connection, name[1:18].decode(), Role.PERIPHERAL)
                if not self._accept(link):
                    await link.aclose()

    async def stop_advertising(self) -> None:
        if DriverState.ADVERTISING in self.state:
            self.state &= ~DriverState.ADVERTISING
            self.path.unlink()
            self.door.close()

    async def connect(self, address: str) -> base.BLELink:
        try:
            with ExitStack() as undo:
                connection = undo.enter_context(socket(AF_UNIX, SOCK_SEQPACKET))
                [path] = self.directory.glob(f"{address} *")
                await connection.bind(f"\0{self.address} {id(connection)}")  # what the peer sees of us
                await connection.connect(str(path))
                await connection.send(self.identity)
                undo.pop_all()
        except (OSError, ValueError) as error:
            raise base.PeerUnreachable(f"{address} does not answer: {error}") from error
        link = SocketLink(self, connection, address, Role.CENTRAL)
        link.peer_identity = bytes.fromhex(path.name[18:])
        return link
