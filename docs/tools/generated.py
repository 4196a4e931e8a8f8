"""What the site takes from the source itself, so that it can't differ: keys, numbers, commands.

A page asks for it by a link in a line of its own whose title is "generated" (see pages.py).
"""

from __future__ import annotations

import argparse
import ast
import inspect
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Final

from manual import leaves

from rns_ble.cli import command_line
from rns_ble.config import KEYS, UNNEEDED, Key

SOURCE: Final = Path(__file__).parents[2] / "src" / "rns_ble"

HELP_WIDTH: Final = 90
"""Columns that fit a page of the site."""

WIRE: Final = (
    *("protocol/gatt.py", "protocol/advertisement.py", "protocol/fragmentation.py", "protocol/pairs.py"),
    *("protocol/liveness.py", "strangers.py", "session.py", "peer.py", "candidate.py", "admission.py"),
    *("acquaintances.py", "mesh.py"),
)
"""Where the numbers are that a peer meets."""


def keys() -> str:
    """Each key of the configuration, as a section of its own."""
    return "\n\n".join(_key(key) for key in KEYS if key.name != "name")


def _key(key: Key) -> str:
    match key.default:
        case None:
            default = "none"
        case bool():
            default = "`yes`" if key.default else "`no`"
        case float():
            default = f"`{key.default:g}`"
        case _:
            default = f"`{key.default}`"
    return f"### {key.name}\n\n{key.doc}\n\nDefault: {default}. Allowed: {key.allowed}."


def unneeded() -> str:
    """The keys of ble-reticulum that mean nothing here."""
    return "\n".join(
        ["| key | why |", "|---|---|", *(f"| `{key}` | {why} |" for key, why in UNNEEDED.items())]
    )


def commands() -> str:
    """What `--help` says of each command."""
    parts = []
    for parser in leaves(command_line()):
        parser.formatter_class = partial(argparse.HelpFormatter, width=HELP_WIDTH)
        parts.append(f"## {parser.prog}\n\n```text\n{parser.format_help().rstrip()}\n```")
    return "\n\n".join(parts)


def numbers() -> str:
    """Each public constant of the modules that make the wire, with its value, its reason and its source."""
    rows = ["| number | value | what it is, and where it comes from |", "|---|---|---|"]
    for module in WIRE:
        for name, value, why in _constants(SOURCE / module):
            rows.append(f"| `{name}`<br>{module.removesuffix('.py')} | {value} | {why} |")
    return "\n".join(rows)


def _constants(module: Path) -> Iterator[tuple[str, str, str]]:
    source = module.read_text()
    for statement, documentation in pairwise(ast.parse(source).body):
        match statement, documentation:
            case (
                ast.AnnAssign(target=ast.Name(name), value=ast.expr() as value),
                ast.Expr(ast.Constant(str(why))),
            ) if not name.startswith("_"):
                shown = ast.get_source_segment(source, value) or ""
                yield name, f"`{shown}`", " ".join(inspect.cleandoc(why).replace("|", "\\|").split())


PARTS: Final[dict[str, Callable[[], str]]] = {
    "../src/rns_ble/config.py": keys,
    "../src/rns_ble/config.py#unneeded": unneeded,
    "../src/rns_ble/cli": commands,
    "../src/rns_ble/protocol": numbers,
}
"""What stands for each source."""
