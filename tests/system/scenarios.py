"""What the tests do in a process with a real Reticulum: `python -m tests.system.scenarios NAME DIRECTORY`.

What a scenario returns is left in the file `result`, as JSON with bytes as hexadecimal digits.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import RNS
import trio
from RNS.Interfaces.Interface import Interface

from rns_ble.config import BLEConfig
from rns_ble.interface import INHERITED, BLEInterface, BLEPeerInterface
from tests.system.neighbour import NeighbourDriver, Neighbourly, until

Scenario = Callable[[RNS.Reticulum], Any]
SCENARIOS: dict[str, Scenario] = {}


def scenario(function: Scenario) -> Scenario:
    SCENARIOS[function.__name__] = function
    return function


def interfaces() -> list[Neighbourly]:
    return [interface for interface in RNS.Transport.interfaces if isinstance(interface, Neighbourly)]


def peers() -> list[BLEPeerInterface]:
    return [interface for interface in RNS.Transport.interfaces if isinstance(interface, BLEPeerInterface)]


def linked(count: int = 1) -> tuple[Neighbourly, BLEPeerInterface]:
    """The interface and its peer, when the neighbour is there."""
    until(lambda: len(peers()) == count)
    parent = interfaces()[0]
    until(lambda: parent.clients == 1)
    return parent, parent.spawned_interfaces[0]


def local_destination() -> RNS.Destination:
    return RNS.Destination(RNS.Identity(), RNS.Destination.IN, RNS.Destination.SINGLE, "test")


def announce() -> tuple[bytes, bytes]:
    """The announce of a destination that is elsewhere: (its hash, packet)."""
    destination = local_destination()
    packet = destination.announce(send=False)
    packet.pack()
    RNS.Transport.deregister_destination(destination)
    return destination.hash, packet.raw


def statistics(reticulum: RNS.Reticulum, interface: Interface) -> dict[str, Any]:
    for statistics in reticulum.get_interface_stats()["interfaces"]:
        if statistics["name"] == str(interface):
            return statistics
    raise AssertionError(f"no {interface}")


def ours() -> tuple[set[str], set[str]]:
    """Names of our threads, and what the process's file descriptors are."""
    threads = {thread.name for thread in threading.enumerate()}
    files = {f"{fd} {os.readlink(fd)}" for fd in Path("/proc/self/fd").iterdir() if fd.exists()}
    return {name for name in threads if "BLEInterface" in name}, files


@scenario
def constructor_starts_nothing(reticulum: RNS.Reticulum) -> Any:
    driver = NeighbourDriver(BLEConfig())
    interface = BLEInterface(RNS.Transport, {"name": "Quiet"}, driver)
    threads, _ = ours()
    result = {
        "threads": sorted(threads),
        "online": interface.online,
        "snapshot": interface.snapshot(),
        "the driver given": interface.driver is driver,
    }
    interface.detach()
    interface.final_init()
    return {**result, "threads when detached before": len(ours()[0])}


@scenario
def one_peer(reticulum: RNS.Reticulum) -> Any:
    parent, peer = linked()
    until(lambda: parent.snapshot().peers)
    return {
        "parent": str(parent),
        "peer": str(peer),
        "spawned": [str(interface) for interface in parent.spawned_interfaces],
        "online": [parent.online, peer.online],
        "differs": [
            name
            for name in INHERITED
            if hasattr(parent, name) and getattr(peer, name) != getattr(parent, name)
        ],
        "mode": peer.mode,
        "bitrate": peer.bitrate,
        "announce_cap": peer.announce_cap,
        "ic_burst_hold": peer.ic_burst_hold,
        "snapshot": parent.snapshot().peers[0].identity,
        "statistics": {"parent": statistics(reticulum, parent), "peer": statistics(reticulum, peer)},
        "found by name": {i.name: str(i) for i in RNS.Transport.interfaces},
    }


@scenario
def traffic(reticulum: RNS.Reticulum) -> Any:
    parent, peer = linked()
    until(lambda: parent.neighbour.packets or parent.online)
    parent.neighbour.packets.clear()
    packet = local_destination().announce(send=False)
    packet.send()
    elsewhere, raw = announce()
    parent.neighbour.send(raw)
    until(lambda: RNS.Transport.has_path(elsewhere))
    until(lambda: packet.raw in parent.neighbour.packets)
    time.sleep(0.2)  # for a second copy, which must not come
    return {
        "copies": parent.neighbour.packets.count(packet.raw),
        "path over": str(RNS.Transport.next_hop_interface(elsewhere)),
        "received": [peer.rxb, parent.rxb, len(raw)],
        "sent": [peer.txb, parent.txb, sum(map(len, parent.neighbour.packets))],
        "announces": [[peer.arxc, peer.atxc], [parent.arxc, parent.atxc]],
        "violations": peer.protocol_violations,
    }


