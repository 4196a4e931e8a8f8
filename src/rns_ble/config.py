"""The `[[BLE Interface]]` section of Reticulum's configuration, as one frozen value.

Rules:

1. Every key is one field of `BLEConfig`, and everything about it stands in its metadata: type, unit, range
   and what it does. Parsing, error messages and the documentation (`KEYS`) are made from that alone.
2. A `BLEConfig` that exists is valid, however it was made.
3. A value that can't be used is an error that names key, value and what is allowed; never replaced silently.
   All of a section's are reported at once, a line each.
4. A key that we don't know is a warning, for the section may come from another version; keys of Reticulum's
   own are none of our business.
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
import math
import uuid
from collections.abc import Callable, Mapping
from dataclasses import InitVar, dataclass
from types import MappingProxyType
from typing import Any, Final, TypeVar

from rns_ble.drivers.names import check_adapter, check_transport
from rns_ble.drivers.terms import ConfigurationError
from rns_ble.protocol.gatt import SERVICE_UUID

log = logging.getLogger(__name__)

T = TypeVar("T")

DRIVERS: Final = ("bleak", "bumble")
POWER_MODES: Final = ("aggressive", "balanced", "saver")

DEVICE_NAME_BYTES: Final = 8
"""Flags (3 bytes), a 128-bit UUID (18) and the name with its 2-byte header share the 31 bytes of a legacy
advertisement (Core Specification, Vol 6 Part B, 2.3.1.1)."""

_RETICULUM_KEYS: Final = """
    type name enabled interface_enabled mode interface_mode selected_interface_mode outgoing bitrate
    configured_bitrate gravity bootstrap_only recursive_prs ignore_config_warnings
    announce_cap announce_rate_target announce_rate_grace announce_rate_penalty
    announces_from_internal announces_to_internal
    ifac_size networkname network_name passphrase pass_phrase
    ingress_control egress_control ec_pr_freq ic_max_held_announces ic_burst_hold ic_burst_freq_new
    ic_burst_freq ic_pr_burst_freq_new ic_pr_burst_freq ic_new_time ic_burst_penalty ic_held_release_interval
    discoverable announce_interval discovery_stamp_value discovery_name discovery_encrypt discovery_frequency
    discovery_bandwidth discovery_modulation discovery_lxmf_address reachable_on publish_ifac location_cmd
    latitude longitude height
