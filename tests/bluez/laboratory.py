"""The laboratory from inside: what a test does to controllers, adapters and daemons of the guest.

See docs/bluez-lab.md. `tests/bluez/lab/boot` has started everything before the tests begin; the environment
says where it is.
"""

from __future__ import annotations

import asyncio
import configparser
import os
import signal
from collections.abc import Awaitable, Callable, Container
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import trio
from dbus_next import BusType, Message, MessageType, Variant
from dbus_next.aio import MessageBus

IN_GUEST: Final = os.environ.get("RNS_BLE_BTLAB") == "1"
ADAPTERS_NAMED: Final = tuple(filter(None, os.environ.get("RNS_BLE_ADAPTERS", "").split(",")))
"""Real adapters of this machine that the tests may use (`nox -s hardware`)."""

SOCKET: Final = "/run/btlab.sock"
BUS_SOCKET: Final = Path("/run/dbus/system_bus_socket")
MAIN_CONF: Final = Path("/etc/bluetooth/main.conf")

PATIENCE: Final = 120.0
"""Seconds until something that the laboratory does counts as failed; the guest is slow on a busy machine."""

POLL: Final = 0.02
"""Seconds between two looks at a thing that nothing reports."""


class LaboratoryError(Exception):
    """The laboratory did not do what it was told."""


# --- D-Bus, apart from the code under test ----------------------------------------------------------------


class _Connection(MessageBus):
    """Leaves no socket behind where nobody listens."""

    def _setup_socket(self) -> None:
        try:
            super()._setup_socket()
        except BaseException:
            self._stream.close()
            self._sock.close()
            raise


async def _on_the_bus(work: Callable[[MessageBus], Awaitable[Any]]) -> Any:
    bus = _Connection(bus_type=BusType.SYSTEM)
    try:
        await bus.connect()
        return await work(bus)
    finally:
        bus.disconnect()
        # The bus may have ended meanwhile, which it says here; dbus-next never closes its socket.
        await asyncio.gather(bus.wait_for_disconnect(), return_exceptions=True)
        bus._stream.close()
        bus._sock.close()


async def _in_a_thread(work: Callable[[MessageBus], Awaitable[Any]]) -> Any:
    def run() -> Any:
        return asyncio.run(asyncio.wait_for(_on_the_bus(work), PATIENCE))

    return await trio.to_thread.run_sync(run)


def _answer(message: Message, reply: Message) -> Any:
    if reply.message_type is MessageType.ERROR:
        raise LaboratoryError(f"{message.member} of {message.path}: {reply.error_name}: {reply.body}")
    return reply.body[0] if reply.body else None


async def call_bluez(
    path: str, interface: str, member: str, signature: str = "", body: list[Any] | None = None
) -> Any:
    """Calls a method of bluetoothd on a connection of its own; what it answered.

    Raises LaboratoryError with BlueZ's error. Cancellation waits for the answer, for at most PATIENCE.
    """
    message = Message(
        destination="org.bluez",
        path=path,
        interface=interface,
        member=member,
        signature=signature,
        body=body or [],
    )

    async def call(bus: MessageBus) -> Any:
        return _answer(message, await bus.call(message))

    return await _in_a_thread(call)


async def own_connections() -> int:
    """How many connections to the system bus this process has, apart from the one that asks."""

    async def count(bus: MessageBus) -> int:
        async def ask(member: str, *body: str) -> Any:
            message = Message(
                destination="org.freedesktop.DBus",
                path="/org/freedesktop/DBus",
                interface="org.freedesktop.DBus",
                member=member,
                signature="s" * len(body),
                body=list(body),
            )
            return _answer(message, await bus.call(message))

        found = 0
        for name in await ask("ListNames"):
            if name.startswith(":") and name != bus.unique_name:
                with suppress(LaboratoryError):  # it has left meanwhile
                    found += await ask("GetConnectionUnixProcessID", name) == os.getpid()
        return found

    return int(await _in_a_thread(count))


async def objects() -> dict[str, dict[str, dict[str, Any]]]:
    """Everything that bluetoothd exports: path, interface, property. Variants are unpacked."""
    tree = await call_bluez("/", "org.freedesktop.DBus.ObjectManager", "GetManagedObjects")
    return {
        path: {
            interface: {name: variant.value for name, variant in properties.items()}
            for interface, properties in interfaces.items()
        }
        for path, interfaces in tree.items()
    }


async def adapters() -> dict[str, dict[str, Any]]:
    """The properties of each `Adapter1` by the adapter's name, in the order of their addresses."""
    found = [
        (path.rpartition("/")[2], interfaces["org.bluez.Adapter1"])
        for path, interfaces in (await objects()).items()
        if "org.bluez.Adapter1" in interfaces
    ]
    return dict(sorted(found, key=lambda adapter: adapter[1]["Address"]))


async def set_powered(adapter: str, powered: bool) -> None:
    """Switches an adapter on or off, as the user's desktop would."""
    await _set(adapter, "Powered", powered)


