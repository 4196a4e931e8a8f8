"""The virtual radio and its controllers do what the Core Specification says, where Bumble's do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import trio
from bumble import hci

import rns_ble.drivers.hci.controller
from rns_ble.drivers.asyncio_loop import open_asyncio_loop
from rns_ble.drivers.hci import VirtualRadio

pytestmark = pytest.mark.virtual_time

Complete = hci.HCI_LE_Connection_Complete_Event
Ended = hci.HCI_Disconnection_Complete_Event
Report = hci.HCI_LE_Advertising_Report_Event
Data = hci.HCI_AclDataPacket
Completed = hci.HCI_Number_Of_Completed_Packets_Event
Status = hci.HCI_Command_Status_Event
Error = hci.HCI_ErrorCode


@pytest.fixture
def radio(bench) -> VirtualRadio:
    return bench.radio


def reports(port) -> Iterator[hci.HCI_LE_Advertising_Report_Event.Report]:
    for event in port.heard(Report):
        yield from event.reports


def send(port, data: bytes, handle: int = 1) -> None:
    """One whole L2CAP PDU on a channel nobody uses."""
    pdu = len(data).to_bytes(2, "little") + b"\x77\x00" + data
    port.send(hci.HCI_AclDataPacket(handle, 0, 0, len(pdu), pdu))


def received(port) -> list[bytes]:
    return [packet.data[4:] for packet in port.heard(Data)]


# --- advertising ---


async def test_an_advertising_interval_is_in_units_of_0_625_ms(bench) -> None:
    async with open_asyncio_loop():
        advertiser, scanner = bench.port(), bench.port()
        bench.scan(scanner)
        bench.advertise(advertiser, interval=160)
        await trio.sleep(9.95)
        assert sum(r.event_type == Report.EventType.ADV_IND for r in reports(scanner)) == 100


async def test_advertisement_and_scan_response_are_told_apart(bench) -> None:
    async with open_asyncio_loop():
        advertiser, scanner = bench.port(), bench.port()
        bench.scan(scanner)
        bench.advertise(advertiser, response=b"\x03\x09ab")
        await trio.sleep(0.01)
        assert [(r.event_type, r.data) for r in reports(scanner)] == [
            (Report.EventType.ADV_IND, b"\x02\x01\x06"),
            (Report.EventType.SCAN_RSP, b"\x03\x09ab"),
        ]


async def test_duplicates_are_left_out_until_a_scan_begins_anew(bench, monkeypatch) -> None:
    async with open_asyncio_loop():
        first, second, scanner = bench.port(), bench.port(), bench.port()

        def kinds() -> Counter[tuple[str, int]]:
            return Counter((str(r.address), r.event_type) for r in reports(scanner))

        bench.scan(scanner, filter_duplicates=1)
        bench.advertise(first)
        await trio.sleep(1)
        bench.advertise(second)
        await trio.sleep(1)
        once = kinds()
        assert list(once.values()) == [1] * 4, "two advertisers, and advertisement and scan response of each"
        bench.scan(scanner, enable=0)
        bench.scan(scanner, filter_duplicates=1)
        await trio.sleep(1)
        assert kinds() == once + once
        monkeypatch.setattr(rns_ble.drivers.hci.controller, "DUPLICATES_KNOWN", 1)
        bench.scan(scanner, filter_duplicates=1)
        await trio.sleep(1)
        assert min(kinds().values()) > 5, "a controller that knows too few reports again, rather than nobody"


async def test_the_signal_strength_is_that_of_the_pair(bench, radio) -> None:
    async with open_asyncio_loop():
        advertiser, near, far = bench.port(), bench.port(), bench.port()
        radio.set_rssi(advertiser.controller.air_address.lower(), far.controller.air_address, -91)
        for scanner in (near, far):
            bench.scan(scanner)
        bench.advertise(advertiser)
        await trio.sleep(0.01)
        assert {r.rssi for r in reports(near)} == {-50}
        assert {r.rssi for r in reports(far)} == {-91}


async def test_who_does_not_scan_gets_no_reports(bench) -> None:
    async with open_asyncio_loop():
        advertiser, scanner = bench.port(), bench.port()
        bench.advertise(advertiser)
        await trio.sleep(1)
        assert scanner.heard(Report) == []
        bench.scan(scanner)
        await trio.sleep(1)
        before = len(scanner.heard(Report))
        assert before > 0
        bench.scan(scanner, enable=0)
        await trio.sleep(1)
        assert len(scanner.heard(Report)) == before


async def test_out_of_range_nothing_is_heard(bench, radio) -> None:
    async with open_asyncio_loop():
        advertiser, near, far = bench.port(), bench.port(), bench.port()
        radio.separate(advertiser.controller.air_address, far.controller.air_address)
        for scanner in (near, far):
            bench.scan(scanner)
        bench.advertise(advertiser)
        await trio.sleep(1)
        assert near.heard(Report)
        assert not far.heard(Report)
        radio.unite(advertiser.controller.air_address, far.controller.air_address)
        radio.separate(advertiser.controller.air_address)
        heard = len(near.heard(Report))
        await trio.sleep(1)
        assert len(near.heard(Report)) == heard
        radio.unite(advertiser.controller.air_address)
        await trio.sleep(1)
        assert far.heard(Report)


# --- connecting ---


async def test_both_ends_are_told_the_same_connection(bench) -> None:
    async with open_asyncio_loop():
        central, peripheral = await bench.connected(timeout=123)
        (ours,), (theirs,) = central.heard(Complete), peripheral.heard(Complete)
        assert (ours.role, theirs.role) == (hci.Role.CENTRAL, hci.Role.PERIPHERAL)
        assert ours.peer_address == peripheral.controller.random_address
        assert theirs.peer_address == central.controller.random_address
        for end in (ours, theirs):
            assert end.status == Error.SUCCESS
            assert (end.connection_interval, end.supervision_timeout) == (24, 123)


async def test_a_connection_ends_the_advertising(bench) -> None:
    async with open_asyncio_loop():
        _central, peripheral = await bench.connected()
        assert not peripheral.controller.le_legacy_advertiser.enabled


async def test_data_goes_between_public_and_random_addresses(bench) -> None:
    # Bumble names the random address as the source of all data, so none arrives from a public one; and
    # of several controllers without a public address it finds any.
    async with open_asyncio_loop():
        others = [bench.port(random_address=False) for _ in range(3)]
        central, peripheral = bench.port(), bench.port()
        central.controller.public_address = "00:11:22:33:44:55/P"
        peripheral.controller.public_address = "00:11:22:33:44:66/P"
        bench.advertise(peripheral, own_type=0)
        bench.dial(central, peripheral.controller.public_address, own_type=0)
        await trio.sleep(0.1)
        send(central, b"to the peripheral")
        send(peripheral, b"to the central")
        await trio.sleep(0.1)
        assert received(peripheral) == [b"to the peripheral"]
        assert received(central) == [b"to the central"]
        assert all(received(other) == [] for other in others)


async def test_a_cancelled_dial_ends_with_an_event_and_connects_no_more(bench, radio) -> None:
    async with open_asyncio_loop():
        central, peripheral = bench.port(), bench.port()
        bench.dial(central, peripheral.controller.random_address)
        await trio.sleep(1)
        assert radio.dialling == [central.controller.air_address]
        central.send(hci.HCI_LE_Create_Connection_Cancel_Command())
        await trio.sleep(0.01)
        (event,) = central.heard(Complete)
        assert event.status == Error.UNKNOWN_CONNECTION_IDENTIFIER_ERROR
        assert event.peer_address == peripheral.controller.random_address
        bench.advertise(peripheral)
        await trio.sleep(1)
        assert (radio.dialling, radio.connections) == ([], [])
        central.send(hci.HCI_LE_Create_Connection_Cancel_Command())
        await trio.sleep(0.01)
        answer = central.heard(hci.HCI_Command_Complete_Event)[-1]
        assert answer.return_parameters.status == Error.COMMAND_DISALLOWED_ERROR


async def test_a_connected_address_can_not_be_dialled(bench, radio) -> None:
    async with open_asyncio_loop():
        central, peripheral = await bench.connected()
        for dialler, other in ((central, peripheral), (peripheral, central)):
            bench.dial(dialler, other.controller.random_address)
            await trio.sleep(0.01)
            assert dialler.heard(Status)[-1].status == Error.CONNECTION_ALREADY_EXISTS_ERROR
        assert radio.dialling == []


async def test_of_two_that_dial_each_other_one_is_told_that_it_is_connected(bench, radio) -> None:
    async with open_asyncio_loop():
        one, other = bench.port(), bench.port()
        for ours, theirs in ((one, other), (other, one)):
            bench.advertise(ours)
            bench.dial(ours, theirs.controller.random_address)
        await trio.sleep(1)
        assert len(radio.connections) == 1
        assert radio.dialling == []
        ended = sorted([e.status for e in port.heard(Complete)] for port in (one, other))
        assert ended == [[Error.SUCCESS], [Error.SUCCESS, Error.CONNECTION_ALREADY_EXISTS_ERROR]]


async def test_of_two_centrals_the_second_waits_for_the_next_advertisement(bench, radio) -> None:
    async with open_asyncio_loop():
        first, second, peripheral = bench.port(), bench.port(), bench.port()
        bench.advertise(peripheral)
        for central in (first, second):
            bench.dial(central, peripheral.controller.random_address)
        await trio.sleep(1)
        assert len(radio.connections) == 1
        assert radio.dialling == [second.controller.air_address]
        bench.advertise(peripheral)
        await trio.sleep(1)
        assert len(radio.connections) == 2


async def test_a_connect_ind_that_is_not_heard_ends_after_six_intervals(bench, radio) -> None:
    async with open_asyncio_loop():
        central, peripheral = bench.port(), bench.port()
        radio.deaf.add(peripheral.controller.air_address)
        bench.advertise(peripheral)
        bench.dial(central, peripheral.controller.random_address)
        await trio.sleep(10)
        (complete,), (ended,) = central.heard(Complete), central.heard(Ended)
        assert complete.status == Error.SUCCESS
        assert ended.reason == Error.CONNECTION_FAILED_TO_BE_ESTABLISHED_ERROR
        elapsed = central.times(Ended)[0] - central.times(Complete)[0]
        assert elapsed == pytest.approx(6 * 0.03)
        assert peripheral.heard(Complete) == []
        assert radio.connections == []


async def test_a_full_controller_neither_dials_nor_advertises(bench, radio) -> None:
    radio.connections_per_controller = 1
    async with open_asyncio_loop():
        central, peripheral = await bench.connected()
        third = bench.port()
        bench.dial(central, third.controller.random_address)
        await trio.sleep(0.01)
        assert central.heard(Status)[-1].status == Error.CONNECTION_LIMIT_EXCEEDED_ERROR
        bench.advertise(peripheral)
        await trio.sleep(0.01)
        answer = peripheral.heard(hci.HCI_Command_Complete_Event)[-1]
        assert answer.return_parameters.status == Error.CONNECTION_LIMIT_EXCEEDED_ERROR


# --- ending ---


async def test_a_disconnect_is_told_to_both(bench, radio) -> None:
    async with open_asyncio_loop():
        central, peripheral = await bench.connected()
        send(central, b"last words")
        central.send(hci.HCI_Disconnect_Command(1, 0x13))
        await trio.sleep(0.1)
        assert [e.reason for e in central.heard(Ended)] == [0x13]
        assert [e.reason for e in peripheral.heard(Ended)] == [0x13]
        assert received(peripheral) == [b"last words"]
        assert radio.connections == []
        await trio.sleep(100)  # no timer is left that would end it once more
        assert len(central.heard(Ended)) == len(peripheral.heard(Ended)) == 1


async def test_a_disconnect_of_nothing_is_refused(bench) -> None:
    async with open_asyncio_loop():
        port = bench.port()
        port.send(hci.HCI_Disconnect_Command(7, 0x13))
        await trio.sleep(0.1)
        assert [s.status for s in port.heard(Status)] == [Error.UNKNOWN_CONNECTION_IDENTIFIER_ERROR]


async def test_a_disconnect_out_of_range_ends_with_the_supervision_timeout(bench, radio) -> None:
    async with open_asyncio_loop():
        central, peripheral = await bench.connected()
        radio.separate(central.controller.air_address)
        parted = trio.current_time()
        central.send(hci.HCI_Disconnect_Command(1, 0x13))
        await trio.sleep(20)
        for port in (central, peripheral):
            assert [time - parted for time in port.times(Ended)] == pytest.approx([3.0])


async def test_out_of_range_both_ends_end_after_the_supervision_timeout(bench, radio) -> None:
    async with open_asyncio_loop():
        central, peripheral = await bench.connected(timeout=500)
        radio.separate(central.controller.air_address, peripheral.controller.air_address)
        parted = trio.current_time()
        await trio.sleep(20)
        for port in (central, peripheral):
            assert [e.reason for e in port.heard(Ended)] == [Error.CONNECTION_TIMEOUT_ERROR]
            assert [time - parted for time in port.times(Ended)] == pytest.approx([5.0])


async def test_back_in_range_in_time_what_waited_arrives_in_order(bench, radio) -> None:
    async with open_asyncio_loop():
        central, peripheral = await bench.connected()
        pair = central.controller.air_address, peripheral.controller.air_address
        for _ in range(3):
            radio.separate(*pair)
            for number in range(5):
                send(central, bytes([number]))
            await trio.sleep(2.9)
            assert not peripheral.heard(Data)
            radio.unite(*pair)
            await trio.sleep(0.1)
            assert received(peripheral) == [bytes([number]) for number in range(5)]
            peripheral.packets.clear()
        await trio.sleep(20)
        assert len(radio.connections) == 1


@pytest.mark.parametrize("how", ["detach", "reset"])
async def test_peers_of_a_controller_that_is_gone_lose_it_in_time(bench, radio, how) -> None:
    async with open_asyncio_loop():
        central, peripheral = await bench.connected()
        gone = trio.current_time()
        if how == "detach":
            peripheral.controller.detach()
            peripheral.controller.detach()
            assert radio.addresses == [central.controller.air_address]
        else:
            peripheral.send(hci.HCI_Reset_Command())
        send(central, b"into the void")
        await trio.sleep(20)
        assert [time - gone for time in central.times(Ended)] == pytest.approx([3.0])
        assert not central.heard(Completed)
        assert not peripheral.heard(Ended)
        assert radio.connections == []


async def test_a_reset_leaves_nothing_of_before(bench, radio) -> None:
    async with open_asyncio_loop():
        port, other = bench.port(), bench.port()
        bench.advertise(port)
        bench.scan(port)
        bench.dial(port, other.controller.random_address)
        port.send(hci.HCI_Reset_Command())
        await trio.sleep(0.1)
        port.packets.clear()
        bench.scan(other)
        await trio.sleep(0.2)
        bench.advertise(other)
        await trio.sleep(1)
        assert port.packets == []
        assert not other.heard(Report)
        assert (radio.dialling, radio.connections) == ([], [])
        assert radio.addresses[0] == "00:00:00:00:00:00"


# --- data ---


async def test_a_packet_is_completed_when_it_has_arrived(bench, radio) -> None:
    async with open_asyncio_loop():
        central, peripheral = await bench.connected()
        radio.latency = 1.0
        start = trio.current_time()
        for _ in range(3):
            send(central, b"value")
        await trio.sleep(0.9)
        assert not central.heard(Completed)
        await trio.sleep(1)
        for port, kind in ((peripheral, Data), (central, Completed)):
            assert {time - start for time in port.times(kind)} == {1.0}
        assert [(e.connection_handles, e.num_completed_packets) for e in central.heard(Completed)] == [
            ([1], [3])
        ]


async def test_the_end_does_not_overtake_data(bench, radio) -> None:
    async with open_asyncio_loop():
        central, peripheral = await bench.connected()
        radio.latency = 0.5
        send(central, b"first")
        radio.latency = 0.1
        send(central, b"second")
        central.send(hci.HCI_Disconnect_Command(1, 0x13))
        await trio.sleep(1)
        kinds = [type(packet) for _, packet in peripheral.packets if isinstance(packet, Data | Ended)]
        assert kinds == [Data, Data, Ended]
        assert received(peripheral) == [b"first", b"second"]


async def test_a_receiver_without_room_keeps_data_on_the_air(bench) -> None:
    async with open_asyncio_loop():
        central, peripheral = await bench.connected()
        peripheral.controller.stalled = True
        send(central, b"value")
        await trio.sleep(10)
        assert not peripheral.heard(Data)
        assert not central.heard(Completed)
        peripheral.controller.resume()
        await trio.sleep(0.1)
        assert received(peripheral) == [b"value"]
        assert central.heard(Completed)


async def _lossy(bench, seed: int) -> list[float]:
    bench.radio = radio = VirtualRadio(loss=0.5, seed=seed)
    async with open_asyncio_loop():
        central, peripheral = await bench.connected()
        start = trio.current_time()
        for number in range(50):
            send(central, bytes([number]))
        await trio.sleep(60)
        assert received(peripheral) == [bytes([number]) for number in range(50)]
        assert len(radio.connections) == 1
        return [round(time - start, 6) for time in peripheral.times(Data)]


async def test_loss_costs_time_and_nothing_else(bench) -> None:
    times = await _lossy(bench, seed=1)
    assert times[-1] > 0.03
    assert await _lossy(bench, seed=1) == times
    assert await _lossy(bench, seed=2) != times


async def test_a_connection_on_which_all_is_lost_is_lost(bench, radio) -> None:
    async with open_asyncio_loop():
        central, peripheral = await bench.connected()
        radio.loss = 1.0
        send(central, b"value")
        await trio.sleep(20)
        for port in (central, peripheral):
            assert [e.reason for e in port.heard(Ended)] == [Error.CONNECTION_TIMEOUT_ERROR]


async def test_a_controller_takes_packets_of_251_bytes_and_no_longer_ones(bench) -> None:
    async with open_asyncio_loop():
        central, peripheral = await bench.connected()
        central.send(hci.HCI_LE_Read_Buffer_Size_Command())
        send(central, bytes(247))
        await trio.sleep(0.1)
        answer = central.heard(hci.HCI_Command_Complete_Event)[-1].return_parameters
        assert (answer.le_acl_data_packet_length, answer.total_num_le_acl_data_packets) == (251, 64)
        assert received(peripheral) == [bytes(247)]
        with pytest.raises(ValueError, match="252 bytes"):
            send(central, bytes(248))


async def test_the_signal_strength_of_a_connection_can_be_read(bench, radio) -> None:
    async with open_asyncio_loop():
        central, peripheral = await bench.connected()
        radio.set_rssi(central.controller.air_address, peripheral.controller.air_address, -77)
        for handle in (1, 9):
            peripheral.send(hci.HCI_Read_RSSI_Command(handle))
        await trio.sleep(0.1)
        known, unknown = (e.return_parameters for e in peripheral.heard(hci.HCI_Command_Complete_Event)[-2:])
        assert (known.status, known.rssi) == (Error.SUCCESS, -77)
        assert unknown.status == Error.UNKNOWN_CONNECTION_IDENTIFIER_ERROR


async def test_one_packet_that_a_host_chokes_on_does_not_cost_the_next(bench, caplog) -> None:
    async with open_asyncio_loop():
        central, peripheral = await bench.connected()
        take = peripheral.on_packet

        def choke(packet: bytes) -> None:
            if packet.endswith(b"bad"):
                raise OSError("choked")
            take(packet)

        peripheral.on_packet = choke
        for value in (b"bad", b"good"):
            send(central, value)
        await trio.sleep(0.1)
        assert received(peripheral) == [b"good"]
        assert "choked" in caplog.text


async def test_controllers_of_different_loops_hear_each_other(bench) -> None:
    # Two nodes that were started side by side, not one inside the other.
    received_there = trio.Event()

    async def listen(task_status) -> None:
        async with open_asyncio_loop() as loop:
            port = bench.port()
            bench.advertise(port)
            task_status.started((loop, port))
            await received_there.wait()
            assert received(port) == [b"hello"]

    async def talk(peripheral, task_status) -> None:
        async with open_asyncio_loop() as loop:
            central = bench.port()
            bench.dial(central, peripheral.controller.random_address)
            await trio.sleep(0.2)
            send(central, b"hello")
            await trio.sleep(0.1)
            received_there.set()
            task_status.started(loop)

    async with trio.open_nursery() as nursery:
        listening, peripheral = await nursery.start(listen)
        assert await nursery.start(talk, peripheral) is not listening


async def test_there_is_no_such_controller(radio) -> None:
    with pytest.raises(KeyError):
        radio.unplug("C0:00:00:00:00:01")
    with pytest.raises(ValueError, match="not a Bluetooth address"):
        radio.separate("nonsense")


async def test_a_host_that_minds_no_flow_control_fills_no_memory(radio) -> None:
    from rns_ble.drivers.hci.air_connection import MOST_ON_THEIR_WAY, AirConnection
    from rns_ble.drivers.hci.controller import RadioController

    addresses = [hci.Address(f"C0:00:00:00:00:0{n}") for n in (1, 2)]
    async with open_asyncio_loop():
        one, other = RadioController(radio), RadioController(radio)
        ends = [
            AirConnection(
                controller,
                role,
                self_address=own,
                peer_address=peer,
                interval=12,
                supervision_timeout=300,
            )
            for controller, role, own, peer in (
                (one, hci.Role.CENTRAL, *addresses),
                (other, hci.Role.PERIPHERAL, *addresses[::-1]),
            )
        ]
        ends[0].far, ends[1].far = ends[::-1]
        one.le_connections[addresses[1]] = ends[0]
        other.stalled = True  # its host has no room
        packet = bytes(hci.HCI_AclDataPacket(ends[0].handle, 0, 0, 251, bytes(251)))
        for _ in range(MOST_ON_THEIR_WAY):
            one.on_packet(packet)
        with pytest.raises(ValueError, match="flow control"):
            one.on_packet(packet)
