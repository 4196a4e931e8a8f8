"""Drivers of the callback contract, with real threads, through the adapter."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from rns_ble.drivers.base import BLEDriverInterface
from rns_ble.drivers.threaded import ThreadedDriver
from rns_ble.testing.driver_suite import DriverSuite
from tests.loopback import Ether, Habits, LoopbackDriver

COLUMBA = Habits(takes_identity_write=True, prefix="", late_mtu=True, silent_stop=True)
LINUX = Habits(prefix="dev:")
PLAIN = Habits(tells_identity=False, blocking_connect=True)


pytestmark = pytest.mark.hastened


def address_of(index: int) -> str:
    return f"02:00:00:00:00:{index:02X}"


class Suite(DriverSuite):
    habits: Habits

    @asynccontextmanager
    async def open_drivers(self, count: int, att_mtu: int = 517) -> AsyncIterator[list[BLEDriverInterface]]:
        ether = Ether(att_mtu=att_mtu)
        async with AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(
                    ThreadedDriver(LoopbackDriver(ether, address_of(index), self.habits))
                )
                for index in range(count)
            ]


class TestTellsTheIdentityAndTakesTheIdentityWrite(Suite):
    habits = COLUMBA


class TestTellsTheIdentityAndNamesCentralsInAnotherWay(Suite):
    habits = LINUX


class TestTellsTheAttMtuOnly(Suite):
    habits = PLAIN
