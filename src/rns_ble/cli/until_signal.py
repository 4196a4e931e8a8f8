"""Run a Trio program until it is done or a signal asks it to end, and let it clean up in peace."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import trio

from rns_ble.cli.errors import CommandError

T = TypeVar("T")

SIGNALS: Final = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class SignalledError(CommandError):
    """A signal came. Everything has been cleaned up."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}; everything is cleaned up")
        self.exit_code = 128 + number  # as a shell reports it


async def until_signal(program: Callable[[], Awaitable[T]]) -> T:
    """Run `program` and return what it returns; SIGINT, SIGTERM and SIGHUP cancel it.

    A second signal, while it cleans up, changes nothing: goodbyes have deadlines of their own.

    Raises `SignalledError` when a signal came and the program did not end by itself, and what the program
    raises, taken out of its exception groups where it is alone in them.
    """
    try:
        return await _until_signal(program)
    except ExceptionGroup as group:
        # Nurseries wrap what ends them. A single error says more without.
        error: Exception = group
        while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        raise error from None


async def _until_signal(program: Callable[[], Awaitable[T]]) -> T:
    received: list[int] = []
    result: list[T] = []

    with trio.open_signal_receiver(*SIGNALS) as signals:
        async with trio.open_nursery() as nursery:

            async def listen() -> None:
                async for number in signals:
                    received.append(number)
                    nursery.cancel_scope.cancel()

            nursery.start_soon(listen)
            result.append(await program())
            nursery.cancel_scope.cancel()
    if not result:
        raise SignalledError(received[0])
    return result[0]
