"""What a mesh of nodes does, in virtual time."""

from __future__ import annotations

import logging
from itertools import pairwise

import pytest
import trio

from rns_ble.config import BLEConfig
from rns_ble.drivers.base import BLEDevice, BLELink, DriverState, PeerUnreachable, Role
from rns_ble.mesh import ADVERTISING_RETRY, _heard_within
from rns_ble.protocol.fragmentation import ReassemblyStatistics
from rns_ble.protocol.gatt import IDENTITY_UUID, RX_UUID, SERVICE_UUID, TX_UUID
from rns_ble.protocol.pairs import Cuts, PairFragmenter
from rns_ble.testing import Air, MockBLEDriver
from rns_ble.testing.virtual_time import run_in_virtual_time
from tests.nodes import Node, address_of, identity_of, running, until

pytestmark = pytest.mark.virtual_time


def config(**keys) -> BLEConfig:
    return BLEConfig(**{"power_mode": "aggressive", **keys})


@pytest.mark.parametrize(
    ("keys", "within"),
    [
        ({}, 14),
        ({"power_mode": "balanced", "discovery_interval": 2}, 14),  # without a pause as well
        ({"power_mode": "balanced", "discovery_interval": 5}, 7),
        ({"power_mode": "saver"}, 62),
    ],
)
async def test_a_peer_is_there_for_as_long_as_scan_and_driver_may_leave_it_unheard(keys, within) -> None:
    driver = MockBLEDriver(Air(), address_of(0))
    driver.heard_again_within = 14.0
    assert _heard_within(config(**keys), driver) == within


def linked(one: Node, other: Node) -> bool:
    return other.identity in one.peers and one.identity in other.peers


async def stranger(air: Air, index: int) -> MockBLEDriver:
    """A driver without a mesh, to play a peer by hand. To be entered by the caller."""
    driver = MockBLEDriver(air, address_of(index))
    driver.set_identity(identity_of(index))
    return driver


async def start(driver: MockBLEDriver) -> None:
    await driver.start(SERVICE_UUID, RX_UUID, TX_UUID, IDENTITY_UUID)
    await driver.start_advertising()


# --- joining and packets ---


async def test_two_nodes_find_each_other_and_the_lower_address_dials() -> None:
    air = Air()
    one, other = Node(air, 1), Node(air, 2)
    async with running(one, other):
        await until(lambda: linked(one, other))
        assert air.connects == [(pytest.approx(0, abs=0.5), address_of(1), address_of(2))]
        (link,) = one.mesh.status().peers[0].links
        assert link.role == "central"
        assert link.att_mtu == 517
        await trio.sleep(300)
        assert len(air.connects) == 1


@pytest.mark.parametrize("att_mtu", [23, 185, 247, 517])
@pytest.mark.parametrize("size", [1, 11, 16, 100, 500, 564, 4096])
async def test_a_packet_arrives_unchanged_in_both_directions(att_mtu: int, size: int) -> None:
    air = Air(att_mtu=att_mtu, latency=0.01)
    one, other = Node(air, 1), Node(air, 2)
    packet = bytes(n % 251 for n in range(size))
    async with running(one, other):
        await until(lambda: linked(one, other))
        for sender, receiver in ((one, other), (other, one)):
            assert sender.peers[receiver.identity].outgoing.put(packet)
            await until(lambda receiver=receiver: receiver.packets)
            assert receiver.packets == [(sender.identity, packet)]


async def test_four_nodes_all_in_both_roles_form_a_full_mesh() -> None:
    air = Air()
    nodes = [Node(air, index) for index in range(1, 5)]
    async with running(*nodes):
        await until(lambda: all(len(node.peers) == 3 for node in nodes))
        roles = {link.role for link in nodes[1].driver.links}
        assert roles == {Role.CENTRAL, Role.PERIPHERAL}
        assert len(air.connects) == 6


async def test_packets_of_a_burst_arrive_in_order_and_none_beyond_the_queue() -> None:
    air = Air(latency=0.02)
    one, other = Node(air, 1), Node(air, 2)
    async with running(one, other):
        await until(lambda: linked(one, other))
        outgoing = one.peers[other.identity].outgoing
        taken = [outgoing.put(bytes([n])) for n in range(200)]
        assert taken == [True] * 128 + [False] * 72
        await until(lambda: len(other.packets) == 128)
        assert [packet for _, packet in other.packets] == [bytes([n]) for n in range(128)]
        assert one.mesh.status().peers[0].tx_dropped == 72


# --- attempts ---


