"""One HCI controller and Bumble's host on it, as the driver uses them: open, command, dial, disconnect.

Faults of Bumble's host that are kept away from the driver here:

- An HCI command can't be taken back: its answer would be taken for the next one's. `call` shields it; every
  command ends in `COMMAND_TIMEOUT`, and a controller that does not answer has failed.
- `Device.connect` resolves on any new connection, also on one that somebody made to us, and cancelling it
  leaves the dial in the controller. `dial` sends the command itself, checks role and address, and takes
  the dial back before it ends.
- A connection made after its dial was cancelled trips an assertion, for the own address type is forgotten.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

import trio
from bumble import core, hci
from bumble.core import CommandTimeoutError
from bumble.transport.common import TransportLostError

from rns_ble import quiet
from rns_ble.drivers.base import AdapterFull, AdapterUnavailable, AlreadyConnected, BLEError, PeerUnreachable
from rns_ble.drivers.hci.host import RadioDevice, RadioHost

if TYPE_CHECKING:
    from bumble.device import Connection

    from rns_ble.drivers.asyncio_loop import AsyncioLoop
    from rns_ble.drivers.hci.transports import Transport

log = quiet.logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

COMMAND_TIMEOUT: Final = 2.0
"""Seconds until a command must be answered. Dongles take milliseconds."""
OPEN_TIMEOUT: Final = 10.0
"""Seconds until a controller must be reset and read out: some 20 commands, and firmware in some dongles."""

CONNECTION_INTERVAL: Final = (12, 24)
"""15 to 30 ms, in units of 1.25 ms: faster than what Android calls balanced (30 to 50), and iOS allows it."""
SUPERVISION_TIMEOUT: Final = 300
"""3 s, in units of 10 ms: iOS allows 2 to 6 s (Accessory Design Guidelines), Android takes 5. A shorter one
loses links when somebody walks through them, a longer one keeps dead ones. A controller may take so long to
end a connection with a peer that does not answer any more, so it is less than `DISCONNECT_TIMEOUT`."""
DISCONNECT_TIMEOUT: Final = 4.0
"""Seconds we wait for the end of a connection: a part of `GOODBYE_TIMEOUT`."""
RESET_AFTER: Final = 2.5
"""Seconds for all connections to end when the driver is left; then a reset ends the rest of them."""
DIAL_SCAN: Final = (96, 96)
"""Interval and window of the scan for the advertisement to answer: 60 ms in units of 0.625 ms, no pauses."""

FULL: Final = {
    hci.HCI_ErrorCode.CONNECTION_LIMIT_EXCEEDED_ERROR,
    hci.HCI_ErrorCode.MEMORY_CAPACITY_EXCEEDED_ERROR,
}
"""What a controller says that has no room for another connection (Vol 1 Part F, 2.7 and 2.9)."""

USER_ENDED: Final = hci.HCI_ErrorCode.REMOTE_USER_TERMINATED_CONNECTION_ERROR


class _Dial:
    """A connection that is being made, until the controller has said how it ended."""

    def __init__(self, address: hci.Address) -> None:
        self.address = address
        self.connection: Connection | None = None
        self.status: int | None = None
        self.superseded = False
        """The peer has connected to us meanwhile."""
        self.ended = trio.Event()
        """The controller has said it."""
        self.settled = trio.Event()
        """There is nothing more to wait for."""

    def end(self, status: int | None = None) -> None:
        """It has ended, and there is nothing more to wait for."""
        self.status = status
        self.ended.set()
        self.settled.set()


class Stack:
    """Bumble's host on an open transport. `power_on` first, `power_off` last."""

    def __init__(
        self,
        loop: AsyncioLoop,
        transport: Transport,
        address: hci.Address,
        *,
        on_failure: Callable[[BLEError], None],
        on_report: Callable[[Any], None],
        on_att_pdu: Callable[[int, bytes], bool],
        on_connection: Callable[[Connection, bool], None],
    ) -> None:
        """`on_connection` takes each new connection, and whether it is the one that `dial` waits for."""
        self.loop = loop
        self.failure: BLEError | None = None
        self.own_address_type = hci.OwnAddressType.RANDOM
        self._transport = transport
        self._on_failure = on_failure
        self._announce = on_connection
        self._dial: _Dial | None = None
        self._ends: dict[int, trio.Event] = {}
        self._opening = trio.CancelScope()
        self._answers = True  # until a command was not answered: then it is asked nothing more
        self.host = RadioHost()
        self.host.set_packet_source(transport.source)
        self.host.set_packet_sink(transport.sink)
        self.device = RadioDevice(self.host, address, on_report, on_att_pdu)
        self.device.command_timeout = COMMAND_TIMEOUT
        self.device.on("connection", self._on_connection)
        self.device.on("connection_failure", self._on_connection_failure)
        transport.source.terminated.add_done_callback(self._on_lost)

    # --- life ---

    async def power_on(self, *, prefer_public: bool) -> None:
        """Reset the controller and read it out. `prefer_public`: use its public address, if it has one.

        Raises `AdapterUnavailable`. Takes `OPEN_TIMEOUT` at most.
        """
        name = self._transport.name
        self._opening.deadline = trio.current_time() + OPEN_TIMEOUT
        with self._opening:
            try:
                await self.loop.run_aio_coroutine(self.device.power_on())
            except Exception as error:
                if self.failure is None:
                    raise AdapterUnavailable(
                        f"{name} can't be used ({error}): {self._transport.restart}"
                    ) from error
        if self._opening.cancelled_caught:
            self.fail(AdapterUnavailable(f"{name} does not answer: check that it is an HCI controller"))
        if self.failure is not None:
            raise self.gone()
        public = self.device.public_address
        if prefer_public and public.is_public and public not in (hci.Address.ANY, hci.Address.NIL):
            self.own_address_type = hci.OwnAddressType.PUBLIC
        self.device.connect_own_address_type = self.own_address_type
        self.device.keystore = None  # pairings are forgotten with their connection: we never ask for one

    @property
    def address(self) -> hci.Address:
        """The address we advertise and connect from."""
        if self.own_address_type == hci.OwnAddressType.PUBLIC:
            return self.device.public_address
        return self.device.random_address

    async def power_off(self) -> None:
        """End all connections, and leave the controller as after power-on. Shields itself; never raises.

        Takes `RESET_AFTER` and one `COMMAND_TIMEOUT` at most, for what does not answer once has failed.
        """
        self._transport.source.terminated.remove_done_callback(self._on_lost)
        with trio.CancelScope(shield=True):
            if self.failure is None:
                # First of all: a dial that began meanwhile would outlive the reset, and nobody end it.
                self.failure = AdapterUnavailable("the driver was left")
                if self.device.powered_on:
                    await self._wind_down()
            self._end_all()

    async def _wind_down(self) -> None:
        try:
            await self._command(self.device.stop_advertising)
            if self._dial is not None:
                await self._take_back(self._dial)
            await self.disconnect_all(RESET_AFTER)
            await self._command(self.device.send_sync_command, hci.HCI_Reset_Command())
        except (hci.HCI_Error, AdapterUnavailable) as error:
            log.debug("%s was not reset: %s", self._transport.name, error)

    async def watch_loop(self) -> None:
        """Fail when the loop ends, as it does where another driver has opened it and is left before."""
        try:
            await self.loop.run_aio_coroutine(asyncio.Event().wait())
        except asyncio.CancelledError:
            name = self._transport.name
            self.fail(AdapterUnavailable(f"{name} lost its asyncio loop: the driver that opened it was left"))

    # --- commands ---

    async def call(
        self, function: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run one of Bumble's coroutines to its end, whatever is cancelled meanwhile.

        Raises `bumble.hci.HCI_Error` for what the controller refuses, and `AdapterUnavailable`, after which
        the stack has failed, when it does not answer or is gone. Takes `COMMAND_TIMEOUT` per command at most.
        """
        if self.failure is not None:
            raise self.gone()
        return await self._command(function, *args, **kwargs)

    async def _command(
        self, function: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """`call` for goodbyes, which are also said when the driver is being left."""
        if not self._answers:
            raise self.gone()
        try:
            with trio.CancelScope(shield=True):
                result = await self.loop.run_aio_coroutine(function(*args, **kwargs))
        except (CommandTimeoutError, TransportLostError, asyncio.CancelledError) as error:
            self._answers = False
            if self.failure is None:
                name = self._transport.name
                self.fail(AdapterUnavailable(f"{name} does not answer: {self._transport.restart}"))
            raise self.gone() from error
        return result

    async def call_or_fail(
        self, doing: str, function: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """`call` for what no controller should refuse: raises `AdapterUnavailable` then, but goes on."""
        try:
            return await self.call(function, *args, **kwargs)
        except hci.HCI_Error as error:
            raise AdapterUnavailable(f"{self._transport.name} refuses {doing}: {error.error_name}") from error

    def gone(self) -> BLEError:
        """The failure, to be raised; each time anew, for an exception collects where it was raised."""
        assert self.failure is not None
        return type(self.failure)(*self.failure.args)

    def fail(self, error: BLEError) -> None:
        """The stack has failed; the first reason counts. Whoever waits for the controller stops waiting."""
        if self.failure is not None:
            return
        self.failure = error
        self._opening.cancel()
        self._end_all()
        self._on_failure(error)

    def _end_all(self) -> None:
        """End the dial and all connections, for Bumble and for us: also what Bumble still waits for."""
        if self._dial is not None:
            self._dial.end()
        self.host.end_channels()
        self.host.emit("flush")

    def _on_lost(self, _terminated: object) -> None:
        self.fail(AdapterUnavailable(f"{self._transport.name} is gone: {self._transport.restart}"))

    # --- connections ---

    async def dial(self, address: hci.Address) -> Connection:
        """Connect as central; waits for ever for the peer's advertisement.

        Raises `AlreadyConnected`, `AdapterFull`, `PeerUnreachable`, `AdapterUnavailable`. Cancelled: the dial
        is taken back, and a connection that was made all the same is dropped, in seconds at most.
        """
        if self.failure is not None:
            raise self.gone()
        self._dial = dial = _Dial(address)
        wanted = False
        try:
            await self._begin(dial)
            await dial.settled.wait()
            wanted = not dial.superseded
        finally:
            if not dial.ended.is_set():
                await self._take_back(dial)
            self._dial = None
            if dial.connection is not None and not wanted:
                await self.disconnect(dial.connection)
        if self.failure is not None:
            raise self.gone()
        text = address.to_string(False)
        if dial.superseded or dial.status == hci.HCI_ErrorCode.CONNECTION_ALREADY_EXISTS_ERROR:
            raise AlreadyConnected(f"{text} is connected already")
        if dial.status in FULL:
            raise AdapterFull("the controller holds no more connections")
        if dial.connection is None:
            reason = hci.HCI_ErrorCode(dial.status or 0).name
            raise PeerUnreachable(f"no connection to {text}: {reason}")
        return dial.connection

    def _create_connection(self, address: hci.Address) -> hci.HCI_AsyncCommand:
        shortest, longest = CONNECTION_INTERVAL
        interval, window = DIAL_SCAN
        if self.host.supports_command(hci.HCI_LE_EXTENDED_CREATE_CONNECTION_COMMAND):
            return hci.HCI_LE_Extended_Create_Connection_Command(
                initiator_filter_policy=0,
                own_address_type=self.own_address_type,
                peer_address_type=address.address_type,
                peer_address=address,
                initiating_phys=1 << hci.HCI_LE_1M_PHY_BIT,
                scan_intervals=[interval],
                scan_windows=[window],
                connection_interval_mins=[shortest],
                connection_interval_maxs=[longest],
                max_latencies=[0],
                supervision_timeouts=[SUPERVISION_TIMEOUT],
                min_ce_lengths=[0],
                max_ce_lengths=[0],
            )
        return hci.HCI_LE_Create_Connection_Command(
            le_scan_interval=interval,
            le_scan_window=window,
            initiator_filter_policy=0,
            peer_address_type=address.address_type,
            peer_address=address,
            own_address_type=self.own_address_type,
            connection_interval_min=shortest,
            connection_interval_max=longest,
            max_latency=0,
            supervision_timeout=SUPERVISION_TIMEOUT,
            min_ce_length=0,
            max_ce_length=0,
        )

    async def _begin(self, dial: _Dial) -> None:
        try:
            await self.call(self.device.send_async_command, self._create_connection(dial.address))
        except hci.HCI_Error as error:
            dial.end(error.error_code)

    async def _take_back(self, dial: _Dial) -> None:
        """Cancel the dial and wait until the controller has said how it ended. Shields itself."""
        command = hci.HCI_LE_Create_Connection_Cancel_Command()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 2 * COMMAND_TIMEOUT) as scope:
            try:
                await self._command(self.device.send_sync_command, command)
            except hci.HCI_Error as error:
                # It has just ended by itself, and its event is on the way.
                log.debug("dial to %s could not be cancelled: %s", dial.address, error.error_name)
            except AdapterUnavailable:
                return
            await dial.ended.wait()
        if scope.cancelled_caught:
            self.fail(
                AdapterUnavailable(f"{self._transport.name} does not end a dial: {self._transport.restart}")
            )

    def _on_connection(self, connection: Connection) -> None:
        self._ends[connection.handle] = trio.Event()
        connection.once("disconnection", lambda _reason: self._on_disconnection(connection))
        dial = self._dial
        same_peer = dial is not None and connection.peer_address == dial.address
        asked_for = same_peer and connection.role == hci.Role.CENTRAL
        self._announce(connection, asked_for)
        if dial is not None and asked_for:
            dial.connection = connection
            dial.end()
        elif dial is not None and same_peer:
            # The peer was faster. Not every controller ends the dial by itself.
            dial.superseded = True
            dial.settled.set()

    def _on_connection_failure(self, error: core.ConnectionError) -> None:
        if self._dial is not None:
            self._dial.end(error.error_code)

    def _on_disconnection(self, connection: Connection) -> None:
        self._ends.pop(connection.handle, trio.Event()).set()

    async def disconnect(self, connection: Connection, patience: float = DISCONNECT_TIMEOUT) -> bool:
        """End a connection, and return when the controller says it has ended. Shields itself; never raises.

        False: that has not happened within `patience` seconds. The peer is out of range then, and its central
        has set a longer supervision timeout, at which the connection will end.
        """
        ended = self._ends.get(connection.handle)
        if ended is None or self.device.connections.get(connection.handle) is not connection:
            return True
        command = hci.HCI_Disconnect_Command(connection_handle=connection.handle, reason=USER_ENDED)
        with trio.CancelScope(shield=True, deadline=trio.current_time() + patience) as scope:
            try:
                await self._command(self.device.send_async_command, command)
            except hci.HCI_Error as error:
                # It knows no such connection: the end is on its way to us.
                log.debug("disconnecting %s: %s", connection.peer_address, error.error_name)
            except AdapterUnavailable:
                return True
            await ended.wait()
        return not scope.cancelled_caught

    async def disconnect_all(self, patience: float = DISCONNECT_TIMEOUT) -> None:
        """End all connections at once."""
        async with trio.open_nursery() as nursery:
            for connection in list(self.device.connections.values()):
                nursery.start_soon(self.disconnect, connection, patience)
