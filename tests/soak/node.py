"""A node of the demo that also tells how it is, and loses links when told to.

    python -m tests.soak.node DIRECTORY

Where `SOAK_VALUES_A_SECOND` is set its links are that slow, as on a radio. With `SOAK_ORDER=arrival` its
packets leave in the order in which they came.
"""

from __future__ import annotations

import gc
import hashlib
import os
import random
import resource
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import RNS
import trio

import rns_ble.interface
from rns_ble.cli.demo import node
from rns_ble.mesh import Mesh
from rns_ble.session import Session

PAGE = resource.getpagesize()


def interface() -> Any:
    return next(i for i in RNS.Transport.interfaces if type(i).__name__ == "BLEInterface")


def on_trio(function: Any) -> Any:
    """Call it with the mesh on the Trio thread; None while there is no mesh."""
    mesh = interface()._mesh
    return None if mesh is None else interface()._host.ask(lambda: function(mesh))


def inside(mesh: Mesh) -> dict[str, int]:
    status = mesh.status()
    admission = mesh.admission
    return {
        "tasks": trio.lowlevel.current_statistics().tasks_living,
        "links": status.links,
        "peers": len(status.peers),
        "queued": sum(peer.tx_queued for peer in status.peers),
        "incomplete": sum(peer.rx_incomplete for peer in status.peers),
        "candidates": len(admission.candidates),
        "places": int(admission.places.borrowed_tokens),
        "attempts": len(status.attempts_in_flight),
        "radio": int(admission.radio.borrowed_tokens),
        "strangers": int(mesh._strangers.borrowed_tokens),
    }


def lose_a_link(mesh: Mesh) -> bool:
    """As if out of range: nobody above the driver has asked for it."""
    links = [link for peer in mesh.peers.values() for link in peer.links]
    if not links:
        return False
    trio.lowlevel.spawn_system_task(random.choice(links).aclose)
    return True


def our_objects() -> Counter[str]:
    """Live objects of classes of this package, by class."""
    kinds = map(type, gc.get_objects())
    return Counter(kind.__qualname__ for kind in kinds if kind.__module__.startswith("rns_ble"))


def size_of_set(hashes: set[bytes]) -> int:
    """Bytes of Reticulum's list of all packets that it has seen, which grows to 500,000 of them."""
    return sys.getsizeof(hashes) + len(hashes) * sys.getsizeof(bytes(RNS.Identity.HASHLENGTH // 8))


def taker(to: bytes) -> RNS.Destination:
    """A destination that takes Resources, in another node."""
    aspects = ("rns_ble", "demo", "resource")
    return RNS.Destination(RNS.Identity.recall(to), RNS.Destination.OUT, RNS.Destination.SINGLE, *aspects)


class SoakNode(node.Node):
    def obey(self, command: str, fields: dict[str, Any]) -> None:
        match command:
            case "sample":
                self._sample(fields["number"], objects=fields["objects"])
            case "lose_a_link":
                on_trio(lose_a_link)
            case "send_tagged":
                self._send_tagged(bytes.fromhex(fields["to"]), fields["size"], fields["tag"])
            case "link":
                self._time_a_link(bytes.fromhex(fields["to"]))
            case _:
                super().obey(command, fields)

    def _sample(self, number: int, *, objects: bool) -> None:
        ble = interface()
        classes: Counter[str] = Counter()
        if objects:
            gc.collect()
            classes = our_objects()
        self._events.tell(
            "sample",
            number=number,
            rss=int(Path("/proc/self/statm").read_text().split()[1]) * PAGE,
            fds=len(os.listdir("/proc/self/fd")) - 1,
            threads=threading.active_count(),
            cpu=sum(os.times()[:2]),
            dropped=ble.tx_drops,
            not_delivered=ble.packets_dropped,
            objects=classes.total() if objects else None,
            classes=classes,
            known=len(RNS.Identity.known_destinations),
            hashes=len(RNS.Transport.packet_hashlist),
            hashes_bytes=size_of_set(RNS.Transport.packet_hashlist),
            rns_links=len(RNS.Transport.active_links) + len(RNS.Transport.pending_links),
            **(on_trio(inside) or {}),
        )

    def _send_tagged(self, to: bytes, size: int, tag: int) -> None:
        """Send a Resource, and tell once what became of it."""
        data = os.urandom(size)
        told = threading.Lock()

        def tell(*, proved: bool) -> None:
            if told.acquire(blocking=False):
                self._events.tell("sent", tag=tag, proved=proved, sha256=hashlib.sha256(data).hexdigest())

        def concluded(sent: Any) -> None:
            tell(proved=sent.status == RNS.Resource.COMPLETE)
            sent.link.teardown()

        RNS.Link(
            taker(to),
            established_callback=lambda link: RNS.Resource(
                data, link, callback=concluded, auto_compress=False
            ),
            closed_callback=lambda _link: tell(proved=False),
        )

    def _time_a_link(self, to: bytes) -> None:
        """Tell how long Reticulum takes for a link: one small packet there, one back."""

        def established(link: Any) -> None:
            self._events.tell("link_established", seconds=link.rtt)
            link.teardown()

        def closed(link: Any) -> None:
            if link.activated_at is None:
                self._events.tell("link_established", seconds=None)

        RNS.Link(taker(to), established_callback=established, closed_callback=closed)


def slow_down(values_a_second: float) -> None:
    """Let each session's values leave at that rate."""
    send = Session.send
    turn: WeakKeyDictionary[Session, trio.StrictFIFOLock] = WeakKeyDictionary()

    async def slowly(session: Session, *arguments: Any) -> None:
        async with turn.setdefault(session, trio.StrictFIFOLock()):
            await trio.sleep(1 / values_a_second)
            await send(session, *arguments)

    Session.send = slowly  # type: ignore[method-assign]


if __name__ == "__main__":
    if "SOAK_VALUES_A_SECOND" in os.environ:
        slow_down(float(os.environ["SOAK_VALUES_A_SECOND"]))
    if os.environ.get("SOAK_ORDER") == "arrival":
        rns_ble.interface.flow_of = lambda _packet: (b"", False)
    node.main(SoakNode)
