"""The figures of the documents: `nox -s figures` draws them.

docs/diagrams/NAME.d2 becomes NAME.svg beside it (with D2, which the session installs). All of it is
committed, so that whoever reads or builds the documents does not need that tool. An SVG of a diagram ends
with the digest of what it was drawn from, for a test to see that it is current. The plots are those of
benchmarks/plots.py.
"""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import Final

DOCS: Final = Path(__file__).parents[1]


# --- diagrams ---


def digest(diagram: Path) -> str:
    """What the last line of the SVG says of the diagram that it was drawn from."""
    return f"<!-- of {diagram.name}, SHA-256 {hashlib.sha256(diagram.read_bytes()).hexdigest()} -->\n"


def draw_diagrams() -> None:
    """Every .d2 anew."""
    for diagram in sorted((DOCS / "diagrams").glob("*.d2")):
        picture = diagram.with_suffix(".svg")
        options = ["--dark-theme", "200", "--pad", "20", "--omit-version"]
        subprocess.run(["d2", *options, str(diagram), str(picture)], check=True)
        picture.write_text(picture.read_text().rstrip("\n") + "\n" + digest(diagram))
        picture.chmod(0o644)


if __name__ == "__main__":
    draw_diagrams()
