"""What could leak, counted: in this process, on the system bus and in bluetoothd."""

from __future__ import annotations

import gc
import os
import threading
from dataclasses import dataclass, fields

import trio

from tests.bluez import laboratory

PATIENCE = 90.0
"""Seconds for what is let go of to be gone: BlueZ keeps a device that was only sighted for 30."""


@dataclass(frozen=True)
class Census:
    files: int
    threads: int
    """Without Trio's, which wait for ten seconds for more work."""
    tasks: int
    connections: int
    """Of this process, to the system bus."""
    devices: tuple[str, ...]
    """Known to BlueZ."""
    connected: tuple[str, ...]
    discovering: tuple[str, ...]
    """Adapters that look for devices, for whichever program."""
    advertisements: int


async def take() -> Census:
    """As it is now."""
    connections = await laboratory.own_connections()
    objects = await laboratory.objects()
    gc.collect()  # what only cycles hold on to is not kept, but not yet gone either
    return Census(
        files=len(os.listdir("/proc/self/fd")),
        threads=sum(not thread.name.startswith("Trio") for thread in threading.enumerate()),
        tasks=trio.lowlevel.current_statistics().tasks_living,
        connections=connections,
        devices=tuple(sorted(path for path, has in objects.items() if "org.bluez.Device1" in has)),
        connected=tuple(
            path for path, has in objects.items() if has.get("org.bluez.Device1", {}).get("Connected")
        ),
        discovering=tuple(
            path for path, has in objects.items() if has.get("org.bluez.Adapter1", {}).get("Discovering")
        ),
        advertisements=sum(
            has["org.bluez.LEAdvertisingManager1"]["ActiveInstances"]
            for has in objects.values()
            if "org.bluez.LEAdvertisingManager1" in has
        ),
    )


async def at_rest() -> Census:
    """As it is before anything begins. What an earlier test has left to BlueZ may still be going on."""
    with trio.fail_after(PATIENCE):
        while True:
            now = await take()
            if not (now.connected or now.discovering or now.advertisements):
                return now
            await trio.sleep(0.2)  # as below


EVERYTHING = frozenset(field.name for field in fields(Census))

AT_ONCE = EVERYTHING - {"devices"}
"""What is let go of in a moment."""

OURS = frozenset({"files", "threads", "tasks", "connections"})
"""What only this process has."""


async def back_to(before: Census, names: frozenset[str] = EVERYTHING) -> None:
    """Wait until what is named is as it was before. What still differs after `PATIENCE` has leaked."""

    def counts(census: Census) -> dict[str, object]:
        return {name: getattr(census, name) for name in names}

    now = await take()
    with trio.move_on_after(PATIENCE):
        while counts(now) != counts(before):
            await trio.sleep(0.2)  # nothing tells when the kernel or BlueZ has let go of something
            now = await take()
    leaked = {name: (getattr(before, name), getattr(now, name)) for name in sorted(names)}
    assert counts(now) == counts(before), f"before and after: {leaked}"
