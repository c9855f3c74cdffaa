"""raft/gate.py: what waits for the disk, and when the loop is woken for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from dqlite_py.errors import JournalFailed
from dqlite_py.model import Entry, EntryKind, HardState, LogIndex, NodeId, Term
from dqlite_py.raft.effects import Effects
from dqlite_py.raft.gate import DurabilityGate
from dqlite_py.raft.messages import Message, TimeoutNow

PEER = NodeId(2)
HELLO = TimeoutNow(NodeId(1), Term(1))


class Bench:
    """Plays the loop, the journal thread, the transport and the host."""

    def __init__(self) -> None:
        self.wakes: list[Callable[[], None]] = []
        self.writing: list[Callable[[BaseException | None], None]] = []
        self.sent: list[tuple[NodeId, Message]] = []
        self.told: list[tuple[int, BaseException | None]] = []
        self.gate = DurabilityGate(self, self, self._send_all, self._on_durable)  # type: ignore[arg-type]

    def call_soon_threadsafe(self, callback: Callable[[], None]) -> None:
        self.wakes.append(callback)

    def submit(self, _batch: Any, done: Callable[[BaseException | None], None]) -> None:
        self.writing.append(done)

    def _send_all(self, messages: Iterable[tuple[NodeId, Message]]) -> None:
        self.sent += messages

    def _on_durable(self, token: int, error: BaseException | None) -> None:
        self.told.append((token, error))

    def written(self, count: int = 1, error: BaseException | None = None) -> None:
        for _ in range(count):
            self.writing.pop(0)(error)

    def run(self) -> None:
        while self.wakes:
            self.wakes.pop(0)()


def entries(token: int) -> Effects:
    return Effects(token=token, entries=[Entry(LogIndex(token), Term(1), EntryKind.COMMAND, b"x")])


def vote(token: int) -> Effects:
    return Effects(token=token, hard_state=HardState(Term(1), PEER), messages_when_durable=[(PEER, HELLO)])


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_messages_wait_for_their_batch(bench: Bench) -> None:
    bench.gate.submit(vote(1))
    bench.run()
    assert not bench.sent
    bench.written()
    bench.run()
    assert (bench.sent, bench.told) == ([(PEER, HELLO)], [(1, None)])


def test_messages_without_a_batch_wait_for_those_before(bench: Bench) -> None:
    bench.gate.submit(entries(1))
    bench.gate.submit(Effects(messages_when_durable=[(PEER, HELLO)]))
    assert not bench.sent
    bench.written()
    bench.run()
    assert bench.sent == [(PEER, HELLO)]
    bench.gate.submit(Effects(messages_when_durable=[(PEER, HELLO)]))
    assert bench.sent == [(PEER, HELLO)] * 2


def test_many_reports_cost_one_wake_up_and_one_step(bench: Bench) -> None:
    for token in (1, 2, 3):
        bench.gate.submit(entries(token))
    bench.written(3)
    assert len(bench.wakes) == 1
    bench.run()
    assert bench.told == [(3, None)]


def test_a_patient_loop_is_not_woken(bench: Bench) -> None:
    bench.gate.be_patient(True)
    bench.gate.submit(entries(1))
    bench.written()
    assert not bench.wakes
    bench.gate.collect()
    assert bench.told == [(1, None)]


def test_a_report_that_is_there_is_taken_when_patience_ends(bench: Bench) -> None:
    bench.gate.be_patient(True)
    bench.gate.submit(entries(1))
    bench.written()
    bench.gate.be_patient(False)
    assert bench.told == [(1, None)]


def test_a_report_that_comes_when_patience_has_ended_wakes_the_loop(bench: Bench) -> None:
    bench.gate.be_patient(True)
    bench.gate.submit(entries(1))
    bench.gate.be_patient(False)
    assert not bench.told
    bench.written()
    bench.run()
    assert bench.told == [(1, None)]


def test_a_report_that_sends_or_fails_waits_for_no_patience(bench: Bench) -> None:
    bench.gate.be_patient(True)
    bench.gate.submit(vote(1))
    bench.written()
    bench.run()
    assert bench.sent == [(PEER, HELLO)]
    bench.gate.be_patient(True)
    bench.gate.submit(entries(2))
    error = JournalFailed("the disk is gone")
    bench.written(error=error)
    bench.run()
    assert bench.told == [(1, None), (0, error)]


def test_messages_behind_a_patient_batch_are_not_held_up(bench: Bench) -> None:
    bench.gate.be_patient(True)
    bench.gate.submit(entries(1))
    bench.written()
    bench.gate.submit(Effects(messages_when_durable=[(PEER, HELLO)]))
    assert (bench.sent, bench.told) == ([(PEER, HELLO)], [(1, None)])