@scenario
def peer_goes_and_comes_back(reticulum: RNS.Reticulum) -> Any:
    parent, peer = linked()
    elsewhere, raw = announce()
    parent.neighbour.send(raw)
    until(lambda: RNS.Transport.has_path(elsewhere))
    peer.announce_queue = [{"destination": b"", "time": time.time(), "hops": 1, "emitted": 0, "raw": raw}]
    held = RNS.Packet(None, raw)
    held.unpack()
    peer.hold_announce(held)
    parent.separate()
    until(lambda: not peers())
    until(lambda: not parent.clients)
    result = {
        "gone": [peer.online, peer.detached, peer.IN, peer.OUT],
        "queued": [len(peer.announce_queue), len(peer.held_announces)],
        "parent online": parent.online,
    }
    drops = peer.tx_drops, parent.tx_drops
    peer.process_outgoing(b"lost")
    result["drops"] = [peer.tx_drops - drops[0], parent.tx_drops - drops[1], parent.tx_dropped_bytes]
    peer.process_incoming(b"lost")
    peer.detach()
    peer.teardown()
    until(lambda: not RNS.Transport.has_path(elsewhere))
    parent.unite()
    _, again = linked()
    result["the same again"] = [str(again) == str(peer), again.get_hash() == peer.get_hash(), again is peer]
    return result


@scenario
def full_queue(reticulum: RNS.Reticulum) -> Any:
    """More packets at once than `outgoing_queue`: what is refused is counted, what is sent, too."""
    parent, peer = linked()
    packets = [bytes([1]) * 400] * 200
    drops, sent = peer.tx_drops, peer.txb

    def burst() -> None:
        for packet in packets:  # while the sender can't run
            peer.process_outgoing(packet)

    parent.on_trio_thread(burst)
    dropped = peer.tx_drops - drops
    accepted = (peer.txb - sent) // 400

    async def hang(_value: bytes) -> None:
        await trio.sleep_forever()

    def take_nothing_more() -> None:
        for other in parent._mesh.peers.values():
            for link in other.links:
                link.send = hang

    until(lambda: not len(peer._outgoing))
    parent.on_trio_thread(take_nothing_more)
    for packet in packets[:10]:
        peer.process_outgoing(packet)
    until(lambda: len(peer.transmit_buffer) == 9 * 400)  # one is in hand
    return {
        "accepted": accepted,
        "waiting": statistics(reticulum, peer)["txbuffered"],
        "dropped": dropped,
        "bytes": peer.tx_dropped_bytes,
        "parent": [parent.tx_drops, parent.tx_dropped_bytes, parent.txb == peer.txb],
        "statistics": [statistics(reticulum, i)[key] for i in (peer, parent) for key in ("txdrp", "txdrb")],
    }


@scenario
def passphrase(reticulum: RNS.Reticulum) -> Any:
    parent, peer = linked()
    packet = local_destination().announce(send=False)
    packet.send()
    until(lambda: parent.neighbour.packets)
    closed, raw = announce()
    parent.neighbour.send(raw)  # without the access code
    until(lambda: peer.ifac_violations)
    opened, raw = announce()
    parent.neighbour.send(RNS.Transport.handle_outgoing_ifac(parent, raw))
    until(lambda: RNS.Transport.has_path(opened))
    return {
        "path without code": RNS.Transport.has_path(closed),
        "sent with code": [raw[0] & 0x80 for raw in parent.neighbour.packets],
        "longest": max(map(len, parent.neighbour.packets)) - len(packet.raw),
        "violations": peer.ifac_violations,
        "same code": peer.ifac_identity is parent.ifac_identity,
    }


@scenario
def full_size_packet_with_passphrase(reticulum: RNS.Reticulum) -> Any:
    """A packet of Reticulum's MTU grows by the access code; it goes both ways whole."""
    parent, peer = linked()
    raw = os.urandom(RNS.Reticulum.MTU)
    raw = bytes([raw[0] & 0x7F]) + raw[1:]
    RNS.Transport.transmit(peer, raw)
    until(lambda: any(len(packet) > RNS.Reticulum.MTU for packet in parent.neighbour.packets))
    sent = max(parent.neighbour.packets, key=len)
    received = peer.rxb
    parent.neighbour.send(sent)
    until(lambda: peer.rxb > received)
    return {
        "longer": len(sent) - len(raw),
        "received": peer.rxb - received,
        "violations": peer.ifac_violations,
    }


