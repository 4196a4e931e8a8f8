"""One Reticulum node of the demo: told what to do on stdin, it tells what happened on stdout.

    python -m rns_ble.cli.demo.node DIRECTORY

`DIRECTORY` is a Reticulum configuration directory. Both ways go JSON objects, one a line: commands
(`{"command": "announce", …}`) in, events (`{"event": "announce", …}`) out. The process ends with its stdin,
so it never outlives whoever started it.

It is an ordinary Reticulum program: RNS brings its own threads and calls back on them, LXMF likewise.
Nothing here knows anything of Bluetooth but the names in `_peers`.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import LXMF
import RNS

POLL: Final = 0.25
"""Seconds between two looks at the interface's peers; a change is told then."""

PROGRESS_INTERVAL: Final = 0.5
"""Seconds between two words about a transfer that is under way."""


class Events:
    """The way out: whole lines from any thread.

    Takes the process's stdout for itself: what RNS or anybody else prints goes to stderr instead.
    """

    def __init__(self) -> None:
        self._descriptor = os.dup(1)
        os.dup2(2, 1)
        self._lock = threading.Lock()

    def tell(self, event: str, **fields: object) -> None:
        """Write one event. Waits while the reader is slow."""
        line = json.dumps({"event": event, **fields}).encode() + b"\n"
        with self._lock:
            while line:
                line = line[os.write(self._descriptor, line) :]


class AnnounceHandler:
    """Tells every announce that this node hears. Reticulum asks for these two names."""

    aspect_filter = None

    def __init__(self, events: Events) -> None:
        self._events = events

    def received_announce(
        self, destination_hash: bytes, announced_identity: Any, app_data: bytes | None
    ) -> None:
        """Called by Reticulum, on a thread of its own, with keyword arguments of these names."""
        self._events.tell(
            "announce", destination=destination_hash.hex(), hops=RNS.Transport.hops_to(destination_hash)
        )


