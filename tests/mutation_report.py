"""What `mutmut run` has left in `mutants/`: the score of each module, and its survivors.

`python tests/mutation_report.py [PATTERN …]`, with mutmut's own patterns. It exits with 1 when the score of a
module is not above the one that is wanted. `docs/mutation.md` explains the survivors that stay, by what they
change and not by mutmut's numbers, which move with every line. The others are shown as not explained.
"""

from __future__ import annotations

import ast
import difflib
import json
import re
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

WANTED = 90.0
"""Per cent of a module's mutants, more than which have to be detected."""

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "mutants" / "src" / "rns_ble"
EXPLANATIONS = ROOT / "docs" / "mutation.md"

DETECTED = {1, 3, -24, 24, 36, 152, 255}
"""What mutmut's workers exit with: a failed test, an error inside pytest, and the rest are time limits."""


class Mutant(NamedTuple):
    function: str
    """As `module.Class.method`, from the package on."""
    change: tuple[str, ...]
    """The lines that differ, each with its sign and without its indentation."""

    def __str__(self) -> str:
        return "\n".join((f"### `{self.function}`", "", "```diff", *self.change, "```", ""))


def report(patterns: list[str]) -> tuple[str, bool]:
    """All there is to say, and whether every module has its score."""

    def asked_for(name: str) -> bool:
        return not patterns or any(fnmatch(name, pattern) for pattern in patterns)

    explained = explained_mutants()
    lines = ["", f"{'module':32} mutants  survive  score"]
    survivors: list[Mutant] = []
    good_enough = True
    for meta in sorted(SOURCE.rglob("*.py.meta")):
        results: dict[str, int | None] = json.loads(meta.read_text(encoding="utf-8"))["exit_code_by_key"]
        tested = {name: code for name, code in results.items() if asked_for(name)}
        if not tested:
            continue
        if None in tested.values():
            raise SystemExit(f"{meta.stem}: not every mutant was tested; `mutmut run` goes on where it ended")
        alive = [name for name, code in tested.items() if code not in DETECTED]
        score = 100 * (1 - len(alive) / len(tested))
        good_enough = good_enough and score > WANTED
        module = meta.relative_to(SOURCE).with_suffix("")
        lines.append(f"{module!s:32} {len(tested):7} {len(alive):8} {score:5.1f} %")
        survivors += mutants_of(meta.with_suffix(""), alive)
    known = [mutant for mutant in survivors if mutant in explained]
    new = [mutant for mutant in survivors if mutant not in explained]
    gone = [] if patterns else sorted(explained - set(survivors))
    for title, mutants in (
        ("explained in docs/mutation.md", known),
        ("explained, but survives no more", gone),
        ("NOT EXPLAINED", new),
    ):
        lines += ["", f"{title}: {len(mutants)}", *map(str, mutants)]
    return "\n".join(lines) + "\n", good_enough


def mutants_of(path: Path, names: list[str]) -> list[Mutant]:
    """What mutmut has put into this file under these names."""
    source = path.read_text(encoding="utf-8")
    functions = {
        node.name: (ast.get_source_segment(source, node) or "").replace(node.name, "").splitlines()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    mutants = []
    for name in names:
        module, _, mangled = name.removeprefix("rns_ble.").rpartition(".")
        original = mangled.partition("__mutmut_")[0]
        differences = difflib.unified_diff(functions[f"{original}__mutmut_orig"], functions[mangled], n=0)
        change = [line[0] + " " + line[1:].strip() for line in differences if not line.startswith("@@")]
        # `x_function` or, with that letter between them, `xǁClassǁmethod`.
        parts = re.split("ǁ", original)[1:] or [original.removeprefix("x_")]
        mutants.append(Mutant(".".join((module, *parts)), tuple(change[2:])))
    return mutants


def explained_mutants() -> set[Mutant]:
    """A heading names the function; each block of a difference below it is a mutant."""
    explained = set()
    function = ""
    change: list[str] | None = None
    for line in EXPLANATIONS.read_text(encoding="utf-8").splitlines():
        if heading := re.fullmatch(r"### `(.+)`", line):
            function = heading[1]
        elif line == "```diff":
            change = []
        elif line == "```" and change is not None:
            explained.add(Mutant(function, tuple(change)))
            change = None
        elif change is not None:
            change.append(line)
    return explained


if __name__ == "__main__":
    text, good_enough = report(sys.argv[1:])
    sys.stdout.write(text)
    sys.exit(not good_enough)
