"""Every statement that cannot be replicated: refused with code AUTH and words that help, and without effect."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dqlite_py.errors import NotSupportedError
from dqlite_py.resultcodes import error_from_code
from dqlite_py.sqlite_codes import AUTH
from dqlite_py.storage.implementation import refusal
from dqlite_py.storage.readers import ReaderPool
from tests.support.engines import Database, one, script

pytestmark = pytest.mark.usefixtures("implementation")

REFUSED = {
    # by the first words
    "PRAGMA foreign_keys = OFF": "queries of their own",
    "PRAGMA table_info(t)": "queries of their own",
    "/* c */ -- d\n pragma journal_mode = delete": "queries of their own",
    "\ufeffPRAGMA user_version = 1": "queries of their own",
    ";;PRAGMA user_version = 1": "queries of their own",
    "EXPLAIN PRAGMA user_version = 1": "queries of their own",
    "EXPLAIN QUERY PLAN PRAGMA user_version = 1": "queries of their own",
    "VACUUM": "free pages are reused",
    "VACUUM INTO 'x.db'": "free pages are reused",
    "ATTACH ':memory:' AS other": "one database per connection",
    "DETACH other": "databases are opened per connection",
    "BEGIN": "commit()",
    "BEGIN IMMEDIATE": "commit()",
    "COMMIT": "commit()",
    "END TRANSACTION": "commit()",
    "ROLLBACK": "rollback()",
    "ROLLBACK TO s": "rollback()",
    "SAVEPOINT s": "begin a transaction",
    "RELEASE s": "begin a transaction",
    "ANALYZE": "ANALYZE <table>",
    "ANALYZE;": "ANALYZE <table>",
    "ANALYZE main": "ANALYZE <table>",
    'ANALYZE "main" ;': "ANALYZE <table>",
    "REINDEX": "REINDEX <table>",
    "REINDEX nocase": "REINDEX <table>",
    "SELECT 1; SELECT 2": "one by one",
    "INSERT INTO t VALUES (1, 1);DELETE FROM t": "one by one",
    # temporary objects
    "CREATE TEMP TABLE x (a)": "ordinary table",
    "CREATE TABLE temp.x (a)": "ordinary table",
    "CREATE TEMPORARY VIEW x AS SELECT 1": "ordinary table",
    "CREATE TEMP TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END": "ordinary table",
    "CREATE VIRTUAL TABLE temp.x USING fts5 (a)": "ordinary table",
    "SELECT * FROM temp.sqlite_schema": "ordinary table",
    # the cluster's own state
    "SELECT * FROM _dqlite_meta": "reserved",
    "SELECT * FROM _DQLITE_META": "reserved",
    "SELECT count(*) FROM main._dqlite_meta": "reserved",
    "INSERT INTO t SELECT applied_index, 1 FROM _dqlite_meta": "reserved",
    "UPDATE _dqlite_meta SET applied_index = 9": "reserved",
    "DELETE FROM _dqlite_meta": "reserved",
    "DROP TABLE _dqlite_meta": "reserved",
    "ALTER TABLE _dqlite_meta ADD COLUMN x": "reserved",
    "ALTER TABLE t RENAME TO _dqlite_t": "reserved",
    "CREATE TABLE _dqlite_x (a)": "reserved",
    "CREATE INDEX x ON _dqlite_meta (format)": "reserved",
    "CREATE TRIGGER x AFTER UPDATE ON _dqlite_meta BEGIN SELECT 1; END": "reserved",
    "CREATE TABLE x (a REFERENCES _dqlite_meta (applied_index) ON UPDATE CASCADE)": "reserved",
    "CREATE VIEW x AS SELECT * FROM _dqlite_meta": "reserved",
    # what differs between nodes
    "SELECT sqlite_version()": "pass it as a parameter",
    "INSERT INTO t VALUES (1, sqlite_source_id())": "pass it as a parameter",
    "SELECT sqlite_compileoption_used('X')": "pass it as a parameter",
    "SELECT fts5_source_id()": "pass it as a parameter",
    "SELECT load_extension('x')": "pass it as a parameter",
    "SELECT * FROM pragma_table_info('t')": "query of its own",
    "SELECT * FROM dbstat": "query of its own",
    "DELETE FROM sqlite_stat1": "ANALYZE",
    "DROP TABLE sqlite_stat1": "plan queries differently",
    # virtual tables
    "CREATE VIRTUAL TABLE x USING dbstat": "fts5",
    "CREATE VIRTUAL TABLE x USING fts5vocab (f, row)": "fts5",
    "CREATE VIRTUAL TABLE x USING carray": "fts5",
}
ALLOWED = [
    "ANALYZE t",
    "ANALYZE main.t",
    "ANALYZE i",
    "REINDEX t",
    "REINDEX main.i",
    "EXPLAIN SELECT 1",
    "EXPLAIN QUERY PLAN SELECT * FROM t",
    "INSERT INTO t VALUES (1, 'PRAGMA; ATTACH _dqlite_meta')",
    "SELECT 1 -- ; SELECT 2",
    "SELECT 1; -- more",
    "SELECT ';'",
    "CREATE VIRTUAL TABLE x USING fts5 (a)",
    "CREATE VIRTUAL TABLE x USING fts4 (a)",
    "CREATE VIRTUAL TABLE x USING fts3 (a)",
    "CREATE VIRTUAL TABLE x USING rtree (id, a, b)",
    "CREATE VIRTUAL TABLE x USING geopoly (a)",
    "DELETE FROM sqlite_sequence",
    "SELECT * FROM json_each('[1]')",
    "SELECT name FROM sqlite_schema",
    "CREATE TABLE x (a TEXT COLLATE nocase CHECK (a <> 'begin'))",
    "CREATE TRIGGER x AFTER INSERT ON t BEGIN DELETE FROM t WHERE id > 100; SELECT 1; END",
]


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    with Database(tmp_path / "a.db") as database:
        database.apply(
            script(
                "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, v)",
                "CREATE INDEX i ON t (v)",
                "CREATE VIRTUAL TABLE f USING fts5 (a)",
                "ANALYZE t",
            )
        )
        yield database


@pytest.mark.parametrize(("sql", "advice"), REFUSED.items())
def test_refused(db: Database, sql: str, advice: str) -> None:
    before = db.query("SELECT type, name, sql FROM sqlite_schema")
    alone, in_a_unit, after = db.apply(
        one(sql), script("INSERT INTO t VALUES (50, 1)", sql), one("SELECT count(*) FROM t")
    )
    assert alone[0] == in_a_unit[0] == AUTH
    assert (alone[2], in_a_unit[2]) == (0, 1)
    assert advice in alone[1]
    assert isinstance(error_from_code(*alone[:2]), NotSupportedError)
    assert after[1][0][3] == [[0]]
    assert db.query("SELECT type, name, sql FROM sqlite_schema") == before


@pytest.mark.parametrize("sql", ALLOWED)
def test_allowed(db: Database, sql: str) -> None:
    assert db.apply(one(sql))[0][0] == 0


@pytest.mark.parametrize(
    "sql", ["DELETE FROM f_data", "UPDATE sqlite_schema SET sql = ''", "DELETE FROM sqlite_master"]
)
def test_sqlites_own_tables_are_protected(db: Database, sql: str) -> None:
    (result,) = db.apply(one(sql))
    assert result[0] == 1
    assert "may not be modified" in result[1]


def test_a_trigger_cannot_smuggle(db: Database) -> None:
    db.apply(one("CREATE TRIGGER s AFTER INSERT ON t BEGIN DELETE FROM sqlite_stat1; END"))
    assert db.apply(one("INSERT INTO t VALUES (1, 1)"))[0][0] == AUTH


def test_refusal_by_first_words_is_known_before_the_log(db: Database, tmp_path: Path) -> None:
    pool = ReaderPool(str(db.path), 1)
    try:
        for sql in ("VACUUM", "ANALYZE", "BEGIN", "ATTACH 'x' AS y"):
            reason = refusal(sql.encode())
            assert reason is not None
            assert db.apply(one(sql))[0][1] == reason
            with pytest.raises(NotSupportedError) as caught:
                pool.classify(sql)
            assert caught.value.message == reason
        assert refusal(b"INSERT INTO t VALUES (1, 1)") is None
    finally:
        pool.close()
