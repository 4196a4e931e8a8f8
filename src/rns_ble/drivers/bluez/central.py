"""Our central role: from a sighted device to a link that carries values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from rns_ble import quiet
from rns_ble.drivers.base import (
    GOODBYE_TIMEOUT,
    AlreadyConnected,
    BLEError,
    LinkLost,
    PeerUnreachable,
    ProtocolViolation,
    Role,
)
from rns_ble.drivers.bluez.bearer import only_by_bredr
from rns_ble.drivers.bluez.bleak_client import Characteristic, Client, ConnectRace
from rns_ble.drivers.bluez.bus import BLUEZ, Refused, Unanswered
from rns_ble.drivers.bluez.link import BluezLink, CallOutlet, SocketOutlet
from rns_ble.drivers.bluez.tree import CHARACTERISTIC, DEVICE
from rns_ble.protocol.gatt import ATT_MTU_DEFAULT, IDENTITY_LENGTH, write_limit

if TYPE_CHECKING:
    from rns_ble.drivers.asyncio_loop import AsyncioLoop
    from rns_ble.drivers.bluez.bus import Bus
    from rns_ble.drivers.bluez.links import Links
    from rns_ble.drivers.bluez.scanner import Scanner
    from rns_ble.drivers.bluez.tree import Tree
    from rns_ble.drivers.bluez.uuids import Uuids

log = quiet.logger(__name__)

RACES_BORNE: Final = 5
"""Tries that BlueZ or the controller may spoil before it counts as the peer's failure; about one in twenty
is, and of several centrals that answer one advertisement all but one."""

QUICK: Final = 10.0
"""Seconds. BlueZ calls every failure of a connection by LE "abort-by-local". One that came this soon is a
race; for a peer that is away Linux waits 20 s."""

RACE_INTERVAL: Final = 0.1
"""Seconds before the next try: BlueZ does not tell when the thing in progress is done."""

SERVICE_TIMEOUT: Final = 3.0
"""Seconds for services to show that BlueZ has not shown with the others."""

OURS: Final = 3
"""Characteristics: RX, TX and Identity."""

DIAL_TIMEOUT: Final = 120.0
"""Seconds; BlueZ itself gives up earlier, and the caller's deadline counts."""

CONNECTED_TIMEOUT: Final = 1.0
"""Seconds from BlueZ's answer to its signal, which comes right after. It never comes where the attempt was
given up by this host: BlueZ calls that a success."""

