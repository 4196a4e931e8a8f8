"""By which radio a device is connected: BlueZ's `Connected` means LE or BR/EDR, and only the kernel tells.

`Device1.Connect` takes BR/EDR for a device that was lately seen by both, and has no argument for it.
`Adapter1.ConnectDevice` and `Device1.PreferredBearer` are there in an experimental bluetoothd only; the first
refuses devices that are known, the second makes BlueZ reconnect by itself for ever after.
"""

from __future__ import annotations

import fcntl
import socket
import struct
from typing import Final

from rns_ble import quiet

log = quiet.logger(__name__)

AF_BLUETOOTH: Final = 31
BTPROTO_HCI: Final = 1
HCIGETCONNLIST: Final = 0x800448D4
"""These three: Linux, include/net/bluetooth. Python has the first two only where it was built with BlueZ's
headers."""

HEAD: Final = struct.Struct("=HH")
"""Number of the adapter; how many connections there is room for, and then, how many there are."""

CONNECTION: Final = struct.Struct("=H6sBBHI")
"""Handle, address (last byte first), type, whether it is ours, state, link mode."""

CONNECTIONS_AT_MOST: Final = 64
"""More than a controller holds."""

LE_LINK: Final = 0x80
ACL_LINK: Final = 0x01


def only_by_bredr(adapter: str, address: str) -> bool:
    """Whether the device is connected, and by BR/EDR alone. False also where the kernel can't be asked.

    `adapter`: its object path.
    """
    types = link_types(int(adapter.rpartition("hci")[2]), address)
    return ACL_LINK in types and LE_LINK not in types


def also_by_bredr(adapter: str, address: str) -> bool:
    """Whether the device is connected by BR/EDR, whatever else. False also where the kernel can't be asked.

    `adapter`: its object path.
    """
    return ACL_LINK in link_types(int(adapter.rpartition("hci")[2]), address)


def link_types(adapter: int, address: str) -> frozenset[int]:
    """`ACL_LINK`, `LE_LINK` and others, of the connections to this address. Empty where there is none, and
    where the kernel can't be asked.
    """
    room = CONNECTION.size * CONNECTIONS_AT_MOST
    answer = bytearray(HEAD.pack(adapter, CONNECTIONS_AT_MOST) + bytes(room))
    try:
        with socket.socket(AF_BLUETOOTH, socket.SOCK_RAW | socket.SOCK_CLOEXEC, BTPROTO_HCI) as asked:
            fcntl.ioctl(asked, HCIGETCONNLIST, answer)
    except OSError as error:
        log.debug("the connections of hci%d: %s", adapter, error)
        return frozenset()
    _adapter, count = HEAD.unpack_from(answer)
    wanted = bytes.fromhex(address.replace(":", ""))[::-1]
    known = (CONNECTION.unpack_from(answer, HEAD.size + n * CONNECTION.size) for n in range(count))
    return frozenset(kind for _handle, found, kind, _ours, _state, _mode in known if found == wanted)
