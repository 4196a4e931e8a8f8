"""A driver that calls back from threads, cancelled wherever it waits. In real time, for its threads are."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from rns_ble.drivers.threaded import ThreadedDriver
from rns_ble.protocol.gatt import IDENTITY_UUID, RX_UUID, SERVICE_UUID, TX_UUID
from rns_ble.testing.checkpoints import Strike, at_every_checkpoint
from tests.cancellation.reached import TAKES_LONG, note
from tests.loopback import Ether, Habits, LoopbackDriver
from tests.nodes import address_of, identity_of

PATIENCE = 60.0


def hastened(*arguments: Any, **keywords: Any) -> None:
    trio.run(*arguments, clock=trio.testing.MockClock(rate=5), **keywords)


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

    report = at_every_checkpoint(scenario, every=every, run=hastened)
    assert report.interrupted
    note(f"threaded, {tells_identity=}", report)
