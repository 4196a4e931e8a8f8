"""What a hostile peer sends: real traffic, real traffic gone wrong, and noise. All of it from one seed."""

from __future__ import annotations

from random import Random
from struct import pack

from rns_ble.drivers.base import BLEDevice
from rns_ble.protocol.fragmentation import Fragmenter
from rns_ble.protocol.pairs import Cuts, PairFragmenter

LENGTHS = (1, 2, 10, 11, 12, 16, 20, 100, 464, 465, 500, 505, 506, 510, 516, 564, 1000, 4096)
"""Bytes of packets: around each limit that there is."""
LIMITS = (18, 20, 182, 244, 509, 510, 512)
"""Bytes of values."""
EDGES = (0, 1, 2, 3, 33, 34, 39, 40, 41, 254, 255, 256, 1000, 1024, 32767, 65534, 65535)
"""Of `sequence` and `total`."""
VALUE_LENGTHS = (0, 1, 2, 4, 5, 6, 15, 16, 17, 20, 22, 244, 510, 511, 512, 513, 600)
RSSIS = (None, -128, -127, -101, -100, -90, -85, -60, -30, -1, 0, 1, 20, 127)


class Grammar:
    """An endless supply of bursts."""

    def __init__(self, seed: int) -> None:
        self.random = random = Random(seed)
        packets = [random.randbytes(length) for length in LENGTHS]
        self._streams = [Fragmenter(limit).fragment(packet) for limit in LIMITS for packet in packets]
        pairs = PairFragmenter(Cuts(516))
        for length in (*range(506, 517), *range(506, 517)):
            self._streams.append(pairs.fragment(random.randbytes(length), 510) or [])
        self._made = (self._real,) * 4 + (self._broken,) * 8 + (self._crafted,) * 4 + (self._noise,) * 2
        self._made += (self._signs, self._flood)

    def burst(self, identity: bytes) -> list[bytes]:
        """Some values, of a peer that has told this identity."""
        return self.random.choice(self._made)(identity)

    def _real(self, _identity: bytes) -> list[bytes]:
        return self.random.choice(self._streams)

    def _broken(self, identity: bytes) -> list[bytes]:
        random = self.random
        values = list(random.choice(self._streams))
        for _ in range(random.randrange(1, 4)):
            at = random.randrange(len(values)) if values else 0
            what = random.randrange(9)
            if not values or what == 0:
                values += random.choice(self._streams)  # another packet follows
            elif what == 1:
                del values[at]
            elif what == 2:
                values.insert(random.randrange(len(values)), values[at])
            elif what == 3:
                random.shuffle(values)
            elif what == 4:
                values[at] = values[at][: random.randrange(len(values[at]) + 1)]
            elif what == 5:
                values[at] += random.randbytes(random.choice((1, 5, 100)))
            elif what == 6 and values[at]:
                value = bytearray(values[at])
                value[random.randrange(min(len(value), 6))] ^= 1 << random.randrange(8)
                values[at] = bytes(value)
            elif what == 7:
                other = random.choice(self._streams)  # two packets at once
                values = [value for both in zip(values, other, strict=False) for value in both]
            else:
                values[at] = random.choice((identity, b"\x00", b"\x04\x07", values[0], values[-1]))
        return values

    def _crafted(self, _identity: bytes) -> list[bytes]:
        random, values = self.random, []
        total = random.choice(EDGES)
        for _ in range(random.randrange(1, 30)):
            if random.random() < 0.2:
                total = random.choice(EDGES)
            sequence = random.choice(EDGES) if random.random() < 0.3 else random.randrange(max(total, 1))
            header = pack(">BHH", random.choice((0, 1, 1, 2, 2, 3, 3, 4, 255)), sequence, total)
            values.append(header + random.randbytes(random.choice((0, 1, 11, 12, 15, 100, 505, 507, 600))))
        return values

    def _noise(self, _identity: bytes) -> list[bytes]:
        random = self.random
        return [random.randbytes(random.choice(VALUE_LENGTHS)) for _ in range(random.randrange(1, 10))]

    def _signs(self, identity: bytes) -> list[bytes]:
        random = self.random
        known = (b"\x00", b"\x04\x00", b"\x04\xff", b"\x05\x00", b"\x05", b"\x04", b"", identity, b"\x00\x00")
        return [random.choice(known) for _ in range(random.randrange(1, 6))]

    def _flood(self, _identity: bytes) -> list[bytes]:
        random = self.random
        stream = random.choice(self._streams) or [b""]
        return [random.choice((b"\x04\x2a", b"\x00", stream[0], stream[-1], b"\xff" * 20))] * 64

    def device(self, address: str) -> BLEDevice:
        """A sighting as a driver reports it."""
        random = self.random
        name = None if random.random() < 0.5 else "".join(chr(random.randrange(0xD800)) for _ in range(5)) * 9
        data = {
            random.choice((0xFFFF, 0x004C, random.randrange(65536))): random.randbytes(random.randrange(5))
            for _ in range(random.randrange(3))
        }
        if random.random() < 0.3:
            data[0xFFFF] = bytes((3, random.randrange(256))) + random.randbytes(random.randrange(3))
        return BLEDevice(address, random.choice(RSSIS), name, data)
