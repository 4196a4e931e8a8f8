"""Every benchmark in one go: results, a table and pictures in docs/performance, and whether it holds.

The settings are short ones, some minutes in all; `--long` takes half an hour and more, and is what figures
in the documents are from. `--guest` measures on the real BlueZ as well, in the laboratory's guest
(docs/bluez-lab.md), and `--reference` ble-reticulum beside it (link_reference.py tells what that needs).

What has to hold are ratios of one run. One that does not is an error, when all else is written.

    python benchmarks/report.py [--long] [--only NAME]... [--guest 5.66|5.82]
        [--reference PATH --reference-python PROGRAM]
"""

from __future__ import annotations

import argparse
import json
import operator
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import plots
from measuring import Reference, setting

HERE: Final = Path(__file__).resolve().parent

FIGURE: Final = {"median", "least", "most"}

STORMS: Final = {False: ((10,), (0,)), True: ((10, 50, 100, 200, 500), (0, 1, 2))}
"""Nodes and seeds, short and long."""


@dataclass(frozen=True)
class Part:
    """One result: NAME.json."""

    name: str
    script: str
    short: tuple[str, ...]
    long: tuple[str, ...]
    reference: bool = False
    """Whether ble-reticulum can be measured beside it."""
    guest: bool = False
    """Whether it is measured in the guest only."""
    guest_too: bool = False
    """Whether some of it is measured in the guest as well, where there is one."""

    def run(self, chosen: argparse.Namespace) -> dict[str, Any]:
        """What the benchmark prints."""
        settings = list(self.long if chosen.long else self.short)
        if chosen.guest is not None and (self.guest or self.guest_too):
            settings += ["--guest", chosen.guest]
        if chosen.reference is not None and self.reference:
            settings += ["--reference", str(chosen.reference.checkout)]
            if chosen.guest is not None and (self.guest or self.guest_too):
                settings += ["--reference-python", chosen.reference_python]
        return benchmark(self.script, *settings)


PARTS: Final = (
    Part("codec", "fragment_throughput.py", ("--rounds", "5"), ("--rounds", "25"), reference=True),
    Part("bridge", "bridge.py", ("--rounds", "3"), ("--rounds", "7")),
    Part(
        "link",
        "link_throughput.py",
        ("--on", "sockets", "--on", "radio", "--rounds", "1", "--resource", "65536"),
        ("--on", "sockets", "--on", "radio", "--rounds", "5"),
    ),
    Part(
        "bluez",
        "link_throughput.py",
        ("--on", "bluez", "--rounds", "1", "--values", "200", "--probes", "20", "--resource", "65536"),
        ("--on", "bluez", "--rounds", "5"),
        reference=True,
        guest=True,
    ),
    Part(
        "setup",
        "setup_time.py",
        ("--rounds", "2", "--part", "radio", "--part", "start", "--part", "imports", "--part", "bluez"),
        ("--rounds", "5"),
        reference=True,
        guest_too=True,
    ),
    Part(
        "waiting", "overload.py", ("--seconds", "100", "--rounds", "1"), ("--seconds", "100", "--rounds", "3")
    ),
)


def benchmark(script: str, *settings: str) -> dict[str, Any]:
    """Run one; its progress goes where ours does."""
    command = [sys.executable, str(HERE / script), "--json", *settings]
    result: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return result


def storms(long: bool) -> dict[str, Any]:
    """The simulator's result: a run for each size and seed."""
    sizes, seeds = STORMS[long]
    runs = [
        benchmark("storm.py", "--nodes", str(nodes), "--seed", str(seed)) for nodes in sizes for seed in seeds
    ]
    return {**setting("storm"), "runs": runs}


# --- what has to hold ---


@dataclass(frozen=True)
class Demand:
    """A ratio, of figures of one run, and its bound."""

    what: str
    result: str
    ratio: Callable[[dict[str, Any]], float]
    bound: float
    holds: Callable[[float, float], bool] = field(default=operator.ge)

    def look(self) -> tuple[float, bool] | None:
        """The ratio, and whether it holds; None where it was not measured."""
        result = plots.kept(self.result)
        try:
            value = None if result is None else self.ratio(result)
        except (KeyError, ValueError, ZeroDivisionError):
            value = None
        return None if value is None else (value, self.holds(value, self.bound))

    @property
    def text(self) -> str:
        """The bound."""
        return f"{'at least' if self.holds is operator.ge else 'at most'} {self.bound:g}"


def _codec(what: str, per: str, limit: str) -> Callable[[dict[str, Any]], float]:
    def ratio(result: dict[str, Any]) -> float:
        value: float = result["by_packet"][plots.PACKET][limit][what]["ours_per"][per]["median"]
        return value

    return ratio


def _bluez(size: str, per: str) -> Callable[[dict[str, Any]], float]:
    def ratio(result: dict[str, Any]) -> float:
        ways = result["bluez"]
        one, two = (
            ways[way]["central to peripheral"][size]["arriving_per_s"]["median"] for way in ("sockets", per)
        )
        return float(one / two)

    return ratio


def _waiting(result: dict[str, Any]) -> float:
    orders = result["by_att_mtu"]["517"]
    one, two = (orders[order]["wait_ms"]["link request"]["median"] for order in ("turns", "arrival"))
    return float(one / two)


def _setup(times: str) -> Callable[[dict[str, Any]], float]:
    def ratio(result: dict[str, Any]) -> float:
        ways = [guest["bluez"] for guest in result["guests"].values()]
        return float(
            max(way["rns_ble"][times]["median"] / way["ble-reticulum"][times]["median"] for way in ways)
        )

    return ratio


