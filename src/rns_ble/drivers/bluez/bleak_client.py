"""Our GATT client: bleak on a connection that is there, and nothing of bleak's left behind.

Device1.Connect and Disconnect are ours. Bleak's `connect` waits without end, and without saying so, for a
disconnection that it may have missed when BlueZ answers "le-connection-abort-by-local", as after the
cancellation of an earlier attempt; and only cancelling ends that wait. Cancelled there or later, and when its
`disconnect` is called, it has BlueZ take the whole connection down, also under our other role.

So bleak is given a device that it knows to be connected, and its D-Bus connection is taken away from it
before it is cancelled or released: then it has nothing to say Disconnect with.

Of bleak's client three private attributes are used, over which a test watches: `_backend`, its `_bus` and its
`_on_disconnected`; and beside it `BlueZFeatures.checked_bluez_version`, and `_global_instances` with
their `_bus`, its `_finalize`, and `_bus_watcher_task`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import trio
from bleak import BleakClient
from bleak.backends.bluezdbus.manager import BlueZManager, _global_instances, get_global_bluez_manager
from bleak.backends.bluezdbus.version import BlueZFeatures
from bleak.backends.device import BLEDevice as BleakDevice
from bleak.exc import BleakDBusError, BleakError, BleakGATTProtocolError, BleakGATTProtocolErrorCode

from rns_ble import quiet
from rns_ble.drivers.base import AdapterUnavailable, BLEError, PeerUnreachable, ProtocolViolation
from rns_ble.drivers.bluez.bus import Refused, refusal

if TYPE_CHECKING:
    from bleak.backends.bluezdbus.client import BleakClientBlueZDBus
    from bleak.backends.characteristic import BleakGATTCharacteristic
    from dbus_fast.aio import MessageBus

    from rns_ble.drivers.asyncio_loop import AsyncioLoop
    from rns_ble.drivers.bluez.uuids import Uuids

log = quiet.logger(__name__)

T = TypeVar("T")

NOTICED_WITHIN: Final = 1.0
"""Seconds for bleak to hear of the connection that we have heard of: it has a D-Bus connection of its own."""

ANSWER_TIMEOUT: Final = 30.0
"""Seconds: the ATT transaction time-out (Core Specification, Vol 3 Part F, 3.3.3)."""

RELEASE_TIMEOUT: Final = 0.4
"""Seconds for a D-Bus connection to end, which needs nobody else; with what BlueZ takes to disconnect it is
less than `GOODBYE_TIMEOUT`."""

PREPARE_TIMEOUT: Final = 5.0
"""Seconds for bluetoothd to tell bleak what it has; it has just told us."""

NEVER: Final = 86_400.0
"""Seconds; bleak wants a deadline of its own, and ours is the caller's."""

GONE: Final = frozenset({"NotConnected", "UnknownObject", "UnknownMethod", "DoesNotExist"})
"""BlueZ's and D-Bus's errors for what has just gone, or was just made anew."""

TAKEN: Final = frozenset({"Notify acquired", "Write acquired"})
"""What BlueZ says with NotPermitted when another program has the socket, and the only use of it."""

# Bleak would start bluetoothctl to learn the version, and a cancellation of that blocks every later connect.
BlueZFeatures.checked_bluez_version = True


_users: Final[Counter[object]] = Counter()
"""How many drivers use bleak in each loop."""


@contextmanager
def bleak_in(loop: AsyncioLoop) -> Iterator[None]:
    """Bleak keeps a connection to D-Bus for each loop, and would keep it after the loop's end; this closes
    it.
    """
    _users[loop] += 1
    try:
        yield
    finally:
        _users[loop] -= 1
        if not _users[loop]:
            del _users[loop]
            manager = _global_instances.pop(cast("asyncio.AbstractEventLoop", loop), None)
            if manager is not None and manager._bus is not None:
                if manager._bus_watcher_task is not None:
                    manager._bus_watcher_task.cancel()  # it would call the end a loss
                manager._bus._finalize(None)  # as bleak does itself when it meets the loop no more


