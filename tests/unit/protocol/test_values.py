"""What a value is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rns_ble.protocol.fragmentation import Fragmenter
from rns_ble.protocol.values import KEEPALIVE, ValueKind, classify, ping, pong

IDENTITY = bytes.fromhex("404142434445464748494a4b4c4d4e4f")
LIKE_A_FRAGMENT = bytes.fromhex("01000000024445464748494a4b4c4d4e")
"""An identity can be anything, this too."""

AFTER_THE_HANDSHAKE = [
    ("00", ValueKind.KEEPALIVE),
    ("04 00", ValueKind.PING),
    ("04 ff", ValueKind.PING),
    ("05 00", ValueKind.PONG),
    ("05 2a", ValueKind.PONG),
    ("40 41 42 43 44 45 46 47 48 49 4a 4b 4c 4d 4e 4f", ValueKind.IDENTITY),
    ("01 00 00 00 01", ValueKind.FRAGMENT),
    ("02 00 00 00 00", ValueKind.FRAGMENT),  # malformed, which is the reassembler's to say
    ("03 ff ff ff ff 00", ValueKind.FRAGMENT),
    ("01 00 00 00 02 44 45 46 47 48 49 4a 4b 4c 4d 4e", ValueKind.FRAGMENT),  # 16 bytes, not the identity
    ("", ValueKind.FOREIGN),
    ("01", ValueKind.FOREIGN),
    ("04", ValueKind.FOREIGN),
    ("00 00", ValueKind.FOREIGN),
    ("03 00", ValueKind.FOREIGN),
    ("06 00", ValueKind.FOREIGN),
    ("04 00 00", ValueKind.FOREIGN),
    ("01 00 00 00", ValueKind.FOREIGN),
    ("00 00 00 00 01", ValueKind.FOREIGN),
    ("04 00 00 00 01", ValueKind.FOREIGN),
    ("ff 00 00 00 01 61", ValueKind.FOREIGN),
    ("50 41 42 43 44 45 46 47 48 49 4a 4b 4c 4d 4e 4f", ValueKind.FOREIGN),  # another identity
    ("40 41 42 43 44 45 46 47 48 49 4a 4b 4c 4d 4e 4f 00", ValueKind.FOREIGN),
]


@pytest.mark.parametrize(("value", "kind"), AFTER_THE_HANDSHAKE)
def test_after_the_handshake(value, kind):
    assert classify(bytes.fromhex(value), IDENTITY) is kind


@pytest.mark.parametrize("value", [value for value, _kind in AFTER_THE_HANDSHAKE])
def test_before_the_handshake_only_the_length_counts(value):
    expected = ValueKind.IDENTITY if len(bytes.fromhex(value)) == 16 else ValueKind.FOREIGN
    assert classify(bytes.fromhex(value), None) is expected


def test_an_identity_that_looks_like_a_fragment_is_the_identity_for_its_own_peer_only():
    assert classify(LIKE_A_FRAGMENT, LIKE_A_FRAGMENT) is ValueKind.IDENTITY
    assert classify(LIKE_A_FRAGMENT, IDENTITY) is ValueKind.FRAGMENT


@given(value=st.binary(max_size=20), identity=st.one_of(st.none(), st.binary(min_size=16, max_size=16)))
def test_every_value_is_something(value, identity):
    assert isinstance(classify(value, identity), ValueKind)


@given(
    packet=st.binary(min_size=1, max_size=100),
    value_limit=st.integers(20, 60),
    identity=st.binary(min_size=16, max_size=16),
)
def test_what_we_send_is_never_taken_for_anything_but_a_fragment(packet, value_limit, identity):
    for value in Fragmenter(value_limit).fragment(packet):
        assert classify(value, identity) is ValueKind.FRAGMENT
        assert classify(value, None) is ValueKind.FOREIGN


@given(nonce=st.integers(0, 255))
def test_a_ping_is_answered_with_its_own_nonce(nonce):
    assert ping(nonce) == bytes([4, nonce])
    assert pong(ping(nonce)) == bytes([5, nonce])
    assert classify(ping(nonce), IDENTITY) is ValueKind.PING
    assert classify(pong(ping(nonce)), IDENTITY) is ValueKind.PONG


def test_the_keepalive_is_one_byte():
    assert KEEPALIVE == b"\x00"


@pytest.mark.parametrize("nonce", [-1, 256])
def test_a_nonce_is_a_byte(nonce):
    with pytest.raises(ValueError, match="range"):
        ping(nonce)


@pytest.mark.parametrize("value", [b"", b"\x04", b"\x05\x00", b"\x04\x00\x00", b"\x00"])
def test_only_a_ping_is_answered(value):
    with pytest.raises(ValueError, match="not a PING"):
        pong(value)
