"""Cancelled tasks and interrupted threads on three real nodes: the statement ends where it runs, nothing stays held."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import dqlite_py
from dqlite_py import aio
from dqlite_py.command import encode_statements
from dqlite_py.errors import DatabaseLocked, OperationalError, TransactionEnded
from dqlite_py.gateway import Interrupt, TransactionLimits
from tests.integration.cluster import wait_until
from tests.integration.embedded import check_same_state, embedded_cluster, leader_of
from tests.integration.test_transactions import start_threads

LONG_S = 300.0  # of statements and limits that would otherwise end things by themselves
NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
ENDLESS = f"{NUMBERS}SELECT count(*) FROM n"
STREAM = f"{NUMBERS}SELECT i FROM n"
STUCK_STREAM = f"{NUMBERS}SELECT i FROM n WHERE i <= 2000 OR i < 0"
LIMITS = TransactionLimits(LONG_S, LONG_S)
OPTIONS = {"timeout": LONG_S, "busy_timeout": LONG_S, "idle_limit": LONG_S, "hold_limit": LONG_S}


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[dqlite_py.Node]]:
    folder: Path = tmp_path_factory.mktemp("cancellation")
    with embedded_cluster(folder) as running:
        for node in running:
            node.gateway.open_database("app", 30.0)
        schema = ["CREATE TABLE t(v)", "CREATE TABLE p(id INTEGER PRIMARY KEY)"]
        schema.append("CREATE TABLE c(p REFERENCES p(id) DEFERRABLE INITIALLY DEFERRED)")
        running[0].gateway.execute_unit("app", encode_statements([(sql, ()) for sql in schema]), 30.0)
        for node in running:
            start_threads(node)
        yield running


@pytest.fixture(params=["leader", "follower"])
def node(request: pytest.FixtureRequest, nodes: list[dqlite_py.Node]) -> dqlite_py.Node:
    leads = leader_of(nodes)
    return leads if request.param == "leader" else next(one for one in nodes if one is not leads)


@pytest.fixture(autouse=True)
def nothing_held(nodes: list[dqlite_py.Node]) -> Iterator[None]:
    """What a test leaves behind is seen here: reads under way, held readers, the database's lock."""
    nodes[0].gateway.execute_unit("app", encode_statements([("DELETE FROM t", ())]), 30.0)
    yield
    for node in nodes:
        found = pool(node)
        wait_until(lambda pool=found: pool._pending == 0 and not pool.has_held, "readers are free")  # type: ignore[misc]
        node.gateway.begin("app", 10.0, TransactionLimits(30.0, 30.0)).rollback()
    check_same_state(nodes)


@pytest.fixture
async def conn(node: dqlite_py.Node) -> AsyncIterator[Any]:
    connection = await aio.connect(node, "app", **OPTIONS)
    yield connection
    await connection.close()


def pool(node: dqlite_py.Node) -> Any:
    return node._running().applier().readers["app"]


async def until(is_so: Callable[[], Any]) -> None:
    async with asyncio.timeout(30.0):
        while not is_so():  # noqa: ASYNC110 - seen from outside
            await asyncio.sleep(0.001)


async def cancel(task: asyncio.Task[Any]) -> None:
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@contextmanager
def occupied(threads: Any) -> Iterator[None]:
    """All of them, until the end of the block."""
    gate = threading.Event()
    busy = [threads.submit(gate.wait, 60.0) for _ in range(threads._max_workers)]
    try:
        yield
    finally:
        gate.set()
    assert all(future.result() for future in busy)


def asked(node: dqlite_py.Node) -> bool:
    return any(one._asked for one in node._running().transactions._open)


def is_in_engine(transaction: Any) -> bool:
    """Of a run: no apply and no thread is waited for any more."""
    return transaction.is_running and transaction._live is not None and transaction._live._lock.locked()


def body(sql: str) -> bytes:
    return encode_statements([(sql, ())])


async def rows(connection: Any, sql: str = "SELECT v FROM t") -> Any:
    return await (await connection.execute(sql)).fetchall()


async def is_usable(connection: Any) -> None:
    """In time that no endless statement before it leaves."""
    async with asyncio.timeout(30.0):
        assert await rows(connection, "SELECT 1") == [(1,)]


