"""Who dials."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rns_ble.protocol.advertisement import Capability
from rns_ble.protocol.direction import Direction, direction

LOW, HIGH = "0A:00:00:00:00:01", "A0:00:00:00:00:00"
BOTH, PERIPHERAL, CENTRAL = Capability.NONE, Capability.PERIPHERAL_ONLY, Capability.CENTRAL_ONLY

addresses = st.binary(min_size=6, max_size=6).map(lambda octets: octets.hex(":").upper())
capabilities = st.sampled_from([BOTH, PERIPHERAL, CENTRAL])


@pytest.mark.parametrize(
    ("own", "peer", "expected"),
    [
        (BOTH, PERIPHERAL, Direction.DIAL),
        (CENTRAL, PERIPHERAL, Direction.DIAL),
        (PERIPHERAL, PERIPHERAL, Direction.BOTH_PERIPHERAL_ONLY),
        (PERIPHERAL, BOTH, Direction.NEVER_OURS),
        (PERIPHERAL, CENTRAL, Direction.NEVER_OURS),
        (BOTH, CENTRAL, Direction.NEVER_THEIRS),
        (CENTRAL, CENTRAL, Direction.NEVER_THEIRS),
        (CENTRAL, BOTH, Direction.DIAL),
    ],
)
@pytest.mark.parametrize("own_address", [LOW, HIGH, None])
@pytest.mark.parametrize("grace_over", [False, True])
def test_capabilities_come_before_addresses_and_time(own, peer, expected, own_address, grace_over):
    peer_address = LOW if own_address == HIGH else HIGH
    assert direction(own_address, own, peer_address, peer, grace_over=grace_over) is expected


@pytest.mark.parametrize(
    ("own_address", "peer_address", "grace_over", "expected"),
    [
        (LOW, HIGH, False, Direction.DIAL),
        (HIGH, LOW, False, Direction.WAIT),
        (HIGH, LOW, True, Direction.DIAL),
        (None, LOW, False, Direction.DIAL),
        (None, HIGH, False, Direction.DIAL),
        ("99:00:00:00:00:00", "A0:00:00:00:00:00", False, Direction.DIAL),  # digits come before letters
        ("AA:00:00:00:00:02", "AA:00:00:00:00:01", False, Direction.WAIT),  # the last bytes count too
        (LOW, LOW, False, Direction.WAIT),  # a copy of our address: neither is lower
    ],
)
def test_the_lower_address_dials_at_once_and_the_higher_one_later(
    own_address, peer_address, grace_over, expected
):
    assert direction(own_address, BOTH, peer_address, BOTH, grace_over=grace_over) is expected


@given(a=addresses, b=addresses)
def test_lower_means_the_lower_number(a, b):
    dials = direction(a, BOTH, b, BOTH, grace_over=False) is Direction.DIAL
    assert dials == (int(a.replace(":", ""), 16) < int(b.replace(":", ""), 16))


@given(a=addresses, b=addresses, a_can=capabilities, b_can=capabilities)
def test_after_the_grace_somebody_dials_unless_nobody_can(a, b, a_can, b_can):
    ways = {direction(a, a_can, b, b_can, grace_over=True), direction(b, b_can, a, a_can, grace_over=True)}
    nobody_can = a_can is b_can and a_can is not BOTH
    assert (Direction.DIAL in ways) != nobody_can
    assert Direction.WAIT not in ways


@given(a=addresses, b=addresses, a_can=capabilities, b_can=capabilities)
def test_before_the_grace_at_most_one_of_two_that_know_their_addresses_dials(a, b, a_can, b_can):
    ways = [direction(a, a_can, b, b_can, grace_over=False), direction(b, b_can, a, a_can, grace_over=False)]
    assert ways.count(Direction.DIAL) <= 1
