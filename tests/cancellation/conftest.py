"""How much of it runs."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest

SUMMARY = pytest.StashKey[str]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if (summary := config.stash.get(SUMMARY, None)) is not None:
        terminalreporter.section("cancellation")
        terminalreporter.write_line(summary)


@pytest.fixture
def every() -> bool:
    """Whether each checkpoint is interrupted (`nox -s cancellation`), or only each await, to save time."""
    return os.environ.get("RNS_BLE_EVERY_CHECKPOINT") == "1"


@pytest.fixture
def quiet() -> Iterator[None]:
    """No log, whose records would keep errors and all that these refer to."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)
