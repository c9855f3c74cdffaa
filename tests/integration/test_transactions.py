"""Interactive transactions on three embedded nodes: on the leader, elsewhere, from tasks, and when callers vanish."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import dqlite_py
from dqlite_py.command import encode_statements
from dqlite_py.errors import (
    DatabaseLocked,
    Error,
    IntegrityError,
    NoLeader,
    OperationalError,
    Outcome,
    SnapshotConflict,
    TransactionEnded,
)
from dqlite_py.gateway import LINEARIZABLE, Interrupt, TransactionLimits
from dqlite_py.node.local_transactions import BlockingTransaction, LocalTransaction
from tests.integration.cluster import wait_until
from tests.integration.embedded import check_same_state, embedded_cluster, leader_of

LIMITS = TransactionLimits(30.0, 60.0)
SCHEMA = (
    "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT UNIQUE)",
    "CREATE TABLE counter(n INTEGER)",
    "INSERT INTO counter VALUES (0)",
    "CREATE TABLE parent(id INTEGER PRIMARY KEY)",
    "CREATE TABLE child(p REFERENCES parent(id) DEFERRABLE INITIALLY DEFERRED)",
)
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


def body(sql: str, *params: Any) -> bytes:
    return encode_statements([(sql, params)])


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[dqlite_py.Node]]:
    folder: Path = tmp_path_factory.mktemp("transactions")
    with embedded_cluster(folder) as running:
        for node in running:
            node.gateway.open_database("app", 30.0)
        running[0].gateway.execute_unit("app", encode_statements([(sql, ()) for sql in SCHEMA]), 30.0)
        for node in running:
            start_threads(node)
        yield running


def start_threads(node: dqlite_py.Node) -> None:
    """All threads of its pools: one that a test makes start would be held against the test."""
    runtime = node._running()
    readers = [pool._threads for pool in runtime.applier().readers.values()]
    for pool in (runtime.transactions.executor, runtime._workers, *readers):
        together = threading.Barrier(pool._max_workers)
        for future in [pool.submit(together.wait, 30.0) for _ in range(pool._max_workers)]:
            future.result()


@pytest.fixture
def leader(nodes: list[dqlite_py.Node]) -> dqlite_py.Node:
    return leader_of(nodes)


@pytest.fixture(params=["leader", "follower"])
def node(request: pytest.FixtureRequest, nodes: list[dqlite_py.Node]) -> dqlite_py.Node:
    leads = leader_of(nodes)
    return leads if request.param == "leader" else next(one for one in nodes if one is not leads)


@pytest.fixture(autouse=True)
def clean(nodes: list[dqlite_py.Node]) -> None:
    nodes[0].gateway.execute_unit(
        "app", encode_statements([("DELETE FROM t", ()), ("UPDATE counter SET n = 0", ())]), 30.0
    )


def rows(node: dqlite_py.Node, sql: str) -> list[Any]:
    return node.gateway.query("app", sql, (), LINEARIZABLE, 30.0).rows


def is_free(node: dqlite_py.Node) -> bool:
    node.gateway.begin("app", 10.0, LIMITS).rollback()
    return True


# -- what a transaction is --------------------------------------------------------------------------------------


def test_its_writes_are_seen_by_itself_at_once_and_by_others_after_commit(
    node: dqlite_py.Node, nodes: list[dqlite_py.Node]
) -> None:
    transaction = node.gateway.begin("app", 5.0, LIMITS)
    (inserted,) = transaction.run(body("INSERT INTO t(v) VALUES (?) RETURNING id", "x"), 5.0)
    assert inserted.rows == ((1,),)
    assert inserted.decltypes == ("INTEGER",)
    (found,) = transaction.run(body("SELECT id, v FROM t"), 5.0)
    assert found.rows == ((1, "x"),)
    assert [rows(other, "SELECT * FROM t") for other in nodes] == [[], [], []]
    result = transaction.commit(30.0)
    assert result.log_index > 0
    assert not transaction.is_open
    assert [rows(other, "SELECT * FROM t") for other in nodes] == [[(1, "x")]] * 3
    check_same_state(nodes)


def test_a_rollback_leaves_no_trace(node: dqlite_py.Node, leader: dqlite_py.Node) -> None:
    before = leader.status()["last_index"]
    transaction = node.gateway.begin("app", 5.0, LIMITS)
    transaction.run(body("INSERT INTO t(v) VALUES ('x')"), 5.0)
    transaction.rollback()
    transaction.rollback()
    assert not transaction.is_open
    with pytest.raises(TransactionEnded):
        transaction.run(body("SELECT 1"), 5.0)
    assert is_free(node)
    assert rows(node, "SELECT * FROM t") == []
    assert leader.status()["last_index"] == before


def test_one_that_only_reads_leaves_no_entry(node: dqlite_py.Node, leader: dqlite_py.Node) -> None:
    before = leader.status()["last_index"]
    transaction = node.gateway.begin("app", 5.0, LIMITS)
    transaction.run(body("SELECT * FROM t"), 5.0)
    assert transaction.commit(5.0).log_index == 0
    assert leader.status()["last_index"] == before


def test_failed_statements_and_savepoints(node: dqlite_py.Node) -> None:
    transaction = node.gateway.begin("app", 5.0, LIMITS)
    transaction.run(body("INSERT INTO t(id, v) VALUES (1, 'one')"), 5.0)
    with pytest.raises(IntegrityError) as caught:
        transaction.run(
            encode_statements(
                [("INSERT INTO t(id, v) VALUES (2, 'two')", ()), ("INSERT INTO t(v) VALUES ('one')", ())]
            ),
            5.0,
        )
    assert caught.value.details["statement"] == 1
    assert transaction.is_open
    transaction.run(body("SAVEPOINT a"), 5.0)
    transaction.run(body("INSERT INTO t(id, v) VALUES (3, 'three')"), 5.0)
    transaction.run(body("ROLLBACK TO a"), 5.0)
    transaction.run(body("RELEASE a"), 5.0)
    transaction.commit(30.0)
    assert rows(node, "SELECT id, v FROM t ORDER BY id") == [(1, "one"), (2, "two")]


def test_violated_foreign_keys_fail_the_commit_and_leave_it_open(node: dqlite_py.Node) -> None:
    transaction = node.gateway.begin("app", 5.0, LIMITS)
    transaction.run(body("INSERT INTO child VALUES (17)"), 5.0)
    with pytest.raises(IntegrityError):
        transaction.commit(30.0)
    assert transaction.is_open
    transaction.run(body("DELETE FROM child"), 5.0)
    transaction.commit(30.0)


def test_a_state_that_has_moved_on_is_a_conflict(node: dqlite_py.Node) -> None:
    index = node.gateway.execute_unit("app", body("INSERT INTO t(v) VALUES ('x')"), 30.0).log_index
    node.gateway.begin("app", 5.0, LIMITS, base_index=index).rollback()
    with pytest.raises(SnapshotConflict) as caught:
        node.gateway.begin("app", 5.0, LIMITS, base_index=index - 1)
    assert caught.value.code == 517
    assert is_free(node)


def test_who_waits_in_vain_hears_in_time(node: dqlite_py.Node, leader: dqlite_py.Node) -> None:
    holder = leader.gateway.begin("app", 5.0, LIMITS)
    with pytest.raises(DatabaseLocked) as caught:
        node.gateway.begin("app", 0.05, LIMITS)
    assert caught.value.code == 5
    with pytest.raises(DatabaseLocked) as caught:
        node.gateway.execute_unit("app", body("INSERT INTO t(v) VALUES ('late')"), 0.2)
    assert caught.value.outcome is Outcome.NOT_APPLIED
    holder.rollback()
    assert is_free(node)
    assert rows(node, "SELECT * FROM t") == []


def test_a_forgotten_transaction_is_ended(node: dqlite_py.Node) -> None:
    transaction = node.gateway.begin("app", 5.0, TransactionLimits(0.05, 60.0))
    transaction.run(body("INSERT INTO t(v) VALUES ('x')"), 5.0)
    assert is_free(node)  # once its time is over
    with pytest.raises(TransactionEnded, match="idle") as caught:
        transaction.commit(5.0)
    assert caught.value.outcome is Outcome.NOT_APPLIED
    assert not transaction.is_open
    assert rows(node, "SELECT * FROM t") == []


def test_a_transaction_that_holds_the_database_too_long_is_interrupted(node: dqlite_py.Node) -> None:
    transaction = node.gateway.begin("app", 5.0, TransactionLimits(60.0, 0.2))
    with pytest.raises(TransactionEnded, match="held"):
        transaction.run(body(ENDLESS), 30.0)
    assert is_free(node)


def test_a_statement_s_time_is_bounded(node: dqlite_py.Node) -> None:
    transaction = node.gateway.begin("app", 5.0, LIMITS)
    with pytest.raises(OperationalError) as caught:
        transaction.run(body(ENDLESS), 0.1)
    assert caught.value.code == 9
    assert transaction.is_open  # it only read
    transaction.rollback()


def test_another_thread_can_interrupt(node: dqlite_py.Node) -> None:
    transaction = node.gateway.begin("app", 5.0, LIMITS)
    interrupt = Interrupt()
    stopping = threading.Event()

    def insist() -> None:
        while not stopping.wait(0.01):
            interrupt.request()

    thread = threading.Thread(target=insist)
    thread.start()
    try:
        with pytest.raises(OperationalError) as caught:
            transaction.run(body(ENDLESS), 60.0, interrupt)
    finally:
        stopping.set()
        thread.join()
    assert caught.value.code == 9
    transaction.rollback()


@contextmanager
def interrupts() -> Iterator[None]:
    """The main thread is interrupted, once, from now on at some time."""
    main = threading.main_thread().ident
    assert main is not None
    raised, stopping = threading.Event(), threading.Event()

    def handle(_number: int, _frame: Any) -> None:
        if not raised.is_set():
            raised.set()
            raise KeyboardInterrupt

    def insist() -> None:
        while not raised.is_set() and not stopping.wait(0.2):
            signal.pthread_kill(main, signal.SIGINT)

    before = signal.signal(signal.SIGINT, handle)
    thread = threading.Thread(target=insist)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("verb", ["read", "write"])
def test_a_keyboard_interrupt_ends_the_statement_where_it_runs(node: dqlite_py.Node, verb: str) -> None:
    transaction = node.gateway.begin("app", 5.0, LIMITS)
    endless = ENDLESS if verb == "read" else f"INSERT INTO t(v) {ENDLESS}"
    with pytest.raises(KeyboardInterrupt), interrupts():
        transaction.run(body(endless), 100.0)
    if transaction.is_open:
        try:
            transaction.run(body("SELECT 1"), 30.0)  # not behind the endless one
        except TransactionEnded:
            assert verb == "write"
    transaction.rollback()
    assert is_free(node)
    assert rows(node, "SELECT * FROM t") == []


def test_where_it_runs(nodes: list[dqlite_py.Node], leader: dqlite_py.Node) -> None:
    kinds = {True: LocalTransaction, False: BlockingTransaction}
    for one in nodes:
        transaction = one.gateway.begin("app", 5.0, LIMITS)
        assert type(transaction) is kinds[one is leader]
        transaction.rollback()


# -- many at once -------------------------------------------------------------------------------------------------


def test_thirty_two_readers_that_begin_immediate_share_fairly(nodes: list[dqlite_py.Node]) -> None:
    """As ORMs do. Single writes go on beside them."""
    total, done = 32 * 25, Counter[int]()
    stopping = threading.Event()
    failures: list[BaseException] = []

    def read(number: int) -> None:
        gateway = nodes[number % 3].gateway
        while sum(done.values()) < total and not failures:
            try:
                transaction = gateway.begin("app", 30.0, LIMITS)
                (found,) = transaction.run(body("SELECT n FROM counter"), 30.0)
                assert found.rows is not None
                transaction.commit(30.0)
            except BaseException as error:
                failures.append(error)
                raise
            done[number] += 1

    def write() -> None:
        while not stopping.is_set() and not failures:
            try:
                nodes[1].gateway.execute_unit("app", body("UPDATE counter SET n = n + 1"), 30.0)
            except BaseException as error:
                failures.append(error)
                raise
            done[-1] += 1

    threads = [threading.Thread(target=read, args=(number,)) for number in range(32)]
    writer = threading.Thread(target=write)
    for thread in [*threads, writer]:
        thread.start()
    for thread in threads:
        thread.join(100)
    stopping.set()
    writer.join(60)
    assert failures == []
    shares = [done[number] for number in range(32)]
    assert min(shares) * 2 >= max(shares), shares
    assert rows(nodes[0], "SELECT n FROM counter") == [(done[-1],)]
    assert done[-1] * 3 >= min(shares)


def test_increments_that_read_first_lose_nothing(nodes: list[dqlite_py.Node]) -> None:
    each, failures = 15, list[BaseException]()

    def increment(node: dqlite_py.Node) -> None:
        for _ in range(each):
            try:
                transaction = node.gateway.begin("app", 60.0, LIMITS)
                (found,) = transaction.run(body("SELECT n FROM counter"), 30.0)
                assert found.rows is not None
                transaction.run(body("UPDATE counter SET n = ?", found.rows[0][0] + 1), 30.0)
                transaction.commit(60.0)
            except BaseException as error:
                failures.append(error)
                raise

    threads = [threading.Thread(target=increment, args=(node,)) for node in nodes * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert failures == []
    assert rows(nodes[0], "SELECT n FROM counter") == [(6 * each,)]
    check_same_state(nodes)


# -- tasks ----------------------------------------------------------------------------------------------------------


async def test_transactions_of_tasks(node: dqlite_py.Node) -> None:
    gateway = node.async_gateway
    transaction = await gateway.begin("app", 5.0, LIMITS)
    (inserted,) = await transaction.run(body("INSERT INTO t(v) VALUES ('x')"), 5.0)
    assert inserted.last_insert_rowid == 1
    with pytest.raises(IntegrityError):
        await transaction.run(body("INSERT INTO t(v) VALUES ('x')"), 5.0)
    assert (await transaction.commit(30.0)).log_index > 0
    assert not transaction.is_open
    found = await gateway.query("app", "SELECT v FROM t", (), LINEARIZABLE, 30.0)
    assert found.rows == [("x",)]
    other = await gateway.begin("app", 5.0, LIMITS)
    await other.run(body("DELETE FROM t"), 5.0)
    await other.rollback()
    await (await gateway.begin("app", 10.0, LIMITS)).rollback()
    found = await gateway.query("app", "SELECT v FROM t", (), LINEARIZABLE, 30.0)
    assert found.rows == [("x",)]


async def test_a_thousand_tasks_write(node: dqlite_py.Node) -> None:
    gateway = node.async_gateway
    await asyncio.gather(
        *(gateway.execute_unit("app", body("UPDATE counter SET n = n + 1"), 60.0) for _ in range(1000))
    )
    found = await gateway.query("app", "SELECT n FROM counter", (), LINEARIZABLE, 30.0)
    assert found.rows == [(1000,)]


async def test_a_cancelled_task_withdraws_what_waits(leader: dqlite_py.Node) -> None:
    gateway = leader.async_gateway
    holder = await gateway.begin("app", 5.0, LIMITS)
    write = asyncio.create_task(
        gateway.execute_unit("app", body("INSERT INTO t(v) VALUES ('withdrawn')"), 30.0)
    )
    begin = asyncio.create_task(gateway.begin("app", 30.0, LIMITS))
    await asyncio.sleep(0.05)
    for task in (write, begin):
        task.cancel()
    await asyncio.wait([write, begin])
    assert write.cancelled()
    assert begin.cancelled()
    await holder.rollback()
    await (await gateway.begin("app", 10.0, LIMITS)).rollback()
    found = await gateway.query("app", "SELECT v FROM t", (), LINEARIZABLE, 30.0)
    assert found.rows == []


async def test_a_cancelled_task_interrupts_its_statement(node: dqlite_py.Node) -> None:
    gateway = node.async_gateway
    transaction = await gateway.begin("app", 5.0, LIMITS)
    running = asyncio.create_task(transaction.run(body(ENDLESS), 60.0))
    await asyncio.sleep(0.2)
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    (found,) = await transaction.run(body("SELECT 1"), 30.0)  # it is not behind the endless one
    assert found.rows == ((1,),)
    await transaction.rollback()


async def test_tasks_hear_in_time(leader: dqlite_py.Node) -> None:
    gateway = leader.async_gateway
    holder = await gateway.begin("app", 5.0, LIMITS)
    with pytest.raises(DatabaseLocked):
        await gateway.begin("app", 0.05, LIMITS)
    with pytest.raises(DatabaseLocked):
        await gateway.execute_unit("app", body("INSERT INTO t(v) VALUES ('late')"), 0.2)
    await holder.rollback()


# -- the node ends it -------------------------------------------------------------------------------------------------


def test_a_transfer_of_leadership_ends_it(nodes: list[dqlite_py.Node]) -> None:
    leader = leader_of(nodes)
    follower = next(one for one in nodes if one is not leader)
    ours = leader.gateway.begin("app", 5.0, LIMITS)
    ours.run(body("INSERT INTO t(v) VALUES ('x')"), 5.0)
    leader.transfer_leadership()
    wait_until(lambda: not ours.is_open, "its end")
    with pytest.raises(TransactionEnded, match="leadership") as caught:
        ours.commit(5.0)
    assert caught.value.outcome is Outcome.NOT_APPLIED
    theirs = follower.gateway.begin("app", 30.0, LIMITS)
    leader_of(nodes).transfer_leadership()
    with pytest.raises(TransactionEnded) as caught:
        theirs.run(body("INSERT INTO t(v) VALUES ('y')"), 5.0)
    assert caught.value.outcome is Outcome.NOT_APPLIED
    leader_of(nodes)
    assert rows(nodes[0], "SELECT * FROM t") == []


def test_a_dropped_database_ends_it(node: dqlite_py.Node) -> None:
    node.gateway.open_database("other", 30.0)
    transaction = node.gateway.begin("other", 5.0, LIMITS)
    transaction.run(body("CREATE TABLE x(a)"), 5.0)
    node.drop_database("other")
    with pytest.raises(TransactionEnded):
        transaction.commit(5.0)


def test_without_a_majority_nothing_begins(tmp_path: Path) -> None:
    with embedded_cluster(tmp_path, 2) as pair:
        pair[0].gateway.open_database("app", 30.0)
        pair[1].stop(hand_over=False)
        with pytest.raises((NoLeader, DatabaseLocked, OperationalError)) as caught:
            pair[0].gateway.begin("app", 1.0, LIMITS)
        assert isinstance(caught.value, Error)
        assert caught.value.outcome is Outcome.NOT_APPLIED
