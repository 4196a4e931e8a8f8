"""A driver on its own, as the mesh has it: opened, started, and its errors told to a person."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from rns_ble.cli.errors import CommandError
from rns_ble.config import BLEConfig
from rns_ble.drivers.base import BLEDevice, BLEDriverInterface, BLEError, BLELink
from rns_ble.interface import make_driver
from rns_ble.protocol.gatt import IDENTITY_LENGTH, IDENTITY_UUID, RX_UUID, TX_UUID
from rns_ble.protocol.values import ValueKind, classify

HANDSHAKE_TIMEOUT: Final = 30.0
"""Seconds for a central to tell its identity, as in the mesh."""


@asynccontextmanager
async def open_station(config: BLEConfig) -> AsyncIterator[BLEDriverInterface]:
    """The driver, open and started with an identity for this run only; neither scans nor advertises yet.

    Raises `CommandError`, also for what of Bluetooth fails inside the block. Cancelled: everything is closed.
    """
    try:
        async with make_driver(config) as driver:
            driver.set_identity(secrets.token_bytes(IDENTITY_LENGTH))
            await driver.start(config.service_uuid, RX_UUID, TX_UUID, IDENTITY_UUID)
            yield driver
    except* BLEError as group:
        raise CommandError(next(_leaves(group))) from group


def _leaves(group: BaseExceptionGroup[BLEError]) -> Iterator[str]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield str(error) or type(error).__name__


def command(config: BLEConfig, *action: str, here: bool = False) -> str:
    """`rns-ble radio` with this action, on the radio that `config` is for, as a person types it.

    `here`: on this machine; the other one's adapters may have other names.
    """
    words = ["rns-ble", "radio", *action]
    usual = BLEConfig()
    for key in ("driver", "transport", "service_uuid", *(["adapter"] if here else [])):
        if (value := getattr(config, key)) != getattr(usual, key):
            words += [f"--{key.replace('_', '-')}", value]
    return shlex.join(words)


async def sight(
    driver: BLEDriverInterface,
    config: BLEConfig,
    address: str | None,
    timeout: float,  # noqa: ASYNC109  (what is raised says more than TooSlowError)
    *action: str,
) -> BLEDevice:
    """Scan until that address is heard, or any. Raises `CommandError` after `timeout` seconds.

    `action`: what should be running there. Goes on scanning, so that the address stays known.
    """
    await driver.start_scanning()
    with trio.move_on_after(timeout):
        async for device in driver.discovered:
            if address in (None, device.address):
                return device
    who = f"{address} was not heard" if address else "nobody was heard"
    raise CommandError(
        f"{who} within {timeout:g} s: start `{command(config, *action)}` on the other machine, and see with "
        f"`{command(config, 'scan', here=True)}` who is in range"
    )


async def told_identity(link: BLELink) -> bytes | None:
    """The central's identity, where the driver leaves the handshake to us; None when it tells none."""
    if link.peer_identity is not None:
        return link.peer_identity
    with trio.move_on_after(HANDSHAKE_TIMEOUT):
        async for value in link:
            if classify(value, None) is ValueKind.IDENTITY:
                return value
    return None
