"""An adapter that listens, and what the mesh would think of those whom it hears. Nobody is dialled."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

import trio

from rns_ble.admission import Admission
from rns_ble.cli.radio.station import open_station
from rns_ble.config import BLEConfig
from rns_ble.protocol.gatt import IDENTITY_LENGTH

Look = Callable[[], list[dict[str, Any]]]
"""What was heard so far: `CandidateStatus` of each, best first, as dictionaries."""


@asynccontextmanager
async def overhearing(config: BLEConfig) -> AsyncIterator[Look]:
    """Scan during the block. Raises `CommandError`. Cancelled: the adapter is released."""
    async with open_station(config) as driver, trio.open_nursery() as nursery:
        admission = Admission(
            config,
            {},
            own_identity=secrets.token_bytes(IDENTITY_LENGTH),
            own_address=lambda: driver.address,
            is_linked=lambda _address, _identity: False,
            radio_tokens=driver.establishing.total_tokens,
        )

        async def listen() -> None:
            async for device in driver.discovered:
                admission.sighted(device, trio.current_time())

        await driver.start_scanning()
        nursery.start_soon(listen)
        yield lambda: [asdict(candidate) for candidate in admission.status(trio.current_time())]
        nursery.cancel_scope.cancel()
