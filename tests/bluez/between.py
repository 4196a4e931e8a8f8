"""A man in the middle of the D-Bus connections to bluetoothd, the driver's and bleak's.

What BlueZ does seldom, or only when it is busy, it then does when a test needs it: it refuses a call, answers
with what was true a moment ago, or signals something late. Everything else goes through to the real one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import dbus_fast.aio
import pytest
from dbus_next import Variant

from rns_ble.drivers.bluez import bus
from rns_ble.drivers.bluez.tree import ADAPTER, CHARACTERISTIC, DEVICE

OURS: Final[type[Any]] = bus._Connection
BLEAKS: Final[type[Any]] = dbus_fast.aio.MessageBus

ALWAYS: Final = 1_000_000
"""Times."""

Matches = Callable[[Any], bool]
"""Whether a message is meant."""


@dataclass(eq=False)
class _Answer:
    matches: Matches
    make: Callable[[Any], Any]
    times: int


@dataclass(eq=False)
class _Lateness:
    connections: type[Any]
    matches: Matches
    seconds: float


class Between:
    """Made by the fixture of its name. What it does to connections that were open before is nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._answers: list[_Answer] = []
        self._latenesses: list[_Lateness] = []
        for kind in (OURS, BLEAKS):
            monkeypatch.setattr(kind, "call", self._calling(kind.call))
            monkeypatch.setattr(kind, "add_message_handler", self._hearing(kind, kind.add_message_handler))

    # --- what a test wants ---

    @contextmanager
    def refusing(
        self, member: str, error: str = "Failed", *, under: str = "/", times: int = ALWAYS
    ) -> Iterator[None]:
        """So many calls of this method, of objects under this path, fail with this error of BlueZ's."""

        def meant(call: Any) -> bool:
            return call.member == member and call.path.startswith(under)

        def refusal(call: Any) -> Any:
            kind = type(call.message_type).ERROR
            return _reply(call, kind, "s", "by a test", error_name=f"{bus.BLUEZ}.Error.{error}")

        with self._answering(meant, refusal, times):
            yield

    @contextmanager
    def hiding_our_service(self, seconds: float) -> Iterator[None]:
        """The adapter's UUIDs are shown late, and those who ask for them are told that there are none."""

        def asks(call: Any) -> bool:
            return call.member == "Get" and call.body == [ADAPTER, "UUIDs"]

        def nothing(call: Any) -> Any:
            return _reply(call, type(call.message_type).METHOD_RETURN, "v", Variant("as", []))

        with self._answering(asks, nothing, ALWAYS), self.late(OURS, seconds, shows(ADAPTER, "UUIDs")):
            yield

    @contextmanager
    def late(self, connections: type[Any], seconds: float, matches: Matches) -> Iterator[None]:
        """What BlueZ signals or calls on these connections comes so many seconds later, or when the object
        goes that it is about.
        """
        lateness = _Lateness(connections, matches, seconds)
        self._latenesses.append(lateness)
        try:
            yield
        finally:
            self._latenesses.remove(lateness)

    # --- how it comes about ---

    @contextmanager
    def _answering(self, matches: Matches, make: Callable[[Any], Any], times: int) -> Iterator[None]:
        answer = _Answer(matches, make, times)
        self._answers.append(answer)
        try:
            yield
        finally:
            self._answers.remove(answer)

    def _calling(self, really: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
        async def call(connection: Any, message: Any) -> Any:
            for answer in self._answers:
                if answer.times and answer.matches(message):
                    answer.times -= 1
                    return answer.make(message)
            return await really(connection, message)

        return call

    def _hearing(self, kind: type[Any], really: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        def add_message_handler(connection: Any, handler: Callable[[Any], Any]) -> None:
            on_their_way: list[tuple[Any, asyncio.TimerHandle]] = []

            def hear(message: Any) -> None:
                on_their_way[:] = [one for one in on_their_way if one[0] is not message]
                if connection.connected:
                    handler(message)

            def handle(message: Any) -> Any:
                if message.member == "InterfacesRemoved":
                    # Nothing is heard of an object that is gone: it would be taken for news of the next one.
                    about = _about(message)
                    for earlier, timer in [one for one in on_their_way if _about(one[0]) == about]:
                        timer.cancel()
                        hear(earlier)
                for lateness in self._latenesses:
                    if lateness.connections is kind and lateness.matches(message):
                        timer = connection._loop.call_later(lateness.seconds, hear, message)
                        on_their_way.append((message, timer))
                        return message.message_type.name == "METHOD_CALL"  # nobody else shall answer it
                return handler(message)

            really(connection, handle)

        return add_message_handler


def _reply(call: Any, kind: Any, signature: str, value: Any, **more: str) -> Any:
    """In the words of the library that the call is of. Nobody looks at its serial number."""
    return type(call)(message_type=kind, reply_serial=1, signature=signature, body=[value], **more)


def _about(message: Any) -> str:
    """The path of an object."""
    told = message.member in ("InterfacesAdded", "InterfacesRemoved")
    return str(message.body[0] if told else message.path)


def shows(interface: str, name: str) -> Matches:
    """A change of this property."""

    def matches(message: Any) -> bool:
        if message.member != "PropertiesChanged":
            return False
        changed, values, _invalidated = message.body
        return changed == interface and name in values

    return matches


connected: Final = shows(DEVICE, "Connected")


def characteristics(message: Any) -> bool:
    """One of a peer's appears."""
    return message.member == "InterfacesAdded" and CHARACTERISTIC in message.body[1]


def subscription(message: Any) -> bool:
    """BlueZ asks for the socket to a central that has subscribed."""
    return message.message_type.name == "METHOD_CALL" and message.member == "AcquireNotify"
