"""What is on the air when BlueZ advertises for us, as a controller hears it that is not BlueZ's."""

from __future__ import annotations

import os
from typing import Any

import pytest
import trio

from rns_ble.drivers.bluez import BleakDriver
from rns_ble.drivers.hci import BumbleDriver
from rns_ble.protocol.advertisement import Capability, encode_capabilities
from rns_ble.protocol.gatt import IDENTITY_UUID, RX_UUID, SERVICE_UUID, TX_UUID
from tests.bluez import laboratory
from tests.bluez.laboratory import PATIENCE, Laboratory

FLAGS = 0x01
UUIDS_128 = 0x07
MANUFACTURER_DATA = 0xFF

GENERAL_DISCOVERABLE = 0x02
BR_EDR_NOT_SUPPORTED = 0x04
"""All of the laboratory's adapters have LE only."""

OWN_WORD_SINCE = (5, 82)
"""Of the two generations here, the first whose BlueZ does not look at the adapter where an advertisement says
whether it is discoverable."""


class Listener(BumbleDriver):
    """Keeps what it hears."""

    def __init__(self) -> None:
        super().__init__(os.environ["RNS_BLE_LAB_HCI"])
        self._heard_send, self.heard = trio.open_memory_channel[tuple[str, bytes]](1000)

    def _on_report(self, report: Any) -> None:
        self._heard_send.send_nowait((report.address.to_string(False), bytes(report.data)))
        super()._on_report(report)


def structures(data: bytes) -> dict[int, bytes]:
    """AD type → AD data (Core Specification, Vol 3 Part C, 11)."""
    found = {}
    while data:
        length = data[0]
        found[data[1]] = data[2 : 1 + length]
        data = data[1 + length :]
    return found


async def on_the_air(address: str) -> dict[int, bytes]:
    """What the adapter of this address advertises."""
    with trio.fail_after(PATIENCE):
        async with Listener() as listener:
            listener.set_identity(b"l" * 16)
            await listener.start(SERVICE_UUID, RX_UUID, TX_UUID, IDENTITY_UUID)
            await listener.start_scanning()
            async for heard, data in listener.heard:
                if heard == address and UUIDS_128 in (said := structures(data)):
                    return said
    raise AssertionError("unreachable")


@pytest.mark.parametrize("discoverable", [False, True])
@pytest.mark.parametrize("capability", [Capability.NONE, Capability.PERIPHERAL_ONLY])
async def test_we_advertise_our_service_and_that_we_have_le_only_and_as_a_rule_not_to_be_discoverable(
    lab: Laboratory,
    adapters: list[str],
    bluez_version: tuple[int, int],
    discoverable: bool,
    capability: Capability,
) -> None:
    await laboratory.set_discoverable(adapters[0], discoverable)
    flags = BR_EDR_NOT_SUPPORTED
    if discoverable and bluez_version < OWN_WORD_SINCE:
        flags |= GENERAL_DISCOVERABLE
    manufacturer_data = encode_capabilities(capability)
    try:
        async with BleakDriver(adapters[0]) as driver:
            driver.set_identity(b"a" * 16)
            await driver.start(SERVICE_UUID, RX_UUID, TX_UUID, IDENTITY_UUID)
            await driver.start_advertising(None, manufacturer_data)
            said = await on_the_air(lab.address(0))
    finally:
        await laboratory.set_discoverable(adapters[0], False)
    expected = {FLAGS: bytes([flags]), UUIDS_128: bytes.fromhex(SERVICE_UUID.replace("-", ""))[::-1]}
    for company, data in (manufacturer_data or {}).items():
        expected[MANUFACTURER_DATA] = company.to_bytes(2, "little") + data
    assert said == expected
