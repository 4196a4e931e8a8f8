"""Each call of a driver cancelled at each checkpoint, with Bumble's stack on a virtual radio under it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext, suppress

import pytest
import trio
from bumble import hci

from rns_ble.drivers.asyncio_loop import open_asyncio_loop
from rns_ble.drivers.base import BLEDriverInterface, BLEError, BLELink, LinkLost
from rns_ble.drivers.hci import BumbleDriver, VirtualRadio
from rns_ble.drivers.hci.ether import PACKETS_A_TURN, serve_ether, serve_host
from rns_ble.drivers.hci.stack import COMMAND_TIMEOUT
from rns_ble.protocol.gatt import IDENTITY_UUID, RX_UUID, SERVICE_UUID, TX_UUID
from rns_ble.testing.checkpoints import Strike, at_every_checkpoint
from rns_ble.testing.virtual_time import run_in_virtual_time
from tests.cancellation.reached import TAKES_LONG, interrupt, note
from tests.nodes import identity_of

PATIENCE = 60.0

Act = Callable[["Pair", Strike], Awaitable[None]]


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE):
        while not condition():
            await trio.sleep(0.1)


class Pair:
    """Two drivers in each other's range: the first one is interrupted."""

    def __init__(self, radio: VirtualRadio) -> None:
        self.radio = radio
        self.ours, self.theirs = (
            BumbleDriver(radio, address=f"C0:00:00:00:00:0{n}", advertising_interval=0.2) for n in (1, 2)
        )

    async def start(self, driver: BLEDriverInterface) -> None:
        driver.set_identity(identity_of(1 if driver is self.ours else 2))
        await driver.start(SERVICE_UUID, RX_UUID, TX_UUID, IDENTITY_UUID)
        await driver.start_advertising()
        await driver.start_scanning()

    async def sighted(self) -> str:
        with trio.fail_after(PATIENCE):
            async for device in self.ours.discovered:
                if device.address == self.theirs.address:
                    return device.address
        raise AssertionError

    async def link(self) -> tuple[BLELink, BLELink]:
        address = await self.sighted()
        with trio.fail_after(PATIENCE):
            ours = await self.ours.connect(address)
            theirs = await self.theirs.accepted.receive()
            assert await theirs.receive() == identity_of(1)
        return ours, theirs

    async def link_from_here(self) -> BLELink:
        """Our end of a link that we have made."""
        return (await self.link())[0]

    async def link_from_there(self) -> BLELink:
        """Our end of a link that the other one has made."""
        assert self.ours.address is not None
        with trio.fail_after(PATIENCE):
            await sight(self.theirs, self.ours.address)
            await self.theirs.connect(self.ours.address)
            ours = await self.ours.accepted.receive()
            assert await ours.receive() == identity_of(2)
        return ours

    async def drain(self) -> None:
        """Nobody is connected, and nobody waits to be accepted."""
        assert self.ours.establishing.borrowed_tokens == 0
        await until(lambda: not self.ours.connected_peers and not self.theirs.connected_peers)
        await until(lambda: not self.radio.connections)
        assert not self.radio.dialling
        while True:
            try:
                link = self.theirs.accepted.receive_nowait()
            except trio.WouldBlock:
                break
            with trio.fail_after(PATIENCE):
                async for _ in link:
                    pass
            await link.aclose()

    async def works(self) -> None:
        """A link, and values both ways."""
        ours, theirs = await self.link()
        for sender, receiver in ((ours, theirs), (theirs, ours)):
            with trio.fail_after(PATIENCE):
                await sender.send(b"works" * 40)
                assert await receiver.receive() == b"works" * 40
        await ours.aclose()
        await theirs.aclose()
        await self.drain()


@asynccontextmanager
async def a_pair() -> AsyncIterator[Pair]:
    pair = Pair(VirtualRadio(latency=0.001))
    async with open_asyncio_loop() as loop:
        before = asyncio.all_tasks(loop)
        async with pair.theirs:
            await pair.start(pair.theirs)
            yield pair
            assert pair.radio.addresses == [pair.theirs.address]
        assert not pair.radio.addresses
        await trio.testing.wait_all_tasks_blocked()
        assert asyncio.all_tasks(loop) == before


def cancelled_everywhere(name: str, act: Act, every: bool) -> None:
    async def scenario(strike: Strike) -> None:
        async with a_pair() as pair, pair.ours:
            await pair.start(pair.ours)
            await act(pair, strike)
            await pair.drain()
            await pair.ours.start_advertising()
            await pair.ours.start_scanning()
            await pair.works()

    interrupt(name, scenario, every=every)


