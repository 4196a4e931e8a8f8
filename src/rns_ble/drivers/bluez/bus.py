"""One connection to the system bus: calls with deadlines, signals, and the objects that we offer BlueZ.

Private attributes of dbus-next are relied on, and a test watches over them: `MessageBus._writer.sock`, which
is wrapped, because a full socket buffer would otherwise end the connection; and `_loop`, `_fd`, `_stream` and
`_sock`, which it never closes, made by `_setup_socket`.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import trio
from dbus_next import BusType, Message, MessageFlag, MessageType, Variant
from dbus_next.aio import MessageBus
from dbus_next.errors import AuthError

from rns_ble import quiet
from rns_ble.drivers.base import AdapterUnavailable, BLEError, PermissionDenied
from rns_ble.drivers.bluez.unmarshaller import Unmarshaller

if TYPE_CHECKING:
    from rns_ble.drivers.asyncio_loop import AsyncioLoop

log = quiet.logger(__name__)

BLUEZ: Final = "org.bluez"
DBUS: Final = "org.freedesktop.DBus"
DBUS_PATH: Final = "/org/freedesktop/DBus"
PROPERTIES: Final = "org.freedesktop.DBus.Properties"
OBJECT_MANAGER: Final = "org.freedesktop.DBus.ObjectManager"

ADDRESS_VARIABLE: Final = "DBUS_SYSTEM_BUS_ADDRESS"
"""Where the environment says where the system bus is."""

CALL_TIMEOUT: Final = 20.0
"""Seconds for a call that bluetoothd answers without waiting for a peer. It takes milliseconds; one that
takes this long is not answered at all."""

START_TIMEOUT: Final = 10.0
"""Seconds for D-Bus to start bluetoothd. It takes one or two. Where systemd skips the unit, as it does where
the kernel has no Bluetooth, nobody says so, and the bus gives up after 25."""

ROOM_TIMEOUT: Final = 1.0
"""Seconds for the D-Bus daemon to read what fills the socket. It takes milliseconds."""

CLOSE_TIMEOUT: Final = 1.0
"""Seconds for dbus-next to notice that we have closed."""

UNREACHABLE: Final = (
    "BlueZ can't be reached, bluetoothd or the D-Bus system bus does not run: systemctl start bluetooth, or "
    "where that is missing, apt install bluez"
)
FROZEN: Final = "bluetoothd is frozen or overloaded: systemctl restart bluetooth"
BLOCKED: Final = "the adapter is blocked by rfkill: rfkill unblock bluetooth"
"""What a fault is called, whoever meets it first and however often: it is shown once then, not in every
wording. What tells more is logged at DEBUG."""

NOBODY_THERE: Final = frozenset(
    f"{DBUS}.Error.{name}" for name in ("ServiceUnknown", "NameHasNoOwner", "NoReply", "TimedOut")
)
"""What the bus says of a bluetoothd that does not run. `TimedOut` is of one that it has started, as it does
for bleak, and that did not come."""

NOT_STARTED: Final = (f"{DBUS}.Error.Spawn.", "org.freedesktop.systemd1.")
"""The beginnings of what it says when it can't start one, such as systemd's `NoSuchUnit` if disabled."""


class Refused(BLEError):
    """A D-Bus error: `name` is BlueZ's or D-Bus's, for example `org.bluez.Error.InProgress`."""

    def __init__(self, name: str, text: str, what: str) -> None:
        super().__init__(f"{what}: {text or name} ({name})")
        self.name = name
        self.text = text


class Unanswered(AdapterUnavailable):
    """bluetoothd is there but does not answer."""


class BusObject(Protocol):
    """An object that we offer, with one interface."""

    interface: str

    def properties(self) -> dict[str, Variant]:
        """All of them, as they are now."""

    def call(self, member: str, body: Sequence[Any]) -> Reply | None:
        """A method call of BlueZ's. None: there is no such method. Raises `Refused` to answer with an
        error.
        """


class Reply:
    """What a method call is answered with. `gift`: a socket that is BlueZ's once the answer has left."""

    def __init__(self, signature: str = "", *body: Any, gift: socket.socket | None = None) -> None:
        self.signature = signature
        self.body = list(body)
        self.gift = gift


