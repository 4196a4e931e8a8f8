"""Addresses, signal strengths and capability flags."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rns_ble.protocol.advertisement import (
    COMPANY_IDENTIFIER,
    Capability,
    encode_capabilities,
    known_rssi,
    normalise_address,
    parse_capabilities,
    shown_name,
)

ONE_SIDED = [Capability.PERIPHERAL_ONLY, Capability.CENTRAL_ONLY]


@pytest.mark.parametrize(
    "text",
    [
        "AA:BB:0C:DD:EE:FF",
        "aa:bb:0c:dd:ee:ff",
        "aA-Bb-0c-DD-ee-FF",
        "aa_bb_0c_dd_ee_ff",
        "aabb0cddeeff",
        "dev:aa:bb:0c:dd:ee:ff",
        "dev:AABB0CDDEEFF",
        "dev_AA_BB_0C_DD_EE_FF",
        "DEV:aa-bb-0c-dd-ee-ff",
    ],
)
def test_one_way_to_write_an_address(text):
    assert normalise_address(text) == "AA:BB:0C:DD:EE:FF"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "dev:",
        "AA:BB:CC:DD:EE",
        "AA:BB:CC:DD:EE:FF:00",
        "AA:BB:CC:DD:EE:FG",
        "AA:BB-CC:DD:EE:FF",
        "AABB:CC:DD:EE:FF",
        "AA:BB:CC:DD:EEFF",
        ":AA:BB:CC:DD:EE:FF",
        "A:ABB:CC:DD:EE:FF",
        "AA BB CC DD EE FF",
        "AA:BB:CC:DD:EE:FF\n",
        "\u0660\u0660:BB:CC:DD:EE:FF",  # digits, but of another script
        "E621E1F8-C36C-495A-93FC-0C247A3E6E5F",
        "device:AA:BB:CC:DD:EE:FF",
    ],
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ValueError, match="not a Bluetooth address"):
        normalise_address(text)


@given(
    octets=st.binary(min_size=6, max_size=6), separator=st.sampled_from([":", "-", "_"]), upper=st.booleans()
)
def test_every_address_comes_through_and_is_then_left_alone(octets, separator, upper):
    text = octets.hex(separator)
    normal = normalise_address(text.upper() if upper else text)
    assert normal == octets.hex(":").upper()
    assert normalise_address(normal) == normal


def test_a_name_is_cut_to_what_an_advertisement_carries():
    assert shown_name("N" * 32) == "N" * 32
    assert shown_name("N" * 248) == "N" * 32


@pytest.mark.parametrize("sentinel", [-127, -128, 0, 127, None])
def test_sentinels_of_signal_strength(sentinel):
    assert known_rssi(sentinel) is None


@pytest.mark.parametrize("rssi", [-126, -100, -85, -30, -1, 1, 20])
def test_real_signal_strengths(rssi):
    assert known_rssi(rssi) == rssi


@pytest.mark.parametrize("capability", ONE_SIDED)
def test_flags_there_and_back(capability):
    assert parse_capabilities(encode_capabilities(capability)) is capability


def test_flags_as_they_are_on_the_air():
    assert encode_capabilities(Capability.PERIPHERAL_ONLY) == {0xFFFF: b"\x03\x01"}
    assert encode_capabilities(Capability.CENTRAL_ONLY) == {0xFFFF: b"\x03\x02"}


def test_who_can_do_both_sends_nothing():
    assert encode_capabilities(Capability.NONE) == {}


def test_who_can_do_neither_is_refused():
    with pytest.raises(ValueError, match=r"nobody to talk to$"):
        encode_capabilities(Capability.PERIPHERAL_ONLY | Capability.CENTRAL_ONLY)


@pytest.mark.parametrize(
    ("data", "capability"),
    [
        ("03 01", Capability.PERIPHERAL_ONLY),
        ("03 02", Capability.CENTRAL_ONLY),
        ("03 f9", Capability.PERIPHERAL_ONLY),  # the rest of the bits is not ours to judge
        ("03 02 00 11", Capability.CENTRAL_ONLY),  # nor are further bytes
        ("03 00", Capability.NONE),
        ("03 03", Capability.NONE),  # contradicts itself
        ("02 01", Capability.NONE),
        ("04 01", Capability.NONE),
        ("03", Capability.NONE),
        ("", Capability.NONE),
    ],
)
def test_what_a_peer_says_of_itself(data, capability):
    assert parse_capabilities({COMPANY_IDENTIFIER: bytes.fromhex(data)}) is capability


@given(st.dictionaries(st.integers(0, 0xFFFF), st.binary(max_size=29), max_size=4))
def test_manufacturer_data_of_others_never_raises(manufacturer_data):
    assert parse_capabilities(manufacturer_data) in {Capability.NONE, *ONE_SIDED}


def test_other_companies_say_nothing_about_capabilities():
    assert parse_capabilities({0x004C: b"\x03\x01"}) is Capability.NONE
    assert parse_capabilities({}) is Capability.NONE
