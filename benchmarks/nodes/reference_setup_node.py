"""As `setup_node.py`, with ble-reticulum's driver, which is loaded from a checkout of it.

    PYTHON reference_setup_node.py central|peripheral ADAPTER CHECKOUT [--without-wait]

PYTHON is one that has what that driver needs; nothing of rns_ble is imported here. Its scan windows are what
they are by default, and so is its wait before it looks for services, 1.5 s, unless it is told not to wait.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

SERVICE, RX, TX, IDENTITY = (f"37145b00-442d-4a94-917f-8f42c5da28{end}" for end in ("e3", "e5", "e4", "e6"))
IDENTITIES = {"central": bytes(range(16)), "peripheral": bytes(range(16, 32))}
LOST_WITHIN = 20.0
"""Seconds for a link that was closed to be told as ended."""


class Told:
    """The way out, from any thread. Takes stdout for itself: what others print goes to stderr."""

    def __init__(self) -> None:
        self._descriptor = os.dup(1)
        os.dup2(2, 1)

    def __call__(self, event: str, **fields: object) -> None:
        """One event."""
        os.write(self._descriptor, json.dumps({"event": event, **fields}).encode() + b"\n")


class End:
    """One driver, and what it calls back, on threads of its own."""

    def __init__(self, role: str, adapter: str, checkout: Path, *, waits: bool) -> None:
        sys.path.insert(0, str(checkout / "src" / "RNS" / "Interfaces"))
        module = importlib.import_module("linux_bluetooth_driver")
        # Bleak takes any adapter that is on where none is named, as this driver leaves it.
        module.BleakScanner = functools.partial(module.BleakScanner, adapter=adapter)  # type: ignore[attr-defined]
        module.BleakClient = functools.partial(module.BleakClient, adapter=adapter)  # type: ignore[attr-defined]
        self.tell = Told()
        self._role = role
        self._dialling = False
        self._sighted: float | None = None
        self._address = ""
        self._lost = threading.Event()
        self.driver: Any = module.LinuxBluetoothDriver(adapter_index=int(adapter.removeprefix("hci")))
        if not waits:
            self.driver.set_service_discovery_delay(0.0)
        self.driver.on_device_discovered = self._on_discovered
        self.driver.on_device_connected = self._on_connected
        self.driver.on_device_disconnected = self._on_disconnected
        self.driver.on_data_received = self._on_data
        self.driver.on_mtu_negotiated = lambda _address, _mtu: None
        self.driver.on_error = lambda _severity, message, _error: self.tell("failed", why=str(message))

    def start(self) -> None:
        """Put it up; as peripheral it advertises."""
        self.driver.set_identity(IDENTITIES[self._role])
        self.driver.start(SERVICE, RX, TX, IDENTITY)
        self.driver.set_identity(IDENTITIES[self._role])
        if self._role == "peripheral":
            # The driver counts adapters in the order in which D-Bus names them.
            listed = importlib.import_module("bluezero.adapter").list_adapters()
            self.driver.gatt_server.adapter_index = listed.index(self.driver.get_local_address())
            self.driver.start_advertising(None, IDENTITIES[self._role])
        self.tell("ready")

    def obey(self, command: str) -> None:
        """`dial` or `close`."""
        if command == "dial":
            self._sighted, self._dialling = None, True
            self.driver.start_scanning()
        elif command == "close":
            self._lost.clear()
            self.driver.disconnect(self._address)
            self._lost.wait(LOST_WITHIN)
            self.tell("closed")

    def _on_discovered(self, device: Any) -> None:
        if self._dialling:
            # Told again in each of its scans: an attempt that has failed is made again then.
            if self._sighted is None:
                self._sighted = time.monotonic()
            self.driver.connect(device.address)

    def _on_connected(self, address: str, _identity: bytes | None) -> None:
        if self._role == "central":
            self._dialling, self._address = False, address
            self.tell("linked", sighted=self._sighted, at=time.monotonic())

    def _on_disconnected(self, _address: str) -> None:
        self._lost.set()
        if self._role == "peripheral":
            self.tell("ended")

    def _on_data(self, _address: str, _value: bytes) -> None:
        self.tell("shaken", at=time.monotonic())


def main() -> None:
    """Play one end."""
    parser = argparse.ArgumentParser(description="One end of a link over BlueZ, with ble-reticulum's driver.")
    parser.add_argument("role", choices=IDENTITIES)
    parser.add_argument("adapter")
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--without-wait", action="store_true")
    arguments = parser.parse_args()
    end = End(arguments.role, arguments.adapter, arguments.checkout, waits=not arguments.without_wait)
    end.start()
    for line in sys.stdin:
        end.obey(json.loads(line)["command"])
    # Its threads are daemons, and its goodbye may take longer than the process is given.
    os._exit(0)


if __name__ == "__main__":
    main()
