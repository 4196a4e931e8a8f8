"""What the benchmarks have in common: rounds side by side, figures with their spread, and the other side.

The machine's speed changes from second to second, so whatever is compared is measured in turn, round after
round, and compared within the round. Only ratios of one run mean something elsewhere.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import rns_ble

VERSIONS: Final = ("rns", "trio", "trio-asyncio", "bleak", "bumble", "dbus-next")
"""Packages whose versions belong to a result, where they are installed."""


@dataclass(frozen=True)
class Figure:
    """One quantity, in each round."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.rounds)

    def per(self, other: Figure) -> Figure:
        """The ratio to another quantity, round by round."""
        return Figure(tuple(one / two for one, two in zip(self.rounds, other.rounds, strict=True)))

    def scaled(self, factor: float) -> Figure:
        """In another unit."""
        return Figure(tuple(one * factor for one in self.rounds))

    def as_json(self) -> dict[str, float]:
        """The median, and the least and the most of all rounds; four significant digits."""
        return {
            name: float(f"{value:.4g}")
            for name, value in (
                ("median", self.median),
                ("least", min(self.rounds)),
                ("most", max(self.rounds)),
            )
        }


def side_by_side(runs: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, Figure]:
    """What each of them returns, in each of so many rounds. A round has all of them, one after the other."""
    results: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            results[name].append(run())
    return {name: Figure(tuple(values)) for name, values in results.items()}


def percentiles(rounds: Sequence[Sequence[float]]) -> dict[str, Any]:
    """The median and the 99th percentile of each round's times; a round has two at least."""
    cuts = [statistics.quantiles(times, n=100, method="inclusive") for times in rounds]
    return {
        "rounds": len(cuts),
        "p50": Figure(tuple(cut[49] for cut in cuts)).as_json(),
        "p99": Figure(tuple(cut[98] for cut in cuts)).as_json(),
    }


def arguments_of(description: str, *, rounds: int) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes: `--json`, `--rounds` and `--reference`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=at_least_one, default=rounds, metavar="N", help=f"rounds ({rounds})")
    parser.add_argument(
        "--reference",
        type=Reference,
        metavar="PATH",
        help="a checkout of ble-reticulum, which is measured beside this package",
    )
    return parser


def at_least_one(text: str) -> int:
    """For `argparse`: a whole number from 1 on."""
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def check_reference_python(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """End as for a bad argument when ble-reticulum is to run with a program that is not there."""
    if arguments.reference is not None and shutil.which(arguments.reference_python) is None:
        parser.error(f"--reference-python: {arguments.reference_python} is no program that can be run here")


@contextmanager
def readable_output() -> Iterator[None]:
    """Whoever reads our output may end first, as `head` does. The program ends then, and says nothing."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Or the interpreter complains at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def setting(benchmark: str, reference: Reference | None = None, **more: Any) -> dict[str, Any]:
    """What a result has to name for somebody to make sense of it."""
    ours = commit_of(Path(__file__).resolve().parents[1])
    versions = {"rns_ble": f"{rns_ble.__version__} ({ours})" if ours else rns_ble.__version__}
    for package in VERSIONS:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    if reference is not None:
        versions["ble-reticulum"] = reference.version
    return {
        "benchmark": benchmark,
        "versions": versions,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "machine": processor(),
        "system": f"{platform.system()} {platform.release()}",
        "measured_on": datetime.now(UTC).date().isoformat(),
        **more,
    }


def commit_of(checkout: Path) -> str | None:
    """Its commit, with `-dirty` where something has been changed since; None where git doesn't know it."""
    git = ["git", "-C", str(checkout)]
    top = subprocess.run([*git, "rev-parse", "--show-toplevel"], capture_output=True, text=True, check=False)
    if top.returncode or Path(top.stdout.strip()) != checkout:
        return None
    # Results that are being written are no change of what is measured.
    described = [*git, "describe", "--always", "--exclude=*"]
    commit = subprocess.run(described, capture_output=True, text=True, check=False).stdout.strip()
    changed = subprocess.run(
        [*git, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return f"{commit}-dirty" if changed else commit


def processor() -> str:
    """What this machine computes with."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(models)} x {models[0]}" if models else platform.machine()


class Reference:
    """A checkout of ble-reticulum: its code is loaded from there, and never becomes part of this one."""

    MODULES: Final = Path("src", "RNS", "Interfaces")

    def __init__(self, checkout: str) -> None:
        """Raises `argparse.ArgumentTypeError`."""
        self.checkout = Path(checkout).resolve()
        self.modules = self.checkout / self.MODULES
        if not (self.modules / "BLEInterface.py").is_file():
            raise argparse.ArgumentTypeError(
                f"{checkout} is no checkout of ble-reticulum, it lacks {self.MODULES / 'BLEInterface.py'}: "
                "clone https://github.com/torlando-tech/ble-reticulum and name that folder"
            )

    @property
    def version(self) -> str:
        """Its commit where git knows it, or else what its project file says."""
        if commit := commit_of(self.checkout):
            return commit
        for line in (self.checkout / "pyproject.toml").read_text().splitlines():
            if line.startswith("version"):
                return line.split('"')[1]
        return "unknown"

    def load(self, name: str) -> ModuleType:
        """One of its modules, as the only one of that name. They import one another by these names."""
        if str(self.modules) not in sys.path:
            sys.path.insert(0, str(self.modules))
        if name in sys.modules:
            return sys.modules[name]
        spec = importlib.util.spec_from_file_location(name, self.modules / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns; the first is to the left, the others to the right."""
    lines = [[str(cell) for cell in row] for row in (heads, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