class PatientSocket:
    """A full socket buffer means "later", not the end of the connection."""

    def __init__(self, wrapped: socket.socket) -> None:
        self._wrapped = wrapped

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)

    def send(self, data: bytes | memoryview) -> int:
        """As `socket.send`, but 0 for a full buffer."""
        try:
            return self._wrapped.send(data)
        except BlockingIOError:
            return 0

    def sendmsg(self, *arguments: Any) -> int:
        """As `socket.sendmsg`, but waits for room, `ROOM_TIMEOUT` at most.

        Dbus-next sends messages with sockets this way, and would leave the sockets out the next time.
        """
        try:
            return self._wrapped.sendmsg(*arguments)
        except BlockingIOError:
            room = select.poll()
            room.register(self._wrapped, select.POLLOUT)
            room.poll(ROOM_TIMEOUT * 1000)
            return self._wrapped.sendmsg(*arguments)


class _Connection(MessageBus):  # type: ignore[misc]  # dbus-next has no types
    """It does not leave a socket behind where nobody listens, as after a restart of the bus, and reads with
    our `Unmarshaller`.
    """

    def _create_unmarshaller(self) -> Unmarshaller:
        return Unmarshaller(self._stream, self._sock)

    def _setup_socket(self) -> None:
        try:
            super()._setup_socket()
        except BaseException:
            if hasattr(self, "_sock"):  # there is none for a kind of transport that it does not know
                self._stream.close()
                self._sock.close()
            raise


