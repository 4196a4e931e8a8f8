"""Every benchmark in one go: results, a table and pictures in docs/performance, and whether it holds.

The settings are short ones, some minutes in all, and what they give goes to docs/performance/short. `--long`
takes half an hour and more and writes docs/performance itself, which figures in the documents are from; no
short run touches it. `--guest` measures on the real BlueZ as well, in the laboratory's guest
(docs/bluez-lab.md), and `--reference` ble-reticulum beside it (link_reference.py tells what that needs).

What has to hold are ratios of one run. One that does not is an error, and so are one that this run should
have measured and has not, and a benchmark that fails; the others are measured, written and drawn all the
same. What was not measured in this run is looked at as it is kept, and says so.

    python benchmarks/report.py [--long] [--only NAME]... [--draw] [--into FOLDER] [--guest 5.66|5.82]
        [--reference PATH --reference-python PROGRAM]
"""

from __future__ import annotations

import argparse
import json
import operator
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import plots
from measuring import Reference, check_reference_python, setting

HERE: Final = Path(__file__).resolve().parent

PUBLISHED: Final = HERE.parent / "docs" / "performance"
SHORT: Final = PUBLISHED / "short"

FIGURE: Final = {"median", "least", "most"}

STORMS: Final = {False: ((10,), (0,)), True: ((10, 50, 100, 200, 500), (0, 1, 2))}
"""Nodes and seeds, short and long."""


PARTS_OF_SETUP: Final = tuple(f"--part={part}" for part in ("radio", "start", "imports", "idle"))
"""Without a guest."""


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
            if self.guest_too and not chosen.long:
                settings += ["--part", "bluez"]
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
        ("--on", "bluez", "--rounds", "1", "--values", "1500", "--probes", "20", "--resource", "65536"),
        ("--on", "bluez", "--rounds", "7", "--values", "1500"),
        reference=True,
        guest=True,
    ),
    Part(
        "setup",
        "setup_time.py",
        ("--rounds", "2", *PARTS_OF_SETUP, "--idle-seconds", "15"),
        ("--rounds", "5"),
        reference=True,
        guest_too=True,
    ),
    Part(
        "waiting", "overload.py", ("--seconds", "100", "--rounds", "1"), ("--seconds", "100", "--rounds", "3")
    ),
)


class BenchmarkFailed(Exception):
    """It has printed no result."""


def benchmark(script: str, *settings: str) -> dict[str, Any]:
    """Run one; its progress goes where ours does. One that has measured what does not hold prints it all the
    same, and the demands below look at it. Raises `BenchmarkFailed`.
    """
    command = [sys.executable, str(HERE / script), "--json", *settings]
    outcome = subprocess.run(command, check=False, stdout=subprocess.PIPE)
    try:
        result: dict[str, Any] = json.loads(outcome.stdout)
    except ValueError:
        raise BenchmarkFailed(f"{script} failed with exit status {outcome.returncode}") from None
    return result


def storms(long: bool) -> dict[str, Any]:
    """The simulator's result: a run for each size and seed."""
    sizes, seeds = STORMS[long]
    runs = [
        benchmark("storm.py", "--nodes", str(nodes), "--seed", str(seed)) for nodes in sizes for seed in seeds
    ]
    return {**setting("storm"), "runs": runs}


# --- what has to hold ---


GUEST, REFERENCE = "--guest", "--reference"


@dataclass(frozen=True)
class Demand:
    """A ratio, or a count, of figures of one run, and its bound."""

    what: str
    result: str
    ratio: Callable[[dict[str, Any]], float]
    bound: float
    holds: Callable[[float, float], bool] = field(default=operator.ge)
    needs: tuple[str, ...] = ()
    """Options without which its figures are not measured."""

    def value(self, result: dict[str, Any] | None) -> float | None:
        """None where it is not in the result, or where the figures are too few to tell."""
        try:
            return None if result is None else float(self.ratio(result))
        except (KeyError, TypeError, ValueError, ZeroDivisionError):
            return None

    @property
    def text(self) -> str:
        """The bound."""
        bound = f"{self.bound:,}" if isinstance(self.bound, int) else f"{self.bound:.3g}"
        return f"{'at least' if self.holds is operator.ge else 'at most'} {bound}"


def _codec(what: str, per: str, limit: str) -> Callable[[dict[str, Any]], float]:
    """Of the packets, from 20 to 4,096 bytes, with which it is least."""

    def ratio(result: dict[str, Any]) -> float:
        packets = result["by_packet"].values()
        return min(float(by_limit[limit][what]["ours_per"][per]["median"]) for by_limit in packets)

    return ratio


