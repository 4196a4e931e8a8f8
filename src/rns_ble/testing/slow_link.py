"""A link that is as slow as a radio, without a driver: for what is to be seen of one sender under load."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from rns_ble.drivers.base import BLELink, LinkLost, Role
from rns_ble.protocol.gatt import ATT_MTU_REQUESTED

VALUES_A_SECOND: Final = 100.0
"""What a phone takes: one value per connection event, and connection intervals of 7.5 to 15 ms."""

VALUES_BUFFERED: Final = 8
"""Values that the controller takes before the first of them has left: common ones have 6 to 12 buffers."""


class SlowLink(BLELink):
    """Our end of a link. What the peer sends is put into it with `hear`."""

    def __init__(
        self,
        *,
        rate: float = VALUES_A_SECOND,
        buffered: int = VALUES_BUFFERED,
        att_mtu: int = ATT_MTU_REQUESTED,
        address: str = "02:00:00:00:00:02",
    ) -> None:
        """`rate`: values a second; 0: none, ever. `buffered`: how many are taken before they leave."""
        self.address = address
        self.role = Role.CENTRAL
        self.rate = rate
        self.on_value: Callable[[float, bytes], object] = lambda _time, _value: None
        """Called with each value when it is taken, and when its last bit will leave, on Trio's clock."""
        self._buffered = buffered
        self._att_mtu = att_mtu
        self._sending = trio.StrictFIFOLock()
        self._free_at = 0.0
        self._closed = False
        self._senders: set[trio.CancelScope] = set()
        self._inbox_send, self._inbox = trio.open_memory_channel[bytes](16)

    @property
    def att_mtu(self) -> int:
        """As the contract says."""
        return self._att_mtu

    async def send(self, value: bytes) -> None:
        """As the contract says; waits while the controller's buffers are full."""
        if self._closed:
            raise LinkLost(f"the link to {self.address} has ended")
        with trio.CancelScope() as scope:
            self._senders.add(scope)
            try:
                await self._send(value)
            finally:
                self._senders.discard(scope)
        if scope.cancelled_caught:
            raise LinkLost(f"the link to {self.address} has ended")

    async def _send(self, value: bytes) -> None:
        async with self._sending:
            if not self.rate:
                await trio.sleep_forever()
            leaves = max(self._free_at, trio.current_time()) + 1 / self.rate
            await trio.sleep_until(leaves - self._buffered / self.rate)
            self._free_at = leaves
            self.on_value(leaves, value)

    def hear(self, value: bytes) -> None:
        """A value from the peer. Raises `trio.WouldBlock` when 16 have not been received yet."""
        self._inbox_send.send_nowait(value)

    async def receive(self) -> bytes:
        """As the contract says."""
        return await self._inbox.receive()

    async def aclose(self) -> None:
        """As the contract says."""
        self._inbox_send.close()
        self._inbox.close()
        self._closed = True
        for scope in self._senders:
            scope.cancel()
        await trio.lowlevel.cancel_shielded_checkpoint()