async def test_a_thousand_sightings_of_a_hanging_peer_make_one_attempt(caplog) -> None:
    caplog.set_level(logging.DEBUG, "rns_ble")
    air = Air(advertising_interval=0.001)
    node = Node(air, 1, config(connection_timeout=20))
    air.hanging.add(address_of(2))
    async with running(node), await stranger(air, 2) as peer:
        await start(peer)
        await trio.sleep(1)
        assert len(air.connects) == 1
        (candidate,) = node.mesh.admission.candidates.values()
        assert candidate.limiter.borrowed_tokens == 1
        assert (
            f"{address_of(2)} not dialled: an attempt is in flight; in flight: ['{address_of(2)}']"
            in caplog.text
        )
        await trio.sleep(20)  # it times out at 20 s, and is tried again
        assert candidate.last_failure == "no link within 20 s"
        assert len(air.connects) == 2
        assert air.connects[1][0] - air.connects[0][0] >= 20
        air.hanging.clear()
        air.refusing.add(address_of(2))
    times = [time for time, _, _ in air.connects]
    assert all(later - earlier >= 5 for earlier, later in pairwise(times))


async def test_attempts_are_five_seconds_apart_and_failures_lead_to_the_blacklist() -> None:
    air = Air()
    node = Node(air, 1, config(connection_retry_backoff=60, max_connection_failures=3))
    air.refusing.add(address_of(2))
    async with running(node), await stranger(air, 2) as peer:
        await start(peer)
        await trio.sleep(14.9)
        times = [time for time, _, _ in air.connects]
        assert [round(later - times[0]) for later in times] == [0, 5, 10]
        (candidate,) = node.mesh.status().candidates
        assert candidate.failures == 3
        assert (candidate.verdict, candidate.verdict_text) == ("blacklisted", "failed too often")
        assert candidate.last_failure == f"{address_of(2)} refuses the connection"
        await trio.sleep(50)
        assert len(air.connects) == 3
        await trio.sleep(60 + 120)  # 60 s after the third failure, then 120 s after the fourth
        assert len(air.connects) == 5
        air.refusing.clear()
        await until(lambda: node.peers, 200)
        (candidate,) = node.mesh.status().candidates
        assert candidate.verdict == "linked"


async def test_a_higher_address_waits_for_the_grace_then_dials_all_the_same() -> None:
    air = Air()
    node = Node(air, 2, config(dial_grace=20))
    async with running(node), await stranger(air, 1) as peer:
        await start(peer)
        await trio.sleep(19.5)
        assert air.connects == []
        assert node.mesh.status().candidates[0].verdict == "grace"
        await until(lambda: node.peers)
        assert 20 <= air.connects[0][0] < 21


async def test_weak_and_unknown_signals_are_not_dialled() -> None:
    air = Air(rssi=-86)
    node = Node(air, 1, config(min_rssi=-85))
    async with running(node), await stranger(air, 2) as peer:
        await start(peer)
        await trio.sleep(30)
        assert air.connects == []
        assert node.mesh.status().candidates[0].verdict == "too_weak"
        air.rssi = -85
        await until(lambda: node.peers)


async def test_peripheral_only_and_central_only_nodes_meet() -> None:
    air = Air()
    low, high = Node(air, 1, config(enable_central=False)), Node(air, 2, config(enable_peripheral=False))
    async with running(low, high):
        assert await until(lambda: linked(low, high)) < 5  # no grace: the other cannot dial
        assert {source for _, source, _ in air.connects} == {address_of(2)}


async def test_two_peripheral_only_nodes_say_so_once(caplog) -> None:
    air = Air()
    nodes = [Node(air, index, config(enable_central=False)) for index in (1, 2)]
    async with running(*nodes):
        await trio.sleep(10)
        (candidate,) = nodes[0].mesh.status().candidates
        assert candidate.verdict == "both_peripheral_only"
        await trio.sleep(600)
    assert air.connects == []
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == 2, "one each"
    assert "peripheral-only" in warnings[0]


async def test_max_connections_counts_both_roles_and_attempts() -> None:
    air = Air()
    hub = Node(air, 5, config(max_connections=3))
    others = [Node(air, n, config(max_connections=1)) for n in (1, 2, 8, 9)]
    for one in others:
        for other in others:
            if one is not other:
                air.separate(one.driver.address, other.driver.address)
    async with running(hub, *others):
        for _ in range(600):
            await trio.sleep(0.1)
            assert hub.mesh.admission.places.borrowed_tokens <= 3
            assert len(hub.driver.links) <= 4  # one more while it is being turned away
        assert len(hub.peers) == 3
        assert not hub.mesh.status().advertising
        dialled = len(air.connects)
        await trio.sleep(300)
        assert len(air.connects) == dialled, "who is full is not dialled any more"


async def test_two_nodes_with_one_place_each_that_dial_each_other_meet() -> None:
    air = Air()
    nodes = [Node(air, index, config(max_connections=1, dial_grace=0)) for index in (1, 2)]
    air.hanging.add(address_of(0x57))
    async with running(*nodes), await stranger(air, 0x57) as third:
        await start(third)  # takes each node's only place for an attempt, again and again
        await trio.sleep(1)
        assert all(node.mesh.status().advertising for node in nodes), "an attempt stops nobody"
        await third.stop()
        await until(lambda: linked(*nodes), 300)


