"""Exactly once: whatever sessions send, in whatever order, both engines do what the plain model says, and agree."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dqlite_py import limits
from dqlite_py.command import encode_statements, encode_units, fence_unit, stamp_unit
from dqlite_py.model import WriteKey
from dqlite_py.storage.meta import read_index
from tests.support.engines import NOW_US, SEED
from tests.support.sessionmodel import EXPIRED, SUPERSEDED, VOID, Bounds, SessionModel, Unit, void
from tests.support.twins import Twins, Writer

BOUNDS = Bounds(
    limits.SESSION_KEEP_US,
    limits.SESSION_AHEAD_US,
    limits.SESSIONS_MAX,
    limits.SESSION_ROWS_BYTES_MAX,
    limits.SESSION_EVICTIONS_MAX,
)
SCHEMA = [
    "CREATE TABLE done (number INTEGER PRIMARY KEY, note)",
    "INSERT INTO done VALUES (0, 'first')",
]
# What a unit does beside noting its number in `done`, and the code of its result.
ENDS: dict[str, tuple[int, list[tuple[str, list[Any]]]]] = {
    "done": (0, []),
    "rows": (0, [("SELECT number, note, random(), datetime('now') FROM done ORDER BY number", [])]),
    "fails": (1555, [("INSERT INTO done VALUES (0, 'again')", [])]),
    "nonsense": (1, [("SELECT * FROM nowhere", [])]),
    "kills": (1555, [("INSERT OR ROLLBACK INTO done VALUES (0, 'again')", [])]),
    "table": (0, [("CREATE TABLE IF NOT EXISTS more (a)", [])]),
}


class Sent(NamedTuple):
    """A unit as a client sends it: `session` 0 is none; `at_us` of its sequence is relative to the log's time."""

    session: int
    at_us: int
    end: str  # of ENDS, or "fence"
    is_alone: bool  # one statement: no savepoint of its own


def key_of(sent: Sent, base_us: int) -> WriteKey | None:
    if sent.session == 0:
        return None
    return WriteKey(bytes([sent.session]) * 16, max(1, base_us + sent.at_us))


def raw_results(results: bytes) -> list[bytes]:
    unpacker = msgpack.Unpacker()
    unpacker.feed(results)
    count, raw, start = unpacker.read_array_header(), [], unpacker.tell()
    for _ in range(count):
        unpacker.skip()
        raw.append(results[start : unpacker.tell()])
        start = unpacker.tell()
    assert start == len(results)
    return raw


def rows_of(writer: Writer) -> list[Any]:
    look = "SELECT 1 FROM sqlite_schema WHERE name = '_dqlite_sessions'"
    if not writer.connection.execute(look).fetchall():
        return []
    return writer.connection.execute("SELECT * FROM _dqlite_sessions ORDER BY log_index").fetchall()