RACES: Final = frozenset({"NotReady", "AlreadyConnected", "DoesNotExist", "UnknownObject", "UnknownMethod"})
"""Errors that are about what BlueZ was doing, not about the peer."""


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
        self._dialling: set[str] = set()  # device paths whose Connect BlueZ has not answered
        self._clients: set[Client] = set()  # also those of links that have ended and that nobody has closed
        self._watched: dict[str, BluezLink] = {}  # characteristic path → link

    # --- what BlueZ says ---

    def on_device_changed(self, path: str) -> None:
        """Device1 has changed, or is gone."""
        scope = self._attempts.get(path)
        if scope is not None and not self._tree.connected(path):
            scope.cancel()

    def on_characteristic_removed(self, path: str) -> None:
        """The peer has taken its service down: the connection stays, the link can't."""
        if path in self._watched:
            link = self._watched[path]
            self._unwatch(link)
            link.end("the peer's service is gone")

    def _unwatch(self, link: BluezLink) -> None:
        for path in [path for path, known in self._watched.items() if known is link]:
            del self._watched[path]

    # --- connect ---

    async def connect(self, address: str, uuids: Uuids, identity: bytes) -> BluezLink:
        """As the contract's `connect`."""
        path = self._links.path_of(address)
        for races in range(RACES_BORNE + 1):
            known = self._links.get(Role.CENTRAL, path)
            if known is not None and known.live:
                raise AlreadyConnected(f"{address} is connected already")
            await self._scanner.wait_for_object(path)
            try:
                async with self._scanner.pause():
                    return await self._attempt_alone(address, path, uuids, identity)
            except ConnectRace as race:
                if races == RACES_BORNE:
                    raise
                log.debug("%s; trying again", race)
            except Unanswered as error:  # the watch decides whether it is bluetoothd that does not answer
                raise PeerUnreachable(f"{address} does not answer") from error
            await trio.sleep(RACE_INTERVAL)
        raise AssertionError("unreachable")

    async def _attempt_alone(self, address: str, path: str, uuids: Uuids, identity: bytes) -> BluezLink:
        """An attempt on a connection that nobody is taking down, nor will."""
        self._links.attempted.add(path)
        try:
            for role in Role:
                ended = self._links.get(role, path)
                if ended is not None and not ended.live:
                    # Its connection may be up still, and end any moment.
                    await ended.aclose()
                    # That was shielded. Who was cancelled meanwhile neither dials nor says another goodbye.
                    await trio.lowlevel.checkpoint_if_cancelled()
            return await self._attempt(address, path, uuids, identity)
        finally:
            self._links.attempted.discard(path)

    async def _attempt(self, address: str, path: str, uuids: Uuids, identity: bytes) -> BluezLink:
        # A device that is connected by BR/EDR, for something else, Connect connects by LE as well.
        dialled = not self._tree.connected(path) or only_by_bredr(self._adapter, address)
        client = Client(self._loop, path, address, dict(self._tree.get(path, DEVICE) or {}))
        self._clients.add(client)

        async def say_goodbye(ending: BluezLink) -> None:
            ending.end("closed by us")  # that unsubscribes; a peer's bluetoothd 5.82 needs it, see `aclose`
            self._unwatch(ending)
            if self._links.get(Role.CENTRAL, path) is ending:
                await self._part(path, client)
                self._links.drop(path, ending)
            else:  # its connection has ended; one that is there now is another link's
                await self._let_go(client)
            service_seen = uuids.service in (self._tree.get(path, DEVICE) or {}).get("UUIDs", ())
            if not service_seen and path not in self._links.attempted:
                # It went while we were connected. BlueZ would not show it when it is advertised again.
                await self._links.forget(path)

        link = BluezLink(address, Role.CENTRAL, ATT_MTU_DEFAULT, say_goodbye, write_limit)
        done = False
        try:
            if dialled:
                await self._dial_and_open(address, path, client)
                if only_by_bredr(self._adapter, address):
                    raise PeerUnreachable(
                        f"BlueZ has connected {address} by BR/EDR: set ControllerMode = le in main.conf"
                    )
            with trio.CancelScope() as scope:
                self._attempts[path] = scope
                if not self._tree.connected(path):
                    raise ConnectRace(f"{address} has just disconnected")
                if not dialled:
                    await client.open()
                await self._shake_hands(link, path, client, uuids, identity)
                if not scope.cancel_called:
                    self._links.put(path, link)
                    done = True
            if not done:
                raise PeerUnreachable(f"{address} dropped the connection during the handshake")
        finally:
            self._attempts.pop(path, None)
            if not done:
                self._unwatch(link)
                link.end("the handshake has failed")
                with trio.move_on_after(GOODBYE_TIMEOUT, shield=True):
                    await self._part(path, client)
                    await self._links.forget(path)
        return link

    async def _dial_and_open(self, address: str, path: str, client: Client) -> None:
        """Bleak waits for the services from the moment in which the device is connected.

        When it has them the answer to our call does not matter. It may never come: bluetoothd 5.66 forgets it
        when the peer has connected us in the same moment. Raises as `_dial` and `Client.open`.
        """
        problem: BLEError | None = None

        async def open_early() -> None:
            nonlocal problem
            while not self._tree.connected(path):
                await self._links.wait()
            try:
                await client.open()
            except BLEError as error:
                problem = error
            else:
                self._dialling.discard(path)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(open_early)
            try:
                await self._dial(address, path)
            except BLEError as error:
                # Not raised here: where the caller is cancelled in the same moment it would come out of the
                # nursery in a group, beside the other task's `Cancelled`, and nobody would know it.
                problem = error
                nursery.cancel_scope.cancel()
        if problem is not None:
            raise problem

    async def _dial(self, address: str, path: str) -> None:
        """Raises `PeerUnreachable`, and `ConnectRace` for what is BlueZ's doing."""
        while True:
            self._dialling.add(path)
            began = trio.current_time()
            try:
                await self._bus.call(path, DEVICE, "Connect", timeout=DIAL_TIMEOUT)
            except Refused as error:
                self._dialling.discard(path)
                text = f"{address} can't be connected to: {error}"
                if error.name != f"{BLUEZ}.Error.InProgress":
                    aborted = "abort-by-local" in error.text and trio.current_time() - began < QUICK
                    if aborted or error.name.rpartition(".")[2] in RACES:
                        raise ConnectRace(text) from error
                    raise PeerUnreachable(text) from error
                log.debug("%s; somebody else is connecting it", text)
                with trio.move_on_after(RACE_INTERVAL):
                    await self._links.wait()
            else:
                self._dialling.discard(path)
                break
        with trio.move_on_after(CONNECTED_TIMEOUT):
            while not self._tree.connected(path):
                await self._links.wait()
            return
        raise ConnectRace(f"BlueZ has connected {address} but does not show it")

    def _missing(self, device: str, uuids: Uuids) -> int:
        found = {
            str(interfaces[CHARACTERISTIC]["UUID"]).lower()
            for path, interfaces in self._tree.objects.items()
            if path.startswith(f"{device}/") and CHARACTERISTIC in interfaces
        }
        return len({uuids.rx, uuids.tx, uuids.identity} - found)

    async def _part(self, path: str, client: Client) -> None:
        pending = path in self._dialling
        self._dialling.discard(path)
        if not self._links.in_use(path, but=Role.CENTRAL):
            await self._links.disconnect(path, pending=pending)
        await self._let_go(client)

    async def _let_go(self, client: Client) -> None:
        self._clients.discard(client)
        await client.release()

    async def release(self) -> None:
        """Let go of everything of bleak's, when the driver is left. Never raises."""
        async with trio.open_nursery() as nursery:
            for client in self._clients:
                nursery.start_soon(client.release)
        self._clients.clear()

    # --- handshake ---

    async def _shake_hands(
        self, link: BluezLink, device: str, client: Client, uuids: Uuids, identity: bytes
    ) -> None:
        rx, tx, known = await self._characteristics(link.address, device, client, uuids)
        link.peer_identity = await client.read(known, "the reading of its Identity")
        if len(link.peer_identity) != IDENTITY_LENGTH:
            raise ProtocolViolation(
                f"{link.address}: its Identity has {len(link.peer_identity)} bytes, not {IDENTITY_LENGTH}"
            )
        self._watched[rx.path] = self._watched[tx.path] = link
        link.inward = await self._subscribe(link, client, tx)
        await client.write(rx, identity, "our identity", response=True)
        await self._open_outlet(link, client, rx)
        link.introduced = True

    async def _characteristics(
        self, address: str, device: str, client: Client, uuids: Uuids
    ) -> list[Characteristic]:
        """RX, TX and Identity. BlueZ may say that it has them all before it shows them; and on a connection
        that was there already the peer may have put its service up just now.
        """
        found = client.characteristics(uuids)
        if len(found) < OURS:
            with trio.move_on_after(SERVICE_TIMEOUT):
                while self._missing(device, uuids):
                    await self._links.wait()
                await client.reopen()
                found = client.characteristics(uuids)
        if len(found) < OURS:
            if not self._missing(device, uuids):
                raise ConnectRace(f"{address} has just put its service up")
            raise ProtocolViolation(
                f"{address} lacks {OURS - len(found)} of RX, TX and Identity, whatever it advertises"
            )
        return found

    async def _subscribe(self, link: BluezLink, client: Client, tx: Characteristic) -> str:
        """How values come in."""
        try:
            inlet, att_mtu = await self._bus.acquire(tx.path, "AcquireNotify")
        except Refused as error:
            if error.name == f"{BLUEZ}.Error.InProgress":
                raise PeerUnreachable(
                    f"another program on this machine has subscribed to {link.address}, and BlueZ would "
                    "repeat each value for each subscriber: end that one"
                ) from error
            log.debug("%s: no socket for notifications: %s", link, error)
            await client.subscribe(tx, link.on_value, "the subscription to TX")
            return CallOutlet.name
        link.on_att_mtu(att_mtu)
        self._nursery.start_soon(link.pump, inlet, self._bus.alive)
        return SocketOutlet.name

    async def _open_outlet(self, link: BluezLink, client: Client, rx: Characteristic) -> None:
        """How values go out."""
        try:
            taken, att_mtu = await self._bus.acquire(rx.path, "AcquireWrite")
        except Refused as error:
            log.debug("%s: no socket for writes: %s", link, error)
            link.on_att_mtu(rx.att_mtu)

            async def write(value: bytes) -> None:
                try:
                    await client.write(rx, value, "a value", response=not rx.takes_commands)
                except BLEError as error:
                    link.end(str(error))
                    raise LinkLost(str(error)) from error

            link.set_outlet(CallOutlet(write))
            return
        link.on_att_mtu(att_mtu)
        link.set_outlet(SocketOutlet(taken, self._bus.alive))
