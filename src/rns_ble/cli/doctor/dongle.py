"""driver = bumble: the extra that brings it, and the way to its controller."""

from __future__ import annotations

import getpass
import grp
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rns_ble.cli import processes, rnsd_python
from rns_ble.cli.doctor.case import Case
from rns_ble.cli.doctor.finding import Command, Edit, Finding, failed, ok, skipped, warning

if TYPE_CHECKING:
    from rns_ble.drivers.bluez.examination import AdapterFacts

HCI_CLASS: Final = ("e0", "01", "01")
"""Wireless controller, radio frequency, Bluetooth: the class of HCI controllers on USB (USB-IF, defined class
codes)."""

UDEV_RULES: Final = Path("etc/udev/rules.d/70-rns-ble.rules")

CAP_NET_ADMIN: Final = 12
"""Its bit (Linux, include/uapi/linux/capability.h)."""


def check_dongles(case: Case) -> Iterator[Finding]:
    """The driver, and for each interface what it drives."""
    yield from check_extra(case)
    for config in case.interfaces_with("bumble").values():
        scheme, _, spec = (config.transport or "").partition(":")
        check = _TRANSPORTS.get(scheme)
        if check is None:
            yield skipped("transport", f"{config.transport}: there is no check for this kind")
        else:
            yield from check(case, spec)


def check_extra(case: Case) -> Iterator[Finding]:
    """Is Bumble where the interface runs?"""
    there = case.installation
    if there is None or there.error is not None:
        yield skipped("bumble", "it has to be where the interface runs, and that can't be seen")
    elif there.bumble:
        yield ok("bumble", f"{there.interpreter} has it")
    else:
        install = rnsd_python.how_to_install(there.interpreter, "bumble", again=True)
        yield failed(
            "bumble",
            f"{there.interpreter} lacks it, which driver = bumble needs",
            case.in_its_environment(install),
        )


@dataclass(frozen=True, slots=True)
class _Dongle:
    place: Path
    """In /sys."""
    node: Path
    """In /dev."""
    vendor: str
    product: str
    bound_to: str | None
    """The kernel's adapter on it."""


def _dongles(case: Case) -> list[_Dongle]:
    found = []
    for place in (case.root / "sys/bus/usb/devices").glob("*"):
        interfaces = list(place.glob(f"{place.name}:*"))
        classes = [
            _classes(place, "bDevice"),
            *(_classes(interface, "bInterface") for interface in interfaces),
        ]
        if ":" in place.name or HCI_CLASS not in classes:
            continue
        bus, device = (int(_read(place / name)) for name in ("busnum", "devnum"))
        adapter = next((path.name for path in place.glob(f"{place.name}:*/bluetooth/hci*")), None)
        node = case.root / "dev/bus/usb" / f"{bus:03d}" / f"{device:03d}"
        found.append(_Dongle(place, node, _read(place / "idVendor"), _read(place / "idProduct"), adapter))
    return sorted(found, key=lambda dongle: dongle.node)


def _classes(place: Path, kind: str) -> tuple[str, ...]:
    return tuple(_read(place / f"{kind}{level}") for level in ("Class", "SubClass", "Protocol"))


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _check_usb(case: Case, spec: str) -> Iterator[Finding]:
    dongles = _dongles(case)
    if named := re.fullmatch(r"([0-9A-Fa-f]{4}):([0-9A-Fa-f]{4})", spec):
        dongles = [d for d in dongles if (d.vendor, d.product) == (named[1].lower(), named[2].lower())]
    elif not spec.isdecimal():
        yield skipped("transport", f"usb:{spec}: only usb:N and usb:VENDOR:PRODUCT are looked for")
        return
    number = 0 if named else int(spec)
    if number >= len(dongles):
        yield failed(
            "transport",
            f"usb:{spec} is not there; there are {len(dongles)} such Bluetooth controllers on USB",
            "plug the dongle in, and look for it with lsusb",
        )
        return
    dongle = dongles[number]
    what = f"usb:{spec} is {dongle.vendor}:{dongle.product} at {dongle.node}"
    if not os.access(dongle.node, os.R_OK | os.W_OK):
        yield failed(
            "transport", f"{what}, and {getpass.getuser()} may not write to it", *_permit(case, dongle)
        )
    elif (user := _stranger(case, dongle.node)) is not None:
        yield failed("transport", f"{what}, and {user} has it open", f"end {user.name}")
    elif dongle.bound_to is not None and _powered(case, dongle.bound_to):
        yield warning(
            "transport",
            f"{what}; BlueZ uses it as {dongle.bound_to}, and loses it when the interface starts",
            "take another dongle, or `driver = bleak`, where something else needs it",
        )
    else:
        yield ok("transport", what)


