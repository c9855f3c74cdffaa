"""Live transactions: what statements see, what stays after an error, what ends the transaction, what a commit gets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import apsw
import msgpack
import pytest

from dqlite_py.errors import (
    IntegrityError,
    InternalError,
    MalformedMessage,
    OperationalError,
    RequestTooLarge,
    TransactionEnded,
)
from dqlite_py.storage import live as live_module
from dqlite_py.storage.connection import open_reader
from dqlite_py.storage.engine_api import Implementation
from tests.support.engines import NOW_US, SEED, Database, one, script
from tests.support.live import Live, body, unit_entry
from tests.support.twins import Writer

pytestmark = pytest.mark.usefixtures("implementation")

UNIQUE, FOREIGN_KEY, ROWID, INTERRUPT, NOMEM, TOOBIG = 2067, 787, 2579, 9, 7, 18
ENDLESS = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
ENDLESS_WRITE = f"INSERT INTO t (v) {ENDLESS}"


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    with Database(tmp_path / "a.db", cache_bytes=64 * 1024) as database:
        database.apply(
            script(
                "CREATE TABLE t (id INTEGER PRIMARY KEY, k TEXT UNIQUE, v)",
                "INSERT INTO t VALUES (1, 'a', 'first')",
                "CREATE TABLE child (t_id REFERENCES t (id) DEFERRABLE INITIALLY DEFERRED)",
            )
        )
        yield database


# -- what statements see, and what is left ----------------------------------------------------------------


def test_statements_see_what_the_transaction_wrote(db: Database) -> None:
    live = Live(db.engine)
    assert live.good(("INSERT INTO t (k, v) VALUES (?, ?) RETURNING id", ["b", 2])) == [[1, 2, ["id"], [[2]]]]
    assert live.good("UPDATE t SET v = v || '!' WHERE id = 1") == [[1, 2, None, None]]
    assert live.rows("SELECT * FROM t ORDER BY id") == [[1, "a", "first!"], [2, "b", 2]]
    live.good("CREATE TABLE more (x)", "INSERT INTO more VALUES (1)")
    assert live.rows("SELECT x FROM more") == [[1]]


def test_nobody_else_sees_it_and_nothing_is_left(db: Database) -> None:
    reader = open_reader(str(db.path))
    wal = db.path.with_name("a.db-wal")
    before = db.engine.state_hash, db.engine.wal_frames, os.stat(wal).st_size, wal.read_bytes()
    live = Live(db.engine)
    live.good("CREATE TABLE big (b)")
    for _ in range(40):  # far more than the page cache holds
        live.good("INSERT INTO big VALUES (randomblob(20000))", "UPDATE big SET b = randomblob(20000)")
    assert reader.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'big'").fetchall() == [(0,)]
    reader.close()
    assert (db.engine.state_hash, db.engine.wal_frames, os.stat(wal).st_size, wal.read_bytes()) == before
    live.transaction.rollback()
    assert wal.read_bytes() == before[-1]
    assert db.query("SELECT count(*) FROM sqlite_schema WHERE name = 'big'") == [[0]]
    assert db.query("SELECT * FROM t") == [[1, "a", "first"]]


def test_a_commit_gets_what_may_have_written_and_gives_the_same(db: Database) -> None:
    live = Live(db.engine)
    groups = [
        body("INSERT INTO t (k, v) VALUES ('b', random())"),
        body("INSERT INTO t (k) VALUES ('a')"),  # fails
        body("SELECT 1", "DELETE FROM t WHERE 0"),
        body("SAVEPOINT s"),
        body("UPDATE t SET v = 0 WHERE id = 1"),
        body("ROLLBACK TO s"),
    ]
    live.rows("SELECT count(*) FROM t")
    for group in groups:
        live.transaction.run(group)
        live.rows("SELECT random(), * FROM t")
    rows = live.rows("SELECT * FROM t ORDER BY id")
    assert live.transaction.has_written
    unit = live.finish()
    assert unit.groups == groups
    assert not live.is_open
    assert db.query("SELECT count(*) FROM t") == [[1]]
    assert db.apply_bytes(unit_entry(unit)) == [[0, []]]
    assert db.query("SELECT * FROM t ORDER BY id") == rows


def test_what_only_reads_has_nothing_to_commit(db: Database) -> None:
    live = Live(db.engine)
    live.good("SELECT 1", "SELECT * FROM t")
    live.good("SAVEPOINT s")
    live.good("EXPLAIN DELETE FROM t")
    live.good("RELEASE s")
    assert live.code("nonsense") == 1
    assert not live.transaction.has_written
    assert live.finish().groups == []


def test_time_and_chance_are_those_of_the_transaction(db: Database) -> None:
    seen = []
    for _ in range(2):
        live = Live(db.engine)
        assert live.rows("SELECT unixepoch('now', 'subsec'), unixepoch()") == [
            [NOW_US / 1e6, NOW_US // 10**6]
        ]
        ahead = live.rows("SELECT random()")
        assert live.rows("SELECT random()") == ahead  # a reading group has the next group's chance
        written = live.good("INSERT INTO t (v) VALUES (random()) RETURNING v")[0][3]
        assert written == ahead
        assert live.rows("SELECT random()") != ahead
        seen.append((written, live.rows("SELECT random(), hex(randomblob(4))")))
        live.transaction.rollback()
    assert seen[0] == seen[1]
    other = Live(db.engine, now_us=NOW_US + 5_000_000, seed=bytes(16))
    assert other.rows("SELECT unixepoch()") == [[NOW_US // 10**6 + 5]]
    assert other.good("INSERT INTO t (v) VALUES (random()) RETURNING v")[0][3] != seen[0][0]


def test_counters_start_with_the_transaction(db: Database) -> None:
    ask = "SELECT changes(), total_changes(), last_insert_rowid()"
    db.apply(one("INSERT INTO t (id) VALUES (77), (78)"))
    for _ in range(2):
        live = Live(db.engine)
        assert live.good(ask) == [
            [-1, 0, ["changes()", "total_changes()", "last_insert_rowid()"], [[0, 0, 0]]]
        ]
        live.good("INSERT INTO t (k) VALUES ('x'), ('y')")
        assert live.rows(ask) == [[2, 2, 80]]
        live.good("UPDATE t SET v = 1 WHERE id = 1")
        assert live.rows(ask) == [[1, 3, 80]]
        live.transaction.rollback()
    assert db.run((ask, []))[0][3] == [[0, 0, 0]]


def test_counters_start_with_the_transaction_also_when_nobody_looks(db: Database) -> None:
    db.apply(one("INSERT INTO t (id) VALUES (77), (78)"))
    live = Live(db.engine)
    live.good("INSERT INTO t (k) VALUES ('x')")
    assert live.rows("SELECT changes(), total_changes(), last_insert_rowid()") == [[1, 1, 79]]


def test_the_declared_types_of_the_last_statement_with_rows(db: Database) -> None:
    run = Live(db.engine).transaction.run
    assert run(body("SELECT id, k, v, 1 FROM t", "UPDATE t SET v = 1")).decltypes == (
        "INTEGER",
        "TEXT",
        None,
        None,
    )
    assert run(body("SELECT id FROM t", "SELECT k FROM t")).decltypes == ("TEXT",)
    assert run(body("UPDATE t SET v = 1")).decltypes is None
    assert run(body("SELECT id FROM t", "nonsense")).decltypes is None


# -- errors -----------------------------------------------------------------------------------------------


def test_an_error_leaves_what_was_done_before(db: Database) -> None:
    live = Live(db.engine)
    result = live.run(
        "INSERT INTO t (k) VALUES ('b')", "INSERT INTO t (k) VALUES ('c'), ('a')", "DELETE FROM t"
    )
    assert result == [UNIQUE, "UNIQUE constraint failed: t.k", 1]
    assert live.is_open
    assert live.rows("SELECT k FROM t ORDER BY k") == [["a"], ["b"]]
    assert live.code("INSERT OR FAIL INTO t (k) VALUES ('c'), ('a'), ('d')") == UNIQUE
    assert live.rows("SELECT k FROM t ORDER BY k") == [["a"], ["b"], ["c"]]
    unit = live.finish()
    assert len(unit.groups) == 2
    assert db.apply_bytes(unit_entry(unit)) == [[0, []]]
    assert db.query("SELECT k FROM t ORDER BY k") == [["a"], ["b"], ["c"]]


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("INSERT OR ROLLBACK INTO t (k) VALUES ('a')", UNIQUE),
        ("INSERT INTO angry VALUES (1)", 1811),
        ("INSERT INTO t (id) VALUES (9223372036854775807)", ROWID),
        ("INSERT OR FAIL INTO t (id, k) VALUES (9223372036854775807, 'z'), (5, 'a')", UNIQUE),
    ],
)
def test_what_cannot_be_replayed_ends_the_transaction(db: Database, sql: str, code: int) -> None:
    db.apply(
        script(
            "CREATE TABLE angry (x)",
            "CREATE TRIGGER rage BEFORE INSERT ON angry BEGIN SELECT RAISE(ROLLBACK, 'no'); END",
        )
    )
    live = Live(db.engine)
    live.good("INSERT INTO t (k) VALUES ('b')")
    result = live.run("SELECT 1", sql)
    assert (result[0], result[2]) == (code, 1)
    assert not live.is_open
    assert result[1] in (live.transaction.why_ended or "")
    with pytest.raises(TransactionEnded, match="rolled back"):
        live.run("SELECT 1")
    with pytest.raises(TransactionEnded, match="rolled back"):
        live.finish()
    live.transaction.rollback()
    assert db.query("SELECT k FROM t") == [["a"]]
    assert Live(db.engine).rows("SELECT k FROM t") == [["a"]]


def test_deferred_foreign_keys_are_violated_at_the_end_only(db: Database) -> None:
    live = Live(db.engine)
    live.good("INSERT INTO child VALUES (5)")
    with pytest.raises(IntegrityError, match="FOREIGN KEY constraint failed") as caught:
        live.finish()
    assert caught.value.code == FOREIGN_KEY
    assert live.is_open
    live.good("INSERT INTO t (id) VALUES (5)")
    unit = live.finish()
    assert len(unit.groups) == 2
    assert db.apply_bytes(unit_entry(unit)) == [[0, []]]
    assert db.query("SELECT * FROM child") == [[5]]


def test_out_of_memory_ends_the_transaction_and_nothing_else(db: Database) -> None:
    live = Live(db.engine)
    live.good("INSERT INTO t (k) VALUES ('b')")
    before = apsw.hard_heap_limit(apsw.memory_used() + 4 * 2**20)
    try:
        code = live.code("SELECT length(zeroblob(30000000) || 'x')")
    finally:
        apsw.hard_heap_limit(before)
    assert code == NOMEM
    assert not live.is_open
    assert db.apply(one("INSERT INTO t (k) VALUES ('c')"))[0][0] == 0
    assert db.query("SELECT k FROM t ORDER BY k") == [["a"], ["c"]]


def test_rows_are_bounded_by_the_group(tmp_path: Path, implementation: Implementation) -> None:
    writer = Writer(implementation.name, tmp_path / "b.db", results_max=3000)
    try:
        engine, codes = writer.engine, []
        engine.live_begin(NOW_US, SEED)
        for sql in ("SELECT zeroblob(2000)", "SELECT zeroblob(2000)", "SELECT zeroblob(4000)", "SELECT 1"):
            flag = engine.live_flag()
            flag.arm()
            codes.append(msgpack.unpackb(engine.live_run(body(sql), None, flag).results)[0])
        assert codes == [0, 0, TOOBIG, 0]
    finally:
        writer.close()


@pytest.mark.parametrize(
    "data", [b"", b"\x90", b"\x91", b"\xc0", body("SELECT 1") + b"\0", b"\x91\x92\x00\x90"]
)
def test_a_malformed_body_is_refused_and_nothing_runs(db: Database, data: bytes) -> None:
    live = Live(db.engine)
    with pytest.raises(MalformedMessage):
        live.transaction.run(data)
    assert live.rows("SELECT count(*) FROM t") == [[1]]


def test_a_transaction_has_a_size(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "_GROUPS_BYTES_MAX", 100)
    live = Live(db.engine)
    live.good(("INSERT INTO t (k) VALUES (?)", ["b" * 40]))
    for _ in range(10):
        live.rows("SELECT k FROM t")
    with pytest.raises(RequestTooLarge, match="commit before"):
        live.good(("INSERT INTO t (k) VALUES (?)", ["c" * 40]))
    assert live.rows("SELECT count(*) FROM t") == [[2]]


# -- time-outs --------------------------------------------------------------------------------------------


def test_a_read_that_takes_too_long_leaves_the_transaction_open(db: Database) -> None:
    live = Live(db.engine)
    live.good("INSERT INTO t (k) VALUES ('b')")
    assert live.run(ENDLESS, timeout_s=0.01) == [
        INTERRUPT,
        "interrupted: the statement took longer than it may",
        0,
    ]
    assert live.run("SELECT 1", timeout_s=0) == [
        INTERRUPT,
        "interrupted: the statement took longer than it may",
        0,
    ]
    assert live.rows("SELECT count(*) FROM t") == [[2]]
    assert db.apply_bytes(unit_entry(live.finish())) == [[0, []]]
    assert db.query("SELECT k FROM t") == [["a"], ["b"]]


@pytest.mark.parametrize("group", [(ENDLESS_WRITE,), ("INSERT INTO t (k) VALUES ('c')", ENDLESS)])
def test_a_write_that_takes_too_long_ends_the_transaction(db: Database, group: tuple[str, ...]) -> None:
    live = Live(db.engine)
    live.good("INSERT INTO t (k) VALUES ('b')")
    assert live.run(*group, timeout_s=0.05)[0] == INTERRUPT
    assert not live.is_open
    assert db.query("SELECT k FROM t") == [["a"]]


# -- the schema -------------------------------------------------------------------------------------------

STATISTICS = (
    "CREATE TABLE s (a, b)",
    "CREATE INDEX s_a ON s (a)",
    "CREATE INDEX s_b ON s (b)",
    "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) INSERT INTO s SELECT i, 1 FROM n",
    "ANALYZE t",  # so that the table of statistics is there
)
PLAN = "EXPLAIN QUERY PLAN SELECT * FROM s WHERE a = 1 AND b = 1"


def test_an_undone_analyze_changes_no_plan(db: Database) -> None:
    db.apply(script(*STATISTICS))
    first = db.query(PLAN)
    live = Live(db.engine)
    live.good("ANALYZE s")
    assert live.rows(PLAN) != first
    live.transaction.rollback()
    assert db.query(PLAN) == first
    assert Live(db.engine).rows(PLAN) == first


def test_an_undone_analyze_in_a_unit_changes_no_plan(db: Database) -> None:
    db.apply(script(*STATISTICS))
    first = db.query(PLAN)
    assert db.apply(script("ANALYZE s", "nonsense"))[0][0] == 1
    assert db.query(PLAN) == first
    killer = script("ANALYZE s", "INSERT OR ROLLBACK INTO t (k) VALUES ('a')")
    assert db.apply(killer, one("INSERT INTO t (k) VALUES ('z')"))[0][0] == UNIQUE
    assert db.query(PLAN) == first
    unit = script("SELECT 1", "ANALYZE s")
    assert db.apply(unit)[0][0] == 0
    assert db.query(PLAN) != first


def test_an_analyze_undone_to_a_savepoint_changes_no_plan(db: Database) -> None:
    db.apply(script(*STATISTICS))
    live = Live(db.engine)
    first = live.rows(PLAN)
    live.good("SAVEPOINT p")
    live.good("ANALYZE s")
    assert live.rows(PLAN) != first
    live.good("ROLLBACK TO p")
    assert live.rows(PLAN) == first


def test_statistics_are_those_that_a_node_that_starts_reads(db: Database) -> None:
    """R-trees look at them when they are opened, and keep what they found."""
    db.apply(
        script(
            "CREATE VIRTUAL TABLE box USING rtree (id, x0, x1)",
            *STATISTICS[:1],
            STATISTICS[3],
            "INSERT INTO box SELECT a, a, a FROM s WHERE a < 20",
        )
    )
    plan = "EXPLAIN QUERY PLAN SELECT * FROM s, box WHERE box.x0 < 5 AND s.b = 3"
    first = db.query(plan)
    db.apply(script("ANALYZE s", "ANALYZE box_rowid"))
    analyzed = db.query(plan)
    live = Live(db.engine)
    assert live.rows(plan) == analyzed != first
    live.good("ANALYZE box_rowid")
    live.transaction.rollback()
    assert db.query(plan) == analyzed
    db.reopen()
    assert db.query(plan) == analyzed


def test_a_schema_that_is_undone_is_forgotten(db: Database) -> None:
    live = Live(db.engine)
    live.good("ALTER TABLE t ADD COLUMN w DEFAULT 7", "CREATE TABLE u (x)", "INSERT INTO u VALUES (1)")
    assert live.rows("SELECT * FROM t") == [[1, "a", "first", 7]]
    assert live.rows("SELECT * FROM u") == [[1]]
    live.transaction.rollback()
    assert db.query("SELECT * FROM t") == [[1, "a", "first"]]
    assert db.apply(one("SELECT * FROM u"))[0][:2] == [1, "no such table: u"]
    live = Live(db.engine)
    live.good("SAVEPOINT p")
    live.good("CREATE TABLE u (x, y)", "INSERT INTO u VALUES (1, 2)")
    assert live.rows("SELECT * FROM u") == [[1, 2]]
    live.good("ROLLBACK TO p")
    assert live.code("SELECT * FROM u") == 1


# -- beside the log ---------------------------------------------------------------------------------------


def test_one_at_a_time(db: Database) -> None:
    live = Live(db.engine)
    with pytest.raises(InternalError, match="open already"):
        Live(db.engine)
    live.transaction.rollback()
    live.transaction.rollback()
    other = Live(db.engine)
    live.transaction.rollback()  # of the one before: not this one's
    live.transaction.interrupt()
    assert other.rows("SELECT 1") == [[1]]


def test_the_log_goes_first(db: Database) -> None:
    live = Live(db.engine)
    live.good("INSERT INTO t (k) VALUES ('b')")
    assert db.apply(one("INSERT INTO t (k) VALUES ('c')"))[0][0] == 0
    assert not live.is_open
    with pytest.raises(TransactionEnded, match="log went on"):
        live.run("SELECT 1")
    with pytest.raises(TransactionEnded, match="log went on"):
        live.finish()
    assert db.query("SELECT k FROM t ORDER BY k") == [["a"], ["c"]]


def test_closing_ends_it(db: Database) -> None:
    live = Live(db.engine)
    live.good("INSERT INTO t (k) VALUES ('b')")
    db.engine.close()
    live.transaction.interrupt()
    live.transaction.rollback()
    with pytest.raises(TransactionEnded, match="being closed"):
        live.run("SELECT 1")
    with pytest.raises(OperationalError, match="closed"):
        db.engine.live_begin(NOW_US, SEED)
    db.engine.close()


def test_checkpoints_go_on_beside_it(db: Database) -> None:
    live = Live(db.engine)
    live.good("INSERT INTO t (k) VALUES ('b')")
    assert db.engine.durable_index < db.engine.applied_index
    assert db.engine.checkpoint_full()
    db.engine.checkpoint_step()
    assert db.engine.durable_index == db.engine.applied_index
    assert live.rows("SELECT count(*) FROM t") == [[2]]
    assert db.apply_bytes(unit_entry(live.finish())) == [[0, []]]


def test_a_checkpoint_that_it_held_up_is_made_up_for(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(db.engine, "_next_checkpoint_frames", 1)
    for round_ in range(8):
        db.apply(one("INSERT INTO t (k) VALUES (?)", f"k{round_}"))
        live = Live(db.engine)  # BEFORE the step that follows each apply
        db.engine.checkpoint_step()
        live.transaction.rollback()
        assert db.engine._checkpointer.wait_idle(10)
    assert db.engine.wal_frames < 20
    assert db.engine.durable_index > 1
