"""A driver that calls back from threads, cancelled wherever it waits.

Once beside threads that come and go as they like, in real time; and at each await, where threads and tasks
take turns in virtual time: neither the clock nor the scheduler decides what is reached.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
import trio
import trio.testing

from rns_ble.drivers.base import PeerUnreachable, ProtocolViolation
from rns_ble.drivers.threaded import ThreadedDriver
from rns_ble.drivers.threaded.link import ThreadedLink
from rns_ble.protocol.gatt import IDENTITY_UUID, RX_UUID, SERVICE_UUID, TX_UUID
from rns_ble.testing.checkpoints import Strike, at_every_checkpoint, throw_into, way_of
from tests.cancellation.reached import TAKES_LONG, awaits_in, interrupt_at_each, note, waits
from tests.cancellation.turns import Turns
from tests.loopback import Ether, Habits, LoopbackDriver
from tests.nodes import address_of, identity_of

PATIENCE = 60.0

THROWN = "thrown in by a test"


async def start(driver: ThreadedDriver, index: int) -> None:
    driver.set_identity(identity_of(index))
    await driver.start(SERVICE_UUID, RX_UUID, TX_UUID, IDENTITY_UUID)
    await driver.start_advertising()
    await driver.start_scanning()


async def play(ours: ThreadedDriver, theirs: ThreadedDriver) -> None:
    """All that a driver can be asked."""
    async with ours:
        await start(ours, 1)
        async for device in ours.discovered:
            link = await ours.connect(device.address)
            break
        other = await theirs.accepted.receive()
        assert await other.receive() == identity_of(1)
        for n in range(3):
            await link.send(bytes([n]))
            await other.send(bytes([n]))
        assert [await link.receive() for _ in range(3)] == [b"\0", b"\1", b"\2"]
        await ours.stop_advertising()
        await ours.stop_scanning()
        await link.aclose()
        await start(ours, 1)
        async for device in ours.discovered:
            await ours.connect(device.address)  # nobody closes it but the driver
            break
        await ours.stop()


@pytest.mark.parametrize("tells_identity", [True, False])
def test_all_that_a_driver_can_be_asked(tells_identity: bool, every: bool) -> None:
    if tells_identity and not every:
        pytest.skip(TAKES_LONG)
    habits = Habits(tells_identity=tells_identity, late_mtu=tells_identity)

    async def scenario(strike: Strike) -> None:
        ether = Ether()
        ours, theirs = (ThreadedDriver(LoopbackDriver(ether, address_of(n), habits)) for n in (1, 2))
        with trio.fail_after(PATIENCE * 3):
            async with theirs:
                await start(theirs, 2)
                with strike.cancelling():
                    await play(ours, theirs)
                assert ours.establishing.borrowed_tokens == 0
                assert not ours.connected_peers
                assert not ours.theirs.running
                with trio.fail_after(PATIENCE):
                    while not (ours.theirs.idle and theirs.theirs.idle) or theirs.connected_peers:
                        await trio.sleep(0.01)
                    await trio.testing.wait_all_tasks_blocked()
                while theirs.accepted.statistics().current_buffer_used:
                    await (await theirs.accepted.receive()).aclose()
                await play(ours, theirs)

    report = at_every_checkpoint(scenario, every=every, run=trio.run)
    assert report.interrupted
    note(f"threaded, {tells_identity=}", report)


# --- at each await ---

AWAITS: Final = awaits_in(
    f"drivers/threaded/{name}" for name in ("attempt", "calls", "connections", "driver", "link")
)

SLOW, ORDINARY, MUTE, WRONG, UNASKED, CALLER = map(address_of, range(2, 8))


class Stage(LoopbackDriver):
    """A driver whose peers do what the play says, and whose calls wait until it lets them go on."""

    def __init__(self, turns: Turns) -> None:
        super().__init__(Ether(), address_of(1))
        self.turns = turns
        self.roles: dict[str, str] = {}
        """Ours, by the name of a peer that is connected."""
        self.clings = False
        """Whether a disconnect takes until `lose`."""
        self.clung_to: list[str] = []
        self.takes_values = True

    def start(self, *_uuids: str, **_named: str) -> None:
        self.running = True

    def stop(self) -> None:
        self.running = False
        for name in list(self.roles):
            self.lose(name)

    @property
    def connected_peers(self) -> list[str]:
        return list(self.roles)

    def get_peer_role(self, address: str) -> str | None:
        return self.roles.get(address)

    def get_peer_mtu(self, address: str) -> int | None:
        return 185 if address in self.roles else None

    def connect(self, address: str) -> None:
        if address == MUTE:
            raise OSError("nobody is there")
        self.link(address, "central")

    def disconnect(self, address: str) -> None:
        if self.clings:
            self.clung_to.append(address)
        else:
            self.lose(address)

    def send(self, address: str, data: bytes) -> None:
        self.turns.wait_until(lambda: self.takes_values)

    def read_characteristic(self, address: str, char_uuid: str) -> bytes:
        if address == SLOW:
            raise NotImplementedError
        return b"?" if address == WRONG else identity_of(2)

    def start_notify(self, address: str, char_uuid: str, callback: Callable[[bytes], None]) -> None:
        pass

    def write_characteristic(self, address: str, char_uuid: str, data: bytes) -> None:
        pass

    # What happens to it.

    def link(self, name: str, role: str, more: object = None) -> None:
        self.roles[name] = role
        self.on_device_connected(name, more)

    def lose(self, name: str) -> None:
        if self.roles.pop(name, None):
            self.on_device_disconnected(name)

    def calm(self) -> None:
        """Whatever the play would have ended, had it not been interrupted."""
        self.clings = False
        self.takes_values = True
        for name in self.clung_to:
            self.lose(name)


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(PATIENCE):
        while not condition():
            await trio.sleep(0.005)


async def awaited(event: trio.Event, tasks: int = 1) -> None:
    await until(lambda: event.statistics().tasks_waiting == tasks)


@asynccontextmanager
async def under_way(function: Callable[..., Any], *arguments: Any) -> AsyncIterator[None]:
    """A call that ends when the block has let it."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(function, *arguments)
        yield


