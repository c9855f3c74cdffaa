"""The remote client's fallback against real dqlite servers, of Debian's packages."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dqlite_py import aio, dbapi
from dqlite_py.client.stock import AsyncStockGateway, StockGateway
from dqlite_py.errors import (
    DatabaseLocked,
    IntegrityError,
    NoLeader,
    NotSupportedError,
    OperationalError,
    Outcome,
    OutcomeUnknown,
    SnapshotConflict,
    TransactionEnded,
)
from dqlite_py.model import Address
from tests.support import stockdqlite

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("stockdqlite"),
]
_names = (f"db{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    with stockdqlite.stock_cluster(tmp_path_factory.mktemp("stock"), 1) as [node]:
        yield Address(node.address)


@pytest.fixture
def gateway(server: Address) -> Iterator[StockGateway]:
    made = StockGateway([server])
    yield made
    made.close()


@pytest.fixture
def database() -> str:
    return next(_names)


def connect(gateway: StockGateway, database: str, **options: Any) -> Any:
    return dbapi.connect(gateway, database, **{"read_level": "leader", **options})


@pytest.fixture
def connection(gateway: StockGateway, database: str) -> Iterator[Any]:
    made = connect(gateway, database)
    made.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b UNIQUE)")
    yield made
    made.close()


def numbers(count: int) -> str:
    return (
        f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) SELECT i FROM n"
    )


def test_writes_and_reads(connection: Any) -> None:
    cursor = connection.execute("INSERT INTO t (b) VALUES (?), (?)", ("ä", b"\0\1"))
    assert (cursor.rowcount, cursor.lastrowid) == (2, 2)
    connection.commit()
    assert connection.execute("SELECT a, b FROM t ORDER BY a").fetchall() == [(1, "ä"), (2, b"\0\1")]
    cursor = connection.execute("UPDATE t SET b = a")
    assert (cursor.rowcount, cursor.lastrowid) == (2, None)
    connection.rollback()
    assert connection.execute("SELECT b FROM t WHERE a = :a", {"a": 1}).fetchone() == ("ä",)
    assert connection.execute("PRAGMA table_info(t)").fetchone()[1] == "a"


def test_rows_of_a_write(connection: Any) -> None:
    cursor = connection.execute("INSERT INTO t (b) VALUES (1), (2) RETURNING a")
    assert cursor.fetchall() == [(1,), (2,)]
    assert cursor.lastrowid == 2
    connection.commit()
    connection.isolation_level = None
    assert connection.execute("DELETE FROM t WHERE b = 1 RETURNING b").fetchall() == [(1,)]
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (1,)


def test_a_unit_happens_as_a_whole_or_not_at_all(connection: Any) -> None:
    connection.isolation_level = None
    with pytest.raises(IntegrityError) as caught:
        connection.execute_atomic(["INSERT INTO t VALUES (1, 1)", "INSERT INTO t VALUES (1, 2)"])
    assert caught.value.details["statement"] == 1
    assert caught.value.outcome is Outcome.NOT_APPLIED
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)
    connection.executemany("INSERT INTO t VALUES (?, ?)", [(1, 1), (2, 2)])
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (2,)


def test_values_by_declared_type(connection: Any) -> None:
    connection.execute("CREATE TABLE d (t DATETIME, b BOOLEAN)")
    connection.execute("INSERT INTO d VALUES ('2026-11-28 08:00:00', 7), (1700000000, 1), (NULL, 0)")
    connection.commit()
    cursor = connection.execute("SELECT * FROM d ORDER BY rowid")
    assert [column[1] for column in cursor.description] == ["DATETIME", "BOOLEAN"]
    assert cursor.fetchall() == [("2026-11-28 08:00:00", 7), (1700000000, 1), (None, 0)]


def test_a_result_comes_in_pieces_and_may_be_left(connection: Any) -> None:
    assert sum(row[0] for row in connection.execute(numbers(20_000))) == 20_000 * 20_001 // 2
    cursor = connection.execute(numbers(200_000))
    assert cursor.fetchone() == (1,)
    cursor.close()
    assert connection.execute("SELECT 1").fetchone() == (1,)


def test_an_interrupted_statement(connection: Any) -> None:
    cursor = connection.execute(
        numbers(10**9)
    )  # dqlite cannot be stopped between two rows, but between frames
    timer = threading.Timer(0.1, connection.interrupt)
    timer.start()
    with pytest.raises(OperationalError, match="interrupted") as caught:
        cursor.fetchall()
    timer.join()
    assert caught.value.code == 9
    assert connection.execute("SELECT 1").fetchone() == (1,)


def test_two_writers_wait_for_each_other(gateway: StockGateway, database: str, connection: Any) -> None:
    other = connect(gateway, database, busy_timeout=0)
    connection.execute("INSERT INTO t VALUES (1, 1)")
    with pytest.raises(DatabaseLocked) as caught:
        other.execute("BEGIN IMMEDIATE")
    assert caught.value.code == 5
    with pytest.raises(DatabaseLocked):
        other.execute("INSERT INTO t VALUES (2, 2)")
    third = threading.Thread(target=write_three, args=(gateway, database))
    third.start()
    connection.commit()
    third.join()
    assert connection.execute("SELECT a FROM t ORDER BY a").fetchall() == [(1,), (3,)]
    other.close()


def write_three(gateway: StockGateway, database: str) -> None:
    with connect(gateway, database, busy_timeout=30) as third:
        third.execute("INSERT INTO t VALUES (3, 3)")
    third.close()


def test_a_transaction_writes_on_the_state_it_has_read(
    gateway: StockGateway, database: str, connection: Any
) -> None:
    connection.execute("BEGIN")
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)
    connection.execute("INSERT INTO t VALUES (1, 1)")
    connection.commit()
    other = connect(gateway, database, isolation_level=None)
    connection.execute("BEGIN")
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (1,)
    other.execute("INSERT INTO t VALUES (2, 2)")
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (1,)
    with pytest.raises(SnapshotConflict) as caught:
        connection.execute("INSERT INTO t VALUES (3, 3)")
    assert caught.value.code == 517
    connection.rollback()
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (2,)
    other.close()


def test_a_result_is_read_on_while_its_transaction_writes(connection: Any) -> None:
    connection.execute("BEGIN")
    rows = connection.execute(numbers(3000))
    assert rows.fetchone() == (1,)
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)
    connection.execute("INSERT INTO t VALUES (1, 1)")
    assert len(rows.fetchall()) == 2999
    connection.commit()


def test_savepoints_and_failed_statements(connection: Any) -> None:
    connection.execute("INSERT INTO t VALUES (1, 1)")
    connection.execute("SAVEPOINT s")
    connection.execute("INSERT INTO t VALUES (2, 2)")
    connection.execute("ROLLBACK TO s")
    with pytest.raises(IntegrityError):
        connection.execute("INSERT INTO t VALUES (1, 3)")
    assert connection.in_transaction
    with pytest.raises(IntegrityError):
        connection.execute("INSERT OR ROLLBACK INTO t VALUES (1, 3)")
    assert not connection.in_transaction
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)


def test_deferred_foreign_keys_can_be_put_right(connection: Any) -> None:
    connection.execute("CREATE TABLE c (a REFERENCES t (a) DEFERRABLE INITIALLY DEFERRED)")
    connection.execute("INSERT INTO c VALUES (1)")
    with pytest.raises(IntegrityError):
        connection.commit()
    connection.execute("INSERT INTO t VALUES (1, 1)")
    connection.commit()
    assert connection.execute("SELECT count(*) FROM c").fetchone() == (1,)


def test_a_transaction_that_nobody_goes_on_with_lets_the_database_go(
    gateway: StockGateway, database: str, connection: Any
) -> None:
    idle = connect(gateway, database, idle_limit=0.2)
    idle.execute("INSERT INTO t VALUES (1, 1)")
    connection.execute("INSERT INTO t VALUES (2, 2)")  # waits for it
    connection.commit()
    with pytest.raises(TransactionEnded, match="idle_limit"):
        idle.execute("INSERT INTO t VALUES (3, 3)")
    idle.rollback()
    assert idle.execute("SELECT a FROM t").fetchall() == [(2,)]
    idle.close()


def test_what_the_servers_cannot_do_is_said(gateway: StockGateway, database: str, connection: Any) -> None:
    assert not gateway.server.exactly_once
    with pytest.raises(NotSupportedError, match="read_level='leader'"):
        connect(gateway, database, read_level="linearizable").execute("SELECT 1")
    with pytest.raises(NotSupportedError, match="keys"):
        connection.new_key()
    with pytest.raises(NotSupportedError, match="max_staleness"):
        connect(gateway, database, read_level="stale", max_staleness=1).execute("SELECT 1")
    for sql in ("PRAGMA foreign_keys = OFF", "ATTACH 'x' AS y", "CREATE TEMP TABLE x (a)"):
        with pytest.raises(NotSupportedError):
            connection.execute(sql)
    degrading = StockGateway(list(gateway.addresses), degrades=True)
    assert connect(degrading, database, read_level="linearizable").execute("SELECT 1").fetchone() == (1,)


def test_errors_are_those_of_sqlite(connection: Any) -> None:
    with pytest.raises(OperationalError, match="no such table: nowhere"):
        connection.execute("SELECT * FROM nowhere")
    with pytest.raises(OperationalError, match="syntax error"):
        connection.execute("SELEKT 1")
    assert connection.execute("SELECT 1").fetchone() == (1,)


def test_no_server_answers() -> None:
    [port] = stockdqlite.free_ports(1)
    with pytest.raises(NoLeader, match="no leader was found in time"):
        connect(StockGateway([Address(f"127.0.0.1:{port}")]), "app", timeout=0.3)


async def test_coroutines(server: Address, database: str) -> None:
    gateway = AsyncStockGateway([server])
    async with aio.connect(gateway, database, read_level="leader") as connection:
        await connection.execute("CREATE TABLE t (a INTEGER PRIMARY KEY)")
        await connection.executemany("INSERT INTO t VALUES (?)", [(number,) for number in range(2000)])
        await connection.commit()
        cursor = await connection.execute("SELECT a FROM t ORDER BY a")
        assert [row[0] async for row in cursor] == list(range(2000))
        running = asyncio.create_task((await connection.execute(numbers(10**9))).fetchall())
        await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert await (await connection.execute("SELECT count(*) FROM t")).fetchone() == (2000,)
    gateway.close()


def test_no_acknowledged_write_is_lost_when_the_leader_dies(tmp_path: Path) -> None:
    with stockdqlite.stock_cluster(tmp_path, 3) as nodes:
        gateway = StockGateway([Address(nodes[0].address)])
        connection = connect(gateway, "app", isolation_level=None, timeout=30)
        connection.execute("CREATE TABLE t (a INTEGER PRIMARY KEY)")
        acknowledged, unknown = [], []
        for number in range(300):
            if number == 100:
                nodes[0].kill()  # it was the first, and leads
            try:
                connection.execute("INSERT INTO t VALUES (?)", (number,))
                acknowledged.append(number)
            except OutcomeUnknown:
                unknown.append(number)
        present = {row[0] for row in connection.execute("SELECT a FROM t")}
        assert set(acknowledged) <= present <= {*acknowledged, *unknown}
        assert len(unknown) <= 1
        connection.close()
