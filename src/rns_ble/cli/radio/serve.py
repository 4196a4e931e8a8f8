"""`rns-ble radio serve`: the side that is connected to. It sends every test value back."""

from __future__ import annotations

import argparse
import json

import trio

from rns_ble.cli.progress import Progress
from rns_ble.cli.radio.exchange import Exchange
from rns_ble.cli.radio.station import command, open_station, told_identity
from rns_ble.config import BLEConfig
from rns_ble.drivers.base import BLELink


async def run(config: BLEConfig, arguments: argparse.Namespace, _progress: Progress) -> int:
    """Serve until cancelled, or until the time is over. Raises `CommandError` when the driver fails."""

    def tell(event: str, text: str, **fields: object) -> None:
        print(json.dumps({"event": event, **fields}) if arguments.json else text, flush=True)

    async def attend(link: BLELink) -> None:
        try:
            identity = await told_identity(link)
            if identity is None:
                tell("stranger", f"{link.address} told no identity: dropped", address=link.address)
                return
            tell(
                "connected",
                f"{link.address} connected: identity {identity.hex()}, ATT MTU {link.att_mtu}",
                address=link.address,
                identity=identity.hex(),
                att_mtu=link.att_mtu,
            )
            exchange = Exchange(link)
            await exchange.run()
            tell(
                "disconnected",
                f"{link.address} disconnected: {exchange.answered} values ({exchange.answered_bytes} bytes) "
                f"sent back by {link.data_path}, {exchange.foreign} foreign",
                address=link.address,
                values=exchange.answered,
                bytes=exchange.answered_bytes,
                data_path=link.data_path,
                foreign=exchange.foreign,
                dropped=link.values_dropped,
            )
        finally:
            await link.aclose()

    async with open_station(config) as driver, trio.open_nursery() as nursery:
        await driver.start_advertising(config.device_name)
        address = driver.address or "an address that this platform hides"
        there = command(config, "connect", *filter(None, [driver.address]))
        tell(
            "serving",
            f"Serving as {address} until Ctrl-C. On the other machine: {there}",
            address=driver.address,
        )
        with trio.move_on_after(arguments.seconds or float("inf")):
            async for link in driver.accepted:
                nursery.start_soon(attend, link)
        nursery.cancel_scope.cancel()
    return 0
