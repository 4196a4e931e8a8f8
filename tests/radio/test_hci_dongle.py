"""Controllers of another make, as dongles are: public addresses, extended advertising, faults. Real time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from bumble import hci
from bumble.controller import Controller
from bumble.link import LocalLink

import rns_ble.drivers.hci.ether
import rns_ble.drivers.hci.stack
from rns_ble.drivers.base import AdapterUnavailable, DriverState
from rns_ble.drivers.hci import BumbleDriver, VirtualRadio, serve_ether
from rns_ble.drivers.hci.controller import RadioController


class Dongle(RadioController):
    """With a public address, and with the commands of Bluetooth 5 for connecting."""

    count = 0
    supported_commands = RadioController.supported_commands | {hci.HCI_LE_EXTENDED_CREATE_CONNECTION_COMMAND}

    def __init__(self, radio: VirtualRadio) -> None:
        super().__init__(radio)
        Dongle.count += 1
        self.public_address = hci.Address(f"00:11:22:33:44:{Dongle.count % 256:02X}/P")

    @property
    def air_address(self) -> str:
        return self.public_address.to_string(False)


class Stock(Controller):
    """Bumble's own, with extended advertising, 27-byte packets and all its faults."""

    link = LocalLink()

    def __init__(self, _radio: VirtualRadio) -> None:
        super().__init__("stock", link=Stock.link)
        self.stalled = False

    def detach(self) -> None:
        for connection in list(self.le_connections.values()):
            self.on_hci_disconnect_command(hci.HCI_Disconnect_Command(connection.handle, 0x08))
        self.host = None
        Stock.link.remove_controller(self)


@asynccontextmanager
async def nodes(bench, monkeypatch, kind: type[Controller], count: int) -> AsyncIterator[list[BumbleDriver]]:
    monkeypatch.setattr(rns_ble.drivers.hci.ether, "RadioController", kind)
    monkeypatch.setattr(Stock, "link", LocalLink())
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            port = await nursery.start(serve_ether)
            async with bench.entered(f"tcp-client:127.0.0.1:{port}", count) as drivers:
                yield drivers
            nursery.cancel_scope.cancel()


async def exchange(bench, central: BumbleDriver, peripheral: BumbleDriver) -> None:
    ends = await bench.link(central, peripheral)
    for sender, receiver in (ends, ends[::-1]):
        assert sender.att_mtu == 517
        for length in (1, 20, 244, sender.value_limit):
            await sender.send(bytes(length))
            assert await receiver.receive() == bytes(length)


@pytest.mark.parametrize("kind", [Dongle, Stock])
async def test_a_peripheral_serves_two_centrals_and_goes_on_advertising(bench, monkeypatch, kind) -> None:
    async with nodes(bench, monkeypatch, kind, 3) as (peripheral, one, other):
        for central in (one, other):
            await exchange(bench, central, peripheral)
        assert peripheral.state == DriverState.SCANNING | DriverState.ADVERTISING
        assert sorted(peripheral.connected_peers) == sorted((one.address, other.address))


async def test_a_public_address_is_used_for_all(bench, monkeypatch) -> None:
    async with nodes(bench, monkeypatch, Dongle, 2) as (one, other):
        assert one.address.startswith("00:11:22:33:44:")
        ours, theirs = await bench.link(one, other)
        assert (ours.address, theirs.address) == (other.address, one.address)


async def test_an_address_that_was_asked_for_goes_before_the_public_one(bench, monkeypatch) -> None:
    monkeypatch.setattr(rns_ble.drivers.hci.ether, "RadioController", Dongle)
    async with trio.open_nursery() as nursery:
        port = await nursery.start(serve_ether)
        async with BumbleDriver(f"tcp-client:127.0.0.1:{port}", address="C0:00:00:00:00:01") as driver:
            assert driver.address == "C0:00:00:00:00:01"
        nursery.cancel_scope.cancel()


async def test_a_controller_that_ignores_the_end_of_a_dial_has_failed(bench, monkeypatch) -> None:
    monkeypatch.setattr(rns_ble.drivers.hci.stack, "COMMAND_TIMEOUT", 0.3)

    async def dial() -> None:
        async with nodes(bench, monkeypatch, Stock, 2) as (driver, peer):
            address = await bench.sight(driver, peer.address)
            await peer.stop_advertising()
            with trio.move_on_after(0.2):
                await driver.connect(address)
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as raised:
        await dial()
    assert raised.group_contains(AdapterUnavailable, match="does not end a dial")
