"""Who may be dialled, one decision at a time."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from rns_ble.admission import Admission, Decision
from rns_ble.candidate import Candidate, Verdict
from rns_ble.config import BLEConfig
from rns_ble.drivers.base import BLEDevice, BLELink, Role
from rns_ble.status import CandidateStatus
from rns_ble.testing.virtual_time import run_in_virtual_time

pytestmark = pytest.mark.virtual_time  # which stands still here: the tests say what time it is

OWN = "02:00:00:00:00:10"
HIGHER = "02:00:00:00:00:20"
LOWER = "02:00:00:00:00:01"
IDENTITY = bytes(range(16))
OURSELVES = bytes(16)


def admission_of(
    linked: set[str | bytes] | None = None,
    own_address: str | None = OWN,
    displaces: Callable[[bytes | None], bool] = lambda _identity: False,
    heard_within: float = 30,
    radio_tokens: int = 1,
    **keys,
) -> Admission:
    linked = set() if linked is None else linked
    return Admission(
        BLEConfig(**keys),
        {},
        own_identity=OURSELVES,
        own_address=lambda: own_address,
        is_linked=lambda address, identity: address in linked or identity in linked,
        radio_tokens=radio_tokens,
        displaces=displaces,
        heard_within=heard_within,
    )


def seen(
    admission: Admission,
    address: str = HIGHER,
    now: float = 0,
    rssi: int | None = -60,
    flags: int = 0,
    name: str | None = None,
):
    data = {0xFFFF: bytes([3, flags])} if flags else {}
    return admission.sighted(BLEDevice(address, rssi=rssi, name=name, manufacturer_data=data), now)


class Link(BLELink):
    """As much of a link as admission looks at."""

    att_mtu = 23

    def __init__(self, address: str, role: Role = Role.CENTRAL) -> None:
        self.address = address
        self.role = role

    async def send(self, value: bytes) -> None:
        raise NotImplementedError

    async def receive(self) -> bytes:
        raise NotImplementedError

    async def aclose(self) -> None:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("what", "verdict"),
    [
        ({}, Verdict.DIAL),
        ({"address": LOWER}, Verdict.GRACE),
        ({"address": LOWER, "own_address": None}, Verdict.DIAL),
        ({"address": LOWER, "enable_peripheral": False}, Verdict.DIAL),
        ({"address": LOWER, "flags": 1}, Verdict.DIAL),
        ({"flags": 2}, Verdict.CENTRAL_ONLY),
        ({"enable_central": False}, Verdict.WE_ARE_PERIPHERAL_ONLY),
        ({"enable_central": False, "flags": 1}, Verdict.BOTH_PERIPHERAL_ONLY),
        ({"rssi": -86}, Verdict.TOO_WEAK),
        ({"rssi": -85}, Verdict.DIAL),
        ({"linked": {HIGHER}}, Verdict.LINKED),
        ({"later": 30.1}, Verdict.NOT_SEEN),
        ({"later": 30}, Verdict.DIAL),
        ({"later": 7.1, "heard_within": 7}, Verdict.NOT_SEEN),
        ({"later": 7, "heard_within": 7}, Verdict.DIAL),
    ],
)
async def test_verdicts(what: dict, verdict: Verdict) -> None:
    sighting = {key: what.pop(key) for key in ("address", "rssi", "flags") if key in what}
    later = what.pop("later", 0)
    admission = admission_of(**what)
    assert admission.decide(seen(admission, **sighting), later).verdict is verdict


async def test_an_identity_is_known_on_any_address() -> None:
    admission = admission_of(linked={IDENTITY})
    candidate = seen(admission)
    assert admission.decide(candidate, 0).verdict is Verdict.DIAL
    admission.identified(HIGHER, IDENTITY, 0)
    assert admission.decide(candidate, 0).verdict is Verdict.LINKED
    admission.identified(HIGHER, OURSELVES, 0)
    assert admission.decide(candidate, 0).verdict is Verdict.OURSELVES
    admission.identified("02:00:00:00:00:99", IDENTITY, 0)
    assert list(admission.candidates) == [HIGHER]


@pytest.mark.parametrize(("told", "verdict"), [(IDENTITY, Verdict.LINKED), (OURSELVES, Verdict.OURSELVES)])
async def test_whose_an_address_is_is_asked_again_after_an_hour(told: bytes, verdict: Verdict) -> None:
    """Whoever has told that identity there may have gone, or never have had it."""
    admission = admission_of(linked={IDENTITY})
    seen(admission)
    admission.identified(HIGHER, told, 100)
    candidate = seen(admission, now=3699)
    assert admission.decide(candidate, 3699) == Decision(verdict, 3700)
    assert admission.decide(candidate, 3700).verdict is Verdict.DIAL
    admission.identified(HIGHER, told, 3701)
    assert admission.decide(candidate, 3702).verdict is verdict


async def test_an_address_that_is_linked_itself_is_not_asked_again() -> None:
    admission = admission_of(linked={HIGHER, IDENTITY})
    candidate = seen(admission)
    admission.identified(HIGHER, IDENTITY, 0)
    assert admission.decide(candidate, 0) == Decision(Verdict.LINKED)
    assert admission.decide(seen(admission, now=3600), 3600) == Decision(Verdict.LINKED)


async def test_an_adapter_that_is_full_dials_again_when_a_link_has_ended_or_after_ten_minutes() -> None:
    admission = admission_of()
    link = Link("02:00:00:00:00:77", Role.PERIPHERAL)
    admission.take_place(link, None)
    candidate = seen(admission)
    with admission.begin(candidate, 0):
        pass
    admission.adapter_full(1)
    seen(admission, now=10)
    assert admission.decide(candidate, 10) == Decision(Verdict.ADAPTER_FULL, 601)
    assert candidate.failures == candidate.attempts == 0
    seen(admission, now=600)
    assert admission.decide(candidate, 600.9).verdict is Verdict.ADAPTER_FULL
    assert admission.decide(candidate, 601).verdict is Verdict.DIAL
    admission.adapter_full(602)
    assert admission.decide(candidate, 603).verdict is Verdict.ADAPTER_FULL
    admission.link_ended(link, IDENTITY, 604, proven=True)
    assert admission.decide(candidate, 604).verdict is Verdict.DIAL


async def test_only_what_time_alone_can_change_has_an_end() -> None:
    admission = admission_of()
    higher, lower, weak = seen(admission), seen(admission, LOWER, now=3), seen(admission, rssi=-99)
    central_only = seen(admission, "02:00:00:00:00:40", flags=2)
    assert admission.decide(lower, 3).until == 3 + 20
    for candidate in (higher, weak, central_only):
        assert admission.decide(candidate, 3).until == math.inf


async def test_a_name_stays_known_when_a_later_advertisement_has_none() -> None:
    admission = admission_of()
    assert seen(admission).name is None
    assert seen(admission, name="shed").name == "shed"
    assert seen(admission).name == "shed"
    assert seen(admission, name="barn").name == "barn"


async def test_a_sighting_without_a_signal_is_none() -> None:
    admission = admission_of()
    assert seen(admission, rssi=None) is None
    assert admission.candidates == {}


async def test_an_attempt_borrows_and_gives_back_whatever_happens() -> None:
    admission = admission_of()
    candidate, other = seen(admission), seen(admission, "02:00:00:00:00:30")
    with pytest.raises(RuntimeError, match="crash"), admission.begin(candidate, 0):  # noqa: PT012
        assert admission.in_flight() == [HIGHER]
        assert admission.decide(candidate, 10).verdict is Verdict.IN_FLIGHT
        assert admission.decide(other, 10).verdict is Verdict.RADIO_BUSY
        for another in (candidate, other):
            with pytest.raises(trio.WouldBlock):
                admission.begin(another, 10)
        assert other.attempts == 0
        assert other.limiter.borrowed_tokens == 0
        assert admission.places.borrowed_tokens == 1
        raise RuntimeError("crash")
    for limiter in (candidate.limiter, admission.radio, admission.places):
        assert limiter.borrowed_tokens == 0


async def test_pacing_counts_from_before_the_attempt() -> None:
    admission = admission_of()
    candidate = seen(admission)
    with admission.begin(candidate, 0):
        pass
    decision = admission.decide(candidate, 4.99)
    assert (decision.verdict, decision.until) == (Verdict.PACED, 5)
    assert admission.decide(candidate, 5).verdict is Verdict.DIAL


async def test_the_blacklist_grows_to_eight_times_and_success_clears_it() -> None:
    admission = admission_of()
    candidate = seen(admission)
    times = []
    for _ in range(12):
        admission.failed(candidate, 1000, "gone")
        times.append(max(candidate.blacklisted_until - 1000, 0))
    assert times == [0, 0, 60, 120, 180, 240, 300, 360, 420, 480, 480, 480]
    seen(admission, now=1001)
    decision = admission.decide(candidate, 1001)
    assert (decision.verdict, decision.until) == (Verdict.BLACKLISTED, 1480)
    seen(admission, now=1480)
    assert admission.decide(candidate, 1480).verdict is Verdict.DIAL
    admission.succeeded(candidate)
    assert candidate.failures == 0
    assert admission.decide(candidate, 1001).verdict is Verdict.DIAL


async def test_only_failures_of_one_kind_in_a_row_have_a_peer_left_alone() -> None:
    """It turned us away when it was full, and was lost on the radio later: nothing is wrong with it."""
    admission = admission_of()
    candidate = seen(admission)
    for turned_us_away in (True, True, False, False, True, True):
        admission.failed(candidate, 1000, "gone", turned_us_away=turned_us_away)
        assert candidate.blacklisted_until < 1000
    admission.failed(candidate, 1000, "gone", turned_us_away=True)
    assert candidate.blacklisted_until == 1060
    assert candidate.attempts == 7


async def test_attempts_that_came_to_an_end_are_counted() -> None:
    admission = admission_of()
    candidate = seen(admission)
    with admission.begin(candidate, 0):
        pass
    assert candidate.attempts == 0
    admission.failed(candidate, 0, "gone")
    admission.failed(candidate, 0, "gone")
    assert (candidate.attempts, candidate.successes, candidate.failures) == (2, 0, 2)
    admission.succeeded(candidate)
    admission.succeeded(candidate)
    assert (candidate.attempts, candidate.successes, candidate.failures) == (4, 2, 0)


async def test_an_address_has_a_place_while_a_link_holds_it() -> None:
    admission = admission_of()
    with admission.begin(seen(admission), 0):
        assert not admission.has_place(HIGHER)
    assert not admission.has_place(HIGHER)
    link = Link(HIGHER)
    assert admission.take_place(link, None)
    assert admission.has_place(HIGHER)
    assert not admission.has_place(LOWER)
    admission.link_ended(link, IDENTITY, 0, proven=True)
    assert not admission.has_place(HIGHER)


async def test_a_link_takes_the_place_of_its_attempt_in_one_step() -> None:
    admission = admission_of(max_connections=1)
    candidate = seen(admission)
    link, second = Link(HIGHER), Link(LOWER, Role.PERIPHERAL)
    with admission.begin(candidate, 0) as attempt:
        assert admission.take_place(link, attempt)
        assert not admission.take_place(second, None)
    assert admission.places.borrowed_tokens == 1
    other = seen(admission, "02:00:00:00:00:30")
    assert admission.decide(other, 0).verdict is Verdict.NO_PLACE
    assert admission.due(0) == ([], 5)
    admission.link_ended(link, IDENTITY, 0, proven=True)
    assert admission.take_place(second, None)
    admission.link_ended(second, IDENTITY, 0, proven=True)
    assert admission.places.borrowed_tokens == 0


async def test_a_link_that_is_there_takes_the_place_of_one_that_may_come() -> None:
    admission = admission_of(max_connections=1)
    candidate = seen(admission)
    link, late = Link(LOWER, Role.PERIPHERAL), Link(HIGHER)
    with admission.begin(candidate, 0) as attempt, attempt.scope:
        assert admission.take_place(link, None)
        assert attempt.scope.cancel_called
        assert admission.in_flight() == [HIGHER]  # until it has come to its end
        assert not admission.take_place(late, attempt), "it connected in the moment in which it was cancelled"
        assert not admission.take_place(Link("02:00:00:00:00:77", Role.PERIPHERAL), None)
    assert admission.in_flight() == []
    assert admission.places.statistics().borrowers == [link]
    assert candidate.failures == 0


@pytest.mark.parametrize(
    ("keys", "flags", "verdict"),
    [
        ({}, 0, Verdict.LAST_PLACE),
        ({}, 1, Verdict.DIAL),  # it never dials
        ({"enable_peripheral": False}, 0, Verdict.DIAL),  # it can't dial us
    ],
)
async def test_the_last_place_is_for_somebody_who_dials_us(keys: dict, flags: int, verdict: Verdict) -> None:
    admission = admission_of(max_connections=2, **keys)
    candidate = seen(admission, flags=flags)
    assert admission.decide(candidate, 0).verdict is Verdict.DIAL
    link = Link("02:00:00:00:00:77", Role.PERIPHERAL)
    assert admission.take_place(link, None)
    assert admission.decide(candidate, 0).verdict is verdict
    assert admission.take_place(Link(HIGHER, Role.PERIPHERAL), None)
    assert admission.decide(candidate, 0).verdict is Verdict.NO_PLACE


async def test_who_has_one_place_only_dials_for_it() -> None:
    admission = admission_of(max_connections=1)
    assert admission.decide(seen(admission), 0).verdict is Verdict.DIAL


async def test_each_link_takes_the_place_of_another_attempt(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "rns_ble.admission")
    admission = admission_of(max_connections=2, radio_tokens=2)
    there = [Link(f"02:00:00:00:00:7{n}", Role.PERIPHERAL) for n in range(3)]
    with admission.begin(seen(admission), 0) as first, admission.begin(seen(admission, LOWER), 0) as second:
        assert [admission.take_place(link, None) for link in there] == [True, True, False]
        assert first.scope.cancel_called
        assert second.scope.cancel_called
    given_up, for_whom = zip(
        *(line.split(" given up for the link to ") for line in caplog.messages), strict=True
    )
    assert sorted(given_up) == sorted([first.address, second.address])
    assert list(for_whom) == [there[0].address, there[1].address]


async def test_an_attempt_whose_link_has_its_place_is_not_given_up() -> None:
    admission = admission_of(max_connections=1)
    with admission.begin(seen(admission), 0) as attempt:
        assert admission.take_place(Link(HIGHER), attempt)
        assert not admission.take_place(Link(LOWER, Role.PERIPHERAL), None)
        assert not attempt.scope.cancel_called


async def test_with_a_place_free_no_attempt_is_given_up() -> None:
    admission = admission_of(max_connections=2)
    with admission.begin(seen(admission), 0) as attempt:
        assert admission.take_place(Link(LOWER, Role.PERIPHERAL), None)
        assert not attempt.scope.cancel_called


async def test_after_a_link_or_an_attempt_only_a_new_sighting_counts() -> None:
    admission = admission_of()
    candidate = seen(admission, now=-10)
    with admission.begin(candidate, -10):
        pass  # ends at 0, on the clock
    assert admission.decide(candidate, 1).verdict is Verdict.NOT_SEEN_SINCE
    seen(admission, now=1)
    assert admission.decide(candidate, 1).verdict is Verdict.DIAL
    link = Link("02:00:00:00:00:77")
    admission.identified(HIGHER, IDENTITY, 1)
    assert admission.take_place(link, None)
    admission.link_ended(link, IDENTITY, 2, proven=True)
    assert admission.decide(candidate, 2).verdict is Verdict.NOT_SEEN_SINCE


async def test_an_attempt_gives_way_after_a_while_if_others_wait() -> None:
    admission = admission_of()
    candidate = seen(admission)
    with admission.begin(candidate, 0) as attempt:
        assert admission.due(20) == ([], math.inf)
        assert not attempt.scope.cancel_called
        seen(admission, "02:00:00:00:00:30", now=4)
        assert admission.due(4) == ([], 5)
        assert not attempt.scope.cancel_called
        admission.due(5)
        assert attempt.scope.cancel_called
    assert candidate.failures == 0


async def test_only_the_dialled_address_is_judged_by_its_link() -> None:
    admission = admission_of()
    candidate = seen(admission)
    for role, proven, failures in (
        (Role.PERIPHERAL, False, 0),
        (Role.CENTRAL, False, 1),
        (Role.CENTRAL, False, 2),
        (Role.CENTRAL, True, 0),
    ):
        link = Link(HIGHER, role)
        assert admission.take_place(link, None)
        admission.link_ended(link, IDENTITY, 0, proven=proven)
        assert candidate.failures == failures


async def test_links_that_were_of_no_use_lead_to_the_blacklist() -> None:
    admission = admission_of(max_connection_failures=2)
    candidate = seen(admission, now=50)
    for _ in range(2):
        link = Link(HIGHER)
        assert admission.take_place(link, None)
        admission.link_ended(link, IDENTITY, 50, proven=False)
    assert admission.decide(candidate, 55).until == 50 + 60


async def test_who_drops_a_link_has_turned_us_away_and_who_is_not_reached_has_not() -> None:
    admission = admission_of()
    candidate = seen(admission)
    for failures in (1, 2):
        link = Link(HIGHER)
        assert admission.take_place(link, None)
        admission.link_ended(link, IDENTITY, 0, proven=False)
        assert (candidate.turned_us_away, candidate.failures) == (True, failures)
    for failures in (1, 2):
        admission.failed(candidate, 0, "gone")
        assert (candidate.turned_us_away, candidate.failures) == (False, failures)


async def test_why_the_last_attempt_has_failed_is_known_until_one_succeeds() -> None:
    admission = admission_of()
    candidate = seen(admission)
    assert candidate.last_failure is None
    for why in ("it refuses", "no link within 30 s"):
        admission.failed(candidate, 0, why)
        assert candidate.last_failure == why
    for proven, why in ((False, "it ended the link before it was of any use"), (True, None)):
        link = Link(HIGHER)
        assert admission.take_place(link, None)
        admission.link_ended(link, IDENTITY, 0, proven=proven)
        assert candidate.last_failure == why


async def test_who_has_turned_us_away_is_left_in_peace_from_then_on() -> None:
    """It was tried long ago; what made it drop the link is so now."""
    admission = admission_of()
    candidate = seen(admission)
    with admission.begin(candidate, 0):
        link = Link(HIGHER)
        assert admission.take_place(link, None)
    admission.link_ended(link, IDENTITY, 9, proven=False)
    seen(admission, now=10)
    assert admission.decide(candidate, 10) == Decision(Verdict.PACED, 9 + 5)
    assert admission.decide(candidate, 14).verdict is Verdict.DIAL


async def test_who_was_of_use_is_dialled_again_as_soon_as_it_is_heard() -> None:
    admission = admission_of()
    candidate = seen(admission)
    with admission.begin(candidate, 0):
        link = Link(HIGHER)
        assert admission.take_place(link, None)
    admission.link_ended(link, IDENTITY, 9, proven=True)
    seen(admission, now=10)
    assert admission.decide(candidate, 10).verdict is Verdict.DIAL


async def test_a_link_that_ended_says_nothing_about_other_peers() -> None:
    admission = admission_of()
    other = seen(admission)
    link = Link("02:00:00:00:00:77")
    assert admission.take_place(link, None)
    admission.link_ended(link, IDENTITY, 1, proven=False)
    assert admission.decide(other, 1).verdict is Verdict.DIAL


async def test_the_grace_counts_from_the_first_sighting() -> None:
    admission = admission_of()
    candidate = [seen(admission, LOWER, now=now) for now in (0, 12, 19)][-1]
    assert admission.decide(candidate, 19.9).verdict is Verdict.GRACE
    assert admission.decide(candidate, 20).verdict is Verdict.DIAL


async def test_the_grace_begins_anew_after_a_link_and_after_an_absence() -> None:
    admission = admission_of()
    candidate = seen(admission, LOWER)
    admission.identified(LOWER, IDENTITY, 0)
    assert admission.decide(candidate, 20).verdict is Verdict.DIAL
    elsewhere = Link("02:00:00:00:00:77", Role.PERIPHERAL)
    assert admission.take_place(elsewhere, None)
    admission.link_ended(elsewhere, IDENTITY, 21, proven=True)  # the same identity on another address
    seen(admission, LOWER, now=30)
    assert admission.decide(candidate, 40).verdict is Verdict.GRACE
    assert admission.decide(candidate, 41).verdict is Verdict.DIAL
    seen(admission, LOWER, now=70)
    assert admission.decide(candidate, 70).verdict is Verdict.GRACE


async def test_the_oldest_sighting_is_forgotten_but_none_that_matters() -> None:
    linked = {"02:00:00:00:01:00"}
    admission = admission_of(linked, max_discovered_peers=4)
    addresses = [f"02:00:00:00:01:0{n}" for n in range(4)]
    candidates = [seen(admission, address, now=n) for n, address in enumerate(addresses)]
    candidates[1].blacklisted_until = 1000
    with admission.begin(candidates[2], 4):
        assert seen(admission, "02:00:00:00:02:00", now=5) is not None
        assert set(admission.candidates) == {*addresses[:3], "02:00:00:00:02:00"}
        assert seen(admission, "02:00:00:00:02:01", now=6) is not None
        candidates_now = list(admission.candidates.values())
        candidates_now[-1].blacklisted_until = 1000
        assert seen(admission, "02:00:00:00:02:02", now=7) is None
        assert seen(admission, addresses[0], now=7) is candidates[0]
    assert len(admission.candidates) == 4


async def test_whom_we_know_and_still_hear_is_forgotten_last() -> None:
    admission = admission_of(max_discovered_peers=2)
    seen(admission, HIGHER, now=100)
    admission.identified(HIGHER, IDENTITY, 100)
    for invented, now in ((1, 110), (2, 120), (3, 130)):
        assert seen(admission, f"02:00:00:00:01:0{invented}", now=now) is not None
        assert HIGHER in admission.candidates
    assert seen(admission, "02:00:00:00:01:04", now=130.1) is not None
    assert HIGHER not in admission.candidates


async def test_of_those_we_know_too_the_one_not_heard_for_longest_goes_first() -> None:
    admission = admission_of(max_discovered_peers=2)
    for address, now in ((HIGHER, 9), (LOWER, 8)):
        seen(admission, address, now=now)
        admission.identified(address, IDENTITY, now)
    seen(admission, "02:00:00:00:01:01", now=10)
    assert set(admission.candidates) == {HIGHER, "02:00:00:00:01:01"}


async def test_who_displaces_somebody_is_dialled_when_all_places_are_taken() -> None:
    admission = admission_of(max_connections=1, displaces=lambda identity: identity == IDENTITY)
    assert admission.take_place(Link("02:00:00:00:00:77", Role.PERIPHERAL), None)
    candidate = seen(admission)
    assert admission.decide(candidate, 0).verdict is Verdict.NO_PLACE
    admission.identified(HIGHER, IDENTITY, 0)
    assert admission.decide(candidate, 0).verdict is Verdict.DIAL


async def test_an_attempt_to_which_somebody_gave_way_gives_way_to_nobody() -> None:
    admission = admission_of(max_connections=1, displaces=lambda _identity: True)
    candidate = seen(admission)
    with admission.begin(candidate, 0, displaces=True) as attempt:
        other = seen(admission, "02:00:00:00:01:01", now=20)
        assert admission.decide(other, 20).verdict is Verdict.RADIO_BUSY
        assert admission.due(20) == ([], math.inf)
        assert not admission.take_place(Link(LOWER, Role.PERIPHERAL), None)
        assert not attempt.scope.cancel_called
        assert admission.take_place(Link(HIGHER), attempt)


async def test_a_link_may_lose_its_place_before_it_has_ended() -> None:
    admission = admission_of(max_connections=1)
    link, other = Link(HIGHER), Link(LOWER, Role.PERIPHERAL)
    assert admission.take_place(link, None)
    admission.lose_place(link)
    assert admission.take_place(other, None)
    admission.lose_place(link)
    admission.link_ended(link, IDENTITY, 0, proven=True)
    assert admission.places.statistics().borrowers == [other]


async def test_of_several_the_one_not_seen_for_longest_is_forgotten() -> None:
    admission = admission_of(max_discovered_peers=3)
    seen(admission, HIGHER, now=9)
    seen(admission, LOWER, now=7)
    seen(admission, "02:00:00:00:00:30", now=8)
    seen(admission, "02:00:00:00:00:40", now=10)
    assert set(admission.candidates) == {HIGHER, "02:00:00:00:00:30", "02:00:00:00:00:40"}


async def test_who_was_just_tried_is_not_forgotten_or_it_would_be_tried_again_at_once() -> None:
    admission = admission_of(max_discovered_peers=1)
    with admission.begin(seen(admission), 10):
        pass
    assert seen(admission, LOWER, now=14.9) is None
    assert seen(admission, LOWER, now=15) is not None


async def test_whoever_has_been_linked_before_goes_first() -> None:
    admission = admission_of()
    seen(admission, "02:00:00:00:01:00", rssi=-30)
    for address, successes in (("02:00:00:00:01:01", 1), ("02:00:00:00:01:02", 2)):
        candidate = seen(admission, address, rssi=-70 - successes)
        for _ in range(successes):
            admission.succeeded(candidate)
    ready, _ = admission.due(1)
    assert [c.address[-2:] for c in ready] == ["01", "02", "00"]


async def test_the_best_score_comes_first() -> None:
    admission = admission_of()
    seen(admission, "02:00:00:00:01:00", rssi=-80)
    seen(admission, "02:00:00:00:01:01", rssi=-50)
    seen(admission, "02:00:00:00:01:02", rssi=-60)
    ready, _ = admission.due(1)
    assert [c.address[-2:] for c in ready] == ["01", "02", "00"]
    assert [row.address[-2:] for row in admission.status(1)] == ["01", "02", "00"]


@pytest.mark.parametrize(
    ("rssi", "attempts", "successes", "age", "score"),
    [
        (-30, 0, 0, 0, 70 + 25 + 25),
        (0, 0, 0, 0, 70 + 25 + 25),
        (-100, 0, 0, 30, 0 + 25 + 0),
        (-120, 4, 1, 100, 0 + 12.5 + 0),
        (-65, 2, 2, 5, 35 + 50 + 25),
        (-65, 2, 0, 17.5, 35 + 0 + 12.5),
        (None, 0, 0, 0, 0 + 25 + 25),
    ],
)
async def test_score(rssi: int | None, attempts: int, successes: int, age: float, score: float) -> None:
    candidate = Candidate(HIGHER, 0, last_seen=100 - age, rssi=rssi, attempts=attempts, successes=successes)
    assert candidate.score(100) == pytest.approx(score)


async def test_the_status_of_a_candidate() -> None:
    admission = admission_of()
    candidate = seen(admission, now=3, name="shed")
    admission.failed(candidate, 3, "it lacks \x1b[2J RX")
    with admission.begin(candidate, 6):
        pass
    known = CandidateStatus(
        *(HIGHER, "shed", -60, 5, None, 1, 1, "paced", "tried just now", 3, None, 0.0, 2),
        "it lacks ?[2J RX",
    )
    assert admission.status(8) == (known,)
    admission.identified(HIGHER, IDENTITY, 8)
    admission.succeeded(candidate)
    known = CandidateStatus(
        *(HIGHER, "shed", -60, 9, IDENTITY.hex(), 2, 0, "dial", "to be dialled", None, None, 0.0, 6, None)
    )
    assert admission.status(12) == (known,)


async def test_the_status_of_one_that_is_left_alone_and_was_never_tried() -> None:
    admission = admission_of(max_connection_failures=1)
    candidate = seen(admission, now=3, flags=1)
    admission.failed(candidate, 4, "gone")
    (status,) = admission.status(14)
    assert (status.flags, status.left_alone, status.tried) == ("peripheral-only", 50, None)


def patience(admission: Admission, candidate: Candidate, now: float) -> float:
    with admission.begin(candidate, now) as attempt:
        return attempt.patience


@pytest.mark.parametrize(("after", "seconds"), [(0, 5), (30, 5), (30.5, math.inf)])
async def test_the_first_attempt_after_a_link_is_given_up_soon(after: float, seconds: float) -> None:
    admission = admission_of()
    candidate = seen(admission)
    admission.identified(HIGHER, IDENTITY, 0)
    admission.link_ended(Link(HIGHER, Role.PERIPHERAL), IDENTITY, 100, proven=True)
    assert patience(admission, candidate, 100 + after) == seconds


async def test_an_attempt_that_follows_no_link_or_a_failure_has_all_its_time() -> None:
    admission = admission_of()
    candidate = seen(admission)
    assert patience(admission, candidate, 0) == math.inf
    candidate.used_until = 100  # an attempt has ended, and told no identity
    assert patience(admission, candidate, 101) == math.inf
    admission.identified(HIGHER, IDENTITY, 0)
    admission.failed(candidate, 100, "gone")
    candidate.used_until = 100
    assert patience(admission, candidate, 101) == math.inf


async def test_each_change_of_a_verdict_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "rns_ble.admission")
    admission = admission_of()
    higher, lower = seen(admission), seen(admission, LOWER)
    for _ in range(3):
        admission.due(0)
        admission.status(40)  # asks, and says nothing
    with admission.begin(higher, 0):
        for now in (1, 20, 20):
            admission.due(now)
    assert caplog.messages == [
        f"{HIGHER}: to be dialled",
        f"{LOWER}: it has the lower address, so it dials first",
        f"{HIGHER} not dialled: an attempt is in flight; in flight: ['{HIGHER}']",
        f"{LOWER} not dialled: the adapter is busy with another attempt; in flight: ['{HIGHER}']",
        f"{HIGHER} given up for others that wait",
    ]
    caplog.clear()
    for _ in range(4):
        admission.failed(lower, 100, "gone")
    assert caplog.messages == [
        f"{LOWER} failed 3 times: left alone for 60 s",
        f"{LOWER} failed 4 times: left alone for 120 s",
    ]


async def test_two_that_can_never_meet_are_a_warning_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "rns_ble.admission")
    admission = admission_of(enable_central=False)
    seen(admission, LOWER)
    seen(admission, HIGHER, flags=1)
    seen(admission, "02:00:00:00:00:30", flags=1)
    admission.due(0)
    admission.due(0)
    assert caplog.record_tuples == [
        ("rns_ble.admission", logging.DEBUG, f"{LOWER}: we do not dial (enable_central = no)"),
        (
            "rns_ble.admission",
            logging.WARNING,
            f"{HIGHER} is peripheral-only and so are we: neither side dials."
            " Set enable_central = yes on one of them.",
        ),
        (
            "rns_ble.admission",
            logging.DEBUG,
            "02:00:00:00:00:30: neither side dials (both peripheral-only)",
        ),
    ]


@given(st.lists(st.tuples(st.sampled_from("sbfx"), st.integers(0, 5), st.floats(0, 20)), max_size=60))
def test_whatever_happens_the_limiters_tell_the_truth(steps: list[tuple[str, int, float]]) -> None:
    async def main() -> None:
        admission = admission_of(max_connections=3, max_discovered_peers=4)
        now = 0.0
        flying = {}
        last_attempt: dict[str, float] = {}
        for what, index, passed in steps:
            now += passed
            address = f"02:00:00:00:01:0{index}"
            if what == "s":
                seen(admission, address, now)
            elif what == "b":
                for candidate in admission.due(now)[0]:
                    try:
                        flying[candidate.address] = admission.begin(candidate, now)
                    except trio.WouldBlock:
                        continue
                    assert now - last_attempt.get(candidate.address, -5) >= 5
                    last_attempt[candidate.address] = now
            elif address in flying:
                with flying.pop(address) as attempt:
                    if what == "f":
                        admission.failed(attempt.candidate, now, "gone")
            assert sorted(admission.in_flight()) == sorted(flying)
            assert len(flying) <= 1
            assert admission.places.borrowed_tokens == len(flying)
            assert len(admission.candidates) <= 4
            assert set(flying) <= set(admission.candidates)

    run_in_virtual_time(main)
