"""How links are made: the handshake, two that dial each other, and cancellation at every step."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.lowlevel
from bumble import att, hci
from bumble.device import Connection

from rns_ble.drivers.base import (
    AdapterFull,
    AlreadyConnected,
    BLEError,
    PeerUnreachable,
    ProtocolViolation,
    Role,
)
from rns_ble.drivers.hci import BumbleDriver
from rns_ble.drivers.hci.controller import RadioController
from rns_ble.drivers.hci.stack import SUPERVISION_TIMEOUT
from rns_ble.protocol.gatt import value_limit, write_limit

pytestmark = pytest.mark.virtual_time

CENTRAL = bytes(range(16))
PERIPHERAL = bytes(range(16, 32))
IN_TIME = SUPERVISION_TIMEOUT / 100


async def settle(bench) -> None:
    """Let what is under way end, and see that nothing is left."""
    await trio.sleep(1)
    assert (bench.radio.connections, bench.radio.dialling) == ([], [])


# --- handshake ---


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(23, 23), (185, 185), (247, 247), (517, 517), (23, 517), (517, 185), (100, 101)],
)
async def test_the_smaller_att_mtu_counts_and_its_longest_values_pass(bench, ours, theirs) -> None:
    peripheral = BumbleDriver(bench.radio, att_mtu=theirs)
    async with bench.drivers(1, att_mtu=ours) as (central,), peripheral:
        await bench.start(peripheral, PERIPHERAL)
        ends = await bench.link(central, peripheral)
        att_mtu = min(ours, theirs)
        limits = (write_limit(att_mtu), value_limit(att_mtu))
        for sender, receiver, limit in zip(ends, ends[::-1], limits, strict=True):
            assert (sender.att_mtu, sender.value_limit) == (att_mtu, limit)
            for length in (0, 1, limit - 1, limit):
                value = bytes(range(length % 256)) * (length // max(1, length % 256))
                await sender.send(value[:limit])
                assert await receiver.receive() == value[:limit]
            with pytest.raises(ValueError, match=str(limit)):
                await sender.send(bytes(limit + 1))


async def test_an_att_mtu_never_shrinks(bench) -> None:
    async with bench.drivers(1) as (driver,), bench.stranger() as stranger:
        connection = await stranger.connect(driver)
        link = await driver.accepted.receive()
        assert link.att_mtu == 23
        for asked, expected in ((247, 247), (100, 247), (22, 247), (517, 517)):
            connection.gatt_client.mtu_exchange_done = False
            await stranger.run(connection.gatt_client.request_mtu, max(23, asked))
            assert link.att_mtu == expected


async def test_the_steps_come_in_the_order_of_the_protocol(bench, make_service) -> None:
    seen: list[str] = []

    def note_write(_connection: Connection, value: bytes) -> None:
        seen.append(value.hex())

    written = make_service(on_write=note_write)
    async with bench.drivers(1) as (driver,), bench.stranger(written) as peer:
        take = peer.device.gatt_server.on_gatt_pdu

        def note(connection: Connection, pdu: att.ATT_PDU) -> None:
            if not seen or seen[-1] != pdu.name:
                seen.append(pdu.name)
            take(connection, pdu)

        peer.device.gatt_server.on_gatt_pdu = note
        await peer.advertise()
        link = await driver.connect(await bench.sight(driver, peer.address))
        assert link.peer_identity == PERIPHERAL
        assert seen == [
            "ATT_EXCHANGE_MTU_REQUEST",
            "ATT_FIND_BY_TYPE_VALUE_REQUEST",
            "ATT_READ_BY_TYPE_REQUEST",
            "ATT_FIND_INFORMATION_REQUEST",
            "ATT_READ_REQUEST",
            "ATT_WRITE_REQUEST",
            CENTRAL.hex(),
        ]


async def test_what_comes_right_after_the_subscription_is_not_lost(bench, make_service) -> None:
    async with bench.drivers(1) as (driver,), bench.stranger(make_service()) as peer:
        server = peer.device.gatt_server
        tx = next(a for a in server.attributes if getattr(a, "properties", 0) & 0x10 and a.permissions == 1)

        def notify_at_once(connection: Connection, _characteristic: Any, *_: Any) -> None:
            for number in range(5):
                pdu = att.ATT_Handle_Value_Notification(tx.handle, bytes([number]))
                server.send_gatt_pdu(connection, bytes(pdu))

        server.on("characteristic_subscription", notify_at_once)
        await peer.advertise()
        link = await driver.connect(await bench.sight(driver, peer.address))
        assert [await link.receive() for _ in range(5)] == [bytes([number]) for number in range(5)]


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"uuid": "37145b00-442d-4a94-917f-8f42c5da28ff"}, "no BLE Reticulum service"),
        ({"without": ("rx",)}, "lacks 1"),
        ({"without": ("tx", "identity")}, "lacks 2"),
        ({"notify": False}, "can't be subscribed"),
        ({"identity": bytes(15)}, "15 bytes"),
        ({"identity": bytes(17)}, "17 bytes"),
        ({"identity": b""}, "0 bytes"),
    ],
)
async def test_a_peer_that_does_not_speak_the_protocol_is_dropped(
    bench, make_service, keywords, message
) -> None:
    async with bench.drivers(1) as (driver,), bench.stranger(make_service(**keywords)) as peer:
        await peer.advertise()
        with pytest.raises(ProtocolViolation, match=message):
            await driver.connect(await bench.sight(driver, peer.address))
        assert driver.connected_peers == []
        await settle(bench)


def refuse(code: int) -> Any:
    def read(_connection: Connection) -> bytes:
        raise att.ATT_Error(code)

    return att.AttributeValue(read=read)


@pytest.mark.parametrize("code", [0x05, 0x0F, 0x80])
async def test_a_peer_that_refuses_to_tell_its_identity_is_dropped(bench, make_service, code) -> None:
    async with bench.drivers(1) as (driver,), bench.stranger(make_service(identity=refuse(code))) as peer:
        await peer.advertise()
        with pytest.raises(ProtocolViolation, match=f"0x{code:02X}"):
            await driver.connect(await bench.sight(driver, peer.address))
        await settle(bench)


class Answering:
    """A server that answers as a test says, by the number of the request: None is Bumble's answer."""

    def __init__(self, stranger: Any, answers: dict[int, bytes]) -> None:
        self.requests = 0
        take = stranger.device.gatt_server.on_gatt_pdu

        def answer(connection: Connection, pdu: att.ATT_PDU) -> None:
            self.requests += 1
            if self.requests not in answers:
                take(connection, pdu)
            elif answers[self.requests]:
                stranger.device.gatt_server.send_gatt_pdu(connection, answers[self.requests])

        stranger.device.gatt_server.on_gatt_pdu = answer


