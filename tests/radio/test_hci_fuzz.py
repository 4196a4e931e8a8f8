"""The HCI driver under raw PDUs of a stranger, while it serves somebody else, and of whom it has dialled."""

from __future__ import annotations

import logging
from contextlib import suppress
from random import Random

import pytest
import trio
import trio.lowlevel
from bumble import att, hci

from rns_ble.drivers.base import BLEError
from rns_ble.drivers.hci.advertising_data import uuid_on_air
from rns_ble.protocol.gatt import IDENTITY_UUID, RX_UUID, TX_UUID

pytestmark = pytest.mark.virtual_time

PDUS = 150
"""For each of the stranger's connections."""
CONNECTIONS = 12

CIDS = (4, 4, 4, 4, 4, 4, 5, 6, 1, 0x3A, 0x40, 0x41, 0xFFFF)
"""ATT most of the time; signalling, pairing, and channels that do not exist."""


CODES = (1, 2, 3, 4, 6, 8, 0x0A, 0x0C, 0x0E, 0x10, 0x12, 0x16, 0x18, 0x1B, 0x1D, 0x1E, 0x20, 0x23, 0x52, 0xD2)
"""Of ATT: each request, command, answer and notification there is."""


class Pdus:
    """Requests, commands, answers nobody has asked for, and noise."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)

    def one(self, handles: int) -> tuple[int, bytes]:
        random = self.random
        cid = random.choice(CIDS)
        if cid != 4 or random.random() < 0.2:
            return cid, random.randbytes(random.choice((0, 1, 2, 4, 8, 23, 65, 200, 600)))
        handle = random.choice((0, 1, random.randrange(handles), random.randrange(65536)))
        code = random.choice((*CODES, random.randrange(256)))
        value = random.randbytes(random.choice((0, 1, 2, 15, 16, 17, 20, 100, 511, 512)))
        return cid, bytes([code]) + handle.to_bytes(2, "little") + value


@pytest.mark.parametrize("seed", [1, 6])
async def test_a_driver_under_raw_pdus_serves_its_other_link(bench, caplog, seed: int) -> None:
    pdus = Pdus(seed)
    taken = []

    async def take(driver) -> None:
        """As a mesh does: receive, and close."""
        async for link in driver.accepted:
            taken.append(link)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(drain, link)
                await trio.sleep(pdus.random.choice((0, 1, 5)))
                await link.aclose()
                nursery.cancel_scope.cancel()

    async def drain(link) -> None:
        async for _value in link:
            await trio.lowlevel.checkpoint()

    async with (
        bench.drivers(2) as (central, peripheral),
        bench.stranger() as stranger,
        trio.open_nursery() as nursery,
    ):
        ours, theirs = await bench.link(central, peripheral)
        nursery.start_soon(take, peripheral)
        for n in range(CONNECTIONS):
            connection = None
            with trio.move_on_after(10), suppress(hci.HCI_Error):  # the last one has not ended yet
                connection = await stranger.connect(peripheral)
            if connection is None:
                await trio.sleep(5)
                continue
            for k in range(PDUS):
                try:
                    connection.send_l2cap_pdu(*pdus.one(40))
                except Exception:  # noqa: BLE001  (the stranger's own stack has lost the connection)
                    break
                if k % 7 == 0:
                    await trio.sleep(pdus.random.choice((0.001, 0.02)))
            value = bytes([n]) * 100
            await ours.send(value)
            await theirs.send(value)
            with trio.fail_after(5):
                assert await theirs.receive() == value
                assert await ours.receive() == value
            if pdus.random.random() < 0.5:
                with trio.move_on_after(5):
                    with suppress(hci.HCI_Error):  # it has ended by itself
                        await stranger.run(connection.disconnect)
            await trio.sleep(pdus.random.choice((0, 1, 6)))
        assert len(taken) > CONNECTIONS // 2
        nursery.cancel_scope.cancel()
    bugs = [r for r in caplog.records if r.name.startswith("rns_ble") and r.levelno >= logging.WARNING]
    assert not bugs


# --- as central ---

ATTEMPTS = 60

REQUESTS_OF_A_HANDSHAKE = 9
"""About: MTU, service, characteristics (some), descriptor, Identity, subscription, our identity."""

ANSWERS = {0x02: 0x03, 0x04: 0x05, 0x06: 0x07, 0x08: 0x09, 0x0A: 0x0B, 0x12: 0x13}
"""Of ATT: request → response."""


class Server:
    """Answers some of the requests as a peer does, and then as it likes."""

    def __init__(self, stranger, nursery: trio.Nursery, seed: int) -> None:
        self.random = Random(seed)
        self.stranger = stranger
        self.nursery = nursery
        self.honest_for = 0
        self.lied = 0
        stranger.device.l2cap_channel_manager.register_fixed_channel(att.ATT_CID, self.on_pdu)

    def on_pdu(self, handle: int, pdu: bytes) -> None:
        self.honest_for -= 1
        if self.honest_for >= 0 or pdu[0] not in ANSWERS:
            self.stranger.device.on_gatt_pdu(handle, pdu)
            return
        self.lied += 1
        connection = self.stranger.device.connections[handle]
        match self.random.randrange(8):
            case 0:
                pass  # silence
            case 1:
                self.nursery.start_soon(self.hang_up, connection)
            case _:
                for _ in range(self.random.choice((1, 1, 1, 2))):
                    connection.send_l2cap_pdu(att.ATT_CID, self.answer(pdu))
                if self.random.random() < 0.1:
                    self.nursery.start_soon(self.hang_up, connection)

    async def hang_up(self, connection) -> None:
        with suppress(hci.HCI_Error):  # the other side was faster
            await self.stranger.run(connection.disconnect)

    def handle(self) -> bytes:
        random = self.random
        return random.choice((0, 1, random.randrange(40), 0xFFFE, 0xFFFF)).to_bytes(2, "little")

    def answer(self, pdu: bytes) -> bytes:
        random = self.random
        noise = random.randbytes(random.choice((0, 1, 2, 3, 4, 7, 16, 19, 22, 200, 600)))
        code = ANSWERS[pdu[0]] if random.random() < 0.8 else random.choice((*CODES, random.randrange(256)))
        kind = random.random()
        if kind < 0.2:
            return bytes([0x01, pdu[0]]) + pdu[1:3].ljust(2, b"\0") + bytes([random.randrange(256)])
        if kind < 0.3:
            return bytes([random.choice((code, 0x01))]) + noise[:3]  # too short, often
        if kind < 0.4:
            return bytes([code]) + noise
        entries = [self.entry(code) for _ in range(random.choice((0, 1, 1, 2, 3, 9)))]
        if code == 0x05:
            return bytes([code, random.choice((0, 1, 1, 2, 2, 255))]) + b"".join(entries)
        if code == 0x09:
            return bytes([code, random.choice((0, 1, 2, 3, 7, 21, 21, 21, 255))]) + b"".join(entries)
        return bytes([code]) + (b"".join(entries) or noise)

    def entry(self, code: int) -> bytes:
        """Of a list that tells attributes."""
        random = self.random
        if code == 0x09:
            uuid = uuid_on_air(random.choice((RX_UUID, TX_UUID, IDENTITY_UUID)))
            return self.handle() + random.randbytes(1) + self.handle() + uuid
        if code == 0x05:
            return self.handle() + random.choice((b"\x02\x29", b"\x03\x28", random.randbytes(16)))
        return self.handle() + self.handle()


@pytest.mark.parametrize("seed", [1, 2])
async def test_whoever_is_dialled_a_connect_ends_in_an_error_of_ours(
    bench, make_service, caplog, seed: int
) -> None:
    async def works() -> None:
        ours, theirs = await bench.link(central, honest)
        await ours.send(b"works")
        with trio.fail_after(5):
            assert await theirs.receive() == b"works"
        await ours.aclose()
        await theirs.aclose()

    ends = dict.fromkeys(("a link", "an error", "time is up"), 0)
    async with (
        bench.drivers(2) as (central, honest),
        bench.stranger(make_service()) as stranger,
        trio.open_nursery() as nursery,
    ):
        await stranger.advertise()
        address = await bench.sight(central, stranger.address)
        server = Server(stranger, nursery, seed)
        for n in range(ATTEMPTS):
            server.honest_for = n % REQUESTS_OF_A_HANDSHAKE
            end = "time is up"
            try:
                with trio.move_on_after(10):
                    link = await central.connect(address)
                    end = "a link"
                    await link.aclose()
            except BLEError:
                end = "an error"
            ends[end] += 1
            assert central.establishing.borrowed_tokens == 0
            with trio.fail_after(30):
                while central.connected_peers or bench.radio.connections:
                    await trio.sleep(0.1)
            if n % 10 == 9:
                await works()
        nursery.cancel_scope.cancel()
    assert server.lied > ATTEMPTS // 2
    assert all(ends.values()), ends
    bugs = [r for r in caplog.records if r.name.startswith("rns_ble") and r.levelno >= logging.WARNING]
    assert not bugs
