"""Reticulum's shared instance: programs with one configuration share the Reticulum of the one that came
first, and find it by a name or a port. Only that one opens interfaces.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from rns_ble.cli import processes
from rns_ble.cli.running import peer_of

DEFAULT_NAME: Final = "default"
"""What Reticulum calls one that has no name."""

DEFAULT_PORT: Final = 37428
"""Where Reticulum's programs meet by TCP, unless told otherwise (RNS 1.5.7)."""


class Holder(NamedTuple):
    """Who came first."""

    pid: int | None
    """None for another user's that is found by TCP: only root may see it."""
    uid: int


@dataclass(frozen=True, slots=True)
class SharedInstance:
    """How the programs with one configuration find each other."""

    shared: bool
    """Whether they look for each other at all."""
    name: str
    """Of the Unix socket, or the port's number."""
    by_tcp: bool = False

    @classmethod
    def of(cls, options: object) -> SharedInstance:
        """From the section [reticulum], as Reticulum on Linux reads it."""
        said: Mapping[str, Any] = options if isinstance(options, Mapping) else {}
        shared = str(said.get("share_instance", "yes")).lower() not in {"no", "false", "off", "0"}
        if str(said.get("shared_instance_type", "")).lower() == "tcp":
            return cls(shared, str(said.get("shared_instance_port", DEFAULT_PORT)), by_tcp=True)
        return cls(shared, str(said.get("instance_name", DEFAULT_NAME)))

    def holder(self) -> Holder | None:
        """Who has it; None where nobody does, and where nothing is shared."""
        if not self.shared:
            return None
        if self.by_tcp:
            listener = processes.listener_on_tcp(int(self.name)) if self.name.isdecimal() else None
            if listener is None:
                return None
            user, opened = listener
            return Holder(next((process.pid for process in processes.holders(opened)), None), user)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(1.0)
            try:
                connection.connect(f"\0rns/{self.name}")
            except OSError:
                return None
            return Holder(*peer_of(connection))
