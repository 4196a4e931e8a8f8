"""What Reticulum sees: one interface for the adapter, and one for each peer.

Theory of operation. Reticulum makes the `BLEInterface` while it starts, sets its options, and then calls
`final_init`, from which on the threads of `rns_ble.host` run. Each peer that the mesh finds becomes a
`BLEPeerInterface` with its parent's options, in Reticulum's list of interfaces like any other: Reticulum
itself decides which packet goes to which of them. What is always true:

1. Nothing that Reticulum calls here waits for the radio, except `detach` and, with a driver of the callback
   contract, the constructor; both are bounded.
2. Peers come, bring packets and go on the delivery thread alone, in that order. Reticulum finds a peer that
   has gone missing from its list of interfaces and drops the paths, links and tables that lead there.
3. A peer interface is never without its parent's access code, or the passphrase would not be enforced.
4. Reticulum does not wait for the Bluetooth stack's libraries, nor for Trio: they are loaded on the thread
   that they run on (`rns_ble.trio_thread`). Only a program that brings a driver of its own has them already.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final

import RNS
from RNS.Interfaces.Interface import Interface

from rns_ble import __version__, quiet
from rns_ble.config import BLEConfig
from rns_ble.drivers.terms import GOODBYE_TIMEOUT, BLEError, ConfigurationError
from rns_ble.flows import flow_of, without_access_code
from rns_ble.host import Host, current_interface
from rns_ble.protocol.gatt import IDENTITY_UUID, RX_UUID, TX_UUID
from rns_ble.reticulum_log import bridge_logging
from rns_ble.status import InterfaceStatus, MeshStatus
from rns_ble.status_socket import DIRECTORY

if TYPE_CHECKING:
    from rns_ble.drivers.base import BLEDriverInterface
    from rns_ble.drivers.threaded import ThreadedDriver
    from rns_ble.mailbox import Mailbox
    from rns_ble.mesh import Listener, Mesh
    from rns_ble.peer import Peer

log = quiet.logger(__name__)

INHERITED: Final = (
    *("IN", "OUT", "mode", "gravity", "bitrate", "HW_MTU", "FIXED_MTU", "owner"),
    *("ifac_size", "ifac_netname", "ifac_netkey", "ifac_key", "ifac_identity", "ifac_signature"),
    *("announce_cap", "announce_rate_target", "announce_rate_grace", "announce_rate_penalty"),
    *("recursive_prs", "announces_from_internal", "announces_to_internal"),
    *("ingress_control", "egress_control", "ec_pr_freq", "ic_max_held_announces", "ic_burst_hold"),
    *("ic_burst_freq_new", "ic_burst_freq", "ic_pr_burst_freq_new", "ic_pr_burst_freq", "ic_new_time"),
    *("ic_burst_penalty", "ic_held_release_interval"),
)
"""What a peer interface takes over from its parent, where the parent has it: `ifac_key`, `ifac_identity` and
`ifac_signature` exist only with a passphrase or network name, and RNS 1.4 lacks some of the others."""

DRIVER_CLASSES: Final = MappingProxyType(
    {
        "bleak": ("rns_ble.drivers.bluez", "BleakDriver", "adapter"),
        "bumble": ("rns_ble.drivers.hci", "BumbleDriver", "transport"),
    }
)
"""Driver → its module, its class and the key of the configuration that the class takes."""

LIBRARIES: Final = MappingProxyType(
    {
        "bleak": ("bleak", "dbus_next", "trio", "trio_asyncio"),
        "bumble": ("bumble", "trio", "trio_asyncio"),
    }
)
"""Driver → what it can't be loaded without."""

SERVICE_DISCOVERY_DELAY: Final = 1.5
"""Seconds; what ble-reticulum tells drivers of the callback contract when the section does not say."""

START_EARLY: Final = 5.0
"""Seconds that Reticulum's start may wait for such a driver's. Then it goes on, and the driver as well."""


