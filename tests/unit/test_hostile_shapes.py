"""Any order of events that strangers can bring about, found by Hypothesis and shrunk to what matters."""

from __future__ import annotations

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from rns_ble.config import BLEConfig
from rns_ble.drivers.base import BLEDevice, BLEError
from rns_ble.protocol.gatt import IDENTITY_UUID, RX_UUID, SERVICE_UUID, TX_UUID
from rns_ble.testing import Air, MockBLEDriver
from rns_ble.testing.virtual_time import run_in_virtual_time
from tests.nodes import Node, address_of, identity_of, running, until

STRANGERS = 3

who = st.integers(0, STRANGERS - 1)
identities = st.sampled_from([identity_of(2), identity_of(1), identity_of(9), b"", b"\x01" * 15])
headers = st.builds(
    lambda kind, sequence, total, rest: bytes([kind]) + sequence.to_bytes(2) + total.to_bytes(2) + rest,
    st.integers(0, 4),
    st.sampled_from([0, 1, 2, 3, 65535]),
    st.sampled_from([0, 1, 2, 3, 1000, 65535]),
    st.binary(max_size=15),
)
values = headers | st.sampled_from([b"\x00", b"\x04\x01", b"\x05\x01", b""]) | st.binary(max_size=20)
devices = st.builds(
    BLEDevice,
    st.sampled_from([address_of(2), address_of(0x60), address_of(0x61), "67:00:00:00:00:01"]),
    st.none() | st.integers(-128, 127),
    st.none() | st.text(max_size=300),
    st.dictionaries(st.sampled_from([0xFFFF, 1]), st.binary(max_size=5)),
)
steps = st.one_of(
    st.tuples(st.just("connect"), who, identities),
    st.tuples(st.just("send"), who, st.lists(values, max_size=4)),
    st.tuples(st.just("leave"), who, st.booleans()),
    st.tuples(st.just("advertise"), who, st.sampled_from([identity_of(2), identity_of(9), None, b"short"])),
    st.tuples(st.just("mtu"), st.sampled_from([23, 185, 517]), st.none()),
    st.tuples(st.just("see"), st.just(0), devices),
    st.tuples(st.just("wait"), st.just(0), st.sampled_from([0.01, 1, 2, 5, 11, 46])),
)


class Script:
    """Plays the strangers' part."""

    def __init__(self, air: Air, node: Node, drivers: list[MockBLEDriver]) -> None:
        self.air, self.node, self.drivers = air, node, drivers
        self.links = {}

    async def connect(self, index: int, identity: bytes) -> None:
        driver = self.drivers[index]
        driver._identity = identity
        with trio.move_on_after(5):
            try:
                self.links[index] = await driver.connect(self.node.driver.address)
            except BLEError:
                return

    async def send(self, index: int, some: list[bytes]) -> None:
        link = self.links.get(index)
        with trio.move_on_after(1):
            for value in some if link is not None else ():
                try:
                    await link.send(value[: link.value_limit])
                except BLEError:
                    return

    async def leave(self, index: int, orderly: bool) -> None:
        link = self.links.pop(index, None)
        if link is not None:
            await link.aclose() if orderly else link.lose()

    async def advertise(self, index: int, identity: bytes | None) -> None:
        self.drivers[index].advertised_identity = identity
        await self.drivers[index].start_advertising("x" * index, {0xFFFF: bytes([3, index])})

    async def mtu(self, att_mtu: int, _nothing: None) -> None:
        self.air.att_mtu = att_mtu

    async def see(self, _nobody: int, device: BLEDevice) -> None:
        self.node.driver._sight(device)

    async def wait(self, _nobody: int, seconds: float) -> None:
        await trio.sleep(seconds)


async def play(script: list[tuple]) -> None:
    air = Air(one_link_per_pair=False, advertising_interval=1)
    config = BLEConfig(power_mode="aggressive", max_connections=3)
    node, honest = Node(air, 1, config), Node(air, 2)
    async with running(node, honest):
        await until(lambda: honest.identity in node.peers and node.identity in honest.peers)
        async with trio.open_nursery() as nursery:
            drivers = [MockBLEDriver(air, address_of(0x60 + n)) for n in range(STRANGERS)]
            for driver in drivers:
                driver.set_identity(identity_of(9))
                air.separate(driver.radio_address, honest.driver.radio_address)

            async def stay(driver: MockBLEDriver) -> None:
                async with driver:
                    await driver.start(SERVICE_UUID, RX_UUID, TX_UUID, IDENTITY_UUID)
                    await trio.sleep_forever()

            for driver in drivers:
                nursery.start_soon(stay, driver)
            await trio.sleep(0.1)
            played = Script(air, node, drivers)
            for name, one, other in script:
                await getattr(played, name)(one, other)
                assert node.mesh.admission.places.borrowed_tokens <= 3
            for n, (sender, receiver) in enumerate(((node, honest), (honest, node))):
                packet = b"served" + bytes([n])
                assert sender.peers[receiver.identity].outgoing.put(packet)
                await until(lambda r=receiver, s=sender, p=packet: (s.identity, p) in r.packets, 10)
            nursery.cancel_scope.cancel()
        assert [what for what in honest.history if what != "up"] == ["joined a1"]


@settings(max_examples=60)
@given(st.lists(steps, max_size=25), st.integers(0, 3))
def test_whatever_strangers_do_the_honest_peer_is_served(script: list[tuple], seed: int) -> None:
    run_in_virtual_time(play, script, seed=seed)
