"""`rns-ble completion`: what makes a shell complete the command line. shtab makes it from the parsers."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from typing import Final

PLACES: Final = {
    "bash": ("~/.local/share/bash-completion/completions/rns-ble", "Debian's `bash-completion`"),
    "zsh": ("~/.zfunc/_rns-ble", "`fpath+=(~/.zfunc)` before `compinit` in `~/.zshrc`"),
    "fish": ("~/.config/fish/completions/rns-ble.fish", "nothing"),
}
"""Shell → the file that it belongs into, and what it needs there, as the README says."""

SHELLS: Final = tuple(PLACES)

_USAGE: Final = re.compile(r"^# Usage:\n(?:#.*\n)+", re.MULTILINE)
"""What shtab says of that, which is each shell's second-best place."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("shell", choices=SHELLS, help="the shell")


def run(arguments: argparse.Namespace) -> int:
    """Print it."""
    import shtab  # noqa: PLC0415

    from rns_ble.cli import command_line  # noqa: PLC0415
    from rns_ble.config import DRIVERS  # noqa: PLC0415

    parser = command_line()
    for action in _actions(parser):
        # The parsers leave both to those who know: the file system and the configuration.
        if action.metavar == "DIR":
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.dest == "driver":
            action.choices = DRIVERS
    place, needed = PLACES[arguments.shell]
    print(
        _USAGE.sub(
            lambda _: f"# It belongs into {place}, and needs {needed}.\n",
            shtab.complete(parser, arguments.shell),
        ),
        end="",
    )
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Every option and argument of a parser, and of its subcommands."""
    for action in parser._actions:  # argparse has no public name for them
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                yield from _actions(subparser)
