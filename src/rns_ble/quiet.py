"""Loggers that a peer can't make loud.

What comes from the air decides how often many a line is logged. Of each kind of line, which is its text
before the arguments are put in, a module writes `LINES` in `WINDOW` seconds. The others are counted, and told
once, with the next line of that module after the window.
"""

from __future__ import annotations

import logging
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from weakref import WeakKeyDictionary

WINDOW: Final = 10.0
"""Seconds. The counted ones are told while whoever reads the log still looks."""

LINES: Final = 50
"""Lines of one kind in a window: a burst in which all of `max_discovered_peers` change their state loses half
of its lines; a flood of 500 values a second writes 5 a second."""

_FURTHER: Final = "%d further like it: %s"


def logger(name: str) -> logging.Logger:
    """`logging.getLogger`, and made quiet."""
    log = logging.getLogger(name)
    if not any(isinstance(one, _Quiet) for one in log.filters):
        log.addFilter(_Quiet(log))
    return log


@dataclass(slots=True)
class _Kind:
    level: int
    began: float
    lines: int = 0


class _Quiet(logging.Filter):
    """Used by several threads without a lock: at worst a line too many is written, or not counted."""

    def __init__(self, log: logging.Logger) -> None:
        super().__init__()
        self._log = log
        # By clock, for two interfaces have two; then by text, as many as there are in a module.
        self._kinds: WeakKeyDictionary[object, dict[str, _Kind]] = WeakKeyDictionary()

    def filter(self, record: logging.LogRecord) -> bool:
        text = str(record.msg)
        if text == _FURTHER:
            return True
        clock, now = _now()
        kinds = self._kinds.setdefault(clock or self._log, {})
        self._tell(kinds, now)
        kind = kinds.setdefault(text, _Kind(record.levelno, now))
        kind.lines += 1
        return kind.lines <= LINES

    def _tell(self, kinds: dict[str, _Kind], now: float) -> None:
        for text, kind in list(kinds.items()):
            if now >= kind.began + WINDOW:
                kinds.pop(text, None)
                if kind.lines > LINES:
                    self._log.log(kind.level, _FURTHER, kind.lines - LINES, text)


def _now() -> tuple[object, float]:
    """A clock, and the time on it. Each run of Trio has its own."""
    # Not imported: who logs before Trio is needed does not wait for it, and on another thread it may be half
    # imported.
    lowlevel = getattr(sys.modules.get("trio"), "lowlevel", None)
    if lowlevel is not None:
        with suppress(RuntimeError):  # on another thread; a module's lines that can be many are logged on one
            return lowlevel.current_trio_token(), lowlevel.current_clock().current_time()
    return None, time.monotonic()
