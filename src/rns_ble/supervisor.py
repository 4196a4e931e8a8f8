"""A mesh that keeps running: when its driver has failed, the next one begins, with what is to outlive it.

What outlives a mesh: whom to leave alone, and until when (`Candidate`), and whom we have known for how long
(`Acquaintances`). Peers and links do not: each has left before the listener is told that the mesh is down.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, NoReturn

import trio

from rns_ble import quiet
from rns_ble.acquaintances import Acquaintances
from rns_ble.candidate import Candidate
from rns_ble.config import BLEConfig
from rns_ble.drivers.base import BLEDriverInterface, BLEError
from rns_ble.mesh import PACKET_MAXIMUM, Listener, Mesh

log = quiet.logger(__name__)

RESTART_FIRST: Final = 1.0
RESTART_LONGEST: Final = 60.0
"""Seconds before the driver is started again after a failure, doubling from the first to the longest: an
adapter that was unplugged comes back in seconds, one that is missing should not cost power for ever."""


async def supervise(
    driver: BLEDriverInterface,
    config: BLEConfig,
    identity: bytes,
    listener: Listener,
    longest_packet: int = PACKET_MAXIMUM,
    linked_elsewhere: Callable[[bytes], bool] = lambda _identity: False,
) -> NoReturn:
    """Keep a mesh running on the driver until cancelled, with back-off when the driver fails.

    The arguments are those of `Mesh`.

    Cancelled: every peer has left, every link is closed and the driver is released when this returns.
    """
    candidates: dict[str, Candidate] = {}
    acquaintances = Acquaintances()
    pause = RESTART_FIRST
    told = ""
    while True:
        began = trio.current_time()
        reason = "stopped"
        try:
            async with driver:
                mesh = Mesh(
                    driver,
                    config,
                    identity,
                    listener,
                    candidates,
                    longest_packet,
                    linked_elsewhere,
                    acquaintances,
                )
                await mesh.run()
        except* BLEError as group:
            reason = _reason(group)
            # The same reason again is no news: an adapter that is missing is said once.
            level = logging.DEBUG if reason == told else logging.ERROR
            log.log(level, "offline: %s (trying again by itself)", reason)
            told = reason
        except* Exception as group:
            reason = _reason(group)
            log.exception("offline because of a bug in the driver or the mesh")
        finally:
            listener.mesh_down(reason)
        if trio.current_time() - began > RESTART_LONGEST:
            pause, told = RESTART_FIRST, ""
        await trio.sleep(pause)
        pause = min(pause * 2, RESTART_LONGEST)


def _reason(group: BaseExceptionGroup[Exception]) -> str:
    """The first cause's own words."""
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return str(first) or type(first).__name__
