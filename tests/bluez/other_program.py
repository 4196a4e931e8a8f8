"""Other programs for the tests of the central role, each a process of its own.

    other_program.py serve ADAPTER RX_FLAGS TX_FLAGS PADDING
        A peer that sends back every value but an identity, with so many characteristics before its own.
    other_program.py hold ADAPTER ADDRESS METHOD UUID
        Connects, and calls a method such as AcquireNotify of a characteristic of the peer's.
    other_program.py write ADAPTER ADDRESS UUID HEX
        Connects, and writes a value with response.

Each prints `ready` when it has done that, and stays until it is killed.
"""

# No postponed annotations: dbus-next reads D-Bus types from them.

import asyncio
import sys
from typing import Any

from dbus_next import BusType, Message, MessageType, PropertyAccess, Variant
from dbus_next.aio import MessageBus
from dbus_next.service import ServiceInterface, dbus_property, method

from rns_ble.protocol.gatt import IDENTITY_LENGTH, IDENTITY_UUID, RX_UUID, SERVICE_UUID, TX_UUID

IDENTITY = b"p" * IDENTITY_LENGTH
ROOT = "/other"


class Advertisement(ServiceInterface):
    def __init__(self) -> None:
        super().__init__("org.bluez.LEAdvertisement1")

    @dbus_property(access=PropertyAccess.READ)
    def Type(self) -> "s":  # type: ignore[name-defined]  # noqa: N802, F821
        return "peripheral"

    @dbus_property(access=PropertyAccess.READ)
    def ServiceUUIDs(self) -> "as":  # type: ignore[valid-type]  # noqa: N802, F722
        return [SERVICE_UUID]

    @method()
    def Release(self) -> None:  # noqa: N802
        pass


class Service(ServiceInterface):
    def __init__(self) -> None:
        super().__init__("org.bluez.GattService1")

    @dbus_property(access=PropertyAccess.READ)
    def UUID(self) -> "s":  # type: ignore[name-defined]  # noqa: N802, F821
        return SERVICE_UUID

    @dbus_property(access=PropertyAccess.READ)
    def Primary(self) -> "b":  # type: ignore[name-defined]  # noqa: N802, F821
        return True


class Characteristic(ServiceInterface):
    def __init__(self, uuid: str, flags: list[str], value: bytes = b"") -> None:
        super().__init__("org.bluez.GattCharacteristic1")
        self._uuid = uuid
        self._flags = flags
        self._value = value
        self.on_write = lambda _value: None

    def notify(self, value: bytes) -> None:
        self.emit_properties_changed({"Value": value})

    @dbus_property(access=PropertyAccess.READ)
    def UUID(self) -> "s":  # type: ignore[name-defined]  # noqa: N802, F821
        return self._uuid

    @dbus_property(access=PropertyAccess.READ)
    def Service(self) -> "o":  # type: ignore[name-defined]  # noqa: N802, F821
        return f"{ROOT}/service"

    @dbus_property(access=PropertyAccess.READ)
    def Flags(self) -> "as":  # type: ignore[valid-type]  # noqa: N802, F722
        return self._flags

    @dbus_property(access=PropertyAccess.READ)
    def Value(self) -> "ay":  # type: ignore[name-defined]  # noqa: N802, F821
        return self._value

    @method()
    def ReadValue(self, options: "a{sv}") -> "ay":  # type: ignore  # noqa: N802, F722, F821
        return self._value

    @method()
    def WriteValue(self, value: "ay", options: "a{sv}"):  # type: ignore  # noqa: N802, F722, F821
        self.on_write(bytes(value))

    @method()
    def StartNotify(self) -> None:  # noqa: N802
        pass

    @method()
    def StopNotify(self) -> None:  # noqa: N802
        pass


async def call(
    bus: MessageBus, path: str, interface: str, member: str, signature: str = "", *body: Any
) -> Any:
    message = Message(
        destination="org.bluez",
        path=path,
        interface=interface,
        member=member,
        signature=signature,
        body=list(body),
    )
    reply = await bus.call(message)
    if reply.message_type is MessageType.ERROR:
        raise SystemExit(f"{member} of {path}: {reply.error_name} {reply.body}")
    return reply


async def serve(bus: MessageBus, adapter: str, rx_flags: str, tx_flags: str, padding: str) -> None:
    tx = Characteristic(TX_UUID, tx_flags.split(","))
    rx = Characteristic(RX_UUID, rx_flags.split(","))
    rx.on_write = lambda value: tx.notify(value) if len(value) != IDENTITY_LENGTH else None
    before = [
        Characteristic(f"0000aa{n:02x}-0000-1000-8000-00805f9b34fb", ["read"]) for n in range(int(padding))
    ]
    bus.export(f"{ROOT}/service", Service())
    for n, characteristic in enumerate([*before, rx, tx, Characteristic(IDENTITY_UUID, ["read"], IDENTITY)]):
        bus.export(f"{ROOT}/service/char{n:02d}", characteristic)
    bus.export("/advertisement", Advertisement())
    path = f"/org/bluez/{adapter}"
    await call(bus, path, "org.bluez.GattManager1", "RegisterApplication", "oa{sv}", ROOT, {})
    await call(
        bus, path, "org.bluez.LEAdvertisingManager1", "RegisterAdvertisement", "oa{sv}", "/advertisement", {}
    )


async def connected(bus: MessageBus, adapter: str, address: str, uuid: str) -> str:
    """The path of the characteristic."""
    device = f"/org/bluez/{adapter}/dev_{address.replace(':', '_')}"
    await call(bus, device, "org.bluez.Device1", "Connect")
    while True:
        reply = await call(bus, "/", "org.freedesktop.DBus.ObjectManager", "GetManagedObjects")
        tree = reply.body[0]
        if tree[device]["org.bluez.Device1"]["ServicesResolved"].value:
            for path, interfaces in tree.items():
                found = interfaces.get("org.bluez.GattCharacteristic1")
                if path.startswith(f"{device}/") and found and found["UUID"].value == uuid:
                    return str(path)
        await asyncio.sleep(0.02)


async def hold(bus: MessageBus, adapter: str, address: str, member: str, uuid: str) -> None:
    path = await connected(bus, adapter, address, uuid)
    options: list[Any] = ["a{sv}", {}] if member.startswith("Acquire") else []
    await call(bus, path, "org.bluez.GattCharacteristic1", member, *options)


async def write(bus: MessageBus, adapter: str, address: str, uuid: str, value: str) -> None:
    path = await connected(bus, adapter, address, uuid)
    options = {"type": Variant("s", "request")}
    await call(
        bus, path, "org.bluez.GattCharacteristic1", "WriteValue", "aya{sv}", bytes.fromhex(value), options
    )


async def main(what: str, *arguments: str) -> None:
    bus = await MessageBus(bus_type=BusType.SYSTEM, negotiate_unix_fd=True).connect()
    await {"serve": serve, "hold": hold, "write": write}[what](bus, *arguments)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
