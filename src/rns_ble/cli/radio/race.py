"""`rns-ble radio race`: two machines connect to each other at the same time, again and again.

1. A round begins when the links of the one before have ended, which both sides see at the same moment: then
   both call `connect`.
2. Either call may succeed, both may, and BlueZ then has two links over one connection. Every link that comes
   about has to carry test values both ways until both sides have checked it.
3. Then each link's central closes it. A round without a link that passed is tried again: that both calls fail
   is no fault (either side may have made the other's impossible), that they always do is one.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import trio

from rns_ble.cli.progress import Progress
from rns_ble.cli.radio.exchange import VALUE_MINIMUM, Exchange
from rns_ble.cli.radio.station import command, open_station, sight, told_identity
from rns_ble.config import BLEConfig
from rns_ble.drivers.base import (
    AlreadyConnected,
    BLEDriverInterface,
    BLELink,
    LinkLost,
    PeerUnreachable,
    ProtocolViolation,
    Role,
)

COUNT: Final = 20
"""Values that each side has sent back on each link."""

TRIES: Final = 5
"""Dials of ours in one round. More in a row that come to nothing are no accident."""

PAUSE: Final = (0.2, 1.5)
"""Seconds, at random, before the next try: two sides that fail in step should fall out of it."""

GOODBYE: Final = 10.0
"""Seconds for a link that its central closes to end: BlueZ waits 2, and a lost goodbye takes a supervision
timeout."""

DIALLED: Final = 1
CHECKED: Final = 2
DONE: Final = 3
"""Signals: our call has ended, so no further link will come of it; we have checked this link; this was our
last round."""


@dataclass
class _Round:
    dials: list[str] = field(default_factory=list)
    """How each call of ours ended."""
    passed: list[str] = field(default_factory=list)
    """The role of ours on each link that carried everything."""
    lost: int = 0
    """Links that ended before both sides had checked them."""
    faults: list[str] = field(default_factory=list)
    """Links that stood and did not carry everything."""
    seconds: float = 0.0
    """From the beginning to the end of our last call."""

    @property
    def over(self) -> bool:
        """Whether there was a link that could be checked."""
        return bool(self.passed or self.faults)

    @property
    def ok(self) -> bool:
        return bool(self.passed) and not self.faults

    @property
    def outcome(self) -> str:
        match sorted(self.passed):
            case []:
                return "no link"
            case [Role.CENTRAL.value]:
                return "one link, ours"
            case [Role.PERIPHERAL.value]:
                return "one link, theirs"
            case [Role.CENTRAL.value, Role.PERIPHERAL.value]:
                return "two links, both work"
            case more:
                return f"{len(more)} links, all work"


class _Race:
    """Rounds with one peer. `accept` has to run for the others to work."""

    def __init__(self, driver: BLEDriverInterface, address: str, timeout: float, rounds: int) -> None:
        self._driver = driver
        self._address = address
        self._timeout = timeout
        self._left = rounds
        self._peer_is_done = False
        self._conversations = 0
        self._changes = trio.lowlevel.ParkingLot()
        self._dialled = trio.Event()
        self._round = _Round()

    async def accept(self) -> None:
        """Take the links that the other side makes, in whichever round."""
        async with trio.open_nursery() as nursery:
            async for link in self._driver.accepted:
                # Both sides have dialled before a link is checked, so this one is of the peer's next round.
                while self._round.over and self._left:
                    await self._changes.park()
                self._conversations += 1
                nursery.start_soon(self._welcome, link)

    async def _welcome(self, link: BLELink) -> None:
        if await told_identity(link) is None:
            await self._over(link)
        else:
            await self._converse(link)

    async def run(self) -> _Round:
        """One round."""
        self._round = round_ = _Round()
        self._left -= 1
        self._changes.unpark_all()
        began = trio.current_time()
        for _ in range(TRIES):
            async with trio.open_nursery() as nursery:
                await self._dial(nursery)
                round_.seconds = trio.current_time() - began
                self._dialled.set()
            await self._quiet()
            if not round_.over:
                with trio.move_on_after(random.uniform(*PAUSE)):
                    while not self._conversations:
                        await self._changes.park()
                await self._quiet()
            if round_.over:
                break
            self._dialled = trio.Event()
        if self._left:
            self._dialled = trio.Event()  # what comes now is of the next round
        return round_

    async def wait_for_peer(self) -> None:
        """After our last round: until the peer has had its own, which may be one behind."""
        with trio.move_on_after(self._timeout):
            while not self._peer_is_done:
                await self._changes.park()
        await self._quiet()

    async def _quiet(self) -> None:
        while self._conversations:
            await self._changes.park()

    async def _dial(self, nursery: trio.Nursery) -> None:
        try:
            with trio.fail_after(self._timeout):
                link = await self._driver.connect(self._address)
        except AlreadyConnected:
            self._round.dials.append("the other's came first")
        except (PeerUnreachable, ProtocolViolation, LinkLost) as error:
            self._round.dials.append(str(error))
        except trio.TooSlowError:
            self._round.dials.append(f"no link within {self._timeout:g} s")
        else:
            self._round.dials.append("linked")
            self._conversations += 1
            nursery.start_soon(self._converse, link)

    async def _converse(self, link: BLELink) -> None:
        """See one link through; closes it."""
        exchange = Exchange(link)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(exchange.run)
                await self._talk(exchange)
                nursery.cancel_scope.cancel()
        except* LinkLost:
            self._round.lost += 1
        except* trio.TooSlowError:
            self._round.faults.append(f"{link.role.value}: no answer to test values")
        finally:
            await self._over(link)

    async def _over(self, link: BLELink) -> None:
        await link.aclose()
        self._conversations -= 1
        self._changes.unpark_all()

    async def _talk(self, exchange: Exchange) -> None:
        link = exchange.link
        await self._dialled.wait()
        await exchange.signal(DIALLED)
        with trio.fail_after(self._timeout + GOODBYE):
            await exchange.signalled(DIALLED)
        limit = min(link.value_limit, await exchange.hello())
        checks = [await exchange.check(size, COUNT) for size in sorted({VALUE_MINIMUM, limit})]
        if not self._left:
            await exchange.signal(DONE)
        await exchange.signal(CHECKED)
        with trio.move_on_after(GOODBYE):
            if link.role is Role.CENTRAL:
                await exchange.signalled(CHECKED)
            else:
                await exchange.until_ended()
        self._peer_is_done = self._peer_is_done or exchange.was_signalled(DONE)
        if all(check.ok for check in checks):
            self._round.passed.append(link.role.value)
        else:
            self._round.faults += [f"{link.role.value}: {check}" for check in checks if not check.ok]


async def run(config: BLEConfig, arguments: argparse.Namespace, progress: Progress) -> int:
    """Race; 0 when every round ended with a link and every link worked. Raises `CommandError`."""
    rounds: list[_Round] = []
    async with open_station(config) as driver:
        await driver.start_advertising(config.device_name)
        own = driver.address or "ADDRESS"
        progress.say(f"we are {own}; on the other machine: {command(config, 'race', own)}")
        device = await sight(driver, config, arguments.address, arguments.timeout, "race", own)
        race = _Race(driver, device.address, arguments.timeout, arguments.rounds)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(race.accept)
            for number in range(1, arguments.rounds + 1):
                rounds.append(await race.run())
                progress.say(f"round {number}: {_line(rounds[-1])}")
            await race.wait_for_peer()
            nursery.cancel_scope.cancel()
    ok = all(round_.ok for round_ in rounds)
    outcomes = Counter(round_.outcome for round_ in rounds)
    if arguments.json:
        print(
            json.dumps(
                {
                    "ok": ok,
                    "outcomes": outcomes,
                    "rounds": [
                        {
                            "ok": round_.ok,
                            "outcome": round_.outcome,
                            "dials": round_.dials,
                            "lost": round_.lost,
                            "faults": round_.faults,
                            "seconds": round(round_.seconds, 3),
                        }
                        for round_ in rounds
                    ],
                }
            )
        )
    else:
        for outcome, number in outcomes.most_common():
            print(f"{number:4} rounds: {outcome}")
        again = sum(len(round_.dials) > 1 for round_ in rounds)
        lost = sum(round_.lost for round_ in rounds)
        print(
            f"{again:4} rounds took more than one dial of ours; {lost} links ended before they were checked"
        )
        for number, round_ in enumerate(rounds, 1):
            for fault in round_.faults or ([] if round_.passed else round_.dials):
                print(f"round {number}: {fault}")
        print("\nAll is well." if ok else "\nNOT all is well.")
    return 0 if ok else 1


def _line(round_: _Round) -> str:
    return f"{round_.outcome}, {round_.seconds:.2f} s ({'; '.join(round_.dials)})"
