"""Whole nodes and what befalls them: what is shown, who is online meanwhile, and that all is back by itself.

How long that took is printed at the end of the run.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from rns_ble.config import BLEConfig
from rns_ble.drivers.asyncio_loop import open_asyncio_loop
from rns_ble.drivers.bluez import BleakDriver
from rns_ble.drivers.bluez.advertiser import MANAGER, Advertisement, Advertiser
from rns_ble.drivers.bluez.bus import open_bus
from tests.bluez import census, laboratory
from tests.bluez.laboratory import Laboratory
from tests.bluez.test_bluez_mesh import complete, exchange, node
from tests.nodes import Node, identity_of, running, until

Step = Callable[[], Awaitable[None]]

SERVICE_OF_OTHERS = "0000180f-0000-1000-8000-00805f9b34fb"
"""What somebody else advertises; which does not matter."""


class Faults:
    """Breaks things for nodes, and sees to what they do."""

    def __init__(self, caplog: pytest.LogCaptureFixture, outages: list[str]) -> None:
        self._caplog = caplog
        self._outages = outages

    def _shown(self) -> list[str]:
        return [
            record.getMessage()
            for record in self._caplog.records
            if record.name.startswith("rns_ble") and record.levelno >= logging.WARNING
        ]

    async def see(
        self,
        fault: str,
        nodes: list[Node],
        hit: list[Node],
        breaking: Step,
        mending: Step | None = None,
        *,
        tries: int = 1,
        says: str = "",
    ) -> None:
        """Break something and mend it.

        `nodes`: linked with each other, and again afterwards. `hit`: those whose interface goes offline; the
        others' only loses its peers. `tries`: how often a node has tried in vain to come back before
        anything is mended. `mending`: None where nothing needs to be. `says`: what the one line that is shown
        has to match.
        """
        self._caplog.clear()
        marks = {n.index: len(n.history) for n in nodes}
        began = trio.current_time()

        def happened(n: Node, what: str) -> list[float]:
            told = zip(n.history[marks[n.index] :], n.times[marks[n.index] :], strict=True)
            return [at for entry, at in told if entry.startswith(what)]

        def broken() -> bool:
            if hit:
                return all(len(happened(n, "down")) >= tries for n in hit)
            return all(happened(n, "left") for n in nodes)

        await breaking()
        await until(broken)
        if mending is not None:
            assert not any(n.up or n.peers for n in hit)
            mended = trio.current_time()
            await mending()
        await until(lambda: all(n.up for n in nodes) and complete(nodes))
        gone = max(happened(n, "down" if hit else "left")[0] for n in hit or nodes)
        back = trio.current_time() - (gone if mending is None else mended)
        shown = self._shown()
        assert len(shown) == len(hit), shown  # one line for each
        assert len(set(shown)) == bool(hit), shown
        for line in shown:
            assert re.match(rf"offline: .*{says}", line), line
        said = shown[0] if shown else "nothing but that the peer has left"
        self._outages.append(
            f"fault: {fault}; shown: {said}; offline after {gone - began:.1f} s, "
            f"back {back:.1f} s after {'that' if mending is None else 'it was mended'}"
        )


@pytest.fixture
def faults(caplog: pytest.LogCaptureFixture, outages: list[str]) -> Faults:
    return Faults(caplog, outages)


@asynccontextmanager
async def at_work(*nodes: Node) -> AsyncIterator[list[Node]]:
    """Linked with each other; afterwards nothing is left of them anywhere."""
    before = await census.at_rest()
    async with running(*nodes):
        await until(lambda: complete(list(nodes)))
        yield list(nodes)
        await exchange(list(nodes), (100, 498))
    await census.back_to(before, census.AT_ONCE)


def pair(*adapters: str) -> tuple[Node, Node]:
    return node(1, adapters[0]), node(2, adapters[1])


# --- daemons ----------------------------------------------------------------------------------------------


def numbered(number: int) -> bytes:
    return number.to_bytes(4) + bytes(number % 251 for _ in range(396))


async def transfer(sender: Node, receiver: Node) -> None:
    """Packets without end, as fast as they go."""
    number = 0
    while True:
        peer = sender.peers.get(receiver.identity)
        if peer is not None and len(peer.outgoing) < 16 and peer.outgoing.put(numbered(number)):
            number += 1
        await trio.sleep(0.002)


async def test_bluetoothd_killed_in_the_middle_of_a_transfer(
    lab: Laboratory, adapters: list[str], faults: Faults
) -> None:
    async def start() -> None:
        lab.bluetoothd.start()

    async with at_work(*pair(*adapters)) as nodes:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(transfer, *nodes)
            await until(lambda: len(nodes[1].packets) > 100)
            await faults.see(
                "bluetoothd killed in a transfer, started again",
                nodes,
                nodes,
                lab.bluetoothd.kill,
                start,
                tries=3,
                says="systemctl start bluetooth",
            )
            already = len(nodes[1].packets)
            await until(lambda: len(nodes[1].packets) > already + 100)
            nursery.cancel_scope.cancel()
        received = [packet for _, packet in nodes[1].packets]
        numbers = [int.from_bytes(packet[:4]) for packet in received]
        assert received == [numbered(number) for number in numbers]
        assert numbers == sorted(set(numbers))
        peer = nodes[0].peers[nodes[1].identity]
        await until(lambda: not len(peer.outgoing))


async def test_bluetoothd_restarted_as_by_the_system(
    lab: Laboratory, adapters: list[str], faults: Faults
) -> None:
    async with at_work(*pair(*adapters)) as nodes:
        await faults.see("bluetoothd restarted", nodes, nodes, lab.restart_bluetoothd)


async def test_bluetoothd_frozen_during_a_connect(
    lab: Laboratory, adapters: list[str], faults: Faults
) -> None:
    async def freeze() -> None:
        lab.bluetoothd.freeze()

    async def thaw() -> None:
        lab.bluetoothd.thaw()

    async with at_work(*pair(*adapters)) as nodes:
        await lab.out_of_range(1)
        await until(lambda: not complete(nodes))
        await lab.in_range(1)
        await until(lambda: bool(nodes[0].mesh.admission.in_flight()))
        await faults.see(
            "bluetoothd frozen during a connect, thawed", nodes, nodes, freeze, thaw, says="frozen"
        )


async def test_dbus_daemon_restarted(lab: Laboratory, adapters: list[str], faults: Faults) -> None:
    async def kill() -> None:
        await lab.dbus_daemon.kill()
        await lab.bluetoothd.kill()

    async with at_work(*pair(*adapters)) as nodes:
        await faults.see(
            "dbus-daemon killed, started again with bluetoothd",
            nodes,
            nodes,
            kill,
            lab.restart_dbus_daemon,
            tries=2,
            says="D-Bus",
        )


# --- adapters ---------------------------------------------------------------------------------------------


async def test_powered_off(lab: Laboratory, adapters: list[str], faults: Faults) -> None:
    async def off() -> None:
        await laboratory.set_powered(adapters[0], False)

    async def on() -> None:
        assert not (await laboratory.adapters())[adapters[0]]["Powered"]
        await laboratory.set_powered(adapters[0], True)

    async with at_work(*pair(*adapters)) as nodes:
        await faults.see(
            "powered off, powered on",
            nodes,
            nodes[:1],
            off,
            on,
            tries=3,
            says=f"{adapters[0]} has been powered off",
        )


async def test_blocked_by_rfkill(lab: Laboratory, adapters: list[str], faults: Faults) -> None:
    async def block() -> None:
        lab.block(adapters[0])

    async def unblock() -> None:
        lab.block(adapters[0], False)

    async with at_work(*pair(*adapters)) as nodes:
        await faults.see(
            "blocked by rfkill, unblocked", nodes, nodes[:1], block, unblock, tries=3, says="rfkill unblock"
        )


async def test_unplugged(lab: Laboratory, adapters: list[str], faults: Faults) -> None:
    async with at_work(*pair(lab.address(0), adapters[1])) as nodes:
        await faults.see(
            "unplugged, plugged in again",
            nodes,
            nodes[:1],
            lambda: lab.unplug(0),
            lambda: lab.plug(0),
            tries=3,
            says=f"no adapter {lab.address(0)}",
        )


async def test_plugged_in_again_under_another_name(
    lab: Laboratory, adapters: list[str], faults: Faults
) -> None:
    async def unplug() -> None:
        await lab.unplug(2)
        await lab.unplug(0)

    async def plug() -> None:
        await lab.plug(2)
        await lab.plug(0)

    async with at_work(*pair(lab.address(0), lab.address(1))) as nodes:
        assert await lab.adapter(0) == adapters[0]
        await faults.see("unplugged, plugged in again as another hciN", nodes, nodes[:1], unplug, plug)
        assert await lab.adapter(0) != adapters[0]


async def take_every_advertisement(adapter: str, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
    """Somebody else advertises as often as the adapter can, until cancelled."""
    path = f"/org/bluez/{adapter}"
    with trio.CancelScope() as scope:
        async with open_asyncio_loop() as loop, open_bus(loop) as bus:
            for _ in range(await bus.get(path, MANAGER, "SupportedInstances")):
                await Advertiser(bus, path).show(Advertisement(SERVICE_OF_OTHERS, None, None))
            task_status.started(scope)
            await trio.sleep_forever()


async def test_no_advertisement_to_spare(
    adapters: list[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rns_ble.mesh.ADVERTISING_RETRY", 0.5)

    def advertising() -> bool:
        return nodes[0].mesh.status().advertising

    nodes = list(pair(*adapters))
    before = await census.at_rest()
    async with trio.open_nursery() as others:
        taken = await others.start(take_every_advertisement, adapters[0])
        async with running(*nodes):
            await until(lambda: complete(nodes))
            await exchange(nodes, (100, 498))
            await trio.sleep(2)  # for some more tries
            assert not advertising()
            taken.cancel()
            await until(advertising)
            await exchange(nodes, (100, 498))
            assert nodes[0].history == ["up", "joined a2"]
    await census.back_to(before, census.AT_ONCE)
    shown = [r for r in caplog.records if r.name.startswith("rns_ble") and r.levelno >= logging.WARNING]
    assert [record.levelname for record in shown] == ["WARNING"]
    assert re.search("no advertisement to spare.*enable_peripheral = no", shown[0].getMessage())


# --- peers ------------------------------------------------------------------------------------------------


async def test_a_peer_out_of_range(lab: Laboratory, adapters: list[str], faults: Faults) -> None:
    async with at_work(*pair(*adapters)) as nodes:
        await faults.see(
            "peer out of range, back in range",
            nodes,
            [],
            lambda: lab.out_of_range(1),
            lambda: lab.in_range(1),
        )


@asynccontextmanager
async def echo(adapter: str, index: int) -> AsyncIterator[trio.Process]:
    """A node in a process of its own, which is killed at the end of the block."""
    command = [sys.executable, "-m", "tests.bluez.echo", adapter, str(index)]
    process = await trio.lowlevel.open_process(command)
    try:
        yield process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def test_a_peers_process_killed_and_started_again(
    adapters: list[str], caplog: pytest.LogCaptureFixture, outages: list[str]
) -> None:
    there = identity_of(2)
    ours = Node(None, 1, BLEConfig(power_mode="aggressive"), BleakDriver(adapters[0]))

    async def echoes() -> None:
        for size in (1, 100, 498):
            assert ours.peers[there].outgoing.put(bytes(size))
            await until(lambda size=size: ours.packets[-1:] == [(there, bytes(size))])

    before = await census.at_rest()
    async with AsyncExitStack() as later, running(ours):
        async with echo(adapters[1], 2):
            await until(lambda: there in ours.peers)
            await echoes()
        gone = await until(lambda: not ours.peers)
        assert ours.up
        await later.enter_async_context(echo(adapters[1], 2))  # it outlives us
        back = await until(lambda: there in ours.peers)
        await echoes()
    await census.back_to(before, census.AT_ONCE)
    assert not [r for r in caplog.records if r.name.startswith("rns_ble") and r.levelno >= logging.WARNING]
    outages.append(
        "fault: the peer's process killed, started again; shown: nothing but that the peer has left; "
        f"offline after {gone:.1f} s, back {back:.1f} s after it was started"
    )
