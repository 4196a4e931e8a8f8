"""BlueZ itself: the bus that it is asked on, its daemon, the right to use it, and what it offers."""

from __future__ import annotations

import getpass
import os
import shutil
from collections.abc import Iterator
from typing import Final

from rns_ble.cli.doctor.case import Case
from rns_ble.cli.doctor.finding import Command, Finding, Mend, failed, ok, skipped

DAEMONS: Final = ("usr/libexec/bluetooth/bluetoothd", "usr/lib/bluetooth/bluetoothd")
"""Where distributions install it, which is not on PATH: Debian since 12 and Fedora, Arch and older Debian."""

INSTALLERS: Final = (
    ("apt-get", "install"),
    ("dnf", "install"),
    ("pacman", "-S"),
    ("zypper", "install"),
)
"""What installs packages; those of BlueZ and D-Bus have the same names everywhere."""

SYSTEMD: Final = "run/systemd/system"
"""Is there where systemd runs the machine (sd_booted(3)); in most containers it does not."""

ON_THE_HOST: Final = "for a container, on its host"


def restart(case: Case) -> Mend:
    """Let bluetoothd begin anew."""
    return _service(case, "restart", "bluetooth", by_hand="restart the service bluetooth")


def _service(case: Case, *action: str, by_hand: str) -> Mend:
    """What is told to systemd; in words where there is none."""
    if (case.root / SYSTEMD).exists():
        return Command(("systemctl", *action), as_root=True)
    return f"{by_hand}; {ON_THE_HOST}"


def check_bus(case: Case) -> Iterator[Finding]:
    """Can the D-Bus system bus be reached?"""
    from rns_ble.drivers.bluez.examination import BusMissing  # noqa: PLC0415  (brings in Trio)

    elsewhere = os.environ.get("DBUS_SYSTEM_BUS_ADDRESS")
    if not isinstance(case.bluez, BusMissing):
        yield ok("D-Bus", "the system bus answers")
    elif elsewhere is not None:
        mend: Mend = "unset DBUS_SYSTEM_BUS_ADDRESS, or let it name the system bus"
        yield failed("D-Bus", f"there is no system bus at {elsewhere}, where this environment has it", mend)
    elif not (case.root / SYSTEMD).exists():
        hand_in = "in a container hand in the host's /run/dbus (-v /run/dbus:/run/dbus): BlueZ runs there"
        yield failed("D-Bus", "there is no system bus", f"{hand_in}; elsewhere start the service dbus")
    elif shutil.which("dbus-daemon") or shutil.which("dbus-broker"):
        start = Command(("systemctl", "start", "dbus"), as_root=True)
        yield failed("D-Bus", "the system bus does not run", start)
    else:
        yield failed("D-Bus", "there is no system bus", _install(case, "dbus"))


def check_daemon(case: Case) -> Iterator[Finding]:
    """Does bluetoothd run, and may this user ask it?"""
    from rns_ble.drivers.base import BLEError, PermissionDenied  # noqa: PLC0415
    from rns_ble.drivers.bluez.examination import BlueZMissing, BusMissing  # noqa: PLC0415

    match case.bluez:
        case BusMissing() if _is_installed(case) or "DBUS_SYSTEM_BUS_ADDRESS" in os.environ:
            # With such an address it is another machine's BlueZ, perhaps.
            yield skipped("BlueZ", "it is asked over D-Bus")
        case BlueZMissing() if _is_installed(case):
            start = _service(case, "enable", "--now", "bluetooth", by_hand="start the service bluetooth")
            yield failed("BlueZ", "bluetoothd does not run", start)
        case BusMissing() | BlueZMissing():
            yield failed("BlueZ", "it is not installed", _install(case, "bluez"))
        case PermissionDenied():
            user = getpass.getuser()
            join = Command(("usermod", "-aG", "bluetooth", user), as_root=True)
            yield failed("BlueZ", f"{user} may not use it; after this, log in anew", join)
        case BLEError() as error:
            yield failed("BlueZ", str(error), restart(case))
        case facts:
            yield ok("BlueZ", f"bluetoothd runs (process {facts.pid}), and {getpass.getuser()} may use it")


def check_offers(case: Case) -> Iterator[Finding]:
    """Which BlueZ is it, and what can it do for us?"""
    from rns_ble.drivers.bluez.adapter import TARGETED_SINCE  # noqa: PLC0415

    version = case.bluez_version
    if not case.adapters:
        yield skipped("BlueZ's version", "it is told by an adapter, and there is none to ask")
        return
    if version is None:
        found = "hidden by DeviceID in main.conf, so that it is used like one before 5.69"
    elif version >= TARGETED_SINCE:
        found = f"{_dotted(version)}: notifies each central alone"
    else:
        found = f"{_dotted(version)}: what is for one of several centrals reaches all; that is mended in 5.69"
    experimental = any(adapter.connect_device for adapter in case.adapters)
    yield ok(
        "BlueZ's version",
        f"{found}; ConnectDevice {'is there' if experimental else 'is off (experimental), not needed'}",
    )


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def _is_installed(case: Case) -> bool:
    return any((case.root / path).exists() for path in DAEMONS) or shutil.which("bluetoothd") is not None


def _install(case: Case, package: str) -> Mend:
    found = ((program, action) for program, action in INSTALLERS if shutil.which(program))
    if (installer := next(found, None)) is None:
        return f"install {package}"
    command = Command((*installer, package), as_root=True)
    return command if (case.root / SYSTEMD).exists() else f"{command}; {ON_THE_HOST}"
