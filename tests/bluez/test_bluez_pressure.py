"""What a busy life does to the BlueZ driver: cancellations, rivals, several adapters at once."""

from __future__ import annotations

import logging
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress

import pytest
import trio

from rns_ble.drivers.base import BLELink, LinkLost, PeerUnreachable
from rns_ble.drivers.bluez import BleakDriver
from rns_ble.protocol.gatt import IDENTITY_LENGTH
from tests.bluez import census, laboratory
from tests.bluez.test_bluez_faults import link, sighted, start
from tests.bluez.test_bluez_mesh import complete, exchange, node
from tests.nodes import Node, identity_of, running, until

CANCELLED = 200
"""Connects, among all centrals."""

LONGEST = 1.0
"""Seconds: a connect and its handshake take about half of it."""

FLOODED = 12.0
"""Seconds, with a look at bluetoothd whose answer is waited for for a third of it."""


async def answer(driver: BleakDriver) -> None:
    """Whoever connects gets back what it sends, but for its identity."""

    async def serve(link: BLELink) -> None:
        with suppress(LinkLost):
            async for value in link:
                if len(value) != IDENTITY_LENGTH:
                    await link.send(value)
        await link.aclose()

    async with trio.open_nursery() as nursery:
        async for accepted in driver.accepted:
            nursery.start_soon(serve, accepted)


async def connect_and_cancel(
    driver: BleakDriver, address: str, moments: list[float], seen: Counter[str]
) -> None:
    for moment in moments:
        link: BLELink | None = None
        with trio.move_on_after(moment):
            try:
                link = await driver.connect(address)
                await trio.sleep_forever()
            except PeerUnreachable:
                seen["failed"] += 1
            finally:
                if link is not None:
                    seen["linked"] += 1
                    await link.aclose()
        seen["made"] += 1
        assert driver.establishing.borrowed_tokens == 0


async def test_connects_that_are_cancelled_at_any_moment_leave_nothing(
    take_adapters: Callable[[int], list[str]], adapters: list[str], outages: list[str]
) -> None:
    take_adapters(2)
    random_moments = random.Random(CANCELLED)
    seen: Counter[str] = Counter()
    before = await census.at_rest()
    async with AsyncExitStack() as stack:
        peripheral, *centrals = [
            await stack.enter_async_context(BleakDriver(adapter)) for adapter in adapters[:4]
        ]
        await start(peripheral, b"p")
        address = peripheral.address
        assert address is not None
        for central in centrals:
            await start(central, b"c")
            await central.stop_advertising()
            await sighted(central, address)
        at_work = await census.take()
        began = trio.current_time()
        async with trio.open_nursery() as serving:
            serving.start_soon(answer, peripheral)
            async with trio.open_nursery() as nursery:
                for place, central in enumerate(centrals):
                    share = range(place, CANCELLED, len(centrals))
                    moments = [random_moments.uniform(0, LONGEST) for _ in share]
                    nursery.start_soon(connect_and_cancel, central, address, moments, seen)
            took = trio.current_time() - began
            for central in centrals:
                await sighted(central, address)
                with trio.fail_after(laboratory.PATIENCE):
                    ours = await central.connect(address)
                    for value in (b"out", bytes(500)):
                        await ours.send(value)
                        assert await ours.receive() == value
                    await ours.aclose()
            serving.cancel_scope.cancel()
        assert seen["made"] == CANCELLED
        await census.back_to(at_work, census.OURS)
    outages.append(
        f"{CANCELLED} connects cancelled within {took:.0f} s: {dict(seen)}; then one each succeeded"
    )
    await census.back_to(before)


async def test_another_program_that_scans_and_connects_on_the_same_adapter(
    adapters: list[str], caplog: pytest.LogCaptureFixture, outages: list[str]
) -> None:
    address = (await laboratory.adapters())[adapters[1]]["Address"]
    before = await census.at_rest()
    nodes = [node(index, adapter) for index, adapter in enumerate(adapters[:2], 1)]
    caplog.set_level(logging.DEBUG, "rns_ble.drivers.bluez")
    async with running(*nodes):
        command = [sys.executable, "-m", "tests.bluez.rival", adapters[0], address]
        async with trio.open_nursery() as nursery:
            said: list[str] = []

            async def run_rival() -> None:
                process = await trio.lowlevel.open_process(
                    command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
                )
                assert process.stdout is not None
                try:
                    async for chunk in process.stdout:
                        said.extend(bytes(chunk).decode().splitlines())
                finally:
                    process.kill()
                    with trio.CancelScope(shield=True):
                        await process.wait()
                        await process.stdout.aclose()

            nursery.start_soon(run_rival)
            await until(lambda: said.count("connected") >= 5)
            # In the midst of this packets get through, too.
            await until(lambda: complete(nodes))
            joined = sum(entry.startswith("joined") for entry in nodes[0].history)
            nursery.cancel_scope.cancel()
        for _ in range(3):
            await until(lambda: complete(nodes))
            with trio.move_on_after(20) as scope:  # BlueZ may just be ending what the other program has left
                await exchange(nodes, (100, 498))
            if not scope.cancelled_caught:
                break
        assert not scope.cancelled_caught
        assert all(n.up for n in nodes)
        assert all(n.history.count("up") == 1 for n in nodes)
    await census.back_to(before, census.AT_ONCE)
    in_progress = sum("InProgress" in record.getMessage() for record in caplog.records)
    failed = Counter(line for line in said if line.startswith("failed"))
    outages.append(
        f"another program on the same adapter: it connected {said.count('connected')} times and failed "
        f"{failed.total()} times {dict(failed)}; we were linked {joined} times meanwhile, and saw InProgress "
        f"{in_progress} times"
    )