async def set_discoverable(adapter: str, discoverable: bool) -> None:
    """As a desktop does while its Bluetooth settings are open."""
    await _set(adapter, "Discoverable", discoverable)


async def _set(adapter: str, name: str, value: bool) -> None:
    await call_bluez(
        f"/org/bluez/{adapter}",
        "org.freedesktop.DBus.Properties",
        "Set",
        "ssv",
        ["org.bluez.Adapter1", name, Variant("b", value)],
    )


async def remove_devices(addresses: Container[str] | None = None) -> None:
    """Makes every adapter forget these devices, or all of them, which ends the connections, too."""
    for path, interfaces in (await objects()).items():
        device = interfaces.get("org.bluez.Device1")
        if device and (addresses is None or device["Address"] in addresses):
            try:
                await call_bluez(device["Adapter"], "org.bluez.Adapter1", "RemoveDevice", "o", [path])
            except LaboratoryError as error:
                if "DoesNotExist" not in str(error) and "UnknownObject" not in str(error):
                    raise  # one that went in the meantime is what was wanted


async def named_adapters() -> list[str]:
    """The adapters of `nox -s hardware`, on, and without what an earlier test has left between them."""
    present = await adapters()
    for name in ADAPTERS_NAMED:
        if name not in present:
            raise LaboratoryError(f"there is no adapter {name}; BlueZ has {', '.join(present) or 'none'}")
        if not present[name]["Powered"]:
            await set_powered(name, True)
    await remove_devices({present[name]["Address"] for name in ADAPTERS_NAMED})
    return list(ADAPTERS_NAMED)


def bluez_version(modalias: str) -> tuple[int, int]:
    """BlueZ's version in `Adapter1.Modalias`, whose last four digits are its major and minor one in hex."""
    major, minor = bytes.fromhex(modalias[-4:])
    return major, minor


async def _bus_accepts() -> bool:
    try:
        async with await trio.open_unix_socket(str(BUS_SOCKET)):
            return True
    except OSError:
        return False


# --- daemons ----------------------------------------------------------------------------------------------


async def _until(what: str, condition: Callable[[], Awaitable[bool]]) -> None:
    with trio.move_on_after(PATIENCE) as scope:
        while not await condition():
            await trio.sleep(POLL)
    if scope.cancelled_caught:
        raise LaboratoryError(f"after {PATIENCE:.0f} s, still not {what}")


