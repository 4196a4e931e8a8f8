"""The ether: virtual controllers over TCP, in real time; nothing here depends on how fast it is."""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
from bumble import hci
from hypothesis import given
from hypothesis import strategies as st

import rns_ble.drivers.hci.ether
from rns_ble.drivers.base import AdapterUnavailable, LinkLost
from rns_ble.drivers.hci import BumbleDriver, VirtualRadio, serve_ether
from rns_ble.drivers.hci.ether import H4Splitter

RESET = bytes(hci.HCI_Reset_Command())


@pytest.fixture
def radio() -> VirtualRadio:
    return VirtualRadio()


@asynccontextmanager
async def ether(radio: VirtualRadio) -> AsyncIterator[int]:
    """The port of an ether that is served."""
    async with trio.open_nursery() as nursery:

        async def serve(task_status: trio.TaskStatus[int]) -> None:
            await serve_ether(radio=radio, task_status=task_status)

        with trio.fail_after(60):
            yield await nursery.start(serve)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def nodes(bench, *ports: int) -> AsyncIterator[list[BumbleDriver]]:
    """A driver for each port, started."""
    async with AsyncExitStack() as stack:
        drivers = []
        for index, port in enumerate(ports):
            driver = await stack.enter_async_context(BumbleDriver(f"tcp-client:127.0.0.1:{port}"))
            await bench.start(driver, bytes([index]) * 16)
            drivers.append(driver)
        yield drivers


@dataclass
class Wire:
    """Goes between a driver and the ether, and can be cut, as when the node is killed, or held."""

    port: int = 0
    flowing: trio.Event = field(default_factory=trio.Event)
    _cut: trio.CancelScope = field(default_factory=trio.CancelScope)

    def cut(self) -> None:
        self._cut.cancel()

    async def serve(self, to: int, task_status: trio.TaskStatus[None]) -> None:
        self.flowing.set()
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            self.port = listener.socket.getsockname()[1]
            task_status.started()
            with self._cut:
                async with (
                    listener,
                    await listener.accept() as near,
                    await trio.open_tcp_stream("127.0.0.1", to) as far,
                ):
                    nursery.start_soon(self._carry, near, far)
                    nursery.start_soon(self._carry, far, near)
                    await trio.sleep_forever()

    async def _carry(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        try:
            async for data in source:
                await self.flowing.wait()
                await sink.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        self.cut()


@asynccontextmanager
async def wire(to: int) -> AsyncIterator[Wire]:
    between = Wire()
    async with trio.open_nursery() as nursery:
        await nursery.start(between.serve, to)
        yield between
        nursery.cancel_scope.cancel()


async def test_values_go_between_nodes(bench, radio) -> None:
    async with ether(radio) as port, nodes(bench, port, port, port) as (one, other, third):
        assert sorted(radio.addresses) == sorted(driver.address for driver in (one, other, third))
        for central, peripheral in ((one, other), (third, other)):
            ends = await bench.link(central, peripheral)
            for sender, receiver in (ends, ends[::-1]):
                async with trio.open_nursery() as nursery:

                    @nursery.start_soon
                    async def send(sender=sender) -> None:
                        for number in range(100):
                            await sender.send(bytes([number]) * sender.value_limit)

                    values = [await receiver.receive() for _ in range(100)]
                assert values == [bytes([number]) * sender.value_limit for number in range(100)]
        assert len(radio.connections) == 2


async def test_leaving_takes_the_controller_from_the_air_at_once(bench, radio) -> None:
    async with ether(radio) as port, nodes(bench, port) as (stays,):
        async with nodes(bench, port) as (leaves,):
            ours, _ = await bench.link(leaves, stays)
        assert ours.live is False
        with trio.fail_after(5):
            while radio.addresses != [stays.address]:
                await trio.sleep(0.01)
        assert radio.connections == []


async def test_a_killed_node_is_lost_to_its_peers_and_to_itself(bench, radio) -> None:
    async with ether(radio) as port, wire(port) as between, nodes(bench, port) as (peer,):
        links = []

        async def node() -> None:
            async with nodes(bench, between.port) as (killed,):
                links.extend(await bench.link(killed, peer))
                between.cut()
                await trio.sleep_forever()

        with pytest.raises(AdapterUnavailable, match="is gone"):
            await node()
        with pytest.raises(LinkLost):
            await links[0].send(b"x")
        assert await bench.drained(links[1]) == []
        assert radio.addresses == [peer.address]
        # It comes back.
        async with nodes(bench, port) as (again,):
            await bench.link(again, peer)


async def test_without_the_ether_no_node_has_an_adapter(bench, radio) -> None:
    failed = []

    async def live(port: int, task_status: trio.TaskStatus[None]) -> None:
        async with nodes(bench, port):
            task_status.started()
            await trio.sleep_forever()

    async def node(port: int, task_status: trio.TaskStatus[None]) -> None:
        with pytest.raises(AdapterUnavailable, match=f"tcp-client:127.0.0.1:{port} is gone"):
            await live(port, task_status)
        failed.append(port)

    async with trio.open_nursery() as nursery, ether(radio) as port:
        for _ in range(2):
            await nursery.start(node, port)
    assert failed == [port] * 2
    assert radio.addresses == []


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x04\x0e\x04\x01\x03\x0c\x00",  # an event, from a host
        b"\x02\x01\x00\xfc\x00" + bytes(252),  # data longer than the controller takes
        b"\x02\x01\x00\xff\xff" + bytes(65535),
        b"\x01\x0d\x20\x00",  # LE Create Connection without its parameters
        b"\x01\x05\x20\x03abc",  # LE Set Random Address with three bytes
        b"\x01\x06\x20\x01\xff",  # LE Set Advertising Parameters with one byte
        RESET * 1000,
        random.Random(1).randbytes(10_000),
        bytes([1]) + random.Random(2).randbytes(10_000),
    ],
    ids=range(11),
)
async def test_what_one_client_sends_costs_its_own_connection_only(bench, radio, garbage, caplog) -> None:
    async with ether(radio) as port, nodes(bench, port, port) as (one, other):
        ends = await bench.link(one, other)
        stranger = await trio.open_tcp_stream("127.0.0.1", port)
        async with stranger:
            await stranger.send_all(RESET + garbage)
            with trio.move_on_after(0.2):
                async for _ in stranger:
                    pass
            for sender, receiver in (ends, ends[::-1]):
                await sender.send(b"still here")
                assert await receiver.receive() == b"still here"
        with trio.fail_after(5):
            while len(radio.addresses) > 2:
                await trio.sleep(0.01)
    assert not [record for record in caplog.records if record.exc_info and record.levelno > logging.DEBUG]


