"""Prepared statements through dqlite's protocol: what PREPARE finds out, and how long a statement lives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import dqlite_py
from dqlite_py.wire.dqlite.requests import RequestType
from dqlite_py.wire.dqlite.responses import Empty, Failure, Result, Statement
from dqlite_py.wire.dqlite.rows import RowsBatch
from dqlite_py.wire.dqlite.values import typed
from tests.support.dqliteclient import DqliteClient


@pytest.fixture
def client(tmp_path: Path) -> Iterator[DqliteClient]:
    """Of a database with a table t."""
    with dqlite_py.Node(tmp_path / "node") as node:
        node.wait_ready()
        with DqliteClient(node.address, database="app") as made:
            made.done("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT UNIQUE, c BOOLEAN, d DATETIME)")
            yield made


@pytest.mark.parametrize("first", ["", "SELECT 1", "INSERT INTO t (b) VALUES ('first')"])
def test_preparing_in_a_transaction_says_what_is_wrong(client: DqliteClient, first: str) -> None:
    client.done("BEGIN")
    if first.startswith("SELECT"):
        client.values(first)
    elif first:
        client.done(first)
    for sql, answer in {
        "SELECT * FROM nowhere": Failure(1, "no such table: nowhere"),
        "INSERT INTO nowhere VALUES (?)": Failure(1, "no such table: nowhere"),
        "UPDATE t SET x = 1": Failure(1, "no such column: x"),
        "SELEKT 1": Failure(1, 'near "SELEKT": syntax error'),
        "EXPLAIN SELECT * FROM nowhere": Failure(1, "no such table: nowhere"),
    }.items():
        assert client.call(RequestType.PREPARE, 0, sql) == answer
    for number, sql in enumerate(
        ["INSERT INTO t (b) VALUES (?)", "PRAGMA table_info(t)", "CREATE TABLE n (a)"]
    ):
        assert client.call(RequestType.PREPARE, 0, sql) == Statement(0, number, sql.count("?"))
    assert client.call(RequestType.EXEC, 0, 0, (typed("second"),)) == Result(2 if "INSERT" in first else 1, 1)
    client.done("COMMIT")
    assert client.values("SELECT count(*) FROM t") == [(2 if "INSERT" in first else 1,)]
    assert client.query("SELECT * FROM n") == Failure(1, "no such table: n")


def test_pragmas_that_only_look_can_be_prepared(client: DqliteClient) -> None:
    assert client.call(RequestType.PREPARE, 0, "PRAGMA table_info(t)") == Statement(0, 0, 0)
    client.send(RequestType.QUERY, 0, 0, ())
    found = client.rows()
    assert isinstance(found, RowsBatch)
    assert [row[1].value for row in found.rows] == ["a", "b", "c", "d"]
    answer = client.call(RequestType.PREPARE, 0, "PRAGMA synchronous = OFF")
    assert isinstance(answer, Failure)
    assert (answer.code, "PRAGMA synchronous is not available" in answer.message) == (23, True)


@pytest.mark.parametrize("first", ["", "BEGIN IMMEDIATE"])
def test_preparing_a_change_of_the_schema_says_what_is_wrong(client: DqliteClient, first: str) -> None:
    client.done("CREATE INDEX by_b ON t (b)")
    client.done("CREATE VIEW seen AS SELECT a FROM t")
    if first:
        client.done(first)
    for sql, message in {
        "CREATE TABLE t (a)": "table t already exists",
        "CREATE TABLE seen (a)": "view seen already exists",
        "CREATE TABLE n (a, a)": "duplicate column name: a",
        "CREATE INDEX by_b ON t (c)": "index by_b already exists",
        "CREATE INDEX by_x ON t (x)": "no such column: x",
        "CREATE VIEW t AS SELECT 1": "table t already exists",
        "CREATE TRIGGER x AFTER INSERT ON nowhere BEGIN SELECT 1; END": "no such table: main.nowhere",
        "DROP TABLE nowhere": "no such table: nowhere",
        "DROP INDEX nowhere": "no such index: nowhere",
        "DROP VIEW t": "use DROP TABLE to delete table t",
        "ALTER TABLE t ADD COLUMN b": "duplicate column name: b",
        "ALTER TABLE nowhere RENAME TO t": "no such table: nowhere",
    }.items():
        assert client.call(RequestType.PREPARE, 0, sql) == Failure(1, message), sql
    good = [
        "CREATE TABLE IF NOT EXISTS t (a)",
        "CREATE TABLE n AS SELECT * FROM t",
        "CREATE INDEX by_c ON t (c)",
        "CREATE TRIGGER x AFTER INSERT ON t BEGIN DELETE FROM t WHERE a = 0; END",
        "CREATE VIRTUAL TABLE words USING fts5(word)",
        "DROP VIEW seen",
        "ALTER TABLE t RENAME COLUMN b TO e",
        "ANALYZE t",
        "REINDEX t",
    ]
    for number, sql in enumerate(good):
        assert client.call(RequestType.PREPARE, 0, sql) == Statement(0, number, 0), sql
    assert client.values("SELECT name FROM sqlite_master WHERE name IN ('n', 'by_c', 'x', 'words')") == []
    for number in range(len(good)):
        assert isinstance(client.call(RequestType.EXEC, 0, number, ()), Result), good[number]
    assert len(client.values("SELECT name FROM sqlite_master WHERE name IN ('n', 'by_c', 'x', 'words')")) == 4


def test_preparing_in_a_transaction_sees_what_it_made(client: DqliteClient) -> None:
    client.done("BEGIN")
    client.done("CREATE TABLE made (v)")
    assert client.call(RequestType.PREPARE, 0, "INSERT INTO made VALUES (?)") == Statement(0, 0, 1)
    client.done("INSERT INTO made VALUES (1)")
    client.done("DROP TABLE t")
    assert client.call(RequestType.PREPARE, 0, "DELETE FROM t") == Failure(1, "no such table: t")
    exists = Failure(1, "table made already exists")
    assert client.call(RequestType.PREPARE, 0, "CREATE TABLE made (a)") == exists
    assert client.call(RequestType.EXEC, 0, 0, (typed(5),)) == Result(2, 1)
    client.done("COMMIT")
    assert client.values("SELECT v FROM made") == [(1,), (5,)]


def test_prepared_statements(client: DqliteClient) -> None:
    prepared = client.call(RequestType.PREPARE, 0, "INSERT INTO t (b, c) VALUES (?, ?)")
    assert prepared == Statement(0, 0, 2)
    assert client.call(RequestType.EXEC, 0, 0, (typed("x"), typed(1))) == Result(1, 1)
    assert client.call(RequestType.EXEC, 0, 0, (typed("y"),)) == Result(2, 1)
    reading = client.call(RequestType.PREPARE, 0, "SELECT b, c FROM t WHERE a > ? ORDER BY a;  ")
    assert reading == Statement(0, 1, 1)
    client.send(RequestType.QUERY, 0, 1, (typed(0),))
    found = client.rows()
    assert isinstance(found, RowsBatch)
    assert [tuple(value.value for value in row) for row in found.rows] == [("x", 1), ("y", None)]
    assert client.call(RequestType.FINALIZE, 0, 0) == Empty()
    gone = Failure(12, "no statement with the given id")
    assert client.call(RequestType.FINALIZE, 0, 0) == gone
    assert client.call(RequestType.EXEC, 0, 0, ()) == gone
    assert client.call(RequestType.PREPARE, 0, "SELECT 1") == Statement(0, 0, 0)
    assert client.call(RequestType.PREPARE, 0, "SELECT * FROM nowhere") == Failure(
        1, "no such table: nowhere"
    )


def test_the_rest_of_a_prepared_text(client: DqliteClient) -> None:
    two = "INSERT INTO t (b) VALUES ('é'); SELECT 1"
    assert client.call(RequestType.PREPARE, 0, two) == Failure(1, "nonempty statement tail")
    head = len("INSERT INTO t (b) VALUES ('é');".encode())
    assert client.call(RequestType.PREPARE, 0, two, schema=1) == Statement(0, 0, 0, head)