async def test_a_place_that_becomes_free_is_taken() -> None:
    air = Air()
    hub, first, second = Node(air, 5, config(max_connections=1)), Node(air, 1), Node(air, 2)
    air.separate(address_of(1), address_of(2))
    async with running(hub):
        async with running(first):
            await until(lambda: linked(hub, first))
        async with running(second):
            await until(lambda: linked(hub, second))


# --- two links, and addresses that change ---


async def test_two_simultaneous_dials_end_with_one_peer_and_one_link() -> None:
    air = Air(one_link_per_pair=False)
    # Neither can read its own address, so both dial at once.
    one, other = Node(air, 1), Node(air, 2)
    for node in (one, other):
        node.driver.hides_address = True
    async with running(one, other):
        await until(lambda: linked(one, other))
        await trio.sleep(1)
        assert len(one.driver.links) == len(other.driver.links) == 2
        await trio.sleep(8)
        assert len(one.driver.links) == 2, "never closed within 10 s"
        await trio.sleep(5)
        (link,) = one.driver.links
        assert link.role is Role.CENTRAL, "the central with the lower identity keeps its link"
        assert (len(one.peers), len(other.peers)) == (1, 1)
        assert one.history == ["up", "joined a2"]
        assert other.history == ["up", "joined a1"]
        for node in (one, other):
            assert [c.failures for c in node.mesh.status().candidates] == [0]
        one.peers[other.identity].outgoing.put(b"still there")
        await until(lambda: other.packets)
        await trio.sleep(600)
        assert len(air.connects) == 2, "and neither dials again"


async def test_an_identity_on_a_new_address_keeps_its_interface() -> None:
    air = Air()
    one, phone = Node(air, 1), Node(air, 2)
    async with running(one, phone):
        await until(lambda: linked(one, phone))
        phone.driver.rotate_address("02:00:00:00:00:99")
        air.drop(address_of(1), address_of(2))
        await until(lambda: len(one.driver.links) == 1)
        await trio.sleep(5)
        assert one.history == ["up", "joined a2"], "the link was back within the grace"
        one.peers[phone.identity].outgoing.put(b"hello again")
        await until(lambda: phone.packets)


async def test_of_two_adapters_of_one_node_either_keeps_its_link_and_neither_dials_again() -> None:
    air = Air()
    one, other = Node(air, 1), Node(air, 1, driver=MockBLEDriver(air, address_of(2)))
    one.linked_elsewhere, other.linked_elsewhere = other.peers.__contains__, one.peers.__contains__
    neighbour = Node(air, 3)
    async with running(one, other, neighbour):
        await until(lambda: linked(one, neighbour) and linked(other, neighbour))
        await trio.sleep(60)
        connects = len(air.connects)
        await trio.sleep(600)
        assert len(air.connects) == connects
        for holder, successor in ((one, other), (other, one)):
            air.separate(holder.driver.address, address_of(3))
            await until(lambda successor=successor: linked(successor, neighbour), 30)
            air.unite(holder.driver.address, address_of(3))


async def test_our_own_echo_is_no_peer() -> None:
    air = Air()
    node = Node(air, 1)
    async with running(node), MockBLEDriver(air, address_of(2)) as echo:
        echo.set_identity(node.identity)
        await start(echo)
        await trio.sleep(60)
        assert node.peers == {}
        assert len(air.connects) == 1


# --- loss ---


async def test_a_lost_link_comes_back_and_the_packet_in_flight_with_it() -> None:
    air = Air(latency=0.5, att_mtu=23)
    one, other = Node(air, 1), Node(air, 2)
    packet = bytes(range(250))
    async with running(one, other):
        await until(lambda: linked(one, other))
        await trio.sleep(6)  # or pacing delays the second attempt
        one.peers[other.identity].outgoing.put(packet)
        await trio.sleep(0.7)
        air.drop(address_of(1), address_of(2))
        await until(lambda: other.packets)
        assert other.packets == [(one.identity, packet)]
        assert one.history == ["up", "joined a2"]


async def test_a_peer_out_of_range_leaves_after_the_grace_and_joins_when_it_is_back() -> None:
    air = Air()
    one, other = Node(air, 1), Node(air, 2)
    async with running(one, other):
        await until(lambda: linked(one, other))
        air.separate(address_of(1), address_of(2))
        await trio.sleep(1.9)
        assert linked(one, other)
        await trio.sleep(0.3)
        assert not one.peers
        assert not other.peers
        await trio.sleep(100)
        air.unite(address_of(1), address_of(2))
        await until(lambda: linked(one, other))
    assert one.history == ["up", "joined a2", "left a2", "joined a2", "left a2", "down: stopped"]


