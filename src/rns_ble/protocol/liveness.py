"""Keepalive, silence and probe of one link, from the handshake on.

Three clocks run, and each is put back by something else:

1. *Ours to send.* A keepalive is due `KEEPALIVE_INTERVAL` after the last fragment or keepalive sent. A PING
   or PONG does not put it off: an implementation without the probe need not take it for a sign of life.
2. *The peer's to be heard.* Any value of a kind we know is a sign of life. A peer that has sent a keepalive
   before promises more of them, and is `SILENT` after `SILENCE_LIMIT` without any. Others promise nothing.
3. *Data to be received.* A fragment, PING or PONG proves the data path, a keepalive does not (it may be sent
   by a stack whose application is gone). A PING is due `PROBE_INTERVAL` after the last of them, then every
   `PROBE_INTERVAL`, and at once when there is a doubt. A peer that has sent a PING or PONG before knows the
   probe, and is `DATA_DEAD` after `DATA_LIMIT`. Others are asked too, since one of them may know it, but not
   judged.

What was asked for is not remembered: only what was heard and sent, and a doubt, change anything.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from rns_ble.protocol.values import ValueKind

KEEPALIVE_INTERVAL: Final = 15.0
"""Seconds. Two may be lost before reticulum-kt and reticulum-swift drop us, at 45 s of silence."""

SILENCE_LIMIT: Final = 45.0
"""Seconds; the same limit for the peer."""

PROBE_INTERVAL: Final = 15.0
"""Seconds (BLE Reticulum v0.4.0)."""

DATA_LIMIT: Final = 45.0
"""Seconds: two PINGs, at 15 and 30, are left unanswered (BLE Reticulum v0.4.0)."""


ANSWER_LIMIT: Final = 5.0
"""Seconds that a peer may take to answer a PING, or be late with a keepalive, before another link to it is
preferred. Question and answer take two connection events: 0.1 s at usual intervals, and a little over 4 s at
the longest there is (Core Specification, Vol 6 Part B, 4.5.1). To be wrong costs only the preference."""


class Action(enum.Enum):
    """What is due on a link."""

    SILENT = "silent"
    """Drop the link: the peer is gone."""
    DATA_DEAD = "data-dead"
    """Drop the link, so that it is set up anew: it lives, but carries no data."""
    SEND_KEEPALIVE = "send keepalive"
    SEND_PING = "send ping"


@dataclass(slots=True)
class Habits:
    """What a peer has shown that it does."""

    sends_keepalives: bool = False
    knows_the_probe: bool = False


class Liveness:
    """The three clocks of one link. All times are seconds on one monotonic clock of the caller's."""

    last_heard: float
    """When the last value of a known kind came, or when the link was ready."""

    def __init__(self, now: float, habits: Habits) -> None:
        """`now`: the handshake is done, and counts as a sign of life in both directions.

        `habits`: what is known of the peer from the link before this one, for a link may come back dead.
        """
        self._habits = habits
        self.last_heard = now
        self._last_data = now
        self._keepalive_due = now + KEEPALIVE_INTERVAL
        self._ping_due = now + PROBE_INTERVAL
        self._unanswered = math.inf  # since when a PING is

    def heard(self, kind: ValueKind, now: float) -> None:
        """A value came. A foreign one says nothing about the peer."""
        if kind is ValueKind.FOREIGN:
            return
        self.last_heard = now
        if kind is ValueKind.KEEPALIVE:
            self._habits.sends_keepalives = True
        elif kind is not ValueKind.IDENTITY:
            self._last_data = now
            self._ping_due = now + PROBE_INTERVAL
            self._unanswered = math.inf
            if kind is not ValueKind.FRAGMENT:
                self._habits.knows_the_probe = True

    def sent(self, kind: ValueKind, now: float) -> None:
        """A value went out: the stack has taken it."""
        if kind in (ValueKind.FRAGMENT, ValueKind.KEEPALIVE):
            self._keepalive_due = now + KEEPALIVE_INTERVAL
        elif kind is ValueKind.PING:
            self._ping_due = now + PROBE_INTERVAL
            self._unanswered = min(self._unanswered, now)

    def doubt(self, now: float) -> None:
        """Make a PING due: there is reason to ask whether the link still lives."""
        self._ping_due = now

    def overdue(self, now: float) -> bool:
        """Whether the peer is late with something that it is known to do. It may still be alive."""
        if self._habits.knows_the_probe and now > self._unanswered + ANSWER_LIMIT:
            return True
        return self._habits.sends_keepalives and now > self.last_heard + KEEPALIVE_INTERVAL + ANSWER_LIMIT

    def next_due(self) -> float:
        """The earliest time at which `poll` has something to say; in the past when it has now."""
        return min(due for _action, due in self._schedule())

    def poll(self, now: float) -> list[Action]:
        """What is due, reasons to drop the link first. Changes nothing: ask as often as you like."""
        return [action for action, due in self._schedule() if now >= due]

    def _schedule(self) -> Iterator[tuple[Action, float]]:
        if self._habits.sends_keepalives:
            yield Action.SILENT, self.last_heard + SILENCE_LIMIT
        if self._habits.knows_the_probe:
            yield Action.DATA_DEAD, self._last_data + DATA_LIMIT
        yield Action.SEND_KEEPALIVE, self._keepalive_due
        yield Action.SEND_PING, self._ping_due
