"""The asyncio loop inside Trio leaves asyncio elsewhere alone, survives faults and raises what was raised."""

from __future__ import annotations

import ast
import asyncio
import errno
import gc
import logging
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio

from rns_ble.drivers import asyncio_loop
from rns_ble.drivers.asyncio_loop import open_asyncio_loop, plainly

trio_asyncio = asyncio_loop.trio_asyncio  # which nothing else may import: see there

LOGGER = "rns_ble.drivers.asyncio_loop"


# --- canaries: private attributes of trio-asyncio ---


def test_the_policy_outside_of_trio_is_that_of_before_the_import() -> None:
    assert trio_asyncio._loop._faked_policy.policy is trio_asyncio._loop._original_policy
    assert trio_asyncio._loop._FakedPolicy.policy is trio_asyncio._loop._original_policy
    assert not isinstance(trio_asyncio._loop._original_policy, trio_asyncio._loop.TrioPolicy)
    assert issubclass(trio_asyncio._loop._FakedPolicy, threading.local)


def test_the_current_loop_is_a_context_variable() -> None:
    assert trio_asyncio.current_loop.get() is None


# --- asyncio elsewhere ---


def in_thread(function: Any) -> Any:
    """What the function returns or raises in a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result(20)


async def work() -> tuple[str, int]:
    """Some asyncio: a timer, a task, a socket."""
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
    await asyncio.create_task(asyncio.sleep(0.001))
    return type(asyncio.get_running_loop()).__module__, 1


def run_in_a_loop_of_its_own() -> tuple[str, int]:
    """What Reticulum's I2P interface does."""
    loop = asyncio.new_event_loop()

    def forever() -> None:
        asyncio.set_event_loop(loop)
        loop.run_forever()

    thread = threading.Thread(target=forever)
    thread.start()
    try:
        return asyncio.run_coroutine_threadsafe(work(), loop).result(20)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
        loop.close()


MEANWHILE = """
import asyncio, sys, trio
class OtherThread:
    def find_spec(self, name, path=None, target=None):
        sys.meta_path.remove(self)
        try:
            loop = asyncio.new_event_loop()
            loop.close()
        finally:
            sys.meta_path.insert(0, self)
        made.setdefault(type(loop).__module__, name)
made = {}
sys.meta_path.insert(0, OtherThread())
import rns_ble.drivers.asyncio_loop
print(made)
"""
"""Another thread has its turn whenever something is imported, for that reads files."""


def test_the_loops_that_are_made_during_the_import_are_plain_ones() -> None:
    ran = subprocess.run([sys.executable, "-c", MEANWHILE], capture_output=True, text=True, check=True)
    assert list(ast.literal_eval(ran.stdout)) == [PLAIN[0]]


PLAIN = ("asyncio.unix_events", 1)


@pytest.mark.parametrize("run", [lambda: asyncio.run(work()), run_in_a_loop_of_its_own])
def test_asyncio_in_another_thread_is_plain(run) -> None:
    assert in_thread(run) == PLAIN


@pytest.mark.parametrize("run", [lambda: asyncio.run(work()), run_in_a_loop_of_its_own])
async def test_asyncio_in_another_thread_is_plain_also_while_a_loop_is_open(run) -> None:
    async with open_asyncio_loop() as loop:
        assert await trio.to_thread.run_sync(run) == PLAIN
        assert (await loop.run_aio_coroutine(work()))[0].startswith("trio_asyncio")


def test_asyncio_run_works_in_the_main_thread() -> None:
    assert asyncio.run(work()) == PLAIN


async def test_a_subprocess_of_asyncio_in_another_thread_ends_also_while_a_loop_is_open() -> None:
    async def run() -> int:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", "raise SystemExit(7)")
        return await process.wait()

    async with open_asyncio_loop():
        assert await trio.to_thread.run_sync(lambda: asyncio.run(run())) == 7


async def test_a_loop_elsewhere_keeps_asyncios_own_way_with_faults() -> None:
    def handler() -> object:
        loop = asyncio.new_event_loop()
        try:
            return loop.get_exception_handler()
        finally:
            loop.close()

    async with open_asyncio_loop() as loop:
        assert loop.get_exception_handler() is asyncio_loop.report  # type: ignore[attr-defined]
        assert await trio.to_thread.run_sync(handler) is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the driver for BlueZ is Linux's")
def test_the_drivers_leave_asyncio_as_it_was_for_the_rest_of_a_process() -> None:
    """As an `rnsd` sees it that has both: bleak and dbus-next imported, and a driver's loop open."""
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", REST_OF_A_PROCESS], capture_output=True, text=True, check=False
    )
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")


REST_OF_A_PROCESS = """
import asyncio, threading, trio

import bleak, dbus_next, rns_ble.drivers.bluez, rns_ble.drivers.hci
from rns_ble.drivers.asyncio_loop import open_asyncio_loop


async def work():
    await asyncio.sleep(0.001)
    return type(asyncio.get_running_loop()).__module__


def elsewhere():
    assert asyncio.run(work()) == "asyncio.unix_events"
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    assert asyncio.run_coroutine_threadsafe(work(), loop).result(20) == "asyncio.unix_events"
    loop.call_soon_threadsafe(loop.stop)
    thread.join(20)
    loop.close()


async def main():
    async with open_asyncio_loop():
        await trio.to_thread.run_sync(elsewhere)
    await trio.to_thread.run_sync(elsewhere)


elsewhere()
trio.run(main)
elsewhere()
"""


# --- one loop for several ---


async def test_a_loop_that_is_current_is_used_again() -> None:
    async with open_asyncio_loop() as loop:
        async with open_asyncio_loop() as inner:
            assert inner is loop
        assert loop.is_running()

        async def in_a_task() -> None:
            async with open_asyncio_loop() as inherited:
                assert inherited is loop

        async with trio.open_nursery() as nursery:
            nursery.start_soon(in_a_task)
    assert not loop.is_running()
    assert trio_asyncio.current_loop.get() is None


