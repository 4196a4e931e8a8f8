"""A Reticulum node with ble-reticulum's interface, told what to do as `reticulum_node.py`.

    PYTHON reference_reticulum_node.py DIRECTORY MODULES ADAPTER

`DIRECTORY` is where its configuration goes, `MODULES` the folder of ble-reticulum's modules, `ADAPTER` for
example `hci0`. PYTHON has what they need (see `link_reference.py`); nothing of this package is imported. Its
interface is loaded as its documentation says, from Reticulum's folder `interfaces`, and only the adapter is
said, which its configuration has no key for. Both ways go JSON objects, one a line; the process ends with its
stdin.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import os
import select
import sys
import threading
import time
from pathlib import Path
from typing import Any

import RNS

POLL = 0.25
"""Seconds between two looks at the interface's peers."""

CONFIGURATION = """[reticulum]
  enable_transport = no
  share_instance = no

[logging]
  loglevel = 5

[interfaces]

  [[BLE Interface]]
    type = BLEInterface
    enabled = yes
"""

SHIM = "from BLEInterface import BLEInterface as interface_class\n"


class Events:
    """The way out, from any thread. Takes stdout for itself: what others print goes to stderr."""

    def __init__(self) -> None:
        self._descriptor = os.dup(1)
        os.dup2(2, 1)
        self._lock = threading.Lock()

    def tell(self, event: str, **fields: object) -> None:
        """One event."""
        with self._lock:
            os.write(self._descriptor, json.dumps({"event": event, **fields}).encode() + b"\n")


def bind(modules: str, adapter: str) -> None:
    """Have its interface's driver take this adapter: by itself it takes the first."""
    sys.path.insert(0, modules)
    driver: Any = importlib.import_module("linux_bluetooth_driver")
    driver.BleakScanner = functools.partial(driver.BleakScanner, adapter=adapter)
    driver.BleakClient = functools.partial(driver.BleakClient, adapter=adapter)

    class Bound(driver.LinuxBluetoothDriver):  # type: ignore[misc]
        def __init__(self, **settings: Any) -> None:
            super().__init__(**{**settings, "adapter_index": int(adapter.removeprefix("hci"))})

        def start_advertising(self, *settings: Any) -> None:
            # The driver counts adapters in the order in which D-Bus names them.
            listed = importlib.import_module("bluezero.adapter").list_adapters()
            self.gatt_server.adapter_index = listed.index(self.get_local_address())
            super().start_advertising(*settings)

    importlib.import_module("BLEInterface").BLEInterface.driver_class = Bound


class Node:
    """Reticulum, and a destination that takes Resources."""

    def __init__(self, directory: Path, events: Events) -> None:
        self._tell = events.tell
        self._peers: list[dict[str, object]] | None = None
        (directory / "interfaces").mkdir(parents=True)
        (directory / "interfaces" / "BLEInterface.py").write_text(SHIM)
        (directory / "config").write_text(CONFIGURATION)
        RNS.Reticulum(str(directory), logdest=RNS.LOG_FILE)
        self._identity = RNS.Identity()
        self._resources = self._destination(self._identity, RNS.Destination.IN)
        self._resources.set_link_established_callback(self._link_accepted)
        RNS.Transport.register_announce_handler(self)
        self._tell(
            "ready",
            identity=RNS.Transport.identity.hash.hex(),
            resources=self._resources.hash.hex(),
            interfaces=[str(interface) for interface in RNS.Transport.interfaces],
            RNS=RNS.__version__,
        )

    @staticmethod
    def _destination(identity: Any, direction: int) -> Any:
        return RNS.Destination(identity, direction, RNS.Destination.SINGLE, "rns_ble", "demo", "resource")

    # --- announces: Reticulum asks for these two names ---

    aspect_filter = None

    def received_announce(
        self, destination_hash: bytes, announced_identity: Any, app_data: bytes | None
    ) -> None:
        """Called by Reticulum, with keyword arguments of these names."""
        self._tell("announce", destination=destination_hash.hex())

    # --- commands ---

    def obey(self, command: str, fields: dict[str, Any]) -> None:
        """Do what a line asks for."""
        match command:
            case "announce":
                self._resources.announce()
            case "send_resource":
                self._send_resource(bytes.fromhex(fields["to"]), fields["size"])
            case "count_seconds":
                self._tell("seconds", cpu=time.process_time())
            case _:
                raise ValueError(f"unknown command {command!r}")

    def _send_resource(self, to: bytes, size: int) -> None:
        data = os.urandom(size)
        RNS.Link(
            self._destination(RNS.Identity.recall(to), RNS.Destination.OUT),
            established_callback=lambda link: self._link_established(link, data),
            closed_callback=lambda _link: self._tell("resource_link_closed"),
        )

    def _link_established(self, link: Any, data: bytes) -> None:
        began = time.monotonic()

        def concluded(resource: Any) -> None:
            if resource.status == RNS.Resource.COMPLETE:
                digest = hashlib.sha256(data).hexdigest()
                self._tell("resource_proved", sha256=digest, seconds=time.monotonic() - began)
            else:
                self._tell("resource_failed", status=resource.status)
            link.teardown()

        # Random data does not compress; trying would only cost time.
        RNS.Resource(data, link, callback=concluded, auto_compress=False)

    def _link_accepted(self, link: Any) -> None:
        link.set_resource_strategy(RNS.Link.ACCEPT_ALL)
        link.set_resource_concluded_callback(self._resource_received)

    def _resource_received(self, resource: Any) -> None:
        if resource.status == RNS.Resource.COMPLETE:
            self._tell("resource_received", sha256=hashlib.sha256(resource.data.read()).hexdigest())

    # --- peers ---

    def tell_peers(self) -> None:
        """Tell the peers of its interface when they are others than last time."""
        peers: list[dict[str, object]] = [
            {
                "identity": bytes(peer.peer_identity).hex(),
                "links": [{"role": interface.driver.get_peer_role(peer.peer_address)}],
            }
            for interface in list(RNS.Transport.interfaces)
            if type(interface).__name__ == "BLEInterface"
            for peer in list(interface.spawned_interfaces.values())
            if peer.online and peer.peer_identity
        ]
        if peers != self._peers:
            self._peers = peers
            self._tell("peers", peers=peers)


def main() -> None:
    """Run until stdin ends."""
    directory, modules, adapter = sys.argv[1:]
    events = Events()
    bind(modules, adapter)
    node = Node(Path(directory), events)
    pending = b""
    while True:
        node.tell_peers()
        if not select.select([0], [], [], POLL)[0]:
            continue
        received = os.read(0, 65536)
        if not received:
            break
        *lines, pending = (pending + received).split(b"\n")
        for line in lines:
            fields = json.loads(line)
            node.obey(fields.pop("command"), fields)
    os._exit(0)  # its threads would go on; the links end with the process


if __name__ == "__main__":
    main()
