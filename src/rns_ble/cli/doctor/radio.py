"""The adapter: is it there, is it on, may it be, and can it do what the interface asks of it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rns_ble.cli import processes
from rns_ble.cli.doctor.bluez import restart
from rns_ble.cli.doctor.case import Case
from rns_ble.cli.doctor.finding import Command, Edit, Finding, Mend, failed, ok, skipped, warning
from rns_ble.cli.doctor.reticulum import changed_line

if TYPE_CHECKING:
    from rns_ble.config import BLEConfig
    from rns_ble.drivers.bluez.examination import AdapterFacts

BOOT_CONFIGURATIONS: Final = (Path("boot/firmware/config.txt"), Path("boot/config.txt"))
"""A Raspberry Pi's: of Bookworm and later, and of those before."""

BLUETOOTH_OFF: Final = re.compile(r"^\s*dtoverlay\s*=\s*(pi3-)?disable-bt\b.*$", re.MULTILINE)


def check_adapters(case: Case) -> Iterator[Finding]:
    """For each interface: its adapter, and all that depends on it."""
    from rns_ble.drivers.base import BLEError  # noqa: PLC0415  (brings in Trio)

    for name, config in case.interfaces_with("bleak").items():
        if isinstance(case.bluez, BLEError):
            yield skipped(
                "adapter", f"BlueZ can't be asked; the kernel has {_in_words(_of_the_kernel(case))}"
            )
            yield from check_rfkill(case, None)
            return
        adapter = case.adapter(config)
        if adapter is None:
            yield _missing(case, name, config)
            yield from check_rfkill(case, None)
            continue
        yield ok("adapter", f"{adapter.name}, {adapter.address}")
        for check in (check_rfkill, check_power(name), check_roles(config), check_advertisements(config)):
            yield from check(case, adapter)


def _of_the_kernel(case: Case) -> list[str]:
    """The kernel's adapters; entries with a colon are connections."""
    found = (case.root / "sys/class/bluetooth").glob("hci*")
    return sorted(path.name for path in found if ":" not in path.name)


def _in_words(adapters: list[str]) -> str:
    return ", ".join(adapters) or "none"


def _missing(case: Case, name: str, config: BLEConfig) -> Finding:
    known = [adapter.name for adapter in case.adapters]
    hidden = [adapter for adapter in _of_the_kernel(case) if adapter not in known]
    if hidden and (not known or config.adapter in hidden):
        users = [user for user in _raw_users(case) if user.pid != getattr(case.bluez, "pid", None)]
        if users:
            whose = " or ".join(map(str, users))
            return failed(
                "adapter",
                f"{_in_words(hidden)} is driven by another program: {whose}",
                f"end {users[0].name}",
            )
        found = f"the kernel has {_in_words(hidden)}, and BlueZ does not show it"
        return failed("adapter", found, restart(case))
    if known:
        found = f"there is no {config.adapter}; BlueZ has {_in_words(known)}"
        return failed("adapter", found, _name_another(case, name, case.adapters[0]))
    for path in BOOT_CONFIGURATIONS:
        text = _read(case.root / path)
        if BLUETOOTH_OFF.search(text):
            after = BLUETOOTH_OFF.sub(lambda line: f"# {line[0]}", text)
            edit = Edit(
                f"comment out disable-bt in {case.root / path}, and reboot", case.root / path, after.encode()
            )
            return failed("adapter", f"{case.root / path} switches the machine's Bluetooth off", edit)
    return failed(
        "adapter", "there is none", "plug one in; `dmesg | grep -i bluetooth` shows what the kernel sees"
    )


def _name_another(case: Case, name: str, adapter: AdapterFacts) -> Mend:
    line = f"adapter = {adapter.address}"
    return changed_line(case, name, "adapter", f"set `{line}`", lambda _: line)


