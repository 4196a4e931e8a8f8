"""A scan by bleak, as a program: scan.py ADAPTER ADDRESS SERVICE_UUID SECONDS.

Exits with 0 when an advertiser of the service with this address was seen, with 1 when the time was over.

A process of its own, since bleak keeps a connection to D-Bus open for as long as its event loop lives.
"""

from __future__ import annotations

import asyncio
import sys

from bleak import BleakScanner


async def scan(adapter: str, address: str, service_uuid: str, seconds: float) -> bool:
    """Whether the advertiser was seen."""
    device = await BleakScanner.find_device_by_filter(
        lambda device, data: device.address == address and service_uuid in data.service_uuids,
        timeout=seconds,
        service_uuids=[service_uuid],
        bluez={"adapter": adapter},
    )
    return device is not None


if __name__ == "__main__":
    _, adapter, address, service_uuid, seconds = sys.argv
    sys.exit(not asyncio.run(scan(adapter, address, service_uuid, float(seconds))))
