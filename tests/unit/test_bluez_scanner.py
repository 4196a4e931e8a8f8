"""A discovery that goes on is begun anew, whatever fails."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import trio

if not sys.platform.startswith("linux"):
    pytest.skip("BlueZ is Linux's", allow_module_level=True)

from rns_ble.drivers.bluez.bus import BLUEZ, Refused, Unanswered
from rns_ble.drivers.bluez.scanner import RENEWAL, Scanner
from rns_ble.drivers.bluez.tree import Tree

ADAPTER = "/org/bluez/hci0"


class Bus:
    """BlueZ, which does what it is told unless it is to fail at that once."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, str]] = []
        self.discovering = False
        self.fails: dict[str, Exception] = {}

    async def call(self, _path: str, _interface: str, member: str, _signature: str = "", *_body: Any) -> None:
        await trio.lowlevel.checkpoint()
        self.calls.append((trio.current_time(), member))
        if member in self.fails:
            raise self.fails.pop(member)
        if member == "StopDiscovery" and not self.discovering:
            raise Refused(f"{BLUEZ}.Error.Failed", "No discovery started", member)
        if member == "StartDiscovery":
            assert not self.discovering
        if member != "SetDiscoveryFilter":
            self.discovering = member == "StartDiscovery"

    def begun(self) -> list[float]:
        """When."""
        return [when for when, member in self.calls if member == "StartDiscovery"]


@asynccontextmanager
async def scanning() -> AsyncIterator[tuple[Bus, Scanner]]:
    bus = Bus()
    async with trio.open_nursery() as nursery:
        links: Any = SimpleNamespace()
        tree = Tree(bus)  # type: ignore[arg-type]
        scanner = Scanner(bus, tree, ADAPTER, nursery, links, lambda _device: None)  # type: ignore[arg-type]
        nursery.start_soon(scanner.keep_hearing)
        scanner.wanted = True
        await scanner.apply()
        yield bus, scanner
        nursery.cancel_scope.cancel()


async def test_a_discovery_that_goes_on_is_begun_anew(autojump_clock: object) -> None:
    began = trio.current_time()
    async with scanning() as (bus, _scanner):
        await trio.sleep(3.5 * RENEWAL)
        assert bus.begun() == pytest.approx([began + n * RENEWAL for n in range(4)])
        assert bus.discovering


async def test_one_that_was_begun_by_itself_meanwhile_is_not(autojump_clock: object) -> None:
    async with scanning() as (bus, scanner):
        await trio.sleep(0.9 * RENEWAL)
        async with scanner.pause():
            assert not bus.discovering
        await trio.sleep(0.9 * RENEWAL)
        assert len(bus.begun()) == 2


async def test_none_is_begun_that_is_not_wanted(autojump_clock: object) -> None:
    async with scanning() as (bus, scanner):
        async with scanner.pause():
            await trio.sleep(3 * RENEWAL)
            assert not bus.discovering
        scanner.wanted = False
        await scanner.apply()
        await trio.sleep(3 * RENEWAL)
        assert not bus.discovering


@pytest.mark.parametrize("error", [Unanswered("frozen"), Refused(f"{BLUEZ}.Error.NotAuthorized", "", "")])
@pytest.mark.parametrize("member", ["StopDiscovery", "SetDiscoveryFilter", "StartDiscovery"])
async def test_what_fails_is_tried_again(
    autojump_clock: object, caplog: pytest.LogCaptureFixture, error: Exception, member: str
) -> None:
    async with scanning() as (bus, _scanner):
        bus.fails[member] = error
        await trio.sleep(1.5 * RENEWAL)
        assert [record.message for record in caplog.records] == [f"not scanning for now: {error}"]
        await trio.sleep(RENEWAL)
        assert bus.discovering
        assert len(bus.begun()) == (3 if member == "StartDiscovery" else 2)
        assert len(caplog.records) == 1


async def test_an_error_that_is_not_bluez_comes_out(autojump_clock: object) -> None:
    async def scan() -> None:
        async with scanning() as (bus, _scanner):
            bus.fails["StopDiscovery"] = ZeroDivisionError()
            await trio.sleep_forever()

    with pytest.raises(BaseExceptionGroup) as caught:
        await scan()
    assert caught.group_contains(ZeroDivisionError)
