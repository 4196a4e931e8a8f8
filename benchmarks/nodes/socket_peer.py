"""Bluetoothd's part of a socket for values, in a process of its own, so that its work is not counted as ours.

    python socket_peer.py fill|drain DESCRIPTOR VALUES BYTES

`drain` takes so many values and answers with one; `fill` waits for one and then sends so many.
"""

from __future__ import annotations

import socket
import sys
from typing import Final

PATIENCE: Final = 60.0
"""Seconds for the other end to do something: it may just start."""

VALUE_MAXIMUM: Final = 512
"""Bytes (Core Specification, Vol 3 Part F, 3.2.9)."""


def main() -> None:
    """Run until the values are through. Raises `OSError` when the other end is gone, or does nothing."""
    what, descriptor, values, size = sys.argv[1], *map(int, sys.argv[2:])
    with socket.socket(fileno=descriptor) as end:
        end.settimeout(PATIENCE)
        if what == "drain":
            for _ in range(values):
                if not end.recv(VALUE_MAXIMUM):
                    return
            end.send(b"all")
        else:
            end.recv(VALUE_MAXIMUM)
            value = bytes(size)
            for _ in range(values):
                end.send(value)


if __name__ == "__main__":
    main()
