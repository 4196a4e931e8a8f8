"""An asyncio loop inside Trio, for the Bluetooth libraries that are written for asyncio.

This is the only module that imports trio-asyncio, for three things about it have to be put right:

1. Importing it changes asyncio for the whole process: `asyncio.run` in another thread gets trio-asyncio's
   loop, and `new_event_loop()` with `Thread(run_forever)` fails. Reticulum's I2P interface does exactly that.
   The policy for code outside Trio is put back as soon as it was changed, before the rest is imported, for
   Reticulum's other threads go on meanwhile. It is a private attribute: pyproject.toml pins the minor
   release, and a test watches over it.
2. Its default exception handler ends the loop, and with it the driver, on harmless races such as a socket
   that was closed while somebody waited for it. Ours reports and goes on.
3. The loop is a nursery inside, so whatever its block raises would come out in exception groups. `plainly`
   hands it on as it was raised.
"""

from __future__ import annotations

import asyncio
import errno
import sys
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.util import find_spec, module_from_spec
from typing import Any, Final, Protocol, TypeVar, cast
from weakref import WeakSet

import trio

from rns_ble import quiet


def _load_trio_asyncio() -> None:
    spec = find_spec("trio_asyncio")
    if spec is None or spec.loader is None or spec.name in sys.modules:
        return  # the import tells what there is to tell
    sys.modules[spec.name] = package = module_from_spec(spec)
    _put_policy_back()
    spec.loader.exec_module(package)


def _put_policy_back() -> None:
    from trio_asyncio import _loop  # noqa: PLC0415 - this is what changes it

    _loop._FakedPolicy.policy = _loop._original_policy


with warnings.catch_warnings():
    # On Python 3.12 and later; trio-asyncio takes from asyncio what goes in 3.14, and so do we end at 3.13.
    warnings.filterwarnings("ignore", ".*AbstractChildWatcher.*", DeprecationWarning)
    _load_trio_asyncio()
    import trio_asyncio

_put_policy_back()  # also where somebody else had imported it

log = quiet.logger(__name__)

T = TypeVar("T")

GONE: Final = frozenset(
    {
        errno.EBADF,
        errno.EPIPE,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.ENOTCONN,
        errno.ESHUTDOWN,
    }
)
"""What the operating system says of a socket or file that was closed by one side a moment before."""


_leaving: Final[WeakSet[Any]] = WeakSet()
"""Loops whose block has been left. They still run for a while, but start nothing that they would also end."""


class AsyncioLoop(Protocol):
    """What the drivers use of a trio-asyncio loop. Its clock is Trio's, also a virtual one."""

    def time(self) -> float:
        """Seconds on Trio's clock."""

    def call_soon(self, callback: Callable[..., object], *args: Any) -> asyncio.Handle:
        """Call it in the loop's task, after what was given before."""

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        """Call it after `delay` seconds. Those due at the same time come in no particular order."""

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        """Call it at that time of `time()`."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Report a fault that nobody waits for."""

    def is_running(self) -> bool:
        """Whether what is given to it will run."""

    async def run_aio_coroutine(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """For Trio: run an asyncio coroutine. Cancelled: cancels the coroutine and waits for its end."""

    async def run_aio_future(self, future: asyncio.Future[T]) -> T:
        """For Trio: wait for an asyncio future. Cancelled: cancels the future."""


@asynccontextmanager
async def open_asyncio_loop() -> AsyncIterator[AsyncioLoop]:
    """An asyncio loop in the current Trio task, and in all tasks that are started from inside the block.

    Reuses the loop that is current already, so that several virtual nodes in one process share one; it then
    has to outlive this block. Otherwise a loop is opened, and at the block's end its tasks are cancelled.
    What the block raises comes out as it is, not in an exception group.
    """
    current = trio_asyncio.current_loop.get()
    if current is not None and current.is_running() and current not in _leaving:
        yield cast("AsyncioLoop", current)
        return
    async with plainly(trio_asyncio.open_loop()) as loop:
        loop.set_exception_handler(report)
        try:
            yield loop
        finally:
            _leaving.add(loop)


@asynccontextmanager
async def plainly(manager: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
    """Enter a manager that holds a nursery, and take its exception groups off what the block raises.

    Only the block's own exception comes out bare; one of a task in the nursery stays in its group.
    """
    raised: BaseException | None = None
    outcome: BaseException | None = None
    try:
        async with manager as value:
            try:
                yield value
            except BaseException as error:
                raised = error
                raise
    except BaseExceptionGroup as group:
        outcome = raised if _only(group, raised) else group
    try:
        if outcome is not None:
            raise outcome
    finally:
        del raised, outcome  # they would refer to this frame, and this frame to them


def _only(group: BaseExceptionGroup[BaseException], raised: BaseException | None) -> bool:
    """Whether this exception is all that the group holds."""
    inner: BaseException = group
    while raised is not None and not _same(inner, raised):
        if not isinstance(inner, BaseExceptionGroup) or len(inner.exceptions) != 1:
            return False
        inner = inner.exceptions[0]
    return raised is not None


def _same(one: BaseException, other: BaseException) -> bool:
    """Whether two exceptions are one, where a cancel scope may have made a group anew of the same members."""
    if isinstance(one, BaseExceptionGroup) and isinstance(other, BaseExceptionGroup):
        pairs = zip(one.exceptions, other.exceptions, strict=False)
        return len(one.exceptions) == len(other.exceptions) and all(_same(*pair) for pair in pairs)
    return one is other


def report(loop: object, context: dict[str, Any]) -> None:
    """The loop's exception handler: logs what went wrong in a callback, and lets the loop go on."""
    error = context.get("exception")
    message = context.get("message") or "fault in an asyncio callback"
    if _is_harmless(error):
        log.debug("%s: %r", message, error)
    else:
        log.error("%s: %r", message, error, exc_info=error)


def _is_harmless(error: object) -> bool:
    """Whether this is the race of two ends that close, or of an answer that comes after its cancellation."""
    if isinstance(error, OSError):
        return error.errno in GONE
    return isinstance(
        error,
        asyncio.CancelledError
        | asyncio.InvalidStateError
        | EOFError
        | trio.BrokenResourceError
        | trio.ClosedResourceError,
    )
