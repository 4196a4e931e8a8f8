"""How long Reticulum takes for a link while a Resource is sent to the same node, over a link like a radio's.

    python -m tests.soak.link_times [--rate VALUES] [--links N] [--json]

Twice: with flows taking turns, and in the order of arrival, as one queue for all would do. The link request
goes the Resource's way, so it comes behind the Resource's window; its proof comes back on an idle one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import trio

from rns_ble.cli.demo.network import open_network
from tests.soak.load import SoakNode

RESOURCE = 400_000
"""Bytes."""


async def measure(rate: float, links: int, orders: str) -> dict[str, Any]:
    """Seconds from link request to proof, of each."""
    os.environ.update(SOAK_VALUES_A_SECOND=str(rate), SOAK_ORDER=orders)
    idle: list[float] = []
    loaded: list[float] = []
    sizes: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        async with open_network(Path(name)) as net:
            net.node_type = SoakNode
            one, two = await net.start_node(1), await net.start_node(2)
            await net.until(lambda: two.identity in one.peers and one.identity in two.peers)
            while not one.has_heard(two.resources):
                await two.tell("announce", what="resources")
                with trio.move_on_after(3):
                    await one.wait_for("announce", destination=two.resources)

            async def link(times: list[float]) -> None:
                since = len(one.events)
                await one.tell("link", to=two.resources)
                times.append((await one.wait_for("link_established", since))["seconds"])

            for _ in range(links):
                await link(idle)
            tag = 0
            while len(loaded) < links:
                tag += 1
                began = trio.current_time()
                await one.tell("send_tagged", to=two.resources, size=RESOURCE, tag=tag)
                await trio.sleep(2)  # for the window to grow
                while len(loaded) < links and one.seen("sent", tag=tag) is None:
                    await link(loaded)
                    await trio.sleep(0.3)
                sent = await one.wait_for("sent", tag=tag)
                assert sent["proved"]
                sizes.append(RESOURCE / (trio.current_time() - began))
    return {
        "idle": summary(idle),
        "loaded": summary(loaded),
        "bytes_per_second": round(statistics.mean(sizes)),
    }


def summary(times: list[float]) -> dict[str, float]:
    return {
        "median_ms": round(1000 * statistics.median(times)),
        "largest_ms": round(1000 * max(times)),
        "links": len(times),
    }


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.soak.link_times")
    parser.add_argument("--rate", type=float, default=100.0, help="values a second (100)")
    parser.add_argument("--links", type=int, default=30, help="how many are timed (30)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    result = {
        order: trio.run(measure, arguments.rate, arguments.links, order) for order in ("arrival", "turns")
    }
    if arguments.json:
        print(json.dumps(result))
        return
    for order, figures in result.items():
        print(f"by {order}: {figures}")


if __name__ == "__main__":
    main()
