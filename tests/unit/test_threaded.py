"""Drivers of the callback contract, with real threads, through the adapter."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import trio
import trio.testing

import rns_ble
from rns_ble.config import BLEConfig
from rns_ble.drivers import threaded
from rns_ble.drivers.base import (
    GOODBYE_TIMEOUT,
    AdapterUnavailable,
    AdvertisingUnavailable,
    AlreadyConnected,
    BLEDriverInterface,
    BLEError,
    BLELink,
    DriverState,
    LinkLost,
    PeerUnreachable,
    ProtocolViolation,
)
from rns_ble.drivers.threaded import ThreadedDriver
from rns_ble.drivers.threaded.calls import CALLS_MAXIMUM, EVENTS_FLOOD, EVENTS_MAXIMUM, Inlet, Threads
from rns_ble.drivers.threaded.connections import LINKS_PER_IDENTITY
from rns_ble.drivers.threaded.contract import BLEDevice
from rns_ble.drivers.threaded.link import RECEIVE_BUFFERED
from rns_ble.peer import LINKS_MAXIMUM
from rns_ble.protocol.gatt import IDENTITY_UUID, RX_UUID, SERVICE_UUID, TX_UUID
from rns_ble.testing.driver_suite import DriverSuite
from tests.loopback import Ether, Habits, LoopbackDriver
from tests.nodes import Node, running

COLUMBA = Habits(takes_identity_write=True, prefix="", late_mtu=True, silent_stop=True)
PLAIN = Habits(tells_identity=False, blocking_connect=True, prefix="dev:")


pytestmark = pytest.mark.hastened


@pytest.fixture(autouse=True)
def slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads may be late here, and the clock is fast."""
    monkeypatch.setattr(threaded.connections, "MTU_GRACE", 20.0)


def address_of(index: int) -> str:
    return f"02:00:00:00:00:{index:02X}"


class Suite(DriverSuite):
    habits: Habits

    @asynccontextmanager
    async def open_drivers(self, count: int, att_mtu: int = 517) -> AsyncIterator[list[BLEDriverInterface]]:
        ether = Ether(att_mtu=att_mtu)
        async with AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(
                    ThreadedDriver(LoopbackDriver(ether, address_of(index), self.habits))
                )
                for index in range(count)
            ]


class TestTellsTheIdentityAndTakesTheIdentityWrite(Suite):
    habits = COLUMBA


class TestTellsTheAttMtuOnlyAndNamesCentralsInAnotherWay(Suite):
    habits = PLAIN


# --- one driver, and what it does under our hands ---


NAME, OTHER_NAME = "AA:00:00:00:00:01", "AA:00:00:00:00:02"
IDENTITY = b"\xc1" * 16


class Puppet(LoopbackDriver):
    """Does nothing by itself; `acts` says what a method does, by its name."""

    def __init__(self) -> None:
        super().__init__(Ether(), "02:00:00:00:00:01")
        self.acts: dict[str, Callable[..., object]] = {}
        self.peers: dict[str, str] = {}
        """Address → our role."""

    def __getattribute__(self, name: str) -> Any:
        acts = object.__getattribute__(self, "__dict__").get("acts", {})
        return acts[name] if name in acts else super().__getattribute__(name)

    @property
    def connected_peers(self) -> list[str]:
        return list(self.peers)

    def get_peer_role(self, address: str) -> str | None:
        return self.peers.get(address)

    def get_peer_mtu(self, address: str) -> int | None:
        return None

    def connect(self, address: str) -> None:
        self.calls.append(f"connect {address}")

    def disconnect(self, address: str) -> None:
        self.calls.append(f"disconnect {address}")
        if self.peers.pop(address, None):
            self.on_device_disconnected(address)

    def send(self, address: str, data: bytes) -> None:
        self.calls.append(f"send {address} {data.hex()}")

    # What a stack tells, from a thread of its own.

    def link(self, name: str, role: str, more: object = None) -> None:
        self.peers[name] = role
        elsewhere(self.on_device_connected, name, more)


def elsewhere(function: Callable[..., Any], *arguments: object) -> Any:
    """Call it on a thread that Trio does not know; what it returns."""
    answer: Future[Any] = Future()
    threading.Thread(target=lambda: answer.set_result(function(*arguments))).start()
    return answer.result(10)


@asynccontextmanager
async def a_puppet() -> AsyncIterator[tuple[Puppet, ThreadedDriver]]:
    puppet = Puppet()
    async with ThreadedDriver(puppet) as driver:
        await start(driver)
        yield puppet, driver


