"""Service discovery with bleak, and what bleak leaves behind.

The connection is there before: bleak's own waits for ever when BlueZ aborts it
("le-connection-abort-by-local", as after the cancellation of an earlier attempt), and says "already
connected" by disconnecting.

Of bleak's client three private attributes are used, over which a test watches: `_backend`, its `_bus`, its
`_on_disconnected`; and beside it `BlueZFeatures.checked_bluez_version`, and `_global_instances` with
their `_bus`, its `_finalize`, and `_bus_watcher_task`.
Bleak's own `disconnect` would take the connection down under our other role, and may wait for ever after a
cancellation; a cancelled `connect` waits for ever for a bluetoothd that is frozen.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, cast

import trio
from bleak import BleakClient
from bleak.backends.bluezdbus.manager import _global_instances, get_global_bluez_manager
from bleak.backends.bluezdbus.version import BlueZFeatures
from bleak.backends.device import BLEDevice as BleakDevice
from bleak.exc import BleakDBusError, BleakDeviceNotFoundError, BleakError

from rns_ble.drivers.base import AdapterUnavailable, PeerUnreachable

if TYPE_CHECKING:
    from rns_ble.drivers.asyncio_loop import AsyncioLoop

log = logging.getLogger(__name__)

CANCEL_TIMEOUT: Final = 4.0
"""Seconds that a cancelled connect may take to disconnect (BlueZ: 2.0 s) before its bus is closed."""

NOTICED_WITHIN: Final = 100
"""Hundredths of a second for bleak to hear of the connection."""

PREPARE_TIMEOUT: Final = 5.0
"""Seconds for bluetoothd to tell bleak what it has; it has just told us."""

NEVER: Final = 86_400.0
"""Seconds; bleak wants a deadline of its own, and ours is the caller's."""

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
    except (BleakError, OSError, EOFError, trio.TooSlowError) as error:
        raise AdapterUnavailable(f"BlueZ can't be reached: {error!r}") from error


class ConnectRace(PeerUnreachable):
    """bluetoothd has tripped over itself, or the device's object was just removed: worth another try."""


class Client:
    """A BleakClient on a connected device, for one attempt and the link that comes of it."""

    def __init__(self, loop: AsyncioLoop, path: str, properties: dict[str, Any]) -> None:
        """`path` and `properties`: of the device's object in BlueZ."""
        self._loop = loop
        self._path = path
        self._address = str(properties["Address"])
        adapter = path.split("/")[3]
        self._client = BleakClient(
            BleakDevice(self._address, None, {"path": path, "props": properties}),
            timeout=NEVER,
            bluez={"adapter": adapter},
        )

    async def discover(self) -> None:
        """Have the services discovered. Raises `PeerUnreachable`, `ConnectRace` of it where trying
        again makes sense. Cancelled: disconnects first, within `CANCEL_TIMEOUT`.
        """
        finished = trio.Event()
        reason: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._see_that_it_ends, finished)
            try:
                await self._loop.run_aio_coroutine(self._discover())
            except (BleakError, OSError, EOFError, TimeoutError) as error:
                reason = error
            finally:
                finished.set()
                nursery.cancel_scope.cancel()
        await trio.lowlevel.checkpoint_if_cancelled()
        if reason is not None:
            raise self._explained(reason) from reason

    async def _discover(self) -> None:
        manager = await get_global_bluez_manager()
        for _ in range(NOTICED_WITHIN):  # it has a connection of its own to D-Bus, and hears later or sooner
            try:
                if manager.is_connected(self._path):
                    break
            except BleakError:
                pass  # it does not know the device yet
            await asyncio.sleep(0.01)
        else:
            raise BleakError("device disconnected")
        await self._client.connect()

    async def _see_that_it_ends(self, finished: trio.Event) -> None:
        try:
            await finished.wait()
        finally:
            with trio.move_on_after(CANCEL_TIMEOUT, shield=True):
                await finished.wait()
            if not finished.is_set():
                log.debug("%s: BlueZ does not answer, the attempt's bus is closed", self._address)
                self._close_bus()

    def _explained(self, error: Exception) -> PeerUnreachable:
        text = f"the services of {self._address} can't be discovered: {error}"
        name = error.dbus_error if isinstance(error, BleakDBusError) else ""
        again = (
            isinstance(error, BleakDeviceNotFoundError)
            or name.endswith((".InProgress", ".UnknownObject", ".NotReady"))
            or "device disconnected" in str(error)
            or "not found" in str(error)
        )
        return ConnectRace(text) if again else PeerUnreachable(text)

    def _close_bus(self) -> None:
        bus = self._client._backend._bus  # type: ignore[attr-defined]
        if bus is not None:
            bus.disconnect()

    async def release(self) -> None:
        """Let go of everything of bleak's, but not of the connection. Never raises."""
        with trio.move_on_after(1, shield=True) as scope:
            if self._client.is_connected:
                self._client._backend._on_disconnected()  # type: ignore[attr-defined]
            bus = self._client._backend._bus  # type: ignore[attr-defined]
            if bus is not None and bus.unique_name is None:
                # Cancelled before it was connected: nobody reads it, so nobody would notice its end. It may
                # have been cancelled so early, or so late, that it has closed its socket by itself.
                if bus._sock is not None:
                    bus._finalize(None)
                self._client._backend._bus = None  # type: ignore[attr-defined]
            try:
                await self._loop.run_aio_coroutine(self._client.disconnect())
            except (BleakError, OSError, EOFError, TimeoutError) as error:
                log.debug("%s: %r", self._address, error)
        if scope.cancelled_caught:
            self._close_bus()
