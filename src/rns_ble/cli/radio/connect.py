"""`rns-ble radio connect`: connect as the mesh does, and see every value come back as it was sent."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, field

import trio

from rns_ble.cli.errors import CommandError, UsageError
from rns_ble.cli.progress import Progress
from rns_ble.cli.radio.exchange import VALUE_MINIMUM, Check, Exchange
from rns_ble.cli.radio.station import command, open_station, sight
from rns_ble.config import BLEConfig
from rns_ble.drivers.base import BLEDriverInterface, BLELink


@dataclass
class _Report:
    address: str
    rssi: int | None
    sighted_seconds: float
    setup_seconds: float
    """From the call of the driver's `connect` to its return: connection, discovery, handshake."""
    identity: str
    att_mtu: int
    data_path: str
    value_limit: int
    """Bytes that a value may have both ways."""
    checks: list[Check] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    def as_json(self) -> dict[str, object]:
        checks = [
            {
                **asdict(check),
                "seconds": round(check.seconds, 4),
                "lost": check.lost,
                "values_per_second": round(check.values_per_second, 1),
                "ok": check.ok,
            }
            for check in self.checks
        ]
        return {"ok": self.ok, **asdict(self), "checks": checks}

    def as_text(self) -> str:
        lines = [
            f"heard after      {self.sighted_seconds:.2f} s, {self.rssi} dBm",
            f"connected in     {self.setup_seconds:.2f} s, handshake done",
            f"its identity     {self.identity}",
            f"ATT MTU          {self.att_mtu}; values of up to {self.value_limit} bytes, by {self.data_path}",
            "",
            f"{'bytes':>5}  {'values':>6}  {'back':>5}  {'a second':>8}  {'kB/s':>6}  each way",
        ]
        for check in self.checks:
            rate = check.values_per_second
            faults = {"lost": check.lost, "damaged": check.damaged, "out of order": check.disordered}
            said = ", ".join(f"{number} {what}" for what, number in faults.items() if number)
            lines.append(
                f"{check.size:5}  {check.count:6}  {check.arrived:5}  {rate:8.0f}"
                f"  {rate * check.size / 1000:6.1f}  {said or 'identical, in order'}"
            )
        return "\n".join([*lines, "", "All is well." if self.ok else "NOT all is well."])


async def run(config: BLEConfig, arguments: argparse.Namespace, progress: Progress) -> int:
    """Connect and check; 0 when all came back identical and in order. Raises `CommandError`."""
    async with open_station(config) as driver:
        began = trio.current_time()
        device = await sight(driver, config, arguments.address, arguments.timeout, "serve")
        sighted = trio.current_time() - began
        progress.say(f"{device.address} heard, connecting")
        await driver.stop_scanning()
        link, setup = await _connect(driver, device.address, arguments.timeout)
        try:
            progress.say("connected, handshake done")
            report = _Report(
                address=link.address,
                rssi=device.rssi,
                sighted_seconds=round(sighted, 3),
                setup_seconds=round(setup, 3),
                identity=(link.peer_identity or b"").hex(),
                att_mtu=link.att_mtu,
                data_path=link.data_path,
                value_limit=link.value_limit,
            )
            exchange = Exchange(link)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(exchange.run)
                await _check(exchange, report, config, arguments, progress)
                nursery.cancel_scope.cancel()
        finally:
            await link.aclose()
    print(json.dumps(report.as_json()) if arguments.json else report.as_text())
    return 0 if report.ok else 1


async def _connect(driver: BLEDriverInterface, address: str, seconds: float) -> tuple[BLELink, float]:
    began = trio.current_time()
    try:
        with trio.fail_after(seconds):
            link = await driver.connect(address)
    except trio.TooSlowError:
        raise CommandError(
            f"{address} was heard, but there was no link within {seconds:g} s: go nearer, or raise --timeout"
        ) from None
    return link, trio.current_time() - began


async def _check(
    exchange: Exchange,
    report: _Report,
    config: BLEConfig,
    arguments: argparse.Namespace,
    progress: Progress,
) -> None:
    try:
        limit = min(exchange.link.value_limit, await exchange.hello())
    except trio.TooSlowError:
        raise CommandError(
            f"{report.address} took the connection but answers no test value: "
            f"does `{command(config, 'serve')}` run there, and not rnsd?"
        ) from None
    report.value_limit = limit
    sizes = arguments.bytes or sorted({VALUE_MINIMUM, 20, limit // 2, limit - 1, limit})
    for size in sizes:
        if not VALUE_MINIMUM <= size <= limit:
            raise UsageError(f"--bytes {size}: this link takes values of {VALUE_MINIMUM} to {limit} bytes")
        progress.show("sizes", sizes.index(size), len(sizes))
        report.checks.append(await exchange.check(size, arguments.count))
    progress.finish("sizes", len(sizes))
