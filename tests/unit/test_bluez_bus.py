"""Our connection to the system bus: whom it hears, and where the environment says that the bus is."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

if not sys.platform.startswith("linux"):
    pytest.skip("BlueZ is Linux's", allow_module_level=True)

from dbus_next import Message, MessageType, Variant

from rns_ble.drivers.asyncio_loop import open_asyncio_loop
from rns_ble.drivers.base import AdapterUnavailable
from rns_ble.drivers.bluez import BleakDriver
from rns_ble.drivers.bluez.bus import BLUEZ, DBUS, DBUS_PATH, PROPERTIES, Bus, Reply, Unanswered
from rns_ble.drivers.bluez.tree import ADAPTER, Tree

BLUETOOTHD = ":1.5"
STRANGER = ":1.66"
PATH = "/org/bluez/hci0"
POWERED_OFF = (ADAPTER, {"Powered": Variant("b", False)}, [])


class DBusDaemon:
    """As much of it, and of dbus-next's connection to it, as is asked who BlueZ is."""

    unique_name = ":1.1"

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.rules: list[str] = []
        self.sent: list[Message] = []
        self.behind_the_answer: Callable[[], None] = lambda: None
        """What comes when the answer is there and nobody has looked at it yet."""
        self._ended = asyncio.get_running_loop().create_future()

    def add_message_handler(self, handler: Callable[[Message], bool]) -> None:
        self.hear = handler

    async def wait_for_disconnect(self) -> None:
        await self._ended

    def disconnect(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    def send(self, message: Message) -> asyncio.Future[None]:
        self.sent.append(message)
        sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        sent.set_result(None)
        return sent

    async def call(self, message: Message) -> Message:
        assert message.destination == DBUS
        message.serial = 1
        if message.member == "AddMatch":
            self.rules += message.body
            return Message.new_method_return(message)
        assert (message.member, message.body) == ("GetNameOwner", [BLUEZ])
        if self.owner == "frozen":
            await asyncio.Event().wait()
        asyncio.get_running_loop().call_soon(self.behind_the_answer)
        if not self.owner:
            return Message.new_error(message, f"{DBUS}.Error.NameHasNoOwner", "nobody")
        return Message.new_method_return(message, "s", [self.owner])

    def owned(self, before: str, now: str, **lies: str) -> None:
        """It says so, unless there are lies in it."""
        as_it_says = {"sender": DBUS, "path": DBUS_PATH, "interface": DBUS}
        self.hear(signal(**(as_it_says | lies), member="NameOwnerChanged", body=(BLUEZ, before, now)))


class Thing:
    """One of ours that BlueZ may call."""

    interface = "org.bluez.GattCharacteristic1"

    def __init__(self) -> None:
        self.called: list[str] = []

    def properties(self) -> dict[str, Variant]:
        return {}

    def call(self, member: str, _body: object) -> Reply:
        self.called.append(member)
        return Reply()


class Heard:
    """What a bus has let through."""

    def __init__(self, bus: Bus, daemon: DBusDaemon) -> None:
        self.bus, self.daemon = bus, daemon
        self.thing = Thing()
        self.signals: list[str] = []
        self.gone = 0
        bus.on_signal = lambda message: self.signals.append(message.sender)
        bus.on_bluez_gone = self.on_gone
        bus.offer("/ours", self.thing)

    def on_gone(self) -> None:
        self.gone += 1

    def says(self, sender: str) -> bool:
        """Whether a signal of this one's is heard."""
        before = len(self.signals)
        self.daemon.hear(signal(sender))
        return len(self.signals) > before


@asynccontextmanager
async def a_bus(
    owner: str = BLUETOOTHD, after: Callable[[DBusDaemon], None] | None = None
) -> AsyncIterator[Heard]:
    async with open_asyncio_loop() as loop:
        daemon = await loop.run_aio_coroutine(made(owner))
        if after is not None:
            daemon.behind_the_answer = lambda: after(daemon)
        heard = Heard(Bus(loop, daemon), daemon)
        try:
            await heard.bus.find_bluez()
            yield heard
        finally:
            daemon.disconnect()


async def made(owner: str) -> DBusDaemon:
    return DBusDaemon(owner)


def signal(
    sender: str,
    path: str = PATH,
    interface: str = PROPERTIES,
    member: str = "PropertiesChanged",
    body: Any = POWERED_OFF,
    descriptors: tuple[int, ...] = (),
) -> Message:
    signature = "sss" if member == "NameOwnerChanged" else "sa{sv}as"
    return Message(
        message_type=MessageType.SIGNAL,
        sender=sender,
        path=path,
        interface=interface,
        member=member,
        signature=signature,
        body=list(body),
        unix_fds=list(descriptors),
    )


def call(sender: str) -> Message:
    return Message(path="/ours", interface=Thing.interface, member="WriteValue", sender=sender, serial=1)


# --- only BlueZ is heard ---


async def test_a_strangers_signals_are_not_heard_and_are_no_sign_of_life(autojump_clock: object) -> None:
    async with a_bus() as heard:
        tree = Tree(heard.bus)
        tree.objects = {PATH: {ADAPTER: {"Powered": True}}}
        heard.daemon.hear(signal(STRANGER))
        heard.daemon.hear(signal(DBUS))
        assert tree.objects == {PATH: {ADAPTER: {"Powered": True}}}
        assert heard.bus.signs_of_life == 0
        heard.daemon.hear(signal(BLUETOOTHD))
        assert tree.objects == {PATH: {ADAPTER: {"Powered": False}}}
        assert heard.bus.signs_of_life == 1


async def test_nobody_but_bluez_calls_what_is_ours(autojump_clock: object) -> None:
    async with a_bus() as heard:
        assert not heard.daemon.hear(call(STRANGER))  # as if there was nothing
        assert heard.thing.called == []
        assert heard.bus.signs_of_life == 0
        assert heard.daemon.hear(call(BLUETOOTHD))
        assert heard.thing.called == ["WriteValue"]
        assert [answer.destination for answer in heard.daemon.sent] == [BLUETOOTHD]


async def test_descriptors_that_a_stranger_sends_are_closed(autojump_clock: object) -> None:
    async with a_bus() as heard:
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        heard.daemon.hear(signal(STRANGER, descriptors=(writing,)))
        assert os.read(reading, 1) == b""  # nobody has the other end
        os.close(reading)


# --- who is BlueZ ---


async def test_the_bus_is_asked_for_no_more_than_bluez(autojump_clock: object) -> None:
    async with a_bus() as heard:
        (rule,) = heard.daemon.rules
        assert f"sender='{DBUS}'" in rule
        assert f"arg0='{BLUEZ}'" in rule


@pytest.mark.parametrize(
    "lie",
    [
        {"sender": STRANGER},
        {"sender": BLUETOOTHD},
        {"path": "/x"},
        {"interface": "com.example.Whatever"},
    ],
)
async def test_who_bluez_is_only_the_bus_says(autojump_clock: object, lie: dict[str, str]) -> None:
    async with a_bus() as heard:
        heard.daemon.owned(BLUETOOTHD, "", **lie)
        heard.daemon.owned("", STRANGER, **lie)
        assert not heard.gone
        assert not heard.says(STRANGER)
        assert heard.says(BLUETOOTHD)


async def test_a_bluetoothd_that_was_started_anew_is_heard_and_the_old_one_no_more(
    autojump_clock: object,
) -> None:
    async with a_bus() as heard:
        heard.daemon.owned(BLUETOOTHD, "")
        assert heard.gone == 1
        assert not heard.says(BLUETOOTHD)
        heard.daemon.owned("", ":1.7")
        assert heard.says(":1.7")
        assert not heard.says(BLUETOOTHD)
        assert heard.gone == 1


async def test_one_that_comes_later_is_heard(autojump_clock: object) -> None:
    async with a_bus("") as heard:
        assert not heard.says(BLUETOOTHD)
        heard.daemon.owned("", BLUETOOTHD)
        assert heard.says(BLUETOOTHD)


async def test_what_the_bus_says_behind_its_answer_counts(autojump_clock: object) -> None:
    def restarted(daemon: DBusDaemon) -> None:
        daemon.owned(BLUETOOTHD, "")
        daemon.owned("", ":1.7")

    async with a_bus(after=restarted) as heard:
        assert heard.says(":1.7")
        assert not heard.says(BLUETOOTHD)


async def test_a_bus_that_does_not_say_who_it_is_is_of_no_use(autojump_clock: object) -> None:
    with pytest.raises(Unanswered):
        async with a_bus("frozen"):
            pass


# --- where the bus is ---


@pytest.mark.parametrize(
    "address",
    [
        "",
        "/run/dbus/system_bus_socket",
        "unix:path",
        "unix:path=/run/d bus",
        "unix:guid=00",
        "carrier-pigeon:name=1",
        "tcp:host=localhost,port=ssh",
        "tcp:host=localhost,port=70000",
    ],
)
async def test_an_address_that_is_none_is_named_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
    with pytest.raises(AdapterUnavailable) as raised:
        async with BleakDriver("hci0"):
            pass
    assert f"DBUS_SYSTEM_BUS_ADDRESS={address}," in str(raised.value)