class Run:
    """Both engines and the model."""

    def __init__(self, folder: Path) -> None:
        self.twins = Twins(folder)
        self.model = SessionModel(BOUNDS)
        self.number = 0
        self.done = {0}
        self.twins.apply([(sql, []) for sql in SCHEMA])

    def apply(self, sent: Sequence[Sent], now_us: int, wants: tuple[bool, bool] = (True, True)) -> list[Any]:
        """One entry. Engines answer where wanted; at least one of them must be."""
        index = self.twins.index + 1
        self.twins.index = index
        encoded, numbers = [], []
        for each in sent:
            self.number += 1
            numbers.append(self.number)
            encoded.append(self.encode(each, key_of(each, now_us), self.number))
        payload = encode_units("main", now_us, SEED, None, encoded)
        answers = [
            writer.apply(index, payload, want) for writer, want in zip(self.twins.writers, wants, strict=True)
        ]
        assert {answer[0] for answer in answers} == {"applied"}, answers
        assert answers[0][2:] == answers[1][2:]  # hash, pages, WAL, passes
        found = [answer[1] for answer, want in zip(answers, wants, strict=True) if want]
        assert all(one == found[0] for one in found)
        assert not any(answer[1] for answer, want in zip(answers, wants, strict=True) if not want)
        raw = raw_results(found[0])
        self.check(index, now_us, sent, numbers, raw)
        return [msgpack.unpackb(one, strict_map_key=False) for one in raw]

    def encode(self, sent: Sent, key: WriteKey | None, number: int) -> bytes:
        if sent.end == "fence":
            assert key is not None
            return fence_unit(key)
        note = [("INSERT INTO done VALUES (?, 'noted')", [number])]
        more = ENDS[sent.end][1]
        statements = more or note if sent.is_alone and sent.end != "fails" else [*note, *more]
        return stamp_unit(encode_statements(statements), key)

    def check(
        self, index: int, now_us: int, sent: Sequence[Sent], numbers: list[int], raw: list[bytes]
    ) -> None:
        def runs(position: int) -> bytes:
            end = sent[position].end
            code = ENDS[end][0]
            assert msgpack.unpackb(raw[position])[0] == code, (end, raw[position])
            if code == 0 and (end == "done" or not sent[position].is_alone):
                self.done.add(numbers[position])
            return raw[position]

        units = [
            Unit(key_of(each, now_us), each.end == "fence", lambda position=position: runs(position))  # type: ignore[misc]
            for position, each in enumerate(sent)
        ]
        for position, answer in enumerate(self.model.apply(index, now_us, units)):
            if isinstance(answer, bytes):
                assert raw[position] == answer
            elif answer is not None:
                assert msgpack.unpackb(raw[position])[0] == answer
        for writer in self.twins.writers:
            assert rows_of(writer) == self.model.table()
            assert read_index(writer.connection) == index
            noted = writer.connection.execute("SELECT number FROM done").fetchall()
            assert {number for (number,) in noted} == self.done
        meta = self.twins.writers[0].connection.execute("SELECT applied_index FROM _dqlite_meta").get
        assert (meta == index) is not self.model.wrote_row

    def reopen(self) -> None:
        self.twins.reopen()

    def close(self) -> None:
        self.twins.__exit__()


MINUTE = 60_000_000
SENT = st.builds(
    Sent,
    st.integers(0, 5),
    st.sampled_from([-2, -1, 0, 1, 2, -MINUTE, BOUNDS.ahead_us, BOUNDS.ahead_us + 1, -(2**62)]),
    st.sampled_from([*ENDS, "done", "done"]),
    st.booleans(),
)
FENCE = SENT.map(lambda sent: sent._replace(end="fence", session=max(1, sent.session)))
ENTRIES = st.lists(
    st.tuples(
        st.lists(SENT | FENCE, min_size=1, max_size=6),
        st.sampled_from([0, 0, 1, 2, -1, MINUTE, BOUNDS.keep_us - 1, BOUNDS.keep_us, BOUNDS.keep_us + 1]),
        st.sampled_from(["go on", "reopen", "checkpoint"]),
        st.sampled_from([(True, True), (True, False), (False, True)]),
    ),
    min_size=1,
    max_size=8,
)


