"""What the tests of the radio share: drivers on a virtual radio, and bare hosts that do as a test says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar, cast

import pytest
import trio
from bumble import gatt, hci
from bumble.core import UUID
from bumble.device import Connection, Device
from bumble.host import Host

from rns_ble.drivers.asyncio_loop import AsyncioLoop, open_asyncio_loop
from rns_ble.drivers.base import BLELink, Role
from rns_ble.drivers.hci import BumbleDriver, VirtualRadio
from rns_ble.drivers.hci.advertising_data import encode, uuid_on_air
from rns_ble.drivers.hci.controller import RadioController
from rns_ble.drivers.hci.link import HciLink
from rns_ble.protocol.gatt import IDENTITY_UUID, RX_UUID, SERVICE_UUID, TX_UUID

T = TypeVar("T")

CENTRAL = bytes(range(16))
PERIPHERAL = bytes(range(16, 32))


def _static(index: int) -> str:
    return f"C0:00:00:00:00:{index:02X}"


@dataclass
class Port:
    """The host's end of a virtual controller: sends commands, and keeps what the controller says."""

    controller: RadioController
    packets: list[tuple[float, hci.HCI_Packet]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.controller.set_packet_sink(self)

    def on_packet(self, packet: bytes) -> None:
        self.packets.append((trio.current_time(), hci.HCI_Packet.from_bytes(packet)))

    def send(self, packet: hci.HCI_Packet) -> None:
        self.controller.on_packet(bytes(packet))

    def heard(self, kind: type[T]) -> list[T]:
        """All packets of a kind, oldest first."""
        return [packet for _, packet in self.packets if isinstance(packet, kind)]

    def times(self, kind: type[hci.HCI_Packet]) -> list[float]:
        """When they came."""
        return [time for time, packet in self.packets if isinstance(packet, kind)]


class Bench:
    """A radio, and everything to put on it."""

    def __init__(self) -> None:
        self.radio = VirtualRadio()
        self._ports = 0

    # --- controllers without a host ---

    def port(self, *, random_address: bool = True) -> Port:
        """A controller with a static random address; call it inside an asyncio loop."""
        self._ports += 1
        port = Port(RadioController(self.radio))
        address = hci.Address(_static(self._ports))
        if random_address:
            port.send(hci.HCI_LE_Set_Random_Address_Command(address))
        return port

    def advertise(self, port: Port, *, interval: int = 160, own_type: int = 1, response: bytes = b"") -> None:
        """`interval` in units of 0.625 ms."""
        parameters = hci.HCI_LE_Set_Advertising_Parameters_Command(
            advertising_interval_min=interval,
            advertising_interval_max=interval,
            advertising_type=0,
            own_address_type=own_type,
            peer_address_type=0,
            peer_address=hci.Address.ANY,
            advertising_channel_map=7,
            advertising_filter_policy=0,
        )
        port.send(parameters)
        port.send(hci.HCI_LE_Set_Advertising_Data_Command(b"\x02\x01\x06"))
        port.send(hci.HCI_LE_Set_Scan_Response_Data_Command(response))
        port.send(hci.HCI_LE_Set_Advertising_Enable_Command(1))

    def scan(self, port: Port, enable: int = 1, filter_duplicates: int = 0) -> None:
        """Active scanning."""
        if enable:
            port.send(hci.HCI_LE_Set_Scan_Parameters_Command(1, 96, 96, 1, 0))
        port.send(hci.HCI_LE_Set_Scan_Enable_Command(enable, filter_duplicates))

    def dial(self, port: Port, address: hci.Address, *, own_type: int = 1, timeout: int = 300) -> None:
        """Interval 30 ms; `timeout` in units of 10 ms."""
        port.send(
            hci.HCI_LE_Create_Connection_Command(
                96, 96, 0, address.address_type, address, own_type, 24, 24, 0, timeout, 0, 0
            )
        )

    async def connected(self, **keywords: Any) -> tuple[Port, Port]:
        """(central, peripheral), connected to each other."""
        central, peripheral = self.port(), self.port()
        self.advertise(peripheral)
        self.dial(central, peripheral.controller.random_address, **keywords)
        await trio.sleep(0.1)
        assert len(self.radio.connections) == 1
        return central, peripheral

    # --- drivers ---

    @asynccontextmanager
    async def drivers(self, count: int, **keywords: Any) -> AsyncIterator[list[BumbleDriver]]:
        """Drivers that are started, scan and advertise; the first has the identity `CENTRAL`."""
        async with AsyncExitStack() as stack:
            drivers = []
            for index in range(count):
                driver = BumbleDriver(self.radio, address=_static(0xA0 + index), **keywords)
                drivers.append(await stack.enter_async_context(driver))
                await self.start(driver, CENTRAL if index == 0 else PERIPHERAL)
            yield drivers

    @asynccontextmanager
    async def entered(self, transport: str, count: int) -> AsyncIterator[list[BumbleDriver]]:
        """The same on controllers somewhere else."""
        async with AsyncExitStack() as stack:
            drivers = [await stack.enter_async_context(BumbleDriver(transport)) for _ in range(count)]
            for driver in drivers:
                await self.start(driver)
            yield drivers

    async def start(self, driver: BumbleDriver, identity: bytes = CENTRAL) -> None:
        """Let it scan and advertise."""
        driver.set_identity(identity)
        await driver.start(SERVICE_UUID, RX_UUID, TX_UUID, IDENTITY_UUID)
        await driver.start_advertising()
        await driver.start_scanning()

    async def sight(self, driver: BumbleDriver, address: str | None) -> str:
        """Wait for a sighting."""
        with trio.fail_after(30):
            async for device in driver.discovered:
                if device.address == address:
                    return address
        raise AssertionError

    async def link(self, central: BumbleDriver, peripheral: BumbleDriver) -> tuple[HciLink, HciLink]:
        """(the central's end, the peripheral's end), with the handshake taken."""
        with trio.fail_after(30):
            ours = await central.connect(await self.sight(central, peripheral.address))
            theirs = await peripheral.accepted.receive()
            assert await theirs.receive() == central._identity
        assert (ours.role, theirs.role) == (Role.CENTRAL, Role.PERIPHERAL)
        return cast("HciLink", ours), cast("HciLink", theirs)

    async def flood(self, link: BLELink, value: bytes) -> NoReturn:
        """Send until it fails."""
        while True:
            await link.send(value)

    async def drained(self, link: BLELink) -> list[bytes]:
        """What a link brings until its end."""
        with trio.fail_after(30):
            return [value async for value in link]

    # --- a peer of another make ---

    @asynccontextmanager
    async def stranger(
        self, *services: gatt.Service, address: str = _static(0xEE)
    ) -> AsyncIterator[Stranger]:
        """A Bumble host, which has those services and advertises ours; inside an asyncio loop."""
        async with open_asyncio_loop() as loop:
            controller = RadioController(self.radio)
            device = Device(address=hci.Address(address), host=Host(controller, controller))
            device.add_services(services)
            stranger = Stranger(loop, device)
            await stranger.run(device.power_on)
            try:
                yield stranger
            finally:
                controller.detach()


@dataclass
class Stranger:
    """A peer that is not one of ours."""

    loop: AsyncioLoop
    device: Device

    @property
    def address(self) -> str:
        return self.device.random_address.to_string(False)

    async def run(self, function: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
        """Run one of Bumble's coroutines."""
        return await self.loop.run_aio_coroutine(function(*args, **keywords))

    async def advertise(self) -> None:
        """As a peer of the protocol does."""
        data, _ = encode(uuid_on_air(SERVICE_UUID), None, None)
        await self.run(
            self.device.start_advertising,
            advertising_data=data,
            advertising_interval_min=50,
            auto_restart=True,
        )

    async def connect(self, driver: BumbleDriver) -> Connection:
        """As central, to a driver."""
        assert driver.address is not None
        return cast("Connection", await self.run(self.device.connect, hci.Address(driver.address)))

    async def use(self, connection: Connection) -> tuple[Any, Any, Any]:
        """Discover the service: proxies of RX, TX and Identity."""
        client = connection.gatt_client
        (service,) = await self.run(client.discover_service, SERVICE_UUID)
        await self.run(client.discover_characteristics, (), service)
        rx, tx, identity = (
            client.get_characteristics_by_uuid(UUID(uuid))[0] for uuid in (RX_UUID, TX_UUID, IDENTITY_UUID)
        )
        return rx, tx, identity


def service(
    *,
    identity: Any = PERIPHERAL,
    without: tuple[str, ...] = (),
    notify: bool = True,
    uuid: str = SERVICE_UUID,
    on_write: Callable[[Connection, bytes], Any] = lambda _connection, _value: None,
) -> gatt.Service:
    """The protocol's service, as somebody else might have made it."""
    properties = gatt.Characteristic.Properties
    written = gatt.CharacteristicValue(write=on_write)
    characteristics = {
        "rx": gatt.Characteristic(RX_UUID, properties.WRITE | properties.WRITE_WITHOUT_RESPONSE, 2, written),
        "tx": gatt.Characteristic(TX_UUID, properties.READ | (properties.NOTIFY if notify else 0), 1, b""),
        "identity": gatt.Characteristic(IDENTITY_UUID, properties.READ, 1, identity),
    }
    return gatt.Service(uuid, [c for name, c in characteristics.items() if name not in without])


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def make_service() -> Callable[..., gatt.Service]:
    return service
