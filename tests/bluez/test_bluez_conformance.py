"""The BlueZ driver fulfils the contract, with a real bluetoothd under it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest

from rns_ble.drivers.base import BLEDriverInterface, BLELink, PeerUnreachable
from rns_ble.drivers.bluez import BleakDriver
from rns_ble.drivers.bluez.limits import notification_limit
from rns_ble.protocol.gatt import write_limit
from rns_ble.testing.driver_suite import DriverSuite
from tests.bluez import laboratory
from tests.bluez.laboratory import Laboratory, bluez_version

TARGETED_SINCE = (5, 69)
EXCHANGE_MTU_LEAST = 48
TRIES = 3


class TestConformance(DriverSuite):
    # A connect takes some 0.5 s here, up to the last step; and a cancelled one 2 s more, so every step once.
    cancel_delays = (0, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.45, 0.5, 0.55)

    @pytest.fixture(autouse=True)
    def _real_bluez(self, whole_lab: Laboratory | None) -> None:
        self._lab = whole_lab
        self._version = (0, 0)

    @property
    def targeted(self) -> bool:
        return self._version >= TARGETED_SINCE

    def limits(self, att_mtu: int) -> tuple[int, int]:
        return write_limit(att_mtu), notification_limit(att_mtu)

    async def link(
        self, central: BLEDriverInterface, peripheral: BLEDriverInterface
    ) -> tuple[BLELink, BLELink]:
        """Linux 6.12 forgets a connection that comes about in the moment in which it is cancelled (it sends
        Create Connection Cancel, which the controller then disallows). The controllers keep it, and make no
        other one, until the peripheral's bluetoothd has waited 30 s for an answer on it.
        """
        for _ in range(TRIES - 1):
            with suppress(PeerUnreachable):
                return await super().link(central, peripheral)
        return await super().link(central, peripheral)

    @asynccontextmanager
    async def open_drivers(self, count: int, att_mtu: int = 517) -> AsyncIterator[list[BLEDriverInterface]]:
        adapters = await (self._lab.reset() if self._lab is not None else laboratory.named_adapters())
        if len(adapters) < count:
            pytest.skip(f"needs {count} adapters, and there are {len(adapters)}")
        if att_mtu < EXCHANGE_MTU_LEAST:
            pytest.skip("BlueZ itself asks for at least 48, the minimum of BR/EDR, and takes no less")
        if att_mtu != 517:
            if self._lab is None:
                pytest.skip("the ATT MTU is one of bluetoothd's settings")
            await self._lab.restart_bluetoothd(ExchangeMTU=att_mtu)
        self._version = bluez_version((await laboratory.adapters())[adapters[0]]["Modalias"])
        async with AsyncExitStack() as stack:
            yield [await stack.enter_async_context(BleakDriver(adapter)) for adapter in adapters[:count]]