def _bluez(
    per: str, size: str, what: str, way: str = "central to peripheral"
) -> Callable[[dict[str, Any]], float]:
    """Of the rounds that both sides have."""

    def ratio(result: dict[str, Any]) -> float:
        found = result["bluez"]["ratios"][f"sockets to {per}"][way][size][what]
        return float(found["median"] if isinstance(found, dict) else found)

    return ratio


def _value(*path_and_result: Any) -> float:
    """The median that is found along this path in the result, which comes last."""
    *path, found = path_and_result
    for name in path:
        found = found[name]
    return float(found["median"])


def _waiting(result: dict[str, Any]) -> float:
    orders = result["by_att_mtu"]["517"]
    one, two = (orders[order]["wait_ms"]["link request"]["median"] for order in ("turns", "arrival"))
    return float(one / two)


def _storms(which: Callable[[list[float]], float], key: str) -> Callable[[dict[str, Any]], float]:
    return lambda result: which([float(run[key]) for run in result["runs"]])


def _setup(times: str) -> Callable[[dict[str, Any]], float]:
    def ratio(result: dict[str, Any]) -> float:
        ways = [guest["bluez"] for guest in result["guests"].values()]
        return float(
            max(way["rns_ble"][times]["median"] / way["ble-reticulum"][times]["median"] for way in ways)
        )

    return ratio


DEMANDS: Final = (
    *(
        Demand(
            f"fragment, per {per}, values of {limit}, worst packet",
            "codec",
            _codec("fragment", per, limit),
            bound,
            needs=needs,
        )
        for limit in ("20", "182", "244", "512")
        for per, bound, needs in (("floor", 0.8, ()), ("reference", 3.0, (REFERENCE,)))
    ),
    *(
        Demand(
            f"reassemble, per reference, values of {limit}, worst packet",
            "codec",
            _codec("in order", "reference", limit),
            4.0,
            needs=(REFERENCE,),
        )
        for limit in ("20", "182", "244", "512")
    ),
    *(
        Demand(
            f"BlueZ, to the peripheral, {what}, sockets per {per}, values of {size}",
            "bluez",
            _bluez(per, size, key),
            bound,
            holds,
            needs,
        )
        for size in ("244", "505")
        for what, key, per, bound, holds, needs in (
            ("values a second", "arriving", "calls", 1.5, operator.ge, (GUEST,)),
            ("values a second", "arriving", "ble-reticulum", 2.0, operator.ge, (GUEST, REFERENCE)),
            ("sender's processor", "sender_cpu", "ble-reticulum", 1 / 3, operator.le, (GUEST, REFERENCE)),
        )
    ),
    *(
        Demand(
            f"BlueZ, sighting to handshake, {times}, per ble-reticulum with its defaults",
            "setup",
            _setup(times),
            1 / 3,
            operator.le,
            (GUEST, REFERENCE),
        )
        for times in ("cold", "reconnect")
    ),
    *(
        Demand(
            f"BlueZ, to the central, values a second, sockets per calls, values of {size}",
            "bluez",
            _bluez("calls", size, "arriving", "peripheral to central"),
            1.2,
            needs=(GUEST,),
        )
        for size in ("244", "505")
    ),
    Demand(
        "import of RNS and the interface, per RNS alone",
        "setup",
        partial(_value, "imports", "RNS, the interface", "per_rns"),
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
    *(
        Demand(f"all storms: {what}", "mesh", _storms(which, key), bound, holds)
        for what, which, key, bound, holds in (
            ("attempts per link", max, "attempts_per_link", 1.5, operator.le),
            ("healthy peers left alone", max, "healthy_blacklisted", 0, operator.le),
            ("in one piece at the end (1: yes)", min, "connected", 1, operator.ge),
            ("attempts at once at one address", max, "max_concurrent_attempts_per_address", 1, operator.le),
            ("attempts a minute in the end", max, "attempts_per_minute_steady", 0, operator.le),
        )
    ),
)


AIMS: Final = (
    *(
        Demand(
            f"BlueZ, to the central, {what}, sockets per ble-reticulum, values of {size}",
            "bluez",
            _bluez("ble-reticulum", size, key, "peripheral to central"),
            bound,
            holds,
            (GUEST, REFERENCE),
        )
        for size in ("244", "505")
        for what, key, bound, holds in (
            ("values a second", "arriving", 2.0, operator.ge),
            ("sender's processor", "sender_cpu", 1 / 3, operator.le),
            ("receiver's processor", "receiver_cpu", 1 / 3, operator.le),
        )
    ),
    *(
        Demand(
            f"values a second {way} through the driver, a socket pair for bluetoothd, of {size} bytes",
            "link",
            partial(_value, "sockets", way, size, "values_per_s"),
            20_000,
        )
        for way in ("out", "in")
        for size in ("20", "244", "512")
    ),
    Demand(
        "packets a second from Reticulum's thread to the driver, 7 peers",
        "bridge",
        partial(_value, "by_peers", "7", "packets_per_second", "out"),
        50_000,
    ),
    Demand(
        "packets a second from the driver to Reticulum's thread, 7 peers",
        "bridge",
        partial(_value, "by_peers", "7", "packets_per_second", "in"),
        50_000,
    ),
    Demand(
        "ms there and back, 99th percentile, 7 peers",
        "bridge",
        partial(_value, "by_peers", "7", "delay_ms", "round trip, p99"),
        5,
        operator.le,
    ),
    Demand(
        "idle with 3 peers, driver bleak in the guest, % of its core",
        "setup",
        lambda result: max(guest["idle"]["rnsd"]["median"] for guest in result["guests"].values()),
        1,
        operator.le,
        (GUEST,),
    ),
    Demand(
        "idle with 7 peers, driver bumble, % of a core",
        "setup",
        partial(_value, "idle", "rnsd"),
        1,
        operator.le,
    ),
)
"""Shown, and no reason to fail: figures of this machine alone, whose speed changes from hour to hour, and
what is claimed of one direction only, in the other."""


# --- the table ---


def rows(result: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, str, str]]:
    """What it is, its median, and its least and most."""
    for name, inner in result.items():
        here = (*path, name)
        if isinstance(inner, dict) and inner.keys() == FIGURE:
            yield ", ".join(here), f"{inner['median']:,g}", f"{inner['least']:,g} to {inner['most']:,g}"
        elif isinstance(inner, dict):
            yield from rows(inner, here)
        elif isinstance(inner, list) and inner and all(isinstance(one, str) for one in inner):
            told = inner[-1].replace("[", r"\[").replace("|", r"\|")  # which mean something in a table
            yield ", ".join(here), f"{len(inner)}; the last: {told}", ""
        elif isinstance(inner, bool | int | float | str):
            yield ", ".join(here), f"{inner:,g}" if isinstance(inner, float) else str(inner), ""