async def test_a_loop_that_has_ended_is_not_used_again() -> None:
    opened = trio.Event()
    closed = trio.Event()

    async def later() -> None:
        await closed.wait()
        async with open_asyncio_loop() as another:
            assert another.is_running()
            assert another is not loop
            assert await another.run_aio_coroutine(asyncio.sleep(0, "ran")) == "ran"

    async with trio.open_nursery() as nursery:
        async with open_asyncio_loop() as loop:
            nursery.start_soon(later)  # it inherits the loop, which ends before it looks
            opened.set()
        closed.set()


async def test_a_loop_that_is_being_left_is_not_used_again() -> None:
    async def when_it_is_left() -> None:
        with pytest.raises(asyncio.CancelledError):
            await loop.run_aio_coroutine(asyncio.sleep(60))
        assert loop.is_running()
        async with open_asyncio_loop() as another:
            assert another is not loop
            await another.run_aio_coroutine(asyncio.sleep(0.01))

    async with trio.open_nursery() as nursery, open_asyncio_loop() as loop:
        nursery.start_soon(when_it_is_left)
        await trio.testing.wait_all_tasks_blocked()


# --- faults in callbacks ---


async def in_callback(error: BaseException) -> bool:
    """Whether the loop goes on after a callback has raised."""

    def fail() -> None:
        raise error

    async with open_asyncio_loop() as loop:
        loop.call_soon(fail)
        await trio.testing.wait_all_tasks_blocked()
        return await loop.run_aio_coroutine(asyncio.sleep(0, True))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EBADF, "closed"),
        BrokenPipeError(errno.EPIPE, "closed"),
        ConnectionResetError(errno.ECONNRESET, "closed"),
        asyncio.InvalidStateError("answered twice"),
        EOFError(),
        trio.BrokenResourceError(),
        trio.ClosedResourceError(),
    ],
    ids=repr,
)
async def test_a_harmless_race_is_told_at_debug_with_its_cause(error, caplog) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    assert await in_callback(error)
    (record,) = (record for record in caplog.records if record.name == LOGGER)
    assert record.levelno == logging.DEBUG
    assert repr(error) in record.getMessage()


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError(errno.ENOSPC, "full"), KeyError(1)], ids=repr)
async def test_a_bug_is_told_at_error_with_its_traceback(error, caplog) -> None:
    assert await in_callback(error)
    (record,) = (record for record in caplog.records if record.name == LOGGER)
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    assert "def fail" not in caplog.text
    assert "in fail" in caplog.text


async def test_a_fault_without_an_exception_is_told_as_well(caplog) -> None:
    async with open_asyncio_loop() as loop:
        loop.call_exception_handler({"message": "something odd"})
        loop.call_exception_handler({})
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert "something odd" in caplog.text


async def test_a_task_that_fails_does_not_end_the_loop(caplog) -> None:
    async def fail() -> None:
        raise ValueError("in a task")

    async with open_asyncio_loop() as loop:

        async def start() -> None:
            task = asyncio.create_task(fail())
            await asyncio.sleep(0.01)
            del task

        await loop.run_aio_coroutine(start())
        gc.collect()  # asyncio tells of a task's exception when the task is forgotten
        await loop.run_aio_coroutine(asyncio.sleep(0.01))
    assert "in a task" in caplog.text


# --- what comes out ---


async def test_what_the_block_raises_comes_out_as_it_is() -> None:
    cause = KeyError("cause")
    error = ValueError("plain")
    error.__cause__ = cause
    with pytest.raises(ValueError, match="plain") as raised:
        async with open_asyncio_loop():
            raise error
    assert raised.value is error
    assert error.__cause__ is cause


async def test_a_group_that_the_block_raises_is_not_unpacked() -> None:
    group = ExceptionGroup("the body's", [ValueError(), ExceptionGroup("inner", [KeyError()])])

    async def block() -> None:
        async with open_asyncio_loop(), plainly(trio.open_nursery()) as nursery:
            nursery.cancel_scope.cancel()
            raise group

    with pytest.raises(ExceptionGroup) as raised:
        await block()
    assert raised.value is group


async def test_cancellation_passes() -> None:
    with trio.move_on_after(0.01) as scope:
        async with open_asyncio_loop():
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_a_cancelled_entry_leaves_no_loop() -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        async with open_asyncio_loop():
            await trio.lowlevel.checkpoint()
    assert trio_asyncio.current_loop.get() is None


async def test_a_failing_task_of_the_nursery_stays_in_its_group() -> None:
    async def fail() -> None:
        raise ValueError("the task's")

    async def block(error: Exception | None) -> None:
        async with plainly(trio.open_nursery()) as nursery:
            nursery.start_soon(fail)
            if error is not None:
                raise error
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as raised:
        await block(None)
    assert raised.group_contains(ValueError, match="the task's")
    with pytest.raises(ExceptionGroup) as raised:
        await block(KeyError("the body's"))
    assert raised.group_contains(ValueError)
    assert raised.group_contains(KeyError)


async def test_a_block_that_swallows_is_no_failure() -> None:
    @asynccontextmanager
    async def swallowing():
        with suppress(ValueError):
            yield 7

    async with plainly(swallowing()) as value:
        assert value == 7
        raise ValueError


@pytest.mark.virtual_time
async def test_its_clock_is_trios() -> None:
    async with open_asyncio_loop() as loop:
        before = loop.time()
        await loop.run_aio_coroutine(asyncio.sleep(300))
        assert loop.time() - before == trio.current_time() - before == 300
