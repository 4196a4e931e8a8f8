"""The driver without a radio fulfils the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from rns_ble.drivers.base import (
    AdapterUnavailable,
    AlreadyConnected,
    BLEDriverInterface,
    PeerUnreachable,
    ProtocolViolation,
)
from rns_ble.testing import Air, MockBLEDriver
from rns_ble.testing.driver_suite import DriverSuite

pytestmark = pytest.mark.virtual_time


def address_of(index: int) -> str:
    return f"02:00:00:00:00:{index:02X}"


class TestConformance(DriverSuite):
    @asynccontextmanager
    async def open_drivers(self, count: int, att_mtu: int = 517) -> AsyncIterator[list[BLEDriverInterface]]:
        air = Air(att_mtu=att_mtu, latency=0.01)
        async with AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(MockBLEDriver(air, address_of(index)))
                for index in range(count)
            ]


@pytest.fixture
def suite() -> TestConformance:
    return TestConformance()


async def test_a_link_out_of_range_is_lost(suite: TestConformance) -> None:
    async with suite.started(2) as (one, other):
        ours, theirs = await suite.link(one, other)
        one.air.separate(one.address, other.address)
        assert await suite.ends(ours) == await suite.ends(theirs) == []
        with trio.move_on_after(100) as scope:
            await one.connect(other.address)
        assert scope.cancelled_caught
        one.air.unite(one.address, other.address)
        await suite.link(one, other)


async def test_refused_and_impossible_connects_say_why(suite: TestConformance) -> None:
    async with suite.started(2) as (one, other):
        one.air.refusing.add(other.address)
        with pytest.raises(PeerUnreachable):
            await one.connect(other.address)
        one.air.refusing.clear()
        other.advertised_identity = b"short"
        with pytest.raises(ProtocolViolation):
            await one.connect(other.address)
        other.set_identity(bytes(16))
        await suite.drain(other)
        await suite.link(one, other)
        with pytest.raises(AlreadyConnected):
            await one.connect(other.address)


async def test_a_rotated_address_is_another_device(suite: TestConformance) -> None:
    async with suite.started(2) as (one, other):
        ours, _ = await suite.link(one, other)
        other.rotate_address("02:00:00:00:00:77")
        again, _ = await suite.link(one, other)
        assert ours.address != again.address
        assert ours.peer_identity == again.peer_identity


async def test_a_failing_stack_ends_the_block_until_it_is_repaired() -> None:
    driver = MockBLEDriver(Air(), address_of(0))
    with pytest.RaisesGroup(AdapterUnavailable):
        async with driver:
            driver.fail()
            await trio.sleep_forever()
    with pytest.raises(AdapterUnavailable):
        await driver.__aenter__()
    driver.repair()
    async with driver:
        pass
