"""Ways to an HCI controller: one of ours on a `VirtualRadio`, or one that Bumble reaches by name."""

from __future__ import annotations

import errno
import shlex
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import bumble.transport
import trio
from bumble.transport.common import StreamPacketSink, TransportSpecError

from rns_ble.drivers.base import AdapterUnavailable, BLEError, ConfigurationError, PermissionDenied
from rns_ble.drivers.hci.controller import RadioController
from rns_ble.drivers.hci.pacer import Pacer
from rns_ble.drivers.hci.radio import VirtualRadio
from rns_ble.drivers.names import EXAMPLES

if TYPE_CHECKING:
    from rns_ble.drivers.asyncio_loop import AsyncioLoop

CONNECT_TIMEOUT: Final = 10.0
"""Seconds until the transport must be open: TCP over a bad network, a serial port that wakes up."""
CLOSE_TIMEOUT: Final = 1.0
"""Seconds for closing it: a part of `GOODBYE_TIMEOUT`."""


@dataclass(frozen=True, slots=True)
class Transport:
    """An open way to a controller."""

    name: str
    """As it was asked for."""
    source: Any
    """Bumble's: `set_packet_sink`, and `terminated`, a future that is done when the transport is lost."""
    sink: Any
    """Bumble's: `on_packet`."""

    @property
    def restart(self) -> str:
        """What a person can do when the controller behind it has failed."""
        return _RESTART.get(self.name.partition(":")[0], "restart what serves it")


@asynccontextmanager
async def open_transport(loop: AsyncioLoop, where: str | VirtualRadio) -> AsyncIterator[Transport]:
    """Reach a controller, and let go of it at the block's end.

    Raises `AdapterUnavailable` or `PermissionDenied`, saying what to do, and `ConfigurationError` for a name
    that no transport understands.
    """
    if isinstance(where, VirtualRadio):
        controller = RadioController(where)
        try:
            yield Transport("the virtual radio", controller, controller)
        finally:
            controller.detach()
        return
    try:
        with trio.fail_after(CONNECT_TIMEOUT):
            opened = await loop.run_aio_coroutine(bumble.transport.open_transport(where))
    except Exception as error:
        raise explain(where, error) from error
    stream: Any = opened.sink.transport if isinstance(opened.sink, StreamPacketSink) else None
    try:
        yield Transport(where, Pacer(loop, opened.source, stream), opened.sink)
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_TIMEOUT):
            if loop.is_running():  # else nothing of the transport runs any more
                await loop.run_aio_coroutine(opened.close())
            if loop.is_running() and stream is not None:
                # The socket is closed by a later callback, which tells it in this way.
                await loop.run_aio_future(opened.source.terminated)


def explain(name: str, error: Exception) -> BLEError:
    """What to do about a transport that could not be opened."""
    scheme = name.partition(":")[0]
    if isinstance(error, TransportSpecError | AssertionError | ValueError):
        return ConfigurationError(f"transport = {name} is not understood ({error}); for example {EXAMPLES}")
    if isinstance(error, trio.TooSlowError):
        return AdapterUnavailable(f"{name} does not open: check that it is there and awake")
    if isinstance(error, ImportError):
        pip = f"{shlex.quote(sys.executable)} -m pip"
        return AdapterUnavailable(f"{name} needs a library that is missing ({error}): install it with {pip}")
    if _is_denied(error):
        return PermissionDenied(f"{name}: this user may not use it: {_PERMISSION.get(scheme, 'run as root')}")
    advice = NO_SOCKETS if _lacks_sockets(scheme, error) else _ADVICE.get(scheme, "check the name")
    return AdapterUnavailable(f"{name} can't be opened ({error}): {advice}")


def _lacks_sockets(scheme: str, error: Exception) -> bool:
    """Whether there are no Bluetooth sockets: Python was built without them (Bumble's error has an
    `AttributeError` as its cause then), or the kernel does not know them.
    """
    number = getattr(error, "errno", None)
    unknown = number in (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT)
    return scheme == "hci-socket" and (unknown or isinstance(error.__cause__, AttributeError))


def _is_denied(error: Exception) -> bool:
    number = getattr(error, "errno", None)
    if number is None and isinstance(error.__context__, OSError):
        number = error.__context__.errno  # pyserial's error carries the system's in this way
    # libusb1's error is looked at by name, for it is there only where libusb is.
    return number in (errno.EACCES, errno.EPERM) or type(error).__name__ == "USBErrorAccess"


NO_SOCKETS: Final = (
    "this kernel or this Python has no Bluetooth sockets: take usb:0, or load the kernel's module bluetooth"
)

_PERMISSION: Final = {
    "usb": "add a udev rule for the dongle (SUBSYSTEM==usb, MODE=0660, GROUP=plugdev) and join that group",
    "pyusb": "add a udev rule for the dongle (SUBSYSTEM==usb, MODE=0660, GROUP=plugdev) and join that group",
    "serial": "join the group that owns the port (dialout or uucp) and log in again",
    "hci-socket": "it needs root or the capability CAP_NET_ADMIN, and BlueZ must not use the adapter",
}

_ADVICE: Final = {
    "usb": "plug the dongle in, stop bluetoothd if it has it, look for it with lsusb, "
    "and check that the user may write to it",
    "pyusb": "plug the dongle in, stop bluetoothd if it has it, look for it with lsusb, "
    "and check that the user may write to it",
    "serial": "plug it in, and look for its port in /dev/serial/by-id",
    "hci-socket": "take the adapter from BlueZ first (systemctl stop bluetooth; hciconfig hci0 down)",
    "tcp-client": "start what listens there first; for a virtual radio that is `rns-ble ether`",
}

_RESTART: Final = {
    "usb": "unplug it and plug it in again",
    "pyusb": "unplug it and plug it in again",
    "serial": "unplug it and plug it in again",
    "tcp-client": "start what listens there again; for a virtual radio that is `rns-ble ether`",
}
