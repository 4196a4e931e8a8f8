"""Our peripheral role: the GATT service, and a link for each central that uses it.

BlueZ before 5.69 has one notification socket for all centrals ("shared"), from 5.69 on one for each
("targeted"). Values come by WriteValue with both, whose options name the central. Sockets for writes are not
offered: before 5.69 one brings the values of all without saying whose they are, and since then bluetoothd
keeps a central's first write, which is its identity, in the buffer that the next PDU goes to until it has the
socket.

A link begins when its central first subscribes (as far as BlueZ tells) or writes. It ends with the
connection; where the connection stays for our central role, it ends by itself, and only a new handshake makes
another.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import trio
from dbus_next import Variant

from rns_ble import quiet
from rns_ble.drivers.base import AdapterUnavailable, Role
from rns_ble.drivers.bluez.bus import BLUEZ, Refused, Reply
from rns_ble.drivers.bluez.limits import notification_limit
from rns_ble.drivers.bluez.link import BluezLink, SocketOutlet
from rns_ble.drivers.bluez.tree import ADAPTER, CHARACTERISTIC
from rns_ble.protocol.gatt import ATT_MTU_DEFAULT, IDENTITY_LENGTH, VALUE_MAXIMUM

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rns_ble.drivers.bluez.bus import Bus
    from rns_ble.drivers.bluez.links import Links
    from rns_ble.drivers.bluez.tree import Tree
    from rns_ble.drivers.bluez.uuids import Uuids

log = quiet.logger(__name__)

ROOT: Final = "/rns_ble/gatt"
SERVICE: Final = f"{ROOT}/service"

EXPORT_TIMEOUT: Final = 5.0
"""Seconds for the service to show among the adapter's; it does at once, or never."""


class Service:
    """An org.bluez.GattService1."""

    interface = "org.bluez.GattService1"

    def __init__(self, uuid: str) -> None:
        self._uuid = uuid

    def properties(self) -> dict[str, Variant]:
        return {"UUID": Variant("s", self._uuid), "Primary": Variant("b", True)}

    def call(self, member: str, body: Sequence[Any]) -> Reply | None:
        return None


class Characteristic:
    """An org.bluez.GattCharacteristic1: what BlueZ may call on it, by name."""

    interface = CHARACTERISTIC

    def __init__(
        self,
        uuid: str,
        flags: list[str],
        calls: Mapping[str, Callable[..., Reply]],
        sockets: Sequence[str] = (),
    ) -> None:
        """`sockets`: the properties that offer sockets."""
        self._properties = {
            "UUID": Variant("s", uuid),
            "Service": Variant("o", SERVICE),
            "Flags": Variant("as", flags),
        } | {name: Variant("b", False) for name in sockets}
        self._calls = calls

    def properties(self) -> dict[str, Variant]:
        return self._properties

    def call(self, member: str, body: Sequence[Any]) -> Reply | None:
        answer = self._calls.get(member)
        if answer is None:
            return None
        *arguments, options = body or [{}]
        return answer(*arguments, {name: variant.value for name, variant in options.items()})


