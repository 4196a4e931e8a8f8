"""BlueZ looked at from outside, for `rns-ble doctor`: nothing is changed, nothing is started."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rns_ble.drivers.asyncio_loop import open_asyncio_loop
from rns_ble.drivers.base import AdapterUnavailable, BLEError, PermissionDenied
from rns_ble.drivers.bluez.adapter import version
from rns_ble.drivers.bluez.advertiser import MANAGER
from rns_ble.drivers.bluez.bus import BLUEZ, DBUS, DBUS_PATH, open_bus
from rns_ble.drivers.bluez.tree import ADAPTER, DEVICE, Tree

if TYPE_CHECKING:
    from rns_ble.drivers.asyncio_loop import AsyncioLoop
    from rns_ble.drivers.bluez.bus import Bus


class BusMissing(AdapterUnavailable):
    """The D-Bus system bus can't be reached."""


class BlueZMissing(AdapterUnavailable):
    """There is a system bus, and no bluetoothd on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFacts:
    """One adapter, as BlueZ shows it."""

    name: str
    address: str
    powered: bool
    version: tuple[int, int] | None
    """BlueZ's own; None where main.conf hides it."""
    roles: frozenset[str] | None
    """`central` where it can do LE, `peripheral` where it can also advertise; None: BlueZ does not say."""
    advertisements: tuple[int, int] | None
    """How many are registered, and how many more have room; None: it can't advertise."""
    connect_device: bool
    """Whether the experimental `Adapter1.ConnectDevice` is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlueZFacts:
    """What bluetoothd says."""

    pid: int
    """Of bluetoothd."""
    adapters: tuple[AdapterFacts, ...]
    paired: tuple[tuple[str, str, frozenset[str]], ...]
    """Devices that are paired: name, address, UUIDs of their services."""


async def examine() -> BlueZFacts:
    """Ask BlueZ. Takes milliseconds; 20 s where bluetoothd does not answer.

    Raises `BusMissing`, `BlueZMissing`, `PermissionDenied`, and other `BLEError` when bluetoothd fails.
    Cancelled: nothing is left behind.
    """
    async with open_asyncio_loop() as loop, _open(loop) as bus:
        return await _ask(bus)


@asynccontextmanager
async def _open(loop: AsyncioLoop) -> AsyncIterator[Bus]:
    connected = False
    try:
        async with open_bus(loop) as bus:
            connected = True
            yield bus
    except PermissionDenied:
        raise
    except AdapterUnavailable as error:
        if connected:
            raise
        raise BusMissing("the D-Bus system bus can't be reached") from error


async def _ask(bus: Bus) -> BlueZFacts:
    # Asked of the bus: what a call to BlueZ itself would say does not tell this from other faults.
    if not await _ask_bus(bus, "NameHasOwner"):
        raise BlueZMissing("bluetoothd does not run")
    pid: int = await _ask_bus(bus, "GetConnectionUnixProcessID")
    tree = Tree(bus)
    await tree.load()
    adapters = [await _adapter(bus, tree, path) for path in list(tree.objects) if tree.get(path, ADAPTER)]
    devices = [found for path in tree.objects if (found := tree.get(path, DEVICE))]
    return BlueZFacts(
        pid=pid,
        adapters=tuple(sorted(adapters, key=lambda adapter: (len(adapter.name), adapter.name))),
        paired=tuple(
            (str(device.get("Alias", "")), str(device["Address"]), frozenset(device.get("UUIDs", ())))
            for device in devices
            if device.get("Paired")
        ),
    )


async def _ask_bus(bus: Bus, member: str) -> Any:
    reply = await bus.call(DBUS_PATH, DBUS, member, "s", BLUEZ, destination=DBUS)
    return reply.body[0]


async def _adapter(bus: Bus, tree: Tree, path: str) -> AdapterFacts:
    properties = tree.get(path, ADAPTER) or {}
    manager = tree.get(path, MANAGER)
    try:
        described = await bus.call(path, f"{DBUS}.Introspectable", "Introspect")
        connect_device = 'name="ConnectDevice"' in str(described.body[0])
    except PermissionDenied:
        connect_device = False
    except BLEError:
        if tree.get(path, ADAPTER) is not None:
            raise
        connect_device = False  # unplugged a moment ago
    return AdapterFacts(
        name=path.rpartition("/")[2],
        address=str(properties.get("Address", "")),
        powered=bool(properties.get("Powered")),
        version=version(properties),
        roles=frozenset(properties["Roles"]) if "Roles" in properties else None,
        advertisements=(int(manager["ActiveInstances"]), int(manager["SupportedInstances"]))
        if manager
        else None,
        connect_device=connect_device,
    )