async def prepare_bleak(loop: AsyncioLoop) -> None:
    """Have bleak connect to D-Bus now: cancelled in the middle of that, it would leave the connection behind.

    Raises `AdapterUnavailable`.
    """
    try:
        with trio.fail_after(PREPARE_TIMEOUT, shield=True):
            await loop.run_aio_coroutine(get_global_bluez_manager())
    except (BleakError, OSError, EOFError, RuntimeError, trio.TooSlowError) as error:
        # RuntimeError: bleak walks through a dict of all loops, to which another thread may add one.
        raise AdapterUnavailable(f"BlueZ can't be reached: {error!r}") from error


class ConnectRace(PeerUnreachable):
    """bluetoothd has tripped over itself, or the device's object was just removed: worth another try."""


class Characteristic:
    """One of the peer's, as bleak has found it."""

    def __init__(self, found: BleakGATTCharacteristic) -> None:
        self.found = found
        self.path: str = found.obj[0]
        """Of its object in BlueZ."""

    @property
    def att_mtu(self) -> int:
        """The connection's, in bytes, as BlueZ says."""
        return int(self.found.max_write_without_response_size) + 3  # ATT's opcode and handle

    @property
    def takes_commands(self) -> bool:
        """Whether the peer allows to write it without a response."""
        return "write-without-response" in self.found.properties