class Peripheral:
    """The service on one adapter."""

    def __init__(
        self,
        bus: Bus,
        tree: Tree,
        adapter: str,
        links: Links,
        nursery: trio.Nursery,
        offer: Callable[[BluezLink], bool],
        *,
        targeted: bool,
    ) -> None:
        """`adapter`: its object path. `offer` is given each new link; False: nobody takes it."""
        self.targeted = targeted
        self._bus = bus
        self._tree = tree
        self._adapter = adapter
        self._links = links
        self._nursery = nursery
        self._offer = offer
        self._exported: tuple[Uuids, bytes] | None = None
        self._registered = False  # perhaps: a registration may have been cancelled before its answer came
        self._shared: _SharedOutlet | None = None
        self._closed: set[str] = set()  # device paths whose link we have closed, and the connection not yet

    # --- the service ---

    async def export(self, uuids: Uuids, identity: bytes) -> None:
        """Put the service up and see that it is. Raises `AdapterUnavailable`."""
        if self._exported == (uuids, identity):
            return
        await self.withdraw()
        self._put_up(uuids, identity)
        self._registered = True
        try:
            await self._bus.call(
                self._adapter, "org.bluez.GattManager1", "RegisterApplication", "oa{sv}", ROOT, {}
            )
        except Refused as error:
            self._registered = False
            raise AdapterUnavailable(f"BlueZ does not take our service: {error}") from error
        await self._wait_until_exported(uuids.service)
        self._exported = uuids, identity

    async def _wait_until_exported(self, service_uuid: str) -> None:
        with trio.move_on_after(EXPORT_TIMEOUT):
            if service_uuid in await self._bus.get(self._adapter, ADAPTER, "UUIDs"):
                return
            # From here on the tree tells: what it is told may come before we wait.
            while service_uuid not in (self._tree.get(self._adapter, ADAPTER) or {}).get("UUIDs", []):
                await self._links.wait()
            return
        raise AdapterUnavailable("BlueZ has taken our service but does not export it: restart bluetoothd")

    def _put_up(self, uuids: Uuids, identity: bytes) -> None:
        self._bus.offer(SERVICE, Service(uuids.service))
        rx = Characteristic(
            uuids.rx,
            ["write", "write-without-response"],
            {"WriteValue": self._write_value},
        )
        tx = Characteristic(
            uuids.tx,
            ["read", "notify"],
            {"ReadValue": lambda _options: Reply("ay", b""), "AcquireNotify": self._acquire_notify},
            ["NotifyAcquired"],
        )
        known = Characteristic(
            uuids.identity,
            ["read"],
            {"ReadValue": lambda options: Reply("ay", identity[options.get("offset", 0) :])},
        )
        for name, characteristic in (("tx", tx), ("rx", rx), ("identity", known)):
            self._bus.offer(f"{SERVICE}/{name}", characteristic)

    async def withdraw(self) -> None:
        """Take the service down. Idempotent. Raises as `Bus.call`, but not what BlueZ refuses."""
        if not self._registered:
            return
        self._exported = None
        try:
            await self._bus.call(self._adapter, "org.bluez.GattManager1", "UnregisterApplication", "o", ROOT)
        except Refused as error:
            log.debug("taking the service down: %s", error)
        self._registered = False
        for name in ("tx", "rx", "identity"):
            self._bus.withdraw(f"{SERVICE}/{name}")
        self._bus.withdraw(SERVICE)

    # --- what BlueZ calls ---

    def _write_value(self, value: bytes, options: Mapping[str, Any]) -> Reply:
        path = str(options["device"])
        if path in self._closed:
            if len(value) != IDENTITY_LENGTH:
                return Reply()  # of before, or by somebody who has not noticed
            self._closed.discard(path)
        link = self._link(path, options)
        if not link.on_value(bytes(value)):
            raise Refused(f"{BLUEZ}.Error.Failed", "no room", "WriteValue")
        if len(value) == IDENTITY_LENGTH:
            link.introduced = True
        return Reply()

    def _acquire_notify(self, options: Mapping[str, Any]) -> Reply:
        ours, theirs = _pair()
        outlet = SocketOutlet(ours, self._bus.alive)
        path = str(options["device"])
        if self.targeted:
            self._closed.discard(path)
            link = self._link(path, options)
            link.set_outlet(outlet)
            self._nursery.start_soon(self._watch_own, outlet, path, link)
        else:
            self._shared = shared = _SharedOutlet(outlet)
            for link in self._own_links():
                link.set_outlet(shared)
            self._nursery.start_soon(self._watch_shared, shared)
        return Reply("hq", 0, options.get("mtu", ATT_MTU_DEFAULT), gift=theirs)

    async def _watch_own(self, outlet: SocketOutlet, path: str, link: BluezLink) -> None:
        await _until_closed(outlet)
        if link.leaves_by(outlet) or link.leaves_by(None):  # and not already by that of a new subscription
            self._over(path, link, "the central has unsubscribed")

    def _over(self, path: str, link: BluezLink, reason: str) -> None:
        """The central has ended its role; the connection may stay for ours."""
        if link.live and self._tree.connected(path):
            self._closed.add(path)
        link.end(reason)

    async def _watch_shared(self, shared: _SharedOutlet) -> None:
        await _until_closed(shared.socket)
        if self._shared is shared:
            self._shared = None
            for path, link in self._links.of(Role.PERIPHERAL).items():
                self._over(path, link, "no central is subscribed any more")

    # --- links ---

    def _own_links(self) -> list[BluezLink]:
        return list(self._links.of(Role.PERIPHERAL).values())

    def _link(self, path: str, options: Mapping[str, Any]) -> BluezLink:
        att_mtu = int(options.get("mtu", ATT_MTU_DEFAULT))
        link = self._links.get(Role.PERIPHERAL, path)
        if link is not None and link.live:
            link.on_att_mtu(att_mtu)
            return link
        link = BluezLink(
            self._links.address_of(path),
            Role.PERIPHERAL,
            att_mtu,
            lambda ending: self._say_goodbye(path, ending),
            notification_limit,
        )
        self._links.put(path, link)
        if not self.targeted:
            link.shared = self
            link.shared_limit = self._smallest_limit
            if self._shared is not None:
                link.set_outlet(self._shared)
        if not self._offer(link):
            log.debug("%s: nobody takes it", link)
            self._nursery.start_soon(link.aclose)
        return link

    def _smallest_limit(self) -> int:
        """What every peer takes: BlueZ cuts a longer value for those that take less.

        Strangers do not count: one would cut everybody's values with a byte of his. Nothing is for them, and
        what is sent on their own link has that link's limit.
        """
        return min(
            (notification_limit(link.att_mtu) for link in self._own_links() if link.live and link.introduced),
            default=VALUE_MAXIMUM,
        )

    async def _say_goodbye(self, path: str, link: BluezLink) -> None:
        if self._links.get(Role.PERIPHERAL, path) is not link:
            return  # its connection has ended; one that is there now is another link's
        if self._tree.connected(path):
            self._closed.add(path)
        if not self._links.in_use(path, but=Role.PERIPHERAL):
            await self._links.disconnect(path)
        self._links.drop(path, link)

    def on_device_changed(self, path: str) -> None:
        """Device1 has changed, or is gone."""
        if not self._tree.connected(path):
            self._closed.discard(path)


class _SharedOutlet:
    """One socket for all links. None of them closes it."""

    name = "shared socket"

    def __init__(self, outlet: SocketOutlet) -> None:
        self.socket: Final = outlet
        # Each link sends keepalives and answers when it has to, and Trio lets one task wait for a socket.
        self._turn = trio.StrictFIFOLock()

    async def send(self, value: bytes) -> None:
        async with self._turn:
            await self.socket.send(value)

    def close(self) -> None:
        """Others use it."""


def _pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    return ours, theirs


async def _until_closed(outlet: SocketOutlet) -> None:
    try:
        while True:
            try:
                if not outlet.socket.recv(1):  # BlueZ sends nothing this way
                    return
            except BlockingIOError:
                await trio.lowlevel.wait_readable(outlet.socket)
    except (OSError, trio.ClosedResourceError):
        pass
    finally:
        outlet.close()
