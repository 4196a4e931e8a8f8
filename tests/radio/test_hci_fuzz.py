"""The HCI driver under raw PDUs of a stranger, while it serves somebody else."""

from __future__ import annotations

import logging
from contextlib import suppress
from random import Random

import pytest
import trio
import trio.lowlevel
from bumble import hci

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