async def test_a_peer_without_mtu_exchange_is_taken_as_it_is(bench, make_service) -> None:
    async with bench.drivers(1) as (driver,), bench.stranger(make_service()) as peer:
        Answering(peer, {1: bytes.fromhex("01 02 0000 06")})  # Request Not Supported
        await peer.advertise()
        link = await driver.connect(await bench.sight(driver, peer.address))
        assert (link.att_mtu, link.value_limit) == (23, 20)


@pytest.mark.parametrize(
    ("request_number", "answer"),
    [
        *((2, bytes.fromhex(pdu)) for pdu in ("07", "0701", "01")),
        *(
            (3, bytes.fromhex(pdu))
            for pdu in ("09", "0907", "0907 0100 02 0200 01", "0903 010002", "0900 00")
        ),
        *((4, bytes.fromhex(pdu)) for pdu in ("05", "0501", "0501 00000229", "0503 ffff")),
        *((number, b"\x01") for number in (5, 6, 7)),
    ],
)
async def test_a_malformed_answer_ends_the_attempt_only(bench, make_service, request_number, answer) -> None:
    async with bench.drivers(2) as (driver, good), bench.stranger(make_service()) as peer:
        Answering(peer, {request_number: answer})
        await peer.advertise()
        with trio.move_on_after(5), pytest.raises(ProtocolViolation):
            await driver.connect(await bench.sight(driver, peer.address))
        await settle(bench)
        await bench.link(driver, good)


async def test_an_address_that_was_not_sighted_can_not_be_dialled(bench) -> None:
    async with bench.drivers(1) as (driver,):
        with pytest.raises(PeerUnreachable, match="not been sighted"):
            await driver.connect("C0:00:00:00:00:99")
        with pytest.raises(ValueError, match="not a Bluetooth address"):
            await driver.connect("nonsense")
        assert driver.establishing.borrowed_tokens == 0