async def test_clients_that_come_and_go_leave_nothing(radio) -> None:
    async with ether(radio) as port:
        for data in (b"", RESET, RESET[:2]):
            for _ in range(10):
                stream = await trio.open_tcp_stream("127.0.0.1", port)
                if data:
                    await stream.send_all(data)
                await trio.aclose_forcefully(stream)
        with trio.fail_after(5):
            while radio.addresses:
                await trio.sleep(0.01)


async def test_a_host_that_does_not_read_slows_its_senders_down(bench, radio) -> None:
    async with (
        ether(radio) as port,
        wire(port) as between,
        nodes(bench, port, between.port) as (sender, slow),
    ):
        for driver in (sender, slow):
            await driver.stop_scanning()
        await slow.start_scanning()
        await sender.start_scanning()
        ours, theirs = await bench.link(sender, slow)
        for driver in (sender, slow):
            await driver.stop_scanning()
        between.flowing = trio.Event()
        sent = 0
        with trio.move_on_after(2):
            while True:
                await ours.send(sent.to_bytes(4, "big") * 127)
                sent += 1
        # What sockets and the ether's own buffer hold.
        assert sent > 100
        (controller,) = (c for c in radio.controllers if c.air_address == slow.address)
        assert controller.stalled
        assert len(controller.hci_sink._waiting) < 2 * 64 * 1024
        between.flowing.set()
        # All of it comes at once now, and is handed over as fast as it is received.
        for number in range(sent):
            assert await theirs.receive() == number.to_bytes(4, "big") * 127
        assert theirs.values_dropped == 0
        assert not controller.stalled


async def test_a_host_that_reads_nothing_at_all_is_dropped(radio, monkeypatch, caplog) -> None:
    monkeypatch.setattr(rns_ble.drivers.hci.ether, "DROP_BYTES", 16 * 1024)
    async with ether(radio) as port:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
            with pytest.raises(trio.BrokenResourceError):
                await stream.send_all(bytes(hci.HCI_Read_BD_ADDR_Command()) * 1_000_000)
        assert radio.addresses == []
    assert "does not read" in caplog.text


async def test_a_port_that_is_taken(radio) -> None:
    async with ether(radio) as port:
        with pytest.raises(OSError, match="in use"):
            await serve_ether("127.0.0.1", port)


async def test_several_ethers_are_several_airs(bench) -> None:
    async with (
        ether(VirtualRadio()) as port,
        ether(VirtualRadio()) as elsewhere,
        nodes(bench, port, elsewhere) as (one, _),
    ):
        with trio.move_on_after(0.5) as scope:
            await one.discovered.receive()
        assert scope.cancelled_caught


# --- HCI packets in a stream of bytes ---

PACKETS = st.one_of(
    st.binary(max_size=255).map(lambda body: b"\x01\x03\x0c" + bytes([len(body)]) + body),
    st.binary(max_size=300).map(lambda body: b"\x02\x01\x20" + len(body).to_bytes(2, "little") + body),
)


@given(st.lists(PACKETS, max_size=10), st.lists(st.integers(0, 3000), max_size=20))
def test_packets_are_found_however_the_bytes_come(packets: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(packets)
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    splitter = H4Splitter()
    found = []
    for start, end in itertools.pairwise(edges):
        found += splitter.feed(stream[start:end])
    assert found == packets


@given(st.integers(0, 255).filter(lambda kind: kind not in (1, 2)))
def test_a_packet_type_that_no_host_sends_is_an_error(kind: int) -> None:
    splitter = H4Splitter()
    assert splitter.feed(RESET[:3]) == []
    with pytest.raises(ValueError, match=f"packet type {kind} "):
        splitter.feed(RESET[3:] + bytes([kind]))
