"""node.proposals: the database's lock. One queue in the order of coming, and everybody leaves it in time."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import msgpack
import pytest

from dqlite_py.errors import DatabaseLocked, Error, NotLeader, Outcome
from dqlite_py.node.proposals import DatabaseProposals, WriteLock
from dqlite_py.node.tickets import Deadline
from tests.unit.node.test_proposals import Bench

UNIT = b"\x94\xc0\x00\x91\x91\x92\xa8SELECT 1\x90\xc4\x08" + bytes(8)
SEED = bytes(range(16))


class LockBench(Bench):
    """`order`: who got the lock, or why not."""

    def __init__(self) -> None:
        super().__init__()
        self.order: list[tuple[str, Error | None]] = []

    def lock(self, name: str, wait_s: float = 5.0) -> WriteLock:
        return self.queue.lock(lambda error: self.order.append((name, error)), wait_s)

    def apply(self, position: int) -> None:
        self.proposed[position][1]((position, [[0, []]] * self.units(position)), None)

    def holders(self) -> list[str]:
        return [name for name, error in self.order if error is None]


def test_a_lock_of_an_idle_database_is_granted_at_once() -> None:
    bench = LockBench()
    bench.lock("a")
    bench.turn()
    assert bench.order == [("a", None)]


def test_it_waits_until_all_that_was_proposed_is_applied() -> None:
    bench = LockBench()
    bench.submit(1)
    bench.turn()
    bench.submit(2)
    bench.turn()
    bench.lock("a")
    bench.turn()
    bench.apply(0)
    bench.turn()
    assert bench.order == []
    bench.apply(1)
    bench.turn()
    assert bench.order == [("a", None)]


def test_the_queue_is_served_in_the_order_of_coming() -> None:
    bench = LockBench()
    bench.submit(1)
    first = bench.lock("a")
    bench.submit(2)
    bench.submit(3)
    second = bench.lock("b")
    bench.submit(4)
    bench.turn()
    assert [bench.units(i) for i in range(len(bench.proposed))] == [1]
    bench.apply(0)
    bench.turn()
    assert bench.order == [("a", None)]
    assert len(bench.proposed) == 1
    bench.queue.release(first)
    bench.turn()
    assert [bench.units(i) for i in range(len(bench.proposed))] == [1, 2]
    bench.apply(1)
    bench.turn()
    assert bench.holders() == ["a", "b"]
    bench.queue.release(second)
    bench.turn()
    assert [bench.units(i) for i in range(len(bench.proposed))] == [1, 2, 1]


def test_the_holder_s_unit_is_an_entry_of_its_own_and_lets_the_queue_go_on() -> None:
    bench = LockBench()
    lock = bench.lock("a")
    bench.turn()
    bench.submit(1)
    bench.lock("b")
    bench.turn()
    assert bench.proposed == []
    heard: list[Any] = []
    bench.queue.propose_as_holder(lock, UNIT, 2**40, SEED, lambda *answer: heard.append(answer))
    bench.turn()
    (entry, follower) = [msgpack.unpackb(payload) for payload, _ in bench.proposed]
    assert entry[3:5] == [2**40, SEED]
    assert entry[6] == [msgpack.unpackb(UNIT)]
    assert len(follower[6]) == 1
    bench.apply(0)
    assert heard == [((0, [0, []]), None)]
    bench.turn()
    assert bench.holders() == ["a"]  # the unit that came before it is still under way
    bench.apply(1)
    bench.turn()
    assert bench.holders() == ["a", "b"]


def test_who_does_not_hold_it_cannot_propose() -> None:
    bench = LockBench()
    lock = bench.lock("a")
    bench.turn()
    bench.queue.release(lock)
    with pytest.raises(Error):
        bench.queue.propose_as_holder(lock, UNIT, 1, SEED, lambda *_: None)
    assert bench.proposed == []


def test_who_waits_too_long_leaves_and_holds_up_nobody() -> None:
    bench = LockBench()
    first = bench.lock("a")
    bench.turn()
    bench.lock("b", 0.5)
    bench.lock("c", 5.0)
    timer = next(timer for timer in bench.timers if timer.delay_s == 0.5)
    timer.run()
    ((_, _), (name, error)) = bench.order
    assert name == "b"
    assert isinstance(error, DatabaseLocked)
    assert error.code == 5
    assert "0.5 s" in error.message
    assert error.outcome is Outcome.NOT_APPLIED
    bench.queue.release(first)
    bench.turn()
    assert bench.holders() == ["a", "c"]
    assert all(timer.is_cancelled for timer in bench.timers if timer.delay_s == 5.0)


def test_units_that_wait_for_a_transaction_hear_when_their_time_is_over() -> None:
    bench = LockBench()
    bench.lock("a")
    bench.turn()
    bench.submit(1, timeout_s=0.0)
    bench.submit(2, timeout_s=1000.0)
    bench.turn()
    bench.sweep()
    ((number, _, error),) = bench.heard
    assert number == 1
    assert isinstance(error, DatabaseLocked)
    assert error.outcome is Outcome.NOT_APPLIED


def test_who_leaves_the_queue_is_passed_over() -> None:
    bench = LockBench()
    first = bench.lock("a")
    bench.turn()
    second, _third = bench.lock("b"), bench.lock("c")
    bench.queue.release(second)
    bench.queue.release(first)
    bench.queue.release(first)
    bench.turn()
    assert bench.holders() == ["a", "c"]


def test_lost_leadership_ends_who_waits_and_takes_the_lock_from_its_holder() -> None:
    bench = LockBench()
    first = bench.lock("a")
    bench.turn()
    bench.lock("b")
    bench.submit(1)
    gone = NotLeader("gone")
    bench.queue.fail_queued(gone)
    assert bench.order == [("a", None), ("b", gone)]
    assert bench.heard == [(1, None, gone)]
    with pytest.raises(Error):
        bench.queue.propose_as_holder(first, UNIT, 1, SEED, lambda *_: None)
    bench.lock("c")
    bench.turn()
    assert bench.holders() == ["a", "c"]
    bench.queue.release(first)  # of before: changes nothing
    bench.submit(2)
    bench.turn()
    assert bench.proposed == []


def test_a_withdrawn_unit_is_not_proposed() -> None:
    bench = LockBench()
    heard: list[Any] = []
    queued = bench.queue.submit(b"\x93\xc0\x00\x90", lambda *answer: heard.append(answer), Deadline(5))
    assert queued.withdraw()
    bench.turn()
    assert bench.proposed == []
    assert heard == []
    bench.submit(1)
    bench.turn()
    assert bench.units(0) == 1


@pytest.mark.parametrize("seed", range(20))
def test_whatever_comes_in_whatever_order(seed: int) -> None:
    """Everybody is served once, in order; nothing is proposed while the lock is held."""
    random = Random(seed)
    bench = LockBench()
    served: list[int] = []
    held: list[WriteLock] = []
    applied = 0

    def lock(number: int) -> None:
        request: list[WriteLock] = []

        def granted(error: Error | None) -> None:
            assert error is None
            assert not held
            assert applied == len(bench.proposed)
            served.append(number)
            held.append(request[0])

        request.append(bench.queue.lock(granted, 5.0))

    queue: DatabaseProposals = bench.queue
    steps: list[Callable[[], None]] = [bench.turn] * 3
    for number in range(40):
        if random.random() < 0.4:
            lock(number)
        else:
            bench.submit(number)
        for _ in range(random.randrange(4)):
            random.choice(steps)()
            proposed = len(bench.proposed)
            if applied < proposed and random.random() < 0.5:
                bench.apply(applied)
                applied += 1
            if held and random.random() < 0.5:
                assert len(bench.proposed) == proposed
                queue.release(held.pop())
    while len(served) + len(bench.heard) < 40:
        bench.turn()
        if held:
            queue.release(held.pop())
        elif applied < len(bench.proposed):
            bench.apply(applied)
            applied += 1
    assert served == sorted(served)
    units = [number for number, _, _ in bench.heard]
    assert units == sorted(units)
    assert sorted(served + units) == list(range(40))
