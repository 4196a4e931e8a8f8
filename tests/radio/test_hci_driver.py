"""The driver: its life, its sightings and its advertising."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import Counter

import pytest
import trio
from bumble import hci
from bumble.core import UUID

from rns_ble.drivers.asyncio_loop import open_asyncio_loop
from rns_ble.drivers.base import (
    AdapterUnavailable,
    BLEDevice,
    BLEDriverInterface,
    ConfigurationError,
    DriverState,
    LinkLost,
    PeerUnreachable,
)
from rns_ble.drivers.hci import BumbleDriver, VirtualRadio
from rns_ble.drivers.hci.advertising_data import Report, encode, uuid_on_air
from rns_ble.drivers.hci.controller import RadioController
from rns_ble.drivers.hci.host import RadioHost
from rns_ble.drivers.hci.sightings import REMEMBERED, Sightings
from rns_ble.drivers.hci.standing_jobs import RENEWAL
from rns_ble.protocol.gatt import IDENTITY_UUID, RX_UUID, SERVICE_UUID, TX_UUID

pytestmark = pytest.mark.virtual_time

UUIDS = (SERVICE_UUID, RX_UUID, TX_UUID, IDENTITY_UUID)


# --- configuration ---


@pytest.mark.parametrize(
    "transport",
    [
        *("", "usb", "usb:", "serial:", "tcp-client", "tcp-client:", "tcp-client:7300", "tcp-client:host"),
        *("tcp-client:host:", "tcp-client:host:port", "tcp-client:host:0", "tcp-client:host:65536"),
        *("bluez:hci0", "/dev/ttyACM0", None),
    ],
)
async def test_a_transport_that_can_not_be_is_refused_before_it_is_opened(transport) -> None:
    with pytest.raises(ConfigurationError, match=r"usb:0|HOST:PORT"):
        BumbleDriver(transport)


@pytest.mark.parametrize("transport", ["usb:0", "serial:/dev/ttyACM0", "tcp-client:::1:7300", "vhci", "pty"])
async def test_a_transport_that_can_be_is_opened_only_when_the_driver_is_entered(transport) -> None:
    assert BumbleDriver(transport).address is None


@pytest.mark.parametrize("address", ["BF:FF:FF:FF:FF:FF", "00:11:22:33:44:55", "C0:00", "nonsense"])
async def test_an_address_has_to_be_static_random(bench, address) -> None:
    with pytest.raises(ConfigurationError, match=address):
        BumbleDriver(bench.radio, address=address)


@pytest.mark.parametrize("att_mtu", [0, 22, 518])
async def test_an_att_mtu_is_23_to_517(bench, att_mtu) -> None:
    with pytest.raises(ConfigurationError, match=f"att_mtu = {att_mtu}"):
        BumbleDriver(bench.radio, att_mtu=att_mtu)


async def test_the_address_is_static_random_and_stays_as_long_as_the_driver_lives(bench) -> None:
    driver, other = BumbleDriver(bench.radio), BumbleDriver(bench.radio)
    assert driver.address != other.address
    assert int(driver.address[:2], 16) >= 0xC0
    for _ in range(2):
        before = driver.address
        async with driver:
            assert bench.radio.addresses == [driver.address] == [before]
    assert BumbleDriver(bench.radio, address="c0-ff-ee-00-00-01").address == "C0:FF:EE:00:00:01"


async def test_without_bumble_the_names_say_how_to_install_it(monkeypatch) -> None:
    import rns_ble.drivers.hci as package

    for name in [name for name in sys.modules if name.startswith(("bumble", "rns_ble.drivers.hci."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "bumble", None)
    for name in ("BumbleDriver", "VirtualRadio", "serve_ether"):
        with pytest.raises(ConfigurationError) as raised:
            getattr(package, name)
        assert f"{sys.executable} -m pip install 'rns-ble[bumble]'" in str(raised.value)
        assert raised.value.__suppress_context__, "the import's traceback says no more"
    with pytest.raises(AttributeError):
        _ = package.nonsense


# --- life ---


async def test_outside_of_its_block_a_driver_says_so(bench) -> None:
    driver = BumbleDriver(bench.radio)
    driver.set_identity(bytes(16))
    uses = [
        lambda: driver.start(*UUIDS),
        driver.start_scanning,
        driver.start_advertising,
        lambda: driver.connect("C0:00:00:00:00:01"),
    ]
    for _ in range(2):
        for use in uses:
            with pytest.raises(RuntimeError, match="async with"):
                await use()
        await driver.stop()
        assert (driver.state, driver.connected_peers) == (DriverState.IDLE, [])
        async with driver:
            pass


async def test_steps_come_in_their_order(bench) -> None:
    async with BumbleDriver(bench.radio) as driver:
        with pytest.raises(RuntimeError, match="set_identity"):
            await driver.start(*UUIDS)
        driver.set_identity(bytes(16))
        with pytest.raises(RuntimeError, match="start comes"):
            await driver.start_advertising()
        with pytest.raises(RuntimeError, match="start comes"):
            await driver.connect("C0:00:00:00:00:01")
        with pytest.raises(ConfigurationError, match="nonsense"):
            await driver.start("nonsense", RX_UUID, TX_UUID, IDENTITY_UUID)
        await driver.start(*(uuid.upper() for uuid in UUIDS))


async def test_what_the_block_raises_comes_out_as_it_is(bench) -> None:
    error = ValueError("the body's")
    with pytest.raises(ValueError, match="the body's") as raised:
        async with BumbleDriver(bench.radio):
            raise error
    assert raised.value is error
    assert error.__cause__ is None
    with trio.move_on_after(1) as scope:
        async with BumbleDriver(bench.radio):
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert bench.radio.addresses == []


@pytest.mark.parametrize("milliseconds", [0, 1, 2, 5])
async def test_an_entry_that_is_cancelled_leaves_nothing(bench, milliseconds) -> None:
    # Opening takes no virtual time, so this cancels before it and right after it as well.
    with trio.move_on_after(milliseconds / 1000):
        async with BumbleDriver(bench.radio):
            await trio.sleep_forever()
    assert bench.radio.addresses == []


async def test_leaving_releases_everything(bench) -> None:
    async with open_asyncio_loop() as loop:
        async with bench.drivers(2) as (central, peripheral):
            ours, theirs = await bench.link(central, peripheral)
            await ours.send(b"the last")
        assert await bench.drained(theirs) == [b"the last"]
        assert await bench.drained(ours) == []
        for link in (ours, theirs):
            with pytest.raises(LinkLost):
                await link.send(b"")
            await link.aclose()
        assert bench.radio.connections == bench.radio.dialling == bench.radio.addresses == []
        await trio.sleep(1)
        assert asyncio.all_tasks(loop) == set()


async def test_leaving_leaves_no_scan_behind_that_is_just_being_begun_anew(bench, monkeypatch) -> None:
    scans = {}

    def noted(name, scans_then) -> None:
        command = getattr(RadioController, name)

        def note(controller, given):
            scans[controller] = scans_then(given)
            return command(controller, given)

        monkeypatch.setattr(RadioController, name, note)

    def late(host, packet) -> None:
        answer = packet[:2] == bytes([hci.HCI_EVENT_PACKET, hci.HCI_COMMAND_COMPLETE_EVENT])
        asyncio.get_running_loop().call_later(0.01 if answer else 0, on_packet, host, packet)

    noted("on_hci_le_set_scan_enable_command", lambda given: bool(given.le_scan_enable))
    noted("on_hci_reset_command", lambda _given: False)
    on_packet = RadioHost.on_packet
    monkeypatch.setattr(RadioHost, "on_packet", late)
    for milliseconds in range(0, 60, 5):
        async with BumbleDriver(bench.radio) as driver:
            driver.set_identity(bytes(16))
            await driver.start(*UUIDS)
            await driver.start_scanning()
            await trio.sleep(RENEWAL + milliseconds / 1000)
        await trio.sleep(1)
    assert not any(scans.values())
    assert len(scans) == 12


async def test_leaving_ends_a_connect_that_another_task_waits_for(bench) -> None:
    async def dial(task_status) -> None:
        task_status.started()
        with pytest.raises((PeerUnreachable, AdapterUnavailable)):
            await central.connect(address)

    async with trio.open_nursery() as nursery, bench.drivers(2) as (central, peripheral):
        address = await bench.sight(central, peripheral.address)
        await peripheral.stop_advertising()
        await nursery.start(dial)
        await nursery.start(dial)  # it waits for its turn
        await trio.sleep(1)
        assert bench.radio.dialling == [central.address]
    assert bench.radio.dialling == []


async def test_leaving_an_out_of_range_peer_takes_no_longer_than_a_goodbye_may(bench) -> None:
    async with bench.drivers(1) as (peripheral,):
        async with bench.drivers(1) as (other,):
            pass
        central = BumbleDriver(bench.radio)
        async with central:
            await bench.start(central)
            await bench.link(central, peripheral)
            bench.radio.separate(central.address)
            start = trio.current_time()
        assert trio.current_time() - start < 5
        assert other.state == DriverState.IDLE


async def test_an_unplugged_controller_ends_the_block_and_all_that_waits(bench) -> None:
    async with bench.drivers(3) as (peripheral, third, _):
        driver = BumbleDriver(bench.radio)
        results = []
        links = []

        async def wait(kind, use, *args) -> None:
            with pytest.raises(kind) as raised:
                await use(*args)
            results.append(raised.value)

        async def block() -> None:
            async with driver:
                await bench.start(driver)
                ends = ours, _ = await bench.link(driver, peripheral)
                links.extend(ends)
                address = await bench.sight(driver, third.address)
                await third.stop_advertising()
                bench.radio.separate(driver.address, peripheral.address)
                with trio.move_on_after(1):
                    await bench.flood(ours, bytes(200))
                for _ in range(100):
                    nursery.start_soon(wait, LinkLost, ours.send, bytes(200))
                nursery.start_soon(wait, AdapterUnavailable, driver.connect, address)
                await trio.sleep(1)
                assert results == []
                bench.radio.unplug(driver.address)
                with trio.CancelScope(shield=True):
                    await trio.sleep(0.1)
                    assert len(results) == 101
                    assert not ours.live
                await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            with pytest.raises(AdapterUnavailable, match="virtual radio is gone"):
                await block()
        for link in links:
            assert await bench.drained(link) == []
        # It may be entered again.
        bench.radio.unite(driver.address, peripheral.address)
        async with driver:
            await bench.start(driver)
            await bench.link(driver, peripheral)


async def test_a_failing_stack_explains_what_fails_in_the_block(bench) -> None:
    driver = BumbleDriver(bench.radio)

    async def alone() -> None:
        async with driver:
            await bench.start(driver)
            bench.radio.unplug(driver.address)
            await driver.start_advertising("new")

    async def in_tasks() -> None:
        async with driver, trio.open_nursery() as nursery:
            await bench.start(driver)
            bench.radio.unplug(driver.address)
            nursery.start_soon(driver.start_advertising, "new")
            nursery.start_soon(driver.stop_scanning)

    for block, cause in ((alone, AdapterUnavailable), (in_tasks, ExceptionGroup)):
        with pytest.raises(AdapterUnavailable) as raised:
            await block()
        assert isinstance(raised.value.__cause__, cause)


async def test_a_failing_stack_hides_no_bug(bench) -> None:
    driver = BumbleDriver(bench.radio)

    async def alone() -> None:
        async with driver:
            bench.radio.unplug(driver.address)
            raise ZeroDivisionError

    async def in_tasks() -> None:
        async with driver, trio.open_nursery() as nursery:
            await bench.start(driver)
            bench.radio.unplug(driver.address)
            nursery.start_soon(driver.start_advertising, "new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await alone()
    with pytest.raises(ExceptionGroup) as raised:
        await in_tasks()
    assert raised.group_contains(ZeroDivisionError)


async def test_a_controller_that_does_not_answer_has_failed(bench) -> None:
    async def block() -> None:
        async with BumbleDriver(bench.radio) as driver:
            await bench.start(driver)
            (controller,) = bench.radio.controllers
            controller.on_packet = lambda packet: None
            with pytest.raises(AdapterUnavailable):
                await driver.stop_scanning()
            assert trio.current_time() == pytest.approx(2)
            await trio.sleep_forever()

    with pytest.raises(AdapterUnavailable, match="does not answer"):
        await block()
    assert trio.current_time() < 5


async def test_drivers_that_are_entered_side_by_side_have_their_own_loops(bench) -> None:
    async def run(address, task_status) -> None:
        driver = BumbleDriver(bench.radio, address=address)
        async with driver:
            await bench.start(driver)
            task_status.started(driver)
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        one, other = [await nursery.start(run, f"C0:00:00:00:00:0{n}") for n in (1, 2)]
        # Used from a task that knows of no loop.
        ours, theirs = await bench.link(one, other)
        for sender, receiver in ((ours, theirs), (theirs, ours)):
            await sender.send(b"hello")
            assert await receiver.receive() == b"hello"
        nursery.cancel_scope.cancel()


async def test_a_driver_whose_loop_was_anothers_fails_with_that_and_may_be_entered_again(bench) -> None:
    inner = BumbleDriver(bench.radio)

    async def run(task_status) -> None:
        async with inner:
            await bench.start(inner)
            task_status.started()
            await trio.sleep_forever()

    async def fail(task_status) -> None:
        with pytest.raises(AdapterUnavailable, match="lost its asyncio loop"):
            await run(task_status)
        async with inner:
            await bench.start(inner)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery, BumbleDriver(bench.radio):
            await nursery.start(fail)


# --- sightings ---


async def sighting(driver: BLEDriverInterface) -> BLEDevice:
    while True:  # what waited
        try:
            driver.discovered.receive_nowait()
        except trio.WouldBlock:
            break
    with trio.fail_after(10):
        return await driver.discovered.receive()


async def test_a_sighting_brings_name_capabilities_and_signal(bench) -> None:
    async with bench.drivers(2) as (one, other):
        bench.radio.set_rssi(one.address, other.address, -71)
        assert await sighting(one) == BLEDevice(other.address, -71)
        await other.start_advertising("abcdefgh")
        assert await sighting(one) == BLEDevice(other.address, -71, "abcdefgh")
        await other.start_advertising("short", {0xFFFF: b"\x03\x01"})
        await trio.sleep(2 * RENEWAL)
        # The name is in the scan response now, and the two are one sighting.
        assert await sighting(one) == BLEDevice(other.address, -71, "short", {0xFFFF: b"\x03\x01"})
        for sentinel in (127, -127):
            bench.radio.set_rssi(one.address, other.address, sentinel)
            await trio.sleep(2 * RENEWAL)
            assert (await sighting(one)).rssi is None


async def test_a_link_knows_how_strong_its_peer_was_heard_last(bench) -> None:
    async with bench.drivers(2) as (one, other):
        await bench.sight(other, one.address)
        ours, theirs = await bench.link(one, other)
        assert ours.rssi == theirs.rssi == -50
        bench.radio.set_rssi(one.address, other.address, -80)
        await trio.sleep(2 * RENEWAL)
        assert ours.rssi == theirs.rssi == -80


async def test_a_scan_that_goes_on_reports_everybody_once_in_a_while(bench) -> None:
    async with bench.drivers(3) as (one, two, three):
        sightings: Counter[str] = Counter()
        with trio.move_on_after(10.5 * RENEWAL):
            async for device in one.discovered:
                sightings[device.address] += 1
        assert set(sightings) == {two.address, three.address}
        # Each renewal takes some of the time, until the next advertisement.
        assert all(8 <= times <= 11 for times in sightings.values())


async def test_whose_link_has_ended_is_heard_at_once(bench) -> None:
    async with bench.drivers(2) as (one, other):
        ours, theirs = await bench.link(one, other)
        await trio.sleep(1.25 * RENEWAL)  # it has been reported in this scan
        ended = trio.current_time()
        await ours.aclose()
        await theirs.aclose()
        await sighting(one)
        assert trio.current_time() - ended < RENEWAL / 2


async def test_a_name_in_the_scan_response_is_a_sighting_of_its_own(bench) -> None:
    async with bench.drivers(1) as (driver,), BumbleDriver(bench.radio) as other:
        other.set_identity(bytes(16))
        await other.start(SERVICE_UUID, RX_UUID, TX_UUID, IDENTITY_UUID)
        await other.start_advertising("short", {0xFFFF: b"\x03\x01"})
        assert [(await driver.discovered.receive()).name for _ in range(2)] == [None, "short"]


async def test_a_controller_that_does_not_scan_for_a_while_is_told_of_once(
    bench, monkeypatch, caplog
) -> None:
    async with bench.drivers(2) as (one, other):
        await bench.sight(one, other.address)
        disallowed = hci.HCI_StatusReturnParameters(hci.HCI_ErrorCode.COMMAND_DISALLOWED_ERROR)
        with monkeypatch.context() as patch:
            name = "on_hci_le_set_scan_parameters_command"
            patch.setattr(RadioController, name, lambda *_: disallowed)
            await trio.sleep(5 * RENEWAL)
        told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        why = "not scanning for now: the virtual radio refuses to scan: COMMAND_DISALLOWED_ERROR"
        assert told.count(why) == 2, "once by each driver; Bumble repeats itself"
        assert await sighting(one), "it is asked again by itself"


async def test_other_services_are_not_sighted(bench) -> None:
    async with bench.drivers(1) as (driver,), bench.stranger() as stranger:
        for data in (b"", b"\x02\x01\x06", encode(bytes(16), "other", None)[0], uuid_on_air(SERVICE_UUID)):
            await stranger.run(
                stranger.device.start_advertising, advertising_data=data, advertising_interval_min=50
            )
            with trio.move_on_after(1) as scope:
                await driver.discovered.receive()
            assert scope.cancelled_caught


async def test_a_uuid_in_the_scan_response_is_sighted(bench) -> None:
    async with bench.drivers(1) as (driver,), bench.stranger() as stranger:
        response, _ = encode(uuid_on_air(SERVICE_UUID), None, None)
        await stranger.run(
            stranger.device.start_advertising, advertising_data=b"\x02\x01\x06", scan_response_data=response
        )
        assert (await sighting(driver)).address == stranger.address


async def test_a_scan_that_ended_reports_nothing_more(bench) -> None:
    async with bench.drivers(2) as (one, other):
        await bench.sight(one, other.address)
        await one.stop_scanning()
        while one.discovered.statistics().current_buffer_used:
            one.discovered.receive_nowait()
        await trio.sleep(1)
        with pytest.raises(trio.WouldBlock):
            one.discovered.receive_nowait()


SERVICE = Report(frozenset({uuid_on_air(SERVICE_UUID)}), None, {})


async def test_advertisement_and_scan_response_are_one_sighting() -> None:
    sightings, address = Sightings(), hci.Address("C0:00:00:00:00:01")
    sightings.complete(address, Report(frozenset(), "too early", {}))
    assert len(sightings) == 0, "only the service makes it a peer"
    sightings.add(address, -50, SERVICE)
    response = Report(frozenset(), "node", {0xFFFF: b"\x03\x01"})
    assert sightings.complete(address, response) is not None
    assert sightings.complete(address, response) is None, "it is no news"
    _, sighting = sightings.add(address, -60, SERVICE)
    assert (sighting.rssi, sighting.name, sighting.manufacturer_data) == (-60, "node", {0xFFFF: b"\x03\x01"})


async def test_a_controller_that_is_full_advertises_again_when_a_link_has_ended(bench) -> None:
    bench.radio.connections_per_controller = 1
    async with bench.drivers(2) as (one, other):
        ours, theirs = await bench.link(one, other)
        await other.stop_advertising()
        await other.start_advertising()
        assert DriverState.ADVERTISING not in other.state
        await ours.aclose()
        await trio.sleep(1)
        assert DriverState.ADVERTISING in other.state
        await theirs.aclose()
        await bench.link(one, other)


async def test_only_so_many_addresses_are_remembered() -> None:
    sightings = Sightings()
    first = hci.Address("C0:00:00:00:00:00")
    sightings.add(first, -50, SERVICE)
    sightings.add(first, -60, SERVICE)
    assert sightings.address("C0:00:00:00:00:00") == first
    assert sightings.rssi("C0:00:00:00:00:00") == -60
    for number in range(REMEMBERED):
        sightings.add(hci.Address(bytes([number & 0xFF, number >> 8, 0, 0, 1, 0xC0])), -50, SERVICE)
    assert len(sightings) == REMEMBERED
    assert sightings.address("C0:00:00:00:00:00") is None
    assert sightings.rssi("C0:00:00:00:00:00") is None
    assert sightings.address("C0:01:00:00:00:00") is not None


async def test_strangers_leave_nothing_in_bumbles_memory(bench) -> None:
    async with bench.drivers(1) as (driver,):
        for number in range(20):
            async with bench.stranger(address=f"C0:00:00:00:01:{number:02X}") as stranger:
                await stranger.run(stranger.device.start_advertising, advertising_interval_min=50)
                await trio.sleep(0.2)
        assert driver._open().device.advertisement_accumulators == {}
        assert len(driver._sightings) == 0


# --- advertising ---


async def test_a_name_that_is_too_long_is_refused(bench) -> None:
    async with BumbleDriver(bench.radio) as driver:
        driver.set_identity(bytes(16))
        await driver.start(*UUIDS)
        with pytest.raises(ConfigurationError, match="8 bytes"):
            await driver.start_advertising("ninebytes")
        assert driver.state == DriverState.IDLE


async def test_advertising_goes_on_while_centrals_are_connected(bench) -> None:
    async with bench.drivers(4) as (peripheral, *centrals):
        links = [await bench.link(central, peripheral) for central in centrals]
        assert len(bench.radio.connections) == 3
        assert peripheral.state == DriverState.SCANNING | DriverState.ADVERTISING
        assert len(peripheral.connected_peers) == 3
        await bench.sight(centrals[0], peripheral.address)
        await peripheral.stop_advertising()
        await links[0][0].aclose()
        await trio.sleep(1)
        for central in centrals[1:]:
            await central.stop_advertising()
        await trio.sleep(1)
        with pytest.raises(trio.TooSlowError):
            await sighting(centrals[0])


async def test_a_full_controller_advertises_again_when_it_has_room(bench) -> None:
    bench.radio.connections_per_controller = 2
    async with bench.drivers(3) as (peripheral, one, other):
        ours, _ = await bench.link(one, peripheral)
        assert DriverState.ADVERTISING in peripheral.state
        await bench.link(other, peripheral)
        await trio.sleep(1)
        assert DriverState.ADVERTISING not in peripheral.state
        await ours.aclose()
        await trio.sleep(1)
        assert DriverState.ADVERTISING in peripheral.state
        await bench.link(one, peripheral)


async def test_the_service_uuid_is_configurable_and_other_services_are_strangers(bench) -> None:
    other_uuid = "37145B00-442D-4A94-917F-8F42C5DA28FF"
    async with bench.drivers(2) as (one, other):
        await other.stop()
        await other.start(other_uuid, RX_UUID, TX_UUID, IDENTITY_UUID)
        await other.start_advertising()
        await trio.sleep(0.5)
        with pytest.raises(trio.TooSlowError):
            await sighting(one)
        await one.stop()
        await one.start(other_uuid.lower(), RX_UUID, TX_UUID, IDENTITY_UUID)
        await one.start_scanning()
        await bench.link(one, other)


async def test_a_link_that_nobody_can_take_is_closed(bench) -> None:
    async with bench.drivers(2) as (central, peripheral):
        peripheral.accepted.close()
        with pytest.raises(PeerUnreachable):
            await central.connect(await bench.sight(central, peripheral.address))
        await trio.sleep(1)
        assert bench.radio.connections == []


async def test_radio_and_driver_say_nothing_above_debug_when_all_is_well(bench, caplog) -> None:
    caplog.set_level(logging.INFO)
    async with bench.drivers(2) as (one, other):
        ours, _theirs = await bench.link(one, other)
        await ours.aclose()
    assert [record for record in caplog.records if record.name.startswith("rns_ble")] == []
    assert caplog.records == []


async def test_reading_by_type_with_unknown_uuids_is_refused_and_forgotten(bench) -> None:
    async with bench.drivers(1) as (driver,), bench.stranger() as stranger:
        connection = await stranger.connect(driver)
        known = len(UUID.UUIDS)
        before = [UUID.from_bytes(bytes([number]) * 16) for number in range(100, 120)]
        assert len(UUID.UUIDS) == known + len(before)  # the asking side keeps them, for it is Bumble's
        for uuid in before:
            UUID.UUIDS.remove(uuid)
            assert await stranger.run(connection.gatt_client.read_characteristics_by_uuid, uuid, None) == []
        assert len(UUID.UUIDS) == known
        values = await stranger.run(
            connection.gatt_client.read_characteristics_by_uuid, UUID(IDENTITY_UUID), None
        )
        assert [len(value) for value in values] == [16]


async def test_the_radio_needs_no_loop_to_be_made() -> None:
    assert VirtualRadio().addresses == []


@pytest.mark.parametrize(("data", "nothing"), [(b"", True), (b"\x02\x01\x06", False)])
def test_a_report_without_data_says_nothing(data: bytes, nothing: bool) -> None:
    """What an active scan gets from whoever has put all into the advertisement: every other report."""
    from rns_ble.drivers.hci.host import _says_nothing

    report = hci.HCI_LE_Advertising_Report_Event.Report(
        event_type=hci.HCI_LE_Advertising_Report_Event.EventType.SCAN_RSP,
        address_type=hci.Address.RANDOM_DEVICE_ADDRESS,
        address=hci.Address("C0:00:00:00:00:01"),
        data=data,
        rssi=-50,
    )
    assert _says_nothing(bytes(hci.HCI_LE_Advertising_Report_Event(reports=[report]))) is nothing
