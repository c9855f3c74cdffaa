"""INTERRUPT that comes at the wrong moment: before its query runs, between two of its steps, or twice."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

import dqlite_py
from dqlite_py.wire.dqlite.frames import encode_frame
from dqlite_py.wire.dqlite.requests import Request, RequestType, encode_request
from dqlite_py.wire.dqlite.responses import Empty, Result, Statement
from dqlite_py.wire.dqlite.rows import RowsBatch
from tests.support.dqliteclient import DqliteClient

ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
LONG = f"{ENDLESS} -- {'x' * 100_000}"
ROWS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x, hex(zeroblob(500)) FROM c"
INTERRUPT = (RequestType.INTERRUPT, (0,))


@pytest.fixture
def client(tmp_path: Path) -> Iterator[DqliteClient]:
    """Of a database with a table t."""
    with dqlite_py.Node(tmp_path / "node") as node:
        node.wait_ready()
        with DqliteClient(node.address, database="app") as made:
            made.done("CREATE TABLE t (a INTEGER PRIMARY KEY)")
            yield made


def send_at_once(client: DqliteClient, *requests: tuple[RequestType, tuple[object, ...]]) -> None:
    """In one piece: the server has all of them before it begins the first."""
    frames = [encode_frame(encode_request(Request(kind, fields))) for kind, fields in requests]  # type: ignore[arg-type]
    client.send_bytes(b"".join(frames))


@pytest.mark.parametrize("sql", [ENDLESS, LONG])
@pytest.mark.parametrize(
    "before",
    [[], ["BEGIN"], ["BEGIN", "SELECT"], ["BEGIN IMMEDIATE"], ["BEGIN", "INSERT INTO t VALUES (7)"]],
)
def test_an_interrupt_that_comes_with_its_query_ends_it(
    client: DqliteClient, before: list[str], sql: str
) -> None:
    for statement in before:
        if statement == "SELECT":
            assert client.values("SELECT * FROM t") == []
        else:
            client.done(statement)
    send_at_once(client, (RequestType.QUERY_SQL, (0, sql, ())), INTERRUPT)
    assert client.receive() == Empty()
    # What comes next is not ended by it, and the transaction goes on.
    assert client.values("SELECT count(*) FROM t") == [(int("INSERT" in " ".join(before)),)]
    assert client.done("INSERT INTO t VALUES (8)") == (8, 1)
    if before:
        client.done("COMMIT")
    assert client.values("SELECT a FROM t WHERE a = 8") == [(8,)]


def test_an_interrupt_that_comes_with_the_query_of_a_prepared_statement(client: DqliteClient) -> None:
    assert client.call(RequestType.PREPARE, 0, ENDLESS) == Statement(0, 0, 0)
    send_at_once(client, (RequestType.QUERY, (0, 0, ())), INTERRUPT)
    assert client.receive() == Empty()
    assert client.values("SELECT 1") == [(1,)]


def test_two_interrupts_have_two_answers(client: DqliteClient) -> None:
    send_at_once(client, (RequestType.QUERY_SQL, (0, ROWS, ())), INTERRUPT, INTERRUPT)
    answers = []
    while len(answers) < 2:
        answer = client.receive()
        if isinstance(answer, RowsBatch):
            assert not answers
        else:
            answers.append(answer)
    assert answers == [Empty(), Empty()]
    assert client.execute("INSERT INTO t VALUES (1)") == Result(1, 1)


def test_two_interrupts_amidst_rows_have_two_answers(client: DqliteClient) -> None:
    client.send(RequestType.QUERY_SQL, 0, ROWS, ())
    assert isinstance(client.receive(), RowsBatch)
    send_at_once(client, INTERRUPT, INTERRUPT, (RequestType.EXEC_SQL, (0, "INSERT INTO t VALUES (1)", ())))
    while isinstance(answer := client.receive(), RowsBatch):
        assert not answer.is_last
    assert answer == Empty()
    assert client.receive() == Empty()
    assert client.receive() == Result(1, 1)


def test_who_leaves_in_the_middle_of_a_transaction_leaves_no_error_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with dqlite_py.Node(tmp_path / "node") as node:
        node.wait_ready()
        with DqliteClient(node.address, database="app") as leaving:
            leaving.done("CREATE TABLE t (a)")
            leaving.done("BEGIN IMMEDIATE")
            leaving.done("INSERT INTO t VALUES (1)")
            leaving.send(RequestType.EXEC_SQL, 0, f"INSERT INTO t {ENDLESS}", ())
            with DqliteClient(node.address, database="app") as other:
                other.done("PRAGMA busy_timeout = 0")
                assert other.failure("BEGIN IMMEDIATE")[0] == 5  # the server has had time to begin the query
        with DqliteClient(node.address, database="app") as client:
            client.done("INSERT INTO t VALUES (2)")  # when the transaction is undone
            assert client.values("SELECT a FROM t") == [(2,)]
    gc.collect()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
