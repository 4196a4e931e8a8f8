"""What the kernel's list of connections says about a device: only LE can be tried without hardware."""

from __future__ import annotations

import fcntl
import socket
import sys

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="BlueZ is Linux's")

ADAPTER = "/org/bluez/hci3"
PHONE = "02:00:00:00:00:0A"
OTHER = "02:00:00:00:00:0B"


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """(address, link type) of what the kernel shall answer."""
    from rns_ble.drivers.bluez import bearer

    listed: list[tuple[str, int]] = []

    def ioctl(_socket: object, request: int, answer: bytearray) -> int:
        assert request == bearer.HCIGETCONNLIST
        adapter, room = bearer.HEAD.unpack_from(answer)
        assert adapter == 3
        assert room >= len(listed)
        bearer.HEAD.pack_into(answer, 0, adapter, len(listed))
        for number, (address, kind) in enumerate(listed):
            backwards = bytes.fromhex(address.replace(":", ""))[::-1]
            place = bearer.HEAD.size + number * bearer.CONNECTION.size
            bearer.CONNECTION.pack_into(answer, place, 64 + number, backwards, kind, 0, 1, 0)
        return 0

    one, other = socket.socketpair()
    other.close()
    monkeypatch.setattr(bearer.socket, "socket", lambda *_: one)
    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    yield listed
    one.close()


@pytest.mark.parametrize(
    ("kinds", "only"),
    [([], False), ([0x80], False), ([0x01], True), ([0x01, 0x80], False), ([0x01, 0x00], True)],
    ids=["none", "LE", "BR/EDR", "both", "BR/EDR with voice"],
)
def test_le_and_bredr_are_told_apart(
    connections: list[tuple[str, int]], kinds: list[int], only: bool
) -> None:
    from rns_ble.drivers.bluez.bearer import only_by_bredr

    connections += [(OTHER, 0x01), *((PHONE, kind) for kind in kinds)]
    assert only_by_bredr(ADAPTER, PHONE) is only


@pytest.mark.parametrize(("kinds", "also"), [([0x80], False), ([0x01], True), ([0x80, 0x01], True)])
def test_a_connection_by_bredr_is_seen_beside_le(
    connections: list[tuple[str, int]], kinds: list[int], also: bool
) -> None:
    from rns_ble.drivers.bluez.bearer import also_by_bredr

    connections += [(PHONE, kind) for kind in kinds]
    assert also_by_bredr(ADAPTER, PHONE) is also


def test_a_kernel_without_bluetooth_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from rns_ble.drivers.bluez import bearer

    def refused(*_: object) -> None:
        raise OSError(97, "Address family not supported by protocol")

    monkeypatch.setattr(bearer.socket, "socket", refused)
    assert not bearer.only_by_bredr(ADAPTER, PHONE)
    assert not bearer.also_by_bredr(ADAPTER, PHONE)
