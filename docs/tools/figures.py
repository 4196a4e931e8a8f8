"""The figures of the documents: `nox -s figures` draws them, `nox -s figures -- --measure` measures before.

docs/diagrams/NAME.d2 becomes NAME.svg beside it (with D2, which the session installs), and of the runs in
docs/performance/NAME.json there is one picture. All of it is committed, so that whoever reads or builds the
documents needs neither tool. An SVG of a diagram ends with the digest of what it was drawn from, for a
test to see that it is current.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import rns_ble

DOCS: Final = Path(__file__).parents[1]
BENCHMARKS: Final = DOCS.parent / "benchmarks"
RESULTS: Final = DOCS / "performance"

CODEC_PACKET: Final = "500"
"""Bytes, Reticulum's MTU: of the sizes that the codec is measured with, the one that is plotted."""
NODES: Final = (10, 50, 100, 200, 500)
SEEDS: Final = (0, 1, 2)

COLOURS: Final = ("#4051b5", "#b0b7e0", "#c75b12", "#eac1a3")


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


# --- measurements ---


def measure() -> None:
    """Run every benchmark, and keep what it says. A quarter of an hour."""
    _keep("codec", {"runs": [_benchmark("fragment_throughput.py")]})
    _keep("waiting", {"runs": [_benchmark("overload.py", "--seconds", "100", "--rounds", "3")]})
    storms = [
        _benchmark("storm.py", "--nodes", str(nodes), "--seed", str(seed))
        for nodes in NODES
        for seed in SEEDS
    ]
    _keep("mesh", {"runs": storms})


def _benchmark(name: str, *settings: str) -> dict[str, Any]:
    command = [sys.executable, str(BENCHMARKS / name), "--json", *settings]
    result: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return result


def _keep(name: str, results: dict[str, Any]) -> None:
    machine = {
        "rns_ble": f"rns_ble {rns_ble.__version__}",
        "processor": _processor(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": platform.system(),
    }
    text = json.dumps({"machine": machine, **results}, indent=1)
    (RESULTS / f"{name}.json").write_text(text + "\n")


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(models)} x {models[0]}" if models else platform.machine()


# --- plots ---


def draw_plots() -> None:
    """Every measurement as a picture."""
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("svg")
    mpl.rcParams.update(
        {
            # Text stays text, and the same figures give the same file.
            "svg.fonttype": "none",
            "svg.hashsalt": "rns_ble",
            "font.family": "sans-serif",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "legend.frameon": False,
        }
    )
    _plot_codec(_kept("codec"))
    _plot_waiting(_kept("waiting"))
    _plot_mesh(_kept("mesh"))


def _kept(name: str) -> dict[str, Any]:
    kept: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return kept


def _save(figure: Any, name: str, machine: dict[str, str]) -> None:
    figure.get_layout_engine().set(rect=(0, 0.06, 1, 0.94))  # room for the line below
    figure.text(0.995, 0.01, ", ".join(machine.values()), ha="right", va="bottom", size=7, color="#777777")
    figure.savefig(RESULTS / f"{name}.svg", metadata={"Date": None})


def _plot_codec(kept: dict[str, Any]) -> None:
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    (run,) = kept["runs"]
    by_limit = run["by_packet"][CODEC_PACKET]
    bars = {
        "fragment": ("fragment", "ours"),
        "fragment, floor": ("fragment", "floor"),
        "reassemble": ("in order", "ours"),
        "reassemble, floor": ("in order", "floor"),
    }
    for index, (label, (what, whose)) in enumerate(bars.items()):
        rates = [result[what]["packets_per_second"][whose] for result in by_limit.values()]
        middle = [rate["median"] / 1000 for rate in rates]
        below = [(rate["median"] - rate["least"]) / 1000 for rate in rates]
        above = [(rate["most"] - rate["median"]) / 1000 for rate in rates]
        axes.bar(
            [place + 0.2 * index for place in range(len(rates))],
            middle,
            0.19,
            yerr=[below, above],
            color=COLOURS[index],
            error_kw={"linewidth": 0.8},
            label=label,
        )
    axes.set_xticks([place + 0.3 for place in range(len(by_limit))], list(by_limit))
    axes.set(xlabel="value limit (bytes)", ylabel="thousand packets a second", yscale="log")
    figure.legend(ncols=4, loc="outside upper center")
    _save(figure, "codec", kept["machine"])


def _plot_waiting(kept: dict[str, Any]) -> None:
    from matplotlib import pyplot as plt  # noqa: PLC0415

    (run,) = kept["runs"]
    by_mtu = run["by_att_mtu"]
    figure, panels = plt.subplots(1, len(by_mtu), figsize=(8, 3.2), sharey=True, layout="constrained")
    for axes, (mtu, orders) in zip(panels, by_mtu.items(), strict=True):
        kinds = list(orders["turns"]["wait_ms"])
        for index, (order, label) in enumerate(
            (("arrival", "in the order of arrival"), ("turns", "in turns"))
        ):
            waits = [orders[order]["wait_ms"][kind] for kind in kinds]
            places = [place + 0.22 * (2 * index - 1) for place in range(len(kinds))]
            colour = COLOURS[2 * (1 - index)]
            axes.barh(places, [w["p99"] / 1000 for w in waits], 0.4, color=colour, alpha=0.35)
            axes.barh(places, [w["median"] / 1000 for w in waits], 0.4, color=colour, label=label)
        axes.set_yticks(range(len(kinds)), kinds)
        axes.set(title=f"ATT MTU {mtu}", xlabel="s to the air")
    figure.legend(*panels[0].get_legend_handles_labels(), ncols=2, loc="outside upper center")
    _save(figure, "waiting", kept["machine"])


def _plot_mesh(kept: dict[str, Any]) -> None:
    from matplotlib import pyplot as plt  # noqa: PLC0415

    shown = {
        "time_to_connected": "s until all are in one piece",
        "attempts_per_link": "attempts for each link",
        "cpu_seconds_per_node": "s of processor for each node",
    }
    figure, panels = plt.subplots(1, len(shown), figsize=(8, 2.8), layout="constrained")
    for axes, (key, label) in zip(panels, shown.items(), strict=True):
        points = [(run["nodes"], run[key]) for run in kept["runs"] if run[key] is not None]
        sizes = sorted({nodes for nodes, _ in points})
        medians = [statistics.median(value for n, value in points if n == nodes) for nodes in sizes]
        axes.plot(sizes, medians, color=COLOURS[0])
        axes.plot(*zip(*points, strict=True), ".", color=COLOURS[2])
        axes.set(xlabel="nodes", title=label, ylim=(0, 1.15 * max(value for _, value in points)))
        axes.title.set_size(9)
    _save(figure, "mesh", kept["machine"])


def main() -> None:
    """Measure if wanted, and draw."""
    parser = argparse.ArgumentParser(description="Draw the figures of the documents.")
    parser.add_argument("--measure", action="store_true", help="run the benchmarks before: 15 minutes")
    arguments = parser.parse_args()
    if arguments.measure:
        RESULTS.mkdir(exist_ok=True)
        measure()
    draw_diagrams()
    draw_plots()


if __name__ == "__main__":
    main()
