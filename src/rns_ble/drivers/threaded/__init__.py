"""Runs drivers that are written to ble-reticulum's callback contract: methods that block, and callbacks from
any thread. `contract` is that contract, `ThreadedDriver` the adapter, and docs/drivers.md tells the rest.
"""

from rns_ble.drivers.threaded.aliases import install_aliases
from rns_ble.drivers.threaded.driver import ThreadedDriver

__all__ = ["ThreadedDriver", "install_aliases"]
