"""Where a running interface shows its status: one Unix socket for each, below Reticulum's storage.

What the server (`rns_ble.status_server`) and its clients (`rns_ble.cli.running`) have to agree on. The
standard library only. docs/status.md has the protocol for other programs.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

STORAGE: Final = "storage"
"""Reticulum's name for it, below its configuration directory."""

DIRECTORY: Final = "rns_ble"
"""Of all sockets, below Reticulum's storage; mode 0700."""

SUFFIX: Final = ".sock"

REQUEST: Final = b"status\n"
"""The only one there is; answered by one line of JSON."""

STEM_MAXIMUM: Final = 60
"""Bytes of a file name before the suffix. With `/proc/self/fd/` and a number in front it stays below the 107
bytes that a Unix socket's address has (unix(7)), however long the directory is called."""


def file_name(interface: str) -> str:
    """The name of this interface's socket. Names that differ have sockets that differ."""
    stem = quote(interface, safe=" ", errors="surrogateescape")
    if len(stem) > STEM_MAXIMUM:
        digest = hashlib.sha256(stem.encode()).hexdigest()[:16]
        stem = f"{stem[: STEM_MAXIMUM - 17]}-{digest}"
    return stem + SUFFIX


@contextmanager
def opened(directory: Path) -> Iterator[int]:
    """A descriptor of the directory, for `address_in`. Raises `OSError`."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def address_in(descriptor: int, name: str) -> str:
    """A short address of a socket in the directory with that descriptor (proc(5))."""
    return f"/proc/self/fd/{descriptor}/{name}"
