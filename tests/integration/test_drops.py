"""Dropping a database that is in use: everybody hears soon and truly, and the next one of that name is new."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import dqlite_py
from dqlite_py.command import encode_drop, encode_open, encode_statements
from dqlite_py.errors import (
    Error,
    OperationalError,
    Outcome,
    OutcomeUnknown,
    SessionExpired,
    TransactionEnded,
)
from dqlite_py.gateway import LINEARIZABLE, Freshness, ReadLevel, TransactionLimits
from dqlite_py.node.local_transactions import LocalTransaction
from dqlite_py.node.tickets import Deadline
from tests.integration.cluster import wait_until
from tests.integration.embedded import check_same_state, embedded_cluster, leader_of

LONG_S = 200.0  # the time-outs of calls that must hear before: nobody waits for them
HEARD_S = 30.0
LIMITS = TransactionLimits(LONG_S, LONG_S)
STALE = Freshness(ReadLevel.STALE)
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
MANY = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1000000) SELECT i FROM n"


def body(sql: str, *params: Any) -> bytes:
    return encode_statements([(sql, params)])


class Call(threading.Thread):
    """One call on a thread of its own, and what came of it."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        super().__init__(daemon=True)
        self.error: BaseException | None = None
        self._function = function
        self._args = args
        self.start()

    def run(self) -> None:
        try:
            self._function(*self._args)
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error

    def heard(self) -> BaseException | None:
        """What it raised, soon."""
        self.join(HEARD_S)
        assert not self.is_alive(), "it waits for its time-out"
        return self.error


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[dqlite_py.Node]]:
    folder: Path = tmp_path_factory.mktemp("drops")
    with embedded_cluster(folder) as nodes:
        for node in nodes:
            runtime = node._running()
            for pool in (runtime.transactions.executor, runtime._workers, runtime.read_services._threads):
                together = threading.Barrier(pool._max_workers)
                for future in [pool.submit(together.wait, 30.0) for _ in range(pool._max_workers)]:
                    future.result()
        yield nodes


@pytest.fixture
def nodes(cluster: list[dqlite_py.Node]) -> Iterator[list[dqlite_py.Node]]:
    """Each with a database app, in which one row is committed."""
    create(cluster[0])
    cluster[0].gateway.execute_unit("app", body("INSERT INTO t VALUES ('old')"), HEARD_S)
    check_same_state(cluster)
    yield cluster
    cluster[0].drop_database("app")
    wait_until_gone(cluster)


def create(node: dqlite_py.Node) -> None:
    node.gateway.open_database("app", HEARD_S)
    node.gateway.execute_unit("app", body("CREATE TABLE t(v)"), HEARD_S)


def wait_until_gone(nodes: list[dqlite_py.Node]) -> None:
    wait_until(
        lambda: not any("app" in node._running().applier().workers for node in nodes), "all have dropped it"
    )


@pytest.fixture
def leader(nodes: list[dqlite_py.Node]) -> dqlite_py.Node:
    return leader_of(nodes)


@pytest.fixture
def follower(nodes: list[dqlite_py.Node], leader: dqlite_py.Node) -> dqlite_py.Node:
    return next(node for node in nodes if node is not leader)


@pytest.fixture(params=["leader drops", "follower drops"])
def dropper(
    request: pytest.FixtureRequest, leader: dqlite_py.Node, follower: dqlite_py.Node
) -> dqlite_py.Node:
    return leader if request.param == "leader drops" else follower


@pytest.fixture(params=["leader", "follower", "program"])
def conn(
    request: pytest.FixtureRequest, leader: dqlite_py.Node, follower: dqlite_py.Node
) -> Iterator[dqlite_py.Connection]:
    options: dict[str, Any] = {"isolation_level": None, "timeout": LONG_S, "busy_timeout": LONG_S}
    options |= {"check_same_thread": False, "idle_limit": LONG_S, "hold_limit": LONG_S}
    if request.param == "program":
        found = dqlite_py.connect(f"{follower.address},{leader.address}/app", **options)
    else:
        found = (leader if request.param == "leader" else follower).connect("app", **options)
    yield found
    gateway: Any = found._core.gateway
    found.close()
    if request.param == "program":  # the test holds the connection until all is looked at
        gateway._shared.background.end()


def rows(node: dqlite_py.Node) -> list[Any]:
    return node.gateway.query("app", "SELECT v FROM t", (), LINEARIZABLE, HEARD_S).rows


def queued(nodes: list[dqlite_py.Node]) -> int:
    """How many wait for the database, at the leader or on their way to it."""
    writes = [node._running().writes for node in nodes]
    queues = [one._queues.get("app") for one in writes] + [one._forwarders.get("app") for one in writes]
    return sum(len(queue._queue) for queue in queues if queue is not None)


