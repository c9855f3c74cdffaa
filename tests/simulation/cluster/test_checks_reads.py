"""The checks of read levels and of streams of changes: sound histories pass, each broken promise is noticed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import pytest

from dqlite_py.changes import Change, ChangeKind
from dqlite_py.command import SqlValue
from dqlite_py.errors import ChangesCompacted
from dqlite_py.gateway import ReadLevel
from tests.simulation.cluster.checks import SafetyViolation
from tests.simulation.cluster.checks_reads import LevelRead, ReadFacts, Token
from tests.simulation.cluster.checks_stale import StaleFacts
from tests.simulation.cluster.checks_streams import INSERT, SET, TWICE, Consumer, StreamFacts, kept
from tests.simulation.cluster.checks_transactions import STEP, STORE, UNDONE

LINEARIZABLE, LEADER, SESSION, STALE = (
    ReadLevel.LINEARIZABLE,
    ReadLevel.LEADER,
    ReadLevel.SESSION,
    ReadLevel.STALE,
)
State = tuple[tuple[int, int, int], ...]


def fail(message: str) -> NoReturn:
    raise SafetyViolation(message)


def state(count: int) -> State:
    """After so many writes, all of client 1 to register 0."""
    return ((-1, count, 0), *(((0, 1, count),) if count else ()))


class Reads:
    """Five writes at entries 10, 20, ... known at 1 s, 2 s, ..."""

    def __init__(self) -> None:
        stale = StaleFacts(fail)
        self.facts = ReadFacts(fail, stale)
        for number in range(1, 6):
            stale.committed("app", (1, number), 0, number * 10)
            self.facts.known("app", float(number), number)

    def read(self, level: ReadLevel, began: float, *states: State, log_index: int = 0, **more: Any) -> None:
        read = LevelRead(0, 1, level, "app", "n1", began, **more)
        self.facts.began(read)
        read.log_index = log_index
        self.facts.ended(read, began + 0.1, states)


def test_reads_that_keep_their_promises_pass() -> None:
    reads, token = Reads(), Token(20, 2)
    reads.read(LINEARIZABLE, 2.5, state(2))
    reads.read(LEADER, 2.5, state(4))
    reads.read(STALE, 6.0, state(1), bound_s=4.0)
    reads.read(STALE, 6.0, state(0), bound_s=None)
    reads.read(SESSION, 6.0, state(2), token=token, log_index=29)
    reads.read(SESSION, 6.0, state(4), token=token, log_index=40)
    assert (token.log_index, token.count) == (40, 4)
    reads.read(STALE, 6.0, state(3), state(3), is_frozen=True, log_index=30)


@pytest.mark.parametrize(
    ("breaks", "what"),
    [
        (lambda r: r.read(LINEARIZABLE, 3.5, state(2)), "3 were known"),
        (lambda r: r.read(LEADER, 3.5, state(2)), "3 were known"),
        (lambda r: r.read(STALE, 5.5, state(3), bound_s=0.5), "4 were known 0.5 s before"),
        (lambda r: r.read(SESSION, 5.5, state(1), token=Token(20, 2), log_index=20), "where it had 2"),
        (lambda r: r.read(SESSION, 5.5, state(3), token=Token(20, 4), log_index=30), "4 were known"),
        (lambda r: r.read(SESSION, 5.5, state(2), token=Token(30, 2), log_index=20), "is told 20"),
        (lambda r: r.read(SESSION, 5.5, state(3), token=Token(10, 1), log_index=20), "where it had 2"),
        (lambda r: r.read(STALE, 5.5, state(3), state(4), is_frozen=True, log_index=30), "then"),
        (lambda r: r.read(STALE, 5.5, ((-1, 3, 0), (0, 1, 2))), "after them it was"),
        (lambda r: r.read(STALE, 5.5, state(6)), "the log has 5"),
    ],
)
def test_a_broken_promise_of_a_level_is_noticed(breaks: Callable[[Reads], None], what: str) -> None:
    with pytest.raises(SafetyViolation, match=what):
        breaks(Reads())


def test_what_a_read_saw_later_reads_must_see() -> None:
    reads = Reads()
    reads.facts._stale.committed("app", (1, 6), 0, 60)
    reads.read(STALE, 5.5, state(6))
    with pytest.raises(SafetyViolation, match="6 were known"):
        reads.read(LEADER, 5.7, state(5))


# -- streams of changes -----------------------------------------------------------------------------------------


def ops(index: int, rowid: int, number: int, *, is_last: bool = False) -> Change:
    new: dict[str, SqlValue] = {"client": 1, "number": number, "filler": b"f"}
    return Change(index, "ops", ChangeKind.INSERT, {"_rowid_": rowid}, None, new, is_last)


def register(index: int, old: int | None, new: int) -> Change:
    if old is None:
        row: dict[str, SqlValue] = {"key": 0, "client": 1, "number": new}
        return Change(index, "registers", ChangeKind.INSERT, {"key": 0}, None, row, True)
    return Change(index, "registers", ChangeKind.UPDATE, {"key": 0}, {"number": old}, {"number": new}, True)


class Streams:
    """Entries 10 and 20 are writes of client 1; 15 changes nothing; 30 is a transaction."""

    def __init__(self) -> None:
        self.facts = StreamFacts(fail)
        for index, number in ((10, 1), (20, 2)):
            self.facts.committed("app", [(INSERT, (1, number, b"f")), (SET, (0, 1, number))])
            self.facts.entry_ends(index)
            self.facts.committed("app", [(INSERT, (1, 9, b"f")), (SET, (0, 1, 9)), (TWICE, (0,))])
            self.facts.entry_ends(index + 5)
        self.facts.committed("app", [[(STEP, (7, 1, 0, 0, 1))], [(STORE, (0, 1))]])
        self.facts.entry_ends(30)
        self.consumer = Consumer(0, "app", 0, "n1")

    def told(self, *entries: Sequence[Change]) -> None:
        for entry in entries:
            self.facts.told(self.consumer, entry)

    first = (ops(10, 1, 1), register(10, None, 1))
    second = (register(20, 1, 2)._replace(is_last=False), ops(20, 2, 2, is_last=True))


def test_what_the_log_says_passes() -> None:
    streams = Streams()
    streams.told(streams.first, streams.second)
    streams.facts.reached(streams.consumer, 29)
    step = {"client": 7, "number": 1, "key": 0, "seen": 0, "value": 1}
    streams.told(
        (
            Change(30, "steps", ChangeKind.INSERT, {"_rowid_": 1}, None, step, False),
            Change(30, "counters", ChangeKind.INSERT, {"key": 0}, None, {"key": 0, "value": 1}, True),
        )
    )
    streams.facts.compacted(streams.consumer, 5, ChangesCompacted("", oldest=10, newest=30))


@pytest.mark.parametrize(
    ("breaks", "what"),
    [
        (lambda s: s.told(s.second), "nothing of entry 10"),
        (lambda s: s.told(s.first, s.first), "entry 10 again"),
        (lambda s: s.told(s.first, s.second, s.first), "entry 10 again"),
        (lambda s: s.told(s.first[:1]), "by the log it is"),
        (lambda s: s.told((s.first[0], *s.first)), "by the log it is"),
        (lambda s: s.told(s.first, (ops(15, 2, 9, is_last=True),)), "by the log it is"),
        (lambda s: s.told(s.first, (register(20, 0, 2), s.second[1])), "in parts"),
        (lambda s: s.told(s.first, (register(20, 0, 2)._replace(is_last=False), s.second[1])), "by the log it is"),
        (lambda s: s.told(s.first, s.second[::-1]), "in parts|in the order"),
        (lambda s: s.facts.reached(s.consumer, 12), "nothing of entry 10"),
        (
            lambda s: s.facts.compacted(s.consumer, 10, ChangesCompacted("", oldest=10, newest=30)),
            "does not follow",
        ),
        (lambda s: s.facts.compacted(s.consumer, 5, ChangesCompacted("")), "does not follow"),
        (lambda s: s.facts.starts_again(s.consumer, 9, 10), "10 or more"),
    ],
)  # fmt: skip
def test_a_wrong_stream_is_noticed(breaks: Callable[[Streams], None], what: str) -> None:
    with pytest.raises(SafetyViolation, match=what):
        breaks(Streams())


def test_what_a_transaction_takes_back_is_not_expected() -> None:
    groups = [
        [("SAVEPOINT undone", ())],
        [(UNDONE, (1, 1, 0))],
        [(STORE, (0, -1))],
        [("ROLLBACK TO undone", ())],
        [("RELEASE undone", ())],
        [(STEP, (1, 1, 0, 0, 1))],
    ]
    assert kept(groups) == [(STEP, (1, 1, 0, 0, 1))]
