"""What advertisements may bring, as BlueZ tells of it and as a controller reports it."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rns_ble.drivers.base import BLEDevice
from rns_ble.drivers.hci.advertising_data import decode, uuid_on_air
from rns_ble.drivers.hci.sightings import REMEMBERED, Sightings
from rns_ble.protocol.advertisement import known_rssi, normalise_address, parse_capabilities
from rns_ble.protocol.gatt import SERVICE_UUID

OTHER_UUID = "0000180f-0000-1000-8000-00805f9b34fb"

bounded = settings(max_examples=60)


# --- BlueZ ---

PATH = "/org/bluez/hci0/dev_C0_00_00_00_00_01"

addresses = st.binary(min_size=6, max_size=6).map(lambda number: number.hex(":").upper())
uuids = st.sampled_from([SERVICE_UUID, SERVICE_UUID.upper(), OTHER_UUID]) | st.text(max_size=40)
octets = st.binary(max_size=255)

properties = st.fixed_dictionaries(
    {"Address": addresses},
    optional={
        "RSSI": st.integers(-32768, 32767),
        "UUIDs": st.lists(uuids, max_size=30),
        "Name": st.text(max_size=300),
        "ManufacturerData": st.dictionaries(
            st.integers(0, 0xFFFF), octets.map(lambda data: SimpleNamespace(value=data)), max_size=8
        ),
    },
)
"""Of a device, each of the type that BlueZ gives it."""

maimed = st.tuples(properties, st.sets(st.sampled_from(["RSSI", "UUIDs", "Name", "ManufacturerData"]))).map(
    lambda both: {name: value for name, value in both[0].items() if name not in both[1]}
)
"""The same, some of them absent, as between two advertisements."""


class Device:
    """A scanner, and what it has reported."""

    def __init__(self) -> None:
        from rns_ble.drivers.bluez.links import Links
        from rns_ble.drivers.bluez.scanner import Scanner
        from rns_ble.drivers.bluez.tree import Tree

        bus = SimpleNamespace(alive=lambda: None)
        self.tree = Tree(bus)
        self.reported: list[BLEDevice] = []
        links = Links(bus, self.tree, "/org/bluez/hci0")
        self.scanner = Scanner(bus, self.tree, "/org/bluez/hci0", None, links, self.reported.append)
        self.scanner.look_for(SERVICE_UUID)
        self.scanner.wanted = True

    def change(self, device: dict[str, Any]) -> None:
        from rns_ble.drivers.bluez.tree import DEVICE

        self.tree.objects = {PATH: {DEVICE: device}}
        self.scanner.on_device_changed(PATH, device)

    def check(self, *devices: dict[str, Any]) -> None:
        """Only who has told our service is reported, and as what he is."""
        told = [uuid.lower() for device in devices for uuid in device.get("UUIDs", ())]
        assert SERVICE_UUID.lower() in told or not self.reported
        for report in self.reported:
            assert normalise_address(report.address) == report.address
            assert isinstance(report.rssi, int)
            parse_capabilities(report.manufacturer_data)


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="BlueZ is Linux's")


@linux
@bounded
@given(st.lists(properties, min_size=1, max_size=4))
def test_what_bluez_tells_of_any_device(told: list[dict[str, Any]]) -> None:
    device = Device()
    for one in told:
        device.change(one)
    device.check(*told)


@linux
@bounded
@given(properties, maimed)
def test_a_device_of_which_something_is_gone(before: dict[str, Any], after: dict[str, Any]) -> None:
    device = Device()
    device.change(before)
    device.change(after)
    device.check(before, after)


# --- a controller ---

structures = st.lists(
    st.tuples(
        st.sampled_from([0x01, 0x06, 0x07, 0x08, 0x09, 0xFF]) | st.integers(0, 255),
        st.just(uuid_on_air(SERVICE_UUID)) | st.binary(max_size=40),
        st.integers(-2, 2) | st.just(0),
    ),
    max_size=8,
).map(
    lambda parts: b"".join(bytes([max(0, len(data) + 1 + wrong), kind]) + data for kind, data, wrong in parts)
)
"""Advertising data whose lengths are right most of the time."""


@bounded
@given(st.binary(max_size=255) | structures)
def test_advertising_data_of_any_kind_is_read_as_far_as_it_goes(data: bytes) -> None:
    said = decode(data)
    assert all(len(uuid) == 16 and uuid in data for uuid in said.uuids)
    assert said.name is None or len(said.name) <= len(data)
    assert all(0 <= company <= 0xFFFF and value in data for company, value in said.manufacturer_data.items())
    parse_capabilities(said.manufacturer_data)


def address_on_air(number: int) -> SimpleNamespace:
    text = number.to_bytes(6, "big").hex(":").upper()
    return SimpleNamespace(to_string=lambda _with_type: text)


@bounded
@given(
    st.lists(
        st.tuples(
            st.booleans(), st.integers(0, 2**48 - 1) | st.integers(0, 5), st.integers(-128, 127), structures
        ),
        max_size=30,
    )
)
def test_only_who_has_advertised_our_service_is_remembered(
    reports: list[tuple[bool, int, int, bytes]],
) -> None:
    sightings = Sightings()
    ours: dict[str, int] = {}
    for is_ours, number, rssi, data in reports:
        address = address_on_air(number)
        text = address.to_string(False)
        if is_ours:
            ours[text] = rssi
            told, sighting = sightings.add(address, rssi, decode(data))
            assert (told, sighting.rssi) == (text, known_rssi(rssi))
        else:
            sightings.complete(address, decode(data))
        assert (sightings.address(text) is None) == (text not in ours)
    assert len(sightings) == len(ours)


def test_of_however_many_addresses_some_are_remembered() -> None:
    sightings = Sightings()
    said = decode(b"")
    for number in range(2 * REMEMBERED):
        sightings.add(address_on_air(number), -50, said)
    assert len(sightings) == REMEMBERED
    assert sightings.address(address_on_air(0).to_string(False)) is None
