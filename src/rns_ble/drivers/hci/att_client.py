"""The central's side of ATT, as far as the handshake needs it.

Bumble has a GATT client; it ties every request to an asyncio future that outlives the connection and can't be
cancelled cleanly. Here a request is a plain wait in Trio, which ends with its answer, with the link or by
cancellation. After cancellation the client is of no more use: the driver drops the connection then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, TypeVar

import trio
from bumble import att
from bumble.core import UUID

from rns_ble.drivers.base import LinkLost, ProtocolViolation
from rns_ble.protocol.gatt import ATT_MTU_DEFAULT

R = TypeVar("R", bound=att.ATT_PDU)

PRIMARY_SERVICE: Final = UUID.from_16_bits(0x2800)
CHARACTERISTIC: Final = UUID.from_16_bits(0x2803)
CLIENT_CHARACTERISTIC_CONFIGURATION: Final = b"\x02\x29"
"""Bluetooth Assigned Numbers, 3.5 and 3.6; the last one as on the air."""

LAST_HANDLE: Final = 0xFFFF


class AttRefusal(Exception):
    """The peer has answered a request with an error."""

    def __init__(self, code: int) -> None:
        super().__init__(f"ATT error 0x{code:02X}")
        self.code = code
        """Vol 3 Part F, 3.4.1.1."""


class Attribute(NamedTuple):
    """A characteristic's value, and where its descriptors end."""

    handle: int
    end: int


class AttClient:
    """One request at a time over one connection. Malformed answers raise `ProtocolViolation`."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        """`send` takes an ATT PDU."""
        self._send = send
        self._expected = -1
        self._answer: bytes | None = None
        self._changed = trio.Event()
        self._over = False

    # --- for whoever receives ---

    def on_pdu(self, pdu: bytes) -> None:
        """A response. One that nobody waits for is dropped."""
        is_error = pdu[0] == att.Opcode.ATT_ERROR_RESPONSE
        if pdu[0] == self._expected or (is_error and self._expected >= 0):
            self._expected = -1
            self._answer = pdu
            self._changed.set()

    def end(self) -> None:
        """The connection is gone."""
        self._over = True
        self._changed.set()

    # --- requests ---

    async def _ask(self, request: att.ATT_PDU, answer: type[R]) -> R:
        """Send a request and wait for its answer. Raises `AttRefusal`, `LinkLost` and `ProtocolViolation`."""
        self._changed = trio.Event()
        self._answer = None
        if not self._over:
            self._expected = att.Opcode[answer.__name__.upper()]
            self._send(bytes(request))
            await self._changed.wait()
        if self._answer is None:
            raise LinkLost("the connection has ended")
        try:
            decoded = att.ATT_PDU.from_bytes(self._answer)
        except Exception as error:  # Bumble raises all kinds of them
            raise ProtocolViolation(f"malformed answer {self._answer.hex()}") from error
        if isinstance(decoded, att.ATT_Error_Response):
            raise AttRefusal(int(decoded.error_code))
        assert isinstance(decoded, answer)
        return decoded

    async def exchange_mtu(self, ours: int) -> int:
        """The ATT_MTU from now on, in bytes; 23 when the peer knows no such request."""
        try:
            answer = await self._ask(
                att.ATT_Exchange_MTU_Request(client_rx_mtu=ours), att.ATT_Exchange_MTU_Response
            )
        except AttRefusal:
            return ATT_MTU_DEFAULT
        return max(ATT_MTU_DEFAULT, min(ours, answer.server_rx_mtu))

    async def find_service(self, uuid: bytes) -> tuple[int, int] | None:
        """First and last handle of the first primary service with this UUID, as on the air."""
        request = att.ATT_Find_By_Type_Value_Request(
            starting_handle=1,
            ending_handle=LAST_HANDLE,
            attribute_type=PRIMARY_SERVICE,
            attribute_value=uuid,
        )
        try:
            answer = await self._ask(request, att.ATT_Find_By_Type_Value_Response)
        except AttRefusal:
            return None
        return next(iter(answer.handles_information), None)

    async def find_characteristics(self, first: int, last: int) -> dict[bytes, Attribute]:
        """Those within a service: UUID as on the air → value."""
        found: list[tuple[int, int, bytes]] = []  # handles of declaration and value, UUID
        start = first
        while start <= last:
            request = att.ATT_Read_By_Type_Request(
                starting_handle=start, ending_handle=last, attribute_type=CHARACTERISTIC
            )
            try:
                answer = await self._ask(request, att.ATT_Read_By_Type_Response)
            except AttRefusal:
                break
            for declaration, content in answer.attributes:
                if declaration < start or len(content) < 5:
                    raise ProtocolViolation("malformed list of characteristics")
                found.append((declaration, int.from_bytes(content[1:3], "little"), content[3:]))
                start = declaration + 1
            if not answer.attributes:
                break
        ends = [declaration - 1 for declaration, _value, _uuid in found[1:]] + [last]
        return {uuid: Attribute(value, end) for (_, value, uuid), end in zip(found, ends, strict=False)}

    async def find_configuration(self, characteristic: Attribute) -> int | None:
        """Handle of the Client Characteristic Configuration descriptor."""
        start = characteristic.handle + 1
        while start <= characteristic.end:
            request = att.ATT_Find_Information_Request(
                starting_handle=start, ending_handle=characteristic.end
            )
            try:
                answer = await self._ask(request, att.ATT_Find_Information_Response)
            except AttRefusal:
                return None
            for handle, uuid in answer.information:
                if handle < start:
                    raise ProtocolViolation("malformed list of descriptors")
                if uuid == CLIENT_CHARACTERISTIC_CONFIGURATION:
                    return handle
                start = handle + 1
            if not answer.information:
                break
        return None

    async def read(self, handle: int) -> bytes:
        """A value, of which one response brings ATT_MTU - 1 bytes at most. Raises `AttRefusal`."""
        answer = await self._ask(att.ATT_Read_Request(attribute_handle=handle), att.ATT_Read_Response)
        return answer.attribute_value

    async def write(self, handle: int, value: bytes) -> None:
        """Write with response. Raises `AttRefusal`."""
        request = att.ATT_Write_Request(attribute_handle=handle, attribute_value=value)
        await self._ask(request, att.ATT_Write_Response)
