"""Tables for people: aligned columns that fit a width, and figures with units."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

Row = TypeVar("Row")

GAP: Final = "  "
"""Between two columns."""

NOTHING: Final = "-"
"""What is shown where there is nothing to show."""


@dataclass(frozen=True)
class Column(Generic[Row]):
    """One column of a table."""

    heading: str
    text: Callable[[Row], str]
    right: bool = False
    """Figures are aligned on the right."""
    spare: int = 0
    """Where the width does not suffice, the columns with the highest number are left out first; 0: never."""
    shortest: int | None = None
    """Before any is left out, its texts may be cut to so many letters."""
    wraps: bool = False
    """Instead of being cut, they go on in lines below; for the last column."""


def table(columns: Sequence[Column[Row]], rows: Sequence[Row], width: int | None) -> list[str]:
    """The lines, heading first; each fits into `width` letters unless even the narrowest table does not.

    Whatever a row says is made plain.
    """
    cells = [[column.heading, *(plain(column.text(row)) for row in rows)] for column in columns]
    kept = list(range(len(columns)))

    def too_wide() -> int:
        total = sum(max(map(len, cells[i])) for i in kept) + len(GAP) * (len(kept) - 1)
        return 0 if width is None else total - width

    for i in kept:
        if too_wide() > 0 and (shortest := columns[i].shortest) is not None:
            longest = max(shortest, max(map(len, cells[i])) - too_wide())
            if columns[i].wraps:
                _wrap(cells, i, longest)
            else:
                cells[i] = [cell[:longest] for cell in cells[i]]
    while too_wide() > 0 and (highest := max(columns[i].spare for i in kept)):
        kept = [i for i in kept if columns[i].spare != highest]
    widths = {i: max(map(len, cells[i])) for i in kept}
    return [
        GAP.join(
            cells[i][line].rjust(widths[i]) if columns[i].right else cells[i][line].ljust(widths[i])
            for i in kept
        ).rstrip()
        for line in range(len(cells[0]))
    ]


def _wrap(cells: list[list[str]], column: int, width: int) -> None:
    """Break its texts into lines; beside the second and later ones the other columns are empty."""
    for line in reversed(range(len(cells[column]))):
        first, *others = textwrap.wrap(cells[column][line], width) or [""]
        for texts in cells:
            texts[line + 1 : line + 1] = ["" for _ in others]
        cells[column][line : line + 1 + len(others)] = [first, *others]


def duration(seconds: float | None) -> str:
    """A time span, with the unit that suits it."""
    if seconds is None:
        return NOTHING
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def size(count: float | None) -> str:
    """A number of bytes, in B, kB, MB or GB (powers of 1000)."""
    if count is None:
        return NOTHING
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB"):
        count /= 1000
        if count < 1000:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} GB"


def number(value: object) -> str:
    """Anything that may be missing."""
    return NOTHING if value is None else str(value)


def plain(text: object) -> str:
    """A text that comes from elsewhere, without what would steer a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(text))