@pytest.mark.parametrize("mode", ["aggressive", "balanced"])
@pytest.mark.parametrize("new_address", ["02:00:00:00:00:09", "02:00:00:00:00:03"])
async def test_a_node_that_comes_back_under_another_address_is_not_kept_waiting(mode, new_address) -> None:
    air = Air()
    one = Node(air, 5, config(power_mode=mode))
    # The lower address is ours in one case and theirs in the other; the old one is dialled in neither.
    async with running(one):
        async with running(Node(air, 2)):
            await until(lambda: one.peers)
            await trio.sleep(60)
        other = Node(air, 2, driver=MockBLEDriver(air, new_address))
        async with running(other):
            assert await until(lambda: linked(one, other) and one.driver.links) < 6
    assert [address for _, source, address in air.connects if source == address_of(5)] in ([], [new_address])


class PausesScans(MockBLEDriver):
    """Hears nobody while it connects, as drivers of one radio."""

    async def connect(self, address: str) -> BLELink:
        await self.stop_scanning()
        try:
            return await super().connect(address)
        finally:
            with trio.CancelScope(shield=True):
                await self.start_scanning()


async def test_an_address_that_was_heard_once_more_after_its_link_does_not_hold_up_the_next_one() -> None:
    air = Air()
    one = Node(air, 1, driver=PausesScans(air, address_of(1)))
    async with running(one):
        async with running(Node(air, 2)):
            await until(lambda: one.peers)
            await trio.sleep(60)
        air.hanging.add(address_of(2))
        one.driver._sight(BLEDevice(address_of(2), -60))
        other = Node(air, 2, driver=MockBLEDriver(air, address_of(9)))
        async with running(other):
            assert await until(lambda: linked(one, other)) < 10
    assert [address for _, _, address in air.connects][-2:] == [address_of(2), address_of(9)]


async def test_who_stops_is_not_heard_while_it_closes_its_links() -> None:
    air = Air()
    one, other = Node(air, 1), Node(air, 2)
    heard: list[float] = []
    async with running(one), running(other):
        await until(lambda: linked(one, other))
        await trio.sleep(10)
        for link in other.driver.links:
            close = link.aclose

            async def slowly(close=close) -> None:
                with trio.CancelScope(shield=True):
                    await trio.sleep(1)
                    heard.append(DriverState.ADVERTISING in other.driver.state)
                await close()

            link.aclose = slowly
    assert heard == [False]


async def test_an_address_that_is_gone_does_not_hold_up_the_others() -> None:
    air = Air()
    node = Node(air, 1)
    air.hanging.add(address_of(2))
    async with running(node), await stranger(air, 2) as gone:
        await start(gone)
        await until(lambda: air.connects)
        await gone.stop()
        async with running(Node(air, 3, config(dial_grace=3600))) as _:
            assert await until(lambda: node.peers) < 7


async def test_a_dead_node_is_replaced_by_itself() -> None:
    air = Air()
    one = Node(air, 1)
    async with running(one):
        for _ in range(3):
            other = Node(air, 2)
            async with running(other):
                await until(lambda other=other: linked(one, other))
            await until(lambda: not one.peers)


async def test_a_peer_that_drops_us_at_once_is_not_dialled_for_ever() -> None:
    air = Air()
    node = Node(air, 1)

    async def drop_everyone(driver) -> None:
        async for link in driver.accepted:
            await trio.sleep(0.5)
            await link.aclose()

    async with running(node), await stranger(air, 2) as peer, trio.open_nursery() as nursery:
        await start(peer)
        nursery.start_soon(drop_everyone, peer)
        await trio.sleep(600)
        assert len(air.connects) < 10
        nursery.cancel_scope.cancel()


# --- handshake and heartbeat ---


async def connected_by_hand(node: Node, driver: MockBLEDriver):
    """A link that the driver made to the node, handshake done."""
    await driver.start(SERVICE_UUID, RX_UUID, TX_UUID, IDENTITY_UUID)
    await until(lambda: node.mesh and node.mesh.status().advertising)
    return await driver.connect(node.driver.address)


async def test_a_central_that_tells_no_identity_is_dropped_after_30_seconds() -> None:
    air = Air()
    node = Node(air, 1)
    async with running(node), await stranger(air, 2) as driver:
        driver._identity = b"\x01not an identity"[:15]
        link = await connected_by_hand(node, driver)
        await link.send(bytes(17))
        await trio.sleep(29)
        assert link in driver.links
        assert node.peers == {}
        assert [value async for value in link] == [], "nothing is notified before the identity is known"
        assert 29 < trio.current_time() < 32
        await link.aclose()


async def test_values_before_the_identity_are_dropped_not_fatal() -> None:
    air = Air()
    node = Node(air, 1)
    async with running(node), await stranger(air, 2) as driver:
        driver._identity = b"\x00"
        link = await connected_by_hand(node, driver)
        await link.send(bytes.fromhex("0100000001") + b"too early")
        await link.send(identity_of(2))
        await link.send(bytes.fromhex("0100000001") + b"in time")
        await until(lambda: node.packets)
        assert node.packets == [(identity_of(2), b"in time")]
        await link.send(identity_of(2))  # repeated: ignored
        await link.send(b"???")
        await link.send(bytes.fromhex("0300000001") + b"END")
        await until(lambda: len(node.packets) == 2)
        assert node.mesh.status().peers[0].rx_foreign == 1
        assert node.mesh.status().peers[0].reassembly.packets == 2
        await link.aclose()