# --- two links, two dials ---


async def test_a_peer_is_not_connected_twice_in_either_role(bench) -> None:
    async with bench.drivers(2) as (one, other):
        await bench.sight(other, one.address)
        await bench.link(one, other)
        for dialler, address in ((one, other.address), (other, one.address)):
            with pytest.raises(AlreadyConnected, match=address):
                await dialler.connect(address)
        assert len(bench.radio.connections) == 1


async def test_two_that_dial_each_other_get_one_link(bench) -> None:
    outcomes: list[Any] = []

    async def dial(driver: BumbleDriver, peer: BumbleDriver) -> None:
        try:
            outcomes.append(await driver.connect(peer.address))
        except BLEError as error:
            outcomes.append(error)

    async with bench.drivers(2) as (one, other):
        for ours, theirs in ((one, other), (other, one)):
            await bench.sight(ours, theirs.address)
        for _ in range(5):
            outcomes.clear()
            with trio.fail_after(10):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(dial, one, other)
                    nursery.start_soon(dial, other, one)
            (link,) = (outcome for outcome in outcomes if not isinstance(outcome, BLEError))
            (refused,) = (outcome for outcome in outcomes if isinstance(outcome, BLEError))
            assert isinstance(refused, AlreadyConnected)
            assert (len(bench.radio.connections), bench.radio.dialling) == (1, [])
            accepting = other if link.address == other.address else one
            accepted = await accepting.accepted.receive()
            assert accepted.role is Role.PERIPHERAL
            await link.aclose()
            await settle(bench)


async def test_a_controller_that_does_not_end_its_dial_is_made_to(bench) -> None:
    # Some take the peer's connection and go on dialling the peer.
    async with bench.drivers(2) as (one, other):
        await bench.sight(one, other.address)
        await bench.sight(other, one.address)
        await other.stop_advertising()
        (controller,) = (c for c in bench.radio.controllers if c.air_address == one.address)
        end = controller._end_dial
        exists = hci.HCI_ErrorCode.CONNECTION_ALREADY_EXISTS_ERROR
        controller._end_dial = lambda status: None if status == exists else end(status)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def dial() -> None:
                with pytest.raises(AlreadyConnected):
                    await one.connect(other.address)

            await trio.sleep(1)
            assert bench.radio.dialling == [one.address]
            link = await other.connect(one.address)
        assert bench.radio.dialling == []
        accepted = await one.accepted.receive()
        await link.send(b"still up")
        assert [await accepted.receive() for _ in range(2)] == [PERIPHERAL, b"still up"]


# --- cancellation ---


@asynccontextmanager
async def attempt(bench, driver: BumbleDriver, address: str, seconds: float) -> AsyncIterator[None]:
    """A connect that is cancelled after so many seconds; then see that nothing is left."""
    link = None
    start = trio.current_time()
    with trio.move_on_after(seconds):
        link = await driver.connect(address)
    assert trio.current_time() - start < seconds + 5
    assert driver.establishing.borrowed_tokens == 0
    yield
    if link is not None:
        await link.aclose()
    assert driver.connected_peers == []
    await settle(bench)


@pytest.mark.parametrize("milliseconds", [*range(0, 200, 5), 300, 500])
async def test_a_connect_cancelled_at_any_time_leaves_nothing(bench, milliseconds) -> None:
    bench.radio.latency = 0.004
    async with bench.drivers(2) as (central, peripheral):
        address = await bench.sight(central, peripheral.address)
        async with attempt(bench, central, address, milliseconds / 1000):
            pass
        while True:
            try:
                await bench.drained(peripheral.accepted.receive_nowait())
            except trio.WouldBlock:
                break
        await bench.link(central, peripheral)


@pytest.mark.parametrize("answered", range(8))
async def test_a_peer_that_stops_answering_hangs_its_own_attempt_only(bench, make_service, answered) -> None:
    async with bench.drivers(2) as (driver, good), bench.stranger(make_service()) as peer:
        Answering(peer, dict.fromkeys(range(answered + 1, 100), b""))
        await peer.advertise()
        address = await bench.sight(driver, peer.address)
        async with attempt(bench, driver, address, 5):
            pass
        await bench.link(driver, good)


