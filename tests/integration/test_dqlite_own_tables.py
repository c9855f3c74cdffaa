"""The tables that say where a database stands are the node's alone, whatever a client of dqlite's protocol sends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import dqlite_py
from dqlite_py.wire.dqlite.requests import RequestType
from dqlite_py.wire.dqlite.responses import Failure, Statement
from dqlite_py.wire.dqlite.rows import RowsBatch
from tests.support.dqliteclient import DqliteClient

SCHEMA = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY 1, 2"
CHANGES = [
    "INSERT INTO {} DEFAULT VALUES",
    "REPLACE INTO main.{} SELECT * FROM t",
    "UPDATE {} SET rowid = 5",
    "UPDATE OR REPLACE t SET a = (SELECT count(*) FROM {})",
    "DELETE FROM {}",
    "DELETE FROM {} RETURNING *",
    "WITH x AS (SELECT 1) DELETE FROM {} WHERE 1 IN x",
    "DROP TABLE {}",
    "DROP TABLE IF EXISTS main.{}",
    "ALTER TABLE {} RENAME TO mine",
    "ALTER TABLE {} ADD COLUMN mine",
    "ALTER TABLE {} RENAME COLUMN rowid TO mine",
    "CREATE TRIGGER mine AFTER INSERT ON {} BEGIN SELECT 1; END",
    "CREATE TRIGGER mine AFTER UPDATE ON {} BEGIN SELECT RAISE(FAIL, 'mine'); END",
    "CREATE INDEX mine ON {} (log_index)",
    "CREATE TABLE {} (a)",
    "CREATE VIEW {} AS SELECT 1",
    "ALTER TABLE t RENAME TO {}x",
    "CREATE TABLE {}x AS SELECT 1",
]
NAMES = ["_dqlite_meta", "_dqlite_sessions", '"_DQLITE_META"', "[_Dqlite_Sessions]"]
OTHER_WAYS = [
    "DELETE FROM sqlite_schema WHERE name GLOB '_dqlite*'",
    "PRAGMA writable_schema = ON",
    "INSERT INTO t VALUES (5); DELETE FROM _dqlite_meta",
]
CODES = (23, 1)  # SQLITE_AUTH; sqlite_schema is SQLite's own to refuse
STATEMENTS = [
    *(sql.replace("{}x", name.strip('"[]') + "x").format(name) for sql in CHANGES for name in NAMES),
    *OTHER_WAYS,
]


@pytest.fixture
def client(tmp_path: Path) -> Iterator[DqliteClient]:
    """Of a database with a table t; it has to serve at the end, and after a restart, as it did before."""
    with dqlite_py.Node(tmp_path / "node") as node:
        node.wait_ready()
        with DqliteClient(node.address, database="app") as made:
            made.done("CREATE TABLE t (a)")
            before = made.values(SCHEMA)
            yield made
            assert made.values(SCHEMA) == before
            made.done("INSERT INTO t VALUES (7)")
    with dqlite_py.Node(tmp_path / "node") as node:
        node.wait_ready()
        with DqliteClient(node.address, database="app") as made:
            assert made.values("SELECT a FROM t WHERE a = 7") == [(7,)]
            made.done("INSERT INTO t VALUES (8)")


def test_statements_are_refused(client: DqliteClient) -> None:
    assert [(sql, found) for sql in STATEMENTS if (found := client.failure(sql))[0] not in CODES] == []
    rest = [sql for sql in STATEMENTS if sql.startswith(("DELETE", "UPDATE", "DROP"))]
    assert [sql for sql in rest if not isinstance(client.query(sql), Failure)] == []


def test_they_are_refused_in_a_transaction(client: DqliteClient) -> None:
    taken = []
    for sql in STATEMENTS:
        client.done("BEGIN")
        if not isinstance(client.execute(sql), Failure):
            taken.append(sql)
        client.done("COMMIT")
    assert taken == []


@pytest.mark.parametrize("in_transaction", [False, True])
def test_they_are_refused_when_prepared(client: DqliteClient, in_transaction: bool) -> None:
    taken = []
    for sql in STATEMENTS:
        if in_transaction:
            client.done("BEGIN")
        answer = client.call(RequestType.PREPARE, 0, sql)
        if isinstance(answer, Statement):
            if not isinstance(client.call(RequestType.EXEC, 0, answer.id, ()), Failure):
                taken.append(sql)
            client.call(RequestType.FINALIZE, 0, answer.id)
        if in_transaction:
            client.done("COMMIT")
    assert taken == []


def test_what_stands_in_a_trigger_or_a_view_is_refused_at_the_latest_when_it_runs(
    client: DqliteClient,
) -> None:
    for name in NAMES[:2]:
        client.execute(f"CREATE TRIGGER way AFTER INSERT ON t BEGIN DELETE FROM {name}; END")
        if client.values("SELECT count(*) FROM sqlite_schema WHERE name = 'way'") == [(1,)]:
            assert isinstance(client.execute("INSERT INTO t VALUES (1)"), Failure)
            client.done("DROP TRIGGER way")
        client.execute(f"CREATE VIEW look AS SELECT * FROM {name}")
        if client.values("SELECT count(*) FROM sqlite_schema WHERE name = 'look'") == [(1,)]:
            assert not isinstance(client.query("SELECT * FROM look"), RowsBatch)
            client.done("DROP VIEW look")
    assert client.values("SELECT count(*) FROM t") == [(0,)]


def test_rows_cannot_be_tied_to_those_of_the_node(client: DqliteClient) -> None:
    client.execute("CREATE TABLE tied (i REFERENCES _dqlite_sessions (log_index) ON DELETE CASCADE)")
    if client.values("SELECT count(*) FROM sqlite_schema WHERE name = 'tied'") == [(1,)]:
        assert isinstance(client.execute("INSERT INTO tied VALUES (0)"), Failure)
        client.done("INSERT INTO t VALUES (1)")
        client.done("DROP TABLE tied")
