"""How long a value may be, and the names that go over the air."""

from __future__ import annotations

import pytest

from rns_ble.protocol import gatt


@pytest.mark.parametrize(
    ("att_mtu", "value", "write"),
    [
        (23, 20, 20),  # the floor, before an MTU exchange
        (185, 182, 182),  # what iOS grants
        (512, 509, 509),
        (513, 510, 510),
        (514, 511, 510),  # BlueZ as a server drops a write of 511 bytes
        (515, 512, 510),
        (516, 512, 510),  # no attribute is longer than 512 bytes
        (517, 512, 510),
    ],
)
def test_the_longest_value_at_an_att_mtu(att_mtu: int, value: int, write: int) -> None:
    assert gatt.value_limit(att_mtu) == value
    assert gatt.write_limit(att_mtu) == write


def test_the_names_and_sizes_that_other_implementations_have() -> None:
    assert gatt.SERVICE_UUID == "37145b00-442d-4a94-917f-8f42c5da28e3"
    assert gatt.TX_UUID == "37145b00-442d-4a94-917f-8f42c5da28e4"
    assert gatt.RX_UUID == "37145b00-442d-4a94-917f-8f42c5da28e5"
    assert gatt.IDENTITY_UUID == "37145b00-442d-4a94-917f-8f42c5da28e6"
    assert (gatt.IDENTITY_LENGTH, gatt.ATT_MTU_DEFAULT, gatt.ATT_MTU_REQUESTED) == (16, 23, 517)