async def test_strangers_cannot_take_a_peers_place() -> None:
    air = Air(one_link_per_pair=False)
    node = Node(air, 1, config(max_connections=2))
    async with running(node), await stranger(air, 2) as driver:
        driver._identity = b""
        links = [await connected_by_hand(node, driver) for _ in range(2)]
        try:
            turned_away = await connected_by_hand(node, driver)
        except PeerUnreachable:
            pass
        else:
            assert [value async for value in turned_away] == []
            await turned_away.aclose()
        friend = Node(air, 3)
        async with running(friend):
            await until(lambda: linked(node, friend))
        for link in links:
            await link.aclose()


async def test_an_idle_link_carries_a_keepalive_every_15_seconds_in_both_roles() -> None:
    air = Air()
    node = Node(air, 1)
    async with running(node), await stranger(air, 2) as driver:
        link = await connected_by_hand(node, driver)
        await until(lambda: node.peers)
        began = trio.current_time()
        keepalives = 0
        while keepalives < 4:
            keepalives += await link.receive() == b"\x00"
            assert trio.current_time() - began == pytest.approx(15 * max(keepalives, 1), abs=0.2)
        await link.aclose()


async def test_a_ping_is_answered_on_the_same_link() -> None:
    air = Air()
    node = Node(air, 1)
    async with running(node), await stranger(air, 2) as driver:
        link = await connected_by_hand(node, driver)
        await link.send(b"\x04\x2a")
        with trio.fail_after(1):
            assert await link.receive() == b"\x05\x2a"
        await link.aclose()


@pytest.mark.parametrize(("life", "dropped"), [(None, False), (b"\x00", True), (b"\x04\x01", True)])
async def test_a_silent_peer_is_dropped_only_if_it_ever_showed_signs_of_life(life, dropped) -> None:
    air = Air()
    node = Node(air, 1)
    async with running(node), await stranger(air, 2) as driver:
        link = await connected_by_hand(node, driver)
        if life is not None:
            await link.send(life)
        with trio.move_on_after(50):
            async for _ in link:
                pass
        assert bool(driver.links) is not dropped
        await link.aclose()


async def test_two_nodes_keep_an_idle_link_for_hours() -> None:
    air = Air(advertising_interval=5)
    one, other = Node(air, 1), Node(air, 2)
    async with running(one, other):
        await until(lambda: linked(one, other))
        await trio.sleep(4 * 3600)
        assert one.history == ["up", "joined a2"]
        assert len(air.connects) == 1


# --- life of the mesh ---


async def test_the_mesh_restarts_with_back_off_when_the_driver_fails(caplog) -> None:
    air = Air()
    one, other = Node(air, 1), Node(air, 2)
    async with running(one, other):
        await until(lambda: linked(one, other))
        one.driver.fail()
        await until(lambda: not one.up)
        assert one.peers == {}
        await trio.sleep(200)
        failed = [r for r in caplog.records if r.levelno >= logging.ERROR]
        assert [r.getMessage() for r in failed] == [
            "offline: the adapter was unplugged: plug it in again (trying again by itself)"
        ]
        one.driver.repair()
        assert await until(lambda: linked(one, other), 200) < 100
    assert one.history[:4] == [
        "up",
        "joined a2",
        "left a2",
        "down: the adapter was unplugged: plug it in again",
    ]


async def test_an_adapter_that_does_not_advertise_dials_and_goes_on_trying(caplog) -> None:
    air = Air()
    one, other, late = Node(air, 1), Node(air, 2), Node(air, 3, config(enable_peripheral=False))
    one.driver.advertisement_to_spare = False
    async with running(one, other):
        await until(lambda: linked(one, other))
        async with running(late):  # it can't be dialled, so it has to wait for our advertisement
            await trio.sleep(10 * ADVERTISING_RETRY)
            assert not linked(one, late)
            assert not one.mesh.status().advertising
            one.driver.advertisement_to_spare = True
            assert await until(lambda: linked(one, late)) < ADVERTISING_RETRY + 5
        assert one.history[:2] == ["up", "joined a2"]
        assert not [entry for entry in one.history if entry.startswith(("down", "left a2"))]
    shown = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert shown == [
        "nobody can connect to us: the adapter has no advertisement to spare (trying again by itself)"
    ]


async def test_an_adapter_that_does_not_advertise_is_tried_again_when_a_place_has_become_free() -> None:
    air = Air()
    one, other = Node(air, 1, config(max_connections=1)), Node(air, 2)
    one.driver.advertisement_to_spare = False
    async with running(one):
        async with running(other):
            await until(lambda: linked(one, other))
            one.driver.advertisement_to_spare = True
            await trio.sleep(2 * ADVERTISING_RETRY)
            assert not one.mesh.status().advertising, "it has no place"
        assert await until(lambda: one.mesh.status().advertising) < 1