MANY: Final = 1000
"""From which on a figure is shown without decimals."""

ABOUT: Final = {"benchmark", "versions", "python", "machine", "system", "measured_on"}
"""What a result says of itself."""


def look(
    demands: Sequence[Demand], folder: Path, measured: Collection[str], given: Collection[str]
) -> tuple[list[str], list[str]]:
    """Rows of a table of what has to hold, and what is wrong with them, a line for each.

    `measured`: results of this run, with the options `given`.
    """
    lines, wrong = [], []
    for demand in demands:
        result = plots.kept(folder, demand.result)
        value = demand.value(result)
        now = demand.result in measured and all(option in given for option in demand.needs)
        if now:
            when = "in this run"
        elif result is not None and value is not None and demand.result not in measured:
            when = f"not now; rns_ble {result['versions']['rns_ble']}, {result.get('measured_on', 'undated')}"
        else:
            when = f"not now; needs {' and '.join(demand.needs)}" if demand.needs else "not now"
        if value is None:
            shown, holds = "", "**missing**" if now else ""
            if now:
                wrong.append(f"{demand.what}: missing, or too little to tell")
        else:
            shown, holds = f"{value:,.0f}" if value >= MANY else f"{value:.2f}", "yes"
            if not demand.holds(value, demand.bound):
                holds = "**no**"
                wrong.append(f"{demand.what}: {value:.2f}, {demand.text} ({when})")
        lines.append(f"| {demand.what} | {demand.text} | {shown} | {holds} | {when} |")
    return lines, wrong


