"""SQL through dqlite's protocol on one node: what each request answers, and the traps in which dqlite is caught."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dqlite_py
from dqlite_py.gateway import TransactionLimits
from dqlite_py.server.dqlite.settings import ServerSettings
from dqlite_py.wire.dqlite.requests import RequestType
from dqlite_py.wire.dqlite.responses import Empty, Failure, Statement
from dqlite_py.wire.dqlite.rows import RowsBatch
from dqlite_py.wire.dqlite.values import ValueType, WireValue, typed
from tests.support.dqliteclient import DqliteClient

COUNTING = (
    "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < ?) SELECT x, 'abc' || x FROM c"
)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[dqlite_py.Node]:
    with dqlite_py.Node(tmp_path / "node") as made:
        made.wait_ready()
        yield made


@pytest.fixture
def client(node: dqlite_py.Node) -> Iterator[DqliteClient]:
    """Of a database with a table t."""
    with DqliteClient(node.address, database="app") as made:
        made.done("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT UNIQUE, c BOOLEAN, d DATETIME)")
        yield made


def test_results_are_sticky_as_of_a_sqlite_connection(client: DqliteClient) -> None:
    assert client.done("INSERT INTO t (b) VALUES (?)", "x") == (1, 1)
    assert client.done("BEGIN") == (1, 1)
    assert client.done("INSERT INTO t (a, b) VALUES (7, 'y')") == (7, 1)
    assert client.done("COMMIT") == (7, 1)
    assert client.done("UPDATE t SET c = 1") == (7, 2)
    assert client.done("DELETE FROM t WHERE a = 99") == (7, 0)
    assert client.done("") == (7, 0)


def test_sql_that_asks_for_the_last_rowid_hears_the_connections(client: DqliteClient) -> None:
    client.done("CREATE TABLE child (p REFERENCES t (a), n)")
    client.done("INSERT INTO t (a) VALUES (41), (42)")
    asked = client.query("SELECT last_insert_rowid();")
    assert isinstance(asked, RowsBatch)
    assert (asked.columns, asked.rows[0][0].value) == (("last_insert_rowid()",), 42)
    assert client.values("SELECT changes() AS n, 'changes()' WHERE ?", 1) == [(2, "changes()")]
    assert client.values("SELECT total_changes(), main.t.a FROM main.t WHERE a = 41") == [(2, 41)]
    client.done("INSERT INTO child VALUES (last_insert_rowid(), ?)", "x")
    assert (
        client.done("INSERT INTO t (a) VALUES (50); INSERT INTO child VALUES (Last_Insert_Rowid ( ), 'y')")[0]
        == 2
    )
    assert client.values("SELECT total_changes()") == [(5,)]
    client.done("BEGIN")
    client.done("INSERT INTO t (a) VALUES (60)")
    assert client.values("SELECT total_changes()") == [(6,)]
    client.done("INSERT INTO child SELECT last_insert_rowid(), 'z'")
    client.done("COMMIT")
    assert client.values("SELECT p, n FROM child") == [(42, "x"), (50, "y"), (60, "z")]
    assert client.values("SELECT last_insert_rowid()") == [(3,)]
    client.done(
        "CREATE TRIGGER noted AFTER INSERT ON t BEGIN INSERT INTO child VALUES (last_insert_rowid(), 'own'); END"
    )
    client.done("INSERT INTO t (a) VALUES (70)")
    assert client.values("SELECT p FROM child WHERE n = 'own'") == [(70,)]


def test_constraints_have_sqlites_extended_codes_and_texts(client: DqliteClient) -> None:
    client.done("INSERT INTO t (b) VALUES ('x')")
    assert client.failure("INSERT INTO t (b) VALUES ('x')") == (2067, "UNIQUE constraint failed: t.b")
    client.done("CREATE TABLE n (v NOT NULL, CHECK (v > 0))")
    assert client.failure("INSERT INTO n VALUES (NULL)") == (1299, "NOT NULL constraint failed: n.v")
    assert client.failure("INSERT INTO n VALUES (-1)") == (275, "CHECK constraint failed: v > 0")
    assert client.failure("INSERT INTO nowhere VALUES (1)") == (1, "no such table: nowhere")
    assert client.failure("SELEKT 1")[0] == 1
    client.done("CREATE TABLE child (p REFERENCES t (a))")
    assert client.failure("INSERT INTO child VALUES (99)") == (787, "FOREIGN KEY constraint failed")


def test_nulls_booleans_and_times_travel_as_what_they_are(client: DqliteClient) -> None:
    client.done("INSERT INTO t VALUES (1, NULL, NULL, NULL)")
    client.done("INSERT INTO t VALUES (2, 'b', ?, ?)", WireValue(ValueType.BOOLEAN, 1), "2024-02-03 04:05:06")
    client.done("INSERT INTO t VALUES (3, 'c', 'text', 'free text')")
    client.done("INSERT INTO t VALUES (4, 'd', 2.5, 1700000000)")
    found = client.query("SELECT * FROM t ORDER BY a")
    assert isinstance(found, RowsBatch)
    assert found.columns == ("a", "b", "c", "d")
    kinds = [[int(value.type) for value in row] for row in found.rows]
    assert kinds == [[1, 5, 5, 5], [1, 3, 11, 10], [1, 3, 3, 3], [1, 3, 2, 9]]
    assert [row[2].value for row in found.rows] == [None, 1, "text", 2.5]


@pytest.mark.parametrize("begin", ["", "BEGIN"])
def test_what_a_write_returns_has_the_types_of_its_columns(client: DqliteClient, begin: str) -> None:
    """go-dqlite gives a time.Time and a bool for them, and an error where a program asks a TEXT for a time."""
    if begin:
        client.done(begin)
    for sql in (
        "INSERT INTO t (c, d) VALUES (1, '2024-01-02 03:04:05') RETURNING c, d, a, d || ''",
        "UPDATE t SET b = ? RETURNING c, d, a, d || ''",
        "DELETE FROM t RETURNING c, d AS named, a, d || ''",
    ):
        found = client.query(sql)
        assert isinstance(found, RowsBatch)
        kinds = [value.type for value in found.rows[0]]
        assert kinds == [ValueType.BOOLEAN, ValueType.ISO8601, ValueType.INTEGER, ValueType.TEXT], sql


def test_missing_parameters_are_null_and_surplus_ones_go_to_the_next_statement(client: DqliteClient) -> None:
    client.done("INSERT INTO t (a, b) VALUES (?, ?)", 1)
    assert (
        client.done("INSERT INTO t (b) VALUES (?); INSERT INTO t (b, c) VALUES (?, ?)", "x", "y", 5)[1] == 1
    )
    assert client.values("SELECT b, c FROM t ORDER BY a") == [(None, None), ("x", None), ("y", 5)]
    assert client.query("SELECT ?", 1, 2) == Failure(1, "bind parameters")
    assert client.values("SELECT ?, ?", 1) == [(1, None)]


def test_more_than_255_parameters(client: DqliteClient) -> None:
    marks = ", ".join("?" * 300)
    assert client.values(f"SELECT max({marks})", *range(300)) == [(299,)]


def test_statements_of_one_text_are_done_one_by_one(client: DqliteClient) -> None:
    code, _ = client.failure("INSERT INTO t (b) VALUES ('x'); INSERT INTO t (b) VALUES ('x'); DELETE FROM t")
    assert code == 2067
    assert client.values("SELECT count(*) FROM t") == [(1,)]


def test_empty_statements(client: DqliteClient) -> None:
    assert client.done(" -- nothing\n;") == (0, 0)
    assert client.query("  ") == Failure(0, "empty statement")
    assert client.call(RequestType.PREPARE, 0, "-- nothing") == Failure(0, "empty statement")
    assert client.values("SELECT 1; -- that was all") == [(1,)]
    assert client.query("SELECT 1; SELECT 2") == Failure(1, "nonempty statement tail")


def test_what_has_no_columns_through_query(client: DqliteClient) -> None:
    assert client.query("INSERT INTO t (b) VALUES ('x')") == RowsBatch((), (), True)
    assert client.query("CREATE TABLE u (v)") == RowsBatch((), (), True)
    assert client.query("BEGIN") == RowsBatch((), (), True)
    assert client.query("ROLLBACK") == RowsBatch((), (), True)
    assert client.values("SELECT count(*) FROM t") == [(1,)]


@pytest.mark.parametrize("in_transaction", [False, True])
def test_rows_that_exec_does_not_expect_leave_nothing_behind(
    node: dqlite_py.Node, client: DqliteClient, in_transaction: bool
) -> None:
    if in_transaction:
        client.done("BEGIN")
        client.done("INSERT INTO t (b) VALUES ('kept')")
    expected = (1, "rows yielded when none expected for EXEC request")
    assert client.failure("INSERT INTO t (b) VALUES ('x') RETURNING a") == expected
    assert client.failure("SELECT 1") == expected
    if in_transaction:
        assert client.values("SELECT b FROM t") == [("kept",)]
        client.done("COMMIT")
    assert client.values("SELECT count(*) FROM t") == [(1 if in_transaction else 0,)]
    assert client.done("DELETE FROM t WHERE a = 99 RETURNING a") is not None
    assert client.values("INSERT INTO t (b) VALUES ('y') RETURNING b") == [("y",)]
    assert client.done("INSERT INTO t (b) VALUES ('z')")[1] == 1


def test_a_returning_statement_that_cannot_commit_leaves_no_transaction(
    node: dqlite_py.Node, client: DqliteClient
) -> None:
    client.done("CREATE TABLE late (p REFERENCES t (a) DEFERRABLE INITIALLY DEFERRED)")
    client.done("CREATE TABLE asked (v)")
    client.done(
        "CREATE TRIGGER instead BEFORE INSERT ON asked BEGIN INSERT INTO late VALUES (new.v); SELECT RAISE(IGNORE); END"
    )
    assert client.failure("INSERT INTO asked VALUES (99) RETURNING v") == (
        787,
        "FOREIGN KEY constraint failed",
    )
    client.done("INSERT INTO t (b) VALUES ('acknowledged')")
    with DqliteClient(node.address, database="app") as other:
        assert other.values("SELECT b FROM t") == [("acknowledged",)]
        assert other.values("SELECT * FROM late") == []


def test_transaction_control_without_a_transaction(client: DqliteClient) -> None:
    assert client.failure("COMMIT") == (1, "cannot commit - no transaction is active")
    assert client.failure("ROLLBACK") == (1, "cannot rollback - no transaction is active")
    client.done("BEGIN IMMEDIATE")
    assert client.failure("BEGIN") == (1, "cannot start a transaction within a transaction")
    client.done("ROLLBACK")


def test_a_transaction_sees_its_own_writes_and_rolls_back(node: dqlite_py.Node, client: DqliteClient) -> None:
    client.done("BEGIN")
    client.done("INSERT INTO t (b) VALUES ('x')")
    assert client.values("SELECT count(*) FROM t") == [(1,)]
    client.done("SAVEPOINT s")
    client.done("DELETE FROM t")
    client.done("ROLLBACK TO s")
    assert client.values("SELECT count(*) FROM t") == [(1,)]
    client.done("ROLLBACK")
    assert client.values("SELECT count(*) FROM t") == [(0,)]


def test_what_a_closed_connection_left_open_is_rolled_back(node: dqlite_py.Node) -> None:
    with DqliteClient(node.address, database="left") as one:
        one.done("CREATE TABLE v (w)")
        one.done("BEGIN IMMEDIATE")
        one.done("INSERT INTO v VALUES (1)")
    with DqliteClient(node.address, database="left") as other:
        other.done("BEGIN IMMEDIATE")
        assert other.values("SELECT count(*) FROM v") == [(0,)]
        other.done("COMMIT")


def test_rows_come_in_batches_none_of_them_empty(client: DqliteClient) -> None:
    client.send(RequestType.QUERY_SQL, 0, COUNTING, (typed(5000),))
    batches = []
    while not batches or not batches[-1].is_last:
        batch = client.receive()
        assert isinstance(batch, RowsBatch)
        batches.append(batch)
    assert len(batches) > 2
    assert all(batch.rows and batch.columns == ("x", "'abc' || x") for batch in batches)
    assert [row[0].value for batch in batches for row in batch.rows] == list(range(1, 5001))


def test_names_wider_than_a_batch_end(client: DqliteClient) -> None:
    columns = ", ".join(f"{number} AS {'n' * 200}{number}" for number in range(40))
    found = client.query(f"SELECT {columns} UNION ALL SELECT {columns}")
    assert isinstance(found, RowsBatch)
    assert len(found.rows) == 2


def test_an_interrupt_ends_a_query_promptly_with_one_answer(client: DqliteClient) -> None:
    client.send(RequestType.QUERY_SQL, 0, COUNTING, (typed(10**12),))
    assert isinstance(client.receive(), RowsBatch)
    client.send(RequestType.INTERRUPT, 0)
    while isinstance(answer := client.receive(), RowsBatch):
        assert not answer.is_last
    assert answer == Empty()
    assert client.done("INSERT INTO t (b) VALUES ('on')") == (1, 1)
    assert client.call(RequestType.INTERRUPT, 0) == Empty()  # nothing to end: answered all the same
    assert client.values("SELECT 1") == [(1,)]


def test_an_interrupt_reaches_a_query_that_has_no_row_yet(client: DqliteClient) -> None:
    client.send(
        RequestType.QUERY_SQL, 0, f"SELECT count(*) FROM ({COUNTING.replace('?', '1000000000000')})", ()
    )
    client.send(RequestType.INTERRUPT, 0)
    assert client.receive() == Empty()
    assert client.values("SELECT 1") == [(1,)]


def test_a_failure_amidst_rows_is_a_clean_failure(client: DqliteClient) -> None:
    client.send(
        RequestType.QUERY_SQL,
        0,
        f"SELECT abs(x - 9223372036854775807 - 5001) FROM ({COUNTING})",
        (typed(9000),),
    )
    answer: Any = client.receive()
    while isinstance(answer, RowsBatch) and not answer.is_last:
        answer = client.receive()
    assert answer == Failure(1, "integer overflow")
    assert client.values("SELECT 1") == [(1,)]


def test_pragmas_that_clients_send(client: DqliteClient) -> None:
    client.done("PRAGMA query_only = 1")
    assert client.values("PRAGMA query_only") == [(1,)]
    assert client.failure("DELETE FROM t") == (8, "attempt to write a readonly database")
    client.done("PRAGMA query_only = 0")
    assert client.done("DELETE FROM t") == (0, 0)
    assert [row[1] for row in client.values('PRAGMA main.table_info("t")')] == ["a", "b", "c", "d"]
    assert client.values('PRAGMA temp.table_info("t")') == []
    assert len(client.values('PRAGMA main.table_xinfo("t")')) == 4
    client.done("PRAGMA foreign_keys = ON")
    assert client.values("PRAGMA foreign_keys") == [(1,)]
    assert client.failure("PRAGMA foreign_keys = OFF")[0] == 23
    assert client.values("PRAGMA journal_mode") == [("wal",)]
    for refused in ("journal_mode = DELETE", "synchronous = OFF", "page_size = 512", "wal_checkpoint"):
        assert client.failure(f"PRAGMA {refused}")[0] == 23
    assert client.failure("ATTACH 'x' AS y")[0] == 23
    client.done("PRAGMA busy_timeout = 50")
    assert client.values("PRAGMA busy_timeout") == [(50,)]


def test_a_database_that_is_locked(node: dqlite_py.Node, client: DqliteClient) -> None:
    client.done("BEGIN IMMEDIATE")
    with DqliteClient(node.address, database="app") as other:
        other.done("PRAGMA busy_timeout = 50")
        code, text = other.failure("BEGIN IMMEDIATE")
        assert code == 5
        assert "database is locked" in text
    client.done("ROLLBACK")


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_a_transaction_that_was_idle_for_too_long(tmp_path: Path, end: str) -> None:
    limits = ServerSettings(limits=TransactionLimits(idle_s=0.1, hold_s=60.0))
    with dqlite_py.Node(tmp_path / "node", clients=limits) as node:
        node.wait_ready()
        with (
            DqliteClient(node.address, database="app") as idle,
            DqliteClient(node.address, database="app") as other,
        ):
            idle.done("CREATE TABLE t (a)")
            idle.done("BEGIN")
            idle.done("INSERT INTO t VALUES ('idle')")
            assert other.done("INSERT INTO t VALUES ('other')")[1] == 1  # waits until the first is over
            code, text = idle.failure("INSERT INTO t VALUES ('late')")
            assert code == 516
            assert "idle for 0.1 s" in text
            if end == "COMMIT":
                assert idle.failure("COMMIT")[0] == 516
            else:
                idle.done("ROLLBACK")
            assert idle.values("SELECT a FROM t") == [("other",)]
            assert idle.done("INSERT INTO t VALUES ('again')")[1] == 1


def test_settings_that_cannot_work() -> None:
    for wrong in ({"timeout_s": 0}, {"busy_timeout_s": -1}, {"connections_max": 0}):
        with pytest.raises(dqlite_py.InterfaceError, match=next(iter(wrong))):
            ServerSettings(**wrong)
    with pytest.raises(dqlite_py.InterfaceError, match="limits"):
        ServerSettings(limits=TransactionLimits(0, 1))


def test_long_texts_are_looked_at_aside(client: DqliteClient) -> None:
    rows = ", ".join(f"({number}, 'b{number}')" for number in range(2000))
    assert client.done(f"INSERT INTO t (a, b) VALUES {rows}")[1] == 2000
    assert client.values(f"SELECT count(*) FROM t WHERE a IN ({', '.join(map(str, range(5000)))})") == [
        (2000,)
    ]
    script = "; ".join(f"UPDATE t SET c = ? WHERE a = {number}" for number in range(600))
    assert client.done(script, 1, 2)[1] == 1
    assert client.values("SELECT a, c FROM t WHERE c IS NOT NULL ORDER BY a") == [(0, 1), (1, 2)]
    padding = " " * 20_000
    assert client.failure(f"SELECT {padding} 1") == (1, "rows yielded when none expected for EXEC request")
    assert client.failure(f"INSERT INTO t (a) {padding} VALUES (0)") == (
        1555,
        "UNIQUE constraint failed: t.a",
    )
    assert client.failure(f"COMMIT {padding}") == (1, "cannot commit - no transaction is active")
    assert client.query(f"-- nothing {padding}") == Failure(0, "empty statement")
    assert client.call(RequestType.PREPARE, 0, f"SELECT ? {padding}; SELECT 2") == Failure(
        1, "nonempty statement tail"
    )
    assert client.call(RequestType.PREPARE, 0, f"SELECT ? {padding}") == Statement(0, 0, 1)
