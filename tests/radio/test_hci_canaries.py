"""What we rely on in Bumble without its promise. Where one of these fails, a new Bumble needs a look."""

from __future__ import annotations

import inspect

import pytest
from bumble.controller import Connection, Controller, LegacyAdvertiser
from bumble.device import Device
from bumble.host import Host
from bumble.link import LocalLink

from rns_ble.drivers.hci.advertiser import RadioAdvertiser
from rns_ble.drivers.hci.air_connection import AirConnection
from rns_ble.drivers.hci.controller import RadioController
from rns_ble.drivers.hci.host import RadioDevice, RadioHost
from rns_ble.drivers.hci.radio import VirtualRadio


@pytest.mark.parametrize(
    ("ours", "bumbles"),
    [
        (VirtualRadio, LocalLink),
        (RadioController, Controller),
        (RadioAdvertiser, LegacyAdvertiser),
        (AirConnection, Connection),
        (RadioHost, Host),
        (RadioDevice, Device),
    ],
)
def test_what_is_overridden_still_exists_in_bumble(ours, bumbles) -> None:
    handlers = {
        name
        for name, member in vars(ours).items()
        if inspect.isfunction(member) and name.startswith(("on_", "send_", "add_", "remove_"))
    }
    added = {
        RadioController: {"on_air_data", "on_packet_completed", "on_connect_ind", "on_hci_read_rssi_command"},
        AirConnection: {"send_acl"},
    }.get(ours, set())
    assert added <= handlers
    assert {name for name in handlers - added if not hasattr(bumbles, name)} == set()
    assert {name for name in added if hasattr(bumbles, name)} == set()


def test_what_is_private_and_used_still_exists_in_bumble() -> None:
    assert callable(Controller._send_hci_command_status)
    assert "pending_le_connection" in Controller.__annotations__
    assert "connect_own_address_type" in Device.__annotations__