class _Common(Interface):  # type: ignore[misc]  # RNS has no types
    """What both kinds of interface have in common."""

    AUTOCONFIGURE_MTU = False
    FIXED_MTU = True

    online: bool
    detached: bool
    rxb: int
    txb: int

    def __init__(self) -> None:
        super().__init__()
        # Every BLE Reticulum implementation takes Reticulum's own MTU, and with it Reticulum neither raises
        # nor lowers the MTU of a link. An access code comes on top.
        self.HW_MTU: int = RNS.Reticulum.MTU
        self.tx_drops = 0
        self.tx_dropped_bytes = 0


class BLEInterface(_Common):
    """One Bluetooth adapter, as Reticulum makes it from a section of its configuration."""

    BITRATE_GUESS: ClassVar = 700_000
    """Bits a second (ble-reticulum's figure); `bitrate` in the section wins. Reticulum spaces announces and
    chooses between paths by it."""
    DEFAULT_IFAC_SIZE: ClassVar = 16
    """Bytes, as with Reticulum's own fast interfaces."""

    driver_class: ClassVar[Callable[..., Any] | None] = None
    """For subclasses: what makes the driver, instead of the key `driver`. A function, or a class of ours, is
    called with the `BLEConfig`. Any other class is a driver of the callback contract, and made as
    ble-reticulum makes it (`rns_ble.drivers.threaded`)."""

    def __init__(
        self, owner: Any, configuration: Mapping[str, object], driver: BLEDriverInterface | None = None
    ) -> None:
        """`owner`: `RNS.Transport`. Raises `ConfigurationError`, which is logged already; Reticulum then
        goes on without this interface.
        """
        bridge_logging()
        heading = current_interface.set(f"BLEInterface[{configuration.get('name', BLEConfig().name)}]")
        try:
            make = type(self).driver_class
            calls_back = _calls_back(make)
            own = driver is not None or make is not None
            self.config = BLEConfig.from_section(configuration, own_driver=own, others=calls_back)
            if driver is None and make is not None and calls_back:
                driver = _adapted(make, self.config, _service_discovery_delay(configuration))
            elif driver is None and make is not None:
                driver = make(self.config)
            elif driver is None and not all(map(find_spec, LIBRARIES[self.config.driver])):
                driver = make_driver(self.config)  # it says what is missing
            self._driver: BLEDriverInterface | None = driver
            self._threaded = None if driver is None else _as_threaded(driver)
        except BLEError as error:
            for line in str(error).splitlines():
                log.error("can't be used: %s", line)  # noqa: TRY400  (Reticulum logs the traceback)
            raise
        finally:
            current_interface.reset(heading)
        super().__init__()
        self.owner = owner
        self.name = self.config.name
        self.bitrate = self.BITRATE_GUESS
        self.IN = True
        self.spawned_interfaces: list[BLEPeerInterface] = []
        # Reticulum sets these after the constructor, a program that adds the interface itself may not.
        self.mode = Interface.MODE_FULL
        self.ifac_size = self.DEFAULT_IFAC_SIZE
        self.ifac_netname: str | None = None
        self.ifac_netkey: str | None = None
        self.announce_rate_target = self.announce_rate_grace = self.announce_rate_penalty = None
        self._peer_interfaces: dict[Peer, BLEPeerInterface] = {}
        self._mesh: Mesh | None = None
        self._driver_name = type(self.driver).__name__ if own else self.config.driver
        self._began = time.monotonic()
        self._offline_reason = "it has just started"
        self._host = Host(str(self), self._work, self)
        if self._threaded is not None:
            uuids = (self.config.service_uuid, RX_UUID, TX_UUID, IDENTITY_UUID)
            self._threaded.start_early(*uuids, within=START_EARLY)

    def __str__(self) -> str:
        return f"BLEInterface[{self.name}]"

    # --- what subclasses and programs use ---

    @property
    def driver(self) -> Any:
        """The driver: what `driver_class` has made, also where that is one of the callback contract. One that
        the key `driver` asks for is None until it is loaded.
        """
        return self._driver if self._threaded is None else self._threaded.theirs

    @property
    def max_peers(self) -> int:
        """`max_connections` of the configuration, as ble-reticulum calls it."""
        return self.config.max_connections

    @property
    def enable_central(self) -> bool:
        """As in the configuration."""
        return self.config.enable_central

    @property
    def enable_peripheral(self) -> bool:
        """As in the configuration."""
        return self.config.enable_peripheral

    # --- what Reticulum calls ---

    def final_init(self) -> None:
        """Start. Reticulum calls it when the interface is in its list, with all options set."""
        atexit.register(self.detach)
        self._host.start()

    def process_outgoing(self, data: bytes) -> None:
        """Nothing: Reticulum sends to every peer interface itself."""

    def detach(self) -> None:
        """Go offline and release the radio. Idempotent; takes at most `rns_ble.host.STOP_TIMEOUT`, and with a
        driver of the callback contract that hangs `GOODBYE_TIMEOUT` more.
        """
        # No lock of Reticulum's is taken here, not even its log's: a signal can have stopped the thread that
        # holds it, and that thread waits for us.
        self.detached = True
        self.online = False
        for interface in self.spawned_interfaces.copy():
            interface.detach()
        self._host.stop()
        if self._threaded is not None:
            self._threaded.stop_early(within=GOODBYE_TIMEOUT)
        atexit.unregister(self.detach)

    @property
    def clients(self) -> int:
        """How many peers are linked."""
        return len(self.spawned_interfaces)

    @property
    def peers(self) -> list[BLEPeerInterface]:
        """The interfaces of the peers that are linked."""
        return self.spawned_interfaces

    # Reticulum counts announces and path requests on the parent, too, though nothing goes out there.

    def received_announce(self, *size: int, from_spawned: bool = False, **more: int) -> None:
        """Count what a peer interface counts."""
        if from_spawned:
            super().received_announce(*size, from_spawned=True, **more)

    def sent_announce(self, *size: int, from_spawned: bool = False, **more: int) -> None:
        """Count what a peer interface counts."""
        if from_spawned:
            super().sent_announce(*size, from_spawned=True, **more)

    def received_path_request(self, *size: int, from_spawned: bool = False, **more: int) -> None:
        """Count what a peer interface counts."""
        if from_spawned:
            super().received_path_request(*size, from_spawned=True, **more)

    def sent_path_request(self, *size: int, from_spawned: bool = False, **more: int) -> None:
        """Count what a peer interface counts."""
        if from_spawned:
            super().sent_path_request(*size, from_spawned=True, **more)

    # --- what the mesh tells, on the delivery thread ---

    def mesh_up(self, mesh: Mesh) -> None:
        """See `rns_ble.mesh.Listener`."""
        self._mesh = mesh
        self.online = not self.detached
        log.info("online")

    def mesh_down(self, reason: str) -> None:
        """See `rns_ble.mesh.Listener`."""
        self.online = False
        self._mesh = None
        self._offline_reason = reason

    def peer_joined(self, peer: Peer) -> None:
        """See `rns_ble.mesh.Listener`."""
        interface = BLEPeerInterface(self, peer)
        self._peer_interfaces[peer] = interface
        self.spawned_interfaces.append(interface)
        interface.online = not self.detached
        RNS.Transport.add_interface(interface)
        log.info("peer <%s> joined", peer.identity.hex())

    def packet_received(self, peer: Peer, packet: bytes) -> None:
        """See `rns_ble.mesh.Listener`."""
        self._peer_interfaces[peer].process_incoming(packet)

    def peer_left(self, peer: Peer) -> None:
        """See `rns_ble.mesh.Listener`."""
        interface = self._peer_interfaces.pop(peer)
        interface.detach()
        interface.teardown()
        log.info("peer <%s> left", peer.identity.hex())

    # --- the mesh ---

    def _work(self, host: Host) -> None:
        """All that runs in Trio, on its thread."""
        from rns_ble.trio_thread import keep_online, run_in_trio  # noqa: PLC0415 - see 4. above

        try:
            self._driver = driver = self._driver or make_driver(self.config)
        except BLEError as error:  # a library of its libraries' is missing
            self._offline_reason = str(error)
            log.error("can't be used: %s", error)  # noqa: TRY400 - it says it all
            return
        config = self.config
        if self._threaded is not None:
            # It knows the power mode, and scans as it thinks fit for as long as it is told to scan.
            config = replace(config, power_mode="aggressive")

        async def run(identity: bytes, listener: Listener) -> None:
            # What Reticulum has put in here since the constructor is there by now: it starts us after that.
            longest = self.HW_MTU + (self.ifac_size or 0)
            directory = Path(RNS.Reticulum.storagepath, DIRECTORY)
            elsewhere = self._linked_elsewhere
            await keep_online(driver, config, identity, listener, longest, elsewhere, directory, self._status)

        run_in_trio(host, _transport_identity, run)

    def _linked_elsewhere(self, identity: bytes) -> bool:
        """Whether another interface of this process, in the same network, has that peer. On the Trio
        thread.
        """
        return any(
            isinstance(interface, BLEPeerInterface)
            and interface.identity == identity
            and interface.parent_interface is not self
            and interface.parent_interface.network == self.network
            for interface in RNS.Transport.interfaces.copy()
        )

    @property
    def network(self) -> tuple[str, str | None, str | None]:
        """What two interfaces must have alike for their packets to be the same network's."""
        return self.config.service_uuid, self.ifac_netname, self.ifac_netkey

    def snapshot(self) -> MeshStatus | None:
        """What the mesh knows now; None when it does not run. From any thread; waits a second at most."""
        mesh = self._mesh
        return None if mesh is None else self._host.ask(mesh.status)

    def _status(self) -> InterfaceStatus:
        """All that there is to be seen of this interface. On the Trio thread."""
        mesh = self._mesh
        return InterfaceStatus(
            name=self.name,
            online=mesh is not None,
            offline_reason=None if mesh is not None else self._offline_reason,
            driver=self._driver_name,
            adapter=self.config.adapter,
            transport=self.config.transport,
            address=None if self._driver is None else self._driver.address,
            pid=os.getpid(),
            version=__version__,
            rns_version=RNS.__version__,
            age=time.monotonic() - self._began,
            packets_dropped=self.packets_dropped,
            mesh=None if mesh is None else mesh.status(),
        )

    @property
    def packets_dropped(self) -> int:
        """Packets received that Reticulum was too slow to take."""
        return self._host.packets_dropped


