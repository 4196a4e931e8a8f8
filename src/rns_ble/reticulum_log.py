"""The way of this package's log into Reticulum's."""

from __future__ import annotations

import logging
from typing import Final

import RNS

from rns_ble.host import current_interface

LOG_LEVELS: Final[tuple[tuple[int, int], ...]] = (
    (logging.CRITICAL, RNS.LOG_CRITICAL),
    (logging.ERROR, RNS.LOG_ERROR),
    (logging.WARNING, RNS.LOG_WARNING),
    (logging.INFO, RNS.LOG_NOTICE),
)
"""Python's level → Reticulum's; all below INFO is DEBUG. INFO says that the interface is online and which
peers come and go, which a user wants to see without asking: rnsd shows NOTICE unless told otherwise."""


class _ReticulumLog(logging.Handler):
    """Passes our log on to Reticulum's, which has levels and a destination of its own."""

    def handle(self, record: logging.LogRecord) -> bool:
        """Drop what Reticulum would not show before it costs anything.

        Takes no lock: Reticulum's log has its own, and a thread stuck in that must not hold up the others.
        """
        if RNS.loglevel < _level(record) or not self.filter(record):
            return False
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Log one line, headed by the interface that it is about."""
        try:
            RNS.log(f"{current_interface.get('rns_ble')}: {self.format(record)}", _level(record))
        except Exception:  # noqa: BLE001  (as logging demands: a log must not break what it reports on)
            self.handleError(record)


def _level(record: logging.LogRecord) -> int:
    """Reticulum's level for ours."""
    return next((theirs for ours, theirs in LOG_LEVELS if record.levelno >= ours), int(RNS.LOG_DEBUG))


def bridge_logging() -> None:
    """Send the log of this package to Reticulum's; once in a process."""
    logger = logging.getLogger("rns_ble")
    if not any(isinstance(handler, _ReticulumLog) for handler in logger.handlers):
        logger.addHandler(_ReticulumLog())
        logger.propagate = False
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.DEBUG)  # Reticulum's log level, which may change at any time, decides