def write_table(folder: Path, ratios: Sequence[str], aims: Sequence[str]) -> None:
    """results.md, with these rows of what has to hold, and of what was aimed at."""
    lines = [
        "# Results",
        "",
        "Written by `nox -s bench`, which measures anew; what each figure means is said in the benchmark.",
        "",
        "| what has to hold | | ratio | holds | measured |",
        "|---|---|---|---|---|",
        *ratios,
        "",
        "What no run fails for: figures that depend on the machine, and ratios that are claimed of the other",
        "direction only.",
        "",
        "| what was aimed at | | figure | reached | measured |",
        "|---|---|---|---|---|",
        *aims,
    ]
    for name in (*(part.name for part in PARTS), "mesh"):
        if (result := plots.kept(folder, name)) is None:
            continue
        versions = ", ".join(f"{package} {version}" for package, version in result["versions"].items())
        lines += ["", f"## {name}", "", f"`benchmarks/{result['benchmark']}.py` with {result['python']} on "]
        lines[-1] += f"{result['machine']}, {result['system']}"
        if "measured_on" in result:
            lines[-1] += f", {result['measured_on']}"
        lines[-1] += f": {versions}."
        shown = {key: value for key, value in result.items() if key not in ABOUT}
        if name == "codec":  # or there would be a thousand of them
            shown["by_packet"] = {plots.PACKET: shown["by_packet"][plots.PACKET]}
        if name == "mesh":
            shown = {
                f"{run['nodes']} nodes, seed {run['seed']}": {
                    key: value for key, value in run.items() if key not in ABOUT
                }
                for run in result["runs"]
            }
        lines += ["", "| figure | median | from, to |", "|---|---|---|"]
        lines += [f"| {what} | {median} | {spread} |" for what, median, spread in rows(shown)]
    (folder / "results.md").write_text("\n".join(lines) + "\n")


# --- all of it ---


def arguments() -> argparse.Namespace:
    """Of the command line. `into`: where results go."""
    names = [*(part.name for part in PARTS), "mesh"]
    parser = argparse.ArgumentParser(
        description="Every benchmark, its figures, pictures and what has to hold."
    )
    parser.add_argument("--long", action="store_true", help="settings for figures that are published")
    parser.add_argument("--only", action="append", choices=names, help="only this one; may be repeated")
    parser.add_argument(
        "--draw", action="store_true", help="measure nothing: draw and write what is published"
    )
    parser.add_argument(
        "--into", type=Path, metavar="FOLDER", help=f"where it goes ({SHORT}; with --long {PUBLISHED})"
    )
    parser.add_argument("--guest", choices=("5.66", "5.82"), help="measure on this BlueZ, too")
    parser.add_argument("--reference", type=Reference, metavar="PATH", help="a checkout of ble-reticulum")
    parser.add_argument(
        "--reference-python",
        default="/usr/bin/python3",
        metavar="PROGRAM",
        help="what runs it (/usr/bin/python3)",
    )
    chosen = parser.parse_args()
    check_reference_python(parser, chosen)
    chosen.into = chosen.into or (PUBLISHED if chosen.long or chosen.draw else SHORT)
    if chosen.into.resolve() == PUBLISHED and not (chosen.long or chosen.draw):
        parser.error(f"{PUBLISHED} is for --long: short settings would take the place of long ones there")
    chosen.wanted = () if chosen.draw else chosen.only or names
    return chosen


def measure(chosen: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The results that are new, and the benchmarks that have failed, a line for each."""
    runs = {part.name: (part.script, partial(part.run, chosen)) for part in PARTS}
    runs["mesh"] = "storm.py", partial(storms, chosen.long)
    measured, failed = [], []
    for name, (script, run) in runs.items():
        if name not in chosen.wanted:
            continue
        if chosen.guest is None and any(part.guest for part in PARTS if part.name == name):
            print(f"{name}: left out; it needs the laboratory's guest: --guest 5.66", file=sys.stderr)
            continue
        print(f"{name}: {script}", file=sys.stderr)
        try:
            result = run()
        except BenchmarkFailed as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed.append(f"{name}: {error}")
        else:
            kept = {"settings": "long" if chosen.long else "short", **result}
            (chosen.into / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n")
            measured.append(name)
    return measured, failed


def main() -> None:
    """Measure, write, draw, look."""
    chosen = arguments()
    chosen.into.mkdir(parents=True, exist_ok=True)
    if chosen.into == SHORT:
        (SHORT / ".gitignore").write_text("*\n")
    measured, wrong = measure(chosen)
    wrong += plots.draw_all(chosen.into)
    given = [
        option
        for option, value in ((GUEST, chosen.guest), (REFERENCE, chosen.reference))
        if value is not None
    ]
    ratios, does_not_hold = look(DEMANDS, chosen.into, measured, given)
    aims, _not_reached = look(AIMS, chosen.into, measured, given)
    write_table(chosen.into, ratios, aims)
    print(f"written to {chosen.into}", file=sys.stderr)
    if wrong := wrong + does_not_hold:
        sys.exit("\n".join(["does not hold:", *wrong]))


if __name__ == "__main__":
    main()