class Daemon:
    """A daemon of the guest, which tests kill, freeze and start again."""

    def __init__(self, command: list[str], pid: int, log: Path) -> None:
        self._command = command
        self._log = log
        self.pid = pid

    def running(self) -> bool:
        with suppress(ChildProcessError):  # the one that boot has started is init's child
            os.waitpid(self.pid, os.WNOHANG)
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        return state != "Z"

    async def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Ends it, and waits until it has ended. One that has ended already is no error."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)
            os.kill(self.pid, signal.SIGCONT)  # a frozen one takes no other signal but SIGKILL

        async def ended() -> bool:
            return not self.running()

        await _until(f"ended: {self._command[0]}", ended)

    def freeze(self) -> None:
        """It keeps everything, and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def start(self) -> None:
        """Starts it, unless it runs. Nothing waits for it to be ready: see `Laboratory.ready`."""
        if not self.running():
            # No Popen: it would complain at the end of the tests that its process is still running.
            log = (os.POSIX_SPAWN_OPEN, 1, self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            self.pid = os.posix_spawnp(
                self._command[0],
                self._command,
                os.environ,
                file_actions=[log, (os.POSIX_SPAWN_DUP2, 1, 2)],
                setsid=True,
            )


# --- the laboratory ---------------------------------------------------------------------------------------


class Laboratory:
    """Controllers go by their number, which stays; adapters by their name, which the kernel may give anew."""

    def __init__(self) -> None:
        logs = Path(os.environ["RNS_BLE_LAB_LOGS"])
        self.bluetoothd = Daemon(
            ["bluetoothd", "-n"], int(os.environ["BLUETOOTHD_PID"]), logs / "bluetoothd.log"
        )
        self.dbus_daemon = Daemon(
            ["dbus-daemon", "--system", "--nofork", "--nopidfile"],
            int(os.environ["DBUS_DAEMON_PID"]),
            logs / "dbus.log",
        )
        self.count = int(os.environ["RNS_BLE_CONTROLLERS"])
        self._settings = MAIN_CONF.read_text()
        self._scanner = self.bluetoothd.pid
        self._added: set[int] = set()
        self._unplugged: set[int] = set()
        self._out_of_range: set[int] = set()

    async def _command(self, *words: str | int) -> str:
        async with await trio.open_unix_socket(SOCKET) as stream:
            await stream.send_all(" ".join(map(str, words)).encode() + b"\n")
            answer = (await stream.receive_some()).decode().strip()
        if answer.split()[:1] != ["ok"]:
            raise LaboratoryError(answer or "the controllers have ended; see controllers.log")
        return answer.removeprefix("ok").strip()

    @staticmethod
    def address(controller: int) -> str:
        return f"C0:FF:EE:00:00:{controller:02X}"

    async def adapter(self, controller: int) -> str:
        """The name of the adapter that BlueZ has for this controller."""
        for name, properties in (await adapters()).items():
            if properties["Address"] == self.address(controller):
                return name
        raise LaboratoryError(f"BlueZ has no adapter for controller {controller}")

    async def add(self) -> int:
        """A new controller appears. The next test does not have it any more."""
        controller = int(await self._command("add"))
        self._added.add(controller)
        return controller

    async def unplug(self, controller: int) -> None:
        await self._command("remove", controller)
        self._unplugged.add(controller)

    async def plug(self, controller: int) -> None:
        """One that was unplugged appears again, with its address, and perhaps under another name."""
        await self._command("add", controller)
        self._unplugged.discard(controller)

    async def out_of_range(self, controller: int) -> None:
        """Nobody hears it any more; its connections end by their supervision timeout."""
        await self._command("out", controller)
        self._out_of_range.add(controller)

    async def in_range(self, controller: int) -> None:
        await self._command("in", controller)
        self._out_of_range.discard(controller)

    def block(self, adapter: str, blocked: bool = True) -> None:
        """Blocks or unblocks an adapter as `rfkill` does."""
        for switch in Path("/sys/class/bluetooth", adapter).glob("rfkill*"):
            (switch / "soft").write_text("1" if blocked else "0")
            return
        raise LaboratoryError(f"{adapter} has no rfkill switch: the guest's kernel is an old one")

    @staticmethod
    def _unblock() -> None:
        for switch in Path("/sys/class/bluetooth").glob("hci*/rfkill*/soft"):
            if switch.read_text().strip() != "0":
                switch.write_text("0")

    async def restart_bluetoothd(self, **gatt: str | int) -> None:
        """Ends bluetoothd (SIGTERM) and starts it with these settings in main.conf's section GATT.

        `Channels=3` switches EATT on, `ExchangeMTU=185` bounds the ATT MTU. What is not named is as in
        tests/bluez/lab/main.conf. Returns when the adapters are on.
        """
        await self.bluetoothd.kill(signal.SIGTERM)
        self._configure(gatt)
        self.bluetoothd.start()
        await self.ready()

    def _configure(self, gatt: dict[str, str | int]) -> None:
        settings = configparser.ConfigParser()
        settings.optionxform = str  # type: ignore[assignment,method-assign]
        settings.read_string(self._settings)
        for key, value in gatt.items():
            settings["GATT"][key] = str(value)
        with MAIN_CONF.open("w") as file:
            settings.write(file, space_around_delimiters=False)

    async def restart_dbus_daemon(self) -> None:
        """Ends the system bus and everything on it, and starts it and bluetoothd again."""
        await self.dbus_daemon.kill()
        await self.bluetoothd.kill()
        await self._start()
        await self.ready()

    async def _start(self) -> None:
        if not self.dbus_daemon.running():
            BUS_SOCKET.unlink(missing_ok=True)
            self.dbus_daemon.start()
            await _until("there: the system bus", _bus_accepts)
        self.bluetoothd.start()

    async def ready(self) -> None:
        """Waits until every controller that is plugged in has an adapter that is on."""
        plugged = {*range(self.count), *self._added} - self._unplugged
        wanted = {self.address(controller) for controller in plugged}

        async def powered() -> bool:
            try:
                on = {found["Address"] for found in (await adapters()).values() if found["Powered"]}
            except (LaboratoryError, OSError, EOFError):
                return False  # not on the bus yet
            return wanted <= on

        await _until("on: every adapter", powered)

    async def reset(self) -> list[str]:
        """Everything as it was after the boot, whatever a test has done to it; the names of the adapters."""
        for daemon in self.dbus_daemon, self.bluetoothd:
            if daemon.running():
                daemon.thaw()
        if MAIN_CONF.read_text() != self._settings:
            await self.bluetoothd.kill(signal.SIGTERM)
            MAIN_CONF.write_text(self._settings)
        for controller in sorted(self._unplugged):
            await self.plug(controller)
        for controller in sorted(self._added):
            await self.unplug(controller)
        self._added.clear()
        self._unplugged.clear()
        for controller in sorted(self._out_of_range):
            await self.in_range(controller)
        self._unblock()
        await self._start()

        wanted = {self.address(controller) for controller in range(self.count)}

        async def usable() -> bool:
            try:
                found = await adapters()
                await remove_devices()
                if self._scanner != self.bluetoothd.pid:
                    # The kernel goes on for 10 s with the scan of one that was killed, and refuses others.
                    for name in found:
                        await set_powered(name, False)
                    self._scanner = self.bluetoothd.pid
                    return False
                for name, properties in found.items():
                    if not properties["Powered"]:
                        await set_powered(name, True)
            except (LaboratoryError, OSError, EOFError):
                return False  # not on the bus yet, or an adapter that is busy with being switched on or off
            return wanted == {properties["Address"] for properties in found.values() if properties["Powered"]}

        await _until("there and on: every adapter", usable)
        return list(await adapters())
