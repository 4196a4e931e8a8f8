"""`rns-ble scan`: the Reticulum nodes around, as the interface sees them.

Where an interface runs it has them all already, and is asked. Otherwise the adapter is opened as the
interface would open it, and nobody is dialled.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rns_ble.cli import reticulum_config
from rns_ble.cli.arguments import add_config, seconds
from rns_ble.cli.errors import CommandError, UsageError
from rns_ble.cli.progress import Progress
from rns_ble.cli.running import Running, ask_all
from rns_ble.cli.views import Line, Style, Trends, nodes

if TYPE_CHECKING:
    from rns_ble.config import BLEConfig

INTERVAL: Final = 1.0
"""Seconds between two looks."""

SECONDS: Final = 10.0
"""For which the adapter is opened where nobody looks on: twice `discovery_interval`."""

KEYS: Final = ("driver", "adapter", "transport")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_config(parser)
    parser.add_argument("--driver", help="open the adapter with this driver, whatever runs: bleak or bumble")
    parser.add_argument("--adapter", help="open this adapter, for example hci1 (driver bleak)")
    parser.add_argument("--transport", help="open this one, for example usb:0 (driver bumble)")
    parser.add_argument(
        "--seconds",
        type=seconds,
        metavar="SECONDS",
        help="end after this time (default: on a terminal when you leave, elsewhere at once where an "
        f"interface runs, or after {SECONDS:g} s)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")


def run(arguments: argparse.Namespace) -> int:
    """Scan; 0 when anybody is there."""
    import trio  # noqa: PLC0415

    from rns_ble.cli.screen import is_capable, run_view, show  # noqa: PLC0415

    keys = {key: getattr(arguments, key) for key in KEYS if getattr(arguments, key) is not None}
    directory = reticulum_config.find_directory(arguments.config)
    running = Running() if keys else ask_all(directory)
    source: _Interfaces | _Adapter
    if running.interfaces or running.errors:
        source = _Interfaces(directory, running)
    else:
        source = _Adapter(_config(directory, keys))
    trends = Trends()

    def update() -> None:
        source.update()
        trends.update(source.candidates, time.monotonic())

    def render(width: int | None) -> list[Line]:
        lines = nodes(source.candidates, trends, width)
        return lines + [Line(problem, Style.BAD) for problem in source.problems]

    live = is_capable() and not arguments.json
    forever = float("inf") if live else source.seconds
    time_ = forever if arguments.seconds is None else arguments.seconds

    async def view() -> None:
        if live:
            await show(lambda: f"rns-ble scan  {source.name}", update, render, INTERVAL)
        else:
            while True:
                update()
                await trio.sleep(INTERVAL)

    async def bounded() -> None:
        with trio.move_on_after(time_):
            await view()

    run_view(lambda: source.during(bounded))
    _print(arguments, source, render)
    return 0 if source.candidates else 1


def _print(
    arguments: argparse.Namespace,
    source: _Interfaces | _Adapter,
    render: Callable[[int | None], list[Line]],
) -> None:
    if arguments.json:
        print(json.dumps({"from": source.name, "nodes": source.candidates, "errors": source.problems}))
    elif source.candidates:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        print("\n".join(line.text for line in render(width)))
    else:
        raise CommandError(
            "; ".join(source.problems)
            or "nobody was heard. Does a node with a BLE interface run within a few metres?"
        )


class _Interfaces:
    """The interfaces that run: what they know."""

    seconds: Final = 0.0
    """What is to be known is known."""

    def __init__(self, directory: Path, running: Running) -> None:
        self._directory = directory
        self._running = running
        names = ", ".join(str(interface["name"]) for interface in running.interfaces)
        self.name = f"as {names or 'an interface'} sees them"

    def update(self) -> None:
        """Ask them."""
        self._running = ask_all(self._directory)

    @property
    def candidates(self) -> list[dict[str, Any]]:
        """`CandidateStatus` of each, as dictionaries."""
        return [
            {"interface": interface["name"], **candidate}
            for interface in self._running.interfaces
            for candidate in (interface["mesh"] or {}).get("candidates", ())
        ]

    @property
    def problems(self) -> list[str]:
        """Why there are not more."""
        offline = [i for i in self._running.interfaces if not i["online"]]
        return [f"{i['name']} is offline: {i['offline_reason']}" for i in offline] + self._running.errors

    async def during(self, view: Callable[[], Awaitable[object]]) -> None:
        """Show the view."""
        await view()


class _Adapter:
    """The adapter, opened for this alone."""

    seconds: Final = SECONDS
    problems: Final[list[str]] = []

    def __init__(self, config: BLEConfig) -> None:
        self._config = config
        self.name = f"through driver {config.driver}"
        self.candidates: list[dict[str, Any]] = []
        self._look: Callable[[], list[dict[str, Any]]] = list

    def update(self) -> None:
        """Look."""
        self.candidates = self._look()

    async def during(self, view: Callable[[], Awaitable[object]]) -> None:
        """Show the view while the adapter scans. Raises `CommandError`."""
        from rns_ble.cli.overhear import overhearing  # noqa: PLC0415

        progress = Progress(sys.stderr)
        progress.say(f"opening the adapter (driver {self._config.driver})")
        async with overhearing(self._config) as self._look:
            await view()


def _config(directory: Path, keys: dict[str, str]) -> BLEConfig:
    """What the configuration says of its first BLE interface that is enabled, or what the options say."""
    from rns_ble.config import BLEConfig  # noqa: PLC0415
    from rns_ble.drivers.base import ConfigurationError  # noqa: PLC0415

    section: dict[str, object] = {"name": "scan", **keys}
    config = directory / "config"
    try:
        if not keys and config.is_file():
            sections = reticulum_config.ble_sections(reticulum_config.parse(config.read_bytes()))
            enabled = filter(reticulum_config.is_enabled, sections.values())
            section |= next(enabled, {})
        return BLEConfig.from_section(section)
    except (OSError, CommandError) as error:
        raise CommandError(f"{config}: {error}") from error
    except ConfigurationError as error:
        raise UsageError("; ".join(str(error).splitlines())) from error
