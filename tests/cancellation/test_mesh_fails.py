"""An exception out of any await of a mesh, and out of any call: what ends, what goes on, what is logged."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import trio

from rns_ble.testing.checkpoints import Place, Strike, throw_into, way_of, who_waits
from tests.cancellation import reached
from tests.cancellation.reached import TAKES_LONG, interrupt
from tests.cancellation.scenes import SCENES, OnRadio, PausingDriver, Scene, is_a_nodes, pause, surrounded
from tests.nodes import running


def waits(task: trio.lowlevel.Task) -> bool:
    """Whether it is a task of a node's that waits, in our code, for something that may fail: all that is not
    inside of trio-asyncio, which has no say in it, and not `supervise`, which only waits for time to pass.
    """
    if task._abort_func is None or not is_a_nodes(task):
        return False
    code = who_waits(task)
    if code is None or code.co_name == "supervise":
        return False
    return "rns_ble" in code.co_filename or code is pause.__code__


THROWN = "thrown in by a test"


def shown(records: list[logging.LogRecord], error: BaseException) -> list[str]:
    """The records that show this error: with its traceback, or where a driver has made it one of its own,
    `BLEError`, with its text.
    """

    def holds(group: BaseException | None) -> bool:
        if isinstance(group, BaseExceptionGroup):
            return any(map(holds, group.exceptions))
        return group is error

    return [
        record.getMessage()
        for record in records
        if record.levelno >= logging.ERROR
        and (THROWN in record.getMessage() or (record.exc_info and holds(record.exc_info[1])))
    ]


def came_out_of(error: BaseException) -> Iterator[Place]:
    """The lines out of which an error has come, and those it is in a group with."""
    trace = error.__traceback__
    while trace is not None:
        yield Place(trace.tb_frame.f_code.co_filename, trace.tb_lineno)
        trace = trace.tb_next
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from came_out_of(part)


@pytest.mark.parametrize("kind", [RuntimeError, OSError])
@pytest.mark.parametrize("make", SCENES)
def test_an_await_raises(make: type[Scene], kind: type[Exception], every: bool, caplog) -> None:
    if (make is OnRadio or kind is OSError) and not every:
        pytest.skip(TAKES_LONG)

    async def scenario(strike: Strike) -> None:
        caplog.clear()
        scene = make() if make is OnRadio else make(PausingDriver)
        error = kind(THROWN)

        def act(task: trio.lowlevel.Task) -> None:
            reached.RAISED.add(
                next(place for place in way_of(task) if place.file.startswith(str(reached.PACKAGE)))
            )
            throw_into(task, error)

        async with surrounded(scene), running(scene.first):
            with strike.acting(act, waits):
                await scene.play()
            assert strike.struck or scene.came_to_its_aim()
            scene.calm()
            await scene.works()
        if strike.struck:
            assert len(shown(caplog.records, error)) == 1, caplog.text
            for raised in (error, *(record.exc_info[1] for record in caplog.records if record.exc_info)):
                reached.RAISED.update(came_out_of(raised))

    interrupt(f"{make.__name__}, {kind.__name__}", scenario, every=every)
