"""`rns-ble radio scan`: who advertises the service, as the mesh would see it."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass

import trio

from rns_ble.cli.progress import Progress
from rns_ble.cli.radio.station import command, open_station
from rns_ble.config import BLEConfig
from rns_ble.drivers.base import BLEDevice
from rns_ble.protocol.advertisement import Capability, parse_capabilities


@dataclass
class _Heard:
    device: BLEDevice
    first: float
    """Seconds after the scan began."""
    sightings: int = 0

    @property
    def capabilities(self) -> str:
        """What it says that it does not do."""
        said = parse_capabilities(self.device.manufacturer_data)
        return {Capability.PERIPHERAL_ONLY: "peripheral-only", Capability.CENTRAL_ONLY: "central-only"}.get(
            said, ""
        )


async def run(config: BLEConfig, arguments: argparse.Namespace, progress: Progress) -> int:
    """Scan; 0 when anybody was heard."""
    heard: dict[str, _Heard] = {}
    async with open_station(config) as driver:
        progress.say(f"scanning for {arguments.seconds:g} s as {driver.address or 'an unknown address'}")
        began = trio.current_time()
        await driver.start_scanning()
        with trio.move_on_after(arguments.seconds):
            async for device in driver.discovered:
                now = trio.current_time() - began
                entry = heard.setdefault(device.address, _Heard(device, now))
                entry.device = device
                entry.sightings += 1
                if entry.sightings == 1:
                    progress.say(f"{device.address} heard")
    found = sorted(heard.values(), key=lambda entry: -999 if (r := entry.device.rssi) is None else r)[::-1]
    if arguments.json:
        print(json.dumps({"ok": bool(found), "devices": [_as_json(entry) for entry in found]}))
    elif found:
        print(f"{'address':17}  {'dBm':>4}  {'first s':>7}  {'times':>5}  name")
        for entry in found:
            rssi = "?" if entry.device.rssi is None else str(entry.device.rssi)
            name = " ".join(filter(None, (entry.device.name, entry.capabilities)))
            line = f"{entry.device.address:17}  {rssi:>4}  {entry.first:7.2f}  {entry.sightings:5}  {name}"
            print(line.rstrip())
    else:
        print(
            f"Nobody was heard in {arguments.seconds:g} s. Does `{command(config, 'serve')}` run "
            "within a few metres, or rnsd with a BLE interface?"
        )
    return 0 if found else 1


def _as_json(entry: _Heard) -> dict[str, object]:
    return {
        "address": entry.device.address,
        "rssi": entry.device.rssi,
        "name": entry.device.name,
        "capabilities": entry.capabilities,
        "first_seconds": round(entry.first, 3),
        "sightings": entry.sightings,
    }
