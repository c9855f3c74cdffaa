"""node.proposals: batches grow with load, a lone unit waits for nobody, everybody hears once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from dqlite_py.command import StateHash, decode_header, encode_unit
from dqlite_py.errors import Busy, Error, NotLeader, Outcome
from dqlite_py.limits import ENTRY_BATCH_BYTES, PENDING_UNITS_MAX
from dqlite_py.node.proposals import PIPELINE_MAX, SWEEP_S, DatabaseProposals
from dqlite_py.node.tickets import Deadline


class Timer:
    """What call_later gives."""

    def __init__(self, delay_s: float, run: Callable[[], None]) -> None:
        self.delay_s = delay_s
        self.run = run
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Bench:
    """Proposals with a log and a loop under the test's hand."""

    def __init__(self) -> None:
        self.proposed: list[tuple[bytes, Callable[[Any, Error | None], None]]] = []
        self.soon: list[Callable[[], None]] = []
        self.timers: list[Timer] = []
        self.hash: StateHash | None = None
        self.heard: list[tuple[int, Any, Error | None]] = []
        self.queue = DatabaseProposals(
            "app",
            propose=lambda payload, done: self.proposed.append((payload, done)),
            now_us=lambda: 1,
            state_hash=lambda _database: self.hash,
            call_soon=lambda call: self.soon.append(call),
            call_later=self.later,
            pump=lambda: None,
        )

    def submit(self, number: int, size: int = 10, timeout_s: float = 10.0) -> None:
        unit = encode_unit([("INSERT INTO t VALUES (?)", ["x" * size])])
        self.queue.submit(
            unit, lambda result, error: self.heard.append((number, result, error)), Deadline(timeout_s)
        )

    def later(self, delay_s: float, call: Callable[..., None], *args: Any) -> Timer:
        timer = Timer(delay_s, lambda: call(*args))
        self.timers.append(timer)
        return timer

    def sweep(self) -> None:
        """The time has come to look who waits in vain."""
        next(timer for timer in self.timers if timer.delay_s == SWEEP_S).run()

    def turn(self) -> None:
        soon, self.soon = self.soon, []
        for call in soon:
            call()

    def units(self, position: int) -> int:
        return len(msgpack.unpackb(self.proposed[position][0])[6])


def test_a_lone_unit_is_proposed_in_the_next_turn() -> None:
    bench = Bench()
    bench.submit(1)
    bench.turn()
    assert len(bench.proposed) == 1
    bench.proposed[0][1]((5, [[0, []]]), None)
    assert bench.heard == [(1, (5, [0, []]), None)]


def test_units_of_one_turn_share_an_entry_and_later_ones_collect() -> None:
    bench = Bench()
    for number in range(10):
        bench.submit(number)
    bench.turn()
    for number in range(PIPELINE_MAX + 5):
        bench.submit(number)
        bench.turn()
    assert [bench.units(i) for i in range(len(bench.proposed))] == [10] + [1] * (PIPELINE_MAX - 1)
    bench.proposed[0][1]((5, [[0, []]] * 10), None)
    bench.turn()
    assert bench.units(PIPELINE_MAX) == 6


def test_an_entry_is_closed_by_bytes() -> None:
    bench = Bench()
    for number in range(3):
        bench.submit(number, ENTRY_BATCH_BYTES // 2)
    bench.turn()
    assert [bench.units(i) for i in range(len(bench.proposed))] == [1, 1, 1]


def test_a_refused_entry_tells_every_unit() -> None:
    bench = Bench()
    bench.submit(1)
    bench.submit(2)
    bench.turn()
    error = NotLeader("gone")
    bench.proposed[0][1](None, error)
    assert bench.heard == [(1, None, error), (2, None, error)]


def test_a_full_queue_says_busy_and_queues_nothing() -> None:
    bench = Bench()
    for number in range(PENDING_UNITS_MAX):
        bench.submit(number)
    with pytest.raises(Busy):
        bench.submit(-1)
    bench.queue.fail_queued(NotLeader("gone"))
    assert len(bench.heard) == PENDING_UNITS_MAX
    assert all(number >= 0 for number, _, _ in bench.heard)


def test_a_state_hash_is_claimed_once() -> None:
    bench = Bench()
    bench.hash = StateHash(7, 99)
    for number in range(2):
        bench.submit(number)
        bench.turn()
    claims = [decode_header(payload).state_hash for payload, _ in bench.proposed]
    assert claims == [StateHash(7, 99), None]


def test_a_unit_behind_entries_without_an_answer_hears_that_it_was_not_proposed() -> None:
    bench = Bench()
    for number in range(PIPELINE_MAX):
        bench.submit(number)
        bench.turn()
    bench.submit(7, timeout_s=0.0)
    bench.submit(8)
    bench.sweep()
    ((number, _, error),) = bench.heard
    assert number == 7
    assert isinstance(error, Busy)
    assert error.outcome is Outcome.NOT_APPLIED
    bench.proposed[0][1]((1, [[0, []]]), None)
    bench.turn()
    assert bench.units(PIPELINE_MAX) == 1  # the other one
