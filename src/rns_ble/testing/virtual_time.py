"""Tests in virtual time: hours pass in milliseconds, and every run is the same."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import trio
import trio.testing

T = TypeVar("T")


def run_in_virtual_time(
    async_function: Callable[..., Awaitable[T]], *args: Any, seed: int = 0, **keywords: Any
) -> T:
    """`trio.run` on a clock that starts at 0 and jumps to the next deadline whenever all tasks wait.

    Trio runs tasks that are ready at the same moment in random order; here `seed` decides the order.

    With pytest-trio (not in its `trio_mode`): `pytestmark = pytest.mark.trio(run=run_in_virtual_time)`. Not
    for tests with threads, processes or real sockets: to the clock these look like tasks that wait.
    """
    # Private, and the only way: Trio has them for Hypothesis, which sets them in just this manner.
    scheduler: Any = trio._core._run
    allowed = scheduler._ALLOW_DETERMINISTIC_SCHEDULING
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True
    scheduler._r.seed(seed)
    keywords["clock"] = trio.testing.MockClock(autojump_threshold=0)
    try:
        return trio.run(async_function, *args, **keywords)
    finally:
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = allowed
