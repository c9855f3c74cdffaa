"""Any transaction: live on both engines, then replayed on them and on one that never ran it; all stay the same.

What a live transaction leaves in memory (statistics, full-text indexes, prepared statements) must not show in what is
applied later, so transactions, rollbacks and ordinary entries take turns on one database.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dqlite_py.resultcodes import TRANSACTION_DIVERGED
from dqlite_py.storage.engine_api import LiveUnit
from tests.support.engines import NOW_US, entry, script
from tests.support.live import body, unit_entry
from tests.support.twins import Writer

SCHEMA = script(
    "CREATE TABLE t (id INTEGER PRIMARY KEY, k UNIQUE, v DEFAULT (random()), CHECK (v IS NOT 3))",
    "CREATE TABLE a (id INTEGER PRIMARY KEY AUTOINCREMENT, x, at DEFAULT CURRENT_TIMESTAMP)",
    "CREATE TABLE w (k PRIMARY KEY, v) WITHOUT ROWID",
    "CREATE TABLE p (id INTEGER PRIMARY KEY)",
    "CREATE TABLE c (id INTEGER PRIMARY KEY, p REFERENCES p (id) ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED)",
    "CREATE TABLE log (what, n, m, r)",
    "CREATE INDEX log_n ON log (n)",
    "CREATE INDEX log_m ON log (m)",
    "CREATE TRIGGER t_in AFTER INSERT ON t BEGIN"
    " INSERT INTO log VALUES ('in', changes(), last_insert_rowid(), random()); END",
    "CREATE TRIGGER t_up AFTER UPDATE ON t BEGIN INSERT INTO log VALUES (new.k, total_changes(), 0, old.v); END",
    "CREATE TRIGGER w_no BEFORE INSERT ON w WHEN new.k = 4 BEGIN SELECT RAISE(FAIL, 'no 4'); END",
    "CREATE TRIGGER w_back BEFORE INSERT ON w WHEN new.k = 5 BEGIN SELECT RAISE(ROLLBACK, 'no 5'); END",
    "CREATE VIRTUAL TABLE f USING fts5 (x, y)",
    "CREATE VIRTUAL TABLE f4 USING fts4 (x)",
    "CREATE VIRTUAL TABLE box USING rtree (id, x0, x1)",
    "CREATE VIEW both AS SELECT id, k FROM t UNION ALL SELECT id, x FROM a",
)

WRITES = (
    "INSERT INTO t (k) VALUES (?)",
    "INSERT INTO t (id, k, v) VALUES (?, ?, ?)",
    "INSERT INTO t (k, v) VALUES (?, random()), (?, datetime('now'))",
    "INSERT OR IGNORE INTO t (k, v) VALUES (?, ?), (?, 2)",
    "INSERT OR FAIL INTO t (k, v) VALUES (?, ?), (?, 2), (1, 1)",
    "INSERT OR ABORT INTO t (k, v) VALUES (?, ?), (?, 2), (1, 1)",
    "INSERT OR REPLACE INTO t (id, k, v) VALUES (?, ?, 1)",
    "REPLACE INTO t (k, v) SELECT x, id FROM a",
    "INSERT INTO t (k, v) VALUES (?, ?) RETURNING *, random()",
    "INSERT INTO t (k, v) VALUES (?, 1) ON CONFLICT (k) DO UPDATE SET v = v + ? RETURNING id, v",
    "INSERT INTO t (v) VALUES (zeroblob(900)) RETURNING v, ?",
    "UPDATE t SET v = ? WHERE id >= ?",
    "UPDATE OR IGNORE t SET k = ?",
    "UPDATE t SET v = changes() + total_changes() + last_insert_rowid() WHERE k > ?",
    "UPDATE t SET id = id + 1 WHERE id > ? RETURNING id",
    "DELETE FROM t WHERE k = ?",
    "DELETE FROM t WHERE id IN (SELECT id FROM t LIMIT ?) RETURNING *",
    "INSERT INTO a (x) VALUES (hex(randomblob(?)))",
    "INSERT INTO a (x) SELECT m FROM log WHERE n = ? AND m >= 0",
    "DELETE FROM a WHERE id > ?",
    "INSERT INTO w VALUES (?, last_insert_rowid())",
    "INSERT INTO w VALUES (?, 1), (?, 2), (4, 4)",
    "UPDATE w SET v = changes() WHERE k <= ?",
    "INSERT INTO p VALUES (?)",
    "DELETE FROM p WHERE id = ?",
    "INSERT INTO c (p) VALUES (?)",
    "DELETE FROM c WHERE p = ?",
    "INSERT INTO f (x, y) VALUES ('some words ' || ?, ?)",
    "INSERT INTO f (rowid, x) VALUES (?, 'again words')",
    "UPDATE f SET y = x || ? WHERE f MATCH 'words'",
    "DELETE FROM f WHERE rowid = ?",
    "INSERT INTO f (f) VALUES ('optimize')",
    "INSERT INTO f4 (docid, x) VALUES (?, 'four words')",
    "INSERT INTO f4 (x) VALUES ('more words ' || ?)",
    "DELETE FROM f4 WHERE docid = ?",
    "INSERT INTO box VALUES (?, ?, 9)",
    "DELETE FROM box WHERE x0 > ?",
)
SCHEMA_CHANGES = (
    "CREATE TABLE IF NOT EXISTS n (a, b DEFAULT (random()))",
    "CREATE TABLE n (a, b)",
    "INSERT INTO n (a) VALUES (?)",
    "DROP TABLE n",
    "ALTER TABLE n ADD COLUMN z DEFAULT 7",
    "CREATE INDEX n_a ON n (a)",
    "CREATE TABLE n2 AS SELECT * FROM t",
    "DROP TABLE IF EXISTS n2",
    "ANALYZE log",
    "ANALYZE t",
    "REINDEX t",
    "CREATE VIRTUAL TABLE IF NOT EXISTS f5 USING fts5 (x)",
    "INSERT INTO f5 VALUES ('five words')",
    "DROP TABLE IF EXISTS f5",
)
CONTROL = (
    "SAVEPOINT one",
    "SAVEPOINT two",
    "RELEASE one",
    "RELEASE two",
    "ROLLBACK TO one",
    "ROLLBACK TRANSACTION TO SAVEPOINT two",
    "ROLLBACK TO absent",
)
READS = (
    "SELECT * FROM t",
    "SELECT count(*), sum(v) FROM t WHERE k > ?",
    "SELECT changes(), total_changes(), last_insert_rowid(), random(), datetime('now')",
    "SELECT rowid, x FROM f WHERE f MATCH 'words' ORDER BY rank LIMIT ?",
    "SELECT docid FROM f4 WHERE x MATCH 'words'",
    "SELECT id FROM box WHERE x0 < ?",
    "SELECT * FROM both",
    "SELECT * FROM n",
    "SELECT what, n, m FROM log",
    "SELECT zeroblob(1000), ?",
    "SELECT abs(-9223372036854775808)",
    "nonsense ?",
    "SELECT ?, ?, ?",
)
LOOKS = ("PRAGMA table_info(t)", "SELECT name FROM pragma_table_info('t')", "PRAGMA foreign_key_check")
ENDINGS = (
    "INSERT OR ROLLBACK INTO t (k) VALUES (1), (1)",
    "INSERT INTO w VALUES (5, 5)",
    "INSERT INTO a (id) VALUES (9223372036854775807)",
)

values = st.one_of(st.integers(0, 6), st.sampled_from([None, "x", b"y", 2.5, "words"]))


@st.composite
def statements(draw: st.DrawFn) -> tuple[str, list[Any]]:
    kinds = [WRITES] * 10 + [READS] * 3 + [CONTROL] * 4 + [SCHEMA_CHANGES] * 2
    texts = draw(st.sampled_from(kinds))
    text = draw(st.sampled_from(texts))
    return text, draw(st.lists(values, min_size=text.count("?"), max_size=text.count("?")))


plain = st.lists(
    st.sampled_from(WRITES + SCHEMA_CHANGES).flatmap(
        lambda text: st.tuples(
            st.just(text), st.lists(values, min_size=text.count("?"), max_size=text.count("?"))
        )
    ),
    min_size=1,
    max_size=3,
)
groups = st.one_of(
    st.lists(statements(), min_size=1, max_size=1),
    st.lists(statements(), min_size=1, max_size=1),
    st.lists(statements(), min_size=1, max_size=4),
    st.sampled_from(LOOKS).map(lambda text: [(text, [])]),
)
transactions = st.tuples(
    st.lists(groups, min_size=1, max_size=12),
    st.sampled_from(["commit"] * 6 + ["rollback", "end", "tamper", "base"]),
    st.integers(0, 2**31),
)
turns = st.lists(st.one_of(transactions, transactions, plain), min_size=1, max_size=4)


def _content(path: Path) -> bytes:
    """Without the counters that the state hash leaves out: they tell how a state came about."""
    data = path.read_bytes()
    return data[:24] + data[28:40] + data[44:92] + data[96:]


class Trio:
    """C and Python, which run transactions live, and C that only applies."""

    def __init__(self, folder: Path) -> None:
        self.index = 0
        bound = {"results_max": 3000}  # of the rows of a group
        self.live = [Writer(name, folder / f"{name}.db", **bound) for name in ("c", "python")]
        self.all = [*self.live, Writer("c", folder / "applies.db", **bound)]
        self.outcomes: set[str] = set()

    def close(self) -> None:
        for writer in self.all:
            writer.close()
        assert len({_content(writer.path) for writer in self.all}) == 1

    def apply(self, payload: bytes) -> list[Any]:
        self.index += 1
        want = self.index % 3 != 0
        answers = [writer.apply(self.index, payload, True) for writer in self.live]
        answers.append(self.all[2].apply(self.index, payload, want))
        assert answers[0] == answers[1]
        assert answers[0][2:] == answers[2][2:]  # state hash, pages, frames of the WAL, passes
        assert answers[0][0] == "applied", answers[0]
        return list(msgpack.unpackb(answers[0][1]))

    def transact(self, groups: list[Any], how: str, chance: int) -> None:
        now_us, seed = NOW_US + chance, chance.to_bytes(16, "big")
        if how == "end":
            groups = [*groups, [(ENDINGS[chance % len(ENDINGS)], [])]]
        for writer in self.live:
            writer.engine.live_begin(now_us, seed)
        is_open = self._run(groups)
        ends = [writer.engine.live_has_open_foreign_keys() for writer in self.live]
        units = [writer.engine.live_end() for writer in self.live]
        assert ends[0] == ends[1]
        assert units[0] == units[1]
        self.outcomes.add("open keys" if ends[0] else "open" if is_open else "ended")
        if is_open and how != "rollback" and units[0].groups:
            self._commit(units[0], how, ends[0], now_us, seed)

    def _run(self, groups: list[Any]) -> bool:
        for group in groups:
            data = body(*group)
            results = []
            for writer in self.live:
                flag = writer.engine.live_flag()
                flag.arm()
                results.append(writer.engine.live_run(data, 60.0, flag))
            assert results[0] == results[1], group
            if not results[0].is_open:
                return False
        return True

    def _commit(self, unit: LiveUnit, how: str, has_open_keys: bool, now_us: int, seed: bytes) -> None:
        if how == "tamper":
            unit = LiveUnit(unit.groups, bytes(7) + b"x")
        elif how == "base":
            self.apply(entry([("DELETE FROM t", [])], [("INSERT INTO t (id, k, v) VALUES (4, 4, 4)", [])]))
        (result,) = self.apply(unit_entry(unit, now_us, seed))
        if how == "tamper":
            assert result[0] == TRANSACTION_DIVERGED
        elif how == "base":
            assert result[0] in (0, 787, TRANSACTION_DIVERGED)
        elif has_open_keys:
            assert result[0] == 787
        else:
            assert result == [0, []]
        self.outcomes.add(f"{how} {result[0]}")


def play(turns: list[Any]) -> set[str]:
    with tempfile.TemporaryDirectory() as folder:
        trio = Trio(Path(folder))
        try:
            trio.apply(entry(SCHEMA))
            trio.apply(entry(script("INSERT INTO t (k, v) VALUES (1, 1), (2, 2)", "ANALYZE p")))
            for turn in turns:
                if isinstance(turn, tuple):
                    trio.transact(*turn)
                else:
                    trio.apply(entry(turn))
        finally:
            trio.close()
        return trio.outcomes


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(turns)
def test_the_replay_is_what_was_live(turns: list[Any]) -> None:
    play(turns)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_replay_is_what_was_live_long() -> None:
    seen: set[str] = set()

    @settings(deadline=None, max_examples=600, suppress_health_check=[HealthCheck.too_slow])
    @given(turns)
    def many(turns: list[Any]) -> None:
        seen.update(play(turns))

    many()
    diverged = TRANSACTION_DIVERGED
    assert {"open", "ended", "commit 0", "base 0", f"base {diverged}", f"tamper {diverged}"} <= seen