def _permit(case: Case, dongle: _Dongle) -> tuple[Edit | str]:
    rule = (
        f'SUBSYSTEM=="usb", ATTR{{idVendor}}=="{dongle.vendor}", ATTR{{idProduct}}=="{dongle.product}", '
        'MODE="0660", GROUP="plugdev", TAG+="uaccess"\n'
    )
    path = case.root / UDEV_RULES
    rules = path.read_text() if path.exists() else ""
    again = "unplug it and plug it in again"
    if rule in rules:
        join = f"`sudo usermod -aG plugdev {getpass.getuser()}`, log in anew, {again}"
        return (join if "plugdev" not in _groups() else again,)
    return (Edit(f"add a rule for it to {path}, then {again}", path, (rules + rule).encode()),)


def _groups() -> set[str]:
    return {group.gr_name for group in grp.getgrall() if group.gr_gid in os.getgroups()}


def _stranger(case: Case, device: Path) -> processes.Process | None:
    """Who else has a device open."""
    owner = case.owner.pid if case.owner else None
    return next(
        (user for user in processes.holders(str(device)) if user.pid not in (owner, os.getpid())), None
    )


def _powered(case: Case, name: str) -> AdapterFacts | None:
    return next((adapter for adapter in case.adapters if adapter.name == name and adapter.powered), None)


def _check_serial(case: Case, spec: str) -> Iterator[Finding]:
    port = Path(spec.partition(",")[0])
    if not port.exists():
        yield failed(
            "transport", f"there is no {port}", "plug it in, and look for its port in /dev/serial/by-id"
        )
    elif not os.access(port, os.R_OK | os.W_OK):
        group = port.group()
        join = Command(("usermod", "-aG", group, getpass.getuser()), as_root=True)
        yield failed("transport", f"{port} is for the group {group}; after this, log in anew", join)
    elif (user := _stranger(case, port.resolve())) is not None:
        yield failed("transport", f"{user} has {port} open", f"end {user.name}")
    else:
        yield ok("transport", f"{port} is there, and {getpass.getuser()} may use it")


def _check_tcp(_case: Case, spec: str) -> Iterator[Finding]:
    host, _, port = spec.rpartition(":")
    if (why := processes.accepts(host, int(port))) is not None:
        yield failed(
            "transport",
            f"nobody answers at {spec} ({why})",
            "start what listens there; for a virtual radio that is `rns-ble ether`",
        )
    else:
        yield ok("transport", f"{spec} takes connections")


def _check_hci_socket(case: Case, spec: str) -> Iterator[Finding]:
    adapter = f"hci{spec or 0}"
    owner = case.owner
    capabilities = None if owner is None else processes.capabilities(owner.pid)
    needs = f"{adapter} needs the capability CAP_NET_ADMIN"
    give = "run rnsd as root, or with AmbientCapabilities=CAP_NET_ADMIN in its systemd unit"
    if not (case.root / "sys/class/bluetooth" / adapter).exists():
        yield failed(
            "transport", f"there is no {adapter}", "plug it in; `ls /sys/class/bluetooth` shows the others"
        )
    elif _powered(case, adapter):
        off = ("string:org.bluez.Adapter1", "string:Powered", "variant:boolean:false")
        call = ("--dest=org.bluez", f"/org/bluez/{adapter}", "org.freedesktop.DBus.Properties.Set", *off)
        yield failed(
            "transport", f"BlueZ uses {adapter}", Command(("dbus-send", "--system", "--print-reply", *call))
        )
    elif capabilities is None:
        # Ours say nothing: a unit may give its program more.
        yield warning("transport", f"{needs}; whether rnsd will have it is seen when it runs", give)
    elif not capabilities >> CAP_NET_ADMIN & 1:
        yield failed("transport", f"{needs}, which {owner} does not have", give)
    else:
        yield ok("transport", f"{adapter} is there, and {owner} may take it")


_TRANSPORTS: Final[dict[str, Callable[[Case, str], Iterator[Finding]]]] = {
    "usb": _check_usb,
    "pyusb": _check_usb,
    "serial": _check_serial,
    "tcp-client": _check_tcp,
    "hci-socket": _check_hci_socket,
}
