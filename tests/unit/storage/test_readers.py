"""Queries: what they give, what they refuse, their bounds; where a statement goes."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from dqlite_py.errors import (
    Busy,
    DataError,
    Error,
    InterfaceError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
    RequestTooLarge,
)
from dqlite_py.storage.readers import QueryResult, ReaderPool
from tests.support.engines import Database, one, script

pytestmark = pytest.mark.usefixtures("implementation")

ENDLESS = "WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
INTERRUPT, RANGE, AUTH = 9, 25, 23


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    with Database(tmp_path / "a.db") as database:
        database.apply(
            script(
                "CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT UNIQUE)",
                "INSERT INTO t VALUES (1, 'x'), (2, 'y')",
                "CREATE VIRTUAL TABLE f USING fts5 (body)",
                "INSERT INTO f VALUES ('hello world')",
            )
        )
        yield database


@pytest.fixture
def pool(db: Database) -> Iterator[ReaderPool]:
    readers = ReaderPool(str(db.path), 2)
    yield readers
    readers.close()


def test_rows_columns_and_types(pool: ReaderPool) -> None:
    assert pool.query("SELECT a, b AS c, a + 1 FROM t WHERE a = ?", [1]) == QueryResult(
        ("a", "c", "a + 1"), ("INTEGER", "TEXT", None), [(1, "x", 2)]
    )
    assert pool.query("SELECT a FROM t WHERE 0").columns == ("a",)
    assert pool.query(" /* c */ SELECT :n, :n; -- end", {"n": True, "unused": 1}).rows == [(1, 1)]
    assert pool.query("SELECT body FROM f WHERE f MATCH 'hello'").rows == [("hello world",)]
    assert pool.query("SELECT ?, ?, ?, ?", [None, 1.5, b"\0\xff", "é\0"]).rows == [
        (None, 1.5, b"\0\xff", "é\0")
    ]


def test_a_reader_sees_what_is_committed(db: Database, pool: ReaderPool) -> None:
    for i in range(3, 30):
        db.apply(one("INSERT INTO t VALUES (?, ?)", i, str(i)))
        assert pool.query("SELECT count(*) FROM t").rows == [(i,)]
    db.apply(one("ALTER TABLE t ADD COLUMN c DEFAULT 7"))
    assert pool.query("SELECT * FROM t WHERE a = 1").rows == [(1, "x", 7)]


@pytest.mark.parametrize(
    "sql",
    [
        "PRAGMA table_info(t)",
        "PRAGMA table_list",
        "PRAGMA index_list('t')",
        "PRAGMA foreign_key_list(t)",
        "PRAGMA page_count",
        "PRAGMA user_version",
        "PRAGMA schema_version",
        "PRAGMA integrity_check",
        "PRAGMA quick_check(1)",
        "PRAGMA compile_options",
        "SELECT * FROM pragma_table_info('t')",
        "EXPLAIN SELECT 1",
        "EXPLAIN QUERY PLAN SELECT * FROM t",
        "EXPLAIN INSERT INTO t VALUES (5, 'z')",
        "VALUES (1), (2)",
        "SELECT sqlite_version()",
        "SELECT name FROM sqlite_schema",
        "WITH c AS (SELECT 1) SELECT * FROM c",
    ],
)
def test_reading_statements(pool: ReaderPool, sql: str) -> None:
    assert pool.classify(sql) == "read"
    assert pool.query(sql).columns
    assert pool.query("SELECT count(*) FROM t").rows == [(2,)]


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO t VALUES (5, 'z')",
        "WITH c AS (SELECT 5) INSERT INTO t SELECT 5, 'z' FROM c",
        "CREATE TABLE u (a)",
        "CREATE TEMP TABLE u (a)",
        "DROP TABLE t",
        "PRAGMA foreign_keys = OFF",
        "PRAGMA query_only = OFF",
        "PRAGMA user_version = 5",
        "PRAGMA writable_schema = 1",
        "PRAGMA wal_checkpoint",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA mmap_size",
        "SELECT * FROM _dqlite_meta",
        "SELECT (SELECT applied_index FROM main._DQLITE_meta)",
        "ATTACH ':memory:' AS x",
        "DETACH main",
        "BEGIN",
        "SAVEPOINT s",
        "VACUUM",
        "VACUUM INTO 'x'",
        "ANALYZE",
        "REINDEX",
        "SELECT load_extension('x')",
    ],
)
def test_refused_as_queries(pool: ReaderPool, sql: str) -> None:
    with pytest.raises(NotSupportedError) as caught:
        pool.query(sql)
    assert caught.value.code == AUTH
    assert pool.query("SELECT count(*) FROM t").rows == [(2,)]


@pytest.mark.parametrize(
    ("sql", "params", "error", "code"),
    [
        ("SELECT nope", (), OperationalError, 1),
        ("SELECT 1 WHERE", (), OperationalError, 1),
        ("SELECT 1; SELECT 2", (), ProgrammingError, 21),
        ("SELECT 1; DELETE FROM t", (), ProgrammingError, 21),
        ("", (), ProgrammingError, 1),
        ("-- nothing", (), ProgrammingError, 1),
        ("SELECT 1\0", (), ProgrammingError, None),
        ("SELECT ?, ?", (1,), ProgrammingError, RANGE),
        ("SELECT ?", (1, 2), ProgrammingError, RANGE),
        ("SELECT :a", {"b": 1}, ProgrammingError, RANGE),
        ("SELECT ?", (2**63,), DataError, None),
        ("SELECT ?", (object(),), InterfaceError, None),
        ("SELECT CAST(x'ff' AS TEXT)", (), DataError, None),
        ("SELECT abs(-9223372036854775808)", (), OperationalError, 1),
        ("SELECT zeroblob(1000000000)", (), DataError, 18),
    ],
)
def test_errors(pool: ReaderPool, sql: str, params: object, error: type[Error], code: int | None) -> None:
    for _ in range(2):
        with pytest.raises(error) as caught:
            pool.query(sql, params)
        assert caught.value.code == code
    assert pool.query("SELECT 1").rows == [(1,)]


def test_results_are_bounded(pool: ReaderPool) -> None:
    endless = "WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c"
    for sql in (endless, "SELECT zeroblob(20000)"):
        for _ in range(3):
            with pytest.raises(RequestTooLarge):
                pool.query(sql, bytes_max=10_000)
    assert pool.query("SELECT 1").rows == [(1,)]


def test_a_query_ends_in_time(pool: ReaderPool) -> None:
    with pytest.raises(OperationalError, match="in time") as caught:
        pool.query(ENDLESS, timeout_s=0.05)
    assert caught.value.code == INTERRUPT
    assert pool.query("SELECT 1").rows == [(1,)]


def test_submit_and_cancel(db: Database) -> None:
    pool = ReaderPool(str(db.path), 2, threads_max=2)
    assert pool.submit("SELECT ?", [5]).result(10).rows == [(5,)]
    assert isinstance(pool.submit("SELECT nope").exception(10), OperationalError)
    running = [pool.submit(ENDLESS) for _ in range(2)]
    waiting = pool.submit("SELECT 1")
    assert waiting.cancel()
    with pytest.raises(CancelledError):
        waiting.result(10)
    for future in running:
        future.cancel()
    for future in running:
        with contextlib.suppress(CancelledError):  # it had not begun
            assert "cancelled" in str(future.exception(10))
    assert pool.submit("SELECT 1").result(10).rows == [(1,)]
    pool.close()


def test_asyncio_cancellation_reaches_the_query(pool: ReaderPool) -> None:
    async def main() -> None:
        task = asyncio.wrap_future(pool.submit(ENDLESS, timeout_s=None))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(task, 0.1)

    asyncio.run(main())
    assert pool.query("SELECT 1").rows == [(1,)]


def test_no_free_connection_is_busy(db: Database) -> None:
    pool = ReaderPool(str(db.path), 2, held_max=0)
    held = [pool.submit(ENDLESS) for _ in range(2)]
    while not all(future.running() for future in held) or pool._idle:
        time.sleep(0.001)
    with pytest.raises(Busy):
        pool.query("SELECT 1", timeout_s=0.05)
    for future in held:
        future.cancel()
    pool.close()


def test_short_queries_do_not_wait_for_long_ones(pool: ReaderPool) -> None:
    held = [pool.submit(ENDLESS) for _ in range(2)]
    while not all(future.running() for future in held) or pool._idle:
        time.sleep(0.001)
    assert pool.query("SELECT 1").rows == [(1,)]
    for future in held:
        future.cancel()


def test_waiting_queries_are_bounded(pool: ReaderPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dqlite_py.storage.readers.PENDING_READS_MAX", 3)
    held = [pool.submit(ENDLESS) for _ in range(3)]
    with pytest.raises(Busy):
        pool.submit("SELECT 1")
    for future in held:
        future.cancel()
    for future in held:
        assert future.exception(10) is not None if not future.cancelled() else True
    assert pool.submit("SELECT 1").result(10).rows == [(1,)]


def test_many_threads_share_the_connections(pool: ReaderPool) -> None:
    found: list[int] = []

    def work() -> None:
        for i in range(100):
            found.append(pool.query("SELECT ? + a FROM t WHERE a = 1", [i]).rows[0][0])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(list(range(1, 101)) * 8)


def test_a_closed_pool_says_so(db: Database) -> None:
    closed = ReaderPool(str(db.path), 1)
    closed.close()
    closed.close()
    with pytest.raises(InterfaceError):
        closed.query("SELECT 1")
    with pytest.raises(InterfaceError):
        closed.submit("SELECT 1")


@pytest.mark.parametrize(
    ("sql", "where"),
    [
        ("/* x */ -- y\n select 1", "read"),
        ("(SELECT 1)", "error"),
        ("UPDATE t SET b = 1", "write"),
        ("replace into t values (1, 2)", "write"),
        ("WITH c AS (SELECT 1) DELETE FROM t", "write"),
        ("WITH c (x) AS (SELECT ')') SELECT * FROM c", "read"),
        ("CREATE TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; SELECT 2; END", "write"),
        ("ANALYZE t", "write"),
        ("ALTER TABLE t RENAME TO u", "write"),
        ("EXPLAIN DELETE FROM t", "read"),
        ("PRAGMA user_version = 5", "read"),  # refused there
        ("nonsense", "error"),
    ],
)
def test_classify(pool: ReaderPool, sql: str, where: str) -> None:
    if where == "error":
        with pytest.raises(OperationalError):
            pool.classify(sql)
    else:
        assert pool.classify(sql) == where


@pytest.mark.parametrize("sql", ["SELECT 1; SELECT 2", "INSERT INTO t VALUES (7, 7); SELECT 1", "", ";"])
def test_classify_wants_one_statement(pool: ReaderPool, sql: str) -> None:
    with pytest.raises(ProgrammingError):
        pool.classify(sql)
