"""Which awaits the BlueZ driver has, and what it takes to come to them."""

from __future__ import annotations

import ast
from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rns_ble.drivers import bluez
from rns_ble.testing.checkpoints import Place, awaits_of

PACKAGE: Final = Path(bluez.__file__).parent

TARGETED_SINCE: Final = (5, 69)
"""The BlueZ since which each central has a socket of its own."""


WAITS_FOR_NOTHING: Final = "async with asyncio.timeout("
"""Only what is inside of it waits."""


@dataclass(frozen=True)
class Await:
    """A line that waits."""

    module: str
    function: str
    line: str
    place: Place

    def __str__(self) -> str:
        return f"{self.place}: {self.line}"


def all_awaits() -> list[Await]:
    """Of the driver."""
    found = []
    for source in sorted(PACKAGE.glob("*.py")):
        text = source.read_text()
        lines = text.splitlines()
        function = {
            number: node.name
            for node in ast.walk(ast.parse(text))  # the inner ones come later
            if isinstance(node, ast.AsyncFunctionDef)
            for number in range(node.lineno, (node.end_lineno or 0) + 1)
        }
        found += [
            Await(source.stem, function[place.line], lines[place.line - 1].strip(), place)
            for place in sorted(awaits_of(source))
            if not lines[place.line - 1].strip().startswith(WAITS_FOR_NOTHING)
        ]
    return found


NOT_BY_ITSELF: Final = {
    # BlueZ refuses something
    ("bus", "catch_up", "await self.ping()"),
    ("driver", "_blame_adapter", "await stack.bus.catch_up()"),
    ("driver", "_scan", "await self._blame_adapter(stack, error)"),
    ("driver", "start_advertising", "await self._blame_adapter(stack, error)"),
    ("driver", "connect", "await self._blame_adapter(stack, error)"),
    ("scanner", "_go_on", "await self._bus.catch_up()"),
    # the adapter is off, or gone
    ("driver", "_find_out", "daemon = await stack.bus.ping()"),
    ("driver", "_find_out", "await trio.sleep(GONE_WITHIN)"),
    ("driver", "_blame_adapter", "await self._find_out(stack)"),
    ("driver", "_part", "await stack.central.release()"),
    # BlueZ gives no socket
    ("central", "_subscribe", 'await client.subscribe(tx, link.on_value, "the subscription to TX")'),
    ("central", "write", 'await client.write(rx, value, "a value", response=not rx.takes_commands)'),
    (
        "bleak_client",
        "subscribe",
        "await self._do(what, self._client.start_notify(characteristic.found, notified))",
    ),
    ("link", "send", "await self._send(value)"),
    # services, connections, or bleak, come later than BlueZ has said
    ("bleak_client", "reopen", "await self.release()"),
    ("bleak_client", "reopen", "await self.open()"),
    ("bleak_client", "_open", "await self._noticed(await get_global_bluez_manager())"),
    ("bleak_client", "_noticed", "await noticed.wait()"),
    (
        "central",
        "_shake_hands",
        "rx, tx, known = await self._characteristics(link.address, device, client, uuids)",
    ),
    ("central", "_characteristics", "await self._links.wait()"),
    ("central", "_characteristics", "await client.reopen()"),
    ("central", "_dial", "await self._links.wait()"),
    ("links", "disconnect", "await self.wait()"),
    ("peripheral", "_wait_until_exported", "await self._links.wait()"),
    ("link", "send", "await self._outlet_changed.wait()"),
    # there is a connection already, or an earlier link on it
    ("central", "_attempt", "await client.open()"),
    (
        "central",
        "_attempt_alone",
        "await ended.aclose()",
    ),
    ("central", "_attempt_alone", "await trio.lowlevel.checkpoint_if_cancelled()"),
    ("central", "say_goodbye", "await self._let_go(client)"),
    ("central", "say_goodbye", "await self._links.forget(path)"),
    # bluetoothd trips over itself, or is busy with an earlier change
    ("central", "connect", "await trio.sleep(RACE_INTERVAL)"),
    ("scanner", "_patiently", "await trio.sleep(RETRY_INTERVAL)"),
    # waits for another attempt, or for an answer that comes at once
    ("driver", "connect", "async with self.establishing:"),
    ("driver", "_watch", "await stack.bus.ping(within=PING_TIMEOUT)"),
    # nobody takes the values
    ("link", "pump", "await self._put(value)"),
    ("link", "_put", "await self._inbox_send.send(value)"),
    # bluetoothd does not read what we send
    ("link", "send", "await outlet.send(value)"),
    ("link", "send", "await trio.lowlevel.wait_writable(self.socket)"),
    ("peripheral", "send", "await self.socket.send(value)"),
}
"""Reached for certain only where a fault, or what BlueZ does seldom, is brought about. That is done in
test_bluez_cancelled_in_faults.py; everything else test_bluez_cancelled.py reaches."""

NEVER_FAILS: Final = {
    # waits only where two tasks want the same, and then for the other one
    ("advertiser", "show", "async with self._changing:"),
    ("driver", "connect", "async with self.establishing:"),
    ("peripheral", "send", "async with self._turn:"),
    # waits for nothing
    ("link", "aclose", "await trio.lowlevel.checkpoint()"),
    ("driver", "_part", "await stack.central.release()  # it has a deadline of its own"),
    # what waits is trio-asyncio's
    ("driver", "_run", "async with open_asyncio_loop() as loop:"),
    # bleak would leave its connection behind; that is why it is shielded
    ("driver", "_run_in", "await prepare_bleak(loop)"),
    ("bleak_client", "prepare_bleak", "await loop.run_aio_coroutine(get_global_bluez_manager())"),
}
"""Out of which no error is thrown, and why."""

TARGETED_ONLY: Final = {("peripheral", "_watch_own")}
SHARED_ONLY: Final = {("peripheral", "_watch_shared"), ("peripheral", "send")}
"""Functions that run with one kind of BlueZ only: since 5.69 each central has a socket of its own, and before
that all share one, so that the other ones are never called."""


def needs_a_fault(one: Await) -> bool:
    return (one.module, one.function, one.line) in NOT_BY_ITSELF


def never_fails(one: Await) -> bool:
    return (one.module, one.function, one.line) in NEVER_FAILS


def caught(error: str) -> set[Place]:
    """The awaits in the body of a `try` that has a handler for this error, by its name."""
    found = set()
    for source in PACKAGE.glob("*.py"):
        places = awaits_of(source)
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Try) and any(
                error in ast.unparse(handler.type) for handler in node.handlers if handler.type is not None
            ):
                last = node.body[-1].end_lineno or 0
                found |= {place for place in places if node.body[0].lineno <= place.line <= last}
    return found


def missed(wanted: Callable[[Await], bool], version: tuple[int, int], reached: Container[Place]) -> list[str]:
    """Of the awaits that are wanted, those that no scenario has reached."""
    elsewhere = SHARED_ONLY if version >= TARGETED_SINCE else TARGETED_ONLY
    return [
        str(one)
        for one in all_awaits()
        if wanted(one) and (one.module, one.function) not in elsewhere and one.place not in reached
    ]