# -- who writes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("statement", ["INSERT INTO t VALUES ('late')", "SELECT v FROM t", "COMMIT"])
def test_an_open_transaction_is_over_also_when_there_is_a_new_database(
    conn: dqlite_py.Connection, dropper: dqlite_py.Node, nodes: list[dqlite_py.Node], statement: str
) -> None:
    conn.execute("BEGIN IMMEDIATE")
    conn.execute("INSERT INTO t VALUES ('never')")
    dropper.drop_database("app")
    create(dropper)
    with pytest.raises(TransactionEnded, match="dropped") as caught:
        conn.execute(statement)
    assert caught.value.outcome is Outcome.NOT_APPLIED
    conn.rollback()
    assert rows(dropper) == []
    conn.execute("INSERT INTO t VALUES ('new')")
    assert conn.execute("SELECT v FROM t").fetchall() == [("new",)]
    check_same_state(nodes)


@pytest.mark.parametrize("statement", [ENDLESS, f"INSERT INTO t {ENDLESS}"])
def test_a_statement_of_a_transaction_that_runs_is_ended(
    conn: dqlite_py.Connection, dropper: dqlite_py.Node, leader: dqlite_py.Node, statement: str
) -> None:
    conn.execute("BEGIN IMMEDIATE")
    conn.execute("INSERT INTO t VALUES ('never')")
    running = Call(conn.execute, statement)
    (transaction,) = leader._running().transactions._open
    wait_until(lambda: transaction.is_running, "the statement runs")
    dropper.drop_database("app")
    error = running.heard()
    assert type(error) is TransactionEnded, error
    assert "dropped" in str(error)
    conn.rollback()
    create(dropper)
    assert rows(dropper) == []


def test_who_waits_behind_a_transaction_hears(
    leader: dqlite_py.Node, follower: dqlite_py.Node, dropper: dqlite_py.Node, nodes: list[dqlite_py.Node]
) -> None:
    """Writes and BEGINs of the leader, a follower and a program; nothing of them happens in the next database."""
    holder = follower.gateway.begin("app", LONG_S, LIMITS)
    holder.run(body("INSERT INTO t VALUES ('never')"), LONG_S)
    with dqlite_py.connect(f"{follower.address}/app", isolation_level=None) as program:
        gateways = [leader.gateway, follower.gateway, program._core.gateway]
        key = follower.gateway.new_key("app")
        insert = body("INSERT INTO t VALUES ('late')")

        def write(gateway: Any, once: Any) -> None:
            gateway.execute_unit("app", insert, LONG_S, once=once)

        writes = [Call(write, gateway, once) for gateway in gateways for once in (True, False)]
        writes.append(Call(write, follower.gateway, key))
        wait_until(lambda: queued(nodes) == len(writes), "all writes wait")
        begins = [Call(gateway.begin, "app", LONG_S, LIMITS) for gateway in gateways]
        wait_until(lambda: queued(nodes) == len(writes) + len(begins), "all transactions wait")
        dropper.drop_database("app")
        for call in writes:
            error = call.heard()
            assert isinstance(error, OperationalError), error
            assert error.outcome is Outcome.NOT_APPLIED, error
            assert "app does not exist" in str(error)
        for call in begins:
            error = call.heard()
            assert isinstance(error, OperationalError), error
            assert error.outcome is Outcome.NOT_APPLIED
            assert "dropped" in str(error) or "no such database" in str(error)
        with pytest.raises(TransactionEnded, match="dropped"):
            holder.commit(LONG_S)
        create(dropper)
        with pytest.raises(SessionExpired):
            write(follower.gateway, key)
        assert rows(dropper) == []
        for gateway in gateways:
            gateway.begin("app", HEARD_S, LIMITS).rollback()
        write(program._core.gateway, True)
        assert rows(dropper) == [("late",)]
    program.close()
    check_same_state(nodes)


def test_an_old_commit_behind_drop_and_open_in_the_log(
    leader: dqlite_py.Node, nodes: list[dqlite_py.Node]
) -> None:
    """Its statements would do the same in the new database: only its key tells."""
    transaction = leader.gateway.begin("app", LONG_S, LIMITS)
    assert isinstance(transaction, LocalTransaction)
    transaction.run(body("CREATE TABLE IF NOT EXISTS other(v)"), LONG_S)
    transaction.run(body("INSERT INTO other VALUES ('never')"), LONG_S)
    runtime = leader._running()
    inner = transaction._transaction
    unit = inner.finish()
    told: list[Any] = []
    heard = threading.Event()

    def answered(outcome: Any, error: Error | None) -> None:
        told.append((outcome, error))
        heard.set()

    def propose() -> None:
        writes = runtime.writes
        for payload in (encode_drop("app", writes._now_us()), encode_open("app", writes._now_us())):
            writes._propose(payload, lambda _outcome, _error: None)
        runtime.transactions.commit(inner, unit, answered, Deadline(LONG_S))

    runtime.gateway.inbox.put(propose)
    assert heard.wait(HEARD_S)
    ((outcome, error),) = told
    assert outcome is None
    assert type(error) is TransactionEnded, error
    create(leader)
    tables = leader.gateway.query("app", "SELECT name FROM sqlite_schema", (), LINEARIZABLE, HEARD_S).rows
    assert ("t",) in tables
    assert ("other",) not in tables
    check_same_state(nodes)