def test_connect(every: bool) -> None:
    async def connect(pair: Pair, strike: Strike) -> None:
        address = await pair.sighted()
        with strike.cancelling():
            link = await pair.ours.connect(address)
            await link.aclose()

    cancelled_everywhere("hci, connect", connect, every)


def test_a_connect_that_finds_nobody(every: bool) -> None:
    async def connect(pair: Pair, strike: Strike) -> None:
        address = await pair.sighted()
        await pair.theirs.stop_advertising()
        with trio.move_on_after(1), strike.cancelling():
            await pair.ours.connect(address)
        await pair.theirs.start_advertising()

    cancelled_everywhere("hci, connect to nobody", connect, every)


def test_a_connect_that_loses_its_peer(every: bool) -> None:
    async def connect(pair: Pair, strike: Strike) -> None:
        address = await pair.sighted()

        async def walk_away() -> None:
            while not pair.radio.connections:
                await trio.sleep(0.002)
            pair.radio.separate(address)
            await trio.sleep(5)
            pair.radio.unite(address)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(walk_away)
            with strike.cancelling(), pytest.raises(BLEError):
                await pair.ours.connect(address)
            nursery.cancel_scope.cancel()
        pair.radio.unite(address)

    cancelled_everywhere("hci, connect that loses its peer", connect, every)


def test_a_peer_that_connects_at_the_same_time(every: bool) -> None:
    async def connect(pair: Pair, strike: Strike) -> None:
        address = await pair.sighted()
        links: list[BLELink] = []
        assert pair.ours.address is not None

        async def from_there() -> None:
            with trio.move_on_after(20), suppress(BLEError):
                await sight(pair.theirs, pair.ours.address)
                links.append(await pair.theirs.connect(pair.ours.address))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(from_there)
            with strike.cancelling(), suppress(BLEError):
                links.append(await pair.ours.connect(address))
        for driver in (pair.ours, pair.theirs):
            while driver.accepted.statistics().current_buffer_used:
                links.append(await driver.accepted.receive())
        for link in links:
            await link.aclose()

    cancelled_everywhere("hci, connects that cross", connect, every)


async def sight(driver: BLEDriverInterface, address: str | None) -> None:
    async for device in driver.discovered:
        if device.address == address:
            return


@pytest.mark.parametrize("from_central", [True, False])
def test_send(from_central: bool, every: bool) -> None:
    """Values are sent whole or not at all, and the link goes on."""
    values = [bytes([n]) * 300 for n in range(12)]

    async def send(pair: Pair, strike: Strike) -> None:
        ours, theirs = await pair.link()
        sender, receiver = (ours, theirs) if from_central else (theirs, ours)
        with strike.cancelling():
            for value in values:
                await sender.send(value)
        await sender.send(b"last")
        received = []
        with trio.fail_after(PATIENCE):
            while (value := await receiver.receive()) != b"last":
                received.append(value)
        assert received == values[: len(received)]
        assert strike.struck or received == values
        await ours.aclose()
        await theirs.aclose()

    cancelled_everywhere(f"hci, send, {from_central=}", send, every)


def test_receive(every: bool) -> None:
    """Nothing is lost."""
    values = [bytes([n]) * 100 for n in range(20)]

    async def receive(pair: Pair, strike: Strike) -> None:
        ours, theirs = await pair.link()

        async def send() -> None:
            for value in values:
                await theirs.send(value)
                await trio.sleep(0.01)

        received = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            with strike.cancelling():
                while len(received) < len(values):
                    received.append(await ours.receive())
        with trio.fail_after(PATIENCE):
            while len(received) < len(values):
                received.append(await ours.receive())
        assert received == values
        await ours.aclose()
        await theirs.aclose()

    cancelled_everywhere("hci, receive", receive, every)


@pytest.mark.parametrize("by_central", [True, False])
def test_aclose(by_central: bool, every: bool) -> None:
    """A goodbye is a goodbye, also when it is cancelled."""

    async def close(pair: Pair, strike: Strike) -> None:
        ours, theirs = await pair.link()
        closing, other = (ours, theirs) if by_central else (theirs, ours)
        for _ in range(8):
            await closing.send(bytes(400))  # it waits until these have left
        with strike.cancelling():
            await closing.aclose()
        assert not (pair.ours if by_central else pair.theirs).connected_peers
        with pytest.raises(LinkLost):
            await closing.send(b"x")
        await other.aclose()

    cancelled_everywhere(f"hci, aclose, {by_central=}", close, every)


