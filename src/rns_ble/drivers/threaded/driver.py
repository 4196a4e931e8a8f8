"""The driver contract of ours, fulfilled by a driver that is called and calls back from threads."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from types import MappingProxyType
from typing import Any, Final, Self, TypeVarTuple

import trio

from rns_ble import quiet
from rns_ble.config import BLEConfig
from rns_ble.drivers.base import (
    GOODBYE_TIMEOUT,
    AdapterUnavailable,
    AdvertisingUnavailable,
    BLEDevice,
    BLEDriverInterface,
    BLELink,
    DriverState,
)
from rns_ble.drivers.threaded import contract
from rns_ble.drivers.threaded.attempt import Uuids
from rns_ble.drivers.threaded.calls import Inlet, Threads, said
from rns_ble.drivers.threaded.connections import Connections
from rns_ble.protocol.advertisement import known_rssi, normalise_address, shown_name

log = quiet.logger(__name__)

Ts = TypeVarTuple("Ts")

CONTROL_TIMEOUT: Final = 20.0
"""Seconds for a call that switches something on or off; ble-reticulum's own waits 10 for its GATT server."""

LINKS_GOODBYE: Final = 0.4 * GOODBYE_TIMEOUT
"""Seconds for all links to be disconnected when the driver is stopped; the rest is for its `stop`."""

NAMES_KEPT: Final = 4096
"""Addresses of which the driver's own spelling is remembered, where it is not ours."""

HIDDEN_ADDRESSES: Final = frozenset({"00:00:00:00:00:00", "02:00:00:00:00:00"})
"""What drivers, and Android, answer where the platform does not tell its own address."""


