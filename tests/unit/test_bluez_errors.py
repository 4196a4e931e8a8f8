"""What the D-Bus errors around a BlueZ that is not there become."""

from __future__ import annotations

import sys

import pytest

if not sys.platform.startswith("linux"):
    pytest.skip("BlueZ is Linux's", allow_module_level=True)

from rns_ble.drivers.base import AdapterUnavailable
from rns_ble.drivers.bluez.bus import UNREACHABLE, Refused, refusal


@pytest.mark.parametrize(
    "name",
    [
        "org.freedesktop.DBus.Error.ServiceUnknown",
        "org.freedesktop.DBus.Error.NameHasNoOwner",
        "org.freedesktop.DBus.Error.NoReply",
        "org.freedesktop.DBus.Error.TimedOut",
        "org.freedesktop.DBus.Error.Spawn.ChildExited",
        "org.freedesktop.DBus.Error.Spawn.ExecFailed",
        "org.freedesktop.systemd1.NoSuchUnit",
        "org.freedesktop.systemd1.UnitMasked",
    ],
)
def test_a_bluez_that_is_not_there_and_does_not_come_has_one_name(name: str) -> None:
    error = refusal(name, "Unit dbus-org.bluez.service not found.", "GetManagedObjects")
    assert type(error) is AdapterUnavailable
    assert str(error) == UNREACHABLE


@pytest.mark.parametrize(
    "name",
    ["org.bluez.Error.Failed", "org.freedesktop.DBus.Error.UnknownObject", "org.freedesktop.DBus.Error"],
)
def test_what_a_bluez_that_is_there_refuses_stays_what_it_is(name: str) -> None:
    error = refusal(name, "text", "Connect")
    assert isinstance(error, Refused)
    assert (error.name, str(error)) == (name, f"Connect: text ({name})")