async def test_a_bug_in_serving_one_peer_ends_that_peer_only(caplog) -> None:
    air = Air()
    one, good, bad = Node(air, 1), Node(air, 2), Node(air, 3)
    received = one.packet_received

    def packet_received(peer, packet) -> None:
        if peer.identity == bad.identity:
            raise RuntimeError("a bug")
        received(peer, packet)

    one.packet_received = packet_received
    async with running(one, good, bad):
        await until(lambda: linked(one, good) and linked(one, bad))
        bad.peers[one.identity].outgoing.put(b"boom")
        await until(lambda: bad.identity not in one.peers)
        good.peers[one.identity].outgoing.put(b"fine")
        await until(lambda: one.packets)
        assert linked(one, good)
    assert "given up because of a bug" in caplog.text
    assert "RuntimeError: a bug" in caplog.text


async def test_that_our_adapter_fails_does_not_count_against_the_peer() -> None:
    air = Air(advertising_interval=0.1)
    node = Node(air, 1)
    peer = Node(air, 2, BLEConfig(power_mode="aggressive", enable_central=False))
    async with running(node, peer):
        for _ in range(4):
            await until(lambda: peer.identity in node.peers)
            await trio.sleep(3)
            node.driver.fail()
            await until(lambda: not node.up)
            node.driver.repair()
            await until(lambda: node.up)
            (candidate,) = node.mesh.admission.candidates.values()
            assert candidate.failures == 0


async def test_an_adapter_that_is_full_is_nobodys_failure_and_dials_again_when_a_link_has_ended() -> None:
    air = Air(advertising_interval=0.1)
    driver = MockBLEDriver(air, address_of(1), most_links=1)
    node = Node(air, 1, driver=driver)
    peers = [Node(air, number, BLEConfig(power_mode="aggressive", enable_central=False)) for number in (2, 3)]
    async with running(node, *peers):
        await until(lambda: len(node.peers) == 1)
        await trio.sleep(120)
        assert len(air.connects) == 2, "the second was refused, and that was enough"
        linked, other = sorted(peers, key=lambda peer: peer.identity not in node.peers)
        status = {candidate.address: candidate for candidate in node.mesh.status().candidates}
        row = status[other.driver.address]
        assert (row.verdict, row.attempts, row.failures) == ("adapter_full", 0, 0)
        assert row.verdict_ends > 400
        other_joins = lambda: other.identity in node.peers  # noqa: E731
        linked.driver.fail()
        await until(other_joins, 30)


async def test_the_blacklist_outlives_a_driver_that_fails() -> None:
    air = Air()
    node = Node(air, 1)
    air.refusing.add(address_of(2))
    async with running(node), await stranger(air, 2) as peer:
        await start(peer)
        await until(lambda: len(air.connects) == 3)
        await trio.sleep(1)
        for _ in range(5):
            node.driver.fail()
            await until(lambda: not node.up)
            node.driver.repair()
            await until(lambda: node.up)
        assert len(air.connects) == 3


async def test_a_phone_that_changes_its_address_for_days_leaves_room_for_others() -> None:
    air = Air(advertising_interval=1)
    one, phone, late = Node(air, 1, config(max_discovered_peers=4)), Node(air, 2), Node(air, 3)
    async with running(one, phone):
        for n in range(10):
            await until(lambda: linked(one, phone))
            phone.driver.rotate_address(f"02:00:00:00:01:{n:02X}")
            await trio.sleep(60)
        async with running(late):
            await until(lambda: linked(one, late))


@pytest.mark.parametrize("grace", [20, 40, 300])
async def test_the_grace_ends_also_when_scans_are_rare(grace: int) -> None:
    air = Air()
    node = Node(air, 2, config(power_mode="saver", dial_grace=grace))
    async with running(node), await stranger(air, 1) as peer:
        await start(peer)
        assert grace <= await until(lambda: node.peers, 1000) <= grace + 61


async def test_a_dead_data_path_is_noticed_again_and_again() -> None:
    air = Air()
    node = Node(air, 1)
    async with running(node), await stranger(air, 2) as driver:
        for n in range(3):
            link = await connected_by_hand(node, driver)
            if n == 0:
                await link.send(b"\x05\x01")  # it knows the probe, and answers none from now on
            began = trio.current_time()
            async for _ in link:
                pass
            assert trio.current_time() - began == pytest.approx(45, abs=0.5)
            await link.aclose()
        assert node.history == ["up", "joined a2"]


@pytest.mark.parametrize("seed", range(8))
def test_a_link_that_joins_as_the_grace_ends_stays(seed: int) -> None:
    async def main() -> None:
        air = Air(connect_time=0)
        node = Node(air, 1)
        async with running(node), await stranger(air, 2) as driver:
            link = await connected_by_hand(node, driver)
            await until(lambda: node.peers)
            await link.aclose()
            await trio.sleep(2)  # the grace to the very moment
            link = await driver.connect(address_of(1))
            await trio.sleep(1)
            assert link in driver.links
            assert len(node.peers) == 1
            await link.aclose()

    run_in_virtual_time(main, seed=seed)


