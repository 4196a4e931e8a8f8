"""What is said of transports that can't be opened, and how those that can be are closed. In real time."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from bumble import hci
from bumble.transport.common import TransportInitError, TransportSpecError

import rns_ble.drivers.hci
import rns_ble.drivers.hci.stack
import rns_ble.drivers.hci.transports
from rns_ble.drivers.asyncio_loop import open_asyncio_loop
from rns_ble.drivers.base import AdapterUnavailable, BLEError, ConfigurationError, PermissionDenied
from rns_ble.drivers.hci import BumbleDriver
from rns_ble.drivers.hci.pacer import EVENTS_A_TURN, RESUME_AT, Pacer
from rns_ble.drivers.hci.transports import Transport, explain


class USBErrorAccess(Exception):
    """What libusb1 raises, by its name."""


def pyserial(number: int) -> OSError:
    """pyserial's error, which names the system's in its message and as its context only."""
    error = OSError("could not open port")
    error.__context__ = OSError(number, "of the system")
    return error


def without_sockets() -> Exception:
    """Bumble's error where Python was built without Bluetooth."""
    error = Exception("Bluetooth HCI sockets not supported on this platform")
    error.__cause__ = AttributeError("module 'socket' has no attribute 'AF_BLUETOOTH'")
    return error


@pytest.mark.parametrize(
    ("name", "error", "kind", "advice"),
    [
        ("usb:0", TransportInitError("device not found"), AdapterUnavailable, "plug the dongle in"),
        ("usb:0", TransportInitError("device not found"), AdapterUnavailable, "the user may write to it"),
        ("usb:0", USBErrorAccess(), PermissionDenied, "udev rule"),
        ("usb:0", ImportError("no libusb"), AdapterUnavailable, "library that is missing"),
        ("usb:0", ImportError("no libusb"), AdapterUnavailable, f"install it with {sys.executable} -m pip"),
        ("serial:/dev/x", FileNotFoundError(errno.ENOENT, "no such file"), AdapterUnavailable, "by-id"),
        ("serial:/dev/x", PermissionError(errno.EACCES, "denied"), PermissionDenied, "dialout"),
        ("serial:/dev/x", pyserial(errno.EACCES), PermissionDenied, "dialout"),
        ("serial:/dev/x", pyserial(errno.ENOENT), AdapterUnavailable, "by-id"),
        ("hci-socket:0", PermissionError(errno.EPERM, "not permitted"), PermissionDenied, "CAP_NET_ADMIN"),
        ("hci-socket:0", OSError(errno.EBUSY, "busy"), AdapterUnavailable, "take the adapter from BlueZ"),
        ("hci-socket:0", OSError(errno.EAFNOSUPPORT, "no"), AdapterUnavailable, "has no Bluetooth sockets"),
        ("hci-socket:0", OSError(errno.EPROTONOSUPPORT, "no"), AdapterUnavailable, "module bluetooth"),
        ("hci-socket:0", without_sockets(), AdapterUnavailable, "has no Bluetooth sockets: take usb:0"),
        (
            "tcp-client:h:1",
            ConnectionRefusedError(errno.ECONNREFUSED, "no"),
            AdapterUnavailable,
            "rns-ble ether",
        ),
        ("tcp-client:h:1", trio.TooSlowError(), AdapterUnavailable, "there and awake"),
        ("vhci", PermissionError(errno.EACCES, "denied"), PermissionDenied, "root"),
        ("udp:nonsense", ValueError("not enough values"), ConfigurationError, "for example usb:0"),
        ("file", AssertionError(), ConfigurationError, "for example usb:0"),
        ("usb:x:y:z", TransportSpecError("unknown"), ConfigurationError, "for example usb:0"),
    ],
)
def test_the_message_says_what_to_do(name, error, kind, advice) -> None:
    explained = explain(name, error)
    assert type(explained) is kind
    assert name in str(explained)
    assert advice in str(explained)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("usb:0", "unplug it and plug it in again"),
        ("serial:/dev/ttyACM0,1000000", "unplug it and plug it in again"),
        ("tcp-client:h:1", "start what listens there again; for a virtual radio that is `rns-ble ether`"),
        ("unix:/run/hci", "restart what serves it"),
    ],
)
def test_how_it_is_restarted_depends_on_the_kind_of_transport(name, advice) -> None:
    assert Transport(name, None, None).restart == advice


def test_bumbles_own_log_does_not_reach_stderr_where_nobody_asked_for_it() -> None:
    handlers = logging.getLogger("bumble").handlers
    assert any(isinstance(handler, logging.NullHandler) for handler in handlers)


async def entering(transport: str) -> BLEError:
    """What comes of entering a driver."""

    async def enter() -> None:
        with trio.fail_after(20):
            async with BumbleDriver(transport):
                await trio.sleep_forever()

    with pytest.raises(BLEError) as raised:
        await enter()
    return raised.value


async def test_where_nothing_listens() -> None:
    with trio.socket.socket() as taken:  # bound, so that nobody else gets the port, but not listening
        await taken.bind(("127.0.0.1", 0))
        error = await entering(f"tcp-client:127.0.0.1:{taken.getsockname()[1]}")
    assert type(error) is AdapterUnavailable
    assert "rns-ble ether" in str(error)


async def test_a_port_that_is_not_there(tmp_path) -> None:
    error = await entering(f"serial:{tmp_path}/ttyACM0")
    assert type(error) is AdapterUnavailable
    assert "by-id" in str(error)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
async def test_a_port_that_is_not_ours(tmp_path) -> None:
    port = tmp_path / "ttyACM0"
    port.touch(mode=0)
    assert type(await entering(f"serial:{port}")) is PermissionDenied