def test_everything_that_is_switched_on_and_off(every: bool) -> None:
    async def switch(pair: Pair, strike: Strike) -> None:
        await pair.link()  # nobody closes it but `stop`
        with strike.cancelling():
            for _ in range(2):
                await pair.ours.stop_scanning()
                await pair.ours.stop_advertising()
                await pair.ours.start_advertising("name")
                await pair.ours.start_scanning()
            await pair.ours.stop()
        await pair.ours.stop()
        assert not pair.ours.state

    cancelled_everywhere("hci, switches", switch, every)


@pytest.mark.parametrize("unplugged", [False, True])
def test_enter_start_and_leave(unplugged: bool, every: bool) -> None:
    """With a link on which a task is sending, which the driver has to end."""

    async def scenario(strike: Strike) -> None:
        async with a_pair() as pair:
            with strike.cancelling():
                try:
                    async with pair.ours, trio.open_nursery() as nursery:
                        await pair.start(pair.ours)
                        ours = await (pair.link_from_there() if unplugged else pair.link_from_here())
                        nursery.start_soon(flood, ours)
                        await trio.sleep(0.01)
                        if unplugged:
                            assert pair.ours.address is not None
                            pair.radio.unplug(pair.ours.address)
                            await trio.sleep_forever()
                        nursery.cancel_scope.cancel()
                except* BLEError:
                    pass
            assert pair.radio.addresses == [pair.theirs.address]
            assert pair.ours.establishing.borrowed_tokens == 0
            await until(lambda: not pair.theirs.connected_peers)  # its supervision timeout at the latest
            while pair.theirs.accepted.statistics().current_buffer_used:
                await (await pair.theirs.accepted.receive()).aclose()
            async with pair.ours:
                await pair.start(pair.ours)
                await pair.works()

    interrupt(f"hci, enter and leave, {unplugged=}", scenario, every=every)


async def flood(link: BLELink) -> None:
    while True:
        await link.send(bytes(400))


def test_two_connects_at_once_of_which_one_waits_for_its_turn(every: bool) -> None:
    async def connect(pair: Pair, strike: Strike) -> None:
        address = await pair.sighted()
        await pair.theirs.stop_advertising()
        with strike.cancelling(), trio.move_on_after(1):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pair.ours.connect, address)
                nursery.start_soon(pair.ours.connect, address)
        await pair.theirs.start_advertising()

    cancelled_everywhere("hci, connects that take turns", connect, every)


def test_leaving_while_a_dial_is_under_way(every: bool) -> None:
    """The block is cancelled, and what ends its driver is."""

    async def scenario(strike: Strike) -> None:
        async with a_pair() as pair:
            with strike.cancelling():
                async with trio.open_nursery() as nursery, pair.ours:
                    await pair.start(pair.ours)
                    address = await pair.sighted()
                    await pair.theirs.stop_advertising()
                    nursery.start_soon(keep_dialling, pair.ours, address)
                    with trio.CancelScope(
                        shield=True
                    ):  # whoever has not begun when the driver is left has a bug
                        await until(lambda: pair.ours.establishing.borrowed_tokens)
                    await trio.sleep(1)
            assert pair.radio.addresses == [pair.theirs.address]
            assert pair.ours.establishing.borrowed_tokens == 0
            await pair.theirs.start_advertising()
            async with pair.ours:
                await pair.start(pair.ours)
                await pair.works()

    interrupt("hci, leave while dialling", scenario, every=every)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("steps", [2, 3, 4])
def test_leaving_when_a_connect_has_just_begun(seed: int, steps: int) -> None:
    """A dial that has not come to the controller yet does not begin any more. Who is first is chance."""

    async def scenario() -> None:
        async with a_pair() as pair:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery, pair.ours:
                    await pair.start(pair.ours)
                    address = await pair.sighted()
                    await pair.theirs.stop_advertising()
                    nursery.start_soon(keep_dialling, pair.ours, address)
                    for _ in range(steps):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
            assert not pair.radio.dialling

    run_in_virtual_time(scenario, seed=seed)


def test_leaving_a_controller_that_does_not_answer_any_more() -> None:
    """It is asked once, not once for each goodbye."""
    took = 0.0

    async def scenario() -> None:
        nonlocal took
        async with a_pair() as pair:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery, pair.ours:
                    await pair.start(pair.ours)
                    address = await pair.sighted()
                    await pair.ours.stop_advertising()
                    await pair.theirs.stop_advertising()
                    nursery.start_soon(keep_dialling, pair.ours, address)
                    await trio.sleep(1)
                    assert pair.radio.dialling
                    for controller in pair.radio.controllers:
                        controller.on_packet = lambda _packet: None  # type: ignore[method-assign]
                    left = trio.current_time()
                    scope.cancel()
            took = trio.current_time() - left

    run_in_virtual_time(scenario)
    assert took == pytest.approx(COMMAND_TIMEOUT)


