"""Links: values both ways, back-pressure and the end."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.lowlevel
from bumble import att, hci

from rns_ble.drivers.base import (
    AlreadyConnected,
    LinkLost,
)
from rns_ble.drivers.hci.controller import RadioController
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
    monkeypatch.setattr(RadioController, "le_acl_data_packet_length", 27)
    monkeypatch.setattr(RadioController, "total_num_le_acl_data_packets", 8)
    async with bench.drivers(2) as (central, peripheral):
        ends = await bench.link(central, peripheral)
        for sender, receiver in (ends, ends[::-1]):
            async with trio.open_nursery() as nursery:
                for number in range(5):
                    nursery.start_soon(sender.send, bytes([number]) * sender.value_limit)
                values = [await receiver.receive() for _ in range(5)]
            assert sorted(values) == [bytes([number]) * sender.value_limit for number in range(5)]


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
                    await bench.flood(to_silent, bytes(500))

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
                await bench.flood(link, bytes(link.value_limit))
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


async def test_a_close_waits_for_what_the_controller_had_no_room_for(bench, monkeypatch) -> None:
    monkeypatch.setattr(RadioController, "le_acl_data_packet_length", 27)
    monkeypatch.setattr(RadioController, "total_num_le_acl_data_packets", 4)
    async with bench.drivers(2) as (central, peripheral):
        for which in (0, 1):
            ends = await bench.link(central, peripheral)
            bench.radio.latency = 0.01
            value = bytes(ends[which].value_limit)  # 20 packets
            await ends[which].send(value)
            await ends[which].aclose()
            assert await bench.drained(ends[1 - which]) == [value]


async def test_what_arrives_with_the_end_is_received_and_in_order(bench) -> None:
    async with bench.drivers(1) as (driver,), bench.stranger() as stranger:
        connection = await stranger.connect(driver)
        link = await driver.accepted.receive()
        rx, *_ = await stranger.use(connection)
        for number, write in enumerate([att.ATT_Write_Request, *[att.ATT_Write_Command] * 4]):
            connection.send_l2cap_pdu(att.ATT_CID, bytes(write(rx.handle, bytes([number]))))
        stranger.device.host.send_hci_packet(hci.HCI_Disconnect_Command(connection.handle, 0x13))
        assert await bench.drained(link) == [bytes([number]) for number in range(5)]


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
        await bench.sight(peripheral, central.address)
        with pytest.raises(AlreadyConnected):
            await peripheral.connect(central.address)
