"""A node of `rns-ble demo` that also tells how long it has kept a processor busy.

python reticulum_node.py DIRECTORY
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rns_ble.cli.demo.node import Events, Node, main


class CountedNode(Node):
    """Obeys one command more."""

    def __init__(self, directory: Path, events: Events) -> None:
        super().__init__(directory, events)
        self._tell = events.tell

    def obey(self, command: str, fields: dict[str, Any]) -> None:
        """See `Node`. `count_seconds`: of the processor, by all threads so far."""
        if command == "count_seconds":
            self._tell("seconds", cpu=time.process_time())
        else:
            super().obey(command, fields)


if __name__ == "__main__":
    main(CountedNode)