class Bus:
    """Made by `open_bus`. Use it in Trio tasks; what it calls back runs in the asyncio loop and must not
    raise.

    Only BlueZ is heard. A match rule chooses among what is broadcast, and the system bus lets every local
    user send signals to one connection, in any words.
    """

    def __init__(self, loop: AsyncioLoop, connection: MessageBus) -> None:
        asyncio_loop = cast("asyncio.AbstractEventLoop", loop)
        self.on_signal: Callable[[Message], None] = lambda _message: None
        """BlueZ has signalled."""
        self.on_bluez_gone: Callable[[], None] = lambda: None
        """BlueZ has left the bus."""
        self.on_lost: Callable[[str], None] = lambda _reason: None
        """The connection has ended without our doing."""
        self.unique_name: str = connection.unique_name
        self.signs_of_life = 0
        """Of bluetoothd: who gives some is alive, also if its answers take long. See `alive`."""
        self._loop = asyncio_loop
        self._connection = connection
        self._bluez: str | None = None
        """Who owns BlueZ's name, by a unique name, which nobody can fake. Empty: nobody; None: not known."""
        self._objects: dict[str, BusObject] = {}
        self._gifts: set[socket.socket] = set()
        self._waiting: set[trio.Event] = set()  # of the calls that have no answer yet
        self._given_up: str | None = None
        self._ended = trio.Event()
        connection.add_message_handler(self._on_message)
        watcher = asyncio.ensure_future(connection.wait_for_disconnect(), loop=asyncio_loop)
        watcher.add_done_callback(self._on_disconnected)

    # --- calls ---

    async def call(
        self,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        *body: Any,
        destination: str = BLUEZ,
        timeout: float = CALL_TIMEOUT,  # noqa: ASYNC109 - one for each call, or bluetoothd could stop us
    ) -> Message:
        """Call and wait for the answer. Raises `Refused`, `Unanswered` after `timeout` seconds, and
        `AdapterUnavailable` as soon as the connection has ended or was given up.

        Where bluetoothd does not run, the bus says so at once. It is not started: see `start_bluez`.
        Cancelled: the call is made all the same, and sockets that come with its answer are closed.
        """
        if self._given_up is not None:
            raise AdapterUnavailable(self._given_up)
        message = Message(
            destination=destination,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=list(body),
            flags=MessageFlag.NO_AUTOSTART,
        )
        task = asyncio.ensure_future(self._connection.call(message), loop=self._loop)
        waiting = trio.Event()
        task.add_done_callback(lambda _task: waiting.set())
        self._waiting.add(waiting)
        answered = False
        try:
            with trio.fail_after(timeout):
                await waiting.wait()
            answered = self._given_up is None
        except trio.TooSlowError:
            log.debug("no answer to %s of %s for %g s", member, path, timeout)
            raise Unanswered(FROZEN) from None
        finally:
            self._waiting.discard(waiting)
            if not answered:
                task.add_done_callback(_discard)
        if self._given_up is not None:
            raise AdapterUnavailable(self._given_up)
        try:
            reply: Message = task.result()
        except (OSError, EOFError, asyncio.CancelledError) as error:
            raise AdapterUnavailable(UNREACHABLE) from error
        if reply.message_type is MessageType.ERROR:
            text = str(reply.body[0]) if reply.body else ""
            raise refusal(reply.error_name, text, member)
        return reply

    async def find_bluez(self) -> None:
        """Learn who is BlueZ, now and whenever that changes. Before that nothing of BlueZ's is heard.

        Raises as `call`, but not where BlueZ does not run: it is heard when it comes.
        """
        await self.match(
            f"type='signal',sender='{DBUS}',path='{DBUS_PATH}',interface='{DBUS}',"
            f"member='NameOwnerChanged',arg0='{BLUEZ}'"
        )
        try:
            reply = await self.call(DBUS_PATH, DBUS, "GetNameOwner", "s", BLUEZ, destination=DBUS)
        except Unanswered:
            raise
        except AdapterUnavailable as error:
            log.debug("nobody is BlueZ: %s", error)
            return
        if self._bluez is None:  # or else it has changed since that answer
            self._bluez = str(reply.body[0])

    async def start_bluez(self) -> None:
        """Have D-Bus start bluetoothd where it does not run and D-Bus may do that. One that has crashed stays
        off otherwise: Debian 12's unit says nothing of a restart.

        Never raises; the next call tells what has come of it. Cancelled: bluetoothd may come all the same.
        """
        try:
            await self.call(
                DBUS_PATH,
                DBUS,
                "StartServiceByName",
                "su",
                BLUEZ,
                0,  # no flags; there are none
                destination=DBUS,
                timeout=START_TIMEOUT,
            )
        except BLEError as error:
            log.debug("bluetoothd is not started: %s", error)

    async def catch_up(self) -> None:
        """Until everything has come that BlueZ had to signal: an error may come before the signal that
        explains it, but the signal before the next answer. Never raises.
        """
        with suppress(BLEError):
            await self.ping()

    async def ping(self, *, within: float = CALL_TIMEOUT) -> str:
        """The bluetoothd that answers, by its unique name on the bus: one that was started anew has another.

        `within`: seconds. Raises as `call`.
        """
        reply = await self.call("/org/bluez", f"{DBUS}.Peer", "Ping", timeout=within)
        return str(reply.sender)

    async def get(self, path: str, interface: str, name: str) -> Any:
        """A property's value. Raises as `call`."""
        reply = await self.call(path, PROPERTIES, "Get", "ss", interface, name)
        return reply.body[0].value

    async def set(self, path: str, interface: str, name: str, value: Variant) -> None:
        """Set a property. Raises as `call`."""
        await self.call(path, PROPERTIES, "Set", "ssv", interface, name, value)

    async def acquire(self, path: str, member: str) -> tuple[socket.socket, int]:
        """AcquireWrite or AcquireNotify on a peer's characteristic: the socket and the ATT MTU. Raises as
        `call`.
        """
        reply = await self.call(path, "org.bluez.GattCharacteristic1", member, "a{sv}", {}, timeout=30)
        index, att_mtu = reply.body
        taken = socket.socket(fileno=reply.unix_fds[index])
        taken.set_inheritable(False)
        taken.setblocking(False)
        return taken, att_mtu

    async def match(self, rule: str) -> None:
        """Receive the signals that fit the rule, until the connection ends."""
        await self.call(DBUS_PATH, DBUS, "AddMatch", "s", rule, destination=DBUS)

    def alive(self) -> None:
        """Note that bluetoothd has done something: signalled or called, or moved values through a socket.

        While a flood goes through sockets it may not come to D-Bus for a long time.
        """
        self.signs_of_life += 1

    # --- what we offer ---

    def offer(self, path: str, thing: BusObject) -> None:
        """Answer BlueZ's calls to this path."""
        self._objects[path] = thing

    def withdraw(self, path: str) -> None:
        """No longer answer calls to this path. Idempotent."""
        self._objects.pop(path, None)

    def _on_message(self, message: Message) -> bool:
        if message.message_type not in (MessageType.SIGNAL, MessageType.METHOD_CALL):
            return False
        if _tells_bluez(message):  # before the new one can have said anything
            self._bluez = message.body[2]
            if not self._bluez:
                self.on_bluez_gone()
            return False
        if not self._is_by_bluez(message):
            _close_all(message.unix_fds)  # or whoever likes could use up our descriptors
            return False
        self.alive()
        if message.message_type is MessageType.SIGNAL:
            self.on_signal(message)
            return False
        if not self._is_ours(message):
            return False
        try:
            reply = self._answer(message)
        except Refused as error:
            if MessageFlag.NO_REPLY_EXPECTED not in message.flags:
                self._send(Message.new_error(message, error.name, error.text))
            return True
        if reply is None:
            return False
        if MessageFlag.NO_REPLY_EXPECTED in message.flags:
            return True
        gift = reply.gift
        answer = Message.new_method_return(
            message, reply.signature, reply.body, [] if gift is None else [gift.fileno()]
        )
        sent = self._send(answer)
        if gift is not None:
            self._gifts.add(gift)
            sent.add_done_callback(lambda _sent: self._give_away(gift))
        return True

    def _give_away(self, gift: socket.socket) -> None:
        gift.close()  # what has been sent is a copy
        self._gifts.discard(gift)

    def _is_by_bluez(self, message: Message) -> bool:
        return bool(self._bluez) and message.sender == self._bluez

    def _is_ours(self, message: Message) -> bool:
        path = message.path
        return path in self._objects or any(known.startswith(f"{path}/") for known in self._objects)

    def _answer(self, message: Message) -> Reply | None:
        if message.interface == OBJECT_MANAGER and message.member == "GetManagedObjects":
            below = {
                path: {thing.interface: thing.properties()}
                for path, thing in self._objects.items()
                if path.startswith(f"{message.path}/")
            }
            return Reply("a{oa{sa{sv}}}", below)
        thing = self._objects.get(message.path)
        if thing is None:
            return None
        if message.interface == PROPERTIES:
            properties = thing.properties()
            if message.member == "GetAll":
                return Reply("a{sv}", properties)
            if message.member == "Get" and message.body[1] in properties:
                return Reply("v", properties[message.body[1]])
        elif message.interface == thing.interface:
            return thing.call(message.member, message.body)
        return None

    def _send(self, message: Message) -> asyncio.Future[None]:
        sent: asyncio.Future[None] = self._connection.send(message)
        sent.add_done_callback(_discard)
        return sent

    # --- the end ---

    def _on_disconnected(self, watcher: asyncio.Future[None]) -> None:
        self._ended.set()
        error = None if watcher.cancelled() else watcher.exception()
        if self._given_up is None:
            log.debug("the connection to the D-Bus system bus has ended: %r", error)
            self.give_up(UNREACHABLE)
            self.on_lost(UNREACHABLE)

    def give_up(self, reason: str) -> None:
        """What is behind the bus is of no use any more: every call fails at once, also those under way.

        Idempotent; the first reason counts.
        """
        self._given_up = self._given_up or reason
        for waiting in self._waiting:
            waiting.set()

    async def close(self) -> None:
        """Disconnect. BlueZ then forgets what we have registered, acquired and asked for."""
        self.give_up("the driver has been left")
        self._objects.clear()
        with suppress(OSError):
            self._connection.disconnect()
        try:
            with trio.move_on_after(CLOSE_TIMEOUT, shield=True):
                await self._ended.wait()
        finally:
            _close(self._connection)
            for gift in list(self._gifts):
                self._give_away(gift)


