"""A Bluetooth host of our own on any HCI controller: virtual ones, USB and serial dongles. Needs no BlueZ.

The names are imported lazily, for Bumble is an optional dependency; without it they raise
`ConfigurationError`.
"""

from __future__ import annotations

import logging
import shlex
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from rns_ble.drivers.terms import ConfigurationError

if TYPE_CHECKING:
    from rns_ble.drivers.hci.driver import BumbleDriver
    from rns_ble.drivers.hci.ether import serve_ether
    from rns_ble.drivers.hci.radio import VirtualRadio

__all__ = ["BumbleDriver", "VirtualRadio", "serve_ether"]

MISSING: Final = (
    # The shell's own pip, where there is one, belongs to another environment most of the time.
    "driver = bumble needs the bumble library: "
    f"{shlex.quote(sys.executable)} -m pip install 'rns-ble[bumble]'"
)

_HOMES: Final = {
    "BumbleDriver": "rns_ble.drivers.hci.driver",
    "VirtualRadio": "rns_ble.drivers.hci.radio",
    "serve_ether": "rns_ble.drivers.hci.ether",
}

# What of Bumble's log matters is an error of ours. Where nobody has set up logging, as in rnsd, Python would
# write its warnings and tracebacks to stderr; a program that has set it up still gets them.
logging.getLogger("bumble").addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "bumble":
            raise
        raise ConfigurationError(MISSING) from None  # Reticulum prints the traceback, and this says it all