@settings(deadline=None, max_examples=50)
@given(ENTRIES)
def test_any_sessions(entries: list[tuple[list[Sent], int, str, tuple[bool, bool]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder))
        now_us = NOW_US
        for sent, later_us, then, wants in entries:
            now_us += later_us
            run.apply(sent, now_us, wants)
            if then == "reopen":
                run.reopen()
            elif then == "checkpoint":
                run.twins.checkpoint()
        run.close()


@pytest.mark.parametrize("seed", range(6))
def test_long_runs(tmp_path: Path, seed: int) -> None:
    """Sessions as nodes use them: sequences of log time, some units sent again, some late, restarts."""
    chance, run, now_us = random.Random(seed), Run(tmp_path), NOW_US
    past: list[tuple[Sent, int]] = []
    codes = set[int]()
    for _ in range(60):
        now_us += chance.choice([1, 50, 900, 5 * MINUTE, chance.choice([1, BOUNDS.keep_us // 2])])
        sent = []
        for _ in range(chance.choice([1, 1, 3, 20])):
            if past and chance.random() < 0.3:
                old, at_us = chance.choice(past[-chance.choice([5, 400]) :])
                again = old._replace(at_us=at_us - now_us)
                sent.append(again._replace(end="fence") if chance.random() < 0.2 else again)
            else:
                ends = chance.choices([*ENDS, "fence"], [20, 3, 2, 2, 1, 1, 1])
                sent.append(
                    Sent(chance.randrange(1, 40), chance.randrange(5), ends[0], chance.random() < 0.5)
                )
                past.append((sent[-1], now_us + sent[-1].at_us))
        codes |= {
            answer[0] for answer in run.apply(sent, now_us, chance.choice([(True, False), (False, True)]))
        }
        if chance.random() < 0.1:
            run.reopen()
    run.close()
    assert {0, 1, 1555, EXPIRED, SUPERSEDED, VOID} <= codes


# -- the bounds, as they are -----------------------------------------------------------------------------


def key(number: int, sequence: int) -> WriteKey:
    return WriteKey(number.to_bytes(16, "little"), sequence)


def applied(twins: Twins, units: Sequence[bytes], now_us: int = NOW_US) -> list[Any]:
    return twins.apply_payload(encode_units("main", now_us, SEED, None, units))


NEVER = encode_statements([("INSERT INTO nowhere VALUES (1)", [])])


def same_rows(twins: Twins) -> list[Any]:
    in_c, in_python = map(rows_of, twins.writers)
    assert in_c == in_python
    return in_c


def test_as_many_sessions_as_there_may_be(tmp_path: Path) -> None:
    with Twins(tmp_path) as twins:
        most = limits.SESSIONS_MAX // 4096
        for number in range(most):
            applied(twins, [fence_unit(key(number * 4096 + i, NOW_US + number)) for i in range(4096)])
        assert len(same_rows(twins)) == most
        twins.reopen()
        assert applied(twins, [fence_unit(key(5, NOW_US))]) == [msgpack.unpackb(void())]
        before = sum(len(row[2]) for row in same_rows(twins))
        applied(twins, [fence_unit(key(2**40, NOW_US + 100))])  # one more: the oldest row goes
        rows = same_rows(twins)
        assert len(rows) == most + 1
        assert rows[0] == (0, 0, NOW_US.to_bytes(8, "big"))
        answers = applied(twins, [fence_unit(key(5, NOW_US)), fence_unit(key(4096, NOW_US + 1))])
        assert [answer[0] for answer in answers] == [EXPIRED, VOID]
        assert sum(len(row[2]) for row in rows) < before
        # All others are found where they are, though thousands left the map among them.
        again = [stamp_unit(NEVER, key(4096 + i, NOW_US + 1)) for i in range(4096)]
        assert applied(twins, again) == [msgpack.unpackb(void())] * 4096
        applied(twins, [fence_unit(key(5, NOW_US + 1))])  # a newer sequence begins the session anew
        twins.reopen()
        assert applied(twins, [fence_unit(key(5, NOW_US))])[0][0] == SUPERSEDED


def test_as_many_rows_go_as_must(tmp_path: Path) -> None:
    with Twins(tmp_path) as twins:
        numbers = iter(range(10**6))
        sizes = [*[10] * 6, *[4096] * 15, 4030, 41]
        for size in sizes:
            applied(twins, [fence_unit(key(next(numbers), NOW_US + i)) for i in range(size)])
        excess = sum(sizes) - limits.SESSIONS_MAX
        assert 20 < excess < 50
        rows = same_rows(twins)
        assert len(rows) == 1 + len(sizes) - (excess + 9) // 10
        assert rows[0] == (0, 0, (NOW_US + 9).to_bytes(8, "big"))
        twins.reopen()


def test_as_many_bytes_as_there_may_be(tmp_path: Path) -> None:
    size = 60_000
    body = encode_statements([("SELECT zeroblob(?)", [size])])
    with Twins(tmp_path) as twins:
        numbers = iter(range(10**6))
        for _ in range(10):
            applied(twins, [stamp_unit(body, key(next(numbers), NOW_US)) for _ in range(120)])
        rows = same_rows(twins)
        assert rows[0] == (0, 0, NOW_US.to_bytes(8, "big"))
        total = sum(len(row[2]) for row in rows[1:])
        assert 0 <= limits.SESSION_ROWS_BYTES_MAX - total < 120 * (size + 100)
        twins.reopen()
        (last,) = applied(twins, [stamp_unit(body, key(next(numbers) - 1, NOW_US))])
        assert last[1][0][3] == [[bytes(size)]]


def test_a_row_that_grows_too_large_keeps_summaries(tmp_path: Path) -> None:
    body = encode_statements([("INSERT INTO t VALUES (zeroblob(?)) RETURNING *", [60_000])])
    with Twins(tmp_path) as twins:
        twins.apply([("CREATE TABLE t (a)", [])])
        units = [stamp_unit(body, key(number, NOW_US)) for number in range(300)]
        first = applied(twins, units)
        assert {len(answer) for answer in first} == {2}
        ((_, _, row),) = same_rows(twins)
        assert limits.SESSION_ROW_BYTES_MAX - 61_000 < len(row) < limits.SESSION_ROW_BYTES_MAX + 300 * 50
        again = applied(twins, units)
        assert again[0] == first[0]
        assert again[299] == [0, None, 1, 300]


@pytest.mark.parametrize(
    ("statements", "summary"),
    [
        ([("SELECT zeroblob(70000)", [])], [0, None, -1, 0]),
        (
            [
                ("INSERT INTO t VALUES (1), (2)", []),
                ("SELECT zeroblob(?)", [70_000]),
                ("UPDATE t SET a = 3 RETURNING a, 'é', 1.5", []),
            ],
            [0, None, 4, 2],
        ),
        ([("SELECT zeroblob(?)", [65_492])], None),  # the largest result that is kept: 65,536 bytes
        ([("SELECT zeroblob(?)", [65_493])], [0, None, -1, 0]),
    ],
)
def test_large_results_are_kept_as_summaries(tmp_path: Path, statements: Any, summary: Any) -> None:
    unit = stamp_unit(encode_statements(statements), key(1, 1))
    with Twins(tmp_path) as twins:
        twins.apply([("CREATE TABLE t (a)", [])])
        ((first,), (again,)) = applied(twins, [unit]), applied(twins, [unit])
        assert first[0] == 0
        assert len(first) == 2
        assert again == (summary or first)
        (repeated, same) = applied(twins, [stamp_unit(encode_statements(statements), key(2, 1))] * 2)
        assert repeated[0] == 0
        assert same == ([0, None, *([summary[2], summary[3]])] if summary and summary[3] == 0 else same)


def test_after_a_pause_rows_go_by_and_by(tmp_path: Path) -> None:
    count = limits.SESSION_EVICTIONS_MAX + 100
    with Twins(tmp_path) as twins:
        for number in range(count):
            applied(twins, [fence_unit(key(number, NOW_US + number))], NOW_US + number)
        later_us = NOW_US + 2 * limits.SESSION_KEEP_US
        applied(twins, [fence_unit(key(count - 1, later_us))], later_us)  # its row goes beside them
        rows = same_rows(twins)
        assert len(rows) == 1 + 100
        assert rows[0][2] == (NOW_US + limits.SESSION_EVICTIONS_MAX - 1).to_bytes(8, "big")
        twins.reopen()
        twins.apply([("SELECT 1", [])], now_us=later_us)
        assert same_rows(twins)[0] == (0, 0, (NOW_US + count - 2).to_bytes(8, "big"))
        assert len(same_rows(twins)) == 2
        twins.reopen()
        assert applied(twins, [fence_unit(key(1, NOW_US + count - 2))], later_us)[0][0] == EXPIRED


@pytest.mark.parametrize("now_us", [-(2**63), 0, 2**63 - 1, 2**63 - 1 - limits.SESSION_AHEAD_US])
def test_any_clock(tmp_path: Path, now_us: int) -> None:
    with Twins(tmp_path) as twins:
        for sequence in (1, 2**63 - 1, 5):
            applied(twins, [fence_unit(key(sequence, sequence))], now_us)
        applied(twins, [fence_unit(key(9, 1))], -(2**63))
        applied(twins, [fence_unit(key(9, 1))], 2**63 - 1)
        same_rows(twins)
