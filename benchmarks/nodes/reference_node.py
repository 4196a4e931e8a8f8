"""One end of a link of ble-reticulum's: told what to do on stdin, it tells what happened on stdout.

    python reference_node.py MODULES ADAPTER

`MODULES` is the folder of ble-reticulum's modules, `ADAPTER` for example `hci0`. Both ways go JSON objects,
one a line, as with `bluez_node.py`, whose commands and events these are. The process ends with its stdin.

Its Bluetooth driver is used as its interface uses it: callbacks, and `send` on a thread of the caller's. What
it needs is ble-reticulum's (see `link_reference.py`), and nothing of this package or of Trio is there.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import json
import os
import platform
import sys
import threading
import time
import traceback
from typing import Any

SERVICE, RX, TX, IDENTITY = (f"37145b00-442d-4a94-917f-8f42c5da28{end}" for end in ("e3", "e5", "e4", "e6"))
"""The protocol's UUIDs."""


PROBE = 100
STAMP = 8
"""Bytes, as with `bluez_node.py`: of a value whose way is timed, and of the time in its begin."""

LIBRARIES = ("bleak", "bluezero", "dbus-python", "rns")


def versions() -> dict[str, str]:
    """Of what it runs on."""
    found = {"Python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:  # a package of the system's may say none
            found[library] = "unknown"
    return found


class Node:
    """The driver, and what it has told."""

    def __init__(self, modules: str, adapter: str) -> None:
        self._out = os.dup(1)
        os.dup2(2, 1)  # whatever else is printed is a log
        self._lock = threading.Lock()
        sys.path.insert(0, modules)
        module: Any = importlib.import_module("linux_bluetooth_driver")
        if not module.BLUEZERO_AVAILABLE:
            raise ImportError("its Python lacks bluezero, or what that needs")
        # On a machine with several adapters bleak 1.1.1 takes any of them unless it is told which.
        module.BleakScanner = functools.partial(module.BleakScanner, adapter=adapter)
        module.BleakClient = functools.partial(module.BleakClient, adapter=adapter)
        self._adapter = adapter
        self._found = ""  # whom to connect to when it is seen
        self._sighted = 0.0
        self._peer = ""
        self._size = 0
        self._begin(0)
        self.driver = module.LinuxBluetoothDriver(adapter_index=int(adapter.removeprefix("hci")))
        self.driver.on_device_discovered = self._on_device_discovered
        self.driver.on_device_connected = self._on_device_connected
        self.driver.on_data_received = self._on_data_received
        self.driver.on_error = lambda severity, message, _error: self.tell(
            "error", severity=severity, reason=str(message)
        )

    def tell(self, event: str, **fields: object) -> None:
        """Write one event, from any thread."""
        with self._lock:
            os.write(self._out, json.dumps({"event": event, **fields}).encode() + b"\n")

    def start(self) -> None:
        """Its interface starts it so; the peripheral's GATT server is there when it advertises."""
        self.driver.start(SERVICE, RX, TX, IDENTITY)
        self.driver.set_identity(os.urandom(16))
        self.tell("ready", address=self.driver.get_local_address(), versions=versions())

    # --- callbacks, on threads of the driver's ---

    def _on_device_discovered(self, device: Any) -> None:
        if device.address == self._found:
            # Told again in each of its scans: an attempt that has failed is made again then.
            self._sighted = self._sighted or time.monotonic()
            self.driver.connect(device.address)

    def _on_device_connected(self, address: str, _identity: bytes | None = None) -> None:
        self._peer, self._found = address, ""
        if self._sighted:  # we are the central
            seconds = time.monotonic() - self._sighted
            self.driver.stop_scanning()
            self.tell("connected", seconds=seconds, att_mtu=self.driver.get_peer_mtu(address))

    def _on_data_received(self, _address: str, data: bytes) -> None:
        if len(data) == PROBE:
            self._delays.append((time.monotonic_ns() - int.from_bytes(data[:STAMP], "big")) / 1e6)
        if len(data) != self._size:
            return  # the handshake, for example
        self._last = time.monotonic()
        if not self._values:
            self._first = self._last
        self._values += 1

    # --- commands ---

    def _begin(self, size: int) -> None:
        """Values of this size, and probes, count from now on."""
        self._delays: list[float] = []
        self._values, self._first, self._last = 0, 0.0, 0.0
        self._size = size

    def obey(self, command: str, fields: dict[str, Any]) -> None:
        """Do what a line asks for."""
        match command:
            case "advertise":
                self._advertise()
            case "connect":
                self._found = fields["address"]
                self.driver.start_scanning()
            case "begin":
                self._begin(fields["size"])
                self.tell("began", cpu=time.process_time())
            case "send":
                self._send(fields["count"], fields["size"])
            case "report":
                self.tell(
                    "report",
                    values=self._values,
                    seconds=self._last - self._first,
                    cpu=time.process_time(),
                    delays=self._delays,
                )
            case "probe":
                self._probe(fields["count"], fields["every"], fields["size"])
            case _:
                raise ValueError(f"unknown command {command!r}")

    def _advertise(self) -> None:
        # The driver counts adapters in the order in which D-Bus names them.
        listed = importlib.import_module("bluezero.adapter").list_adapters()
        address = self.driver.get_local_address()
        self.driver.gatt_server.adapter_index = listed.index(address)
        self.driver.start_advertising(None, os.urandom(16))
        self.tell("advertising")

    def _send(self, count: int, size: int) -> None:
        value = bytes(size)
        began = time.monotonic()
        try:
            for _ in range(count):
                self.driver.send(self._peer, value)
        except Exception as error:  # noqa: BLE001 - whatever it raises
            traceback.print_exc()
            self.tell("failed", reason=f"{type(error).__name__}: {error}")
        else:
            self.tell("sent", seconds=time.monotonic() - began)

    def _probe(self, count: int, every: float, size: int) -> None:
        """Probes, one each so many seconds, and between them values of this size without a pause; 0: none."""
        over = threading.Event()
        failures: list[Exception] = []

        def flood() -> None:
            try:
                while not over.is_set():
                    self.driver.send(self._peer, bytes(size))
            except Exception as error:  # noqa: BLE001 - told by the other thread
                failures.append(error)

        thread = threading.Thread(target=flood, daemon=True)
        try:
            if size:
                thread.start()
            for _ in range(count):
                time.sleep(every)
                if failures:
                    raise failures[0]
                stamp = time.monotonic_ns().to_bytes(STAMP, "big")
                self.driver.send(self._peer, stamp.ljust(PROBE, b"\0"))
        except Exception as error:  # noqa: BLE001 - whatever it raises
            traceback.print_exc()
            self.tell("failed", reason=f"{type(error).__name__}: {error}")
        else:
            self.tell("probed")
        finally:
            over.set()
            if size:
                thread.join()


def main() -> None:
    """Run until stdin ends."""
    node = Node(*sys.argv[1:])
    node.start()
    for line in sys.stdin:
        fields = json.loads(line)
        node.obey(fields.pop("command"), fields)
    os._exit(0)  # its threads would go on; the links end with the process


if __name__ == "__main__":
    main()