# -- reads of tasks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["linearizable", "leader", "session", "stale"])
async def test_a_cancelled_read_gives_its_reader_back(node: dqlite_py.Node, conn: Any, level: str) -> None:
    task = asyncio.create_task(conn.execute(ENDLESS, read_level=level))
    await until(lambda: pool(node)._pending)
    await cancel(task)
    await is_usable(conn)
    await until(lambda: pool(node)._pending == 0)


async def test_a_read_that_follows_at_once_does_not_revive_the_cancelled_one(
    node: dqlite_py.Node, conn: Any
) -> None:
    """Both are of one connection, whose interrupt is for the statement that runs."""
    for _ in range(20):
        task = asyncio.create_task(conn.execute(ENDLESS, read_level="stale"))
        await until(lambda: pool(node)._pending)
        await cancel(task)
        await conn.execute("SELECT 2", read_level="stale")
    await until(lambda: pool(node)._pending == 0)


async def test_a_read_that_is_cancelled_before_a_thread_took_it_does_not_run(
    node: dqlite_py.Node, conn: Any
) -> None:
    threads, gate = pool(node)._threads, threading.Event()
    busy = [threads.submit(gate.wait, 60.0) for _ in range(threads._max_workers)]
    try:
        task = asyncio.create_task(conn.execute(ENDLESS, read_level="stale"))
        await until(lambda: pool(node)._pending)
        await cancel(task)
    finally:
        gate.set()
    assert all(future.result() for future in busy)
    await until(lambda: pool(node)._pending == 0)
    await is_usable(conn)


async def test_a_time_limit_of_a_block_ends_the_read(node: dqlite_py.Node, conn: Any) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await conn.execute(ENDLESS)
    await is_usable(conn)
    await until(lambda: pool(node)._pending == 0)


@pytest.mark.parametrize("in_transaction", [False, True])
async def test_a_cancelled_iteration_lets_go_of_its_stream(
    node: dqlite_py.Node, conn: Any, in_transaction: bool
) -> None:
    if in_transaction:
        await conn.execute("BEGIN")
    seen: list[int] = []

    async def iterate() -> None:
        async for (number,) in await conn.execute(STREAM):
            seen.append(number)
            await asyncio.sleep(0)

    task = asyncio.create_task(iterate())
    await until(lambda: len(seen) > 5_000)
    await cancel(task)
    await is_usable(conn)
    await conn.rollback()
    assert seen == list(range(1, len(seen) + 1))
    await until(lambda: not pool(node).has_held)


@pytest.mark.parametrize("in_transaction", [False, True])
async def test_a_cancelled_fetch_is_interrupted(
    node: dqlite_py.Node, conn: Any, in_transaction: bool
) -> None:
    """Its next piece would never come."""
    if in_transaction:
        await conn.execute("BEGIN")
    cursor = await conn.execute(STUCK_STREAM)
    assert await cursor.fetchone() == (1,)
    task = asyncio.create_task(cursor.fetchall())
    await until(lambda: pool(node)._pending)
    await cancel(task)
    await until(lambda: pool(node)._pending == 0)
    await is_usable(conn)
    assert conn.in_transaction is in_transaction
    await conn.rollback()


async def test_interrupt_ends_a_fetch(node: dqlite_py.Node, conn: Any) -> None:
    cursor = await conn.execute(STUCK_STREAM)
    task = asyncio.create_task(cursor.fetchall())
    await until(lambda: pool(node)._pending)
    conn.interrupt()
    with pytest.raises(dqlite_py.errors.OperationalError, match="interrupted"):
        await task
    await is_usable(conn)


# -- writes of tasks ------------------------------------------------------------------------------------------------


async def test_a_cancelled_write_happens_once_or_not_at_all(conn: Any) -> None:
    await conn.set_isolation_level(None)
    for number in range(30):
        task = asyncio.create_task(conn.execute("INSERT INTO t VALUES (?)", (number,)))
        for _ in range(number % 5):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    await conn.execute("INSERT INTO t VALUES ('last')")
    found = await rows(conn)
    assert found.count(("last",)) == 1
    assert len(found) == len(set(found))


