"""The manual page rns-ble(1), made from the command line's own parsers; they say what `--help` says.

`wheel.py` beside this puts it into every wheel, as share/man/man1/rns-ble.1, where `man` looks for the pages
of what is in the bin directory beside. To read it from here: `python docs/tools/manual.py | man -l -`.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from functools import partial
from typing import Final

from rns_ble import __version__
from rns_ble.cli import COMMANDS, command_line

UNWRAPPED: Final = partial(argparse.HelpFormatter, width=100_000)

SECTIONS: Final = """\
.SH EXIT STATUS
.TP
.B 0
Done; of a command that checks something: all is well.
.TP
.B 1
Failed, and one line on stderr says what to do about it.
.TP
.B 2
Wrong usage.
.TP
.B 130
Interrupted.
.SH FILES
.TP
.I config
in Reticulum's configuration directory, which is /etc/reticulum, ~/.config/reticulum or ~/.reticulum: its
sections of the type BLEInterface.
.TP
.I interfaces/BLEInterface.py
beside it: what makes Reticulum load the interface.
.TP
.I storage/rns_ble/*.sock
there as well: where a running interface shows itself.
.SH SEE ALSO
.BR bluetoothctl (1),
.BR rfkill (8)
"""


def manual() -> str:
    """The page, as roff."""
    parser = command_line()
    parser.formatter_class = UNWRAPPED
    description = _text(parser.description or "")
    lines = [
        f'.TH RNS\\-BLE 1 "" "rns\\-ble {__version__}" "Reticulum"',
        ".SH NAME",
        f"rns\\-ble \\- {description.rstrip('.')}",
        ".SH SYNOPSIS",
        *_usage(parser),
        ".SH DESCRIPTION",
        description,
        *_arguments(parser),
        ".SH COMMANDS",
    ]
    for command, summary in COMMANDS.items():
        lines += [".TP", f".B {_text(command)}", _text(f"{summary[0].upper()}{summary[1:]}.")]
    for subparser in leaves(parser):
        subparser.formatter_class = UNWRAPPED
        lines += [f".SH {_text(subparser.prog)}".upper(), *_usage(subparser), ".PP"]
        lines += [_text(subparser.description or ""), *_arguments(subparser)]
    return "\n".join(lines) + "\n" + SECTIONS


def leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parsers below this one that have no subcommands of their own."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                deeper = list(leaves(subparser))
                yield from deeper or [subparser]


def _usage(parser: argparse.ArgumentParser) -> list[str]:
    usage = parser.format_usage().removeprefix("usage: ").strip()
    name, rest = usage[: len(parser.prog)], usage[len(parser.prog) :]
    return [".nh", f"\\fB{_text(name)}\\fR{_text(rest)}", ".hy"]


def _arguments(parser: argparse.ArgumentParser) -> Iterator[str]:
    formatter = parser._get_formatter()
    for action in parser._actions:
        if action.help in {None, argparse.SUPPRESS} or isinstance(action, argparse._SubParsersAction):
            continue
        value = "" if action.nargs == 0 else formatter._format_args(action, _value_name(action))
        shown = [f"\\fB{_text(option)}\\fR" for option in action.option_strings]
        yield ".TP"
        yield f"{', '.join(shown)} \\fI{_text(value)}\\fR".strip().removesuffix(" \\fI\\fR")
        yield _text(formatter._expand_help(action))


def _value_name(action: argparse.Action) -> str:
    if action.choices is not None:
        return "|".join(map(str, action.choices))
    return action.dest.upper() if action.option_strings else action.dest


def _text(text: str) -> str:
    """Text that roff shows as it is."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    text = re.sub(r"[^\x00-\x7f]", lambda match: f"\\[u{ord(match[0]):04X}]", text)
    return re.sub(r"^([.'])", r"\\&\1", text)


if __name__ == "__main__":
    print(manual(), end="")  # noqa: T201
