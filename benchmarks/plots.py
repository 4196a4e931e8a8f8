"""The pictures of a folder of results, docs/performance or another."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

try:
    import matplotlib as mpl
    from matplotlib import pyplot as plt
except ModuleNotFoundError:
    sys.exit("no pictures without matplotlib: python -m pip install -e '.[bench]'")

COLOURS: Final = ("#4051b5", "#b0b7e0", "#c75b12", "#eac1a3")

PACKET: Final = "500"
"""Bytes of the packets that are drawn: Reticulum's own."""


SIZES: Final = ("20", "244", "505")
"""Bytes of the values that are drawn, on BlueZ: ble-reticulum sends no longer ones there."""


def draw_all(folder: Path) -> list[str]:
    """Every picture of which there is a result; those that lack a figure for it, a line for each."""
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
    pictures = {
        "codec": codec,
        "bridge": bridge,
        "link": link,
        "bluez": bluez,
        "setup": setup,
        "waiting": waiting,
        "mesh": mesh,
    }
    lacking = []
    for name, draw in pictures.items():
        if (result := kept(folder, name)) is None:
            continue
        try:
            figure = draw(result)
        except (KeyError, ValueError) as error:
            lacking.append(f"{name}.svg: it lacks {error}")
            continue
        finally:
            plt.close("all")
        figure.get_layout_engine().set(rect=(0, 0.06, 1, 0.94))  # room for the line below
        made_on = f"rns_ble {result['versions']['rns_ble']}, {result['python']}"
        made_on += f", {result['machine']}, {result['system']}"
        figure.text(0.995, 0.01, made_on, ha="right", va="bottom", size=7, color="#777777")
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    return lacking


