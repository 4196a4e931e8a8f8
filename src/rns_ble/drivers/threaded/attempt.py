"""A connect that is under way, and the handshake of drivers that leave it to us."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import trio

from rns_ble.drivers.base import BLEError, PeerUnreachable, ProtocolViolation
from rns_ble.drivers.threaded import contract
from rns_ble.drivers.threaded.calls import Threads, said
from rns_ble.drivers.threaded.link import ThreadedLink
from rns_ble.protocol.gatt import IDENTITY_LENGTH


class Uuids(NamedTuple):
    """What `start` was given."""

    service: str
    rx: str
    tx: str
    identity: str


class Attempt:
    """A connect that is under way."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address
        self.scope = trio.CancelScope()
        self.linked = trio.Event()
        self.link: ThreadedLink | None = None
        self.failure: BLEError | None = None

    def fail(self, error: BLEError) -> None:
        self.failure = self.failure or error
        self.scope.cancel()

    def is_meant_by(self, message: str) -> bool:
        """Whether a message has its address in it."""
        return any(name.lower() in message.lower() for name in (self.name, self.address))


async def shake_hands(
    theirs: contract.BLEDriverInterface,
    threads: Threads,
    link: ThreadedLink,
    uuids: Uuids,
    notified: Callable[[bytes], None],
    own_identity: bytes | None,
) -> None:
    """Read the peer's identity, subscribe, and write ours. `notified`: what values are given to.

    Raises `PeerUnreachable` and `ProtocolViolation`. Cancelled: the call under way goes on alone.
    """
    assert own_identity is not None
    try:
        try:
            identity = bytes(await threads.call(theirs.read_characteristic, link.name, uuids.identity))
        except NotImplementedError:
            identity = b""
        if link.identity is not None:
            return  # told meanwhile
        if not identity:
            await link.identified.wait()  # it can't be read, so the driver will tell it
            return
        if len(identity) != IDENTITY_LENGTH:
            raise ProtocolViolation(f"{link.address} has an identity of {len(identity)} bytes")
        link.identify(identity)
        await threads.call(theirs.start_notify, link.name, uuids.tx, notified)
        await threads.call(theirs.write_characteristic, link.name, uuids.rx, own_identity)
    except BLEError:
        raise
    except Exception as error:
        raise PeerUnreachable(f"{link.address}: no handshake: {said(error)}") from error