async def perform(stage: Stage, driver: ThreadedDriver) -> None:
    """All that makes the adapter wait, one after the other; the stage decides how long it does."""

    async def dialled(*known: ThreadedLink) -> ThreadedLink:
        """The link to who is slow, when a connect waits for its identity."""
        links = driver._connections.links
        await until(lambda: SLOW in links and links[SLOW] not in known)
        await awaited(links[SLOW].identified)
        return links[SLOW]

    async with driver:
        await start(driver, 1)
        # Its identity can't be read, and is told when somebody waits for it.
        async with under_way(driver.connect, SLOW):
            slow = await dialled()
            stage.link(SLOW, "central", identity_of(3))
        # A goodbye that takes a while, another one beside it, and somebody who waits to connect anew.
        stage.clings = True
        async with under_way(slow.aclose):
            await awaited(slow.gone)
            async with under_way(slow.aclose):
                await awaited(slow.gone, 2)
                async with under_way(driver.connect, SLOW):
                    await awaited(slow.gone, 3)
                    stage.clings = False
                    stage.lose(SLOW)
                    await dialled(slow)
                    stage.link(SLOW, "central", identity_of(3))
        # A send that is cancelled while it hangs, and one behind it.
        link = await driver.connect(ORDINARY)
        await link.send(b"taken")
        stage.takes_values = False
        with trio.move_on_after(0.1):
            async with under_way(link.send, b"not taken"):
                await link.send(b"nor this one")
        stage.takes_values = True
        await until(lambda: ORDINARY not in stage.roles)
        # One that is not there, one that is none of ours, and one that nobody has dialled.
        for name, error in ((MUTE, PeerUnreachable), (WRONG, ProtocolViolation)):
            with pytest.raises(error):
                await driver.connect(name)
        stage.link(UNASKED, "central")
        await until(lambda: UNASKED not in stage.roles)
        stage.link(CALLER, "peripheral", identity_of(4))
        caller = await driver.accepted.receive()
        async with under_way(caller.receive):
            await until(lambda: caller._inbox.statistics().tasks_waiting_receive)
            stage.on_data_received(CALLER, b"value")
        await driver.stop_advertising()
        await driver.stop_scanning()
        await driver.stop()