async def start(driver: ThreadedDriver) -> None:
    driver.set_identity(bytes(16))
    await driver.start(SERVICE_UUID, RX_UUID, TX_UUID, IDENTITY_UUID)


async def use(driver: ThreadedDriver) -> None:
    async with driver:
        await start(driver)
        await driver.start_scanning()
        await driver.stop_scanning()


async def accepted(puppet: Puppet, driver: ThreadedDriver, name: str = NAME, more: object = None) -> BLELink:
    puppet.link(name, "peripheral", more)
    with trio.fail_after(10):
        return await driver.accepted.receive()


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(30):
        while not condition():
            await trio.sleep(0.01)


def alone(group: BaseExceptionGroup[Exception]) -> Exception:
    """The only exception of a group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        [error] = error.exceptions
    assert isinstance(error, Exception)
    return error


async def test_what_the_driver_tells_when_it_was_left_is_nobodys_business() -> None:
    async with a_puppet() as (puppet, driver):
        link = await accepted(puppet, driver)
    puppet.link(OTHER_NAME, "peripheral", IDENTITY)
    elsewhere(puppet.on_data_received, NAME, b"late")
    elsewhere(puppet.on_mtu_negotiated, NAME, 100)
    elsewhere(puppet.on_device_disconnected, NAME)
    elsewhere(puppet.on_address_changed, NAME, OTHER_NAME, IDENTITY.hex())
    elsewhere(puppet.on_error, "error", "late", None)
    assert elsewhere(puppet.on_duplicate_identity_detected, NAME, IDENTITY) is False
    assert [value async for value in link] == []
    with pytest.raises(LinkLost):
        await link.send(b"x")
    assert driver.connected_peers == []
    async with driver:
        await start(driver)
        await accepted(puppet, driver, OTHER_NAME)


def test_what_the_driver_tells_when_trio_has_ended_is_nobodys_business() -> None:
    puppet = Puppet()

    async def main() -> None:
        async with ThreadedDriver(puppet) as driver:
            await start(driver)

    trio.run(main)
    puppet.link(NAME, "peripheral")
    elsewhere(puppet.on_data_received, NAME, b"late")


async def test_what_is_told_during_a_call_is_done_before_its_end_though_another_thread_tells_too() -> None:
    token = trio.lowlevel.current_trio_token()
    inlet, threads, done = Inlet(Mock()), Threads(), list[str]()
    held, late = threading.Event(), threading.Event()

    class Held:
        """The kernel takes the processor from the other thread, at the worst moment."""

        def run_sync_soon(self, *arguments: Any, **options: Any) -> None:
            if threading.current_thread() is other:
                held.set()
                late.wait()
            token.run_sync_soon(*arguments, **options)

    inlet._token = Held()  # type: ignore[assignment]
    other = threading.Thread(target=inlet.put, args=(partial(done.append, "other"),))
    other.start()
    await trio.to_thread.run_sync(held.wait)
    await threads.call(inlet.put, partial(done.append, "mine"))
    seen = done.copy()
    late.set()
    await trio.to_thread.run_sync(other.join)
    assert seen == ["other", "mine"]


async def test_values_from_many_threads_at_once_arrive_each_once_and_each_threads_in_order() -> None:
    async with a_puppet() as (puppet, driver):
        link = await accepted(puppet, driver, more=IDENTITY)
        together = threading.Barrier(8)

        def tell(number: int) -> None:
            together.wait()
            for n in range(25):
                puppet.on_data_received(NAME, bytes([number, n]))

        threads = [threading.Thread(target=tell, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        with trio.fail_after(30):
            values = [await link.receive() for _ in range(8 * 25)]
        for number in range(8):
            assert [n for who, n in values if who == number] == list(range(25))


async def test_a_value_without_room_is_dropped_and_counted() -> None:
    async with a_puppet() as (puppet, driver):
        link = await accepted(puppet, driver, more=IDENTITY)
        elsewhere(lambda: [puppet.on_data_received(NAME, b"v") for _ in range(RECEIVE_BUFFERED + 3)])
        await until(lambda: link.values_dropped == 3)


def test_events_wait_in_a_queue_that_is_bounded_and_a_flood_ends_the_driver() -> None:
    puppet = Puppet()

    async def main() -> None:
        async with ThreadedDriver(puppet) as driver:
            await start(driver)
            for _ in range(EVENTS_MAXIMUM + 5):
                puppet.on_data_received(NAME, b"value")
            assert driver._inlet.dropped == 5
            puppet.peers[NAME] = "peripheral"
            for _ in range(EVENTS_FLOOD):
                puppet.on_device_connected(NAME)
            assert len(driver._inlet._events) == EVENTS_FLOOD + 1
            await trio.sleep(10)

    with pytest.raises(ExceptionGroup) as raised:
        trio.run(main)
    assert isinstance(alone(raised.value), AdapterUnavailable)
    assert "floods" in str(alone(raised.value))


@pytest.mark.parametrize("method", ["start", "set_identity", "start_scanning", "stop_scanning"])
async def test_a_driver_that_raises_is_unavailable_and_says_why(method: str) -> None:
    puppet = Puppet()
    puppet.acts[method] = fails = Mock(side_effect=OSError("no such adapter"), __name__=method)
    with pytest.raises(ExceptionGroup) as raised:
        await use(ThreadedDriver(puppet))
    assert isinstance(alone(raised.value), AdapterUnavailable)
    assert "no such adapter" in str(alone(raised.value))
    assert fails.called
    assert "stop" in puppet.calls


async def test_who_is_sighted_during_the_call_that_starts_the_scan_is_seen() -> None:
    async with a_puppet() as (puppet, driver):

        def sight() -> None:
            puppet.on_device_discovered(BLEDevice(NAME, None, -60, [SERVICE_UUID]))

        puppet.acts["start_scanning"] = sight
        await driver.start_scanning()
        with trio.fail_after(10):
            assert (await driver.discovered.receive()).address == NAME


async def test_a_scan_that_did_not_start_is_none() -> None:
    async with a_puppet() as (puppet, driver):
        puppet.acts["start_scanning"] = Mock(side_effect=OSError("busy"), __name__="start_scanning")
        with pytest.raises(AdapterUnavailable, match="busy"):
            await driver.start_scanning()
        assert DriverState.SCANNING not in driver.state
        elsewhere(puppet.on_device_discovered, BLEDevice(NAME, None, -60, [SERVICE_UUID]))
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.WouldBlock):
            driver.discovered.receive_nowait()


async def test_a_driver_that_complains_instead_of_raising_has_failed_as_well() -> None:
    async with a_puppet() as (puppet, driver):
        puppet.acts["start_advertising"] = lambda _name, _identity: puppet.on_error(
            "error", "no room", ValueError("31 bytes")
        )
        with pytest.raises(AdvertisingUnavailable, match=r"no room \(ValueError: 31 bytes\)"):
            await driver.start_advertising()
        assert DriverState.ADVERTISING not in driver.state
        del puppet.acts["start_advertising"]
        puppet.identity = bytes(16)
        await driver.start_advertising()
        assert DriverState.ADVERTISING in driver.state


async def test_a_call_that_hangs_is_given_up_and_what_follows_does_not_overtake_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threaded.driver, "CONTROL_TIMEOUT", 4.0)
    hanging = threading.Event()
    puppet = Puppet()
    puppet.acts["start_scanning"] = hanging.wait
    puppet.acts["stop_scanning"] = lambda: puppet.calls.append("stop_scanning")
    driver = ThreadedDriver(puppet)
    with pytest.raises(ExceptionGroup) as raised:
        await use(driver)
    assert "has not returned from start_scanning" in str(alone(raised.value))
    assert "stop" not in puppet.calls, "it waits for its turn"
    with pytest.raises(ExceptionGroup) as raised:
        await use(driver)
    assert "has not returned from start" in str(alone(raised.value))
    hanging.set()
    await until(lambda: "stop" in puppet.calls)
    del puppet.acts["start_scanning"]
    await use(driver)


async def test_who_is_cancelled_says_goodbye() -> None:
    puppet = Puppet()
    with trio.CancelScope() as scope:
        async with ThreadedDriver(puppet) as driver:
            await start(driver)
            await accepted(puppet, driver)
            scope.cancel()
            await trio.sleep_forever()
    assert puppet.calls[-2:] == [f"disconnect {NAME}", "stop"]


# --- connecting ---


async def test_a_connect_that_is_never_answered_can_be_cancelled_and_is_undone() -> None:
    async with a_puppet() as (puppet, driver):
        with trio.move_on_after(0.5) as scope:
            await driver.connect(NAME)
        assert scope.cancelled_caught
        assert puppet.calls[-2:] == [f"connect {NAME}", f"disconnect {NAME}"]
        # And when it is answered after all, nobody waits for it.
        puppet.link(NAME, "central", IDENTITY)
        await until(lambda: puppet.calls.count(f"disconnect {NAME}") == 2)
        assert driver.connected_peers == []
        assert driver.establishing.borrowed_tokens == 0


async def test_a_connect_that_never_returns_does_not_keep_others_waiting_but_not_without_end() -> None:
    hanging = threading.Event()
    async with a_puppet() as (puppet, driver):
        puppet.acts["connect"] = lambda _address: hanging.wait()
        for _ in range(CALLS_MAXIMUM):
            with trio.move_on_after(0.1):
                await driver.connect(NAME)
        with pytest.raises(AdapterUnavailable, match="have not returned"):
            await driver.connect(NAME)
        hanging.set()
        await until(lambda: not driver._threads._running)
        del puppet.acts["connect"]
        with trio.move_on_after(0.1):
            await driver.connect(OTHER_NAME)
        assert f"connect {OTHER_NAME}" in puppet.calls


async def failing(driver: ThreadedDriver, puppet: Puppet, act: Callable[[], object]) -> BLEError:
    """What a connect raises when this happens after it has begun."""
    error: BLEError | None = None

    async def connect() -> None:
        nonlocal error
        with pytest.raises(BLEError) as raised:
            await driver.connect(NAME)
        error = raised.value

    async with trio.open_nursery() as nursery:
        nursery.start_soon(connect)
        await until(lambda: f"connect {NAME}" in puppet.calls)
        elsewhere(act)
    assert error is not None
    return error


async def test_a_failed_connect_is_known_by_the_address_in_the_message() -> None:
    async with a_puppet() as (puppet, driver):

        def act() -> None:
            puppet.on_error("error", f"Connection failed to {OTHER_NAME}: not this one", None)
            puppet.on_error("warning", f"Connection timeout to {NAME.lower()}", None)

        error = await failing(driver, puppet, act)
        assert isinstance(error, PeerUnreachable)
        assert str(error) == f"Connection timeout to {NAME.lower()}"


async def test_a_connect_that_raises_a_connection_that_drops_and_one_that_the_peer_has_made() -> None:
    async with a_puppet() as (puppet, driver):
        puppet.acts["connect"] = Mock(side_effect=RuntimeError("no"), __name__="connect")
        with pytest.raises(PeerUnreachable, match="no"):
            await driver.connect(NAME)
        del puppet.acts["connect"]
        dropped = await failing(driver, puppet, lambda: puppet.on_device_disconnected(NAME))
        assert isinstance(dropped, PeerUnreachable)
        puppet.calls.clear()
        crossed = await failing(driver, puppet, lambda: puppet.link(NAME, "peripheral"))
        assert isinstance(crossed, AlreadyConnected)
        assert f"disconnect {NAME}" not in puppet.calls, "the peer's own link is not taken along"
        assert driver.connected_peers == [NAME]
        with pytest.raises(AlreadyConnected):
            await driver.connect(NAME)


@pytest.mark.parametrize("answer", [b"short", OSError("gone")])
async def test_a_handshake_that_fails_leaves_nothing(answer: bytes | Exception) -> None:
    async with a_puppet() as (puppet, driver):
        puppet.acts["read_characteristic"] = Mock(side_effect=[answer], __name__="read_characteristic")
        error = await failing(driver, puppet, lambda: puppet.link(NAME, "central", 185))
        assert isinstance(error, ProtocolViolation if answer == b"short" else PeerUnreachable)
        assert puppet.connected_peers == []


@pytest.mark.parametrize("unreadable", [b"", NotImplementedError()])
async def test_an_identity_that_cant_be_read_is_waited_for(unreadable: bytes | Exception) -> None:
    async with a_puppet() as (puppet, driver):
        read = Mock(side_effect=[unreadable], __name__="read_characteristic")
        puppet.acts["read_characteristic"] = read
        async with trio.open_nursery() as nursery:

            async def connect() -> None:
                with trio.fail_after(30):
                    link = await driver.connect(NAME)
                assert (link.peer_identity, link.att_mtu) == (IDENTITY, 185)

            nursery.start_soon(connect)
            await until(lambda: f"connect {NAME}" in puppet.calls)
            puppet.link(NAME, "central", None)
            await until(lambda: read.called)
            puppet.link(NAME, "central", IDENTITY)
            elsewhere(puppet.on_mtu_negotiated, NAME, 185)


async def test_a_connection_that_has_gone_when_it_is_told_of_is_none() -> None:
    async with a_puppet() as (puppet, driver):
        elsewhere(puppet.on_device_connected, NAME, IDENTITY)
        await accepted(puppet, driver, OTHER_NAME)
        assert driver.connected_peers == [OTHER_NAME]


# --- links ---


async def test_an_identity_that_is_told_late_is_the_links_first_value() -> None:
    async with a_puppet() as (puppet, driver):
        link = await accepted(puppet, driver)
        assert link.peer_identity is None
        puppet.link(NAME, "peripheral", IDENTITY)
        puppet.link(NAME, "peripheral", IDENTITY)
        elsewhere(puppet.on_data_received, NAME, b"a value")
        assert [await link.receive() for _ in range(2)] == [IDENTITY, b"a value"]


async def test_the_att_mtu_may_be_told_at_any_time_and_be_a_guess_at_first() -> None:
    async with a_puppet() as (puppet, driver):
        link = await accepted(puppet, driver)
        assert link.att_mtu == 23
        for told, counts in ((185, 185), (100, 100), (20, 23), (9999, 517)):
            elsewhere(puppet.on_mtu_negotiated, NAME, told)
            await until(lambda counts=counts: link.att_mtu == counts)


async def test_a_peer_that_changes_its_address_keeps_its_link() -> None:
    async with a_puppet() as (puppet, driver):
        link = await accepted(puppet, driver, more=IDENTITY)
        elsewhere(puppet.on_address_changed, NAME, OTHER_NAME, IDENTITY.hex())
        elsewhere(puppet.on_data_received, OTHER_NAME, b"under the new one")
        elsewhere(puppet.on_data_received, NAME, b"and the old one")
        elsewhere(puppet.on_device_disconnected, NAME)
        assert [await link.receive() for _ in range(2)] == [b"under the new one", b"and the old one"]
        await link.send(b"\x01")
        assert puppet.calls[-1] == f"send {OTHER_NAME} 01"
        assert link.address == OTHER_NAME
        assert driver.connected_peers == [OTHER_NAME]
        puppet.peers = {OTHER_NAME: "peripheral"}
        await link.aclose()
        assert puppet.calls[-1] == f"disconnect {OTHER_NAME}"


async def test_a_peer_that_is_sighted_under_the_address_to_which_its_link_has_changed_is_not_dialled() -> (
    None
):
    puppet = Puppet()
    node = Node(None, 1, BLEConfig(power_mode="aggressive", dial_grace=0), ThreadedDriver(puppet))

    def sight(rssi: int) -> None:
        elsewhere(puppet.on_device_discovered, BLEDevice(OTHER_NAME.lower(), None, rssi, [SERVICE_UUID]))

    async with running(node):
        await until(lambda: DriverState.SCANNING in node.driver.state)
        puppet.link(f"dev:{NAME}", "peripheral", IDENTITY)
        await until(lambda: node.peers)
        elsewhere(puppet.on_address_changed, f"dev:{NAME}", f"dev:{OTHER_NAME}", IDENTITY.hex())
        puppet.peers = {f"dev:{OTHER_NAME}": "peripheral"}
        sight(-60)
        await until(lambda: node.mesh.admission.candidates)
        await trio.testing.wait_all_tasks_blocked()
        sight(-70)
        await until(lambda: node.mesh.status().peers[0].links[0].rssi == -70)
        (candidate,) = node.mesh.status().candidates
        assert (candidate.address, candidate.verdict, candidate.tried) == (OTHER_NAME, "linked", None)
        assert node.mesh.status().peers[0].links[0].address == OTHER_NAME
        assert not [call for call in puppet.calls if call.startswith("connect")]


async def test_of_two_links_to_one_peer_the_driver_closes_one() -> None:
    async with a_puppet() as (puppet, driver):
        old = await accepted(puppet, driver, NAME, IDENTITY)
        new = await accepted(puppet, driver, OTHER_NAME, IDENTITY)
        elsewhere(puppet.on_address_changed, NAME, OTHER_NAME, IDENTITY.hex())
        assert [value async for value in old] == []
        await new.send(b"x")


async def test_a_value_under_another_spelling_of_the_address_is_the_links() -> None:
    async with a_puppet() as (puppet, driver):
        link = await accepted(puppet, driver, f"dev:{NAME}")
        elsewhere(puppet.on_data_received, NAME, b"a value")
        assert await link.receive() == b"a value"
        assert link.address == NAME
        await link.send(b"\x01")
        assert puppet.calls[-1] == f"send dev:{NAME} 01"


async def test_an_end_under_another_spelling_of_the_address_is_the_links() -> None:
    async with a_puppet() as (puppet, driver):
        link = await accepted(puppet, driver, f"dev:{NAME}")
        elsewhere(puppet.on_device_disconnected, NAME)
        assert [value async for value in link] == []
        assert driver.connected_peers == []


async def test_an_end_under_the_name_of_one_of_two_links_is_not_the_others() -> None:
    async with a_puppet() as (puppet, driver):
        link = await accepted(puppet, driver, f"dev:{NAME}")
        other = await accepted(puppet, driver, NAME)
        elsewhere(puppet.on_device_disconnected, NAME)
        assert [value async for value in other] == []
        await link.send(b"\x01")
        assert driver.connected_peers == [NAME]


async def test_an_end_of_the_attempts_connection_is_not_that_of_the_peers_own() -> None:
    async with a_puppet() as (puppet, driver):
        link = await accepted(puppet, driver, f"dev:{NAME}")
        error = await failing(driver, puppet, lambda: puppet.on_device_disconnected(NAME))
        assert isinstance(error, PeerUnreachable)
        await link.send(b"\x01")
        assert driver.connected_peers == [NAME]


async def test_who_is_a_duplicate_is_answered_on_the_drivers_own_thread() -> None:
    assert LINKS_PER_IDENTITY == LINKS_MAXIMUM

    def duplicate(name: str, identity: bytes = IDENTITY) -> object:
        return elsewhere(puppet.on_duplicate_identity_detected, name, bytearray(identity))

    third = "AA:00:00:00:00:03"
    async with a_puppet() as (puppet, driver):
        assert duplicate(NAME, bytes(16)) is True, "that is us"
        await accepted(puppet, driver, NAME, IDENTITY)
        assert duplicate(OTHER_NAME) is False, "its old link may be dead, and nobody knows yet"
        other = await accepted(puppet, driver, OTHER_NAME)
        elsewhere(puppet.on_data_received, OTHER_NAME, IDENTITY)
        await other.receive()
        assert duplicate(third) is True
        assert duplicate(NAME) is False
        await other.aclose()
        assert duplicate(third) is False


@pytest.mark.parametrize("spelling", [NAME, f"dev:{NAME}", NAME.lower()])
async def test_a_connect_that_we_have_vetoed_is_no_failure_of_the_peers(spelling: str) -> None:
    async with a_puppet() as (puppet, driver):

        def act() -> None:
            assert puppet.on_duplicate_identity_detected(OTHER_NAME, bytes(16)), "not this one"
            assert puppet.on_duplicate_identity_detected(spelling, bytes(16))
            puppet.on_error("error", f"Connection failed to {NAME}: duplicate", RuntimeError())

        assert isinstance(await failing(driver, puppet, act), AlreadyConnected)


async def test_a_send_that_fails_ends_the_link() -> None:
    async with a_puppet() as (puppet, driver):
        link = await accepted(puppet, driver)
        puppet.acts["send"] = lambda _address, _data: puppet.on_error("error", "Failed to send", None)
        with pytest.raises(LinkLost, match="Failed to send"):
            await link.send(b"x")
        await until(lambda: f"disconnect {NAME}" in puppet.calls)
        assert driver.connected_peers == []


async def test_a_send_that_hangs_and_is_cancelled_ends_the_link_and_a_short_one_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with a_puppet() as (puppet, driver):
        link = await accepted(puppet, driver)
        puppet.acts["send"] = lambda _address, _data: time.sleep(0.05)
        with monkeypatch.context() as patience, trio.move_on_after(0.05):
            patience.setattr(threaded.connections, "SEND_FINISH", 20.0)
            await link.send(b"x")
        assert driver.connected_peers == [NAME]
        hanging = threading.Event()
        puppet.acts["send"] = lambda _address, _data: hanging.wait()
        with trio.move_on_after(0.05):
            await link.send(b"x")
        with pytest.raises(LinkLost):
            await link.send(b"x")
        await until(lambda: f"disconnect {NAME}" in puppet.calls)
        hanging.set()


async def test_a_goodbye_that_hangs_is_bounded() -> None:
    hanging = threading.Event()
    with trio.fail_after(3 * GOODBYE_TIMEOUT):
        async with a_puppet() as (puppet, driver):
            link = await accepted(puppet, driver)
            puppet.acts["disconnect"] = lambda _address: hanging.wait()
            await link.aclose()
            assert driver.connected_peers == []
            puppet.acts["stop"] = hanging.wait
            await accepted(puppet, driver, OTHER_NAME)
    assert driver.connected_peers == []
    hanging.set()


async def test_leaving_is_bounded_also_when_a_link_hangs_already() -> None:
    hanging = threading.Event()
    puppet = Puppet()
    puppet.acts["disconnect"] = lambda _address: hanging.wait()
    puppet.acts["stop"] = hanging.wait
    async with ThreadedDriver(puppet) as driver, trio.open_nursery() as nursery:
        await start(driver)
        nursery.start_soon((await accepted(puppet, driver)).aclose)
        await trio.testing.wait_all_tasks_blocked()
        left = trio.current_time()
        await driver.stop()
        assert trio.current_time() - left < GOODBYE_TIMEOUT + 1
    hanging.set()


async def test_while_the_interpreter_ends_and_starts_no_thread_goodbyes_are_said_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    no_more = Mock(side_effect=RuntimeError("can't create new thread at interpreter shutdown"))
    async with a_puppet() as (puppet, driver):
        await accepted(puppet, driver)
        monkeypatch.setattr(trio.lowlevel, "start_thread_soon", no_more)
        monkeypatch.setattr(threading.Thread, "start", no_more)
    driver.stop_early(within=10)
    assert puppet.calls[-2:] == [f"disconnect {NAME}", "stop"]


async def test_what_it_says_goes_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "rns_ble")
    async with a_puppet() as (puppet, _driver):
        for severity in ("critical", "error", "warning", "info"):
            elsewhere(puppet.on_error, severity, f"{severity} words", None)
        await until(lambda: "info words" in caplog.text)
    said = [(r.levelname, r.getMessage()) for r in caplog.records if "words" in r.getMessage()]
    assert said == [
        ("ERROR", "the driver says: critical words"),
        ("ERROR", "the driver says: error words"),
        ("WARNING", "the driver says: warning words"),
        ("DEBUG", "the driver says: info words"),
    ]


async def test_nonsense_raises_nothing_on_the_drivers_thread(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "rns_ble")
    async with a_puppet() as (puppet, driver):
        await driver.start_scanning()
        elsewhere(puppet.on_data_received, NAME, object())
        elsewhere(puppet.on_mtu_negotiated, NAME, "many")
        elsewhere(puppet.on_duplicate_identity_detected, NAME, None)
        elsewhere(puppet.on_duplicate_identity_detected, "nobody", bytes(16))
        elsewhere(puppet.on_address_changed, NAME, "nobody", None)
        elsewhere(puppet.on_device_disconnected, "nobody")
        elsewhere(puppet.on_device_connected, "nobody", IDENTITY)
        elsewhere(puppet.on_device_discovered, BLEDevice("nobody", None, -50, [SERVICE_UUID]))
        elsewhere(puppet.on_device_discovered, object())
        assert await accepted(puppet, driver)


@pytest.mark.parametrize("hidden", ["00:00:00:00:00:00", "02:00:00:00:00:00", None, "", "unknown"])
async def test_an_address_that_the_platform_hides_is_none(hidden: str | None) -> None:
    puppet = Puppet()
    puppet.acts["get_local_address"] = lambda: hidden
    async with ThreadedDriver(puppet) as driver:
        await start(driver)
        assert driver.address is None


async def test_an_address_that_is_known_only_later() -> None:
    async with a_puppet() as (puppet, driver):
        puppet.acts["get_local_address"] = lambda: "aa:bb:cc:dd:ee:ff"
        await driver.start_scanning()
        assert driver.address == "AA:BB:CC:DD:EE:FF"


# --- for interfaces ---


def test_a_driver_is_made_as_ble_reticulum_makes_it() -> None:
    made = ThreadedDriver.construct(
        lambda **settings: LoopbackDriver(Ether(), NAME, **settings),
        BLEConfig(adapter="hci2", max_connections=3, power_mode="saver"),
        0.5,
    )
    assert isinstance(made.theirs, LoopbackDriver)
    assert made.theirs.power_mode == "saver"
    assert made.theirs.settings == {
        "discovery_interval": 5.0,
        "connection_timeout": 30.0,
        "min_rssi": -85,
        "service_discovery_delay": 0.5,
        "max_peers": 3,
        "adapter_index": 2,
    }


async def test_a_driver_that_was_started_early_is_not_started_again() -> None:
    puppet = Puppet()
    driver = ThreadedDriver(puppet)
    driver.start_early(SERVICE_UUID, RX_UUID, TX_UUID, IDENTITY_UUID, within=10)
    assert puppet.calls == ["start"]
    async with driver:
        await start(driver)
    assert puppet.calls == ["start", "stop"]
    driver.stop_early(within=10)
    assert puppet.calls == ["start", "stop"]


def test_a_driver_that_was_started_early_for_nothing_is_stopped() -> None:
    puppet = Puppet()
    driver = ThreadedDriver(puppet)
    driver.start_early(SERVICE_UUID, RX_UUID, TX_UUID, IDENTITY_UUID, within=10)
    driver.stop_early(within=10)
    assert puppet.calls == ["start", "stop"]


def test_a_driver_that_is_still_starting_when_it_is_given_up_is_stopped_afterwards() -> None:
    puppet = Puppet()
    starting = threading.Event()
    puppet.acts["start"] = lambda **_uuids: starting.wait() and puppet.calls.append("start")
    driver = ThreadedDriver(puppet)
    driver.start_early(SERVICE_UUID, RX_UUID, TX_UUID, IDENTITY_UUID, within=0)
    driver.stop_early(within=0)
    starting.set()
    driver.stop_early(within=10)  # after the one before
    assert puppet.calls == ["start", "stop"]


def test_a_start_that_fails_early_is_not_the_end() -> None:
    puppet = Puppet()
    puppet.acts["start"] = Mock(side_effect=[OSError, None], __name__="start")
    driver = ThreadedDriver(puppet)
    for _ in range(2):
        driver.start_early(SERVICE_UUID, RX_UUID, TX_UUID, IDENTITY_UUID, within=10)
    driver.stop_early(within=10)
    assert puppet.calls == ["stop", "stop"], "what it had got so far, and then all of it"


def test_aliases_are_installed_by_a_call_and_by_nothing_else(tmp_path: Path) -> None:
    code = """
