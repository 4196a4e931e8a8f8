"""Links: the handshake, cancellation at every step of it, values, back-pressure and the end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from bumble import att, hci
from bumble.device import Connection
from bumble.pairing import PairingConfig, PairingDelegate

from rns_ble.drivers.base import (
    AlreadyConnected,
    BLEError,
    LinkLost,
    PeerUnreachable,
    ProtocolViolation,
    Role,
)
from rns_ble.drivers.hci import BumbleDriver
from rns_ble.drivers.hci.link import RECEIVE_BUFFERED
from rns_ble.drivers.hci.stack import SUPERVISION_TIMEOUT

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
        limit = min(att_mtu - 3, 512)
        for sender, receiver in (ends, ends[::-1]):
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

    async with bench.drivers(1) as (driver,):
        async with bench.stranger(make_service(on_write=lambda _c, value: seen.append(value.hex()))) as peer:
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
    async with bench.drivers(1) as (driver,):
        async with bench.stranger(make_service(identity=refuse(code))) as peer:
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


async def test_pairing_is_taken_as_it_comes_and_changes_nothing(bench) -> None:
    async with bench.drivers(1) as (driver,), bench.stranger() as stranger:
        stranger.device.pairing_config_factory = lambda _connection: PairingConfig(
            sc=True, mitm=False, delegate=PairingDelegate(PairingDelegate.NO_OUTPUT_NO_INPUT)
        )
        connection = await stranger.connect(driver)
        link = await driver.accepted.receive()
        rx, *_ = await stranger.use(connection)
        with trio.fail_after(10):
            await stranger.run(stranger.device.pair, connection)
        await stranger.run(rx.write_value, b"after pairing")
        assert await link.receive() == b"after pairing"


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
    async with bench.drivers(2) as (one, other):
        for ours, theirs in ((one, other), (other, one)):
            await bench.sight(ours, theirs.address)
        for _ in range(5):
            outcomes: list[Any] = []

            async def dial(driver: BumbleDriver, peer: BumbleDriver, outcomes: list[Any] = outcomes) -> None:
                try:
                    outcomes.append(await driver.connect(peer.address))
                except BLEError as error:
                    outcomes.append(error)

            with trio.fail_after(10):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(dial, one, other)
                    nursery.start_soon(dial, other, one)
            (link,) = (outcome for outcome in outcomes if not isinstance(outcome, BLEError))
            (error,) = (outcome for outcome in outcomes if isinstance(outcome, BLEError))
            assert isinstance(error, AlreadyConnected)
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
        Answering(peer, {number: b"" for number in range(answered + 1, 100)})
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


async def test_a_dial_that_the_controller_refuses_blames_the_peer_not_the_stack(bench) -> None:
    bench.radio.connections_per_controller = 1
    async with bench.drivers(3) as (driver, first, second):
        await bench.sight(driver, second.address)
        await bench.link(driver, first)
        with pytest.raises(PeerUnreachable, match="CONNECTION_LIMIT_EXCEEDED"):
            await driver.connect(second.address)


async def test_attempts_take_their_turns(bench) -> None:
    async with bench.drivers(4) as (driver, gone, first, second):
        for peer in (gone, first, second):
            await bench.sight(driver, peer.address)
        await gone.stop_advertising()
        links = []

        async def dial(peer: BumbleDriver) -> None:
            links.append(await driver.connect(peer.address))

        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                nursery.start_soon(dial, first)
                nursery.start_soon(dial, second)
            assert not scope.cancelled_caught
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


# --- values ---


async def test_a_sender_goes_as_fast_as_the_radio(bench) -> None:
    async with bench.drivers(2) as (central, peripheral):
        ends = await bench.link(central, peripheral)
        bench.radio.latency = 1.0
        for sender, receiver in (ends, ends[::-1]):
            start = trio.current_time()
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def receive(receiver=receiver) -> None:
                    for number in range(100):
                        assert await receiver.receive() == bytes([number]) * 244

                for number in range(100):
                    await sender.send(bytes([number]) * 244)
                    # A quarter of the controller's 64 buffers.
                    assert sender._channel.outstanding <= 16
            assert 5 < trio.current_time() - start < 10


async def test_a_value_longer_than_the_share_of_a_small_controller_goes_alone(bench, monkeypatch) -> None:
    from rns_ble.drivers.hci.controller import RadioController

    monkeypatch.setattr(RadioController, "le_acl_data_packet_length", 27)
    monkeypatch.setattr(RadioController, "total_num_le_acl_data_packets", 8)
    async with bench.drivers(2) as (central, peripheral):
        ends = await bench.link(central, peripheral)
        for sender, receiver in (ends, ends[::-1]):
            async with trio.open_nursery() as nursery:
                for number in range(5):
                    nursery.start_soon(sender.send, bytes([number]) * 512)
                values = [await receiver.receive() for _ in range(5)]
            assert sorted(values) == [bytes([number]) * 512 for number in range(5)]


async def test_values_of_concurrent_senders_go_out_in_the_order_of_the_calls(bench) -> None:
    async with bench.drivers(2) as (central, peripheral):
        ours, theirs = await bench.link(central, peripheral)
        bench.radio.latency = 0.1
        order: list[int] = []

        async def send(number: int) -> None:
            order.append(number)
            await ours.send(number.to_bytes(2, "big") * 100)

        async with trio.open_nursery() as nursery:
            for number in range(60):
                nursery.start_soon(send, number)
            values = [int.from_bytes((await theirs.receive())[:2], "big") for _ in range(60)]
        assert values == order


async def test_one_peer_that_does_not_answer_leaves_room_for_the_others(bench) -> None:
    async with bench.drivers(3) as (driver, silent, good):
        to_silent, _ = await bench.link(driver, silent)
        to_good, at_good = await bench.link(driver, good)
        bench.radio.separate(driver.address, silent.address)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def flood() -> None:
                with pytest.raises(LinkLost):
                    while True:
                        await to_silent.send(bytes(500))

            await trio.sleep(0.5)
            for number in range(50):
                await to_good.send(bytes([number]))
                assert await at_good.receive() == bytes([number])
            assert trio.current_time() < 5
            await to_silent.aclose()


async def test_a_cancelled_send_is_whole_or_nothing(bench) -> None:
    bench.radio.latency = 0.05
    async with bench.drivers(2) as (central, peripheral):
        ours, theirs = await bench.link(central, peripheral)
        sent = []
        for number in range(200):
            with trio.move_on_after(0.001 * (number % 20)) as scope:
                await ours.send(number.to_bytes(2, "big") * 250)
            if not scope.cancelled_caught:
                sent.append(number)
        await ours.send(b"the end")
        got = []
        while (value := await theirs.receive()) != b"the end":
            assert value == value[:2] * 250
            got.append(int.from_bytes(value[:2], "big"))
        assert got == sent
        assert 0 < len(sent) < 200


async def test_as_peripheral_a_send_waits_for_the_subscription(bench) -> None:
    async with bench.drivers(1) as (driver,), bench.stranger() as stranger:
        connection = await stranger.connect(driver)
        link = await driver.accepted.receive()
        _, tx, _ = await stranger.use(connection)
        got: list[bytes] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.send, b"first")
            nursery.start_soon(link.send, b"second")
            await trio.sleep(10)
            await stranger.run(tx.subscribe, got.append)
        await trio.sleep(1)
        assert sorted(got) == [b"first", b"second"]
        await stranger.run(tx.unsubscribe)
        with trio.move_on_after(5) as scope:
            await link.send(b"nobody listens")
        assert scope.cancelled_caught
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def send() -> None:
                with pytest.raises(LinkLost):
                    await link.send(b"nobody listens")

            await trio.sleep(1)
            await stranger.run(connection.disconnect)


async def test_what_finds_no_room_is_dropped_and_counted(bench) -> None:
    async with bench.drivers(2) as (central, peripheral):
        ends = await bench.link(central, peripheral)
        for sender, receiver in (ends, ends[::-1]):
            for number in range(RECEIVE_BUFFERED + 44):
                await sender.send(number.to_bytes(2, "big"))
            await trio.sleep(1)
            assert receiver.values_dropped == 44
            for number in range(RECEIVE_BUFFERED):
                assert await receiver.receive() == number.to_bytes(2, "big")
            await sender.send(b"there is room again")
            assert await receiver.receive() == b"there is room again"


async def test_a_write_with_response_waits_for_room(bench) -> None:
    async with bench.drivers(1) as (driver,), bench.stranger() as stranger:
        connection = await stranger.connect(driver)
        link = await driver.accepted.receive()
        rx, *_ = await stranger.use(connection)
        for number in range(RECEIVE_BUFFERED):
            await stranger.run(rx.write_value, number.to_bytes(2, "big"), with_response=True)
        answered = trio.Event()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def write() -> None:
                await stranger.run(rx.write_value, b"held", with_response=True)
                answered.set()

            await trio.sleep(5)
            assert not answered.is_set()
            # One that does not wait for its answer is dropped.
            connection.send_l2cap_pdu(att.ATT_CID, bytes(att.ATT_Write_Request(rx.handle, b"impatient")))
            await trio.sleep(1)
            assert link.values_dropped == 1
            assert await link.receive() == b"\x00\x00"
            with trio.fail_after(1):
                await answered.wait()
        values = [await link.receive() for _ in range(RECEIVE_BUFFERED)]
        assert values[-2:] == [(RECEIVE_BUFFERED - 1).to_bytes(2, "big"), b"held"]


async def test_long_writes_are_taken_although_we_never_send_any(bench) -> None:
    async with bench.drivers(1) as (driver,), bench.stranger() as stranger:
        connection = await stranger.connect(driver)
        link = await driver.accepted.receive()
        rx, *_ = await stranger.use(connection)
        await stranger.run(rx.write_value, bytes(range(200)), with_response=True)
        assert await link.receive() == bytes(range(200))


# --- the end ---


async def test_out_of_range_a_link_ends_on_both_sides(bench) -> None:
    async with bench.drivers(2) as (central, peripheral):
        ours, theirs = await bench.link(central, peripheral)
        await theirs.send(b"arrived")
        await trio.sleep(0.1)
        bench.radio.separate(central.address, peripheral.address)
        start = trio.current_time()
        assert await bench.drained(ours) == [b"arrived"]
        assert await bench.drained(theirs) == []
        assert trio.current_time() - start == pytest.approx(IN_TIME)
        for link in (ours, theirs):
            with pytest.raises(LinkLost):
                await link.send(b"x")
            with pytest.raises(trio.EndOfChannel):
                await link.receive()
        assert central.connected_peers == peripheral.connected_peers == []


async def test_a_send_that_waits_fails_with_the_link(bench) -> None:
    async with bench.drivers(2) as (central, peripheral):
        ends = await bench.link(central, peripheral)
        bench.radio.separate(central.address, peripheral.address)
        failed = []

        async def send(link: Any) -> None:
            with pytest.raises(LinkLost):
                while True:
                    await link.send(bytes(512))
            failed.append(link)

        async with trio.open_nursery() as nursery:
            for link in ends:
                for _ in range(3):
                    nursery.start_soon(send, link)
        assert len(failed) == 6


@pytest.mark.parametrize("latency", [0.0, 0.02])
@pytest.mark.parametrize("closer", [0, 1])
async def test_what_was_sent_before_the_close_is_received_before_the_end(bench, latency, closer) -> None:
    async with bench.drivers(2) as (central, peripheral):
        ends = await bench.link(central, peripheral)
        bench.radio.latency = latency
        sender, receiver = ends[closer], ends[1 - closer]
        values = [bytes([number]) * 300 for number in range(20)]
        for value in values:
            await sender.send(value)
        await sender.aclose()
        assert await bench.drained(receiver) == values


async def test_after_our_own_close_receive_says_so_and_iteration_ends(bench) -> None:
    async with bench.drivers(2) as (central, peripheral):
        ours, theirs = await bench.link(central, peripheral)
        seen = []
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def iterate() -> None:
                seen.extend([value async for value in ours])
                seen.append("over")

            await trio.sleep(0.1)
            async with trio.open_nursery() as closing:
                for _ in range(3):
                    closing.start_soon(ours.aclose)
        assert seen == ["over"]
        with pytest.raises(trio.ClosedResourceError):
            await ours.receive()
        await ours.aclose()
        assert await bench.drained(theirs) == []


@pytest.mark.parametrize("closer", [0, 1])
async def test_a_close_out_of_range_takes_its_time_and_no_more(bench, closer) -> None:
    async with bench.drivers(2) as (central, peripheral):
        ends = await bench.link(central, peripheral)
        bench.radio.separate(central.address)
        await ends[closer].send(b"never arrives")
        start = trio.current_time()
        with trio.move_on_after(0):  # shields itself
            await ends[closer].aclose()
        assert trio.current_time() - start == pytest.approx(IN_TIME)
        assert await bench.drained(ends[1 - closer]) == []
        await settle(bench)


async def test_a_close_gives_up_a_connection_that_the_controller_does_not_end(bench) -> None:
    async with bench.drivers(2) as (central, peripheral):
        _, theirs = await bench.link(central, peripheral)
        (controller,) = (c for c in bench.radio.controllers if c.air_address == peripheral.address)
        controller.on_hci_disconnect_command = lambda command: controller._send_hci_command_status(
            hci.HCI_COMMAND_STATUS_PENDING, command.op_code
        )
        start = trio.current_time()
        await theirs.aclose()
        assert trio.current_time() - start == pytest.approx(4)
        assert peripheral.connected_peers == []
        with pytest.raises(LinkLost):
            await theirs.send(b"x")
        with pytest.raises(AlreadyConnected):
            await bench.sight(peripheral, central.address)
            await peripheral.connect(central.address)


# --- what strangers do ---


async def test_only_what_may_be_written_is_written(bench) -> None:
    async with bench.drivers(1) as (driver,), bench.stranger() as stranger:
        connection = await stranger.connect(driver)
        link = await driver.accepted.receive()
        rx, tx, identity = await stranger.use(connection)
        for attribute in (tx, identity):
            with pytest.raises(att.ATT_Error, match="WRITE_NOT_PERMITTED"):
                await stranger.run(attribute.write_value, b"mine", with_response=True)
            with pytest.raises(att.ATT_Error, match="WRITE_NOT_PERMITTED"):
                await stranger.run(attribute.write_value, bytes(100), with_response=True)
            await stranger.run(attribute.write_value, b"mine")
        for handle in range(1, identity.handle + 1):
            await stranger.run(connection.gatt_client.write_value, handle, b"\x02\x00")
        assert await stranger.run(identity.read_value) == CENTRAL
        assert await stranger.run(tx.read_value) == b""
        with pytest.raises(att.ATT_Error, match="READ_NOT_PERMITTED"):
            await stranger.run(rx.read_value)
        assert (await stranger.use(connection))[2].handle == identity.handle
        assert await link.receive() == b"\x02\x00"  # the one of them that went to RX


async def test_malformed_and_unexpected_pdus_change_nothing(bench) -> None:
    async with bench.drivers(1) as (driver,), bench.stranger() as stranger:
        connection = await stranger.connect(driver)
        link = await driver.accepted.receive()
        rx, *_ = await stranger.use(connection)
        for cid in (4, 5, 6, 0x3A, 0x40):
            for code in range(256):
                for tail in (b"", b"\x00", b"\x00\x00\x00", b"\xff" * 30):
                    connection.send_l2cap_pdu(cid, bytes([code]) + tail)
            connection.send_l2cap_pdu(cid, b"")
            await trio.sleep(1)
        await trio.sleep(60)
        if bench.radio.connections:
            await stranger.run(rx.write_value, b"still here")
            values = []
            while not values or values[-1] != b"still here":
                values.append(await link.receive())
        assert driver.state


async def test_notifications_that_are_not_of_tx_are_not_values(bench, make_service) -> None:
    async with bench.drivers(1) as (driver,), bench.stranger(make_service()) as peer:
        await peer.advertise()
        link = await driver.connect(await bench.sight(driver, peer.address))
        (connection,) = peer.device.connections.values()
        for handle in range(1000):
            for kind in (att.ATT_Handle_Value_Notification, att.ATT_Handle_Value_Indication):
                if handle != link.notified_handle or kind is att.ATT_Handle_Value_Indication:
                    connection.send_l2cap_pdu(att.ATT_CID, bytes(kind(handle, b"stray")))
                    await trio.sleep(0)
        await trio.sleep(1)
        pdu = att.ATT_Handle_Value_Notification(link.notified_handle, b"value")
        connection.send_l2cap_pdu(att.ATT_CID, bytes(pdu))
        assert await link.receive() == b"value"
        assert link.connection.gatt_client.cached_values == {}
