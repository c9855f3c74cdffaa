"""A text that ran before on the same connection: what is remembered of it must never show in an answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dqlite_py.errors import (
    DataError,
    InterfaceError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
    RequestTooLarge,
)
from dqlite_py.storage import reader as reader_module
from dqlite_py.storage.readers import QueryResult, ReaderPool
from tests.support.engines import Database, script


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    with Database(tmp_path / "a.db") as database:
        database.apply(
            script(
                "CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)",
                "INSERT INTO t VALUES (1, 'x'), (2, 'y')",
                "CREATE VIEW v AS SELECT a FROM t",
                "CREATE VIRTUAL TABLE f USING fts5 (body)",
                "INSERT INTO f VALUES ('hello world')",
            )
        )
        yield database


@pytest.fixture
def pool(db: Database) -> Iterator[ReaderPool]:
    readers = ReaderPool(str(db.path), 1)
    yield readers
    readers.close()


@pytest.mark.parametrize("where", ["a = 1", "a = 100"])
@pytest.mark.parametrize("padding", ["", " -- " + "x" * 5_000], ids=["short", "long"])
@pytest.mark.parametrize("times", [1, 2])
def test_columns_follow_the_schema(
    db: Database, pool: ReaderPool, where: str, padding: str, times: int
) -> None:
    """With rows and without, after one run (the checked one) and after two; a long text is always checked."""
    sql = f"SELECT * FROM t WHERE {where}{padding}"
    for _ in range(times):
        assert pool.query(sql)[:2] == (("a", "b"), ("INTEGER", "TEXT"))
    db.run(*script("ALTER TABLE t ADD COLUMN c REAL"))
    for _ in range(2):
        found = pool.query(sql)
        assert found[:2] == (("a", "b", "c"), ("INTEGER", "TEXT", "REAL"))
        assert found.rows == ([(1, "x", None)] if where == "a = 1" else [])


@pytest.mark.parametrize("number", [1, 100])
def test_columns_follow_the_schema_with_parameters(db: Database, pool: ReaderPool, number: int) -> None:
    for params in ((number,), [number]):
        assert pool.query("SELECT * FROM t WHERE a = ?", params).columns == ("a", "b")
    db.run(*script("DROP TABLE t", "CREATE TABLE t (a INTEGER PRIMARY KEY)", "INSERT INTO t VALUES (1)"))
    assert pool.query("SELECT * FROM t WHERE a = ?", [number]).columns == ("a",)


def test_a_view_may_come_to_mean_something_refused(db: Database, pool: ReaderPool) -> None:
    for _ in range(2):
        assert pool.query("SELECT * FROM v") == QueryResult(("a",), ("INTEGER",), [(1,), (2,)])
    db.run(*script("DROP VIEW v", "CREATE VIEW v AS SELECT b, a FROM t"))
    assert pool.query("SELECT * FROM v").columns == ("b", "a")
    db.run(*script("DROP VIEW v"))
    for _ in range(2):
        with pytest.raises(OperationalError, match="no such table"):
            pool.query("SELECT * FROM v")
    db.run(*script("CREATE VIEW v AS SELECT load_extension('x') FROM t"))
    for _ in range(2):
        with pytest.raises(OperationalError, match="unsafe use of load_extension"):
            pool.query("SELECT * FROM v")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT a FROM t ORDER BY a;",
        "SELECT a FROM t ORDER BY a; -- a note",
        "/* a note; */ SELECT a FROM t ORDER BY a ; ;",
        "WITH c AS (SELECT a FROM t) SELECT a FROM c ORDER BY a",
        "SELECT a FROM t WHERE a < 10 ORDER BY a",
    ],
)
def test_the_same_answer_every_time(pool: ReaderPool, sql: str) -> None:
    for _ in range(4):
        assert pool.query(sql) == QueryResult(("a",), ("INTEGER",), [(1,), (2,)])


@pytest.mark.parametrize("sql", ["; SELECT a FROM t WHERE a = 100", "SELECT a FROM t WHERE a = 100; -- none"])
def test_columns_without_rows(pool: ReaderPool, sql: str) -> None:
    for _ in range(3):
        assert pool.query(sql) == QueryResult(("a",), ("INTEGER",), [])


def test_full_text_search_prepares_statements_of_its_own(pool: ReaderPool) -> None:
    for word, rows in (("hello", [("hello world",)]), ("nothing", []), ("world", [("hello world",)])):
        assert pool.query("SELECT body FROM f WHERE f MATCH ? ORDER BY rank", [word]) == QueryResult(
            ("body",), (None,), rows
        )


def test_explain_is_allowed_to_name_a_write_and_nothing_after_it_is(pool: ReaderPool) -> None:
    for _ in range(3):
        assert pool.query("EXPLAIN DELETE FROM t").rows
        with pytest.raises(NotSupportedError):
            pool.query("DELETE FROM t")
    assert pool.query("SELECT count(*) FROM t").rows == [(2,)]


def test_parameters_are_judged_every_time(pool: ReaderPool) -> None:
    sql = "SELECT ?, ?"
    assert pool.query(sql, (1, 2)).rows == [(1, 2)]
    for params, error in (
        ((1,), ProgrammingError),
        ((1, 2, 3), ProgrammingError),
        ((1, 2**63), DataError),
        ((1, "\ud800"), DataError),
        ((1, object()), InterfaceError),
        ((1, [2]), InterfaceError),
        (5, InterfaceError),
    ):
        with pytest.raises(error):
            pool.query(sql, params)
        assert pool.query(sql, [3, None]).rows == [(3, None)]
    assert pool.query("SELECT :a", {"a": 1}).rows == [(1,)]
    with pytest.raises(ProgrammingError, match="'a'"):
        pool.query("SELECT :a", {"b": 1})


def test_an_error_amidst_the_rows_leaves_the_text_usable(db: Database, pool: ReaderPool) -> None:
    sql = "WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < ?) SELECT abs(x) FROM c"
    for _ in range(3):
        assert len(pool.query(sql, [5], bytes_max=1_000).rows) == 5
        with pytest.raises(RequestTooLarge):
            pool.query(sql, [10_000], bytes_max=1_000)
    db.run(*script("INSERT INTO t VALUES (3, 'z')"))
    assert pool.query("SELECT count(*) FROM t").rows == [(3,)]  # no old view of the data is held open


def test_what_is_remembered_is_bounded(pool: ReaderPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "KNOWN_MAX", 3)
    for number in range(10):
        assert pool.query(f"SELECT {number}").rows == [(number,)]
        assert pool.query("SELECT a FROM t WHERE a = 1").rows == [(1,)]
    assert len(pool._idle[0]._known) <= 3
    long = "SELECT 1 -- " + "x" * 10_000
    assert pool.query(long).rows == [(1,)]
    assert long not in pool._idle[0]._known
