"""What five implementations send and deliver, byte by byte (`tests/data/vectors.json`).

Kinds of vectors: `fragment` is what we send. `fragment_reference_16` is what ble-reticulum sends where one
of its fragments is 16 bytes long, which we never send but must understand. `reassemble` is what becomes of
values received; its `or` is what an implementation may deliver that holds early fragments, or is stricter.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rns_ble.protocol.fragmentation import Fragmenter, Reassembler
from rns_ble.protocol.values import ValueKind, classify

from .wire import receive_all

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "data" / "vectors.json").read_text(encoding="ascii")
)


def of_kind(kind: str) -> list[Any]:
    return [pytest.param(vector, id=vector["name"]) for vector in VECTORS if vector["kind"] == kind]


def unhex(texts: list[str]) -> list[bytes]:
    return [bytes.fromhex(text) for text in texts]


def test_no_vector_is_left_out():
    assert {vector["kind"] for vector in VECTORS} == {"fragment", "fragment_reference_16", "reassemble"}
    assert len(VECTORS) == 75


@pytest.mark.parametrize("vector", of_kind("fragment"))
def test_we_send_exactly_this(vector):
    packet = bytes.fromhex(vector["packet"])
    values = unhex(vector["fragments"])
    assert Fragmenter(vector["limit"]).fragment(packet) == values
    assert receive_all(Reassembler(), values) == [packet]


@pytest.mark.parametrize("vector", of_kind("fragment_reference_16"))
def test_we_understand_fragments_of_16_bytes_but_send_none(vector):
    packet = bytes.fromhex(vector["packet"])
    theirs = unhex(vector["fragments"])
    ours = Fragmenter(vector["limit"]).fragment(packet)
    assert any(len(value) == 16 for value in theirs)
    assert all(len(value) != 16 for value in ours)
    assert receive_all(Reassembler(), theirs) == receive_all(Reassembler(), ours) == [packet]
    # Where it takes several fragments anyway, only one byte has moved, over the last boundary.
    if len(theirs) > 1:
        assert ours[:-2] == theirs[:-2]
        assert ours[-2] == theirs[-2][:-1]
        assert ours[-1] == theirs[-1][:5] + theirs[-2][-1:] + theirs[-1][5:]


@pytest.mark.parametrize("vector", of_kind("reassemble"))
def test_we_deliver_exactly_this(vector):
    values = unhex(vector["values"])
    times = vector.get("at_seconds", [0.0] * len(values))
    identity = bytes.fromhex(vector.get("peer_identity", "ff" * 16))
    reassembler = Reassembler()
    delivered = []
    for value, at in zip(values, times, strict=True):
        # Everything goes to the reassembler that is not told apart before it.
        if classify(value, identity) in (ValueKind.FRAGMENT, ValueKind.FOREIGN):
            packet = reassembler.receive(value, at)
            if packet is not None:
                delivered.append(packet)
    # Holding nothing back and being liberal, we are the first answer; the alternatives are others'.
    assert delivered == unhex(vector["delivered"])


def test_the_identity_of_the_vectors_is_no_fragment_even_unclassified():
    (vector,) = [v for v in VECTORS if "peer_identity" in v]
    assert receive_all(Reassembler(), unhex(vector["values"])) == []
