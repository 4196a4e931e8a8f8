"""Which adapter, whether it can be used, and what its BlueZ is able to do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio
from dbus_next import Variant

from rns_ble.drivers.base import AdapterUnavailable
from rns_ble.drivers.bluez.bus import BLOCKED, BLUEZ, Refused
from rns_ble.drivers.bluez.tree import ADAPTER

if TYPE_CHECKING:
    from rns_ble.drivers.bluez.bus import Bus
    from rns_ble.drivers.bluez.tree import Tree

TARGETED_SINCE: Final = (5, 69)
"""Since this BlueZ each central gets sockets of its own."""

POWER_ON_TIMEOUT: Final = 10.0
"""Seconds; a USB controller takes about one."""

_MODALIAS: Final = re.compile(r"usb:v1D6Bp0246d([0-9A-F]{2})([0-9A-F]{2})", re.IGNORECASE)
"""The Linux Foundation's own vendor and product; somebody who has set `DeviceID` in main.conf says
another."""


def find_adapter(tree: Tree, wanted: str | None) -> str:
    """The adapter's object path. Raises `AdapterUnavailable`, which names those that are there."""
    adapters = _adapters(tree)
    for path in sorted(adapters, key=lambda path: (len(path), path)):
        if wanted is None or wanted in (path.rpartition("/")[2], adapters[path].upper()):
            return path
    raise AdapterUnavailable(why_missing(tree, wanted))


def why_missing(tree: Tree, wanted: str | None) -> str:
    """What BlueZ has instead of the adapter that it does not have."""
    adapters = _adapters(tree)
    if not adapters:
        return "BlueZ knows no Bluetooth adapter: is it plugged in and its driver loaded?"
    known = ", ".join(f"{path.rpartition('/')[2]} ({address})" for path, address in sorted(adapters.items()))
    return f"there is no adapter {wanted}; BlueZ knows {known}"


def _adapters(tree: Tree) -> dict[str, str]:
    """Path → address."""
    return {
        path: str(interfaces[ADAPTER].get("Address", ""))
        for path, interfaces in tree.objects.items()
        if ADAPTER in interfaces
    }


def is_targeted(tree: Tree, path: str) -> bool:
    """Whether this BlueZ keeps our centrals apart. Where it hides its version, we take it for an old one."""
    return (version(tree.get(path, ADAPTER) or {}) or (0, 0)) >= TARGETED_SINCE


def version(adapter: Mapping[str, Any]) -> tuple[int, int] | None:
    """BlueZ's version, as the properties of an adapter tell it; None where main.conf hides it."""
    match = _MODALIAS.match(str(adapter.get("Modalias", "")))
    return None if match is None else (int(match[1], 16), int(match[2], 16))


def is_powered(tree: Tree, path: str) -> bool:
    """Whether it is there and on."""
    return bool((tree.get(path, ADAPTER) or {}).get("Powered"))


def why_off(name: str) -> str:
    """Why an adapter has gone off."""
    return BLOCKED if is_blocked(name) else f"{name} has been powered off: bluetoothctl power on"


def is_blocked(name: str) -> bool:
    """What the kernel says; BlueZ calls it by different names, and some generations by none."""
    with suppress(OSError):  # it may have been unplugged a moment ago
        for switch in Path("/sys/class/bluetooth", name).glob("rfkill*"):
            return "1" in ((switch / "soft").read_text().strip(), (switch / "hard").read_text().strip())
    return False


async def power_on(bus: Bus, tree: Tree, path: str) -> None:
    """Raises `AdapterUnavailable` with what keeps the adapter off."""
    name = path.rpartition("/")[2]
    with trio.move_on_after(POWER_ON_TIMEOUT):
        while True:
            properties = tree.get(path, ADAPTER)
            if properties is None:
                raise AdapterUnavailable(why_missing(tree, name))
            if properties.get("Powered"):
                return
            try:
                await bus.set(path, ADAPTER, "Powered", Variant("b", True))
            except Refused as error:
                if is_blocked(name):
                    raise AdapterUnavailable(BLOCKED) from error
                if error.name not in {f"{BLUEZ}.Error.Busy", f"{BLUEZ}.Error.InProgress"}:
                    raise AdapterUnavailable(
                        f"{name} can't be powered on: {error.text or error.name}"
                    ) from error
            await trio.sleep(0.05)  # for PropertiesChanged, or for who is powering it up or down just now
    raise AdapterUnavailable(
        f"{name} has not come on within {POWER_ON_TIMEOUT:g} s: unplug it, or rfkill list"
    )
