"""The mailbox from threads into Trio."""

from __future__ import annotations

import threading

import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from rns_ble.mailbox import Mailbox


def numbered(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(2) for number in numbers)


async def test_packets_of_several_threads_arrive_once_and_in_each_threads_order() -> None:
    mailbox = Mailbox(1_000_000)

    def put(thread: int) -> None:
        for n in range(5000):
            assert mailbox.put(numbered(thread, n), numbered(thread % 2))

    threads = [threading.Thread(target=put, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    with trio.fail_after(60):
        packets = [await mailbox.take() for _ in range(20_000)]
    for thread in threads:
        thread.join()
    for number in range(4):
        assert [p for p in packets if p.startswith(numbered(number))] == [
            numbered(number, n) for n in range(5000)
        ]
    assert len(mailbox) == mailbox.dropped == mailbox.bytes_waiting == 0


async def test_a_full_mailbox_refuses_and_counts() -> None:
    mailbox = Mailbox(3)
    dropped = []
    mailbox.on_drop = dropped.append
    assert [mailbox.put(numbered(n)) for n in range(5)] == [True, True, True, False, False]
    assert mailbox.dropped == 2
    assert dropped == [numbered(3), numbered(4)]
    assert [await mailbox.take() for _ in range(3)] == [numbered(n) for n in range(3)]
    assert mailbox.put(numbered(9))


async def test_the_bytes_that_wait_are_counted() -> None:
    mailbox = Mailbox(10)
    for length in (500, 83, 20):
        mailbox.put(bytes(length))
    await trio.testing.wait_all_tasks_blocked()
    assert mailbox.bytes_waiting == 603
    await mailbox.take()
    assert mailbox.bytes_waiting == 103


async def taken(mailbox: Mailbox) -> list[bytes]:
    return [await mailbox.take() for _ in range(len(mailbox))]


async def test_flows_take_turns_and_each_stays_in_order() -> None:
    mailbox = Mailbox(100)
    for packet in (b"a1", b"a2", b"a3", b"a4", b"b1", b"b2", b"c1"):
        mailbox.put(packet, packet[:1])
    assert await taken(mailbox) == [b"a1", b"b1", b"c1", b"a2", b"b2", b"a3", b"a4"]


async def test_whoever_comes_alone_waits_for_one_packet_of_each_other_flow() -> None:
    mailbox = Mailbox(100)
    for _ in range(30):
        mailbox.put(b"bulk", b"one")
        mailbox.put(b"bulk", b"two")
    for _ in range(20):
        await mailbox.take()
        mailbox.put(b"small", b"three")
        assert b"small" in [await mailbox.take() for _ in range(3)]


async def test_an_urgent_packet_overtakes_its_flow_and_is_never_overtaken() -> None:
    mailbox = Mailbox(100)
    for n in range(4):
        mailbox.put(b"data %d" % n, b"a")
    mailbox.put(b"proof 0", b"a", urgent=True)
    mailbox.put(b"proof 1", b"a", urgent=True)
    mailbox.put(b"close", b"a")
    assert await taken(mailbox) == [
        *(b"proof 0", b"proof 1"),
        *(b"data 0", b"data 1", b"data 2", b"data 3", b"close"),
    ]


async def test_too_much_of_one_flow_costs_that_flow_its_newest_and_no_other_anything() -> None:
    mailbox = Mailbox(8)
    dropped: list[bytes] = []
    mailbox.on_drop = dropped.append
    for n in range(8):
        mailbox.put(b"bulk %d" % n, b"bulk")
    await trio.testing.wait_all_tasks_blocked()
    for n in range(3):
        assert mailbox.put(b"small %d" % n, b"small")
    await trio.testing.wait_all_tasks_blocked()
    assert dropped == [b"bulk 7", b"bulk 6", b"bulk 5"]
    assert mailbox.dropped == 3
    assert len(mailbox) == 8
    assert not mailbox.put(b"bulk 8", b"bulk")
    assert dropped[3:] == [b"bulk 8"]
    assert sorted(await taken(mailbox)) == [
        *(b"bulk 0", b"bulk 1", b"bulk 2", b"bulk 3", b"bulk 4"),
        *(b"small 0", b"small 1", b"small 2"),
    ]


async def test_of_flows_of_one_packet_each_the_one_that_comes_too_late_is_dropped() -> None:
    mailbox = Mailbox(1)
    dropped: list[bytes] = []
    mailbox.on_drop = dropped.append
    for packet in (b"a", b"b", b"c"):
        mailbox.put(packet, packet, urgent=True)
        await trio.testing.wait_all_tasks_blocked()
    assert dropped == [b"b", b"c"]
    assert await taken(mailbox) == [b"a"]
    assert mailbox.bytes_waiting == 0


@given(
    capacity=st.integers(1, 6),
    steps=st.lists(st.none() | st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.booleans())),
)
def test_each_packet_is_taken_or_dropped_once_and_order_holds(capacity, steps) -> None:
    """`None`: the taker's turn."""

    async def main() -> None:
        mailbox = Mailbox(capacity)
        dropped: list[bytes] = []
        mailbox.on_drop = dropped.append
        out: list[bytes] = []
        names: list[tuple[bytes, bool]] = []
        for step in steps:
            if step is None:
                if len(mailbox):
                    out.append(await mailbox.take())
            else:
                mailbox.put(numbered(len(names)), step[0], urgent=step[1])
                names.append(step)
                await trio.testing.wait_all_tasks_blocked()
            assert len(mailbox) <= capacity
            assert mailbox.bytes_waiting == 2 * len(mailbox)
        out += await taken(mailbox)
        assert mailbox.dropped == len(dropped)
        assert sorted(out + dropped) == [numbered(n) for n in range(len(names))]
        for name in names:
            same = [packet for packet in out if names[int.from_bytes(packet)] == name]
            assert same == sorted(same)

    trio.run(main)


async def test_a_closed_mailbox_drops_what_waits_and_what_comes() -> None:
    mailbox = Mailbox(10)
    for flow in (b"a", b"a", b"b"):
        mailbox.put(b"x", flow)
    mailbox.close()
    assert not mailbox.put(b"y")
    assert (len(mailbox), mailbox.dropped, mailbox.bytes_waiting) == (0, 4, 0)


async def test_a_cancelled_take_takes_nothing(autojump_clock) -> None:
    mailbox = Mailbox(3)
    with trio.move_on_after(1) as scope:
        await mailbox.take()
    assert scope.cancelled_caught
    mailbox.put(b"1")
    with trio.CancelScope() as scope:
        scope.cancel()
        await mailbox.take()
    assert scope.cancelled_caught
    assert await mailbox.take() == b"1"


async def test_a_waiting_taker_is_woken_by_a_put_from_trio_itself(autojump_clock) -> None:
    mailbox = Mailbox(3)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def later() -> None:
            await trio.sleep(1)
            mailbox.put(b"7")

        assert await mailbox.take() == b"7"


def test_when_trio_has_ended_put_refuses() -> None:
    async def main() -> Mailbox:
        return Mailbox(10)

    mailbox = trio.run(main)
    assert not mailbox.put(b"1")
    assert not mailbox.put(b"2")
    assert mailbox.dropped == 2