def _raw_users(case: Case) -> list[processes.Process]:
    """Who has a socket to the kernel's Bluetooth, as far as this user may see."""
    lines = _read(case.root / "proc/net/hci").splitlines()[1:]
    return [user for line in lines for user in processes.holders(f"socket:[{line.split()[5]}]")]


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def check_rfkill(case: Case, adapter: AdapterFacts | None) -> Iterator[Finding]:
    """Is the radio blocked? Without an adapter all Bluetooth switches count: some take it away altogether."""
    switches = [path for path in sorted((case.root / "sys/class/rfkill").glob("*")) if _is_bluetooth(path)]
    if adapter is not None:
        switches = [path for path in switches if _read(path / "name").strip() == adapter.name] or switches
    hard = [path for path in switches if _read(path / "hard").strip() == "1"]
    soft = [path for path in switches if _read(path / "soft").strip() == "1"]
    if hard:
        yield failed(
            "rfkill", "blocked by a switch of the machine", "use that switch or key, or look in the firmware"
        )
    elif soft:
        yield failed("rfkill", "blocked by software, as by a flight mode", _unblock(soft[0]))
    elif switches:
        yield ok("rfkill", "not blocked")
    else:
        yield skipped("rfkill", "the kernel shows no switch for Bluetooth")


def _is_bluetooth(switch: Path) -> bool:
    return _read(switch / "type").strip() == "bluetooth"


def _unblock(switch: Path) -> Command:
    if shutil.which("rfkill"):
        return Command(("rfkill", "unblock", "bluetooth"), as_root=not os.access("/dev/rfkill", os.W_OK))
    return Command(("sh", "-c", f"echo 0 > {switch / 'soft'}"), as_root=True)


def check_power(name: str) -> Callable[[Case, AdapterFacts], Iterator[Finding]]:
    """Is it on? `name`: of the interface, which may run."""

    def check(case: Case, adapter: AdapterFacts) -> Iterator[Finding]:
        blocked = any(finding.mend for finding in check_rfkill(case, adapter))
        offline = any(up["name"] == name and not up["online"] for up in case.running.interfaces)
        if adapter.powered:
            yield ok("power", f"{adapter.name} is on")
        elif blocked:
            yield skipped("power", f"{adapter.name} is off, since rfkill blocks it")
        elif offline:
            found = f"{adapter.name} is off, and {name}, which runs, leaves it off"
            yield failed("power", found, _power_on(case, adapter))
        else:
            found = f"{adapter.name} is off; the interface switches it on when it starts"
            yield warning("power", found, _power_on(case, adapter))

    return check


def _power_on(case: Case, adapter: AdapterFacts) -> Command:
    if len(case.adapters) == 1 and shutil.which("bluetoothctl"):
        return Command(("bluetoothctl", "power", "on"))
    # bluetoothctl takes no adapter as an argument.
    setting = ("string:org.bluez.Adapter1", "string:Powered", "variant:boolean:true")
    call = ("--dest=org.bluez", f"/org/bluez/{adapter.name}", "org.freedesktop.DBus.Properties.Set", *setting)
    return Command(("dbus-send", "--system", "--print-reply", *call))


def check_roles(config: BLEConfig) -> Callable[[Case, AdapterFacts], Iterator[Finding]]:
    """Can it do Low Energy, in the roles that the interface is to have?"""

    def check(_case: Case, adapter: AdapterFacts) -> Iterator[Finding]:
        other = "take another adapter"
        if adapter.roles is None:
            yield skipped("roles", "this BlueZ does not tell what the adapter can do")
        elif "central" not in adapter.roles:
            yield failed("roles", f"{adapter.name} can't do Low Energy", other)
        elif config.enable_peripheral and "peripheral" not in adapter.roles:
            found = f"{adapter.name} can't advertise, so it can dial others but nobody can dial it"
            yield failed("roles", found, f"{other}, or set `enable_peripheral = no`")
        else:
            yield ok(
                "roles", f"Low Energy as {' and '.join(sorted(adapter.roles & {'central', 'peripheral'}))}"
            )

    return check


def check_advertisements(config: BLEConfig) -> Callable[[Case, AdapterFacts], Iterator[Finding]]:
    """Is there room for our advertisement beside those of other programs?"""

    def check(_case: Case, adapter: AdapterFacts) -> Iterator[Finding]:
        if not config.enable_peripheral:
            yield skipped("advertisements", "not needed with enable_peripheral = no")
        elif adapter.advertisements is None:
            yield skipped("advertisements", f"{adapter.name} has none")
        else:
            active, free = adapter.advertisements
            if free:
                yield ok("advertisements", f"{active} in use, room for {free} more")
            else:
                found = f"all {active} of {adapter.name} are in use; one may be the interface's own"
                yield warning("advertisements", found, "if it is not, end another program that advertises")

    return check
