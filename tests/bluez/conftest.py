"""Tests against a real bluetoothd: in the laboratory's guest, or on adapters of this machine.

Everywhere else they are skipped. What runs them: `nox -s bluez`, `nox -s hardware`, and tests/guest, which is
part of a plain run of pytest. docs/bluez-lab.md tells more.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from tests.bluez import laboratory
from tests.bluez.between import Between
from tests.bluez.laboratory import Laboratory

OUTAGES = pytest.StashKey[list[str]]()

HERE = Path(__file__).parent
ELSEWHERE = (
    "needs a real bluetoothd: tests/guest and `nox -s bluez` run this in the laboratory's guest, "
    "`nox -s hardware` on adapters"
)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if HERE in item.path.parents and not (laboratory.IN_GUEST or laboratory.ADAPTERS_NAMED):
        pytest.skip(ELSEWHERE)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if outages := config.stash.get(OUTAGES, []):
        terminalreporter.section("faults, and how long they lasted")
        for outage in outages:
            terminalreporter.write_line(outage)


@pytest.fixture
def outages(pytestconfig: pytest.Config) -> list[str]:
    """What is added here is printed at the end of the run."""
    return pytestconfig.stash.setdefault(OUTAGES, [])


@pytest.fixture(scope="session")
def whole_lab() -> Laboratory | None:
    """One for all tests, since it remembers what they have changed."""
    return Laboratory() if laboratory.IN_GUEST else None


# Fixtures that wait have a run of Trio of their own, so that sync fixtures and autouse ones can use them.


@pytest.fixture
def adapters(whole_lab: Laboratory | None) -> list[str]:
    """The adapters' names. All are on; in the guest everything else is as after the boot, too."""
    return trio.run(whole_lab.reset if whole_lab else laboratory.named_adapters)


@pytest.fixture
def take_adapters(adapters: list[str]) -> Callable[[int], list[str]]:
    """The first so many of the adapters; the test is skipped on a machine that has fewer."""

    def take(count: int) -> list[str]:
        if len(adapters) < count:
            pytest.skip(f"needs {count} adapters, and there are {len(adapters)}")
        return adapters[:count]

    return take


@pytest.fixture
def names(take_adapters: Callable[[int], list[str]], adapters: list[str]) -> list[str]:
    """Of a peripheral, and of one central or more."""
    take_adapters(2)
    return adapters[:4]


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Between:
    """In the middle of all connections to bluetoothd that are opened from now on."""
    return Between(monkeypatch)


@pytest.fixture
def lab(whole_lab: Laboratory | None, adapters: list[str]) -> Laboratory:
    """The laboratory, for tests that break something. Controller I belongs to `adapters[I]` at first."""
    if whole_lab is None:
        pytest.skip(
            "needs controllers that can be unplugged, and daemons that can be killed: the laboratory's"
        )
    return whole_lab


@pytest.fixture
def bluez_version(adapters: list[str]) -> tuple[int, int]:
    """The version of the bluetoothd that runs, as it says itself."""
    return laboratory.bluez_version(trio.run(laboratory.adapters)[adapters[0]]["Modalias"])


@pytest.fixture(scope="session")
def bluez_asked_for() -> str:
    """The version of BlueZ that the guest was booted for."""
    if not laboratory.IN_GUEST:
        pytest.skip("the machine's own BlueZ is whichever it is")
    return os.environ["RNS_BLE_BLUEZ"]
