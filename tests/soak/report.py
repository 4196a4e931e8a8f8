"""What a soak showed: slopes, a verdict, and a picture."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from tests.soak.load import Record

WARM_UP = 1 / 3
"""Of a node's life, before its memory is looked at: Reticulum's tables and Python's arenas fill."""

FIT_SECONDS = 300.0
"""The shortest stretch of one life that a slope is taken from; a shorter one says nothing of an hour."""

IDLE_GROWTH = {"fds": 2, "tasks": 2, "objects": 60}
"""How many more there may be after the load than before it, with the same links up. Reticulum has files open
while it saves its tables, and one of our tasks may be about to end. Some objects of this package are kept for
each address under which a killed node came back, twenty in half an hour; what leaked with each link or packet
would be hundreds. Threads are Reticulum's: two are ours, and stay."""

MEMORY_GROWTH = 25_000_000
"""Bytes per hour, of the median node, on top of Reticulum's list of packets. Some 10 MB are what the
allocator keeps of what it was given back; if no packet were ever freed it would be 36, at 20 a second."""

CHARTS = (
    *(("rss", "resident memory", 1e6, "MB"), ("objects", "objects of this package", 1, "")),
    *(("fds", "file descriptors", 1, ""), ("threads", "threads", 1, "")),
    *(("tasks", "Trio tasks", 1, ""), ("queued", "packets queued", 1, "")),
)


def lives(record: Record) -> dict[tuple[int, int], list[dict[str, Any]]]:
    """(node, life) → its samples."""
    found: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for sample in record.samples:
        found.setdefault((sample["node"], sample["life"]), []).append(sample)
    return found


def slope(samples: list[dict[str, Any]], what: str) -> float | None:
    """Growth per hour after the warm-up; None when there is too little of it."""
    points = [(s["seconds"], s[what]) for s in samples if s.get(what) is not None]
    if not points:
        return None
    begin, end = points[0][0], points[-1][0]
    points = [(x, y) for x, y in points if x >= begin + WARM_UP * (end - begin)]
    if len(points) < 3 or points[-1][0] - points[0][0] < FIT_SECONDS:
        return None
    return 3600 * statistics.linear_regression(*zip(*points, strict=True)).slope


def growth(record: Record) -> dict[str, dict[str, float]]:
    """What → per hour and node: median and largest slope of the lives that were long enough."""
    result = {}
    for what in ("rss", "hashes_bytes", "objects", "fds", "threads", "tasks"):
        slopes = [s for samples in lives(record).values() if (s := slope(samples, what)) is not None]
        if slopes:
            result[what] = {"median": round(statistics.median(slopes), 1), "largest": round(max(slopes), 1)}
    return result


def failures(record: Record) -> list[str]:
    """All that must not be; none: the verdict is good."""
    found = [*record.lost, *record.twice, *record.not_quiet]
    for number, (before, after) in sorted(record.idle.items()):
        for what, allowed in IDLE_GROWTH.items():
            if after[what] > before[what] + allowed:
                found.append(f"node {number}: {what} {before[what]} before the load, {after[what]} after it")
    grown = growth(record)
    if "rss" in grown:
        memory = grown["rss"]["median"] - grown.get("hashes_bytes", {"median": 0.0})["median"]
        if memory > MEMORY_GROWTH:
            found.append(
                f"memory grows by {memory / 1e6:.0f} MB an hour on top of Reticulum's list of packets"
            )
    found += [
        f"no {what} was delivered"
        for what in ("message", "resource")
        if not record.counts[f"{what}s delivered"]
    ]
    return found