@pytest.mark.parametrize("milliseconds", range(0, 400, 7))
async def test_cancelling_the_mesh_at_any_moment_leaves_nothing(milliseconds: int) -> None:
    air = Air(latency=0.03, att_mtu=23)
    nodes = [Node(air, index) for index in range(1, 4)]
    async with running(*nodes):
        with trio.move_on_after(milliseconds / 1000):
            while True:
                for node in nodes:
                    for peer in node.peers.values():
                        peer.outgoing.put(bytes(100))
                await trio.sleep(0.02)
    # `running` has checked that nothing is left


async def test_the_power_modes_scan_as_documented() -> None:
    for mode, share in (("aggressive", 1.0), ("balanced", 0.4), ("saver", 2 / 60)):
        air = Air()
        node = Node(air, 1, config(power_mode=mode, discovery_interval=5))
        async with running(node):
            scanning = 0
            for _ in range(6000):
                await trio.sleep(0.1)
                scanning += node.mesh.status().scanning
        assert scanning / 6000 == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("when", [0.1, 1.9, 2.0, 2.1, 30])
async def test_a_link_that_is_lost_starts_a_scan_at_once_also_near_the_end_of_another(when: float) -> None:
    air = Air()
    node = Node(air, 1, config(power_mode="saver"))
    stop = node.driver.stop_scanning

    async def slowly() -> None:
        await trio.sleep(0.2)  # as a call to BlueZ
        await stop()

    node.driver.stop_scanning = slowly
    async with running(node), await stranger(air, 2) as driver:
        link = await connected_by_hand(node, driver)
        await until(lambda: not node.mesh.status().scanning)
        await until(lambda: node.mesh.status().scanning)
        await trio.sleep(when)
        await link.aclose()
        await trio.sleep(0.5)
        for _ in range(10):
            await trio.sleep(0.1)
            assert node.mesh.status().scanning


# --- what several links share, and links that do not keep the order ---


async def put(node: Node, to: Node, packets: list[bytes]) -> None:
    for packet in packets:
        while not node.peers[to.identity].outgoing.put(packet):
            await trio.sleep(0.001)


def hub_and_centrals(air: Air, count: int) -> tuple[Node, list[Node]]:
    """One node whose centrals all hear what it notifies, and these centrals."""
    driver = MockBLEDriver(air, address_of(9), shares_notifications=True)
    hub = Node(air, 9, config(enable_central=False), driver=driver)
    return hub, [Node(air, index, config(enable_peripheral=False)) for index in range(1, count + 1)]


def counted(driver: MockBLEDriver) -> list[bytes]:
    """The values that are sent on a driver's links from now on."""
    sent = []
    for link in driver.links:

        def send(value: bytes, real=link.send):
            sent.append(value)
            return real(value)

        link.send = send
    return sent


@pytest.mark.parametrize("att_mtu", [23, 185, 517])
async def test_packets_to_centrals_that_share_a_channel_do_not_mix(att_mtu: int) -> None:
    air = Air(att_mtu=att_mtu, latency=0.005)
    hub, centrals = hub_and_centrals(air, 3)
    async with running(hub, *centrals):
        await until(lambda: len(hub.peers) == 3)
        sent = {n.index: [bytes([n.index, k]) + bytes([k]) * 514 for k in range(40)] for n in centrals}
        async with trio.open_nursery() as nursery:
            for n in centrals:
                nursery.start_soon(put, hub, n, sent[n.index])
        await until(lambda: all(len(n.packets) == 120 for n in centrals))
        for n in centrals:
            received = [packet for _, packet in n.packets]
            assert [packet for packet in received if packet[0] == n.index] == sent[n.index]
            assert sorted(received) == sorted(packet for packets in sent.values() for packet in packets)


async def test_a_packet_to_all_who_share_a_channel_is_transmitted_once() -> None:
    air = Air(latency=0.005)
    hub, centrals = hub_and_centrals(air, 3)
    async with running(hub, *centrals):
        await until(lambda: len(hub.peers) == 3)
        values = counted(hub.driver)
        packets = [bytes([k]) * 300 for k in range(20)]
        for packet in packets:
            for n in centrals:
                assert hub.peers[n.identity].outgoing.put(packet)
        await until(lambda: all(len(n.packets) == 20 for n in centrals))
        await trio.sleep(1)
        assert len(values) == 20
        for n in centrals:
            assert [packet for _, packet in n.packets] == packets
        # The same packet again, and for one of them only, is another transmission.
        assert hub.peers[centrals[0].identity].outgoing.put(packets[0])
        await until(lambda: all(len(n.packets) == 21 for n in centrals))


