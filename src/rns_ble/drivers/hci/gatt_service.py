"""The GATT service of BLE Reticulum, on a server of Bumble's.

Bumble's server does the reading, the discovery and the subscriptions. What writes is looked at here first:

- Writes to RX go to the link at once and in order; the server would start a task for each.
- The server checks no permissions: anybody could write another identity into ours.
- The server keeps each UUID that it is ever asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from bumble import att
from bumble.core import UUID
from bumble.gatt import Characteristic, Service
from bumble.gatt_server import Server

from rns_ble.drivers.hci.advertising_data import uuid_on_air

if TYPE_CHECKING:
    from bumble.device import Connection, Device

    from rns_ble.drivers.hci.link import HciLink

_TYPED_REQUESTS: Final = (att.Opcode.ATT_READ_BY_TYPE_REQUEST, att.Opcode.ATT_READ_BY_GROUP_TYPE_REQUEST)
_TYPED_128_LENGTH: Final = 1 + 2 + 2 + 16
"""Bytes of these with a 128-bit UUID (Vol 3 Part F, 3.4.4.1)."""

_WRITES: Final = (
    att.Opcode.ATT_WRITE_REQUEST,
    att.Opcode.ATT_WRITE_COMMAND,
    att.Opcode.ATT_SIGNED_WRITE_COMMAND,
    att.Opcode.ATT_PREPARE_WRITE_REQUEST,
)
_WRITE_HEADER: Final = 3
"""Bytes: operation code and handle, the same in all of them."""


@dataclass(frozen=True, slots=True)
class Uuids:
    """The four UUIDs of a service, little-endian as on the air."""

    service: bytes
    rx: bytes
    tx: bytes
    identity: bytes

    @classmethod
    def parse(cls, service: str, rx: str, tx: str, identity: str) -> Uuids:
        """Raises `ConfigurationError` for what is no 128-bit UUID."""
        return cls(uuid_on_air(service), uuid_on_air(rx), uuid_on_air(tx), uuid_on_air(identity))


class GattService:
    """Our service. Making it replaces the device's server, so no central may be connected."""

    def __init__(
        self,
        device: Device,
        uuids: Uuids,
        identity: bytes,
        att_mtu: int,
        link_of: Callable[[Connection], HciLink | None],
    ) -> None:
        """`att_mtu`: the most we agree to, in bytes. No attribute asks for security: Reticulum encrypts."""
        self._uuids = uuids
        self._link_of = link_of
        self._server = device.gatt_server = Server(device)
        self._server.max_mtu = att_mtu
        device.add_default_services()
        properties, permissions = Characteristic.Properties, Characteristic.Permissions
        self._rx: Characteristic[bytes] = Characteristic(
            UUID.from_bytes(uuids.rx),
            properties.WRITE | properties.WRITE_WITHOUT_RESPONSE,
            permissions.WRITEABLE,
            att.AttributeValue(read=_refuse_reading, write=self._on_long_write),
        )
        self._tx: Characteristic[bytes] = Characteristic(
            UUID.from_bytes(uuids.tx), properties.READ | properties.NOTIFY, permissions.READABLE, b""
        )
        self._identity: Characteristic[bytes] = Characteristic(
            UUID.from_bytes(uuids.identity), properties.READ, permissions.READABLE, identity
        )
        self._tx.on(Characteristic.EVENT_SUBSCRIPTION, self._on_subscription)
        characteristics: list[Characteristic[Any]] = [self._rx, self._tx, self._identity]
        self._server.add_service(Service(UUID.from_bytes(uuids.service), characteristics))

    @property
    def notifying_handle(self) -> int:
        """The attribute handle of our TX's value."""
        return self._tx.handle

    def take(self, link: HciLink, pdu: bytes) -> bool:
        """A PDU of a client's. False: it is for Bumble's server."""
        if pdu[0] in _TYPED_REQUESTS and len(pdu) == _TYPED_128_LENGTH and not self._knows(pdu[-16:]):
            self._refuse(link, pdu, att.ErrorCode.ATTRIBUTE_NOT_FOUND)
            return True
        if pdu[0] not in _WRITES or len(pdu) < _WRITE_HEADER:
            return False
        handle, value = int.from_bytes(pdu[1:3], "little"), pdu[_WRITE_HEADER:]
        if handle == self._rx.handle and pdu[0] == att.Opcode.ATT_WRITE_COMMAND:
            link.on_value(value)
            return True
        if handle == self._rx.handle and pdu[0] == att.Opcode.ATT_WRITE_REQUEST:
            link.on_write_request(value)
            return True
        attribute = self._server.get_attribute(handle)
        if attribute is None or attribute.permissions & att.Attribute.Permissions.WRITEABLE:
            return False
        self._refuse(link, pdu, att.ErrorCode.WRITE_NOT_PERMITTED)
        return True

    def _knows(self, uuid: bytes) -> bool:
        return uuid in (self._uuids.rx, self._uuids.tx, self._uuids.identity)

    def _refuse(self, link: HciLink, pdu: bytes, code: int) -> None:
        """Answer a request with an error; commands get none (Vol 3 Part F, 3.3)."""
        if pdu[0] not in (att.Opcode.ATT_WRITE_COMMAND, att.Opcode.ATT_SIGNED_WRITE_COMMAND):
            link.send_pdu(bytes([att.Opcode.ATT_ERROR_RESPONSE]) + pdu[:3] + bytes([code]))

    def _on_long_write(self, connection: Connection, value: bytes) -> None:
        link = self._link_of(connection)
        if link is not None:
            link.on_value(value)

    def _on_subscription(self, connection: Connection, notify: bool, _indicate: bool) -> None:
        link = self._link_of(connection)
        if link is not None:
            link.on_subscription(notify)


def _refuse_reading(_connection: Connection) -> bytes:
    raise att.ATT_Error(att.ErrorCode.READ_NOT_PERMITTED)
