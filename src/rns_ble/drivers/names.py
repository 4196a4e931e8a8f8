"""What adapters and transports are called: known without the Bluetooth stack that opens them, so that a
configuration with a name that can't be right is refused when it is written or read.
"""

from __future__ import annotations

import re
from typing import Final

from rns_ble.drivers.terms import ConfigurationError
from rns_ble.protocol.advertisement import normalise_address

TRANSPORTS: Final = frozenset(
    {
        *("usb", "pyusb", "serial", "hci-socket", "vhci", "pty", "file", "udp"),
        *("tcp-client", "tcp-server", "unix", "unix-client", "unix-server", "ws-client", "ws-server"),
        *("android-emulator", "android-netsim"),
    }
)
"""What Bumble 0.0.236 knows; the part of a transport's name before its first colon."""

EXAMPLES: Final = "usb:0, serial:/dev/ttyACM0,1000000, hci-socket:0, tcp-client:127.0.0.1:7300"


def check_adapter(name: str | None) -> str | None:
    """For the driver `bleak`: `hci0` as it is, an address normalised. Raises `ConfigurationError` for
    anything else.
    """
    if name is None or re.fullmatch(r"hci\d+", name):
        return name
    try:
        return normalise_address(name)
    except ValueError:
        raise ConfigurationError(
            f"adapter = {name}: a name like hci0, or the adapter's Bluetooth address"
        ) from None


def check_transport(name: str) -> None:
    """For the driver `bumble`. Raises `ConfigurationError` when no transport is called that."""
    kind, _, spec = name.partition(":")
    if kind not in TRANSPORTS:
        raise ConfigurationError(
            f"transport = {name}: there is no kind of transport {kind!r}; there is, for example, {EXAMPLES}"
        )
    if kind in {"usb", "pyusb", "serial", "tcp-client"} and not spec:
        raise ConfigurationError(f"transport = {name} does not say which one; for example {EXAMPLES}")
    if kind == "tcp-client":
        host, _, port = spec.rpartition(":")
        if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 1 << 16:
            raise ConfigurationError(f"transport = {name}: it is tcp-client:HOST:PORT, PORT from 1 to 65535")