async def test_a_cancelled_write_that_waits_for_the_lock_does_not_happen(
    nodes: list[dqlite_py.Node], conn: Any
) -> None:
    holder = leader_of(nodes).connect("app", **OPTIONS)
    holder.execute("BEGIN IMMEDIATE")
    await conn.set_isolation_level(None)
    task = asyncio.create_task(conn.execute("INSERT INTO t VALUES ('withdrawn')"))
    await asyncio.sleep(0.05)
    await cancel(task)
    holder.close()
    await is_usable(conn)
    if conn._core.gateway is leader_of(nodes).async_gateway:  # elsewhere it may have been sent
        assert await rows(conn) == []


@pytest.mark.parametrize("sql", [ENDLESS, "INSERT INTO t VALUES ('withdrawn')"], ids=["read", "write"])
async def test_a_cancelled_statement_that_waits_for_a_thread_does_not_run(
    nodes: list[dqlite_py.Node], sql: str
) -> None:
    leads = leader_of(nodes)
    threads = leads._running().transactions.executor
    transaction = await leads.async_gateway.begin("app", 30.0, LIMITS)
    with occupied(threads):
        running = asyncio.create_task(transaction.run(body(sql), LONG_S))
        await until(lambda: asked(leads))
        await cancel(running)
        await until(lambda: any(one._given_up for one in leads._running().transactions._open))
    async with asyncio.timeout(60.0):
        (found,) = await transaction.run(body("SELECT count(*) FROM t"), 30.0)
    assert found.rows == ((0,),)
    await transaction.rollback()


@pytest.mark.parametrize("sql", [ENDLESS, "INSERT INTO t VALUES ('withdrawn')"], ids=["read", "write"])
async def test_a_statement_that_is_cancelled_before_the_node_began_with_it_does_not_run(
    node: dqlite_py.Node, sql: str
) -> None:
    transaction = await node.async_gateway.begin("app", 30.0, LIMITS)
    stands, goes_on = threading.Event(), threading.Event()

    def stand() -> None:
        stands.set()
        goes_on.wait(60.0)

    try:
        node._running().loop.call_soon_threadsafe(stand)
        assert await asyncio.to_thread(stands.wait, 60.0)
        running = asyncio.create_task(transaction.run(body(sql), LONG_S))
        await asyncio.sleep(0)
        await cancel(running)
    finally:
        goes_on.set()
    async with asyncio.timeout(60.0):
        (found,) = await transaction.run(body("SELECT count(*) FROM t"), 30.0)
    assert found.rows == ((0,),)
    await transaction.rollback()


async def test_a_statement_of_another_node_that_waits_for_a_thread_is_interrupted(
    nodes: list[dqlite_py.Node],
) -> None:
    leads = leader_of(nodes)
    threads = leads._running().transactions.executor
    other = next(one for one in nodes if one is not leads).async_gateway
    transaction, interrupt = await other.begin("app", 30.0, LIMITS), Interrupt()
    with occupied(threads):
        running = asyncio.create_task(transaction.run(body(ENDLESS), LONG_S, interrupt))
        await until(lambda: asked(leads))
        interrupt.request()
        await until(lambda: any(one._given_up for one in leads._running().transactions._open))
    async with asyncio.timeout(60.0):
        with pytest.raises(OperationalError, match="interrupted"):
            await running
        (found,) = await transaction.run(body("SELECT 1"), 30.0)
    assert found.rows == ((1,),)
    await transaction.rollback()


async def test_a_cancelled_write_of_a_transaction_ends_it(nodes: list[dqlite_py.Node], conn: Any) -> None:
    await conn.execute("INSERT INTO t VALUES (1)")
    task = asyncio.create_task(conn.execute(f"INSERT INTO t {ENDLESS}"))
    await until(lambda: any(is_in_engine(one) for one in leader_of(nodes)._running().transactions._open))
    await asyncio.sleep(0.1)  # a moment after the call is there, its statement begins
    await cancel(task)
    assert conn.in_transaction
    async with asyncio.timeout(30.0):
        for why in ("was rolled back", r"call rollback\(\)"):
            with pytest.raises(TransactionEnded, match=why):
                await conn.execute("INSERT INTO t VALUES (2)")
        await conn.rollback()
    assert await rows(conn) == []


