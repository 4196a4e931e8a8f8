"""A link of a driver that calls back from threads. Used on the Trio thread alone."""

from __future__ import annotations

from typing import Final, Protocol

import trio

from rns_ble.drivers.base import BLELink, LinkLost, Role
from rns_ble.protocol.gatt import ATT_MTU_DEFAULT, ATT_MTU_REQUESTED, IDENTITY_LENGTH

RECEIVE_BUFFERED: Final = 256
"""Values per link, 128 KiB at most: a second of what a fast radio brings, should the mesh be busy so long."""


class LinkOwner(Protocol):
    """What a link needs of its driver."""

    async def transmit(self, link: ThreadedLink, value: bytes) -> None:
        """Have the driver send a value. Raises `LinkLost`."""

    async def part(self, link: ThreadedLink) -> None:
        """Have the driver disconnect, and wait for that; shielded, with a deadline."""


class ThreadedLink(BLELink):
    """One connection, as far as the driver has told about it."""

    data_path = "driver"

    def __init__(self, owner: LinkOwner, name: str, address: str, role: Role) -> None:
        """`name`: the address in the driver's own words; it changes when the driver says so. `address`: the
        same normalised, by which the mesh knows the link.
        """
        self.name = name
        self.address = address
        self.former_address = address
        """The one before the driver has told of another: some of what it tells may come under that still."""
        self.role = role
        self.handed_over = False
        """Whether the mesh has it, or was offered it."""
        self.identity: bytes | None = None
        """The peer's, as soon as anybody has told it."""
        self.identified = trio.Event()
        self.mtu_known = trio.Event()
        self.ended = trio.Event()
        """Nothing can be sent any more."""
        self.parting = False
        """Whether the driver was asked to disconnect it."""
        self.gone = trio.Event()
        """The driver does not have it any more, or we have given up asking."""
        self.waiting = trio.CancelScope()
        """Around the send that waits for the driver; made anew for each, used by the owner."""
        self._owner = owner
        self._att_mtu = ATT_MTU_DEFAULT
        self._sending = trio.StrictFIFOLock()
        self._inbox_send, self._inbox = trio.open_memory_channel[bytes](RECEIVE_BUFFERED)

    def __repr__(self) -> str:
        return f"<ThreadedLink {self.role.value} to {self.name}>"

    # --- what the driver tells ---

    def negotiated(self, mtu: int) -> None:
        """An ATT MTU; the newest counts, for some drivers guess at first."""
        self._att_mtu = min(max(mtu, ATT_MTU_DEFAULT), ATT_MTU_REQUESTED)
        self.mtu_known.set()

    def identify(self, identity: bytes) -> None:
        """The driver knows the peer's identity. What the mesh has waits for it as the first value."""
        if self.identity is not None:
            return
        if self.handed_over:
            self.deliver(identity)
        else:
            self.peer_identity = identity
        self.identity = identity
        self.identified.set()

    def deliver(self, value: bytes) -> None:
        """A value of the peer's."""
        if self.identity is None and self.role is Role.PERIPHERAL and len(value) == IDENTITY_LENGTH:
            self.identity = value
        try:
            self._inbox_send.send_nowait(value)
        except trio.WouldBlock:
            self.values_dropped += 1
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # nobody is interested any more

    def end(self) -> None:
        """What has arrived can still be received."""
        self.ended.set()
        self.waiting.cancel()
        self._inbox_send.close()

    # --- what the mesh asks ---

    @property
    def att_mtu(self) -> int:
        """As the driver has told it last."""
        return self._att_mtu

    async def send(self, value: bytes) -> None:
        """See `BLELink`; when a send that was cancelled hangs in the driver, the link is given up."""
        if len(value) > self.value_limit:
            raise ValueError(f"a value of {len(value)} bytes; this link carries {self.value_limit}")
        async with self._sending:
            if self.ended.is_set():
                raise LinkLost(f"the link to {self.address} has ended")
            self.waiting = trio.CancelScope()
            await self._owner.transmit(self, bytes(value))

    async def receive(self) -> bytes:
        """See `BLELink`."""
        return await self._inbox.receive()

    async def aclose(self) -> None:
        """See `BLELink`."""
        self._inbox.close()
        await self._owner.part(self)