async def test_another_program_that_connects_at_the_same_moment(
    adapters: list[str], caplog: pytest.LogCaptureFixture, outages: list[str]
) -> None:
    caplog.set_level(logging.DEBUG, "rns_ble.drivers.bluez")
    moments = random.Random(10)
    before = await census.at_rest()
    other_got: Counter[str] = Counter()
    async with BleakDriver(adapters[0]) as one, BleakDriver(adapters[1]) as peripheral:
        await start(one, b"a")
        await start(peripheral, b"p")
        address = peripheral.address
        assert address is not None

        async def connect_as_another() -> None:
            path = f"/org/bluez/{adapters[0]}/dev_{address.replace(':', '_')}"
            try:
                await laboratory.call_bluez(path, "org.bluez.Device1", "Connect")
                other_got["connected"] += 1
            except laboratory.LaboratoryError as error:
                other_got[str(error).partition(": ")[2]] += 1

        async with trio.open_nursery() as serving:
            serving.start_soon(answer, peripheral)
            linked = failed = 0
            while linked < 10:
                await sighted(one, address)
                with trio.fail_after(laboratory.PATIENCE):
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(connect_as_another)
                        await trio.sleep(moments.uniform(0, 0.3))
                        try:
                            ours = await one.connect(address)
                        except PeerUnreachable:  # the other's failure may end the connection that is shared
                            failed += 1
                            assert failed <= linked + 2
                            continue
                    await ours.send(b"through")
                    assert await ours.receive() == b"through"
                    linked += 1
                    await ours.aclose()
            serving.cancel_scope.cancel()
    await census.back_to(before, census.AT_ONCE)
    in_progress = sum("InProgress" in record.getMessage() for record in caplog.records)
    assert in_progress, "the two never met"
    outages.append(
        f"another program that connects at the same moment: it got {dict(other_got)}; we were linked "
        f"{linked} times, failed {failed} times and met InProgress {in_progress} times"
    )


async def test_two_drivers_in_two_threads(take_adapters: Callable[[int], list[str]]) -> None:
    names = take_adapters(3)
    before = await census.at_rest()
    ours = node(1, names[0])
    others = [node(2, names[1]), node(3, names[2])]
    ends: dict[int, Callable[[], None]] = {}

    async def run(other: Node) -> None:
        scope = trio.CancelScope()
        token = trio.lowlevel.current_trio_token()
        ends[other.index] = lambda: token.run_sync_soon(scope.cancel)
        with scope:
            async with running(other):
                await trio.sleep_forever()

    async def gets_through(other: Node, packet: bytes) -> None:
        assert ours.peers[other.identity].outgoing.put(packet)
        await until(lambda: (ours.identity, packet) in other.packets)
        assert other.peers[ours.identity].outgoing.put(packet)
        await until(lambda: (other.identity, packet) in ours.packets)

    async with running(ours), trio.open_nursery() as nursery:
        for other in others:
            nursery.start_soon(trio.to_thread.run_sync, trio.run, run, other)
        await until(lambda: {n.identity for n in others} <= ours.peers.keys())
        for other in others:
            await gets_through(other, b"both %d" % other.index)
        ends[2]()
        await until(lambda: not others[0].up and identity_of(2) not in ours.peers)
        await gets_through(others[1], b"the other one goes on")
        assert others[1].history.count("up") == 1
        ends[3]()
    await census.back_to(before, census.AT_ONCE)


async def test_a_bluetoothd_that_is_flooded_is_not_frozen(
    take_adapters: Callable[[int], list[str]], monkeypatch: pytest.MonkeyPatch, outages: list[str]
) -> None:
    """It does not come to answer anything while values go through it one way."""
    monkeypatch.setattr("rns_ble.drivers.bluez.driver.PING_INTERVAL", 0.2)
    monkeypatch.setattr("rns_ble.drivers.bluez.driver.PING_TIMEOUT", FLOODED / 3)
    received = 0
    async with AsyncExitStack() as stack:
        drivers = [await stack.enter_async_context(BleakDriver(name)) for name in take_adapters(2)]
        for driver, identity in zip(drivers, (b"p", b"c"), strict=True):
            await start(driver, identity)
        made, accepted = await link(drivers[1], drivers[0])

        async def flood() -> None:
            while True:
                await accepted.send(bytes(400))

        with trio.move_on_after(FLOODED):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(flood)
                async for _ in made:
                    received += 1
        assert received > 100
        await made.aclose()
        await accepted.aclose()
    outages.append(f"{received} values one way within {FLOODED:.0f} s")