async def test_a_cancelled_begin_gives_up_its_place(nodes: list[dqlite_py.Node], conn: Any) -> None:
    async with aio.connect(leader_of(nodes), "app", **OPTIONS) as holder:
        await holder.execute("BEGIN IMMEDIATE")
        task = asyncio.create_task(conn.execute("BEGIN IMMEDIATE"))
        await until(lambda: waiting(nodes) == 1)
        async with aio.connect(leader_of(nodes), "app", **OPTIONS) as other:
            following = asyncio.create_task(other.execute("BEGIN IMMEDIATE"))
            await until(lambda: waiting(nodes) == 2)
            await cancel(task)
            assert not conn.in_transaction
            await until(lambda: waiting(nodes) == 1)
            await holder.rollback()
            async with asyncio.timeout(30.0):
                await following
            await other.execute("INSERT INTO t VALUES ('next')")
    assert await rows(conn) == [("next",)]


def waiting(nodes: list[dqlite_py.Node]) -> int:
    return len(leader_of(nodes)._running().transactions._beginning)


async def test_a_begin_that_is_cancelled_at_any_time_holds_nothing(
    node: dqlite_py.Node, nodes: list[dqlite_py.Node], conn: Any
) -> None:
    for number in range(60):
        task = asyncio.create_task(conn.execute("BEGIN IMMEDIATE"))
        for _ in range(number % 12):
            await asyncio.sleep(0.0002)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            await conn.rollback()
        assert not conn.in_transaction
    await until(lambda: not leader_of(nodes)._running().transactions._open)


async def test_a_time_limit_of_a_block_ends_the_wait_for_the_lock(
    nodes: list[dqlite_py.Node], conn: Any
) -> None:
    with leader_of(nodes).connect("app", **OPTIONS) as holder:
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await conn.execute("INSERT INTO t VALUES (1)")
        await conn.rollback()
        await until(lambda: waiting(nodes) == 0)
    holder.close()
    await conn.execute("INSERT INTO t VALUES (2)")
    await conn.commit()
    assert await rows(conn) == [(2,)]


async def test_a_cancelled_commit_is_over_and_leaves_no_lock(nodes: list[dqlite_py.Node], conn: Any) -> None:
    """Whether it happened, the next read tells; nothing calls it rolled back."""
    kept = 0
    for number in range(40):
        await conn.execute("INSERT INTO t VALUES (?)", (number,))
        await conn.execute("INSERT INTO t VALUES (?)", (number,))
        task = asyncio.create_task(conn.commit())
        await asyncio.sleep(0)
        for _ in range(number % 8):
            await asyncio.sleep(0.0003)
        task.cancel()
        await asyncio.wait([task])
        assert not conn.in_transaction
        async with asyncio.timeout(30.0):
            await conn.execute("BEGIN IMMEDIATE")
            found = await rows(conn, f"SELECT v FROM t WHERE v = {number}")
            await conn.rollback()
        assert len(found) in (0, 2)
        if not task.cancelled():
            assert task.exception() is None
            assert found
        kept += bool(found)
    assert len(await rows(conn)) == 2 * kept
    assert not leader_of(nodes)._running().transactions._open


async def test_a_cancelled_commit_that_would_fail_leaves_no_lock(
    nodes: list[dqlite_py.Node], conn: Any
) -> None:
    """Violated foreign keys would leave it open, with nobody to mend them."""
    await conn.execute("INSERT INTO c VALUES (17)")
    task = asyncio.create_task(conn.commit())
    await asyncio.sleep(0)
    await cancel(task)
    assert not conn.in_transaction
    await until(lambda: not leader_of(nodes)._running().transactions._open)


# -- threads --------------------------------------------------------------------------------------------------------


@contextmanager
def interrupts(when: Callable[[], Any]) -> Iterator[None]:
    """The main thread gets one SIGINT, as soon as `when()` is true."""
    main = threading.main_thread().ident
    assert main is not None
    stopping = threading.Event()

    def send() -> None:
        while not stopping.wait(0.005):
            if when():
                signal.pthread_kill(main, signal.SIGINT)
                return

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()
        signal.signal(signal.SIGINT, before)


@pytest.fixture
def sync(node: dqlite_py.Node) -> Iterator[Any]:
    connection = node.connect("app", **OPTIONS)
    yield connection
    connection.close()