@asynccontextmanager
async def open_bus(loop: AsyncioLoop) -> AsyncIterator[Bus]:
    """Connect to the system bus. Raises `AdapterUnavailable`, `PermissionDenied`."""

    async def connect() -> MessageBus:
        try:
            connection: MessageBus = _Connection(bus_type=BusType.SYSTEM, negotiate_unix_fd=True)
        except (ValueError, OverflowError) as error:  # the latter is of a port
            said = os.environ.get(ADDRESS_VARIABLE)
            raise AdapterUnavailable(
                f"the environment has {ADDRESS_VARIABLE}={said}, which is no address of a D-Bus ({error}): "
                "unset it, or let it name the system bus"
            ) from error
        try:
            await connection.connect()
        except BaseException:
            _close(connection)
            raise
        connection._writer.sock = PatientSocket(connection._writer.sock)
        return connection

    try:
        with trio.fail_after(CALL_TIMEOUT):
            connection = await loop.run_aio_coroutine(connect())
    except PermissionError as error:
        raise PermissionDenied(f"the D-Bus system bus refuses this user: {error}") from error
    except (OSError, AuthError, EOFError, trio.TooSlowError) as error:
        log.debug("the D-Bus system bus: %r", error)
        raise AdapterUnavailable(UNREACHABLE) from error
    bus = Bus(loop, connection)
    try:
        try:
            await bus.find_bluez()
        except Refused as error:
            raise AdapterUnavailable(f"the D-Bus system bus can't be used: {error}") from error
        yield bus
    finally:
        await bus.close()


