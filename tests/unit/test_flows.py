"""What is read from Reticulum's header, of packets that Reticulum itself has made."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest
import RNS
from hypothesis import given
from hypothesis import strategies as st

from rns_ble.flows import ANNOUNCES, flow_of, without_access_code

ADDRESS, NEXT_NODE, LINK = bytes([0xDD]) * 16, bytes([0x77]) * 16, bytes([0x11]) * 16


def raw(kind: int, *addresses: bytes) -> bytes:
    """As `RNS.Packet.pack` begins."""
    header_type = RNS.Packet.HEADER_2 if len(addresses) == 2 else RNS.Packet.HEADER_1
    flags = header_type << 6 | RNS.Destination.LINK << 2 | kind
    return bytes([flags, 3]) + b"".join(addresses) + bytes([RNS.Packet.NONE]) + os.urandom(67)


PACKETS = [
    (raw(RNS.Packet.DATA, LINK), (LINK, False)),
    (raw(RNS.Packet.DATA, NEXT_NODE, ADDRESS), (ADDRESS, False)),
    (raw(RNS.Packet.PROOF, LINK), (LINK, True)),
    (raw(RNS.Packet.LINKREQUEST, ADDRESS), (ADDRESS, False)),
    (raw(RNS.Packet.ANNOUNCE, ADDRESS), (ANNOUNCES, False)),
    (raw(RNS.Packet.ANNOUNCE, NEXT_NODE, ADDRESS), (ANNOUNCES, False)),
]


def interface(size: int) -> Any:
    key = os.urandom(64)
    return SimpleNamespace(ifac_size=size, ifac_key=key, ifac_identity=RNS.Identity.from_bytes(key))


def masked(packet: bytes, by: Any) -> bytes:
    """What Reticulum hands to an interface with an access code."""
    sent: list[bytes] = []
    by.process_outgoing = sent.append
    RNS.Transport.transmit(by, packet)
    return sent[0]


@pytest.mark.parametrize(("packet", "flow"), PACKETS)
def test_the_flow_is_the_destination_and_proofs_are_urgent(packet: bytes, flow: tuple[bytes, bool]) -> None:
    assert flow_of(packet) == flow


@pytest.mark.parametrize("size", [1, 8, 16, 64])
@pytest.mark.parametrize(("packet", "flow"), PACKETS)
def test_an_access_code_hides_nothing_from_who_has_it(
    packet: bytes, flow: tuple[bytes, bool], size: int
) -> None:
    by = interface(size)
    hidden = masked(packet, by)
    assert packet[2:34] not in hidden
    assert flow_of(without_access_code(hidden, size, by.ifac_key)) == flow


def test_a_packet_without_access_code_is_left_as_it_is() -> None:
    packet = raw(RNS.Packet.DATA, LINK)
    assert without_access_code(packet, 16, bytes(64)) is packet


@given(packet=st.binary(max_size=80), size=st.integers(1, 64))
def test_any_bytes_have_a_flow(packet: bytes, size: int) -> None:
    for header in (packet, without_access_code(packet, size, bytes(64))):
        name, urgent = flow_of(header)
        assert name == ANNOUNCES or len(name) <= 16
        assert not (urgent and name == ANNOUNCES)
