"""Our advertisement, and the agent that lets linked peers pair which ask for it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import trio
from dbus_next import Variant

from rns_ble import quiet
from rns_ble.drivers.base import AdvertisingUnavailable, ConfigurationError
from rns_ble.drivers.bluez.bus import BLUEZ, DBUS, Refused, Reply

if TYPE_CHECKING:
    from rns_ble.drivers.bluez.bus import Bus

log = quiet.logger(__name__)

NAME_LIMIT: Final = 8
"""Bytes of UTF-8 that fit next to flags and a 128-bit UUID in 31 bytes."""

INTERVAL: Final = (100, 150)
"""Milliseconds from one advertisement to the next, at least and at most. Linux takes 1.28 s where nobody says
it: then a connection took 4.3 to 4.8 s to set up in the laboratory, for most of which the peer was not heard,
and 0.9 s with this. BlueZ 5.66 takes no notice; there only MinAdvertisementInterval and
MaxAdvertisementInterval in main.conf help."""

MANAGER: Final = "org.bluez.LEAdvertisingManager1"

_numbers: Final = itertools.count()
_numbers_of_agents: Final = itertools.count()


class Advertisement:
    """An org.bluez.LEAdvertisement1."""

    interface = "org.bluez.LEAdvertisement1"

    def __init__(
        self, service_uuid: str, name: str | None, manufacturer_data: Mapping[int, bytes] | None
    ) -> None:
        """Raises `ConfigurationError` for a name over 8 bytes."""
        if name is not None and len(name.encode()) > NAME_LIMIT:
            raise ConfigurationError(f"device_name = {name}: at most {NAME_LIMIT} bytes of UTF-8")
        self.released = False
        """Whether BlueZ has ended it."""
        self._said = (service_uuid, name, dict(manufacturer_data or {}))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Advertisement) and self._said == other._said

    __hash__ = None  # type: ignore[assignment]  # it is compared, never looked up

    def properties(self) -> dict[str, Variant]:
        service_uuid, name, manufacturer_data = self._said
        said = {
            "Type": Variant("s", "peripheral"),
            "ServiceUUIDs": Variant("as", [service_uuid]),
            # Nobody needs that flag, and phones list for their users who has it. Left out, it would be there
            # whenever the adapter is discoverable; then without "BR/EDR not supported" on an adapter that has
            # BR/EDR, and a peer's BlueZ may dial us by that. BlueZ 5.66 sets it in that case all the same.
            "Discoverable": Variant("b", False),
            "MinInterval": Variant("u", INTERVAL[0]),
            "MaxInterval": Variant("u", INTERVAL[1]),
        }
        if name:
            said["LocalName"] = Variant("s", name)
        if manufacturer_data:
            companies = {company: Variant("ay", data) for company, data in manufacturer_data.items()}
            said["ManufacturerData"] = Variant("a{qv}", companies)
        return said

    def call(self, member: str, body: Sequence[Any]) -> Reply | None:
        if member != "Release":
            return None
        self.released = True
        return Reply()


class Advertiser:
    """What is advertised on one adapter."""

    def __init__(self, bus: Bus, adapter: str) -> None:
        self._bus = bus
        self._adapter = adapter
        self._path = f"/rns_ble/advertisement{next(_numbers)}"
        self._current: Advertisement | None = None
        self._registered = False  # perhaps: a registration may have been cancelled before its answer came
        self._changing = trio.Lock()

    @property
    def on(self) -> bool:
        """Whether it is in force."""
        return self._current is not None and not self._current.released

    async def show(self, wanted: Advertisement | None) -> None:
        """Advertise this and nothing else. Raises `AdvertisingUnavailable`, and else as `Bus.call`."""
        async with self._changing:
            if self.on and wanted == self._current:
                return
            self._current = None
            if self._registered:
                await self._hide()
            if wanted is not None:
                await self._register(wanted)

    async def _hide(self) -> None:
        try:
            await self._bus.call(self._adapter, MANAGER, "UnregisterAdvertisement", "o", self._path)
        except Refused as error:
            log.debug("advertisement: %s", error)  # BlueZ has ended it, or never had it
        self._registered = False
        self._bus.withdraw(self._path)

    async def _register(self, wanted: Advertisement) -> None:
        self._bus.offer(self._path, wanted)
        self._registered = True
        try:
            await self._bus.call(self._adapter, MANAGER, "RegisterAdvertisement", "oa{sv}", self._path, {})
        except Refused as error:
            self._registered = False
            self._bus.withdraw(self._path)
            raise AdvertisingUnavailable(_why_refused(error)) from error
        self._current = wanted


def _why_refused(error: Refused) -> str:
    """What to do about it."""
    if error.name == f"{BLUEZ}.Error.NotPermitted":
        return (
            "the adapter has no advertisement to spare: end another program that advertises, or set "
            "enable_peripheral = no"
        )
    if error.name.startswith(f"{DBUS}.Error.Unknown"):  # method, interface or object: BlueZ has said each
        return "the adapter can't advertise: take another adapter, or set enable_peripheral = no"
    return f"the adapter does not advertise: {error}: journalctl -u bluetooth may tell why"


class Agent:
    """An org.bluez.Agent1 without input and output, and without anybody to ask. So it agrees only to what a
    peer needs that pairs with us while it is linked and has told its identity: that it may pair. Everything
    else it rejects, also a pairing with whoever has only connected.
    """

    interface = "org.bluez.Agent1"

    def __init__(self, is_peer: Callable[[str], bool]) -> None:
        """`is_peer`: whether the device at this object path has done its handshake on a link that lives."""
        self._is_peer = is_peer

    def properties(self) -> dict[str, Variant]:
        return {}

    def call(self, member: str, body: Sequence[Any]) -> Reply | None:
        if member in {"Release", "Cancel"}:
            return Reply()
        if member == "RequestAuthorization" and self._is_peer(str(body[0])):
            log.debug("%s may pair", body[0])
            return Reply()
        log.debug("%s%r: rejected", member, tuple(body))
        raise Refused(f"{BLUEZ}.Error.Rejected", "there is nobody to ask", member)


async def register_agent(bus: Bus, is_peer: Callable[[str], bool]) -> None:
    """Until the bus is closed. For a machine without a desktop, where BlueZ would refuse a phone that wants
    to pair; nothing else needs it. `is_peer`: as `Agent`'s.

    BlueZ asks one agent for all adapters: the one that has asked to be it, such as a desktop's, or else the
    one that came first. We do not ask. So where a program has several drivers, the agent of the first one is
    asked, and it rejects what is linked to another.
    """
    path = f"/rns_ble/agent{next(_numbers_of_agents)}"
    bus.offer(path, Agent(is_peer))
    try:
        await bus.call(
            "/org/bluez", "org.bluez.AgentManager1", "RegisterAgent", "os", path, "NoInputNoOutput"
        )
    except Refused as error:
        log.debug("pairing agent: %s", error)