def _close(connection: MessageBus) -> None:
    """dbus-next leaves that to the garbage collector."""
    connection._loop.remove_reader(connection._fd)
    connection._loop.remove_writer(connection._fd)
    with suppress(OSError):
        connection._stream.close()
    connection._sock.close()


def refusal(name: str, text: str, what: str) -> BLEError:
    """A D-Bus error as one of ours, with what can be done about it."""
    if name in NOBODY_THERE or name.startswith(NOT_STARTED):
        log.debug("%s: %s (%s)", what, text, name)
        return AdapterUnavailable(UNREACHABLE)
    if name == f"{DBUS}.Error.AccessDenied":
        return PermissionDenied(
            f"this user may not use BlueZ ({what}: {text}): add it to the group bluetooth and log in anew"
        )
    if name == f"{BLUEZ}.Error.Blocked":
        return AdapterUnavailable(BLOCKED)
    if name == f"{BLUEZ}.Error.Failed" and text == "Operation already in progress":
        name = f"{BLUEZ}.Error.InProgress"  # what some of BlueZ's methods call it
    return Refused(name, text, what)


def _discard(task: asyncio.Future[Any]) -> None:
    """Take an answer that nobody waits for: note its error as seen, close its sockets."""
    if task.cancelled() or task.exception() is not None:
        return
    _close_all(getattr(task.result(), "unix_fds", ()))


def _close_all(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        with suppress(OSError):
            os.close(descriptor)


def _tells_bluez(message: Message) -> bool:
    """Whether the bus itself says who is BlueZ from now on."""
    said = (message.message_type, message.sender, message.path, message.interface, message.member)
    return (
        said == (MessageType.SIGNAL, DBUS, DBUS_PATH, DBUS, "NameOwnerChanged") and message.body[0] == BLUEZ
    )