class Node:
    """A Reticulum instance with an LXMF router and a destination that takes Resources."""

    def __init__(self, directory: Path, events: Events) -> None:
        self._events = events
        self._told_peers: list[dict[str, object]] | None = None
        self.reticulum = RNS.Reticulum(str(directory), logdest=RNS.LOG_FILE)
        identity_file = directory / "identity"
        if identity_file.is_file():
            self.identity = RNS.Identity.from_file(str(identity_file))
        else:
            self.identity = RNS.Identity()
            self.identity.to_file(str(identity_file))
        RNS.Transport.register_announce_handler(AnnounceHandler(events))
        self.router = LXMF.LXMRouter(identity=self.identity, storagepath=str(directory))
        self.delivery = self.router.register_delivery_identity(self.identity, display_name="rns-ble demo")
        self.router.register_delivery_callback(self._message_received)
        self.resources = RNS.Destination(
            self.identity, RNS.Destination.IN, RNS.Destination.SINGLE, "rns_ble", "demo", "resource"
        )
        self.resources.set_link_established_callback(self._link_accepted)

    def tell_ready(self) -> None:
        """Say who this node is, and which interfaces came up."""
        self._events.tell(
            "ready",
            identity=RNS.Transport.identity.hash.hex(),
            delivery=self.delivery.hash.hex(),
            resources=self.resources.hash.hex(),
            interfaces=[str(interface) for interface in RNS.Transport.interfaces],
        )

    # --- commands ---

    def obey(self, command: str, fields: dict[str, Any]) -> None:
        """Do what a line asks for. An unknown command is a bug of the other side's, and raises."""
        match command:
            case "announce":
                (self.delivery if fields["what"] == "delivery" else self.resources).announce()
            case "send_message":
                self._send_message(bytes.fromhex(fields["to"]), fields["content"])
            case "send_resource":
                self._send_resource(bytes.fromhex(fields["to"]), fields["size"])
            case "count_packets":
                self._events.tell("packets", by_identity=_packets())
            case _:
                raise ValueError(f"unknown command {command!r}")

    def _send_message(self, to: bytes, content: str) -> None:
        identity = RNS.Identity.recall(to)
        if identity is None:
            self._events.tell("message_failed", content=content, reason="its announce has not been heard")
            return
        destination = RNS.Destination(
            identity, RNS.Destination.OUT, RNS.Destination.SINGLE, "lxmf", "delivery"
        )
        message = LXMF.LXMessage(
            destination, self.delivery, content, "rns-ble demo", desired_method=LXMF.LXMessage.DIRECT
        )
        message.register_delivery_callback(lambda _: self._events.tell("message_proved", content=content))
        message.register_failed_callback(
            lambda _: self._events.tell("message_failed", content=content, reason="LXMF gave up")
        )
        self.router.handle_outbound(message)

    def _message_received(self, message: Any) -> None:
        self._events.tell(
            "message_received",
            content=message.content_as_string(),
            source=message.source_hash.hex(),
            signature_valid=message.signature_validated,
        )

    def _send_resource(self, to: bytes, size: int) -> None:
        identity = RNS.Identity.recall(to)
        if identity is None:
            self._events.tell("resource_failed", reason="its announce has not been heard")
            return
        destination = RNS.Destination(
            identity, RNS.Destination.OUT, RNS.Destination.SINGLE, "rns_ble", "demo", "resource"
        )
        RNS.Link(
            destination,
            established_callback=lambda link: self._link_established(link, os.urandom(size)),
            closed_callback=lambda link: self._events.tell(
                "resource_link_closed", established=link.activated_at is not None
            ),
        )

    def _link_established(self, link: Any, data: bytes) -> None:
        digest = hashlib.sha256(data).hexdigest()
        began = told = time.monotonic()

        def concluded(resource: Any) -> None:
            if resource.status == RNS.Resource.COMPLETE:
                seconds = time.monotonic() - began
                self._events.tell("resource_proved", bytes=len(data), sha256=digest, seconds=seconds)
            else:
                self._events.tell(
                    "resource_failed", reason=f"RNS ended the transfer with status {resource.status}"
                )
            link.teardown()

        def progress(resource: Any) -> None:
            nonlocal told
            if time.monotonic() - told >= PROGRESS_INTERVAL:
                told = time.monotonic()
                self._events.tell("resource_progress", fraction=resource.get_progress())

        # Random data does not compress; trying would only cost time.
        RNS.Resource(data, link, callback=concluded, progress_callback=progress, auto_compress=False)

    def _link_accepted(self, link: Any) -> None:
        link.set_resource_strategy(RNS.Link.ACCEPT_ALL)
        link.set_resource_concluded_callback(self._resource_received)

    def _resource_received(self, resource: Any) -> None:
        if resource.status != RNS.Resource.COMPLETE:
            self._events.tell(
                "resource_failed", reason=f"RNS ended the reception with status {resource.status}"
            )
            return
        data = resource.data.read()
        self._events.tell("resource_received", bytes=len(data), sha256=hashlib.sha256(data).hexdigest())

    # --- peers ---

    def tell_peers(self) -> None:
        """Tell the BLE peers when they are others than last time."""
        peers = _peers()
        if peers != self._told_peers:
            self._told_peers = peers
            self._events.tell("peers", peers=peers)


def _statuses() -> list[tuple[str, Any]]:
    """For each peer of each BLE interface, the interface's name and a `rns_ble.status.PeerStatus`."""
    return [
        (interface.name, peer)
        for interface in list(RNS.Transport.interfaces)
        if type(interface).__name__ == "BLEInterface" and (mesh := interface.snapshot()) is not None
        for peer in mesh.peers
    ]


def _peers() -> list[dict[str, object]]:
    """Each linked BLE peer of each interface: its identity, and what there is to say of each link to it."""
    return [
        {
            "identity": peer.identity,
            "links": [
                {
                    "interface": interface,
                    "address": link.address,
                    "role": link.role,
                    "att_mtu": link.att_mtu,
                    "data_path": link.data_path,
                }
                for link in peer.links
            ],
        }
        for interface, peer in _statuses()
        if peer.links
    ]


def _packets() -> dict[str, dict[str, int]]:
    """Identity → packets over the air from and to it, whether Reticulum wanted them or not."""
    packets: dict[str, Counter[str]] = {}
    for _, peer in _statuses():
        counted = {
            "received": peer.rx_packets,
            "sent": peer.tx_packets,
            "dropped": peer.tx_dropped,
            "incomplete": peer.rx_incomplete,
        }
        packets.setdefault(peer.identity, Counter()).update(counted)
    return {identity: dict(counted) for identity, counted in packets.items()}


def main(node_type: type[Node] = Node) -> None:
    """Run until stdin ends."""
    events = Events()
    node = node_type(Path(sys.argv[1]), events)
    node.tell_ready()
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
    node.router.exit_handler()
    RNS.exit()


if __name__ == "__main__":
    main()
