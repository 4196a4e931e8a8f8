"""What a central does on a new connection before its link carries values."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from rns_ble.drivers.base import ProtocolViolation
from rns_ble.drivers.hci.att_client import AttClient, AttRefusal
from rns_ble.protocol.gatt import IDENTITY_LENGTH

if TYPE_CHECKING:
    from rns_ble.drivers.hci.gatt_service import Uuids
    from rns_ble.drivers.hci.link import HciLink

ENABLE_NOTIFICATIONS: Final = b"\x01\x00"
"""Exactly these bytes: reticulum-kt ignores any other value."""


async def shake_hands(link: HciLink, uuids: Uuids, identity: bytes, att_mtu: int) -> None:
    """MTU exchange, discovery, identity, subscription, our identity: in this order.

    Raises `ProtocolViolation`, and `LinkLost` when the connection ends. Cancelled: the link is of no use.
    """
    client = link.client = AttClient(link.send_pdu)
    link.connection.on_att_mtu_update(await client.exchange_mtu(att_mtu))
    service = await client.find_service(uuids.service)
    if service is None:
        raise ProtocolViolation(f"{link.address} has no BLE Reticulum service, whatever it advertises")
    characteristics = await client.find_characteristics(*service)
    missing = {uuids.rx, uuids.tx, uuids.identity} - characteristics.keys()
    if missing:
        raise ProtocolViolation(f"{link.address} lacks {len(missing)} of RX, TX and Identity")
    rx, tx = characteristics[uuids.rx], characteristics[uuids.tx]
    configuration = await client.find_configuration(tx)
    if configuration is None:
        raise ProtocolViolation(f"{link.address}: its TX can't be subscribed to")
    async with _no_refusal(link, "the reading of its Identity"):
        peer_identity = await client.read(characteristics[uuids.identity].handle)
    if len(peer_identity) != IDENTITY_LENGTH:
        raise ProtocolViolation(f"{link.address}: its Identity has {len(peer_identity)} bytes, not 16")
    link.notified_handle = tx.handle  # before the subscription, for what comes right after it
    async with _no_refusal(link, "the subscription to its TX"):
        await client.write(configuration, ENABLE_NOTIFICATIONS)
    async with _no_refusal(link, "our identity"):
        await client.write(rx.handle, identity)
    link.client = None
    link.peer_identity = peer_identity
    link.value_handle = rx.handle


@asynccontextmanager
async def _no_refusal(link: HciLink, what: str) -> AsyncIterator[None]:
    try:
        yield
    except AttRefusal as error:
        # 0x05, 0x08 and 0x0F would have us pair, which no implementation of the protocol asks for.
        raise ProtocolViolation(f"{link.address} refuses {what}: {error}") from error
