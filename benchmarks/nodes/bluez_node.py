"""One end of a link on BlueZ: told what to do on stdin, it tells what happened on stdout.

    python bluez_node.py sockets|calls ADAPTER

With `sockets` values travel as the driver has them travel; with `calls` bluetoothd is made to have no sockets
for a central, so that values are written by WriteValue and notified by PropertiesChanged. Both ways go JSON
objects, one a line: commands (`{"command": "send", …}`) in, events (`{"event": "sent", …}`) out. The process
ends with its stdin. Its seconds of processor time are those of all its threads.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Final, NoReturn

import trio

from rns_ble.drivers.base import BLELink
from rns_ble.drivers.bluez import BleakDriver
from rns_ble.drivers.bluez.bus import BLUEZ, Bus, Refused
from rns_ble.protocol.gatt import IDENTITY_LENGTH, IDENTITY_UUID, RX_UUID, SERVICE_UUID, TX_UUID

SIGHTING_TIMEOUT: Final = 30.0
"""Seconds: a busy guest takes some for its first scan."""

PROBE: Final = 100
"""Bytes of a value whose way is timed; no flood has this size. A proof of Reticulum's is about as long."""

STAMP: Final = 8
"""Bytes, at its begin: when it was handed over, in nanoseconds of the clock that all processes of a machine
share."""


@contextmanager
def without_sockets() -> Iterator[None]:
    """BlueZ seems to have none for a central: the driver then takes D-Bus."""
    really = Bus.acquire

    async def acquire(_bus: Bus, path: str, member: str) -> NoReturn:
        await trio.lowlevel.checkpoint()
        raise Refused(f"{BLUEZ}.Error.NotSupported", "for the benchmark", f"{member} of {path}")

    Bus.acquire = acquire  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        Bus.acquire = really  # type: ignore[method-assign]


def tell(event: str, **fields: object) -> None:
    """Write one event."""
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


def processor_seconds() -> float:
    """Of this process so far, user's and system's."""
    return time.process_time()


class Node:
    """A driver and its one link."""

    def __init__(self, driver: BleakDriver, nursery: trio.Nursery) -> None:
        self._driver = driver
        self._nursery = nursery
        self._current: BLELink | None = None
        self._begin(0)

    def _begin(self, size: int) -> None:
        """Values of this size, and probes, count from now on."""
        self._size, self._values, self._first, self._last = size, 0, 0.0, 0.0
        self._delays: list[float] = []
        self._dropped = 0 if self._current is None else self._current.values_dropped

    # --- the link ---

    @property
    def _link(self) -> BLELink:
        assert self._current is not None, "there is no link yet"
        return self._current

    async def accept(self) -> None:
        """Take links that a central makes, one after the other."""
        async for link in self._driver.accepted:
            self._use(link)

    async def _connect(self, address: str) -> None:
        with trio.fail_after(SIGHTING_TIMEOUT):
            await self._driver.start_scanning()
            async for device in self._driver.discovered:
                if device.address == address:
                    break
            began = trio.current_time()
            self._use(link := await self._driver.connect(address))
            seconds = trio.current_time() - began
            await self._driver.stop_scanning()
        tell("connected", seconds=seconds, att_mtu=link.att_mtu, data_path=link.data_path)

    def _use(self, link: BLELink) -> None:
        self._current = link
        self._nursery.start_soon(self._receive, link)

    async def _receive(self, link: BLELink) -> None:
        async for value in link:
            if len(value) == self._size:
                self._last = time.monotonic()
                if not self._values:
                    self._first = self._last
                self._values += 1
            elif len(value) == PROBE:
                self._delays.append((time.monotonic_ns() - int.from_bytes(value[:STAMP])) / 1e6)

    # --- commands ---

    async def obey(self, command: str, fields: dict[str, Any]) -> None:
        """Do what a line asks for."""
        match command:
            case "advertise":
                await self._driver.start_advertising()
                tell("advertising")
            case "connect":
                await self._connect(fields["address"])
            case "begin":
                self._begin(fields["size"])
                tell("began", cpu=processor_seconds(), limit=self._link.value_limit)
            case "send":
                await self._send(fields["count"], fields["size"])
            case "probe":
                await self._probe(fields["count"], fields["every"], fields["size"])
            case "report":
                tell(
                    "report",
                    values=self._values,
                    seconds=self._last - self._first,
                    cpu=processor_seconds(),
                    delays=self._delays,
                    dropped=self._link.values_dropped - self._dropped,
                )
            case _:
                raise ValueError(f"unknown command {command!r}")

    async def _send(self, count: int, size: int) -> None:
        value = bytes(size)
        began = time.monotonic()
        for _ in range(count):
            await self._link.send(value)
        tell("sent", seconds=time.monotonic() - began)

    async def _probe(self, count: int, every: float, size: int) -> None:
        """Probes, one each so many seconds, and between them values of this size without a pause; 0: none."""
        async with trio.open_nursery() as nursery:
            if size:
                nursery.start_soon(self._flood, bytes(size))
            for _ in range(count):
                await trio.sleep(every)
                stamp = time.monotonic_ns().to_bytes(STAMP)
                await self._link.send(stamp.ljust(PROBE, b"\0"))
            nursery.cancel_scope.cancel()
        tell("probed")

    async def _flood(self, value: bytes) -> NoReturn:
        while True:
            await self._link.send(value)


async def run(adapter: str) -> None:
    """Until stdin ends."""
    async with BleakDriver(adapter) as driver, trio.open_nursery() as nursery:
        driver.set_identity(os.urandom(IDENTITY_LENGTH))
        await driver.start(SERVICE_UUID, RX_UUID, TX_UUID, IDENTITY_UUID)
        node = Node(driver, nursery)
        nursery.start_soon(node.accept)
        tell("ready", address=driver.address)
        # Bytes rather than a text file: that one reads ahead, and a line would wait for the next one.
        pending = b""
        async for received in trio.lowlevel.FdStream(os.dup(0)):
            *lines, pending = (pending + received).split(b"\n")
            for line in lines:
                fields = json.loads(line)
                await node.obey(fields.pop("command"), fields)
        nursery.cancel_scope.cancel()


def main() -> None:
    """Run it by one of the data paths."""
    path, adapter = sys.argv[1:]
    with without_sockets() if path == "calls" else nullcontext():
        trio.run(run, adapter)


if __name__ == "__main__":
    main()