class _Waiting:
    """What Reticulum takes the length of to show how many bytes wait to be sent."""

    def __init__(self, outgoing: Mailbox) -> None:
        self._outgoing = outgoing

    def __len__(self) -> int:
        return self._outgoing.bytes_waiting


class BLEPeerInterface(_Common):
    """One remote identity. Lives from the peer's first link until it has been without one for a while."""

    def __init__(self, parent: BLEInterface, peer: Peer) -> None:
        super().__init__()
        for option in INHERITED:
            if hasattr(parent, option):
                setattr(self, option, getattr(parent, option))
        self.parent_interface = parent
        self.identity: Final = peer.identity
        # Not the parent's name: Reticulum finds interfaces to detach by it.
        self.name = f"{parent.name}/{peer.identity.hex()}"
        self._outgoing = peer.outgoing
        self._outgoing.on_drop = self._dropped
        self.transmit_buffer = _Waiting(self._outgoing)

    def __str__(self) -> str:
        return f"BLEPeerInterface[{self.name}]"

    def process_outgoing(self, data: bytes) -> None:
        """Queue a packet for the peer. On any thread; never waits, never raises, counts what it drops."""
        if not self.online:
            self._dropped(data)
            return
        flow, urgent = self._flow(data)
        if self._outgoing.put(data, flow, urgent=urgent):
            self.txb += len(data)
            self.parent_interface.txb += len(data)

    def _dropped(self, packet: bytes) -> None:
        for interface in (self, self.parent_interface):
            interface.tx_drops += 1
            interface.tx_dropped_bytes += len(packet)

    def _flow(self, packet: bytes) -> tuple[bytes, bool]:
        key = getattr(self, "ifac_key", None)
        return flow_of(without_access_code(packet, self.ifac_size, key) if key else packet)

    def process_incoming(self, data: bytes) -> None:
        """Hand a packet to Reticulum. May take milliseconds, or a minute while Reticulum starts."""
        if self.online:
            self.rxb += len(data)
            self.parent_interface.rxb += len(data)
            self.owner.inbound(data, self)

    def detach(self) -> None:
        """Go offline. Idempotent."""
        self.online = False
        self.detached = True

    def teardown(self) -> None:
        """Leave Reticulum's list, and the parent's. Idempotent."""
        self.online = False
        self.IN = self.OUT = False
        with contextlib.suppress(ValueError):
            self.parent_interface.spawned_interfaces.remove(self)
        RNS.Transport.remove_interface(self)
        # Otherwise Reticulum's timers would go on sending its queue into nowhere, one thread at a time.
        self.announce_queue: list[object] = []
        self.held_announces: dict[bytes, object] = {}


