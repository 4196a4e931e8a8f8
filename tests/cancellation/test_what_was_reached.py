"""After all the others: every await of ours was cancelled at least once, or it is said here why not."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

import rns_ble
from rns_ble.testing.checkpoints import awaits_of
from tests.cancellation import reached
from tests.cancellation.conftest import SUMMARY

PACKAGE: Final = Path(rns_ble.__file__).parent

MODULES: Final = [
    *("supervisor", "mesh", "peer", "session", "mailbox", "strangers", "host", "testing/air"),
    *("drivers/base", "drivers/asyncio_loop"),
    *(f"drivers/hci/{path.stem}" for path in sorted((PACKAGE / "drivers/hci").glob("*.py"))),
]

IN_REAL_TIME: Final = {"drivers/hci/ether", "drivers/hci/transports"}
"""Those that are reached only by the tests over TCP, which `nox -s cancellation` runs."""

SCENARIOS: Final = 45
"""At least so many have run when all have."""

NEVER_WAITS: Final = {
    ("drivers/hci/handshake", 'async with _no_refusal(link, "the reading of its Identity"):'),
    ("drivers/hci/handshake", 'async with _no_refusal(link, "the subscription to its TX"):'),
    ("drivers/hci/handshake", 'async with _no_refusal(link, "our identity"):'),
}
"""Neither their beginning nor their end waits for anything."""


NOT_REACHED: Final = {
    # For a connection that comes in the very moment in which its dial is cancelled. The virtual radio has no
    # such moment, for its commands take no time.
    ("drivers/hci/stack", "await self.disconnect(dial.connection)"),
}


def test_every_await_was_cancelled(every: bool, pytestconfig: pytest.Config) -> None:
    if len(reached.FIGURES) < SCENARIOS:
        pytest.skip("the other tests of this directory have not all run")
    missed = []
    cancelled = shielded = 0
    for module in MODULES:
        if module in IN_REAL_TIME and not every:
            continue
        source = PACKAGE / f"{module}.py"
        lines = source.read_text().splitlines()
        for place in sorted(awaits_of(source)):
            line = lines[place.line - 1].strip()
            if place in reached.CANCELLED:
                cancelled += 1
            elif place in reached.SHIELDED:
                shielded += 1
            elif (module, line) not in NEVER_WAITS | NOT_REACHED:
                missed.append(f"{module}:{place.line}: {line}")
    checkpoints = sum(report.checkpoints for report in reached.FIGURES.values())
    interrupted = sum(report.interrupted for report in reached.FIGURES.values())
    pytestconfig.stash[SUMMARY] = (
        f"{len(reached.FIGURES)} scenarios, {checkpoints} checkpoints, {interrupted} of them interrupted; "
        f"of the awaits {cancelled} were cancelled, {shielded} were shielded from it"
    )
    assert not missed
