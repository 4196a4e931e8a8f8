"""Messages are read as dbus-next alone reads them, and what repeats in them is taken apart once."""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

if not sys.platform.startswith("linux"):
    pytest.skip("BlueZ is Linux's", allow_module_level=True)

from dbus_next import Message, MessageFlag, MessageType, Variant
from dbus_next._private import unmarshaller as dbus_nexts
from dbus_next.signature import SignatureTree

from rns_ble.drivers.bluez import unmarshaller
from rns_ble.drivers.bluez.unmarshaller import LONGEST, REMEMBERED, SIGNATURES, Unmarshaller

CHARACTERISTIC = "org.bluez.GattCharacteristic1"

VARIANTS = st.one_of(
    st.builds(Variant, st.just("s"), st.text(st.characters(codec="utf-8", exclude_characters="\0"))),
    st.builds(Variant, st.just("q"), st.integers(0, 0xFFFF)),
    st.builds(Variant, st.just("y"), st.integers(0, 0xFF)),
    st.builds(Variant, st.just("t"), st.integers(0, 2**64 - 1)),
    st.builds(Variant, st.just("ay"), st.binary(max_size=40)),
    st.builds(Variant, st.just("a{sv}"), st.just({"inside": Variant("t", 1)})),
)
OPTIONS = st.dictionaries(st.text("abcdefgh", max_size=9), VARIANTS, max_size=5)


class Stream:
    """What a socket gives, in pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)

    def read(self, length: int) -> bytes | None:
        if not self.pieces:
            return None
        read, rest = self.pieces[0][:length], self.pieces[0][length:]
        self.pieces[:1] = [rest] if rest else []
        return read


def call(value: bytes, options: dict[str, Variant], serial: int = 1, path: str = "/ours/rx") -> Message:
    return Message(
        path=path,
        interface=CHARACTERISTIC,
        member="WriteValue",
        destination=":1.1",
        flags=MessageFlag.NO_REPLY_EXPECTED,
        signature="aya{sv}",
        body=[value, options],
        serial=serial,
    )


def as_read(message: bytes) -> dict[str, Any]:
    """By us, and it is what dbus-next reads."""
    ours = vars(Unmarshaller(Stream(message)).unmarshall())
    assert ours == vars(dbus_nexts.Unmarshaller(Stream(message)).unmarshall())
    return ours


@given(values=st.lists(st.binary(max_size=40), min_size=1, max_size=4), options=OPTIONS)
def test_calls_are_read_as_dbus_next_reads_them(values: list[bytes], options: dict[str, Variant]) -> None:
    # The values' lengths move the options, and with them what is padding in them.
    for serial, value in enumerate(values, 1):
        read = as_read(call(value, options, serial)._marshall())
        assert read["body"] == [value, options]
        assert read["serial"] == serial


@given(options=OPTIONS, kind=st.sampled_from([MessageType.SIGNAL, MessageType.METHOD_RETURN]))
def test_so_is_everything_else(options: dict[str, Variant], kind: MessageType) -> None:
    for serial in (1, 2):
        message = Message(
            message_type=kind,
            path="/org/bluez/hci0",
            interface="org.freedesktop.DBus.Properties",
            member="PropertiesChanged",
            reply_serial=serial,
            signature="sa{sv}asa(yv)",
            body=["org.bluez.Device1", options, ["RSSI"], [[1, Variant("s", "no header")]]],
            serial=serial,
        )
        assert as_read(message._marshall())["body"] == message.body


@given(cuts=st.lists(st.integers(0, 200), max_size=5))
def test_a_message_may_come_in_pieces(cuts: list[int]) -> None:
    message = call(b"value", {"mtu": Variant("q", 517)})._marshall()
    places = sorted({min(cut, len(message)) for cut in cuts} | {0, len(message)})
    pieces = [message[begin:end] for begin, end in pairwise(places)]
    reader, stream = Unmarshaller(Stream()), Stream()
    reader.stream = stream
    for piece in pieces:
        assert reader.unmarshall() is None
        stream.pieces.append(bytes(piece))
    assert reader.unmarshall().body == [b"value", {"mtu": Variant("q", 517)}]


@pytest.fixture
def remembered() -> Any:
    """How often something was found, and how much is remembered."""
    unmarshaller._array.cache_clear()
    return unmarshaller._array.cache_info


def test_what_repeats_is_taken_apart_once(remembered: Any) -> None:
    for serial in range(1, 101):
        as_read(call(bytes([serial]), {"mtu": Variant("q", 517)}, serial)._marshall())
    assert (remembered().misses, remembered().hits) == (2, 198)


def test_properties_that_are_kept_are_not_shared(remembered: Any) -> None:
    message = Message(
        message_type=MessageType.SIGNAL,
        path="/org/bluez/hci0",
        interface="org.freedesktop.DBus.Properties",
        member="PropertiesChanged",
        signature="sa{sv}as",
        body=["org.bluez.Device1", {"UUIDs": Variant("as", ["a"])}, []],
        serial=1,
    )._marshall()
    first, second = (Unmarshaller(Stream(message)).unmarshall() for _ in range(2))
    assert first.body[1]["UUIDs"].value is not second.body[1]["UUIDs"].value
    assert remembered().hits == 1  # the header


def test_nobody_makes_us_remember_a_lot(remembered: Any) -> None:
    for number in range(REMEMBERED * 2):
        as_read(call(b"", {"text": Variant("s", f"{number}")}, path=f"/{number}")._marshall())
    assert remembered().currsize == REMEMBERED
    unmarshaller._array.cache_clear()
    as_read(call(b"", {"text": Variant("s", LONGEST * "x")}, path="/" + LONGEST * "x")._marshall())
    assert remembered().currsize == 0


def test_nobody_fills_the_memory_with_signatures(remembered: Any) -> None:
    for number in range(SIGNATURES + 10):
        signature = "".join("yn"[number >> bit & 1] for bit in range(12))
        body = [0] * len(signature)
        message = Message(path="/x", member="Is", signature=signature, body=body, serial=1)
        assert as_read(message._marshall())["body"] == body
    assert SignatureTree._get.cache_info().currsize == SIGNATURES
    assert not SignatureTree._cache
