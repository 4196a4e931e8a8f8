"""The HCI driver on a virtual radio fulfils the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from rns_ble.drivers.base import BLEDriverInterface
from rns_ble.drivers.hci import BumbleDriver, VirtualRadio
from rns_ble.testing.driver_suite import DriverSuite


@pytest.mark.virtual_time
class TestConformance(DriverSuite):
    @asynccontextmanager
    async def open_drivers(self, count: int, att_mtu: int = 517) -> AsyncIterator[list[BLEDriverInterface]]:
        radio = VirtualRadio(latency=0.01)
        async with AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(BumbleDriver(radio, att_mtu=att_mtu)) for _ in range(count)
            ]


@pytest.mark.virtual_time
class TestConformanceOnALossyRadio(DriverSuite):
    @asynccontextmanager
    async def open_drivers(self, count: int, att_mtu: int = 517) -> AsyncIterator[list[BLEDriverInterface]]:
        radio = VirtualRadio(latency=0.005, loss=0.1)
        async with AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(BumbleDriver(radio, att_mtu=att_mtu)) for _ in range(count)
            ]
