"""How the tests run: Hypothesis, and the clock of those in virtual time."""

from __future__ import annotations

import inspect
import os
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
import trio
import trio.testing
from hypothesis import Phase, settings

T = TypeVar("T")

# The same examples each time where CI is set, new ones elsewhere.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
# Many times over: few examples, and a failure is enough as it is found.
settings.register_profile(
    "mutation",
    deadline=None,
    derandomize=True,
    max_examples=30,
    phases=[Phase.explicit, Phase.generate],
)
settings.load_profile("ci" if os.environ.get("CI") else "default")

pytest.register_assert_rewrite("rns_ble.testing.driver_suite")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`@pytest.mark.virtual_time` and `@pytest.mark.hastened`: these clocks go before the one that trio_mode
    has marked the test with.
    """
    from rns_ble.testing.virtual_time import run_in_virtual_time

    for item in items:
        for mark, run in (("virtual_time", run_in_virtual_time), ("hastened", run_hastened)):
            if item.get_closest_marker(mark) and inspect.iscoroutinefunction(item.obj):
                item.add_marker(pytest.mark.trio(run=run), append=False)


def run_hastened(async_function: Callable[..., Awaitable[T]], *args: Any, **keywords: Any) -> T:
    """`trio.run` on a clock that goes five times as fast. Threads do not, so it must leave them time."""
    keywords["clock"] = trio.testing.MockClock(rate=5)
    return trio.run(async_function, *args, **keywords)
