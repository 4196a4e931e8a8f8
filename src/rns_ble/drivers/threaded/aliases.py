"""The module names under which drivers import the callback contract, and interfaces their parent."""

from __future__ import annotations

import sys
from importlib import import_module
from types import MappingProxyType, ModuleType
from typing import Final

CONTRACT: Final = "rns_ble.drivers.threaded.contract"
INTERFACE: Final = "rns_ble.interface"

ALIASES: Final = MappingProxyType(
    {
        # Beside Reticulum's interfaces, as Columba puts them.
        "bluetooth_driver": CONTRACT,
        "BLEInterface": INTERFACE,
        # ble-reticulum's package, which was in Reticulum's before.
        "ble_reticulum.bluetooth_driver": CONTRACT,
        "ble_reticulum.BLEInterface": INTERFACE,
        "RNS.Interfaces.bluetooth_driver": CONTRACT,
        "RNS.Interfaces.BLEInterface": INTERFACE,
    }
)
"""Name → the module of ours that it is to be."""


def install_aliases() -> None:
    """Make `import bluetooth_driver`, `from BLEInterface import BLEInterface` and the like find this package.

    Call it before Reticulum starts, and before anything imports these names; it may be called again. It holds
    for the whole process, and goes before an installed ble-reticulum. Raises `RuntimeError` when one of the
    names was imported from elsewhere already; nothing is changed then.
    """
    ours = {alias: import_module(name) for alias, name in ALIASES.items()}
    for alias, module in ours.items():
        there = sys.modules.get(alias, module)
        if there is not module:
            raise RuntimeError(
                f"{alias} was imported already, from {getattr(there, '__file__', 'elsewhere')}: "
                "call install_aliases before that"
            )
    for alias, module in ours.items():
        package, _, name = alias.rpartition(".")
        if package:
            setattr(_package(package), name, module)
        sys.modules[alias] = module


def _package(name: str) -> ModuleType:
    """A package that is there, or an empty one in its place."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
    package = sys.modules[name] = ModuleType(name, "Stands in for ble-reticulum, which is not installed.")
    package.__path__ = []
    return package
