"""Arguments that several commands take: declared once, and read alike."""

from __future__ import annotations

import argparse
from contextlib import suppress


def add_config(parser: argparse.ArgumentParser) -> None:
    """Declare `--config`."""
    parser.add_argument(
        "--config",
        metavar="DIR",
        help="Reticulum's configuration directory, as rnsd --config takes it "
        "(default: /etc/reticulum, ~/.config/reticulum or ~/.reticulum, as Reticulum chooses)",
    )


def seconds(text: str, least: float = 0.0) -> float:
    """For argparse: a finite number of seconds, `least` at least."""
    with suppress(ValueError):
        if least <= (number := float(text)) < float("inf"):
            return number
    raise argparse.ArgumentTypeError(
        f"{text!r} is not a number of seconds{f', {least:g} at least' if least else ''}"
    )