"""
RETICULUM_KEYS: Final = frozenset(_RETICULUM_KEYS.split())
"""What Reticulum itself reads from, or writes into, the section of any interface (RNS 1.5.7)."""

UNNEEDED: Final = MappingProxyType(
    {
        "service_discovery_delay": "services are read when the Bluetooth stack says that they are resolved",
        "connection_rotation_interval": "a link is kept for as long as it works",
        "enable_local_announce_forwarding": "Reticulum itself sends local announces to every peer, once",
    }
)
"""Keys of ble-reticulum that mean nothing here, and why."""

HINTS: Final = MappingProxyType({"ifac_netkey": "passphrase", "ifac_netname": "network_name"})
"""Names that resemble no key of the configuration, but are what Reticulum calls one inside. Someone who
writes `ifac_netkey` believes that the interface is closed, and it is open."""

_TRUE: Final = frozenset({"yes", "true", "on", "1"})
_FALSE: Final = frozenset({"no", "false", "off", "0"})


@dataclass(frozen=True, slots=True)
class Key:
    """One key of the section."""

    name: str
    kind: str
    """`text`, `yes/no`, `integer`, `number` or `UUID`."""
    default: object
    doc: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    maximum_bytes: int | None = None
    optional: bool = False
    """May be left empty, which is None."""
    comma: bool = False
    """A comma is part of the value; ConfigObj makes a list of such a value."""

    @property
    def allowed(self) -> str:
        """What is allowed, in words."""
        unit = f" {self.unit}" if self.unit else ""
        if self.choices:
            *others, last = self.choices
            words = f"{', '.join(others)} or {last}"
        elif self.minimum is not None:
            words = f"{_KIND_WORDS[self.kind]} from {self.minimum:g} to {self.maximum:g}{unit}"
        elif self.maximum_bytes is not None:
            words = f"{_KIND_WORDS[self.kind]} of 1 to {self.maximum_bytes} bytes of UTF-8"
        else:
            words = _KIND_WORDS[self.kind]
        return f"{words}, or nothing" if self.optional else words

    def parse(self, value: object) -> object:
        """The value, typed and checked. Raises `ConfigurationError`."""
        if self.comma and isinstance(value, list):
            value = ",".join(map(str, value))
        if isinstance(value, str):
            value = value.strip()
            if self.optional and value.lower() in {"", "none"}:
                value = None
        if value is None and self.optional:
            return None
        try:
            typed = _PARSERS[self.kind](value)
        except (ValueError, TypeError):
            raise self._error(value) from None
        if isinstance(typed, str):
            if self.choices and typed.lower() in self.choices:
                return typed.lower()
            size = len(typed.encode())
            if self.choices or not 0 < size <= (self.maximum_bytes or size):
                raise self._error(value)
        elif self.minimum is not None and self.maximum is not None:
            assert isinstance(typed, (int, float))
            if not self.minimum <= typed <= self.maximum:  # false for NaN as well
                raise self._error(value)
        return typed

    def _error(self, value: object) -> ConfigurationError:
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        quote = "; put a value with a comma in quotes" if isinstance(value, list) else ""
        return ConfigurationError(f"{self.name} = {shown}; allowed: {self.allowed}{quote}")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _yes_no(value: object) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).lower()
    if text not in _TRUE | _FALSE:
        raise ValueError
    return text in _TRUE


def _integer(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise TypeError
    return int(value)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def _uuid(value: object) -> str:
    return str(uuid.UUID(_text(value)))


_PARSERS: Final[Mapping[str, Callable[[object], object]]] = MappingProxyType(
    {"text": _text, "yes/no": _yes_no, "integer": _integer, "number": _number, "UUID": _uuid}
)


_KIND_WORDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "text": "a text",
        "yes/no": "yes or no",
        "integer": "an integer",
        "number": "a number",
        "UUID": "a UUID",
    }
)
"""What a message calls a value of each kind."""


def _key(default: T, kind: str, doc: str, **rest: Any) -> T:
    """A dataclass field that carries its `Key`."""
    field: T = dataclasses.field(default=default, metadata={"kind": kind, "doc": doc, **rest})
    return field


@dataclass(frozen=True, slots=True, kw_only=True)
class BLEConfig:
    """Every key that the interface knows, under its own name. Raises `ConfigurationError` when made."""

    name: str = _key("BLE Interface", "text", "The name of the section; Reticulum gives it.")
    service_uuid: str = _key(
        SERVICE_UUID,
        "UUID",
        "The GATT service that is advertised and looked for. Another one makes a network of its own.",
    )
    device_name: str | None = _key(
        None,
        "text",
        "The advertised name. Peers are found by the service, so none is needed.",
        maximum_bytes=DEVICE_NAME_BYTES,
        optional=True,
    )
    enable_central: bool = _key(
        True, "yes/no", "Look for peers and connect to them. Off: only wait for them (peripheral-only)."
    )
    enable_peripheral: bool = _key(
        True, "yes/no", "Advertise and accept connections. Off: only connect to others (central-only)."
    )
    discovery_interval: float = _key(
        5.0,
        "number",
        "From the start of one scan to the next, in power mode balanced; a scan lasts 2 s.",
        unit="s",
        minimum=0.1,
        maximum=3600.0,
    )
    max_connections: int = _key(
        7,
        "integer",
        "Links at once, in both roles, with attempts under way. Most controllers hold 7 to 20.",
        minimum=1,
        maximum=3840,  # connection handles 0x0000 to 0x0EFF (Core Specification, Vol 4 Part E, 5.4.2)
    )
    min_rssi: int = _key(
        -85,
        "integer",
        "Weaker peers are not dialled.",
        unit="dBm",
        minimum=-127,  # the range of RSSI in HCI (Core Specification, Vol 4 Part E, 7.7.65.2)
        maximum=20,
    )
    connection_timeout: float = _key(
        30.0,
        "number",
        "An attempt to connect, up to the end of the handshake, is given up after this.",
        unit="s",
        minimum=0.1,
        maximum=600.0,
    )
    power_mode: str = _key(
        "balanced",
        "text",
        "How much the radio scans: all the time, 2 s of every discovery_interval, or 2 s of every 60 s.",
        choices=POWER_MODES,
    )
    max_discovered_peers: int = _key(
        100,
        "integer",
        "Addresses remembered; the one not seen for longest goes, whom we know last.",
        minimum=1,
        maximum=100_000,
    )
    connection_retry_backoff: float = _key(
        60.0,
        "number",
        "How long an address is left alone after too many failures; up to 8 times as long if they go on.",
        unit="s",
        minimum=0.0,
        maximum=86_400.0,
    )
    max_connection_failures: int = _key(
        3,
        "integer",
        "Consecutive failures of one kind after which an address is left alone.",
        minimum=1,
        maximum=1000,
    )
    dial_grace: float = _key(
        20.0,
        "number",
        "How long the side with the higher address waits to be dialled before it dials itself.",
        unit="s",
        minimum=0.0,
        maximum=3600.0,
    )
    outgoing_queue: int = _key(
        128,
        "integer",
        "Packets that wait for one peer; more are dropped. Below 75 a Resource in transfer loses some.",
        unit="packets",
        minimum=1,
        maximum=65_536,
    )
    driver: str = _key(
        "bleak",
        "text",
        "The Bluetooth stack: bleak is BlueZ, the system's; bumble drives an HCI controller by itself.",
        choices=DRIVERS,
    )
    adapter: str | None = _key(
        None,
        "text",
        "For bleak: the adapter, as hci1 or by its Bluetooth address, which stays. Nothing: the first one.",
        optional=True,
    )
    transport: str | None = _key(
        None, "text", "For bumble: where the HCI controller is.", optional=True, comma=True
    )
    own_driver: InitVar[bool] = False
    """Whether the interface brings a driver that is none of `DRIVERS`, and calls adapters as it likes."""

    def __post_init__(self, own_driver: bool) -> None:
        """Check every value alone, then together, and raise one error for all that is wrong."""
        wrong = []
        for key in KEYS:
            try:
                object.__setattr__(self, key.name, key.parse(getattr(self, key.name)))
            except ConfigurationError as error:
                wrong.append(str(error))
        # A value that was refused is still as it was given, and fulfils none of these.
        if self.enable_central is False and self.enable_peripheral is False:
            wrong.append(
                "enable_central = no, enable_peripheral = no: at least one of them must be yes, "
                "or the interface can reach nobody"
            )
        if self.driver == "bumble" and self.transport is None:
            wrong.append("driver = bumble needs transport, for example usb:0 or serial:/dev/ttyACM0,1000000")
        elif self.driver == "bumble" and isinstance(self.transport, str):
            try:
                check_transport(self.transport)
            except ConfigurationError as error:
                wrong.append(str(error))
        if self.driver == "bleak" and isinstance(self.adapter, str) and not own_driver:
            try:
                object.__setattr__(self, "adapter", check_adapter(self.adapter))
            except ConfigurationError as error:
                wrong.append(str(error))
        if wrong:
            raise ConfigurationError("\n".join(wrong))

    @classmethod
    def from_section(
        cls, section: Mapping[str, object], *, own_driver: bool = False, others: bool = False
    ) -> BLEConfig:
        """From a section as Reticulum hands it over: strings, lists (values with commas) or typed values.

        Raises `ConfigurationError`, with a line for each value that can't be used. Logs a warning for each
        key that nobody knows or that has no effect, and a notice for each that is not needed; not when
        `others` read the section, too, and know more keys. `own_driver`: as in the constructor.
        """
        known = {key.name for key in KEYS}
        values = {name: value for name, value in section.items() if name in known}
        # Each value is parsed by the key of its field.
        config = cls(**values, own_driver=own_driver)  # type: ignore[arg-type]
        if others:
            return config
        for name, nearest in unknown_keys(section).items():
            meant = f": did you mean {nearest}?" if nearest else ", which has no effect"
            log.warning("unknown key %s%s", name, meant)
        for name in section:
            if name in UNNEEDED:
                log.info("%s is not needed: %s", name, UNNEEDED[name])
        for name, driver in config.keys_of_other_drivers().items():
            log.warning(
                "%s = %s has no effect: it belongs to driver = %s, and the driver is %s",
                name,
                getattr(config, name),
                driver,
                config.driver,
            )
        return config

    def keys_of_other_drivers(self) -> dict[str, str]:
        """Keys that are set and have no effect, for they belong to another driver: that one's name."""
        belongs = {"transport": "bumble", "adapter": "bleak"}
        return {
            name: driver
            for name, driver in belongs.items()
            if getattr(self, name) is not None and self.driver != driver
        }


KEYS: Final = tuple(
    Key(name=field.name, default=field.default, **field.metadata) for field in dataclasses.fields(BLEConfig)
)
"""All keys, in the order in which they are documented."""


def unknown_keys(section: Mapping[str, object]) -> dict[str, str | None]:
    """The keys of a section that nobody knows, each with what may have been meant."""
    known = [key.name for key in KEYS] + sorted(RETICULUM_KEYS)
    return {
        name: HINTS.get(name) or next(iter(difflib.get_close_matches(name.lower(), known, n=1)), None)
        for name in section
        if name not in known and name not in UNNEEDED
    }