async def test_no_dongle() -> None:
    # On a machine that has one, or no libusb, the message is another of these.
    error = await entering("usb:FFFF:FFFF")
    assert isinstance(error, AdapterUnavailable)
    assert "usb:FFFF:FFFF" in str(error)


async def test_a_missing_library(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "bumble.transport.serial", None)
    error = await entering("serial:/dev/ttyACM0")
    assert type(error) is AdapterUnavailable
    assert "missing" in str(error)


# --- pacing ---


class Ends:
    """A source, a stream and a host, which note what they are told."""

    def __init__(self) -> None:
        self.terminated = None
        self.metadata = {"vendor_id": 1}
        self.told: list[object] = []

    def set_packet_sink(self, sink: Pacer) -> None:
        self.told.append(sink)

    def pause_reading(self) -> None:
        self.told.append("pause")

    def resume_reading(self) -> None:
        self.told.append("resume")

    def on_packet(self, packet: bytes) -> None:
        self.told.append(packet)

    def on_transport_lost(self) -> None:
        self.told.append("lost")


async def test_data_that_comes_at_once_is_handed_over_one_by_one() -> None:
    async with open_asyncio_loop() as loop:
        source, stream, host = Ends(), Ends(), Ends()
        pacer = Pacer(loop, source, stream)
        pacer.set_packet_sink(host)
        assert source.told == [pacer]
        assert pacer.metadata == source.metadata
        packets = [bytes([hci.HCI_ACL_DATA_PACKET, number]) for number in range(200)]
        for packet in packets:
            pacer.on_packet(packet)
        assert host.told == packets[:1]
        assert stream.told == ["pause"]
        seen = 1
        while seen < len(packets):
            await trio.lowlevel.checkpoint()
            assert len(host.told) - seen <= 2  # one for each turn of Trio's scheduler that lies between
            seen = len(host.told)
            assert stream.told == (["pause"] if seen < len(packets) - RESUME_AT else ["pause", "resume"])
        assert host.told == packets
        await trio.sleep(0.01)
        pacer.on_packet(b"alone")
        assert host.told[-1] == b"alone"


class Turns:
    """A loop that runs what is due when it is told to."""

    def __init__(self) -> None:
        self.due: list[Callable[[], object]] = []

    def is_running(self) -> bool:
        return True

    def call_soon(self, callback: Callable[[], object]) -> None:
        self.due.append(callback)


def test_of_events_several_are_handed_over_in_a_turn_and_of_data_still_one() -> None:
    loop, host = Turns(), Ends()
    pacer = Pacer(loop, Ends(), None)
    pacer.set_packet_sink(host)
    events = [bytes([hci.HCI_EVENT_PACKET, number]) for number in range(EVENTS_A_TURN + 8)]
    data = [bytes([hci.HCI_ACL_DATA_PACKET, number]) for number in range(3)]
    for packet in (*events, *data):
        pacer.on_packet(packet)
    told = [len(host.told)]
    while loop.due:
        (turn,) = loop.due
        loop.due.clear()
        turn()
        told.append(len(host.told))
    first = 1 + EVENTS_A_TURN
    assert told == [1, first, len(events) + 1, len(events) + 2, len(events) + 3, len(events) + 3]
    assert host.told == [*events, *data]


async def test_what_came_before_the_transport_was_lost_is_handed_over_before() -> None:
    async with open_asyncio_loop() as loop:
        host = Ends()
        pacer = Pacer(loop, Ends(), None)
        pacer.set_packet_sink(host)
        for packet in (b"1", b"2", b"3"):
            pacer.on_packet(packet)
        pacer.on_transport_lost()
        assert host.told == [b"1", b"2", b"3", "lost"]
        await trio.sleep(0.01)
        assert len(host.told) == 4


# --- real ones ---


@asynccontextmanager
async def serving(handler) -> AsyncIterator[str]:
    """The transport to a TCP server that does as the handler says."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, handler, 0, host="127.0.0.1"))
        yield f"tcp-client:127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def test_a_server_that_hangs_up() -> None:
    async def hang_up(stream: trio.SocketStream) -> None:
        await stream.aclose()

    async with serving(hang_up) as transport:
        error = await entering(transport)
    assert type(error) is AdapterUnavailable
    assert "is gone: start what listens there again" in str(error)


async def test_a_server_that_is_no_controller(monkeypatch) -> None:
    monkeypatch.setattr(rns_ble.drivers.hci.stack, "OPEN_TIMEOUT", 0.3)

    async def say_nothing(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async def babble(stream: trio.SocketStream) -> None:
        while True:
            await stream.send_all(b"SSH-2.0-OpenSSH_9.2\r\n" * 10)
            await trio.sleep(0.05)

    for handler in (say_nothing, babble):
        async with serving(handler) as transport:
            error = await entering(transport)
        assert type(error) is AdapterUnavailable
        assert "check that it is an HCI controller" in str(error)


async def test_opening_that_takes_too_long(monkeypatch) -> None:
    monkeypatch.setattr(rns_ble.drivers.hci.transports, "CONNECT_TIMEOUT", 0.1)
    # An address of documentation (RFC 5737): nobody answers, or there is no way to it at once.
    error = await entering("tcp-client:192.0.2.1:7300")
    assert type(error) is AdapterUnavailable


@pytest.mark.parametrize("seconds", [0, 0.0005, 0.002, 0.01])
async def test_an_entry_that_is_cancelled_closes_the_transport(seconds) -> None:
    open_streams = 0

    async def count(stream: trio.SocketStream) -> None:
        nonlocal open_streams
        open_streams += 1
        async for _ in stream:
            pass
        open_streams -= 1

    async with serving(count) as transport:
        with trio.move_on_after(seconds):
            async with BumbleDriver(transport):
                await trio.sleep_forever()
        await trio.sleep(0.05)
        assert open_streams == 0
