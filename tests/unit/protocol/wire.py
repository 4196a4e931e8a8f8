"""Fragments written out by hand, so that the codec is not tested against itself."""

from __future__ import annotations

import random
import struct
from typing import NamedTuple

from rns_ble.protocol.fragmentation import Reassembler

START, CONTINUE, END = 1, 2, 3


class Fragment(NamedTuple):
    kind: int
    sequence: int
    total: int
    payload: bytes


def parse(value: bytes) -> Fragment:
    return Fragment(*struct.unpack(">BHH", value[:5]), value[5:])


def fragment(sequence: int, total: int, payload: bytes = b"", kind: int | None = None) -> bytes:
    """With the type that its place calls for, unless told otherwise."""
    if kind is None:
        kind = START if sequence == 0 else END if sequence == total - 1 else CONTINUE
    return struct.pack(">BHH", kind, sequence, total) + payload


def packet_of(length: int, seed: int = 0) -> bytes:
    return random.Random(length * 1000 + seed).randbytes(length)


def receive_all(reassembler: Reassembler, values: list[bytes], now: float = 0.0) -> list[bytes]:
    """What a reassembler delivers of these values, all received at one time."""
    return [packet for value in values if (packet := reassembler.receive(value, now)) is not None]
