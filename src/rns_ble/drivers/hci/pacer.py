"""Between a transport and Bumble's host: packets of data one by one, where a stream brings hundreds at once.

A socket is read 256 KiB at a time, which is a thousand values, more than a link's buffer holds. Whoever
receives them takes one in each turn of Trio's scheduler, so this is the speed at which they are handed over;
meanwhile nothing more is read, and a controller behind TCP has to wait. Events fill no buffer, so several are
handed over in a turn: it costs more than most of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from bumble import hci

if TYPE_CHECKING:
    from rns_ble.drivers.asyncio_loop import AsyncioLoop

PAUSE_AT: Final = 64
"""Packets waiting, from which on nothing more is read."""
RESUME_AT: Final = 16
"""Packets waiting, at which it is: few enough to make room, enough to be busy until more have come."""

EVENTS_A_TURN: Final = 16
"""Packets handed over in one turn while none of them is data: about a millisecond."""


class Pacer:
    """A source for the host, and a sink for the real source."""

    def __init__(self, loop: AsyncioLoop, source: Any, stream: asyncio.ReadTransport | None) -> None:
        """`stream`: what to pause; none where the transport is no stream."""
        self.terminated = source.terminated
        self.metadata = getattr(source, "metadata", {})
        self._loop = loop
        self._stream = stream
        self._host: Any = None
        self._waiting: deque[bytes] = deque()
        self._busy = False
        self._paused = False
        source.set_packet_sink(self)

    def set_packet_sink(self, host: Any) -> None:
        """The host."""
        self._host = host

    def on_packet(self, packet: bytes) -> None:
        """From the controller. The first one after a while is handed over at once."""
        self._waiting.append(packet)
        if not self._busy:
            self._busy = True
            self._turn()
        elif len(self._waiting) >= PAUSE_AT and self._stream is not None and not self._paused:
            self._paused = True
            self._stream.pause_reading()

    def _turn(self) -> None:
        if not self._waiting:
            self._busy = False
            return
        if self._loop.is_running():
            self._loop.call_soon(self._turn)
        for _ in range(min(EVENTS_A_TURN, len(self._waiting))):
            packet = self._waiting.popleft()
            if self._paused and self._stream is not None and len(self._waiting) <= RESUME_AT:
                self._paused = False
                self._stream.resume_reading()
            self._host.on_packet(packet)
            if packet[0] == hci.HCI_ACL_DATA_PACKET:
                break

    def on_transport_lost(self) -> None:
        """What has come before is still handed over."""
        waiting, self._waiting = self._waiting, deque()
        for packet in waiting:
            self._host.on_packet(packet)
        self._host.on_transport_lost()