async def left_alone(stage: Stage, driver: ThreadedDriver) -> None:
    """Nothing is left of an interrupted performance, and there can be another one."""
    assert driver.establishing.borrowed_tokens == 0
    assert not driver.connected_peers
    await until(lambda: not stage.running and not driver._threads._running)
    async with driver:
        await start(driver, 1)
        link = await driver.connect(ORDINARY)
        await link.send(b"works")
        await link.aclose()


@pytest.mark.parametrize("prompt", [False, True])
def test_each_await_is_cancelled(prompt: bool) -> None:
    turns = Turns(prompt=prompt)

    async def scenario(strike: Strike) -> None:
        stage = Stage(turns)
        driver = ThreadedDriver(stage)

        def act(_task: trio.lowlevel.Task) -> None:
            strike.cancel(scope)
            stage.calm()

        with trio.fail_after(PATIENCE):
            with trio.CancelScope() as scope, strike.acting(act):
                await perform(stage, driver)
            assert not stage.running
            await left_alone(stage, driver)

    note(f"threaded, each await, {prompt=}", interrupt_at_each(scenario, AWAITS, turns.run))


async def struck_by_an_error(
    strike: Strike, turns: Turns, caplog: pytest.LogCaptureFixture, of: Callable[[trio.lowlevel.Task], bool]
) -> None:
    """It comes out of a call or of the driver's block, or is logged; and the driver can be entered anew."""
    caplog.clear()
    stage = Stage(turns)
    driver = ThreadedDriver(stage)
    error = RuntimeError(THROWN)

    def act(task: trio.lowlevel.Task) -> None:
        throw_into(task, error)
        stage.calm()
        scope.deadline = trio.current_time() + 0.5  # the play may wait for what does not come any more

    shown = ""
    with trio.fail_after(PATIENCE), caplog.at_level(logging.DEBUG):
        try:
            with trio.CancelScope() as scope, strike.acting(act, lambda task: waits(task) and of(task)):
                await perform(stage, driver)
        except Exception as raised:  # a group, of whatever it has become
            shown = "".join(traceback.format_exception(raised))
            if not strike.struck:
                raise
        assert (THROWN in shown + caplog.text) == strike.struck
        await left_alone(stage, driver)


@pytest.mark.parametrize("prompt", [False, True])
def test_each_await_raises(prompt: bool, caplog: pytest.LogCaptureFixture) -> None:
    turns = Turns(prompt=prompt)

    async def scenario(strike: Strike) -> None:
        await struck_by_an_error(strike, turns, caplog, lambda _task: True)

    assert interrupt_at_each(scenario, AWAITS, turns.run).interrupted


@pytest.mark.parametrize(
    ("name", "about"),
    [
        pytest.param("_watch", SLOW, id="a connect that is waited for"),
        pytest.param("part", UNASKED, id="a link that nobody has dialled"),
        pytest.param("part", ORDINARY, id="a link that takes no value"),
        pytest.param("part", CALLER, id="a link that is left at the end"),
    ],
)
def test_a_task_of_the_drivers_own_raises(name: str, about: str, caplog: pytest.LogCaptureFixture) -> None:
    def is_meant(task: trio.lowlevel.Task) -> bool:
        frame = task.coro.cr_frame
        if task.coro.__qualname__ != f"Connections.{name}" or not way_of(task):
            return False
        return (frame.f_locals.get("link") or frame.f_locals["attempt"]).address == about

    turns, strike = Turns(), Strike(1)

    async def scenario() -> None:
        await struck_by_an_error(strike, turns, caplog, is_meant)

    turns.run(scenario, instruments=[strike])
    assert strike.struck
