"""Our central role: from a sighted device to a link that carries values."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

import trio
from dbus_next import Variant

from rns_ble.drivers.base import (
    AdapterUnavailable,
    AlreadyConnected,
    LinkLost,
    PeerUnreachable,
    ProtocolViolation,
    Role,
)
from rns_ble.drivers.bluez.bleak_client import Client, ConnectRace
from rns_ble.drivers.bluez.bus import BLUEZ, Refused
from rns_ble.drivers.bluez.limits import write_limit
from rns_ble.drivers.bluez.link import BluezLink, CallOutlet, SocketOutlet
from rns_ble.drivers.bluez.tree import CHARACTERISTIC, DEVICE
from rns_ble.protocol.gatt import ATT_MTU_DEFAULT, IDENTITY_LENGTH

if TYPE_CHECKING:
    from rns_ble.drivers.asyncio_loop import AsyncioLoop
    from rns_ble.drivers.bluez.bus import Bus
    from rns_ble.drivers.bluez.links import Links
    from rns_ble.drivers.bluez.scanner import Scanner
    from rns_ble.drivers.bluez.tree import Tree
    from rns_ble.drivers.bluez.uuids import Uuids

log = logging.getLogger(__name__)

T = TypeVar("T")

RACES_BORNE: Final = 5
"""Tries that bluetoothd may spoil by itself (about one in twenty) before it counts as the peer's failure."""

RACE_INTERVAL: Final = 0.1
"""Seconds before the next try: BlueZ does not tell when the thing in progress is done."""

BUSY_INTERVAL: Final = 0.01
"""Seconds between tries at an attribute that another call holds, as bleak does."""

SERVICE_TIMEOUT: Final = 3.0
"""Seconds for services to show on a connection that the peer made: BlueZ discovers them at its own pace
there."""

ANSWER_TIMEOUT: Final = 30.0
"""Seconds: the ATT transaction time-out (Core Specification, Vol 3 Part F, 3.3.3)."""

DIAL_TIMEOUT: Final = 120.0
"""Seconds; BlueZ itself gives up earlier, and the caller's deadline counts."""

CONNECTED_TIMEOUT: Final = 1.0
"""Seconds from BlueZ's answer to its signal, which comes right after or, by a race in bluetoothd 5.66,
never."""

RACES: Final = frozenset(
    {"InProgress", "NotReady", "AlreadyConnected", "DoesNotExist", "UnknownObject", "UnknownMethod"}
)
"""Errors that are about what BlueZ was doing, not about the peer."""

WHERE_SOCKETS_ARE_REFUSED: Final = frozenset(
    {"NotAuthorized", "NotSupported", "NotPermitted", "Failed", "UnknownMethod"}
)


