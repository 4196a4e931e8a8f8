"""How the tests run: Hypothesis, and the clock of those in virtual time."""

from __future__ import annotations

import inspect
import os

import pytest
from hypothesis import Phase, settings

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
    """`@pytest.mark.virtual_time`: this clock goes before the one that trio_mode has marked the test with."""
    from rns_ble.testing.virtual_time import run_in_virtual_time

    for item in items:
        if item.get_closest_marker("virtual_time") and inspect.iscoroutinefunction(item.obj):
            item.add_marker(pytest.mark.trio(run=run_in_virtual_time), append=False)
