"""Bluetoothd's and the D-Bus daemon's part of values that come by WriteValue, in a process of its own, so
that their work is not counted as ours.

    python bus_peer.py DESCRIPTOR VALUES BYTES SERVICE_UUID

Accepts one connection on the listening socket, answers what a peripheral asks when it puts its service up,
and after every ping writes so many values.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from dbus_next import Message, MessageFlag, MessageType, Variant

# Nothing public of it reads messages from a socket of one's own, or writes as somebody else.
from dbus_next._private.constants import HeaderField
from dbus_next._private.marshaller import Marshaller
from dbus_next._private.unmarshaller import Unmarshaller

from rns_ble.drivers.bluez.peripheral import SERVICE
from rns_ble.drivers.bluez.tree import CHARACTERISTIC

PATIENCE: Final = 60.0
"""Seconds for the other end to do something: it may just start."""

OPTIONS: Final = {
    "device": Variant("o", "/org/bluez/hci0/dev_02_00_00_00_00_0A"),
    "link": Variant("s", "LE"),
    "mtu": Variant("q", 517),
    "type": Variant("s", "command"),
}
"""What bluetoothd 5.66 says of a write command."""

SERIAL_AT: Final = 8
"""Bytes from the beginning of a message (D-Bus Specification, "Message Format")."""


def main() -> None:
    """Run until the other end closes. Raises `OSError` when it is gone, or does nothing."""
    descriptor, values, size = map(int, sys.argv[1:4])
    with socket.socket(fileno=descriptor) as listener:
        listener.settimeout(PATIENCE)
        connection, _ = listener.accept()
    with connection, connection.makefile("rb") as stream:
        connection.settimeout(PATIENCE)
        authenticate(connection, stream)
        write = write_value(bytes(size))
        for number, message in enumerate(messages(stream)):
            connection.sendall(answer(message, sys.argv[4]))
            if message.member == "Ping":
                for serial in range(number * values, (number + 1) * values):
                    struct.pack_into("<I", write, SERIAL_AT, serial)
                    connection.sendall(write)


def authenticate(connection: socket.socket, stream: BinaryIO) -> None:
    """Let whoever it is in."""
    for line in stream:
        if b"AUTH" in line:
            connection.sendall(b"OK 00112233445566778899aabbccddeeff\r\n")
        elif b"NEGOTIATE_UNIX_FD" in line:
            connection.sendall(b"AGREE_UNIX_FD\r\n")
        elif b"BEGIN" in line:
            return


def messages(stream: BinaryIO) -> Iterator[Message]:
    """What comes, until the end."""
    while True:
        reader = Unmarshaller(stream)
        try:
            yield reader.unmarshall()
        except EOFError:
            return


def answer(call: Message, service_uuid: str) -> bytes:
    """As bytes for the socket."""
    bodies: dict[str, tuple[str, list[Any]]] = {
        "Hello": ("s", [":1.1"]),
        "GetNameOwner": ("s", [":1.0"]),
        "Get": ("v", [Variant("as", [service_uuid])]),
    }
    reply = Message.new_method_return(call, *bodies.get(call.member, ("", [])))
    reply.serial = call.serial
    marshalled: bytes = bytes(reply._marshall())
    return marshalled


def write_value(value: bytes) -> bytearray:
    """One message as the D-Bus daemon hands it on, which adds the sender."""
    fields = {
        HeaderField.PATH: Variant("o", f"{SERVICE}/rx"),
        HeaderField.INTERFACE: Variant("s", CHARACTERISTIC),
        HeaderField.MEMBER: Variant("s", "WriteValue"),
        HeaderField.DESTINATION: Variant("s", ":1.1"),
        HeaderField.SIGNATURE: Variant("g", "aya{sv}"),
        HeaderField.SENDER: Variant("s", ":1.0"),
    }
    body = Marshaller("aya{sv}", [value, OPTIONS]).marshall()
    head = Marshaller(
        "yyyyuua(yv)",
        [
            ord("l"),  # little endian
            MessageType.METHOD_CALL.value,
            MessageFlag.NO_REPLY_EXPECTED.value,
            1,  # version of the protocol
            len(body),
            1,
            [[field.value, value] for field, value in fields.items()],
        ],
    )
    head.marshall()
    head.align(8)
    return bytearray(head.buffer + body)


if __name__ == "__main__":
    main()