class Central:
    """Makes links."""

    def __init__(
        self,
        loop: AsyncioLoop,
        bus: Bus,
        tree: Tree,
        adapter: str,
        links: Links,
        scanner: Scanner,
        nursery: trio.Nursery,
    ) -> None:
        """`adapter`: its object path. `nursery`: lives as long as the links."""
        self._loop = loop
        self._bus = bus
        self._tree = tree
        self._adapter = adapter
        self._links = links
        self._scanner = scanner
        self._nursery = nursery
        self._attempts: dict[str, trio.CancelScope] = {}
        self._clients: set[Client] = set()  # also those of links that have ended and that nobody has closed
        self._watched: dict[str, tuple[str, BluezLink]] = {}  # characteristic path → device path, link
        self._notified: dict[str, BluezLink] = {}  # TX path, where its values come over D-Bus

    # --- what BlueZ says ---

    def on_device_changed(self, path: str) -> None:
        """Device1 has changed, or is gone."""
        scope = self._attempts.get(path)
        if scope is not None and not self._tree.connected(path):
            scope.cancel()

    def on_characteristic_removed(self, path: str) -> None:
        """The peer has taken its service down: the connection stays, the link can't."""
        if path in self._watched:
            device, link = self._watched[path]
            self._unwatch(link)
            link.end("the peer's service is gone")
            self._nursery.start_soon(self._links.disconnect, device)

    def on_notified(self, path: str, changed: Mapping[str, Any]) -> None:
        """Properties of a characteristic: a value, where notifications come over D-Bus."""
        link = self._notified.get(path)
        if link is not None and "Value" in changed:
            link.on_value(bytes(changed["Value"]))

    def _unwatch(self, link: BluezLink) -> None:
        for path in [path for path, (_device, known) in self._watched.items() if known is link]:
            del self._watched[path]
            self._notified.pop(path, None)

    # --- connect ---

    async def connect(self, address: str, uuids: Uuids, identity: bytes) -> BluezLink:
        """As the contract's `connect`."""
        path = f"{self._adapter}/dev_{address.replace(':', '_')}"
        for races in range(RACES_BORNE + 1):
            known = self._links.get(Role.CENTRAL, path)
            if known is not None and known.live:
                raise AlreadyConnected(f"{address} is connected already")
            await self._scanner.wait_for_object(path)
            try:
                async with self._scanner.pause():
                    return await self._attempt(address, path, uuids, identity)
            except ConnectRace as race:
                if races == RACES_BORNE:
                    raise
                log.debug("%s; trying again", race)
            await trio.sleep(RACE_INTERVAL)
        raise AssertionError("unreachable")

    async def _attempt(self, address: str, path: str, uuids: Uuids, identity: bytes) -> BluezLink:
        client: Client | None = None
        link: BluezLink | None = None

        async def say_goodbye(ending: BluezLink) -> None:
            self._unwatch(ending)
            await self._part(path, client)
            self._links.drop(path, ending)

        done = dialled = False
        try:
            if not self._tree.connected(path):
                dialled = True
                await self._dial(address, path)
                client = Client(self._loop, path, dict(self._tree.get(path, DEVICE) or {"Address": address}))
                self._clients.add(client)
                await client.discover()
            with trio.CancelScope() as scope:
                self._attempts[path] = scope
                if not self._tree.connected(path) and client is None:
                    raise ConnectRace(f"{address} has just disconnected")
                link = BluezLink(address, Role.CENTRAL, ATT_MTU_DEFAULT, say_goodbye, write_limit)
                await self._shake_hands(link, path, uuids, identity)
                self._links.put(path, link)
                done = True
            if not done:
                raise PeerUnreachable(f"{address} dropped the connection during the handshake")
        finally:
            self._attempts.pop(path, None)
            if not done:
                with trio.CancelScope(shield=True):
                    if link is not None:
                        self._unwatch(link)
                        link.end("the handshake has failed")
                    if dialled and not self._tree.connected(path):
                        await self._links.disconnect(path, pending=True)
                    await self._part(path, client)
                    await self._links.forget(path)
        assert link is not None
        return link

    async def _dial(self, address: str, path: str) -> None:
        """Raises `PeerUnreachable`, and `ConnectRace` for what is BlueZ's doing."""
        try:
            await self._bus.call(path, DEVICE, "Connect", timeout=DIAL_TIMEOUT)
        except Refused as error:
            text = f"{address} can't be connected to: {error}"
            if error.name.rpartition(".")[2] in RACES or "abort-by-local" in error.text:
                raise ConnectRace(text) from error
            raise PeerUnreachable(text) from error
        with trio.move_on_after(CONNECTED_TIMEOUT):
            while not self._tree.connected(path):
                await self._links.wait()
            return
        raise ConnectRace(f"BlueZ has connected {address} but does not show it")

    async def _part(self, path: str, client: Client | None) -> None:
        if not self._links.in_use(path, but=Role.CENTRAL):
            await self._links.disconnect(path)
        if client is not None:
            self._clients.discard(client)
            await client.release()

    async def release(self) -> None:
        """Let go of everything of bleak's, when the driver is left. Never raises."""
        async with trio.open_nursery() as nursery:
            for client in self._clients:
                nursery.start_soon(client.release)
        self._clients.clear()

    # --- handshake ---

    async def _shake_hands(self, link: BluezLink, device: str, uuids: Uuids, identity: bytes) -> None:
        rx, tx, identity_path = await self._characteristics(link.address, device, uuids)
        reply = await self._asked(
            link.address,
            "the reading of its Identity",
            lambda: self._bus.call(
                identity_path, CHARACTERISTIC, "ReadValue", "a{sv}", {}, timeout=ANSWER_TIMEOUT
            ),
        )
        link.peer_identity = bytes(reply.body[0])
        if len(link.peer_identity) != IDENTITY_LENGTH:
            raise ProtocolViolation(
                f"{link.address}: its Identity has {len(link.peer_identity)} bytes, not {IDENTITY_LENGTH}"
            )
        self._watched[rx] = self._watched[tx] = (device, link)
        await self._subscribe(link, tx)
        await self._asked(link.address, "our identity", lambda: self._write(rx, identity, "request"))
        await self._open_outlet(link, rx)
        link.rssi = (self._tree.get(device, DEVICE) or {}).get("RSSI")

    async def _characteristics(self, address: str, device: str, uuids: Uuids) -> tuple[str, str, str]:
        found: dict[str, str] = {}
        with trio.move_on_after(SERVICE_TIMEOUT):
            while True:
                found = {
                    str(interfaces[CHARACTERISTIC]["UUID"]).lower(): path
                    for path, interfaces in self._tree.objects.items()
                    if path.startswith(f"{device}/") and CHARACTERISTIC in interfaces
                }
                if {uuids.rx, uuids.tx, uuids.identity} <= found.keys():
                    return found[uuids.rx], found[uuids.tx], found[uuids.identity]
                await self._links.wait()
        missing = {uuids.rx, uuids.tx, uuids.identity} - found.keys()
        raise ProtocolViolation(
            f"{address} lacks {len(missing)} of RX, TX and Identity, whatever it advertises"
        )

    async def _asked(self, address: str, what: str, ask: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await ask()
            except Refused as error:
                if error.name == f"{BLUEZ}.Error.InProgress":
                    await trio.sleep(BUSY_INTERVAL)
                    continue
                if error.name.endswith((".NotConnected", ".UnknownObject")) or error.text == "Not connected":
                    raise PeerUnreachable(f"{address} dropped the connection during {what}") from error
                raise ProtocolViolation(f"{address} refuses {what}: {error}") from error

    async def _subscribe(self, link: BluezLink, tx: str) -> None:
        try:
            inlet, att_mtu = await self._bus.acquire(tx, "AcquireNotify")
        except Refused as error:
            if error.name.rpartition(".")[2] not in WHERE_SOCKETS_ARE_REFUSED:
                raise PeerUnreachable(f"{link.address}: the subscription to its TX: {error}") from error
            log.debug("%s: no socket for notifications: %s", link, error)
        else:
            link.on_att_mtu(att_mtu)
            self._nursery.start_soon(link.pump, inlet)
            return
        await self._bus.match(
            f"type='signal',sender='{BLUEZ}',path='{tx}',interface='org.freedesktop.DBus.Properties'"
        )
        self._notified[tx] = link
        await self._asked(
            link.address,
            "the subscription to its TX",
            lambda: self._bus.call(tx, CHARACTERISTIC, "StartNotify"),
        )

    async def _open_outlet(self, link: BluezLink, rx: str) -> None:
        try:
            taken, att_mtu = await self._bus.acquire(rx, "AcquireWrite")
        except Refused as error:
            log.debug("%s: no socket for writes: %s", link, error)
            mtu = (self._tree.get(rx, CHARACTERISTIC) or {}).get("MTU")
            link.on_att_mtu(mtu or ATT_MTU_DEFAULT)

            async def write(value: bytes) -> None:
                try:
                    await self._asked(link.address, "a value", lambda: self._write(rx, value, "command"))
                except (PeerUnreachable, ProtocolViolation, AdapterUnavailable) as error:
                    link.end(str(error))
                    raise LinkLost(str(error)) from error

            link.set_outlet(CallOutlet(write))
        else:
            link.on_att_mtu(att_mtu)
            link.set_outlet(SocketOutlet(taken))

    async def _write(self, rx: str, value: bytes, kind: str) -> None:
        await self._bus.call(
            rx,
            CHARACTERISTIC,
            "WriteValue",
            "aya{sv}",
            value,
            {"type": Variant("s", kind)},
            timeout=ANSWER_TIMEOUT,
        )