async def test_a_dial_to_a_peer_that_is_gone_is_taken_back(bench) -> None:
    async with bench.drivers(3) as (driver, gone, good):
        address = await bench.sight(driver, gone.address)
        bench.radio.separate(gone.address)
        async with attempt(bench, driver, address, 5):
            pass
        await bench.link(driver, good)


async def test_a_peer_that_hears_nothing_is_unreachable(bench) -> None:
    async with bench.drivers(2) as (driver, peer):
        address = await bench.sight(driver, peer.address)
        bench.radio.deaf.add(peer.address)
        with pytest.raises(PeerUnreachable, match="dropped the connection"):
            await driver.connect(address)
        await settle(bench)
        bench.radio.deaf.clear()
        await bench.link(driver, peer)


async def test_a_peer_that_goes_out_of_range_in_the_handshake_is_unreachable(bench, make_service) -> None:
    async with bench.drivers(1) as (driver,), bench.stranger(make_service()) as peer:
        Answering(peer, {5: b""})
        await peer.advertise()
        address = await bench.sight(driver, peer.address)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def dial() -> None:
                with pytest.raises(PeerUnreachable, match="dropped the connection"):
                    await driver.connect(address)

            await trio.sleep(1)
            assert bench.radio.connections
            bench.radio.separate(peer.address)
        await settle(bench)


async def test_a_controller_that_is_full_says_so_and_blames_neither_peer_nor_stack(bench) -> None:
    bench.radio.connections_per_controller = 1
    async with bench.drivers(3) as (driver, first, second):
        await bench.sight(driver, second.address)
        ours, _ = await bench.link(driver, first)
        with pytest.raises(AdapterFull, match="holds no more connections"):
            await driver.connect(second.address)
        await ours.aclose()
        await bench.link(driver, second)


async def test_attempts_take_their_turns(bench) -> None:
    async with bench.drivers(4) as (driver, gone, first, second):
        for peer in (gone, first, second):
            await bench.sight(driver, peer.address)
        await gone.stop_advertising()
        links = []

        async def dial(peer: BumbleDriver) -> None:
            links.append(await driver.connect(peer.address))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial, first)
            nursery.start_soon(dial, second)
        assert {link.address for link in links} == {first.address, second.address}
        with trio.move_on_after(2):
            await driver.connect(gone.address)
        assert driver.establishing.statistics().tasks_waiting == 0


async def test_scanning_pauses_while_a_dial_waits_and_goes_on_after_it(bench) -> None:
    async with bench.drivers(3) as (driver, gone, other):
        await bench.sight(driver, gone.address)
        await gone.stop_advertising()
        scanners = [c for c in bench.radio.controllers if c.air_address == driver.address]
        with trio.move_on_after(2):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(driver.connect, gone.address)
                await trio.sleep(1)
                assert [c.le_scan_enable for c in scanners] == [False]
                assert "SCANNING" in str(driver.state)
        assert [c.le_scan_enable for c in scanners] == [True]
        await bench.sight(driver, other.address)


async def test_a_command_that_is_cancelled_does_not_take_the_next_ones_answer(bench, monkeypatch) -> None:
    # A controller that takes 10 ms for each command.
    take = RadioController.on_packet

    def slowly(self: RadioController, packet: bytes) -> None:
        if packet[0] == hci.HCI_COMMAND_PACKET:
            self.loop.call_later(0.01, take, self, packet)
        else:
            take(self, packet)

    monkeypatch.setattr(RadioController, "on_packet", slowly)
    async with bench.drivers(2) as (central, peripheral):
        (controller,) = (c for c in bench.radio.controllers if c.air_address == central.address)
        address = await bench.sight(central, peripheral.address)
        for milliseconds in range(0, 60, 3):
            for job in (
                central.stop_scanning,
                central.start_scanning,
                central.start_advertising,
                central.stop_advertising,
            ):
                with trio.move_on_after(milliseconds / 1000):
                    await job()
            async with attempt(bench, central, address, milliseconds / 300):
                pass
            await central.start_scanning()
            assert controller.le_scan_enable
            await central.start_advertising()
            assert controller.le_legacy_advertiser.enabled
        while True:
            try:
                await bench.drained(peripheral.accepted.receive_nowait())
            except trio.WouldBlock:
                break
        await bench.link(central, peripheral)
