"""`rns-ble`, the command line.

One module per subcommand, named like it. Such a module has `configure(parser)`, which declares its
arguments, and `run(arguments)`, which returns the exit code. Only the module of the command that was
asked for is imported, and at import it brings in nothing but the standard library: neither RNS nor Trio nor a
Bluetooth library is paid for by `rns-ble --help`.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted. What a person can put right is one line
on stderr, never a traceback. With `--json` it is an object on stdout, too: `{"errors": ["…"]}`.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
from collections.abc import Callable, Collection, Sequence
from importlib import import_module
from typing import Final, Protocol, cast

import rns_ble
from rns_ble.cli.errors import CommandError

COMMANDS: Final = {
    "install": "make the BLE interface known to Reticulum, and add it to a configuration",
    "doctor": "find out what keeps the interface from working here, and mend it",
    "status": "show the BLE interfaces that run, their peers, and why others are none",
    "scan": "list the nodes around, and why they are or are not dialled; also while rnsd runs",
    "monitor": "show the interfaces that run, live, on the whole terminal",
    "demo": "let separate Reticulum nodes talk over a virtual radio: no adapter needed",
    "ether": "run the virtual radio, for Reticulum nodes on this machine",
    "radio": "test the Bluetooth of two machines with one another; without Reticulum, so rnsd is stopped",
    "completion": "print what makes a shell complete the command line of rns-ble",
}
"""Each subcommand and what `rns-ble --help` says about it."""

INTERRUPTED: Final = 130
"""What a shell reports for a program that SIGINT ended: 128 + 2."""


class _Command(Protocol):
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def _load(name: str) -> _Command:
    return cast("_Command", import_module(f"rns_ble.cli.{name}"))


def command_line(chosen: Collection[str] = frozenset(COMMANDS)) -> argparse.ArgumentParser:
    """The parser of the whole command line, with the arguments of the chosen subcommands only."""
    parser = argparse.ArgumentParser(
        prog="rns-ble", description="Bluetooth Low Energy as a transport of the Reticulum Network Stack."
    )
    parser.add_argument("--version", action="version", version=f"rns-ble {rns_ble.__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        subparser = subparsers.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}."
        )
        if name in chosen:
            _load(name).configure(subparser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; `argv` without the program's name, by default that of the process.

    Returns the exit code. Raises `SystemExit` where argparse does: for wrong usage, `--help` and `--version`.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    # The options before a subcommand take no value, so the first word that is none of them is the subcommand.
    chosen = [word for word in argv if not word.startswith("-")][:1]
    parser = command_line(chosen)
    for word in chosen:
        if word not in COMMANDS:
            nearest = difflib.get_close_matches(word, COMMANDS, n=1)
            meant = f"did you mean {nearest[0]}?" if nearest else "rns-ble --help lists them"
            parser.error(f"there is no command {word}; {meant}")
    arguments = parser.parse_args(argv)
    try:
        code = _load(arguments.command).run(arguments)
        sys.stdout.flush()
    except CommandError as error:
        from rns_ble.cli.tables import plain  # noqa: PLC0415  (no part of what `deploy` takes to a host)

        # It may name what another user, or somebody on the air, has called like this.
        print(f"rns-ble {arguments.command}: {plain(error)}", file=sys.stderr)
        if getattr(arguments, "json", False):
            print(json.dumps({"errors": [str(error)]}), flush=True)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"rns-ble {arguments.command}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) has gone. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code