def _calls_back(make: Callable[..., Any] | None) -> bool:
    """Whether this is the class of a driver of the callback contract."""
    if not isinstance(make, type):
        return False
    from rns_ble.drivers.base import BLEDriverInterface  # noqa: PLC0415 - see 4. above

    return not issubclass(make, BLEDriverInterface)


def _adapted(make: Callable[..., Any], config: BLEConfig, service_discovery_delay: float) -> ThreadedDriver:
    from rns_ble.drivers.threaded import ThreadedDriver  # noqa: PLC0415 - see 4. above

    return ThreadedDriver.construct(make, config, service_discovery_delay)


def _as_threaded(driver: BLEDriverInterface) -> ThreadedDriver | None:
    from rns_ble.drivers.threaded import ThreadedDriver  # noqa: PLC0415 - see 4. above

    return driver if isinstance(driver, ThreadedDriver) else None


def _transport_identity() -> bytes | None:
    """Our identity, once Reticulum has settled on one.

    Reticulum 1.5 first loads the identity that it keeps and then, without `enable_transport`, replaces it by
    one for this run only; so an identity that is there may not be the one yet.
    """
    transport = RNS.Transport
    if not transport.ready or transport.identity is None:
        return None
    identity: bytes = transport.identity.hash
    return identity


def _service_discovery_delay(section: Mapping[str, object]) -> float:
    """Seconds, for a driver of the callback contract. Raises `ConfigurationError`."""
    delay = section.get("service_discovery_delay", SERVICE_DISCOVERY_DELAY)
    try:
        return float(str(delay))
    except ValueError:
        raise ConfigurationError(f"service_discovery_delay = {delay}; allowed: a number of seconds") from None


def make_driver(config: BLEConfig) -> BLEDriverInterface:
    """The driver that the configuration asks for. Raises `ConfigurationError`."""
    module, name, key = DRIVER_CLASSES[config.driver]
    try:
        driver_class = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        what = f"its Python package {error.name} is missing: install it for {sys.executable}"
        # Reticulum prints the traceback, and the import's adds nothing to this.
        raise ConfigurationError(f"driver = {config.driver}: {what}") from None
    driver: BLEDriverInterface = driver_class(**{key: getattr(config, key)})
    return driver