def summary(record: Record, nodes: int, seconds: float) -> dict[str, Any]:
    """One JSON object."""
    failed = failures(record)
    by_life = lives(record).values()
    most = {
        what: max(s[what] for s in record.samples if what in s)
        for what in ("queued", "tasks", "fds", "threads")
    }
    return {
        "ok": not failed,
        "failures": failed,
        "nodes": nodes,
        "seconds": seconds,
        "counts": dict(sorted(record.counts.items())),
        "most": most,
        "cpu_of_a_core": round(sum(s[-1]["cpu"] - s[0]["cpu"] for s in by_life) / seconds, 2),
        "rss_mb": {
            "before": round(statistics.mean(b["rss"] for b, _ in record.idle.values()) / 1e6, 1),
            "after": round(statistics.mean(a["rss"] for _, a in record.idle.values()) / 1e6, 1),
        }
        if record.idle
        else None,
        "objects": {
            "before": round(statistics.mean(b["objects"] for b, _ in record.idle.values())),
            "after": round(statistics.mean(a["objects"] for _, a in record.idle.values())),
        }
        if record.idle
        else None,
        "dropped": sum(s[-1]["dropped"] for s in by_life),
        "not_delivered_to_reticulum": sum(s[-1]["not_delivered"] for s in by_life),
        "growth_per_hour_and_node": growth(record),
    }


def as_text(result: dict[str, Any]) -> str:
    """What a person reads."""
    lines = [f"{result['nodes']} nodes, {result['seconds'] / 60:.1f} minutes of load", ""]
    lines += [f"{count:>7}  {what}" for what, count in result["counts"].items()]
    lines += [
        "",
        f"packets dropped by full queues or with their links: {result['dropped']}",
        f"received, but not delivered to Reticulum: {result['not_delivered_to_reticulum']}",
        f"most at once: {result['most']}",
        f"mean memory of a node, idle before and after (MB): {result['rss_mb']}",
        f"mean objects of this package in a node, idle before and after: {result['objects']}",
        f"all nodes together used {result['cpu_of_a_core']} of a core",
        "growth per hour and node, after warm-up (rss in bytes):",
    ]
    growths = result["growth_per_hour_and_node"].items()
    lines += [f"  {what}: median {g['median']:,}, largest {g['largest']:,}" for what, g in growths]
    if not growths:
        lines.append("  too short for a slope")
    lines += ["", "nothing lost, nothing leaked" if result["ok"] else "FAILED:"]
    lines += [f"  {failure}" for failure in result["failures"]]
    return "\n".join(lines)


# --- the picture ---

WIDTH, HEIGHT, MARGIN = 900, 150, 60
COLOURS = ("#1b6ca8", "#c8553d", "#2a9d57", "#8e5ea2", "#d4a017", "#5b5b5b", "#17a2b8", "#e377c2")


def picture(record: Record) -> str:
    """An SVG: a chart below the other, a line for each node, interrupted where it died."""
    end = max((s["seconds"] for s in record.samples), default=1.0) or 1.0
    charts = [
        _chart(record, end, MARGIN // 2 + place * (HEIGHT + MARGIN), *chart)
        for place, chart in enumerate(CHARTS)
    ]
    height = len(CHARTS) * (HEIGHT + MARGIN) + MARGIN // 2
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH + 2 * MARGIN}" height="{height}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>\n'
        + "\n".join(charts)
        + "\n</svg>\n"
    )


def _chart(record: Record, end: float, top: int, what: str, title: str, unit: float, name: str) -> str:
    values = [s[what] / unit for s in record.samples if s.get(what) is not None]
    largest = max(values, default=1) or 1

    def point(sample: dict[str, Any]) -> str:
        x = MARGIN + WIDTH * max(0.0, sample["seconds"]) / end
        y = top + HEIGHT * (1 - sample[what] / unit / largest)
        return f"{x:.1f},{y:.1f}"

    lines = [
        f'<text x="{MARGIN}" y="{top - 6}">{title}, at most {largest:,.0f} {name}</text>',
        f'<path d="M{MARGIN},{top}V{top + HEIGHT}H{MARGIN + WIDTH}" fill="none" stroke="black"/>',
        f'<text x="{MARGIN - 6}" y="{top + HEIGHT}" text-anchor="end">0</text>',
        f'<text x="{MARGIN + WIDTH}" y="{top + HEIGHT + 16}" text-anchor="end">{end / 60:.0f} min</text>',
    ]
    for (node, _), samples in lives(record).items():
        points = " ".join(point(s) for s in samples if s.get(what) is not None)
        colour = COLOURS[(node - 1) % len(COLOURS)]
        lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}"/>')
    return "\n".join(lines)


def write(record: Record, to: Path) -> None:
    """The picture, beside the samples."""
    (to / "soak.svg").write_text(picture(record))