def after(calls: int) -> Callable[[], bool]:
    left = iter(range(calls))
    return lambda: next(left, None) is None


def test_a_keyboard_interrupt_ends_a_read(node: dqlite_py.Node, sync: Any) -> None:
    with pytest.raises(KeyboardInterrupt), interrupts(after(20)):
        sync.execute(ENDLESS)
    assert sync.execute("SELECT 1").fetchone() == (1,)
    assert not pool(node).has_held


def test_a_keyboard_interrupt_ends_a_fetch(node: dqlite_py.Node, sync: Any) -> None:
    cursor = sync.execute(STUCK_STREAM)
    with pytest.raises(KeyboardInterrupt), interrupts(after(20)):
        cursor.fetchall()
    assert not pool(node).has_held
    assert sync.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("statement", ["BEGIN IMMEDIATE", "INSERT INTO t VALUES (1)"])
def test_a_keyboard_interrupt_gives_up_the_place(
    nodes: list[dqlite_py.Node], sync: Any, statement: str
) -> None:
    holder = leader_of(nodes).connect("app", **OPTIONS)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(KeyboardInterrupt), interrupts(lambda: waiting(nodes) == 1):
        sync.execute(statement)
    sync.rollback()
    wait_until(lambda: waiting(nodes) == 0, "the place is given up")
    holder.execute("INSERT INTO t VALUES ('held')")
    holder.commit()
    holder.close()
    sync.execute("INSERT INTO t VALUES ('next')")
    sync.commit()
    assert sync.execute("SELECT v FROM t").fetchall() == [("held",), ("next",)]


def test_a_keyboard_interrupt_withdraws_a_write_that_waits(nodes: list[dqlite_py.Node]) -> None:
    leader = leader_of(nodes)
    holder, sync = (leader.connect("app", isolation_level=None, **OPTIONS) for _ in range(2))
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(KeyboardInterrupt), interrupts(after(20)):
        sync.execute("INSERT INTO t VALUES ('withdrawn')")
    holder.execute("ROLLBACK")
    sync.execute("INSERT INTO t VALUES ('next')")
    assert sync.execute("SELECT v FROM t").fetchall() == [("next",)]
    holder.close()
    sync.close()


def test_a_keyboard_interrupt_in_a_write_ends_its_transaction(sync: Any) -> None:
    sync.execute("INSERT INTO t VALUES (1)")
    with pytest.raises(KeyboardInterrupt), interrupts(after(20)):
        sync.execute(f"INSERT INTO t {ENDLESS}")
    assert sync.in_transaction
    for why in (None, r"call rollback\(\)"):
        with pytest.raises(TransactionEnded, match=why):
            sync.execute("INSERT INTO t VALUES (2)")
    sync.rollback()
    assert sync.execute("SELECT v FROM t").fetchall() == []


def test_a_keyboard_interrupt_in_a_commit_leaves_no_lock(
    nodes: list[dqlite_py.Node], sync: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The followers do not answer: it waits for certain. What became of it is the log's to say."""
    sync.execute("INSERT INTO t VALUES ('once')")
    writes = leader_of(nodes)._running().writes
    held: list[tuple[Any, ...]] = []
    proposals = writes._queues["app"]
    real = type(proposals).propose_as_holder
    monkeypatch.setattr(type(proposals), "propose_as_holder", lambda *args: held.append(args))
    with pytest.raises(KeyboardInterrupt), interrupts(lambda: held):
        sync.commit()
    assert not sync.in_transaction
    sync.rollback()  # nothing to do: it is not undone any more
    monkeypatch.undo()
    loop = leader_of(nodes)._running().transactions.loop
    loop.call_soon_threadsafe(real, *held[0])
    wait_until(lambda: sync.execute("SELECT v FROM t").fetchall() == [("once",)], "the commit")


def test_who_waited_in_vain_holds_nothing(nodes: list[dqlite_py.Node], sync: Any) -> None:
    holder = leader_of(nodes).connect("app", **OPTIONS)
    holder.execute("BEGIN IMMEDIATE")
    sync.busy_timeout = 0.05
    with pytest.raises(DatabaseLocked):
        sync.execute("BEGIN IMMEDIATE")
    assert not sync.in_transaction
    assert waiting(nodes) == 0
    holder.close()
