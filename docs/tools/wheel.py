"""What is made when a wheel is built: the manual page (hatchling's build hook, see pyproject.toml)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class WheelHook(BuildHookInterface[Any]):
    """Adds share/man/man1/rns-ble.1, of which pip makes a file beside the bin directory."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the page, from the parsers of this source; they import the standard library only."""
        root = Path(self.root)
        sys.path[:0] = [str(root / "src"), str(root / "docs" / "tools")]
        from manual import manual  # noqa: PLC0415

        page = root / "build" / "rns-ble.1"
        page.parent.mkdir(exist_ok=True)
        page.write_text(manual())
        build_data["shared_data"][str(page)] = "share/man/man1/rns-ble.1"
