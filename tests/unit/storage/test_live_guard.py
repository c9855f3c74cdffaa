"""What a live transaction may run beside ordinary statements: savepoints, and looking at what differs between nodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dqlite_py.sqlite_codes import AUTH
from dqlite_py.storage.authorizer import READ_PRAGMAS
from tests.support.engines import Database, one, script
from tests.support.live import Live, unit_entry

pytestmark = pytest.mark.usefixtures("implementation")


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    with Database(tmp_path / "a.db") as database:
        database.apply(script("CREATE TABLE t (id INTEGER PRIMARY KEY, k)", "CREATE INDEX t_k ON t (k)"))
        yield database


FORMS = [
    ("SAVEPOINT s", "RELEASE s"),
    ("savepoint s;", "release savepoint s ;"),
    ("SAVEPOINT 'a b'", 'RELEASE SAVEPOINT "a b" -- done'),
    ("/* one */ SAVEPOINT [x]", "RELEASE `x`"),
    ('SAVEPOINT "to"', "RELEASE 'to'"),
    ("SAVEPOINT transaction_", "ROLLBACK TRANSACTION TO SAVEPOINT transaction_"),
    ("SAVEPOINT s", "ROLLBACK TO s"),
    ("SAVEPOINT s", "Rollback Transaction To s;"),
    ("SAVEPOINT s", "ROLLBACK TO SAVEPOINT S"),
]


@pytest.mark.parametrize(("begin", "end"), FORMS)
def test_every_form_of_savepoint_control(db: Database, begin: str, end: str) -> None:
    live = Live(db.engine)
    live.good("INSERT INTO t (k) VALUES (1)")
    assert live.good(begin) == [[-1, 1, None, None]]
    live.good("INSERT INTO t (k) VALUES (2)")
    live.good(end)
    is_undone = "BACK" in end.upper()
    rows = [[1]] if is_undone else [[1], [2]]
    assert live.rows("SELECT k FROM t ORDER BY k") == rows
    assert db.apply_bytes(unit_entry(live.finish())) == [[0, []]]
    assert db.query("SELECT k FROM t ORDER BY k") == rows
    for sql in (begin, end):
        assert db.apply(one(sql))[0][0] == AUTH


@pytest.mark.parametrize(
    "sql",
    [
        "BEGIN",
        "BEGIN IMMEDIATE",
        "COMMIT",
        "END",
        "COMMIT TRANSACTION",
        "ROLLBACK",
        "ROLLBACK TRANSACTION",
        "ROLLBACK;",
        "ROLLBACK TRANSACTION x TO s",
        "RELEASE",
        "RELEASE SAVEPOINT",
        "SAVEPOINT",
        "SAVEPOINT s t",
        "ROLLBACK TO",
        "SAVEPOINT _dqlite_mine",
        'SAVEPOINT "_DQLITE_unit"',
        "RELEASE _dqlite_unit",
        "RELEASE '_dqlite_unit'",
        "ROLLBACK TO _dqlite_unit",
        'ROLLBACK TRANSACTION TO SAVEPOINT "_dqlite_unit"',
        "EXPLAIN SAVEPOINT s",
        "EXPLAIN RELEASE s",
        "ATTACH ':memory:' AS other",
        "DETACH main",
        "VACUUM",
        "ANALYZE",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA user_version = 3",
        "PRAGMA writable_schema = RESET",
        "PRAGMA writable_schema",
        "PRAGMA optimize",
        "PRAGMA wal_checkpoint",
        "PRAGMA case_sensitive_like = 1",
        "PRAGMA nonsense",
        "SELECT * FROM pragma_optimize",
        "SELECT * FROM _dqlite_meta",
        "SELECT load_extension('x')",
        "CREATE TEMP TABLE x (a)",
        "INSERT INTO temp.sqlite_temp_master VALUES (1, 1, 1, 1, 1)",
        "INSERT INTO t (k) SELECT name FROM pragma_table_info('t')",
        "INSERT INTO t (k) SELECT sqlite_version()",
        "UPDATE t SET k = (SELECT count(*) FROM sqlite_stmt)",
        "CREATE TABLE u AS SELECT * FROM pragma_table_list",
        "CREATE VIEW v AS SELECT * FROM t; SELECT 1",
    ],
)
def test_what_stays_refused(db: Database, sql: str) -> None:
    live = Live(db.engine)
    live.good("SAVEPOINT s")
    result = live.run(sql)
    assert result[0] in (AUTH, 1), result
    assert live.is_open
    live.good("INSERT INTO t (k) VALUES (1)")
    assert live.rows("SELECT k FROM t") == [[1]]
    assert db.query("SELECT count(*) FROM t") == [[0]]  # it was still one transaction, which this entry ended


def test_every_reading_pragma(db: Database) -> None:
    live = Live(db.engine)
    live.good("INSERT INTO t (k) VALUES (1)")
    for name, takes_argument in READ_PRAGMAS.items():
        live.good(f"PRAGMA {name}")
        if takes_argument:
            live.good(f"PRAGMA {name}('t')")
            live.good(f"PRAGMA main.{name}(t)")
        else:
            assert live.code(f"PRAGMA {name} = 1") == AUTH
    assert live.rows("PRAGMA journal_mode") == [["wal"]]
    assert [row[1] for row in live.rows("PRAGMA table_info(t)")] == ["id", "k"]
    assert len(live.finish().groups) == 1  # none of them is part of what a commit replays


@pytest.mark.parametrize(
    "sql",
    [
        "PRAGMA table_info(t)",
        "EXPLAIN PRAGMA table_info(t)",
        "SELECT name FROM pragma_table_info('t')",
        "SELECT * FROM sqlite_temp_master",
        "SELECT * FROM temp.sqlite_schema",
        "SELECT sqlite_version(), sqlite_source_id()",
        "SELECT count(*) FROM dbstat",
        "EXPLAIN INSERT INTO t (k) SELECT name FROM pragma_table_info('t')",
    ],
)
def test_looking_is_for_groups_of_its_own_and_never_replicated(db: Database, sql: str) -> None:
    live = Live(db.engine)
    live.good(sql)
    live.good(sql)
    assert live.code("INSERT INTO t (k) VALUES (1)", sql) == AUTH
    assert live.code(sql, "INSERT INTO t (k) VALUES (2)") == AUTH
    assert live.good(sql)
    unit = live.finish()
    assert db.apply(one(sql))[0][0] == AUTH  # the statement that was prepared last
    assert len(unit.groups) == 1  # the INSERT in front of a refusal: the replay refuses it, too
    assert db.apply_bytes(unit_entry(unit)) == [[0, []]]
    assert db.query("SELECT k FROM t") == [[1]]
    assert db.apply(one(sql))[0][0] == AUTH  # the statement that is prepared already


def test_what_ordinary_statements_prepare_is_shared(db: Database) -> None:
    db.run(("INSERT INTO t (k) VALUES (?)", [1]))
    live = Live(db.engine)
    live.good(("INSERT INTO t (k) VALUES (?)", [2]))
    live.good("SELECT k FROM t")
    live.transaction.rollback()
    assert db.query("SELECT k FROM t") == [[1]]