DEMANDS: Final = (
    *(
        Demand(f"fragment, per {per}, values of {limit}", "codec", _codec("fragment", per, limit), bound)
        for limit in ("20", "182", "244", "512")
        for per, bound in (("floor", 0.8), ("reference", 3.0))
    ),
    *(
        Demand(
            f"reassemble, per reference, values of {limit}",
            "codec",
            _codec("in order", "reference", limit),
            4.0,
        )
        for limit in ("20", "182", "244", "512")
    ),
    *(
        Demand(f"BlueZ, sockets per {per}, values of {size}", "bluez", _bluez(size, per), bound)
        for size in ("244", "505")
        for per, bound in (("calls", 1.5), ("ble-reticulum", 2.0))
    ),
    *(
        Demand(
            f"BlueZ, sighting to handshake, {times}, per ble-reticulum",
            "setup",
            _setup(times),
            1 / 3,
            operator.le,
        )
        for times in ("cold", "reconnect")
    ),
    Demand(
        "import of the interface, per RNS",
        "setup",
        lambda result: result["imports"]["RNS, the interface"]["after_rns_per_rns"]["median"],
        1.5,
        operator.le,
    ),
    Demand(
        "wait of a link request behind a Resource, in turns per by arrival",
        "waiting",
        _waiting,
        0.5,
        operator.le,
    ),
    Demand(
        "attempts per link, all storms",
        "mesh",
        lambda result: max(run["attempts_per_link"] for run in result["runs"]),
        1.5,
        operator.le,
    ),
)


# --- the table ---


def rows(result: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, str, str]]:
    """What it is, its median, and its least and most."""
    for name, inner in result.items():
        here = (*path, name)
        if isinstance(inner, dict) and inner.keys() == FIGURE:
            yield ", ".join(here), f"{inner['median']:,g}", f"{inner['least']:,g} to {inner['most']:,g}"
        elif isinstance(inner, dict):
            yield from rows(inner, here)
        elif isinstance(inner, bool | int | float | str):
            yield ", ".join(here), f"{inner:,g}" if isinstance(inner, float) else str(inner), ""


ABOUT: Final = {"benchmark", "versions", "python", "machine", "system"}
"""What a result says of itself."""


def write_table() -> list[str]:
    """docs/performance/results.md; the demands that do not hold."""
    lines = [
        "# Results",
        "",
        "Written by `nox -s bench`, which measures anew; what each figure means is said in the benchmark.",
        "",
        "| what has to hold | | ratio | holds |",
        "|---|---|---|---|",
    ]
    failed = []
    for demand in DEMANDS:
        if (looked := demand.look()) is None:
            continue
        value, holds = looked
        lines.append(f"| {demand.what} | {demand.text} | {value:.2f} | {'yes' if holds else '**no**'} |")
        if not holds:
            failed.append(f"{demand.what}: {value:.2f}, {demand.text}")
    for name in (*(part.name for part in PARTS), "mesh"):
        if (result := plots.kept(name)) is None:
            continue
        versions = ", ".join(f"{package} {version}" for package, version in result["versions"].items())
        lines += ["", f"## {name}", "", f"`benchmarks/{result['benchmark']}.py` with {result['python']} on "]
        lines[-1] += f"{result['machine']}, {result['system']}: {versions}."
        shown = {key: value for key, value in result.items() if key not in ABOUT}
        if name == "codec":  # or there would be a thousand of them
            shown["by_packet"] = {plots.PACKET: shown["by_packet"][plots.PACKET]}
        if name == "mesh":
            shown = {f"{run['nodes']} nodes, seed {run['seed']}": run for run in result["runs"]}
        lines += ["", "| figure | median | from, to |", "|---|---|---|"]
        lines += [f"| {what} | {median} | {spread} |" for what, median, spread in rows(shown)]
    (plots.RESULTS / "results.md").write_text("\n".join(lines) + "\n")
    return failed


def main() -> None:
    """Measure, write, draw, look."""
    names = [*(part.name for part in PARTS), "mesh"]
    parser = argparse.ArgumentParser(description="Every benchmark, into docs/performance.")
    parser.add_argument("--long", action="store_true", help="settings for figures that are published")
    parser.add_argument("--only", action="append", choices=names, help="only this one; may be repeated")
    parser.add_argument("--draw", action="store_true", help="measure nothing: draw and write what is kept")
    parser.add_argument("--guest", choices=("5.66", "5.82"), help="measure on this BlueZ, too")
    parser.add_argument("--reference", type=Reference, metavar="PATH", help="a checkout of ble-reticulum")
    parser.add_argument(
        "--reference-python", default="/usr/bin/python3", metavar="PROGRAM", help="what runs it"
    )
    chosen = parser.parse_args()
    wanted = [] if chosen.draw else chosen.only or names
    plots.RESULTS.mkdir(exist_ok=True)
    for part in PARTS:
        if part.name not in wanted:
            continue
        if part.guest and chosen.guest is None:
            print(f"{part.name}: left out; it needs the laboratory's guest: --guest 5.66", file=sys.stderr)
            continue
        print(f"{part.name}: {part.script}", file=sys.stderr)
        keep(part.name, part.run(chosen))
    if "mesh" in wanted:
        print("mesh: storm.py", file=sys.stderr)
        keep("mesh", storms(chosen.long))
    plots.draw_all()
    if failed := write_table():
        sys.exit("\n".join(["does not hold:", *failed]))


def keep(name: str, result: dict[str, Any]) -> None:
    """NAME.json."""
    (plots.RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