@scenario
def packets_during_detach(reticulum: RNS.Reticulum) -> Any:
    parent, peer = linked()
    over = threading.Event()
    errors: list[str] = []
    calls = [0] * 4

    def send(number: int) -> None:
        try:
            while not over.is_set():
                peer.process_outgoing(bytes(400))
                calls[number] += 1
        except Exception as error:
            errors.append(repr(error))
            raise

    threads = [threading.Thread(target=send, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    until(lambda: peer.tx_drops and peer.txb)
    parent.detach()
    after = sum(calls)
    until(lambda: sum(calls) > after + 1000)
    over.set()
    for thread in threads:
        thread.join()
    sent = peer.txb
    peer.process_outgoing(b"more")
    return {"errors": errors, "sent more": peer.txb - sent, "peers": len(peers()), "threads": len(ours()[0])}


@scenario
def detach(reticulum: RNS.Reticulum) -> Any:
    (parent,) = interfaces()
    before: tuple[set[str], set[str]] = (set(), set())
    results = []
    for _ in range(3):
        (parent,) = interfaces()
        linked()
        while_up = ours()[0]
        threads = [threading.Thread(target=parent.detach) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        parent.detach()
        after = ours()
        results.append(
            {
                "threads while up": len(while_up),
                "threads": sorted(after[0]),
                "new files": sorted(after[1] - before[1]) if before[1] else [],
                "online": parent.online,
                "peers": len(peers()),
                "clients": parent.clients,
            }
        )
        before = after
        assert reticulum._reload_interface(parent.name)
    return results


@scenario
def crash(reticulum: RNS.Reticulum) -> Any:
    parent, peer = linked()

    def bug() -> None:
        raise RuntimeError("a bug of ours")

    parent._host._token.run_sync_soon(bug)
    until(lambda: not parent.online)
    until(lambda: not peers())
    peer.process_outgoing(b"nowhere")
    until(lambda: not ours()[0])
    return {"online": [parent.online, peer.online], "snapshot": parent.snapshot()}


@scenario
def driver_fails_and_recovers(reticulum: RNS.Reticulum) -> Any:
    parent, _ = linked()
    parent.on_trio_thread(parent.driver.fail)
    until(lambda: not parent.online)
    until(lambda: not peers())
    parent.on_trio_thread(parent.driver.repair)
    _, again = linked()
    return {"online": [parent.online, again.online], "peer": str(again)}


@scenario
def two_interfaces(reticulum: RNS.Reticulum) -> Any:
    linked(2)
    one, other = interfaces()
    until(lambda: one.clients == other.clients == 1)
    one.detach()
    until(lambda: len(peers()) == 1)
    return {
        "parents": sorted(map(str, interfaces())),
        "left": [str(peer) for peer in peers()],
        "online": {str(interface): interface.online for interface in (one, other)},
    }


@scenario
def inbound_fails(reticulum: RNS.Reticulum) -> Any:
    """Reticulum's own inbound catches all it can; what comes through must not end the delivery."""
    parent, peer = linked()
    calls = []

    class Owner:
        @staticmethod
        def inbound(data: bytes, interface: Interface) -> None:
            calls.append(data)
            if len(calls) == 1:
                raise RuntimeError("a bug of Reticulum")

    peer.owner = Owner
    parent.neighbour.send(b"one packet")
    parent.neighbour.send(b"and another")
    until(lambda: len(calls) == 2)
    return [data.decode() for data in calls]


@scenario
def leave_by_the_end_of_the_program(reticulum: RNS.Reticulum) -> Any:
    parent, _ = linked()
    return str(parent)


def main() -> None:
    name, directory = sys.argv[1:]
    # Registered before Reticulum's, so called after it.
    atexit.register(lambda: Path(directory, "at the end").write_text(json.dumps(sorted(ours()[0]))))
    warnings.filterwarnings("error", module=r"rns_ble(\..*)?$")
    result = SCENARIOS[name](RNS.Reticulum(directory))
    Path(directory, "result").write_text(json.dumps(result, default=lambda value: value.hex()))


if __name__ == "__main__":
    main()