class ThreadedDriver(BLEDriverInterface):
    """Owns a driver of the callback contract, and its `on_…` attributes."""

    def __init__(self, theirs: contract.BLEDriverInterface) -> None:
        """`theirs`: the driver, not started; anything with the contract's methods will do."""
        super().__init__()
        self.theirs = theirs
        self._threads = Threads()
        self._inlet: Inlet
        self._connections: Connections | None = None
        self._body = trio.CancelScope()
        self._failure: str | None = None
        self._uuids: Uuids | None = None
        self._up = False  # whether theirs is started; changed in turn
        self._state = DriverState.IDLE
        self._address: str | None = None
        self._names: dict[str, str] = {}

    @classmethod
    def construct(
        cls, driver_class: Callable[..., Any], config: BLEConfig, service_discovery_delay: float
    ) -> Self:
        """Make a driver as ble-reticulum makes it, and adapt it. Raises what its constructor raises."""
        adapter = re.fullmatch(r"hci(\d+)", config.adapter or "")
        theirs = driver_class(
            discovery_interval=config.discovery_interval,
            connection_timeout=config.connection_timeout,
            min_rssi=config.min_rssi,
            service_discovery_delay=service_discovery_delay,
            max_peers=config.max_connections,
            adapter_index=int(adapter[1]) if adapter else 0,
        )
        theirs.set_power_mode(config.power_mode)
        return cls(theirs)

    # --- life ---

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            self._body, self._failure = trio.CancelScope(), None
            self._inlet = Inlet(self._flooded)
            self._connections = Connections(
                self.theirs,
                self._threads,
                nursery,
                self._inlet,
                lambda link: self._uuids is not None and self._accept(link),
                lambda: self._identity,
            )
            self.theirs.on_device_discovered = self._on_device_discovered
            try:
                with self._body:
                    yield
                if self._failure is not None:
                    raise AdapterUnavailable(self._failure)
            finally:
                with trio.CancelScope(shield=True):
                    await self.stop()
                self._inlet.close()
                self._connections = None
                nursery.cancel_scope.cancel()

    def _flooded(self) -> None:
        self._failure = "the driver floods us with events: look for what it logs, and report it"
        self._body.cancel()

    def start_early(self, *uuids: str, within: float) -> None:
        """Start the driver before it is entered, for a program that uses it as soon as it exists.

        Waits for at most `within` seconds. What fails is logged, and tried again by `start`. Not on the Trio
        thread.
        """
        self._threads.apart(self._start_theirs, Uuids(*uuids), within=within)

    def stop_early(self, *, within: float) -> None:
        """Stop the driver where `start_early` has started it, or is about to, and nobody has entered it. As
        `start_early`.
        """
        self._threads.apart(self._stop_theirs, within=within)

    def _start_theirs(self, uuids: Uuids) -> None:
        if self._up:
            return
        try:
            self.theirs.start(
                service_uuid=uuids.service,
                rx_char_uuid=uuids.rx,
                tx_char_uuid=uuids.tx,
                identity_char_uuid=uuids.identity,
            )
        except Exception:
            with suppress(Exception):
                self.theirs.stop()  # what it has got so far
            raise
        self._up = True

    def _stop_theirs(self) -> None:
        if not self._up:
            return
        self._up = False
        self.theirs.stop()
        # Only now: there are drivers that take "neither scans nor advertises" for "is stopped already".
        for switch_off in (self.theirs.stop_scanning, self.theirs.stop_advertising):
            with suppress(Exception):
                switch_off()

    def _open(self) -> Connections:
        if self._connections is None:
            raise RuntimeError("the driver is used outside of its `async with`")
        return self._connections

    def _started(self) -> Uuids:
        self._open()
        if self._uuids is None:
            raise RuntimeError("start comes first")
        return self._uuids

    # --- identity and services ---

    @property
    def address(self) -> str | None:
        """None until it has been started, and where the driver does not tell it."""
        return self._address

    async def start(
        self, service_uuid: str, rx_char_uuid: str, tx_char_uuid: str, identity_char_uuid: str
    ) -> None:
        self._open()
        identity = self._identity
        if identity is None:
            raise RuntimeError("set_identity comes before start")
        uuids = Uuids(service_uuid, rx_char_uuid, tx_char_uuid, identity_char_uuid)

        def start() -> None:
            self._start_theirs(uuids)
            self.theirs.set_identity(identity)

        await self._switch("start", start)
        self._uuids = uuids

    async def stop(self) -> None:
        """Ends within `GOODBYE_TIMEOUT`, also where the driver hangs."""
        if self._connections is None:
            return
        self._state = DriverState.IDLE
        self._uuids = None
        await self._connections.part_from_all(LINKS_GOODBYE)
        try:
            with trio.move_on_after(GOODBYE_TIMEOUT - LINKS_GOODBYE):
                await self._switch("stop", self._stop_theirs)
        except AdapterUnavailable as error:
            log.debug("leaving: %s", error)

    # --- radio ---

    async def _switch(self, what: str, function: Callable[[*Ts], object], *arguments: *Ts) -> None:
        """Call what changes the driver's state, one after the other. Raises `AdapterUnavailable`.

        Cancelled: it may still happen, but before whatever is called next.
        """

        def switch() -> None:
            function(*arguments)
            self._address = self._ask_address()  # some drivers know it only when they have been used

        try:
            call = self._threads.begin_in_turn(switch)
            with trio.fail_after(CONTROL_TIMEOUT):
                await call.done.wait()
            call.result()
        except trio.TooSlowError:
            raise AdapterUnavailable(f"the driver has not returned from {what}: restart Reticulum") from None
        except AdapterUnavailable:
            raise
        except Exception as error:
            raise AdapterUnavailable(f"the driver fails to {what}: {said(error)}") from error

    def _ask_address(self) -> str | None:
        with suppress(Exception):
            address = normalise_address(self.theirs.get_local_address() or "")
            return None if address in HIDDEN_ADDRESSES else address
        return self._address

    @property
    def state(self) -> DriverState:
        """What the driver was asked for, and did not refuse."""
        return self._state

    @property
    def connected_peers(self) -> list[str]:
        links = [] if self._connections is None else self._connections.links.values()
        return sorted({link.address for link in links if link.handed_over and not link.ended.is_set()})

    async def start_scanning(self) -> None:
        """How much it then scans is the driver's affair."""
        self._started()
        self._state |= DriverState.SCANNING  # whom it sights during the call counts
        try:
            await self._switch("start_scanning", self.theirs.start_scanning)
        except BaseException:
            self._state &= ~DriverState.SCANNING
            raise

    async def stop_scanning(self) -> None:
        self._open()
        await self._switch("stop_scanning", self.theirs.stop_scanning)
        self._state &= ~DriverState.SCANNING

    async def start_advertising(
        self, device_name: str | None = None, manufacturer_data: Mapping[int, bytes] | None = None
    ) -> None:
        """The contract of such drivers has no place for `manufacturer_data`, which is left out."""
        self._started()
        assert self._identity is not None
        try:
            await self._switch(
                "start_advertising", self.theirs.start_advertising, device_name, self._identity
            )
        except AdapterUnavailable as error:
            raise AdvertisingUnavailable(str(error)) from error
        self._state |= DriverState.ADVERTISING

    async def stop_advertising(self) -> None:
        self._open()
        await self._switch("stop_advertising", self.theirs.stop_advertising)
        self._state &= ~DriverState.ADVERTISING

    def _on_device_discovered(self, device: contract.BLEDevice) -> None:
        self._inlet.put(partial(self._discovered, device), droppable=True)

    def _discovered(self, device: contract.BLEDevice) -> None:
        if self._uuids is None or DriverState.SCANNING not in self._state:
            return
        if self._uuids.service.lower() not in (str(uuid).lower() for uuid in device.service_uuids):
            return
        try:
            address = normalise_address(device.address)
        except ValueError as error:
            log.warning("the driver has sighted somebody who can't be dialled: %s", error)
            return
        self._names.pop(address, None)
        if device.address != address:
            self._names[address] = device.address
            if len(self._names) > NAMES_KEPT:
                del self._names[next(iter(self._names))]
        rssi = known_rssi(device.rssi)
        for link in self._open().links.values():
            if link.address == address:
                link.rssi = rssi
        data = getattr(device, "manufacturer_data", None) or {}
        self._sight(BLEDevice(address, rssi, shown_name(device.name), MappingProxyType(dict(data))))

    async def connect(self, address: str) -> BLELink:
        """As the contract says. Where the driver's own `connect` hangs it is left alone, and what comes of it
        later is undone then.
        """
        uuids, wanted = self._started(), normalise_address(address)
        async with self.establishing:
            return await self._open().connect(self._names.get(wanted, wanted), wanted, uuids)
