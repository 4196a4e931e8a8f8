"""Packets in two fragments on links that do not keep the order of values.

Two hosts with BlueZ may open several ATT bearers to each other (EATT; Core Specification, Vol 3 Part G, 5.4),
and BlueZ 5.66 does so by itself. Values then overtake one another, by more than 40 places at full speed.
Most packets do not mind, being one value. With an access code, Reticulum's full-size packets are two, and
`total` alone does not tell which END belongs to which START: every second packet was lost, and one in five
came out as the head of one with the tail of another.

So the place of the cut names the packet. It is invisible to other implementations, for a packet may be cut
anywhere:

1. A packet is cut in two only when it is longer than `WHOLE`, and none is longer than `longest`. So the
   lengths of two halves that belong together add up to a number in that window.
2. The cuts are as far apart as the window is wide. So a START and an END of different cuts add up to
   something outside it, and each half, by its length alone, tells its packet's cut.
3. The sender takes one cut after the other. As many packets can be on their way at once as there are cuts.
4. No cut is where a sender that fills its first fragment cuts. What is no half of such a packet goes to the
   ordinary reassembler, and so does everything when there are no cuts.
5. A START waits for its END as long as any packet in progress does, an END for its START `OVERTAKING_TIME`.
   Of one cut one half waits at a time: at most 128 halves, 64 KiB.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from struct import Struct
from typing import Final

from rns_ble.protocol.fragmentation import HEADER_LENGTH, REASSEMBLY_TIMEOUT, Reassembler
from rns_ble.protocol.gatt import WRITE_MAXIMUM

WHOLE: Final = WRITE_MAXIMUM - HEADER_LENGTH
"""Bytes (505) of a packet that always goes in one value: at ATT_MTU 517 BlueZ carries values of
`WRITE_MAXIMUM` in both directions. The halves are never longer either. The same on both sides."""

OVERTAKING_TIME: Final = 0.25
"""Seconds that an END waits for a START that it has overtaken (protocol v2.2). In the worst case seen it was
42 values ahead, which BlueZ carries in 0.1 s."""

SHORTEST: Final = 12
"""Bytes of a half, at least: with 11 its fragment would be 16 bytes long, and taken for an identity."""

CUTS_MAXIMUM: Final = 128
"""Cuts that are used, where a small access code would allow more."""

_HEADER: Final = Struct(">BHH")
_FIRST: Final = _HEADER.pack(1, 0, 2)
_SECOND: Final = _HEADER.pack(3, 1, 2)


class Cuts:
    """Where packets of up to `longest` bytes are cut, access code included; the same on both sides."""

    def __init__(self, longest: int) -> None:
        """`longest` of `WHOLE` or less: nothing is cut."""
        self.longest: Final = longest
        self._step: Final = max(longest - WHOLE, 1)
        last = WHOLE + 1 - SHORTEST  # or the shortest packet's second half would be too short
        places = range(max(SHORTEST, longest - WHOLE), last + 1, self._step) if longest > WHOLE else range(0)
        self.places: Final = places[:CUTS_MAXIMUM]
        """Bytes of the first half."""

    def of_first(self, length: int) -> int | None:
        """The cut of a packet whose first half has this length; None: it was not cut by this rule."""
        return length if length in self.places else None

    def of_second(self, length: int) -> int | None:
        """The cut of a packet whose second half has this length; None: it was not cut by this rule."""
        if not self.places:
            return None
        # Counted from the longest first half that this one can have: exactly one cut is within the window.
        room = self.longest - length
        cut = room - (room - self.places[0]) % self._step
        return cut if cut in self.places else None


class PairFragmenter:
    """Cuts a sender's packets, each at another place than the ones before it."""

    def __init__(self, cuts: Cuts) -> None:
        self._cuts = cuts
        self._places: Iterator[int] = cycle(cuts.places)

    def fragment(self, packet: bytes, value_limit: int) -> list[bytes] | None:
        """The two values, in order; None: this is a packet for the ordinary `Fragmenter`."""
        fits = len(packet) <= value_limit - HEADER_LENGTH or value_limit < WHOLE + HEADER_LENGTH
        if fits or not WHOLE < len(packet) <= self._cuts.longest:
            return None
        cut = next(self._places)
        return [_FIRST + packet[:cut], _SECOND + packet[cut:]]


class PairReassembler:
    """Joins such halves; all other values it hands on."""

    def __init__(self, cuts: Cuts, ordinary: Reassembler) -> None:
        """`ordinary`: for whatever is no half."""
        self._cuts = cuts
        self._ordinary = ordinary
        self._waiting: dict[int, tuple[int, bytes, float]] = {}  # cut → which half, its payload, deadline
        self.incomplete = 0
        """Packets of which one half never came, or too late."""

    def receive(self, value: bytes, now: float) -> bytes | None:
        """As `Reassembler.receive`."""
        if len(value) <= HEADER_LENGTH:
            return self._ordinary.receive(value, now)
        kind, sequence, total = _HEADER.unpack_from(value)
        length = len(value) - HEADER_LENGTH
        cut = None
        if total == 2 and 1 <= kind <= 3:
            cut = self._cuts.of_first(length) if sequence == 0 else self._cuts.of_second(length)
        if cut is None or sequence > 1:
            return self._ordinary.receive(value, now)
        self.expire(now)
        payload = value[HEADER_LENGTH:]
        other = self._waiting.pop(cut, None)
        if other is not None and other[0] != sequence:
            return other[1] + payload if sequence else payload + other[1]
        if other is not None and other[1] != payload:
            self.incomplete += 1
        self._waiting[cut] = sequence, payload, now + (OVERTAKING_TIME if sequence else REASSEMBLY_TIMEOUT)
        return None

    def expire(self, now: float) -> None:
        """Drop what has waited too long."""
        for cut in [cut for cut, (_half, _payload, deadline) in self._waiting.items() if now > deadline]:
            del self._waiting[cut]
            self.incomplete += 1
