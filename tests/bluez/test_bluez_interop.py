"""BlueZ and a stack that is not BlueZ: our own HCI driver, on one of the laboratory's controllers.

Between two BlueZ hosts the ATT MTU is never less than 48, for bluetoothd asks for that much itself. Here the
other side bounds it.
"""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from rns_ble.drivers.base import BLEDriverInterface, BLELink, Role
from rns_ble.drivers.bluez import BleakDriver
from rns_ble.drivers.hci import BumbleDriver
from rns_ble.protocol.fragmentation import Fragmenter, Reassembler
from rns_ble.protocol.gatt import IDENTITY_UUID, RX_UUID, SERVICE_UUID, TX_UUID
from tests.bluez.laboratory import PATIENCE, Laboratory

SIZES = (1, 11, 100, 500, 516)
"""Bytes: a keepalive's, one fragment at any ATT MTU, some, Reticulum's MTU, and that with an access code."""

ROUNDS = 3

IDENTITIES = {BleakDriver: b"BlueZ's identity", BumbleDriver: b"Bumble's identit"}


@asynccontextmanager
async def both(adapter: str, att_mtu: int) -> AsyncIterator[tuple[BleakDriver, BumbleDriver]]:
    """One driver of each kind, which advertise and scan."""
    with trio.fail_after(4 * PATIENCE):
        async with (
            BleakDriver(adapter) as bleak,
            BumbleDriver(os.environ["RNS_BLE_LAB_HCI"], att_mtu=att_mtu) as bumble,
        ):
            for driver in (bleak, bumble):
                driver.set_identity(IDENTITIES[type(driver)])
                await driver.start(SERVICE_UUID, RX_UUID, TX_UUID, IDENTITY_UUID)
                await driver.start_advertising()
                await driver.start_scanning()
            yield bleak, bumble


async def link(central: BLEDriverInterface, peripheral: BLEDriverInterface) -> tuple[BLELink, BLELink]:
    """The central's end and the peripheral's, after the handshake."""
    async for device in central.discovered:
        if device.address == peripheral.address:
            break
    ours = await central.connect(device.address)
    theirs = await peripheral.accepted.receive()
    theirs_of_ours = theirs.peer_identity or await theirs.receive()
    assert (theirs_of_ours, ours.peer_identity) == (IDENTITIES[type(central)], IDENTITIES[type(peripheral)])
    assert (ours.role, theirs.role) == (Role.CENTRAL, Role.PERIPHERAL)
    return ours, theirs


async def carry(source: BLELink, target: BLELink, packets: list[bytes]) -> list[bytes]:
    """What comes out of one end when packets go, in fragments, into the other."""
    arrived: list[bytes] = []
    reassembler = Reassembler()

    async def receive() -> None:
        while len(arrived) < len(packets):
            value = await target.receive()
            assert len(value) <= target.att_mtu - 3
            packet = reassembler.receive(value, trio.current_time())
            if packet is not None:
                arrived.append(packet)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        fragmenter = Fragmenter(source.value_limit)
        for packet in packets:
            for fragment in fragmenter.fragment(packet):
                await source.send(fragment)
    return arrived


@pytest.mark.parametrize("att_mtu", [23, 185, 517])
@pytest.mark.parametrize("dials", [BleakDriver, BumbleDriver])
async def test_packets_arrive_as_they_were_sent_both_ways(
    lab: Laboratory,
    adapters: list[str],
    dials: type[BLEDriverInterface],
    att_mtu: int,
) -> None:
    source = random.Random(att_mtu)
    packets = [source.randbytes(size) for _ in range(ROUNDS) for size in SIZES]
    async with both(adapters[0], att_mtu) as drivers:
        central, peripheral = drivers if dials is BleakDriver else reversed(drivers)
        ours, theirs = await link(central, peripheral)
        assert (ours.att_mtu, theirs.att_mtu) == (att_mtu, att_mtu)
        assert await carry(ours, theirs, packets) == packets
        assert await carry(theirs, ours, packets) == packets
        async with trio.open_nursery() as nursery:
            for one, other in (ours, theirs), (theirs, ours):
                nursery.start_soon(assert_carried, one, other, packets)
        await ours.aclose()
        assert [value async for value in theirs] == []


async def assert_carried(source: BLELink, target: BLELink, packets: list[bytes]) -> None:
    assert await carry(source, target, packets) == packets
