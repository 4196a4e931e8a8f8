"""The mailbox from threads into Trio."""

from __future__ import annotations

import threading

import trio

from rns_ble.mailbox import Mailbox


async def test_items_of_several_threads_arrive_once_and_in_each_threads_order() -> None:
    mailbox: Mailbox[tuple[int, int]] = Mailbox(1_000_000)

    def put(thread: int) -> None:
        for n in range(5000):
            assert mailbox.put((thread, n))

    threads = [threading.Thread(target=put, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    with trio.fail_after(60):
        items = [await mailbox.take() for _ in range(20_000)]
    for thread in threads:
        thread.join()
    for number in range(4):
        assert [n for thread, n in items if thread == number] == list(range(5000))
    assert len(mailbox) == mailbox.refused == 0


async def test_a_full_mailbox_refuses_and_counts() -> None:
    mailbox: Mailbox[int] = Mailbox(3)
    assert [mailbox.put(n) for n in range(5)] == [True, True, True, False, False]
    assert mailbox.refused == 2
    assert [await mailbox.take() for _ in range(3)] == [0, 1, 2]
    assert mailbox.put(9)


async def test_a_cancelled_take_takes_nothing(autojump_clock) -> None:
    mailbox: Mailbox[int] = Mailbox(3)
    with trio.move_on_after(1) as scope:
        await mailbox.take()
    assert scope.cancelled_caught
    mailbox.put(1)
    with trio.CancelScope() as scope:
        scope.cancel()
        await mailbox.take()
    assert scope.cancelled_caught
    assert await mailbox.take() == 1


async def test_a_waiting_taker_is_woken_by_a_put_from_trio_itself(autojump_clock) -> None:
    mailbox: Mailbox[int] = Mailbox(3)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def later() -> None:
            await trio.sleep(1)
            mailbox.put(7)

        assert await mailbox.take() == 7


def test_when_trio_has_ended_put_refuses() -> None:
    async def main() -> Mailbox[int]:
        return Mailbox(10)

    mailbox = trio.run(main)
    assert not mailbox.put(1)
    assert not mailbox.put(2)
    assert mailbox.refused == 2
