"""A program on Reticulum, as others start it: it announces itself, and whoever it hears gets a packet.

`python -m tests.system.driver_node DIRECTORY ALIASES`: `aliases` where the interface in DIRECTORY needs them.
"""

from __future__ import annotations

import signal
import sys
import threading
import time

import RNS

from rns_ble.drivers.threaded import install_aliases
from rns_ble.interface import BLEInterface, BLEPeerInterface


class Handler:
    aspect_filter = "rns_ble.driver_node"

    def received_announce(self, destination_hash, announced_identity, app_data) -> None:
        to = RNS.Destination(
            announced_identity, RNS.Destination.OUT, RNS.Destination.SINGLE, "rns_ble", "driver_node"
        )
        receipt = RNS.Packet(to, bytes(range(256)) + bytes(100)).send()
        if receipt:
            receipt.set_delivery_callback(lambda _receipt: RNS.log("proved"))


def main() -> None:
    directory, aliases = sys.argv[1:]
    if aliases == "aliases":
        install_aliases()
    RNS.Reticulum(directory)
    own = RNS.Destination(
        RNS.Identity(), RNS.Destination.IN, RNS.Destination.SINGLE, "rns_ble", "driver_node"
    )
    own.set_proof_strategy(RNS.Destination.PROVE_ALL)
    own.set_packet_callback(lambda data, _packet: RNS.log(f"received {len(data)} bytes"))
    RNS.Transport.register_announce_handler(Handler())
    over = threading.Event()
    signal.signal(signal.SIGUSR1, lambda *_: over.set())
    [interface] = [one for one in RNS.Transport.interfaces if isinstance(one, BLEInterface)]
    RNS.log(f"driver {type(interface.driver).__name__} {vars(interface.driver).get('power')}")
    while not any(isinstance(one, BLEPeerInterface) and one.online for one in RNS.Transport.interfaces):
        time.sleep(0.05)
    while not over.wait(0.5):
        own.announce()


if __name__ == "__main__":
    main()
