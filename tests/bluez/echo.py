"""A node in a process of its own, which sends back each packet that it gets: echo ADAPTER INDEX.

It runs until it is killed.
"""

from __future__ import annotations

import sys

import trio

from rns_ble.config import BLEConfig
from rns_ble.drivers.bluez import BleakDriver
from rns_ble.peer import Peer
from tests.nodes import Node


class Echo(Node):
    def packet_received(self, peer: Peer, packet: bytes) -> None:
        super().packet_received(peer, packet)
        peer.outgoing.put(packet)


if __name__ == "__main__":
    _, adapter, index = sys.argv
    trio.run(Echo(None, int(index), BLEConfig(power_mode="aggressive"), BleakDriver(adapter)).run)
