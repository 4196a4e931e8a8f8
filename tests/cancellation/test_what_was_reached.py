"""After all the others: every await of ours was cancelled at least once, or it is said here why not."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from rns_ble.testing.checkpoints import Place
from tests.cancellation import reached
from tests.cancellation.conftest import SUMMARY
from tests.cancellation.reached import PACKAGE, awaits_in

MODULES: Final = [
    *("supervisor", "mesh", "peer", "session", "mailbox", "strangers", "host", "testing/air"),
    "status_server",
    *("drivers/base", "drivers/asyncio_loop"),
    *(
        f"drivers/{package}/{path.stem}"
        for package in ("hci", "threaded")
        for path in sorted((PACKAGE / "drivers" / package).glob("*.py"))
    ),
]

IN_REAL_TIME: Final = {"drivers/hci/ether", "drivers/hci/transports"}
"""Those that are reached only by the tests over TCP, which `nox -s cancellation` runs."""

RAISING: Final = ["supervisor", "mesh", "peer", "session"]
"""Out of whose awaits exceptions have come: calls of the driver, of its links, and all else but these."""

NEVER_RAISES: Final = {
    ("supervisor", "await trio.sleep(pause)"),  # nothing but time passes
}

SCENARIOS: Final = 50
"""At least so many have run when all have."""

NEVER_WAITS: Final = {
    ("drivers/hci/handshake", 'async with _no_refusal(link, "the reading of its Identity"):'),
    ("drivers/hci/handshake", 'async with _no_refusal(link, "the subscription to its TX"):'),
    ("drivers/hci/handshake", 'async with _no_refusal(link, "our identity"):'),
    ("status_server", 'await _refuse(client, f"there are {CLIENTS_MAXIMUM} clients already")'),
    ("status_server", 'await _refuse(client, f"the only request is: {REQUEST.strip().decode()}")'),
    ("status_server", 'await _refuse(client, f"a request has {REQUEST_MAXIMUM} bytes at most")'),
    ("status_server", 'await _send(client, json.dumps({"error": why}).encode() + b"\\n")'),
}
"""Neither their beginning nor their end waits for anything, or the kernel takes the few bytes at once."""


NOT_REACHED: Final = {
    # For a connection that comes in the very moment in which its dial is cancelled. The virtual radio has no
    # such moment, for its commands take no time.
    ("drivers/hci/stack", "await self.disconnect(dial.connection)"),
}


@pytest.fixture(autouse=True)
def all_have_run() -> None:
    if len(reached.FIGURES) < SCENARIOS:
        pytest.skip("the other tests of this directory have not all run")


def source(place: Place) -> str:
    return Path(place.file).read_text().splitlines()[place.line - 1].strip()


def test_every_await_of_the_mesh_has_raised() -> None:
    missed = {(module, source(place)) for module in RAISING for place in awaits_in([module]) - reached.RAISED}
    assert missed == NEVER_RAISES


def test_every_await_was_cancelled(every: bool, pytestconfig: pytest.Config) -> None:
    missed = []
    cancelled = shielded = 0
    for module in MODULES:
        if module in IN_REAL_TIME and not every:
            continue
        for place in sorted(awaits_in([module])):
            line = source(place)
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
