"""What every driver must do, as tests: subclass `DriverSuite` in a test module and say how to open drivers.

::

    class TestMock(DriverSuite):
        @asynccontextmanager
        async def open_drivers(self, count, att_mtu=517):
            air = Air(att_mtu=att_mtu)
            async with AsyncExitStack() as stack:
                yield [await stack.enter_async_context(MockBLEDriver(air, f"02:00:00:00:00:{i:02X}"))
                       for i in range(count)]

The tests are plain coroutines with `assert`s, collected by pytest with pytest-trio in `trio_mode`. They say
nothing about speed, and run in virtual or in real time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import ClassVar, Final

import trio

from rns_ble.drivers.base import (
    BLEDriverInterface,
    BLEError,
    BLELink,
    DriverState,
    LinkLost,
    Role,
)
from rns_ble.protocol.advertisement import normalise_address
from rns_ble.protocol.gatt import IDENTITY_UUID, RX_UUID, SERVICE_UUID, TX_UUID, value_limit, write_limit

DEADLINE: Final = 60.0
"""Seconds for anything a test waits for; generous, for real radios and slow machines."""


def identity_of(index: int) -> bytes:
    """The identity that the suite gives to the driver with this index: 16 bytes."""
    return bytes([0xA0 + index]) * 16


class DriverSuite(ABC):
    """The conformance suite. Each driver is opened by `open_drivers`, and hears every other."""

    cancel_delays: ClassVar[tuple[float, ...]] = (0, 0.001, 0.01, 0.02, 0.03, 0.05, 0.08, 0.1, 0.15, 0.2, 0.3)
    """Seconds after which a connect is cancelled, one after the other; cover every step of it."""

    def limits(self, att_mtu: int) -> tuple[int, int]:
        """The longest values, in bytes, as central and as peripheral: less, where a stack loses more."""
        return write_limit(att_mtu), value_limit(att_mtu)

    @property
    def targeted(self) -> bool:
        """Whether a peripheral notifies each central alone. Where a stack can't, others hear it too."""
        return True

    @abstractmethod
    def open_drivers(
        self, count: int, att_mtu: int = 517
    ) -> AbstractAsyncContextManager[list[BLEDriverInterface]]:
        """So many drivers on one air, whose links get this ATT MTU.

        Entered in the list's order and left in reverse.
        """

    # --- helpers ---

    @asynccontextmanager
    async def started(self, count: int, att_mtu: int = 517) -> AsyncIterator[list[BLEDriverInterface]]:
        """Drivers that advertise and scan."""
        with trio.fail_after(DEADLINE * 4):
            async with self.open_drivers(count, att_mtu) as drivers:
                for index, driver in enumerate(drivers):
                    await self.start(driver, index)
                yield drivers

    async def start(self, driver: BLEDriverInterface, index: int) -> None:
        """Bring one driver up."""
        driver.set_identity(identity_of(index))
        await driver.start(SERVICE_UUID, RX_UUID, TX_UUID, IDENTITY_UUID)
        await driver.start_advertising()
        await driver.start_scanning()

    async def sighted(self, driver: BLEDriverInterface, other: BLEDriverInterface) -> str:
        """Wait until the driver has sighted the other, and answer with its address."""
        with trio.fail_after(DEADLINE):
            async for device in driver.discovered:
                if other.address is None or device.address == other.address:
                    return device.address
        raise AssertionError("the driver's sightings ended")

    async def link(
        self, central: BLEDriverInterface, peripheral: BLEDriverInterface
    ) -> tuple[BLELink, BLELink]:
        """A link between two drivers: (the central's end, the peripheral's end), handshake done."""
        address = await self.sighted(central, peripheral)
        with trio.fail_after(DEADLINE):
            ours = await central.connect(address)
            theirs = await peripheral.accepted.receive()
            if theirs.peer_identity is None:
                await theirs.receive()
        return ours, theirs

    async def collect(self, link: BLELink, count: int) -> list[bytes]:
        """The next values from a link."""
        with trio.fail_after(DEADLINE):
            return [await link.receive() for _ in range(count)]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that no event tells."""
        with trio.fail_after(DEADLINE):
            while not condition():
                await trio.sleep(0.01)

    async def ends(self, link: BLELink) -> list[bytes]:
        """Wait for a link's end; what it still brought."""
        with trio.fail_after(DEADLINE):
            return [value async for value in link]

    async def refuses(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        """A link that has ended says so when something is sent on it, at once or soon after."""
        with trio.fail_after(DEADLINE):
            while True:
                try:
                    await send(b"\x00")
                except (LinkLost, trio.ClosedResourceError):
                    return
                await trio.sleep(0.01)

    # --- sightings and state ---

    async def test_a_sighting_names_the_address_and_the_signal(self) -> None:
        async with self.started(2) as (one, other):
            with trio.fail_after(DEADLINE):
                device = await one.discovered.receive()
            assert device.address == normalise_address(device.address)
            assert other.address in (None, device.address)
            assert device.rssi is None or -127 < device.rssi <= 20

    async def test_a_device_is_sighted_again_and_again(self) -> None:
        async with self.started(2) as (one, other):
            for _ in range(3):
                await self.sighted(one, other)

    async def test_state_follows_what_was_asked_for(self) -> None:
        async with self.open_drivers(1) as (driver,):
            driver.set_identity(identity_of(0))
            await driver.start(SERVICE_UUID, RX_UUID, TX_UUID, IDENTITY_UUID)
            steps: list[tuple[Callable[[], Awaitable[None]], DriverState]] = [
                (driver.start_scanning, DriverState.SCANNING),
                (driver.start_advertising, DriverState.SCANNING | DriverState.ADVERTISING),
                (driver.stop_scanning, DriverState.ADVERTISING),
                (driver.stop, DriverState.IDLE),
            ]
            assert driver.state is DriverState.IDLE
            for step, state in steps:
                for _ in range(2):
                    await step()
                    assert driver.state == state

    async def test_who_does_not_advertise_is_not_sighted(self) -> None:
        async with self.started(2) as (one, other):
            await self.sighted(one, other)
            await other.stop_advertising()
            await trio.sleep(0.5)
            while True:  # what was on its way
                try:
                    one.discovered.receive_nowait()
                except trio.WouldBlock:
                    break
            with trio.move_on_after(2):
                raise AssertionError(f"sighted {await one.discovered.receive()}")

    async def test_an_identity_is_16_bytes(self) -> None:
        async with self.open_drivers(1) as (driver,):
            for length in (0, 15, 17):
                try:
                    driver.set_identity(bytes(length))
                except ValueError:
                    continue
                raise AssertionError(f"an identity of {length} bytes was accepted")

    # --- links ---

    async def test_connect_reads_the_identity_and_writes_ours_first(self) -> None:
        async with self.started(2) as (central, peripheral):
            address = await self.sighted(central, peripheral)
            with trio.fail_after(DEADLINE):
                ours = await central.connect(address)
                theirs = await peripheral.accepted.receive()
                if theirs.peer_identity is None:
                    assert await theirs.receive() == identity_of(0)
                else:
                    assert theirs.peer_identity == identity_of(0)
            assert ours.peer_identity == identity_of(1)
            assert (ours.role, theirs.role) == (Role.CENTRAL, Role.PERIPHERAL)
            assert ours.address == address
            assert theirs.address == normalise_address(theirs.address)
            assert address in central.connected_peers
            assert theirs.address in peripheral.connected_peers

    async def _both_ways(self, att_mtu: int) -> None:
        async with self.started(2, att_mtu) as (central, peripheral):
            ours, theirs = await self.link(central, peripheral)
            limits = self.limits(att_mtu)
            assert (ours.value_limit, theirs.value_limit) == limits
            for sender, receiver, limit in ((ours, theirs, limits[0]), (theirs, ours, limits[1])):
                values = [bytes([n]) * n for n in (1, 2, 5, 15, 16, 17, 20)] + [bytes(range(256)) * 2]
                values = [value[:limit] for value in values]
                for value in values:
                    await sender.send(value)
                assert await self.collect(receiver, len(values)) == values
                try:
                    await sender.send(bytes(limit + 1))
                except ValueError:
                    pass
                else:
                    raise AssertionError("a value longer than the limit was sent")

    async def test_values_arrive_unchanged_at_att_mtu_23(self) -> None:
        await self._both_ways(23)

    async def test_values_arrive_unchanged_at_att_mtu_185(self) -> None:
        await self._both_ways(185)

    async def test_values_arrive_unchanged_at_att_mtu_247(self) -> None:
        await self._both_ways(247)

    async def test_values_arrive_unchanged_at_att_mtu_517(self) -> None:
        await self._both_ways(517)

    async def test_a_burst_arrives_whole_and_in_order_both_ways_at_once(self) -> None:
        async with self.started(2) as (central, peripheral):
            ours, theirs = await self.link(central, peripheral)
            values = [n.to_bytes(2, "big") * 100 for n in range(300)]
            received: dict[BLELink, list[bytes]] = {}

            async def send(link: BLELink) -> None:
                for value in values:
                    await link.send(value)

            async def receive(link: BLELink) -> None:
                received[link] = await self.collect(link, len(values))

            async with trio.open_nursery() as nursery:
                for link in (ours, theirs):
                    nursery.start_soon(receive, link)
                    nursery.start_soon(send, link)
            assert received == {ours: values, theirs: values}

    async def test_values_of_several_senders_go_out_whole(self) -> None:
        async with self.started(2) as (central, peripheral):
            ours, theirs = await self.link(central, peripheral)
            for sender, receiver in ((ours, theirs), (theirs, ours)):
                async with trio.open_nursery() as nursery:
                    for n in range(10):
                        nursery.start_soon(sender.send, bytes([n]) * 200)
                    received = await self.collect(receiver, 10)
                assert sorted(received) == [bytes([n]) * 200 for n in range(10)]

    async def test_a_cancelled_receive_loses_nothing(self) -> None:
        async with self.started(2) as (central, peripheral):
            ours, theirs = await self.link(central, peripheral)
            for sender, receiver in ((ours, theirs), (theirs, ours)):
                with trio.move_on_after(0.2) as scope:
                    await receiver.receive()
                assert scope.cancelled_caught
                await sender.send(b"after")
                assert await self.collect(receiver, 1) == [b"after"]

    async def test_either_side_closes_and_both_ends_end(self) -> None:
        async with self.started(2) as (central, peripheral):
            for who in (0, 1):
                ends = await self.link(central, peripheral)
                closing, other = ends[who], ends[1 - who]
                with trio.fail_after(DEADLINE):
                    await closing.aclose()
                    await closing.aclose()
                assert await self.ends(other) == []
                await self.refuses(closing.send)
                await self.refuses(other.send)
                await other.aclose()
                await self.until(lambda: not central.connected_peers and not peripheral.connected_peers)

    async def test_who_waits_to_send_learns_at_once_that_the_link_is_being_closed(self) -> None:
        async with self.started(2) as (central, peripheral):
            for who in (0, 1):
                ends = await self.link(central, peripheral)
                link, refused = ends[who], trio.Event()

                async def send(link: BLELink = link, refused: trio.Event = refused) -> None:
                    try:
                        while True:
                            await link.send(bytes(20))
                    except LinkLost:
                        refused.set()

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(send)
                    await trio.sleep(0.2)
                    nursery.start_soon(link.aclose)
                    with trio.fail_after(1):  # less than BlueZ takes to disconnect
                        await refused.wait()
                await ends[1 - who].aclose()
                await self.until(lambda: not central.connected_peers and not peripheral.connected_peers)

    async def test_what_was_sent_before_a_close_is_received_before_the_end(self) -> None:
        async with self.started(2) as (central, peripheral):
            ours, theirs = await self.link(central, peripheral)
            values = [bytes([n]) * 20 for n in range(5)]
            for value in values:
                await ours.send(value)
            got = await self.collect(theirs, 1)
            await trio.sleep(1)  # the radio has delivered the rest
            await ours.aclose()
            assert got + await self.ends(theirs) == values
            await theirs.aclose()

    async def test_a_peripheral_talks_to_each_of_its_centrals_alone(self) -> None:
        async with self.started(3) as (peripheral, one, other):
            first, at_first = await self.link(one, peripheral)
            second, at_second = await self.link(other, peripheral)
            await at_first.send(b"for the first")
            await at_second.send(b"for the second")
            await first.send(b"from the first")
            await second.send(b"from the second")
            if self.targeted:
                assert await self.collect(first, 1) == [b"for the first"]
                assert await self.collect(second, 1) == [b"for the second"]
            else:
                for central in (first, second):
                    assert await self.collect(central, 2) == [b"for the first", b"for the second"]
            assert await self.collect(at_first, 1) == [b"from the first"]
            assert await self.collect(at_second, 1) == [b"from the second"]
            with trio.move_on_after(1) as scope:
                await first.receive()
            assert scope.cancelled_caught

    # --- cancellation ---

    async def test_a_cancelled_connect_leaves_nothing(self) -> None:
        async with self.started(2) as (central, peripheral):
            for delay in self.cancel_delays:
                address = await self.sighted(central, peripheral)
                ours = None
                with trio.move_on_after(delay):
                    ours = await central.connect(address)
                if ours is not None:
                    await ours.aclose()
                assert central.establishing.borrowed_tokens == 0
                await self.until(lambda: not central.connected_peers and not peripheral.connected_peers)
                await self.drain(peripheral)
            ours, theirs = await self.link(central, peripheral)
            await ours.send(b"still works")
            assert await self.collect(theirs, 1) == [b"still works"]

    async def test_a_connect_to_nobody_can_be_cancelled(self) -> None:
        async with self.started(3) as (central, gone, peripheral):
            address = await self.sighted(central, gone)
            await gone.stop()
            with trio.move_on_after(3):
                try:
                    await central.connect(address)
                except BLEError:
                    pass
                else:
                    raise AssertionError("connected to a device that had stopped")
            assert central.establishing.borrowed_tokens == 0
            ours, theirs = await self.link(central, peripheral)
            await theirs.send(b"still works")
            assert await self.collect(ours, 1) == [b"still works"]

    async def drain(self, driver: BLEDriverInterface) -> None:
        """Close the links that a driver has accepted and nobody has taken; the other side has closed them."""
        while True:
            try:
                link = driver.accepted.receive_nowait()
            except trio.WouldBlock:
                return
            await self.ends(link)
            await link.aclose()

    # --- life ---

    async def test_stop_ends_every_link_and_start_begins_anew(self) -> None:
        async with self.started(2) as (central, peripheral):
            ours, theirs = await self.link(central, peripheral)
            await central.stop()
            await self.ends(ours)
            await self.ends(theirs)
            await self.start(central, 0)
            ours, theirs = await self.link(central, peripheral)
            await ours.send(b"again")
            assert await self.collect(theirs, 1) == [b"again"]

    async def test_a_driver_is_entered_again_after_it_was_left(self) -> None:
        # The last one, for what was entered last must be left first.
        async with self.open_drivers(2) as (peripheral, central):
            await self.start(central, 0)
            await self.start(peripheral, 1)
            ours, theirs = await self.link(central, peripheral)
            await central.__aexit__(None, None, None)
            await self.ends(ours)
            await self.ends(theirs)
            await theirs.aclose()
            await central.__aenter__()
            await self.start(central, 0)
            ours, theirs = await self.link(central, peripheral)
            await ours.send(b"again")
            assert await self.collect(theirs, 1) == [b"again"]
