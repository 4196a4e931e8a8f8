"""Keepalive, silence and probe, told as stories on a clock."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rns_ble.protocol.liveness import Action, Habits, Liveness
from rns_ble.protocol.values import ValueKind

KEEPALIVE, PING, DROPS = Action.SEND_KEEPALIVE, Action.SEND_PING, (Action.SILENT, Action.DATA_DEAD)
SENT = {KEEPALIVE: ValueKind.KEEPALIVE, PING: ValueKind.PING}


def story(
    *,
    heard: dict[float, ValueKind] | None = None,
    sent: dict[float, ValueKind] | None = None,
    until: float,
) -> list[tuple[float, Action]]:
    """What a link does that is ready at 0, hears and sends this, and does at once what is due."""
    liveness = Liveness(0.0, Habits())
    events = sorted(
        [(at, kind, liveness.heard) for at, kind in (heard or {}).items()]
        + [(at, kind, liveness.sent) for at, kind in (sent or {}).items()],
        key=lambda event: event[0],
    )
    done: list[tuple[float, Action]] = []
    while True:
        now = liveness.next_due()
        if events and events[0][0] <= now:
            at, kind, happens = events.pop(0)
            happens(kind, at)
            continue
        if now > until:
            return done
        actions = liveness.poll(now)
        assert actions, "something was said to be due"
        for action in actions:
            assert (now, action) not in done, "what was sent is still said to be due"
            done.append((now, action))
            if action in DROPS:
                return done
            liveness.sent(SENT[action], now)


def every(interval: float, kind: ValueKind, until: float) -> dict[float, ValueKind]:
    return {interval * i: kind for i in range(1, int(until / interval) + 1)}


def test_a_peer_that_never_says_anything_is_kept_and_asked():
    """As ble-reticulum before v0.4.0 with nothing to send."""
    assert story(until=60.0) == [
        (at, action) for at in (15.0, 30.0, 45.0, 60.0) for action in (KEEPALIVE, PING)
    ]


def test_a_peer_that_sent_one_keepalive_promised_more():
    done = story(heard={1.0: ValueKind.KEEPALIVE}, until=100.0)
    assert done[-1] == (46.0, Action.SILENT)
    assert [at for at, action in done if action is KEEPALIVE] == [15.0, 30.0, 45.0]


@pytest.mark.parametrize("kind", [kind for kind in ValueKind if kind is not ValueKind.FOREIGN])
def test_any_known_kind_breaks_the_silence(kind):
    done = story(heard={1.0: ValueKind.KEEPALIVE, 40.0: kind}, until=100.0)
    assert done[-1] == (85.0, Action.SILENT)


def test_foreign_values_are_no_sign_of_life():
    heard = {1.0: ValueKind.KEEPALIVE} | {at + 0.5: ValueKind.FOREIGN for at in range(2, 60)}
    assert story(heard=heard, until=100.0)[-1] == (46.0, Action.SILENT)


def test_silence_alone_is_no_reason():
    """No keepalive ever: not dropped, however long nothing comes after the last fragment."""
    done = story(heard={1.0: ValueKind.FRAGMENT}, until=600.0)
    assert all(action not in DROPS for _at, action in done)


@pytest.mark.parametrize("kind", [ValueKind.PING, ValueKind.PONG])
def test_a_peer_that_knows_the_probe_and_carries_no_data_is_data_dead(kind):
    heard = every(15.0, ValueKind.KEEPALIVE, 100.0) | {16.0: kind}
    assert story(heard=heard, until=100.0)[-1] == (61.0, Action.DATA_DEAD)


@pytest.mark.parametrize("kind", [ValueKind.PING, ValueKind.PONG, ValueKind.FRAGMENT])
def test_data_keeps_it_alive(kind):
    heard = {1.0: ValueKind.PONG} | every(40.0, kind, 400.0)
    done = story(heard=heard, until=400.0)
    assert all(action not in DROPS for _at, action in done)


def test_keepalives_alone_are_no_data_but_no_reason_either():
    """As Columba or reticulum-kt with nothing to send: they know no probe, so no PING comes back."""
    done = story(heard=every(15.0, ValueKind.KEEPALIVE, 600.0), until=600.0)
    assert all(action not in DROPS for _at, action in done)
    assert [at for at, action in done if action is PING] == [15.0 * i for i in range(1, 41)]


def test_the_identity_again_is_a_sign_of_life_but_no_data():
    heard = {1.0: ValueKind.PONG} | every(10.0, ValueKind.IDENTITY, 100.0)
    assert story(heard=heard, until=100.0)[-1] == (46.0, Action.DATA_DEAD)


def test_received_data_puts_the_ping_off_and_not_the_keepalive():
    done = story(heard={10.0: ValueKind.FRAGMENT, 24.0: ValueKind.FRAGMENT}, until=45.0)
    assert [at for at, action in done if action is PING] == [39.0]
    assert [at for at, action in done if action is KEEPALIVE] == [15.0, 30.0, 45.0]


def test_sent_fragments_put_the_keepalive_off_and_not_the_ping():
    done = story(sent={10.0: ValueKind.FRAGMENT, 24.0: ValueKind.FRAGMENT}, until=45.0)
    assert [at for at, action in done if action is KEEPALIVE] == [39.0]
    assert [at for at, action in done if action is PING] == [15.0, 30.0, 45.0]


@pytest.mark.parametrize("kind", [ValueKind.PING, ValueKind.PONG, ValueKind.IDENTITY])
def test_only_fragments_and_keepalives_put_the_keepalive_off(kind):
    assert (15.0, KEEPALIVE) in story(sent={10.0: kind}, until=20.0)


def test_a_ping_sent_late_puts_the_next_one_off():
    done = story(sent={14.0: ValueKind.PING}, until=29.0)
    assert [at for at, action in done if action is PING] == [29.0]


def test_both_reasons_come_before_anything_to_send():
    liveness = Liveness(0.0, Habits())
    liveness.heard(ValueKind.KEEPALIVE, 0.0)
    liveness.heard(ValueKind.PING, 0.0)
    assert liveness.poll(45.0) == [Action.SILENT, Action.DATA_DEAD, KEEPALIVE, PING]


def test_asking_changes_nothing():
    liveness = Liveness(0.0, Habits())
    assert liveness.poll(15.0) == liveness.poll(15.0) == [KEEPALIVE, PING]
    liveness.sent(ValueKind.KEEPALIVE, 15.0)
    assert liveness.poll(15.0) == [PING]
    liveness.sent(ValueKind.PING, 15.0)
    assert liveness.poll(15.0) == []
    assert liveness.next_due() == 30.0


def test_a_doubt_is_a_ping_at_once_and_then_every_fifteen_seconds():
    liveness = Liveness(0.0, Habits())
    liveness.doubt(3.0)
    assert liveness.next_due() == 3.0
    assert liveness.poll(3.0) == [PING]
    liveness.sent(ValueKind.PING, 3.0)
    assert liveness.poll(14.9) == []
    assert liveness.poll(18.0) == [KEEPALIVE, PING]


def test_a_peer_that_knows_the_probe_has_five_seconds_for_its_first_unanswered_ping():
    liveness = Liveness(0.0, Habits(knows_the_probe=True))
    assert not liveness.overdue(100.0)
    liveness.sent(ValueKind.PING, 10.0)
    liveness.sent(ValueKind.PING, 12.0)
    assert not liveness.overdue(15.0)
    assert liveness.overdue(15.1)
    for no_answer in (ValueKind.KEEPALIVE, ValueKind.IDENTITY, ValueKind.FOREIGN):
        liveness.heard(no_answer, 15.0)
        assert liveness.overdue(15.1)


@pytest.mark.parametrize("kind", [ValueKind.PONG, ValueKind.PING, ValueKind.FRAGMENT])
def test_any_data_answers_the_ping(kind):
    liveness = Liveness(0.0, Habits(knows_the_probe=True))
    liveness.sent(ValueKind.PING, 10.0)
    liveness.heard(kind, 16.0)
    assert not liveness.overdue(100.0)
    liveness.sent(ValueKind.PING, 110.0)
    assert liveness.overdue(115.1)


def test_a_keepalive_may_be_five_seconds_late():
    liveness = Liveness(0.0, Habits(sends_keepalives=True))
    liveness.heard(ValueKind.FRAGMENT, 10.0)
    assert not liveness.overdue(30.0)
    assert liveness.overdue(30.1)


def test_who_has_promised_nothing_is_never_late():
    liveness = Liveness(0.0, Habits())
    liveness.sent(ValueKind.PING, 0.0)
    assert not liveness.overdue(1000.0)


def test_habits_shown_on_one_link_count_on_the_next():
    habits = Habits()
    first = Liveness(0.0, habits)
    first.heard(ValueKind.KEEPALIVE, 1.0)
    first.heard(ValueKind.PONG, 1.0)
    assert Action.SILENT in Liveness(50.0, habits).poll(95.0)
    assert Action.DATA_DEAD in Liveness(50.0, habits).poll(95.0)
    assert Action.SILENT not in Liveness(50.0, Habits()).poll(95.0)


def test_last_heard():
    liveness = Liveness(5.0, Habits())
    assert liveness.last_heard == 5.0
    liveness.heard(ValueKind.KEEPALIVE, 6.0)
    assert liveness.last_heard == 6.0
    liveness.heard(ValueKind.FOREIGN, 7.0)
    assert liveness.last_heard == 6.0


@given(
    st.lists(
        st.tuples(st.sampled_from(["heard", "sent"]), st.sampled_from(list(ValueKind)), st.floats(0, 20)),
        max_size=20,
    )
)
def test_next_due_is_the_first_time_at_which_anything_is_due(events):
    liveness = Liveness(0.0, Habits())
    now = 0.0
    for what, kind, pause in events:
        now += pause
        getattr(liveness, what)(kind, now)
        due = liveness.next_due()
        assert liveness.poll(due)
        assert liveness.poll(math.nextafter(due, -math.inf)) == []