def test_old_keys_mean_nothing_in_the_new_database(
    leader: dqlite_py.Node, follower: dqlite_py.Node, dropper: dqlite_py.Node
) -> None:
    used, unused = leader.gateway.new_key("app"), follower.gateway.new_key("app")
    insert = body("INSERT INTO t VALUES ('keyed')")
    leader.gateway.execute_unit("app", insert, HEARD_S, once=used)
    dropper.drop_database("app")
    with dqlite_py.connect(f"{follower.address}/app", isolation_level=None) as program:
        dropper.drop_database("app")  # which the program has made anew
        for gateway in (leader.gateway, follower.gateway, program._core.gateway):
            error = Call(gateway.resolve, "app", used, LONG_S).heard()
            assert type(error) is OutcomeUnknown, error
            assert error.details["sequence"] == used.sequence
            assert "app does not exist" in str(error)
    program.close()
    create(dropper)
    for key in (used, unused):
        for node in (leader, follower):
            with pytest.raises(SessionExpired):
                node.gateway.execute_unit("app", insert, HEARD_S, once=key)
            with pytest.raises(SessionExpired):
                node.gateway.resolve("app", key, HEARD_S)
    assert rows(dropper) == []


def test_what_is_acknowledged_is_in_the_database_of_its_time(
    leader: dqlite_py.Node, follower: dqlite_py.Node, nodes: list[dqlite_py.Node]
) -> None:
    """While it is dropped and made anew, again and again, by both nodes."""
    stopping = threading.Event()
    acknowledged: dict[str, int] = {}
    unknown: set[str] = set()

    def write(label: str, gateway: Any, how: str) -> None:
        number = 0
        while not stopping.is_set():
            number += 1
            name = f"{label}-{how}-{number}"
            insert = body("INSERT INTO t VALUES (?)", name)
            try:
                if how == "transaction":
                    transaction = gateway.begin("app", LONG_S, LIMITS)
                    try:
                        transaction.run(insert, LONG_S)
                        acknowledged[name] = transaction.commit(LONG_S).log_index
                    finally:
                        transaction.rollback()
                else:
                    once = how == "once"
                    acknowledged[name] = gateway.execute_unit("app", insert, LONG_S, once=once).log_index
            except Error as error:
                if error.outcome is Outcome.UNKNOWN:
                    unknown.add(name)

    with dqlite_py.connect(f"{follower.address}/app", isolation_level=None) as program:
        gateways = {"leader": leader.gateway, "follower": follower.gateway, "program": program._core.gateway}
        calls = [
            Call(write, label, gateway, how)
            for label, gateway in gateways.items()
            for how in ("once", "transaction", "plain")
        ]
        try:
            for number in range(12):
                node = (leader, follower)[number % 2]
                node.drop_database("app")
                create(node)
                count = len(acknowledged)
                wait_until(lambda count=count: len(acknowledged) > count + 20, "writes go on")
            node.drop_database("app")
            create(node)
            created = leader.gateway.execute_unit("app", body("INSERT INTO t VALUES ('first')"), HEARD_S)
            count = len(acknowledged)
            wait_until(lambda: len(acknowledged) > count + 50, "writes go on")
        finally:
            stopping.set()
        assert [call.heard() for call in calls] == [None] * len(calls)
    program.close()
    check_same_state(nodes)
    found = [value for (value,) in rows(follower)]
    assert len(set(found)) == len(found)
    before = found[: found.index("first")]
    expected = {name for name, index in acknowledged.items() if index >= created.log_index}
    surplus = set(found[found.index("first") + 1 :]) - expected
    assert expected <= set(found)
    assert surplus <= unknown
    assert set(before) <= unknown | acknowledged.keys()
    assert all(acknowledged.get(name, 0) <= created.log_index for name in before)


# -- who reads ----------------------------------------------------------------------------------------------------


