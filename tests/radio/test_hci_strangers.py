"""What peers of another make, and worse ones, may do to us."""

from __future__ import annotations

import pytest
import trio
import trio.lowlevel
from bumble import att
from bumble.pairing import PairingConfig, PairingDelegate

from rns_ble.drivers.hci.stack import SUPERVISION_TIMEOUT

pytestmark = pytest.mark.virtual_time

CENTRAL = bytes(range(16))
PERIPHERAL = bytes(range(16, 32))
IN_TIME = SUPERVISION_TIMEOUT / 100


async def test_pairing_is_taken_as_it_comes_and_changes_nothing(bench) -> None:
    async with bench.drivers(1) as (driver,), bench.stranger() as stranger:
        stranger.device.pairing_config_factory = lambda _connection: PairingConfig(
            sc=True, mitm=False, delegate=PairingDelegate(PairingDelegate.NO_OUTPUT_NO_INPUT)
        )
        connection = await stranger.connect(driver)
        link = await driver.accepted.receive()
        rx, *_ = await stranger.use(connection)
        with trio.fail_after(10):
            await stranger.run(stranger.device.pair, connection)
        await stranger.run(rx.write_value, b"after pairing")
        assert await link.receive() == b"after pairing"


async def test_long_writes_are_taken_although_we_never_send_any(bench) -> None:
    async with bench.drivers(1) as (driver,), bench.stranger() as stranger:
        connection = await stranger.connect(driver)
        link = await driver.accepted.receive()
        rx, *_ = await stranger.use(connection)
        await stranger.run(rx.write_value, bytes(range(200)), with_response=True)
        assert await link.receive() == bytes(range(200))


async def test_only_what_may_be_written_is_written(bench) -> None:
    async with bench.drivers(1) as (driver,), bench.stranger() as stranger:
        connection = await stranger.connect(driver)
        link = await driver.accepted.receive()
        rx, tx, identity = await stranger.use(connection)
        for attribute in (tx, identity):
            with pytest.raises(att.ATT_Error, match="WRITE_NOT_PERMITTED"):
                await stranger.run(attribute.write_value, b"mine", with_response=True)
            with pytest.raises(att.ATT_Error, match="WRITE_NOT_PERMITTED"):
                await stranger.run(attribute.write_value, bytes(100), with_response=True)
            await stranger.run(attribute.write_value, b"mine")
        for handle in range(1, identity.handle + 1):
            await stranger.run(connection.gatt_client.write_value, handle, b"\x02\x00")
        assert await stranger.run(identity.read_value) == CENTRAL
        assert await stranger.run(tx.read_value) == b""
        with pytest.raises(att.ATT_Error, match="READ_NOT_PERMITTED"):
            await stranger.run(rx.read_value)
        assert (await stranger.use(connection))[2].handle == identity.handle
        assert await link.receive() == b"\x02\x00"  # the one of them that went to RX


async def test_malformed_and_unexpected_pdus_change_nothing(bench) -> None:
    async with bench.drivers(1) as (driver,), bench.stranger() as stranger:
        connection = await stranger.connect(driver)
        link = await driver.accepted.receive()
        rx, *_ = await stranger.use(connection)
        for cid in (4, 5, 6, 0x3A, 0x40):
            for code in range(256):
                for tail in (b"", b"\x00", b"\x00\x00\x00", b"\xff" * 30):
                    connection.send_l2cap_pdu(cid, bytes([code]) + tail)
            connection.send_l2cap_pdu(cid, b"")
            await trio.sleep(1)
        await trio.sleep(60)
        if bench.radio.connections:
            await stranger.run(rx.write_value, b"still here")
            values = []
            while not values or values[-1] != b"still here":
                values.append(await link.receive())
        assert driver.state


async def test_notifications_that_are_not_of_tx_are_not_values(bench, make_service) -> None:
    async with bench.drivers(1) as (driver,), bench.stranger(make_service()) as peer:
        await peer.advertise()
        link = await driver.connect(await bench.sight(driver, peer.address))
        (connection,) = peer.device.connections.values()
        for handle in range(1000):
            for kind in (att.ATT_Handle_Value_Notification, att.ATT_Handle_Value_Indication):
                if handle != link.notified_handle or kind is att.ATT_Handle_Value_Indication:
                    connection.send_l2cap_pdu(att.ATT_CID, bytes(kind(handle, b"stray")))
                    await trio.lowlevel.checkpoint()
        await trio.sleep(1)
        pdu = att.ATT_Handle_Value_Notification(link.notified_handle, b"value")
        connection.send_l2cap_pdu(att.ATT_CID, bytes(pdu))
        assert await link.receive() == b"value"
        assert link.connection.gatt_client.cached_values == {}
