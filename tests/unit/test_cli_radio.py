"""The test values of `rns-ble radio`, and what is said of a link that loses, damages or reorders them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from rns_ble.cli.radio import exchange
from rns_ble.cli.radio.exchange import VALUE_MINIMUM, Check, Exchange
from rns_ble.drivers.base import BLELink, LinkLost
from rns_ble.protocol.gatt import IDENTITY_UUID, RX_UUID, SERVICE_UUID, TX_UUID
from rns_ble.protocol.values import ValueKind, classify
from rns_ble.testing import Air, MockBLEDriver

pytestmark = pytest.mark.virtual_time

Answer = Callable[[BLELink, list[bytes]], Awaitable[None]]


@asynccontextmanager
async def link_pair(att_mtu: int = 517) -> AsyncIterator[tuple[BLELink, BLELink]]:
    """The central's end and the peripheral's, handshake done."""
    air = Air(att_mtu=att_mtu)
    drivers = [MockBLEDriver(air, f"02:00:00:00:00:0{index}") for index in (1, 2)]
    async with drivers[0] as central, drivers[1] as peripheral:
        for index, driver in enumerate(drivers):
            driver.set_identity(bytes([index]) * 16)
            await driver.start(SERVICE_UUID, RX_UUID, TX_UUID, IDENTITY_UUID)
        await peripheral.start_advertising()
        ours = await central.connect(peripheral.address)
        theirs = await peripheral.accepted.receive()
        if theirs.peer_identity is None:
            await theirs.receive()
        yield ours, theirs


async def checked(answer: Answer, count: int = 40) -> Check:
    """A check against a peer that gets its values, `count` at most, in a list and answers by itself."""
    async with link_pair() as (ours, theirs), trio.open_nursery() as nursery:
        exchange = Exchange(ours)
        asked: list[bytes] = []

        async def peer() -> None:
            async for value in theirs:
                asked.append(value)
                await answer(theirs, asked)

        nursery.start_soon(exchange.run)
        nursery.start_soon(peer)
        check = await exchange.check(100, count)
        nursery.cancel_scope.cancel()
    return check


def as_answer(value: bytes) -> bytes:
    return value[:1] + b"A" + value[2:]


async def test_a_value_that_is_longer_than_an_answer_may_be_is_foreign() -> None:
    """BlueZ lets a central write more than we may notify."""
    async with link_pair(185) as (ours, _theirs):
        asked = Exchange(ours)
        await asked._take(bytes((exchange.MAGIC, exchange._Kind.ASK)) + bytes(ours.value_limit))
        assert (asked.answered, asked.foreign) == (0, 1)


@pytest.mark.parametrize("att_mtu", [23, 185, 517])
async def test_what_both_sides_ask_comes_back_whole(att_mtu: int) -> None:
    async with link_pair(att_mtu) as links, trio.open_nursery() as nursery:
        both = [Exchange(link) for link in links]
        for side in both:
            nursery.start_soon(side.run)
        checks: list[Check] = []

        async def ask(side: Exchange, peer: Exchange) -> None:
            limit = await side.hello()
            assert limit == peer.link.value_limit
            limit = min(limit, side.link.value_limit)
            checks.extend([await side.check(size, 300) for size in (VALUE_MINIMUM, limit)])

        async with trio.open_nursery() as asking:
            for side, peer in (both, both[::-1]):
                asking.start_soon(ask, side, peer)
        nursery.cancel_scope.cancel()
    assert len(checks) == 4
    assert all(check.ok and check.arrived == 300 for check in checks)
    assert [side.answered for side in both] == [600, 600]
    assert [side.foreign for side in both] == [0, 0]


async def test_a_lost_value_is_counted_and_the_rest_is_not_held_up() -> None:
    async def answer(link: BLELink, asked: list[bytes]) -> None:
        if len(asked) != 7:
            await link.send(as_answer(asked[-1]))

    check = await checked(answer)
    assert (check.arrived, check.lost, check.damaged, check.disordered) == (39, 1, 0, 0)
    assert not check.ok


async def test_a_peer_that_answers_nothing_is_given_up() -> None:
    async def answer(link: BLELink, asked: list[bytes]) -> None:
        pass

    began = trio.current_time()
    check = await checked(answer)
    assert (check.arrived, check.lost) == (0, 40)
    assert trio.current_time() - began == pytest.approx(exchange.SILENCE, abs=1)


async def test_a_damaged_value_is_counted() -> None:
    async def answer(link: BLELink, asked: list[bytes]) -> None:
        value = as_answer(asked[-1])
        await link.send(value[:-1] if len(asked) == 3 else value)

    check = await checked(answer)
    assert (check.arrived, check.lost, check.damaged, check.disordered) == (40, 0, 1, 0)
    assert not check.ok


async def test_values_that_overtake_each_other_are_counted() -> None:
    async def answer(link: BLELink, asked: list[bytes]) -> None:
        if len(asked) % 2 == 0:
            await link.send(as_answer(asked[-1]))
            await link.send(as_answer(asked[-2]))

    check = await checked(answer)
    assert (check.arrived, check.lost, check.damaged, check.disordered) == (40, 0, 0, 20)
    assert not check.ok


async def test_an_answer_to_somebody_else_or_twice_counts_for_nothing() -> None:
    async def answer(link: BLELink, asked: list[bytes]) -> None:
        value = as_answer(asked[-1])
        await link.send(value[:2] + bytes(255 - byte for byte in value[2:4]) + value[4:])
        await link.send(value)
        await link.send(value)

    check = await checked(answer)
    assert check.ok
    assert check.arrived == 40


async def test_a_link_that_ends_ends_whatever_waits_for_it() -> None:
    async with link_pair() as (ours, theirs), trio.open_nursery() as nursery:
        exchange = Exchange(ours)
        nursery.start_soon(exchange.run)

        async def close_soon() -> None:
            await trio.sleep(1)
            await theirs.aclose()

        nursery.start_soon(close_soon)
        with pytest.raises(LinkLost, match="while values were on their way"):
            await exchange.check(100, 10)
        for wait in (exchange.hello(), exchange.signalled(1)):
            with pytest.raises(LinkLost):
                await wait
        await exchange.until_ended()


async def test_values_of_a_node_are_neither_answered_nor_taken_for_ours() -> None:
    async with link_pair() as (ours, theirs), trio.open_nursery() as nursery:
        exchange = Exchange(ours)
        nursery.start_soon(exchange.run)
        values = (
            b"\x00",
            b"\x04\x07",
            bytes(16),
            b"\x01\x00\x00\x00\x01rest",
            b"\x7eQ",
            b"\x7e\xff" + bytes(20),
        )
        for value in values:
            await theirs.send(value)
        await theirs.aclose()
        await exchange.until_ended()
        assert (exchange.answered, exchange.foreign) == (0, len(values))


async def test_a_node_takes_no_test_value_for_one_of_its_own() -> None:
    identity = bytes([exchange.MAGIC]) * 16
    async with link_pair() as (ours, theirs), trio.open_nursery() as nursery:
        side = Exchange(ours)
        nursery.start_soon(side.run)
        await side.signal(1)
        nursery.start_soon(side.check, 16, 1)
        for value in (await theirs.receive(), await theirs.receive()):
            assert classify(value, identity) is ValueKind.FOREIGN
        nursery.cancel_scope.cancel()
