"""Reads D-Bus messages, and what repeats in them only once.

A central's values come one by one in WriteValue calls. The header fields and options of such a call, some 200
bytes, are the same every time, and taking them apart costs more than everything else that is done with the
value. All reading is dbus-next's own, whose private class this extends; a test watches over it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from dbus_next import MessageType
from dbus_next._private import unmarshaller
from dbus_next.signature import SignatureTree, SignatureType

FIELDS: Final = "a(yv)"
"""The signature of a message's header fields (D-Bus Specification, "Message Format")."""

OPTIONS: Final = "a{sv}"
"""That of the options that a method call of BlueZ's ends with."""

REMEMBERED: Final = 256
"""Headers and options, of all connections: those of 7 centrals, and of signals about a hundred devices."""

SIGNATURES: Final = 1024
"""That dbus-next keeps the trees of. It would keep all that there ever were, 42 kB for one of 255 bytes, and
any local user can have the bus hand on others."""

LONGEST: Final = 512
"""Bytes of one that is remembered: any local user can have the bus hand on longer ones."""

SignatureTree._get = staticmethod(lru_cache(SIGNATURES)(SignatureTree))


class Unmarshaller(unmarshaller.Unmarshaller):  # type: ignore[misc]  # dbus-next has no types
    """One message. What it consists of is shared with later messages, and must not be changed."""

    offset: int

    def read_array(self, type_: SignatureType) -> Any:
        """Header fields, and options of calls, from memory where the same bytes have come before.

        Options are shared as they are: who is called reads them, and keeps none.
        """
        signature = type_.signature
        if signature != FIELDS and (signature != OPTIONS or self.buf[1] != MessageType.METHOD_CALL.value):
            return super().read_array(type_)
        begin = self.offset
        length = self.read_uint32()
        self.align(8)
        end = self.offset + length
        if end - begin > LONGEST or end > len(self.buf):
            self.offset = begin
            return super().read_array(type_)
        self.offset = end
        return _array(signature, self.endian, begin % 8, bytes(self.buf[begin:end]))


@lru_cache(REMEMBERED)
def _array(signature: str, endian: int, phase: int, marshalled: bytes) -> Any:
    """`phase`: bytes since the last multiple of 8, from which the padding inside depends."""
    reader = unmarshaller.Unmarshaller(None)
    reader.endian = endian
    reader.buf = bytearray(phase) + marshalled
    reader.offset = phase
    return reader.read_array(SignatureTree._get(signature).types[0])
