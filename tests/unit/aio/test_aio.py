"""dqlite_py.aio: what only asyncio has. That it behaves as dbapi does, the tests of tests/unit/dbapi hold."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from dqlite_py import aio
from dqlite_py.errors import (
    DatabaseLocked,
    OperationalError,
    OutcomeUnknown,
    ProgrammingError,
    TransactionEnded,
)
from tests.support.fakegateway import AsyncFakeGateway, FakeGateway, RecordingGateway

ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n"
MANY = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 450) SELECT x FROM n"


@pytest.fixture
async def fake() -> AsyncIterator[FakeGateway]:
    with FakeGateway() as gateway:
        yield gateway
        assert (gateway.open_transactions, gateway.open_streams) == (0, 0)


@pytest.fixture
async def conn(fake: FakeGateway) -> AsyncIterator[Any]:
    connection = await aio.connect(AsyncFakeGateway(fake), "main", busy_timeout=0)
    await connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
    yield connection
    await connection.close()


async def _until(is_so: Callable[[], bool]) -> None:
    while not is_so():  # noqa: ASYNC110  # of a thread's or the loop's next steps
        await asyncio.sleep(0)


async def _failing_block(gateway: AsyncFakeGateway) -> None:
    async with aio.connect(gateway, "main") as connection:
        await connection.execute("INSERT INTO t VALUES (2)")
        raise ZeroDivisionError


async def test_a_block_commits_and_closes(fake: FakeGateway) -> None:
    async with aio.connect(AsyncFakeGateway(fake), "main") as connection:
        await connection.execute("CREATE TABLE t (id)")
        await connection.execute("INSERT INTO t VALUES (1)")
    assert connection.is_closed
    with pytest.raises(ProgrammingError, match="closed database"):
        await connection.execute("SELECT 1")
    with pytest.raises(ZeroDivisionError):
        await _failing_block(AsyncFakeGateway(fake))
    async with aio.connect(AsyncFakeGateway(fake), "main") as connection:
        assert [row async for row in await connection.execute("SELECT * FROM t")] == [(1,)]


async def test_the_target_may_be_a_node(fake: FakeGateway) -> None:
    class Node:
        async_gateway = AsyncFakeGateway(fake)

    async with aio.connect(Node(), "main") as connection:
        assert await (await connection.execute("SELECT 1")).fetchone() == (1,)


async def test_rows_stream(fake: FakeGateway, conn: Any) -> None:
    cursor = await conn.execute(MANY)
    assert fake.open_streams == 1
    assert [row[0] async for row in cursor] == list(range(1, 451))
    assert fake.open_streams == 0
    async with await conn.execute(MANY) as cursor:
        await cursor.fetchmany(150)
        assert cursor.rownumber == 150
    assert fake.open_streams == 0


async def test_a_forgotten_cursor_lets_go(fake: FakeGateway, conn: Any) -> None:
    await conn.execute(MANY)
    gc.collect()
    await _until(lambda: fake.open_streams == 0)


async def test_a_forgotten_connection_rolls_back(fake: FakeGateway, conn: Any) -> None:
    forgotten = await aio.connect(AsyncFakeGateway(fake), "main")
    await forgotten.execute("INSERT INTO t VALUES (1)")
    del forgotten
    gc.collect()
    await _until(lambda: fake.open_transactions == 0)


async def test_tasks_take_turns_on_a_connection(fake: FakeGateway) -> None:
    recorder = RecordingGateway(fake)
    running: list[int] = []

    def before_write() -> None:
        running.append(1)
        assert len(running) == 1
        running.pop()

    recorder.before_write = before_write
    connection = await aio.connect(AsyncFakeGateway(recorder), "main", isolation_level=None)
    await connection.execute("CREATE TABLE t (id)")
    await asyncio.gather(*(connection.execute("INSERT INTO t VALUES (?)", (n,)) for n in range(50)))
    assert await (await connection.execute("SELECT count(*) FROM t")).fetchone() == (50,)
    await connection.close()


async def _cancelled_while_running(fake: FakeGateway, task: asyncio.Task[Any]) -> None:
    await _until(lambda: fake.running > 0 or task.done())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancelled_read_is_interrupted(fake: FakeGateway, conn: Any) -> None:
    await _cancelled_while_running(fake, asyncio.create_task(conn.execute(ENDLESS)))
    assert await (await conn.execute("SELECT 1")).fetchone() == (1,)


async def test_a_cancelled_read_leaves_the_transaction(fake: FakeGateway, conn: Any) -> None:
    await conn.execute("INSERT INTO t VALUES (1)")
    await _cancelled_while_running(fake, asyncio.create_task(conn.execute(ENDLESS)))
    assert conn.in_transaction
    await conn.execute("INSERT INTO t VALUES (2)")
    await conn.commit()
    assert await (await conn.execute("SELECT count(*) FROM t")).fetchone() == (2,)


async def test_a_cancelled_write_ends_the_transaction_and_says_so(fake: FakeGateway, conn: Any) -> None:
    await conn.execute("INSERT INTO t VALUES (1)")
    write = conn.execute(f"INSERT INTO t {ENDLESS}")
    await _cancelled_while_running(fake, asyncio.create_task(write))
    assert conn.in_transaction
    with pytest.raises(TransactionEnded, match=r"call rollback\(\)"):
        await conn.execute("INSERT INTO t VALUES (2)")
    await conn.rollback()
    assert await (await conn.execute("SELECT count(*) FROM t")).fetchone() == (0,)


async def test_interrupt_from_a_thread(fake: FakeGateway, conn: Any) -> None:
    task = asyncio.create_task(conn.execute(ENDLESS))
    await _until(lambda: fake.running > 0)
    thread = threading.Thread(target=conn.interrupt)
    thread.start()
    with pytest.raises(OperationalError, match="interrupted") as raised:
        await task
    assert raised.value.sqlite_errorname == "SQLITE_INTERRUPT"
    thread.join()


async def test_writers_of_two_connections(fake: FakeGateway, conn: Any) -> None:
    other = await aio.connect(AsyncFakeGateway(fake), "main", busy_timeout=10)
    await conn.execute("INSERT INTO t VALUES (1)")
    waiting = asyncio.create_task(other.execute("INSERT INTO t VALUES (2)"))
    await conn.execute("INSERT INTO t VALUES (3)")
    await conn.commit()
    await waiting
    with pytest.raises(DatabaseLocked):
        await conn.execute("INSERT INTO t VALUES (4)")
    await other.close()


async def test_resolve(fake: FakeGateway, conn: Any) -> None:
    await conn.set_isolation_level(None)
    fake.next_write = "lost"
    with pytest.raises(OutcomeUnknown) as raised:
        await conn.execute("INSERT INTO t VALUES (7)")
    assert (await conn.resolve(raised.value)).lastrowid == 7


async def test_of_another_thread(conn: Any) -> None:
    def use() -> None:
        with pytest.raises(ProgrammingError, match="created in a thread"):
            conn.cursor()

    await asyncio.to_thread(use)