async def test_who_comes_later_gets_what_he_has_not_heard() -> None:
    air = Air()
    hub, centrals = hub_and_centrals(air, 2)
    first, second = centrals
    async with running(hub, first):
        await until(lambda: len(hub.peers) == 1)
        assert hub.peers[first.identity].outgoing.put(b"announce")
        await until(lambda: first.packets)
        async with running(second):
            await until(lambda: len(hub.peers) == 2)
            assert hub.peers[second.identity].outgoing.put(b"announce")
            await until(lambda: second.packets)


async def test_a_half_that_never_comes_is_a_packet_that_was_too_late() -> None:
    air = Air(overtaking=1)
    node = Node(air, 1)
    fragmenter = PairFragmenter(Cuts(node.longest_packet))
    packet = bytes(node.longest_packet)
    async with running(node), await stranger(air, 2) as driver:
        link = await connected_by_hand(node, driver)
        await link.send(identity_of(2))
        await link.send(fragmenter.fragment(packet, link.value_limit)[1])
        await trio.sleep(1)
        for value in fragmenter.fragment(packet, link.value_limit):
            await link.send(value)
        await until(lambda: node.packets)
        peer = node.mesh.status().peers[0]
        assert peer.reassembly == ReassemblyStatistics(packets=1, timed_out=1)
        assert peer.rx_incomplete == 1
        await link.aclose()


@pytest.mark.parametrize("overtaking", [1, 40])
async def test_full_size_packets_arrive_intact_where_values_overtake_each_other(overtaking: int) -> None:
    air = Air(overtaking=overtaking, latency=0.001)
    one, other = Node(air, 1), Node(air, 2)
    async with running(one, other):
        await until(lambda: linked(one, other))
        sent = {
            n.index: [bytes([n.index]) + k.to_bytes(2) + bytes([k % 256]) * 513 for k in range(500)]
            for n in (one, other)
        }
        async with trio.open_nursery() as nursery:
            nursery.start_soon(put, one, other, sent[1])
            nursery.start_soon(put, other, one, sent[2])
        await until(lambda: len(one.packets) == len(other.packets) == 500)
        assert sorted(packet for _, packet in one.packets) == sent[2]
        assert sorted(packet for _, packet in other.packets) == sent[1]
        if overtaking > 1:
            assert [packet for _, packet in one.packets] != sent[2], "nothing has overtaken anything"


# --- links that are ending ---


async def test_nobody_is_dialled_while_his_link_is_being_closed() -> None:
    """Closing takes BlueZ two seconds, and takes down what is made on the same connection meanwhile."""
    air = Air()
    one, other = Node(air, 1), Node(air, 2)
    async with running(one, other):
        await until(lambda: linked(one, other))
        await trio.sleep(30)
        (link,) = one.peers[other.identity].links
        real, closed = link.aclose, []

        async def slowly() -> None:
            with trio.CancelScope(shield=True):
                await trio.sleep(2.5)
            await real()
            closed.append(trio.current_time())

        link.aclose = slowly
        one.peers[other.identity]._sessions[link].give_up(by_us=True)
        await until(lambda: bool(closed))
        await until(lambda: linked(one, other) and one.peers[other.identity].links)
        assert [when for when, _, _ in air.connects][1] >= closed[0]
        # It was back within its grace, which begins when it can be linked again.
        assert one.history == ["up", f"joined {other.identity[:1].hex()}"]


async def test_the_grace_begins_with_the_end_of_the_last_link_however_long_it_takes_to_close() -> None:
    air = Air()
    one = Node(air, 1)
    async with running(one), await stranger(air, 2) as driver:
        first = await connected_by_hand(one, driver)
        await until(lambda: one.peers)
        await first.aclose()
        await trio.sleep(1)
        second = await driver.connect(one.driver.address)
        await trio.sleep(0.5)
        (link,) = one.peers[identity_of(2)].links
        real = link.aclose

        async def slowly() -> None:
            with trio.CancelScope(shield=True):
                await trio.sleep(2.5)
            await real()

        link.aclose = slowly
        await second.aclose()
        await trio.sleep(4)  # of which 2.5 until it is closed
        assert one.peers
        await until(lambda: not one.peers, 1)


async def test_what_a_lost_link_has_brought_is_received_though_we_were_sending() -> None:
    air = Air()
    one, other = Node(air, 1), Node(air, 2)
    async with running(one, other):
        await until(lambda: linked(one, other))
        (theirs,) = other.peers[one.identity].links
        packets = [bytes([k]) * 50 for k in range(10)]
        arriving = trio.Event()

        async def last_words() -> None:
            for packet in packets:
                await theirs.send(b"\x01\x00\x00\x00\x01" + packet)
            arriving.set()
            theirs.lose()

        (ours,) = one.peers[other.identity].links
        receive = ours.receive

        async def busy() -> bytes:
            await trio.sleep(0.01)  # so that the sender sees the loss first
            return await receive()

        ours.receive = busy
        async with trio.open_nursery() as nursery:
            nursery.start_soon(last_words)
            await arriving.wait()
            one.peers[other.identity].outgoing.put(b"into the void")
        await until(lambda: len(one.packets) == 10)
        assert [packet for _, packet in one.packets] == packets
