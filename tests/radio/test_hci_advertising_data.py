"""What is advertised, and what others advertise."""

from __future__ import annotations

import pytest

from rns_ble.drivers.base import ConfigurationError
from rns_ble.drivers.hci.advertising_data import decode, encode, uuid_on_air
from rns_ble.protocol.gatt import SERVICE_UUID


def test_advertising_data() -> None:
    uuid = uuid_on_air(SERVICE_UUID)
    data, response = encode(uuid, None, None)
    assert data.hex(" ", -3) == "020106 1107e3 28dac5 428f7f 91944a 2d4400 5b1437"
    assert response == b""
    assert decode(data) == (frozenset({uuid}), None, {})
    data, response = encode(uuid, "abcdefgh", None)
    assert (len(data), response) == (31, b"")
    assert decode(data).name == "abcdefgh"
    data, response = encode(uuid, "abcdefgh", {0xFFFF: b"\x03\x02"})
    assert decode(data) == (frozenset({uuid}), None, {0xFFFF: b"\x03\x02"})
    assert decode(response).name == "abcdefgh"
    with pytest.raises(ConfigurationError, match="8 bytes"):
        encode(uuid, "äöüäö", None)
    with pytest.raises(ConfigurationError, match="manufacturer data"):
        encode(uuid, None, {0xFFFF: bytes(7)})


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("", (set(), None, {})),
        ("00", (set(), None, {})),
        ("05", (set(), None, {})),
        ("0509ff6162", (set(), "\ufffdab", {})),
        ("1e09616263", (set(), "abc", {})),
        ("0201060008 4142", (set(), None, {})),
        ("02ff01", (set(), None, {})),
        ("03ff0102 05ff4c00aabb", (set(), None, {0x0201: b"", 0x4C: b"\xaa\xbb"})),
        ("1007" + "00" * 15, (set(), None, {})),
        ("2107" + "11" * 16 + "22" * 16, ({b"\x11" * 16, b"\x22" * 16}, None, {})),
    ],
)
def test_malformed_advertising_data_is_left_out(data, expected) -> None:
    assert decode(bytes.fromhex(data)) == expected
