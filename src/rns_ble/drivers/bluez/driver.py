"""A driver for BlueZ: an adapter of Linux, shared with whatever else uses it.

The adapter is watched as long as the driver is entered: when it is powered off or unplugged, when bluetoothd
ends or no longer answers, and when the bus is lost, `AdapterUnavailable` comes out of `async with`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import trio

from rns_ble import quiet
from rns_ble.drivers.asyncio_loop import open_asyncio_loop, plainly
from rns_ble.drivers.base import (
    GOODBYE_TIMEOUT,
    AdapterUnavailable,
    AdvertisingUnavailable,
    BLEDriverInterface,
    BLEError,
    BLELink,
    DriverState,
)
from rns_ble.drivers.bluez.adapter import (
    find_adapter,
    is_blocked,
    is_powered,
    is_targeted,
    power_on,
    why_missing,
    why_off,
)
from rns_ble.drivers.bluez.advertiser import Advertisement, Advertiser, register_agent
from rns_ble.drivers.bluez.bleak_client import bleak_in, prepare_bleak
from rns_ble.drivers.bluez.bus import FROZEN, UNREACHABLE, Refused, Unanswered, open_bus
from rns_ble.drivers.bluez.central import Central
from rns_ble.drivers.bluez.links import Links
from rns_ble.drivers.bluez.peripheral import Peripheral
from rns_ble.drivers.bluez.scanner import Scanner
from rns_ble.drivers.bluez.tree import ADAPTER, CHARACTERISTIC, DEVICE, Tree
from rns_ble.drivers.bluez.uuids import Uuids
from rns_ble.drivers.names import check_adapter
from rns_ble.protocol.advertisement import normalise_address

if TYPE_CHECKING:
    from rns_ble.drivers.asyncio_loop import AsyncioLoop
    from rns_ble.drivers.bluez.bus import Bus

log = quiet.logger(__name__)

PING_INTERVAL: Final = 5.0
"""Seconds between two looks whether bluetoothd is alive; it says nothing when it stands still."""

PING_TIMEOUT: Final = 15.0
"""Seconds for the answer, which needs nobody but bluetoothd. One that moves a thousand values on a slow
machine has been seen to take more than 5."""


GONE_WITHIN: Final = 1.0
"""Seconds from "off" to "gone" when an adapter is unplugged: the kernel first switches it off, and BlueZ says
each when it comes. They are tenths of a second."""


@dataclass(frozen=True)
class _Stack:
    """What lives as long as the driver is entered."""

    bus: Bus
    tree: Tree
    nursery: trio.Nursery
    adapter: str
    links: Links
    scanner: Scanner
    central: Central
    peripheral: Peripheral
    advertiser: Advertiser


class BleakDriver(BLEDriverInterface):
    """One adapter of BlueZ's. Drivers that are entered one inside the other share an asyncio loop."""

    heard_again_within = 14.0
    """Most controllers report each peer once in a discovery, for Linux asks that of them. It lasts 10.24 s,
    bluetoothd begins the next one within 0.75 s, and a peer may advertise every 2 s only. To begin one more
    often would cost others: a panel that looks for classic devices would never get as far as to find one."""

    def __init__(self, adapter: str | None = None) -> None:
        """`adapter`: a name such as `hci0`, or the adapter's Bluetooth address, which stays the same whatever
        is plugged in; None: the first. Raises `ConfigurationError`.
        """
        super().__init__()
        self._wanted = check_adapter(adapter)
        self._address = self._wanted if self._wanted is not None and ":" in self._wanted else None
        self._uuids: Uuids | None = None
        self._stack: _Stack | None = None
        self._failure: str | None = None
        self._switched_off: tuple[str, str] | None = None  # which adapter, and the bluetoothd that said so
        self._body = trio.CancelScope()

    # --- life ---

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[None]:
        async with open_asyncio_loop() as loop:
            with bleak_in(loop):
                async with self._run_in(loop):
                    yield

    @asynccontextmanager
    async def _run_in(self, loop: AsyncioLoop) -> AsyncIterator[None]:
        async with (
            plainly(trio.open_nursery()) as nursery,
            open_bus(loop) as bus,
        ):
            self._failure, self._uuids, self._body = None, None, trio.CancelScope()
            stack = await self._open_stack(loop, bus, nursery)
            await prepare_bleak(loop)
            try:
                nursery.start_soon(self._watch, stack)
                try:
                    with self._body:
                        self._stack = stack
                        yield
                except Exception as error:
                    if self._failure is not None:
                        raise AdapterUnavailable(self._failure) from error
                    raise
                if self._failure is not None:
                    raise AdapterUnavailable(self._failure)
            finally:
                self._stack = None
                with trio.move_on_after(GOODBYE_TIMEOUT, shield=True):
                    await self._part(stack)
                nursery.cancel_scope.cancel()

    async def _open_stack(self, loop: AsyncioLoop, bus: Bus, nursery: trio.Nursery) -> _Stack:
        tree = Tree(bus)
        await bus.start_bluez()
        try:
            await tree.load()
            adapter = find_adapter(tree, self._wanted)
            await self._switch_on(bus, tree, adapter)
            self._address = normalise_address((tree.get(adapter, ADAPTER) or {})["Address"])
        except Refused as error:
            raise AdapterUnavailable(f"BlueZ can't be used: {error}") from error
        links = Links(bus, tree, adapter)
        await register_agent(bus, links.introduced)
        scanner = Scanner(bus, tree, adapter, nursery, links, self._sight)
        central = Central(loop, bus, tree, adapter, links, scanner, nursery)
        targeted = is_targeted(tree, adapter)
        peripheral = Peripheral(bus, tree, adapter, links, nursery, self._accept, targeted=targeted)
        advertiser = Advertiser(bus, adapter)
        stack = _Stack(bus, tree, nursery, adapter, links, scanner, central, peripheral, advertiser)
        tree.on_changed = lambda path, interface, changed: self._on_changed(stack, path, interface, changed)
        tree.on_removed = lambda path, interface: self._on_removed(stack, path, interface)
        bus.on_bluez_gone = lambda: self._fail(stack, UNREACHABLE)
        bus.on_lost = lambda reason: self._fail(stack, reason)
        return stack

    async def _switch_on(self, bus: Bus, tree: Tree, adapter: str) -> None:
        """Unless somebody has switched it off while we used it: whoever did that has meant it."""
        if is_powered(tree, adapter):
            self._switched_off = None
        elif self._switched_off == (adapter, await bus.ping()):
            raise AdapterUnavailable(why_off(adapter.rpartition("/")[2]))
        await power_on(bus, tree, adapter)

    async def _watch(self, stack: _Stack) -> None:
        while True:
            await trio.sleep(PING_INTERVAL)
            before = stack.bus.signs_of_life
            try:
                await stack.bus.ping(within=PING_TIMEOUT)
            except Unanswered:
                # Under a flood of values the answer comes behind thousands of others.
                if stack.bus.signs_of_life == before:
                    self._fail(stack, FROZEN)
                    return
            except BLEError as error:
                log.debug("ping: %s", error)

    async def _find_out(self, stack: _Stack) -> None:
        """The adapter is off, or gone. BlueZ says "off" also when it is being unplugged, and either when
        bluetoothd ends; that it says, or leaves the bus, before it would answer.
        """
        name = stack.adapter.rpartition("/")[2]
        daemon = None
        with suppress(BLEError):
            daemon = await stack.bus.ping()
        if stack.tree.get(stack.adapter, ADAPTER) is not None:
            await trio.sleep(GONE_WITHIN)
        if stack.tree.get(stack.adapter, ADAPTER) is None:
            self._fail(stack, why_missing(stack.tree, self._wanted or name))
            return
        if daemon is not None and not is_blocked(name):
            self._switched_off = stack.adapter, daemon
        self._fail(stack, why_off(name))

    async def _blame_adapter(self, stack: _Stack, error: BLEError) -> None:
        """Raises `AdapterUnavailable` where the reason of an error is that the adapter is off, or gone."""
        await stack.bus.catch_up()
        if not is_powered(stack.tree, stack.adapter):
            await self._find_out(stack)
            raise AdapterUnavailable(self._failure) from error

    def _fail(self, stack: _Stack, reason: str) -> None:
        """The stack is of no use any more: end the block, and whatever waits for BlueZ in it."""
        if self._failure is None:
            self._failure = reason
            stack.bus.give_up(reason)
            self._body.cancel()

    async def _part(self, stack: _Stack) -> None:
        if self._failure is not None:
            for link in stack.links.all():
                link.end(self._failure)
            await stack.central.release()
            return

        async def quietly(part: Callable[[], Awaitable[None]]) -> None:
            try:
                await part()
            except BLEError as error:
                log.debug("leaving: %s", error)

        async def no_advertisement() -> None:
            await stack.advertiser.show(None)

        async def no_scan() -> None:
            stack.scanner.wanted = False
            await stack.scanner.apply()

        try:
            async with trio.open_nursery() as nursery:
                for part in (no_advertisement, no_scan, *(link.aclose for link in stack.links.all())):
                    nursery.start_soon(quietly, part)
        finally:
            await stack.central.release()  # it has a deadline of its own
        await quietly(stack.peripheral.withdraw)

    def _open(self) -> _Stack:
        if self._stack is None:
            raise RuntimeError("the driver is used outside of its `async with`")
        return self._stack

    # --- what BlueZ says ---

    def _on_changed(self, stack: _Stack, path: str, interface: str, changed: Mapping[str, Any]) -> None:
        if interface == DEVICE and path.startswith(f"{stack.adapter}/"):
            if "Connected" in changed:
                stack.links.on_device_changed(path)
                stack.central.on_device_changed(path)
                stack.peripheral.on_device_changed(path)
            stack.scanner.on_device_changed(path, changed)
        elif interface == CHARACTERISTIC and path.startswith(f"{stack.adapter}/"):
            stack.links.wake()
        elif interface == ADAPTER and path == stack.adapter:
            stack.links.wake()
            if changed.get("Powered") is False:
                stack.nursery.start_soon(self._find_out, stack)

    def _on_removed(self, stack: _Stack, path: str, interface: str) -> None:
        if interface == DEVICE:
            stack.links.on_device_changed(path)
            stack.central.on_device_changed(path)
            stack.peripheral.on_device_changed(path)
            stack.scanner.on_device_changed(path, {})
        elif interface == CHARACTERISTIC:
            stack.central.on_characteristic_removed(path)
        elif interface == ADAPTER and path == stack.adapter:
            stack.nursery.start_soon(self._find_out, stack)

    # --- identity and services ---

    @property
    def address(self) -> str | None:
        """None until an adapter that was not named by its address was opened for the first time."""
        return self._address

    @property
    def targeted(self) -> bool:
        """Whether this BlueZ (5.69 and later) notifies each central alone. False while not entered."""
        return self._stack is not None and self._stack.peripheral.targeted

    async def start(
        self, service_uuid: str, rx_char_uuid: str, tx_char_uuid: str, identity_char_uuid: str
    ) -> None:
        """As the contract says. Also raises `ConfigurationError` for what is no UUID."""
        stack = self._open()
        if self._identity is None:
            raise RuntimeError("set_identity comes before start")
        uuids = Uuids.parse(service_uuid, rx_char_uuid, tx_char_uuid, identity_char_uuid)
        await stack.peripheral.export(uuids, self._identity)
        stack.scanner.look_for(uuids.service)
        self._uuids = uuids

    async def stop(self) -> None:
        """As the contract says. Does nothing where the stack has failed: that ended everything."""
        stack = self._stack
        if stack is None or self._failure is not None:
            return
        await self.stop_scanning()
        await self.stop_advertising()
        async with trio.open_nursery() as nursery:
            for link in stack.links.all():
                nursery.start_soon(link.aclose)

    # --- radio ---

    @property
    def state(self) -> DriverState:
        """As the contract says."""
        state = DriverState.IDLE
        if self._stack is not None and self._stack.scanner.wanted:
            state |= DriverState.SCANNING
        if self._stack is not None and self._stack.advertiser.on:
            state |= DriverState.ADVERTISING
        return state

    @property
    def connected_peers(self) -> list[str]:
        """As the contract says."""
        return [] if self._stack is None else self._stack.links.addresses()

    async def start_scanning(self) -> None:
        """As the contract says."""
        if self._uuids is None:
            raise RuntimeError("start comes before start_scanning")
        await self._scan(self._open(), wanted=True)

    async def stop_scanning(self) -> None:
        """As the contract says."""
        await self._scan(self._open(), wanted=False)

    async def _scan(self, stack: _Stack, *, wanted: bool) -> None:
        stack.scanner.wanted = wanted
        try:
            await stack.scanner.apply()
        except Refused as error:
            await self._blame_adapter(stack, error)
            raise AdapterUnavailable(f"the adapter does not scan: {error}") from error

    async def start_advertising(
        self, device_name: str | None = None, manufacturer_data: Mapping[int, bytes] | None = None
    ) -> None:
        """As the contract says. Called again with other arguments, these count.

        Raises `ConfigurationError` for a name over 8 bytes.
        """
        stack = self._open()
        if self._uuids is None:
            raise RuntimeError("start comes before start_advertising")
        wanted = Advertisement(self._uuids.service, device_name, manufacturer_data)
        try:
            await stack.advertiser.show(wanted)
        except AdvertisingUnavailable as error:
            await self._blame_adapter(stack, error)
            raise

    async def stop_advertising(self) -> None:
        """As the contract says."""
        await self._open().advertiser.show(None)

    # --- links ---

    async def connect(self, address: str) -> BLELink:
        """As the contract says."""
        stack, wanted = self._open(), normalise_address(address)
        if self._uuids is None or self._identity is None:
            raise RuntimeError("start comes before connect")
        async with self.establishing:
            try:
                return await stack.central.connect(wanted, self._uuids, self._identity)
            except Refused as error:
                await self._blame_adapter(stack, error)
                raise AdapterUnavailable(f"BlueZ fails: {error}") from error