async def keep_dialling(driver: BLEDriverInterface, address: str) -> None:
    """Until the driver has been left, whatever is cancelled."""
    with trio.CancelScope(shield=True), trio.fail_after(PATIENCE), suppress(BLEError):
        await driver.connect(address)


def test_a_peripheral_that_sends_before_its_central_has_subscribed(every: bool) -> None:
    async def send(pair: Pair, strike: Strike) -> None:
        address = await pair.sighted()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair.ours.connect, address)
            with strike.cancelling():
                theirs = await pair.theirs.accepted.receive()
                await theirs.send(b"too early")
        for driver in (pair.ours, pair.theirs):
            await driver.stop()
        await pair.start(pair.theirs)

    cancelled_everywhere("hci, send before the subscription", send, every)


def test_the_asyncio_loop(every: bool) -> None:
    async def scenario(strike: Strike) -> None:
        with strike.cancelling():
            async with open_asyncio_loop() as loop:
                await loop.run_aio_coroutine(asyncio.sleep(0.1))
                async with open_asyncio_loop() as same:
                    assert same is loop
                    future: asyncio.Future[int] = asyncio.Future()
                    loop.call_later(0.1, lambda: future.done() or future.set_result(1))
                    assert await loop.run_aio_future(future) == 1
        async with open_asyncio_loop() as loop:
            await loop.run_aio_coroutine(asyncio.sleep(0.1))

    interrupt("the asyncio loop", scenario, every=every)


def test_a_host_on_an_ether(every: bool) -> None:
    commands = 2 * PACKETS_A_TURN  # so that others get their turn in between
    answer_length = (
        13  # Command Complete with an address (Core Specification, Vol 4 Part E, 7.7.14 and 7.4.6)
    )

    async def scenario(strike: Strike) -> None:
        files = len(os.listdir("/proc/self/fd"))
        radio = VirtualRadio()
        here, there = map(trio.SocketStream, trio.socket.socketpair())
        async with open_asyncio_loop(), trio.open_nursery() as nursery:

            async def serve() -> None:
                with strike.cancelling():
                    await serve_host(radio, there)

            nursery.start_soon(serve)
            answers = b""
            async with here:
                with suppress(trio.BrokenResourceError), trio.fail_after(PATIENCE):
                    await here.send_all(bytes(hci.HCI_Read_BD_ADDR_Command()) * commands)
                    while len(answers) < commands * answer_length:
                        if not (more := await here.receive_some()):
                            break
                        answers += more
            assert strike.struck or len(answers) == commands * answer_length
        assert not radio.controllers
        assert len(os.listdir("/proc/self/fd")) == files

    interrupt("hci, a host on an ether", scenario, every=every)


# --- over TCP, in real time ---


async def until_over(driver: BLEDriverInterface) -> None:
    """A driver's life, until its stack fails or all is said."""
    with suppress(BLEError):
        try:
            async with driver:
                driver.set_identity(identity_of(1))
                await driver.start(SERVICE_UUID, RX_UUID, TX_UUID, IDENTITY_UUID)
                await driver.start_advertising()
                await trio.sleep(0.05)
        except* BLEError:
            pass


@pytest.mark.parametrize("interrupted", ["driver", "ether"])
def test_a_driver_on_an_ether(interrupted: str, every: bool) -> None:
    if not every:
        pytest.skip(TAKES_LONG)

    async def scenario(strike: Strike) -> None:
        with trio.fail_after(PATIENCE):
            files = len(os.listdir("/proc/self/fd"))
            async with AsyncExitStack() as stack:
                scopes = {"driver": nullcontext(), "ether": nullcontext()}
                scopes[interrupted] = strike.cancelling()
                nursery = await stack.enter_async_context(trio.open_nursery())
                radio = VirtualRadio()

                async def ether(task_status: trio.TaskStatus[int]) -> None:
                    with scopes["ether"]:
                        await serve_ether(radio=radio, task_status=task_status)

                port = 1  # where nobody listens
                with suppress(RuntimeError):  # cancelled before it has started
                    port = await nursery.start(ether)
                with scopes["driver"]:
                    await until_over(BumbleDriver(f"tcp-client:127.0.0.1:{port}"))
                while radio.addresses:
                    await trio.sleep(0.001)
                nursery.cancel_scope.cancel()
            assert len(os.listdir("/proc/self/fd")) == files

    report = at_every_checkpoint(scenario, every=False, run=trio.run)
    assert report.interrupted
    note(f"tcp, {interrupted}", report)