def test_frozen_states_and_half_read_results_end(
    conn: dqlite_py.Connection, dropper: dqlite_py.Node, nodes: list[dqlite_py.Node]
) -> None:
    half = conn.execute(MANY)
    assert half.fetchone() == (1,)
    conn.execute("BEGIN DEFERRED")
    frozen = conn.execute(f"SELECT v, i FROM t, ({MANY})")
    assert frozen.fetchone() == ("old", 1)
    running = Call(conn.execute, ENDLESS)
    dropper.drop_database("app")
    wait_until_gone(nodes)
    create(dropper)
    error = running.heard()
    assert isinstance(error, OperationalError), error
    for cursor in (half, frozen):
        with pytest.raises(OperationalError, match="dropped"):
            cursor.fetchall()
    with pytest.raises(TransactionEnded, match="dropped"):
        conn.execute("SELECT v FROM t")
    conn.rollback()
    assert conn.execute("SELECT v FROM t").fetchall() == []


def test_reads_of_a_node_s_gateway_end(
    leader: dqlite_py.Node, follower: dqlite_py.Node, dropper: dqlite_py.Node, nodes: list[dqlite_py.Node]
) -> None:
    both = [leader.gateway, follower.gateway]
    frozen = [gateway.begin_read("app", LINEARIZABLE, HEARD_S, LIMITS) for gateway in both]
    inside = [one.query(MANY, (), LONG_S).more for one in frozen]
    alone = [gateway.query("app", MANY, (), LINEARIZABLE, LONG_S).more for gateway in both]
    running = [Call(gateway.query, "app", ENDLESS, (), STALE, LONG_S) for gateway in both]
    running += [Call(one.query, ENDLESS, (), LONG_S) for one in frozen]
    dropper.drop_database("app")
    for call in running:
        error = call.heard()
        assert isinstance(error, OperationalError), error
        assert "dropped" in str(error) or "no such database" in str(error)  # it had not begun
    for stream in inside + alone:
        assert stream is not None
        with pytest.raises(OperationalError, match="dropped"):
            stream.fetch()
    for one in frozen:
        with pytest.raises(TransactionEnded, match="dropped"):
            one.query("SELECT v FROM t", (), LONG_S)
        one.close()
    wait_until_gone(nodes)
    for gateway in both:
        with pytest.raises(OperationalError, match="no such database"):
            gateway.query("app", "SELECT v FROM t", (), LINEARIZABLE, LONG_S)
    create(dropper)
    assert rows(dropper) == []


async def test_change_streams_end(
    leader: dqlite_py.Node, follower: dqlite_py.Node, dropper: dqlite_py.Node
) -> None:
    both = [leader, follower]
    streams = [node.changes("app", timeout=LONG_S) for node in both]
    tasks = [
        node.changes_async("app", after=stream.position, timeout=LONG_S)
        for node, stream in zip(both, streams, strict=True)
    ]
    insert = body("INSERT INTO t VALUES ('last')")
    await asyncio.to_thread(leader.gateway.execute_unit, "app", insert, HEARD_S)
    for stream in streams:
        assert (await asyncio.to_thread(next, stream)).new == {"v": "last"}
    for stream in tasks:
        assert (await anext(stream)).new == {"v": "last"}
    waiting_threads = [Call(next, stream) for stream in streams]
    waiting_tasks = [asyncio.ensure_future(anext(stream)) for stream in tasks]
    await asyncio.to_thread(dropper.drop_database, "app")
    await asyncio.to_thread(create, dropper)
    for call in waiting_threads:
        error = await asyncio.to_thread(call.heard)
        assert type(error) is OperationalError, error
        assert "was dropped" in str(error)
    for task in waiting_tasks:
        with pytest.raises(OperationalError, match="was dropped"):
            await asyncio.wait_for(task, HEARD_S)
    await asyncio.to_thread(create_row, dropper)
    for stream in streams:  # the new database's changes are of another stream
        with pytest.raises(OperationalError, match="was dropped"):
            await asyncio.to_thread(next, stream)
        stream.close()
    for stream in tasks:
        with pytest.raises(OperationalError, match="was dropped"):
            await anext(stream)
        await stream.close()


def create_row(node: dqlite_py.Node) -> None:
    node.gateway.execute_unit("app", body("INSERT INTO t VALUES ('new')"), HEARD_S)


# -- the next one ---------------------------------------------------------------------------------------------------


def test_the_node_that_dropped_it_makes_it_anew_at_once(
    dropper: dqlite_py.Node, nodes: list[dqlite_py.Node]
) -> None:
    for number in range(10):
        dropper.drop_database("app")
        with dropper.connect("app", isolation_level=None, timeout=HEARD_S) as conn:
            assert conn.execute("SELECT count(*) FROM sqlite_schema WHERE name = 't'").fetchone() == (0,)
            conn.execute("CREATE TABLE t(v)")
            conn.execute("INSERT INTO t VALUES (?)", (number,))
            assert conn.execute("SELECT v FROM t").fetchall() == [(number,)]
        conn.close()
    check_same_state(nodes)
