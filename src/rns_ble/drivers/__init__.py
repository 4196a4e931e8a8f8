"""Bluetooth stacks behind one contract: see `rns_ble.drivers.base`."""