def kept(folder: Path, name: str) -> dict[str, Any] | None:
    """A result; None: it was never measured."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def _bars(axes: Any, index: int, of: int, figures: Sequence[Mapping[str, float]], label: str) -> None:
    """One bar of each group, with a line from the least to the most."""
    width = 0.84 / of
    middle = [figure["median"] for figure in figures]
    axes.bar(
        [place + width * (index - (of - 1) / 2) for place in range(len(figures))],
        middle,
        0.95 * width,
        yerr=[
            [figure["median"] - figure["least"] for figure in figures],
            [figure["most"] - figure["median"] for figure in figures],
        ],
        color=COLOURS[index],
        error_kw={"linewidth": 0.8},
        label=label,
    )


def codec(result: dict[str, Any]) -> Any:
    """Packets a second, by the longest value."""
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    by_limit = result["by_packet"][PACKET]
    for index, (label, (what, whose)) in enumerate(
        {
            "fragment": ("fragment", "ours"),
            "fragment, floor": ("fragment", "floor"),
            "reassemble": ("in order", "ours"),
            "reassemble, floor": ("in order", "floor"),
        }.items()
    ):
        rates = [at[what]["packets_per_second"][whose] for at in by_limit.values()]
        _bars(axes, index, 4, rates, label)
    axes.set_xticks(range(len(by_limit)), by_limit)
    axes.set(xlabel="longest value (bytes)", ylabel="packets a second", yscale="log")
    figure.legend(ncols=4, loc="outside upper center")
    return figure


def bridge(result: dict[str, Any]) -> Any:
    """Packets a second, and delays, by the number of peers."""
    figure, (rates, delays) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    by_peers = result["by_peers"]
    for index, way in enumerate(("out", "in", "round trip")):
        _bars(rates, index, 3, [at["packets_per_second"][way] for at in by_peers.values()], way)
    for index, which in enumerate(("round trip, p50", "round trip, p99")):
        _bars(delays, index, 2, [at["delay_ms"][which] for at in by_peers.values()], which)
    for axes in rates, delays:
        axes.set_xticks(range(len(by_peers)), by_peers)
        axes.set(xlabel="peers")
        axes.margins(y=0.3)  # for the legend
        axes.legend(loc="upper left")
    rates.set(ylabel="packets a second")
    delays.set(ylabel="ms, at 1,000 packets a second in all")
    return figure


WAYS: Final = ("central to peripheral", "peripheral to central")


def link(result: dict[str, Any]) -> Any:
    """Values a second where no bluetoothd is, and their delays."""
    figure, (own, radio, delays) = plt.subplots(1, 3, figsize=(8, 3.2), layout="constrained")
    ways = {"out": "out", "in": "in", "in by calls": "in by D-Bus calls"}
    for index, (way, name) in enumerate(ways.items()):
        by_size = result["sockets"][way]
        _bars(own, index, 3, [at["values_per_s"] for at in by_size.values()], name)
        own.set_xticks(range(len(by_size)), by_size)
    for index, way in enumerate(WAYS):
        by_size = {size: at for size, at in result["radio"][way].items() if size.isdecimal()}
        _bars(radio, index, 2, [at["values_per_s"] for at in by_size.values()], way)
        # As central it sends at most 510 bytes.
        radio.set_xticks(range(len(by_size)), by_size)
    loads = ("idle", "under bulk")
    for index, which in enumerate(("p50", "p99")):
        taken = [result["radio"][WAYS[0]]["delay_ms_of_100_bytes"][load][which] for load in loads]
        _bars(delays, index, 2, taken, which)
    delays.set_xticks(range(len(loads)), loads)
    for axes, title in (
        (own, "no radio and no bluetoothd"),
        (radio, "virtual radio"),
        (delays, "virtual radio"),
    ):
        axes.set(title=title)
        axes.title.set_size(9)
        axes.margins(y=0.3)  # for the legend
        axes.legend(loc="upper left", fontsize=8)
    for axes in own, radio:
        axes.set(ylabel="values a second", xlabel="bytes of a value")
    delays.set(ylabel="ms, of 100 bytes")
    return figure


def setup(result: dict[str, Any]) -> Any:
    """What a user waits for."""
    times: dict[str, Mapping[str, Any]] = {"virtual radio": result["radio"]}
    for version, guest in result.get("guests", {}).items():
        sides = {"rns_ble": f"BlueZ {version}", "ble-reticulum": "ble-\nreticulum"}
        sides["ble-reticulum, without its wait"] = "without\nits wait"
        times |= {sides[side]: measured for side, measured in guest.get("bluez", {}).items()}
    linked = {name: taken for name, taken in times.items() if {"cold", "reconnect"} <= taken.keys()}
    figure, (links, imports) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for index, which in enumerate(("cold", "reconnect")):
        label = {"cold": "never seen before", "reconnect": "again"}[which]
        _bars(links, index, 2, [taken[which] for taken in linked.values()], label)
    links.set_xticks(range(len(linked)), linked, fontsize=8)
    links.set(ylabel="ms from sighting to handshake")
    _bars(imports, 0, 1, [at["per_rns"] for at in result["imports"].values()], "")
    names = [name.removeprefix("RNS, ").replace(", ", ",\n") for name in result["imports"]]
    imports.set_xticks(range(len(names)), names, fontsize=8)
    imports.set(ylabel="time of imports, per RNS alone")
    links.margins(y=0.3)
    links.legend(loc="upper left")
    return figure


def bluez(result: dict[str, Any]) -> Any:
    """Values a second on the real BlueZ, as they arrive."""
    ways = {"sockets": "sockets", "calls": "D-Bus calls", "ble-reticulum": "ble-reticulum"}
    measured = {way: result["bluez"][way] for way in ways if way in result["bluez"]}
    figure, panels = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True, layout="constrained")
    none = {"median": 0.0, "least": 0.0, "most": 0.0}
    for axes, direction in zip(panels, WAYS, strict=True):
        sizes = [size for size in SIZES if size in measured["sockets"][direction]]
        for index, (way, by_direction) in enumerate(measured.items()):
            by_size = by_direction.get(direction, {})
            figures = [by_size.get(size, {}).get("arriving_per_s", none) for size in sizes]
            _bars(axes, index, len(measured), figures, ways[way])
        axes.set_xticks(range(len(sizes)), sizes)
        axes.set(title=direction, xlabel="bytes of a value")
        axes.title.set_size(9)
    panels[0].set(ylabel="values a second")
    figure.legend(*panels[0].get_legend_handles_labels(), ncols=3, loc="outside upper center")
    return figure


def waiting(result: dict[str, Any]) -> Any:
    """Seconds to the air for small packets behind a Resource."""
    by_mtu = result["by_att_mtu"]
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
    return figure


def mesh(result: dict[str, Any]) -> Any:
    """How meshes of many sizes come together."""
    shown = {
        "time_to_connected": "s until all are in one piece",
        "attempts_per_link": "attempts for each link",
        "cpu_seconds_per_node": "s of processor for each node",
    }
    figure, panels = plt.subplots(1, len(shown), figsize=(8, 2.8), layout="constrained")
    for axes, (key, label) in zip(panels, shown.items(), strict=True):
        points = [(run["nodes"], run[key]) for run in result["runs"] if run[key] is not None]
        sizes = sorted({nodes for nodes, _ in points})
        medians = [statistics.median(value for n, value in points if n == nodes) for nodes in sizes]
        axes.plot(sizes, medians, color=COLOURS[0])
        axes.plot(*zip(*points, strict=True), ".", color=COLOURS[2])
        axes.set(xlabel="nodes", title=label, ylim=(0, 1.15 * max(value for _, value in points)))
        axes.title.set_size(9)
    return figure
