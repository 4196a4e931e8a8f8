"""Virtual time is the same each time."""

from __future__ import annotations

import trio

from rns_ble.testing.virtual_time import run_in_virtual_time


async def order_of_twenty_tasks() -> tuple[float, list[int]]:
    order: list[int] = []

    async def note(n: int) -> None:
        await trio.sleep(3600)
        order.append(n)

    async with trio.open_nursery() as nursery:
        for n in range(20):
            nursery.start_soon(note, n)
    return trio.current_time(), order


def test_time_begins_at_zero_and_the_seed_decides_the_order() -> None:
    runs = [run_in_virtual_time(order_of_twenty_tasks, seed=seed) for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
    assert runs[0][0] == 3600