import sys
import rns_ble.interface, rns_ble.drivers.threaded as threaded
names = {"bluetooth_driver", "BLEInterface", "ble_reticulum", "RNS.Interfaces.BLEInterface"}
assert not names & set(sys.modules)
threaded.install_aliases()
threaded.install_aliases()
from bluetooth_driver import BLEDriverInterface, BLEDevice, DriverState
from BLEInterface import BLEInterface
import ble_reticulum.BLEInterface
from ble_reticulum.bluetooth_driver import BLEDriverInterface as same
from RNS.Interfaces.BLEInterface import BLEInterface as interface
assert same is BLEDriverInterface is threaded.driver.contract.BLEDriverInterface
assert interface is BLEInterface is ble_reticulum.BLEInterface.BLEInterface is rns_ble.interface.BLEInterface
"""
    run_python(code, tmp_path)


def test_aliases_come_too_late_for_what_was_imported_already(tmp_path: Path) -> None:
    (tmp_path / "bluetooth_driver.py").write_text("")
    code = """
import sys
import bluetooth_driver
from rns_ble.drivers.threaded import install_aliases
try:
    install_aliases()
except RuntimeError as error:
    assert str(error).startswith("bluetooth_driver was imported already, from /"), error
    assert "BLEInterface" not in sys.modules
else:
    raise AssertionError
"""
    run_python(code, tmp_path)


def run_python(code: str, directory: Path) -> None:
    path = f"{Path(rns_ble.__file__).parents[1]}:{directory}"
    command = [sys.executable, "-W", "error", "-c", code]
    subprocess.run(command, env={"PYTHONPATH": path}, check=True, timeout=60)


def test_the_guide_has_the_numbers_of_the_code() -> None:
    guide = " ".join((Path(__file__).parents[2] / "docs" / "drivers.md").read_text().split())
    for said in (
        f"in the order asked for, and has {threaded.driver.CONTROL_TIMEOUT:g} s",
        f"`send` has {threaded.connections.SEND_TIMEOUT:g} s",
        f"With {CALLS_MAXIMUM} calls that have not returned",
        f"At most {RECEIVE_BUFFERED} wait for each link",
    ):
        assert said in guide
    for address in threaded.driver.HIDDEN_ADDRESSES:
        assert f"`{address}`" in guide
