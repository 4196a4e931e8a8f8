"""BlueZ's settings in main.conf that matter to us."""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rns_ble.cli import processes
from rns_ble.cli.doctor.bluez import restart
from rns_ble.cli.doctor.case import Case
from rns_ble.cli.doctor.finding import Edit, Finding, Mend, failed, ok, skipped, warning

MAIN_CONF: Final = Path("etc/bluetooth/main.conf")

ONE_CHANNEL_SINCE: Final = (5, 67)
"""BlueZ with one ATT channel unless told otherwise (its commit "main: Disable EATT by default"); those before
had three."""

REORDERS_UNTIL: Final = (5, 69)
"""In BlueZ before this more channels were seen to reorder values and to lose some (5.66, docs/bluez.md); in
one after it (5.82) they end bluetoothd. Others have not been tried."""


def check_settings(case: Case) -> Iterator[Finding]:
    """All of them, where there is a BlueZ to have any."""
    from rns_ble.drivers.base import BLEError  # noqa: PLC0415  (brings in Trio)

    if isinstance(case.bluez, BLEError) and not (case.root / MAIN_CONF).exists():
        yield skipped("main.conf", "there is none, and no BlueZ that would have its defaults")
        return
    for check in (check_controller_mode, check_repairing, check_channels, check_in_force):
        yield from check(case)


def check_controller_mode(case: Case) -> Iterator[Finding]:
    """Is Low Energy switched on at all?"""
    mode = _read(case).get("General", "ControllerMode", fallback="").lower()
    if mode == "bredr":
        yield failed(
            "ControllerMode", "bredr: Low Energy is off", _set(case, "General", "ControllerMode", "dual")
        )
    else:
        yield ok("ControllerMode", mode or "dual, the default")


def check_repairing(case: Case) -> Iterator[Finding]:
    """Can a phone that was paired once, and has forgotten it, pair anew?"""
    from rns_ble.drivers.base import BLEError  # noqa: PLC0415  (brings in Trio)

    policy = _read(case).get("General", "JustWorksRepairing", fallback="").lower()
    paired = () if isinstance(case.bluez, BLEError) else case.bluez.paired
    services = {config.service_uuid for config in case.interfaces_with("bleak").values()}
    nodes = [(alias, address) for alias, address, uuids in paired if services & uuids]
    if nodes and policy in {"", "never"}:
        alias, address = nodes[0]
        yield warning(
            "JustWorksRepairing",
            f"{policy or 'never, the default'}: {alias} ({address}) is paired; should it lose its keys, it "
            "can't pair anew, and links to it fail",
            f"if they do: bluetoothctl remove {address}",
        )
    else:
        yield ok("JustWorksRepairing", f"{policy or 'never, the default'}: nothing of ours needs a pairing")


def check_channels(case: Case) -> Iterator[Finding]:
    """How many ATT channels are there between two hosts with BlueZ?"""
    set_ = _read(case).get("GATT", "Channels", fallback="")
    version = case.bluez_version
    if not set_ and version is None:
        yield skipped("Channels", "not set in main.conf, and the default depends on BlueZ's version")
        return
    default = "3" if version is not None and version < ONE_CHANNEL_SINCE else "1"
    channels, origin = (
        set_ or default,
        "" if set_ else f", the default of {version and '.'.join(map(str, version))}",
    )
    if channels == "1":
        yield ok("Channels", f"1{origin}")
        return
    one = _set(case, "GATT", "Channels", "1")
    if version is not None and version >= REORDERS_UNTIL:
        harm = "bluetoothd 5.82 was seen to crash when it opens the second"
    else:
        harm = "between two hosts with BlueZ values overtake each other, and may be lost"
    yield warning("Channels", f"{channels}{origin}: {harm}", one)


def check_in_force(case: Case) -> Iterator[Finding]:
    """Does bluetoothd know what main.conf says now?"""
    from rns_ble.drivers.base import BLEError  # noqa: PLC0415

    if isinstance(case.bluez, BLEError):
        yield skipped("main.conf", "bluetoothd can't be asked")
        return
    started = processes.started(case.bluez.pid)
    try:
        changed = (case.root / MAIN_CONF).stat().st_mtime
    except OSError:
        yield ok("main.conf", "there is none: the defaults count")
        return
    if started is not None and changed > started + processes.STARTED_WITHIN:
        yield warning("main.conf", "it was changed since bluetoothd has read it", restart(case))
    else:
        yield ok("main.conf", "bluetoothd has read it as it is now")


def _read(case: Case) -> configparser.ConfigParser:
    return parse(_text(case))


def _text(case: Case) -> str:
    try:
        return (case.root / MAIN_CONF).read_text(errors="surrogateescape")
    except OSError:
        return ""


def parse(text: str) -> configparser.ConfigParser:
    """As BlueZ reads it, which drops what it does not understand."""
    parser = configparser.ConfigParser(
        interpolation=None, strict=False, comment_prefixes=("#",), delimiters=("=",), allow_no_value=True
    )
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        parser.read_string(text)
    except configparser.Error:
        return configparser.ConfigParser()
    return parser


def _set(case: Case, section: str, key: str, value: str) -> Mend:
    path = case.root / MAIN_CONF
    what = f"set `{key} = {value}` in [{section}] of {path}"
    after = with_setting(_text(case), section, key, value)
    if parse(after).get(section, key, fallback=None) != value:
        return f"{what}, by hand"
    return Edit(what, path, after.encode(errors="surrogateescape"))


def with_setting(text: str, section: str, key: str, value: str) -> str:
    """The same settings with another value: in place of the old one or of the comment that shows the default,
    else right below the section's header.
    """
    lines = text.splitlines(keepends=True)
    header = next((n for n, line in enumerate(lines) if line.strip() == f"[{section}]"), None)
    if header is None:
        separator = "\n" if text and not text.endswith("\n\n") else ""
        return f"{text}{separator}[{section}]\n{key} = {value}\n"
    end = next((n for n in range(header + 1, len(lines)) if lines[n].startswith("[")), len(lines))
    for pattern in (rf"\s*{key}\s*=", rf"#\s*{key}\s*="):
        for number in range(header + 1, end):
            if re.match(pattern, lines[number]):
                lines[number] = f"{key} = {value}\n"
                return "".join(lines)
    lines.insert(header + 1, f"{key} = {value}\n")
    return "".join(lines)
