"""What must hold in each of our nodes after every step of one of its tasks.

1. The limiters are the record: whoever borrows one of the radio's is an attempt; it borrows its address's
   limiter as well and, until its link takes over, one place. Whoever else borrows a place is a link.
2. Places, links and attempts never exceed what they are limited to.
3. A peer's link has a place. A link of ours with a place is served by a peer, or being closed.
4. One RNS interface for each identity, told in order (`Node` itself notes that).
5. Nobody is dialled who is known to be linked, or again within `ATTEMPT_INTERVAL` (`on_attempt`).

A step changes its own node only, so only that is looked at: the small limiters each time, every candidate
each `EVERYTHING` steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import trio

from rns_ble.candidate import ATTEMPT_INTERVAL, Attempt
from rns_ble.drivers.base import BLELink
from rns_ble.mesh import Mesh
from rns_ble.testing.simulation.node import CURRENT, Node

ROUNDING: Final = 1e-6
"""Seconds by which sums of floating-point times may be off."""

EVERYTHING: Final = 256
"""Steps of a node from one look at all of its candidates to the next."""


class InvariantViolation(AssertionError):
    """A rule was broken; says which, by which node, when, and the seed that shows it again."""


class Checker(trio.abc.Instrument):
    """Install with `trio.lowlevel.add_instrument`. Calls `stop` at the first broken rule."""

    def __init__(self, seed: int, stop: Callable[[], None]) -> None:
        self.seed = seed
        self.violation: str | None = None
        self.steps = 0
        """That were looked at."""
        self._stop = stop
        self._last_attempts: dict[tuple[int, str], float] = {}

    def raise_if_violated(self) -> None:
        """Raise `InvariantViolation` when a rule was broken."""
        if self.violation is not None:
            raise InvariantViolation(self.violation)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Trio's: a task has run up to a checkpoint. An exception from here would only be logged."""
        node = task.context.get(CURRENT)
        if node is None or self.violation is not None:
            return
        self.steps += 1
        try:
            if node.broken:
                self._violated(node, node.broken[0])
            elif (mesh := node.mesh) is not None and (broken := self._broken(node, mesh)) is not None:
                self._violated(node, broken)
        except Exception as error:  # noqa: BLE001 - or the run would go on unchecked
            self._violated(node, f"the check itself failed: {error!r}")

    def on_attempt(self, node: Node, address: str) -> None:
        """The node's driver is told to connect."""
        now = trio.current_time()
        before = self._last_attempts.get((node.driver.number, address), -math.inf)
        self._last_attempts[node.driver.number, address] = now
        if now - before < ATTEMPT_INTERVAL - ROUNDING:
            self._violated(node, f"{address} dialled {now - before:g} s after the attempt before")
        assert node.mesh is not None, "only a mesh dials"
        candidate = node.mesh.admission.candidates[address]
        if candidate.identity in node.linked():
            self._violated(node, f"{address} dialled, whose identity is linked")

    def _violated(self, node: Node, what: str) -> None:
        if self.violation is None:
            self.violation = f"{what} ({node} at {trio.current_time():.6f} s, seed {self.seed})"
            self._stop()

    def _broken(self, node: Node, mesh: Mesh) -> str | None:
        admission = mesh.admission
        attempts = admission.radio.statistics().borrowers
        holders = admission.places.statistics().borrowers
        if len(attempts) > admission.radio.total_tokens:
            return f"{len(attempts)} attempts on a radio for {admission.radio.total_tokens:g}"
        if len(holders) > node.config.max_connections:
            return f"{len(holders)} places taken of {node.config.max_connections}"
        for attempt in attempts:
            if not isinstance(attempt, Attempt):
                return f"the radio is borrowed by {attempt!r}"
            if attempt.candidate.limiter.statistics().borrowers != [attempt]:
                return f"an attempt without the limiter of its address, {attempt.address}"
        for holder in holders:
            if not (isinstance(holder, BLELink) or holder in attempts):
                return f"a place is borrowed by {holder!r}, neither a link nor an attempt"
        served = 0
        for peer in node.peers.values():
            for link in peer.links:
                served += 1
                if link not in holders:
                    return f"a link of {peer} without a place"
        if served > node.config.max_connections:
            return f"{served} links served, {node.config.max_connections} allowed"
        if self.steps % EVERYTHING == 0:
            for candidate in admission.candidates.values():
                for borrower in candidate.limiter.statistics().borrowers:
                    if borrower not in attempts:
                        return f"the limiter of {candidate.address} is borrowed, and nothing is in flight"
        return None