class Client:
    """A BleakClient on a connected device, for one attempt and the link that comes of it.

    The operations raise `PeerUnreachable` where the peer is gone, `ConnectRace` of it where trying again
    makes sense, `ProtocolViolation` for what the peer refuses, and `AdapterUnavailable` where bluetoothd is
    gone. Cancelled, an operation may have been done or not.
    """

    def __init__(self, loop: AsyncioLoop, path: str, address: str, properties: dict[str, Any]) -> None:
        """`path` and `properties`: of the device's object in BlueZ."""
        self._loop = loop
        self._path = path
        self._address = address
        self._properties = properties
        self._anew()

    def _anew(self) -> None:
        self._client = BleakClient(
            BleakDevice(self._address, None, {"path": self._path, "props": self._properties}),
            timeout=NEVER,
            bluez={"adapter": self._path.split("/")[3]},
        )
        self._backend = cast("BleakClientBlueZDBus", self._client._backend)
        self._taken: MessageBus | None = None

    # --- life ---

    async def open(self) -> None:
        """Open bleak on the connection, and wait until BlueZ has discovered the peer's services.

        Cancelled: the connection stays as it is.
        """
        try:
            await self._loop.run_aio_coroutine(self._open())
        except (BleakError, OSError, EOFError) as error:
            raise self._explained(error, "the discovery of its services", ConnectRace) from error

    async def reopen(self) -> None:
        """As `open`, for services that have changed since: bleak does not look again."""
        await self.release()
        self._anew()
        await self.open()

    async def _open(self) -> None:
        await self._noticed(await get_global_bluez_manager())
        connecting = asyncio.ensure_future(self._client.connect())
        try:
            await asyncio.wait({connecting})
        finally:
            if not connecting.done():
                self._take_bus()
                connecting.cancel()
                await asyncio.wait({connecting})
        connecting.result()

    async def _noticed(self, manager: BlueZManager) -> None:
        """Bleak knows of the connection, so that it does not ask for one: on a device that has BR/EDR as well
        BlueZ would go and make that.
        """
        noticed = asyncio.Event()
        watcher = manager.add_device_watcher(
            self._path, lambda connected: noticed.set() if connected else None, lambda _path, _value: None
        )
        try:
            if not manager.is_connected(self._path):
                # Not `wait_for`: Python 3.11's swallows a cancellation that comes with the event.
                async with asyncio.timeout(NOTICED_WITHIN):
                    await noticed.wait()
        finally:
            manager.remove_device_watcher(watcher)

    def _take_bus(self) -> MessageBus | None:
        if self._backend._bus is not None:
            self._taken, self._backend._bus = self._backend._bus, None
        return self._taken

    async def release(self) -> None:
        """Let go of everything of bleak's, but not of the connection. Never raises. Takes `RELEASE_TIMEOUT`
        at most.
        """
        bus = self._take_bus()
        self._backend._on_disconnected()
        if bus is None or bus.unique_name is None:  # one that was never connected has closed itself
            return
        if bus.connected:  # a cancelled connect has begun with that itself
            bus.disconnect()
        with trio.move_on_after(RELEASE_TIMEOUT, shield=True):
            try:
                await self._loop.run_aio_coroutine(bus.wait_for_disconnect())  # type: ignore[no-untyped-call]
            except (OSError, EOFError) as error:
                log.debug("%s: bleak's D-Bus connection: %r", self._address, error)

    # --- operations ---

    def characteristics(self, uuids: Uuids) -> list[Characteristic]:
        """RX, TX and Identity; only some of them where the peer lacks the others. Raises `ConnectRace` where
        the connection has just ended.
        """
        try:
            services = list(self._client.services)
        except BleakError as error:
            raise ConnectRace(f"{self._address} has just disconnected") from error
        found: list[Characteristic] = []
        for service in services:
            if service.uuid == uuids.service:
                known = {one.uuid: one for one in service.characteristics}
                wanted = [known[uuid] for uuid in (uuids.rx, uuids.tx, uuids.identity) if uuid in known]
                found = max(found, [Characteristic(one) for one in wanted], key=len)
        return found

    async def read(self, characteristic: Characteristic, what: str) -> bytes:
        """Its value. `what`: for the error, as in "the peer refuses …"."""
        return bytes(await self._do(what, self._client.read_gatt_char(characteristic.found)))

    async def write(self, characteristic: Characteristic, value: bytes, what: str, *, response: bool) -> None:
        """Returns when the peer has answered or, without response, when BlueZ has taken the value."""
        await self._do(what, self._client.write_gatt_char(characteristic.found, value, response=response))

    async def subscribe(
        self, characteristic: Characteristic, on_value: Callable[[bytes], object], what: str
    ) -> None:
        """Have each notification given to `on_value`, in the asyncio loop, until `release`."""

        def notified(_sender: BleakGATTCharacteristic, value: bytearray) -> None:
            on_value(bytes(value))

        await self._do(what, self._client.start_notify(characteristic.found, notified))

    async def _do(self, what: str, operation: Coroutine[Any, Any, T]) -> T:
        try:
            with trio.fail_after(ANSWER_TIMEOUT):
                return await self._loop.run_aio_coroutine(operation)
        except trio.TooSlowError:
            raise PeerUnreachable(f"{self._address} does not answer to {what}") from None
        except (BleakError, OSError, EOFError) as error:
            raise self._explained(error, what, PeerUnreachable) from error

    def _explained(self, error: Exception, what: str, gone: type[PeerUnreachable]) -> BLEError:
        refused = f"{self._address} refuses {what}: {error}"
        if isinstance(error, BleakGATTProtocolError):
            if error.code == BleakGATTProtocolErrorCode.UNLIKELY_ERROR:
                return PeerUnreachable(refused)  # BlueZ says so of whatever went wrong, too
            if error.code == BleakGATTProtocolErrorCode.INVALID_HANDLE:
                return ConnectRace(f"{refused}; it has just put its service up anew")
            return ProtocolViolation(refused)
        if not isinstance(error, BleakDBusError):
            return gone(f"{self._address} dropped the connection during {what}: {error!r}")
        details = str(error.dbus_error_details or "")
        problem = refusal(error.dbus_error, details, what)
        if not isinstance(problem, Refused):
            return problem
        if error.dbus_error.rpartition(".")[2] in GONE:
            return ConnectRace(f"{self._address} was gone during {what}: {error}")
        if details in TAKEN:
            return PeerUnreachable(
                f"another program on this machine holds {what} of {self._address} ({details}): end that one"
            )
        if "Not connected" in details:
            return gone(f"{self._address} dropped the connection during {what}")
        return ProtocolViolation(refused)
