"""A snapshot is put in place on a follower that is in use: its readers, streams, transactions and writers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import dqlite_py
from dqlite_py.command import encode_statements
from dqlite_py.errors import ChangesCompacted, Error, OperationalError, Outcome, TransactionEnded
from dqlite_py.gateway import LINEARIZABLE, Freshness, ReadLevel, TransactionLimits
from dqlite_py.limits import MIB
from dqlite_py.node import startup
from dqlite_py.raft.messages import AppendRequest, SnapshotOffer
from tests.integration.cluster import wait_until
from tests.integration.embedded import check_same_state, embedded_cluster, leader_of

ON_DEMAND: dict[str, Any] = {"compact_log_bytes": 2**60, "log_tail_bytes": 0}  # Node.compact() only
PIECE = b"x" * (256 * 1024)
LONG_S = 200.0
SOON_S = 60.0
LIMITS = TransactionLimits(LONG_S, LONG_S)
STALE = Freshness(ReadLevel.STALE)
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
MANY = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1000000) SELECT i FROM n"
REPLACED = "replaces its databases by a snapshot"


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log is dropped by whole segments."""
    monkeypatch.setattr(startup, "SEGMENT_BYTES", MIB)


def body(sql: str, *params: Any) -> bytes:
    return encode_statements([(sql, params)])


def execute(node: dqlite_py.Node, sql: str, *params: Any, database: str = "app") -> int:
    return node.gateway.execute_unit(database, body(sql, *params), SOON_S).log_index


@contextmanager
def left_behind(follower: dqlite_py.Node) -> Iterator[Callable[[], None]]:
    """It hears of no new entries, but that there is a leader; until what is given is called."""
    host: Any = follower._running().host
    receive, is_over = host.receive, threading.Event()

    def filtered(sender: Any, message: Any) -> None:
        is_new = isinstance(message, SnapshotOffer) or (
            isinstance(message, AppendRequest) and len(message.entries) > 0
        )
        if is_over.is_set() or not is_new:
            receive(sender, message)

    host.receive = filtered
    try:
        yield is_over.set
    finally:
        is_over.set()
        host.receive = receive


def outgrow(leader: dqlite_py.Node, others: list[dqlite_py.Node]) -> None:
    """The log begins behind what a follower has that was left behind."""
    execute(leader, "CREATE TABLE IF NOT EXISTS pad(id INTEGER PRIMARY KEY, v BLOB)", database="busy")
    for _ in range(3 * MIB // len(PIECE)):
        last = execute(leader, "INSERT OR REPLACE INTO pad VALUES (1, ?)", PIECE, database="busy")
    wait_until(lambda: all(n.status()["applied_index"] >= last for n in others), "others apply")
    for node in others:
        node.compact()


def count_of(node: dqlite_py.Node, freshness: Freshness = LINEARIZABLE, database: str = "app") -> int:
    found = node.gateway.query(database, "SELECT count(*) FROM t", (), freshness, SOON_S)
    count: Any = found.rows[0][0]
    return int(count)


def numbers(node: dqlite_py.Node) -> list[Any]:
    """All rows of app, of one linearizable read."""
    found = node.gateway.query("app", "SELECT n FROM t", (), LINEARIZABLE, SOON_S)
    rows = found.rows
    while found.more is not None and (piece := found.more.fetch()):
        rows += piece
    return [number for (number,) in rows]


class Cluster:
    """Three nodes with databases app and held, each with one row; one follower is looked at."""

    def __init__(self, nodes: list[dqlite_py.Node]) -> None:
        self.nodes = nodes
        self.leader = leader_of(nodes)
        self.follower = next(node for node in nodes if node is not self.leader)
        self.others = [node for node in nodes if node is not self.follower]
        for database in ("app", "held", "busy"):
            self.leader.gateway.open_database(database, SOON_S)
            execute(self.leader, "CREATE TABLE t(n INTEGER)", database=database)
            execute(self.leader, "INSERT INTO t VALUES (0)", database=database)
        for database in ("app", "held", "busy"):
            check_same_state(nodes, database)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """The follower gets one at the end."""
        before = self.follower.status()["snapshot_index"]
        with left_behind(self.follower) as go_on:
            yield
            outgrow(self.leader, self.others)
            go_on()
            wait_until(
                lambda: (
                    self.follower.status()["snapshot_index"] > before
                    and self.follower._running().snapshot_install.installed_count > 0
                ),
                "a snapshot is installed",
            )


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with embedded_cluster(tmp_path, **ON_DEMAND) as nodes:
        yield Cluster(nodes)


def test_readers_end_and_new_ones_see_the_new_state(cluster: Cluster) -> None:
    gateway = cluster.follower.gateway
    frozen = gateway.begin_read("app", LINEARIZABLE, SOON_S, LIMITS)
    inside = frozen.query(MANY, (), LONG_S).more
    alone = gateway.query("app", MANY, (), LINEARIZABLE, LONG_S).more
    errors: list[Error] = []

    def run_endless() -> None:
        try:
            gateway.query("app", ENDLESS, (), STALE, LONG_S)
        except Error as error:
            errors.append(error)

    running = threading.Thread(target=run_endless)
    running.start()
    conn = cluster.follower.connect("app", isolation_level=None, read_level=ReadLevel.STALE)
    conn.execute("BEGIN")
    assert conn.execute("SELECT n FROM t").fetchall() == [(0,)]
    cursor = conn.execute(f"SELECT n, i FROM t, ({MANY})")
    assert cursor.fetchone() == (0, 1)
    with cluster.snapshot():
        execute(cluster.leader, "INSERT INTO t VALUES (1)")
        assert frozen.query("SELECT n FROM t", (), LONG_S).rows == [(0,)]
        assert count_of(cluster.follower, STALE) == 1
    running.join(SOON_S)
    assert not running.is_alive(), "it waits for its time-out"
    assert [type(error) for error in errors] == [OperationalError]
    assert REPLACED in str(errors[0])
    for stream in (inside, alone):
        assert stream is not None
        with pytest.raises(OperationalError, match=REPLACED):
            stream.fetch()
    with pytest.raises(OperationalError, match=REPLACED):
        cursor.fetchall()
    with pytest.raises(TransactionEnded, match=REPLACED):
        frozen.query("SELECT n FROM t", (), LONG_S)
    frozen.close()
    with pytest.raises(TransactionEnded, match=REPLACED):
        conn.execute("SELECT n FROM t")
    conn.rollback()
    assert conn.execute("SELECT n FROM t ORDER BY n").fetchall() == [(0,), (1,)]
    conn.close()
    for level in (LINEARIZABLE, STALE, Freshness(ReadLevel.LEADER), Freshness(ReadLevel.SESSION)):
        assert count_of(cluster.follower, level) == 2
    with_state = gateway.begin_read("app", LINEARIZABLE, SOON_S, LIMITS)
    assert with_state.query("SELECT n FROM t ORDER BY n", (), SOON_S).rows == [(0,), (1,)]
    with_state.close()
    check_same_state(cluster.nodes)


def test_a_program_s_reads_at_the_follower(cluster: Cluster) -> None:
    address = cluster.follower.address
    with dqlite_py.connect(
        f"{address}/app", isolation_level=None, read_level="stale", timeout=LONG_S
    ) as conn:
        half = conn.execute(MANY)
        assert half.fetchone() == (1,)
        with cluster.snapshot():
            execute(cluster.leader, "INSERT INTO t VALUES (1)")
        with pytest.raises(OperationalError, match=REPLACED):
            half.fetchall()
        assert conn.execute("SELECT count(*) FROM t").fetchone() == (2,)
    conn.close()


def test_change_streams_say_that_they_miss_something(cluster: Cluster) -> None:
    follower = cluster.follower
    stream = follower.changes("app", timeout=SOON_S)
    execute(cluster.leader, "INSERT INTO t VALUES (1)")
    assert next(stream).new == {"n": 1}

    async def follow() -> None:
        waiting = follower.changes_async("app", after=stream.position, timeout=SOON_S)
        assert (await anext(waiting)).new == {"n": 1}
        waiter = asyncio.ensure_future(anext(waiting))
        await asyncio.to_thread(miss)
        with pytest.raises(ChangesCompacted):
            await waiter
        await waiting.close()

    def miss() -> None:
        with cluster.snapshot():
            execute(cluster.leader, "INSERT INTO t VALUES (2)")

    asyncio.run(follow())
    with pytest.raises(ChangesCompacted) as caught:
        next(stream)
    stream.close()
    state = follower.gateway.begin_read("app", LINEARIZABLE, SOON_S, LIMITS)
    assert state.query("SELECT n FROM t ORDER BY n", (), SOON_S).rows == [(0,), (1,), (2,)]
    assert state.log_index >= caught.value.details["oldest"]
    with follower.changes("app", after=state.log_index, timeout=SOON_S) as later:
        state.close()
        execute(cluster.leader, "INSERT INTO t VALUES (3)")
        assert next(later).new == {"n": 3}


def test_transactions_forwarded_to_the_leader_go_on(cluster: Cluster) -> None:
    """They run there, and their results are seen here as soon as they are asked for."""
    gateway = cluster.follower.gateway
    transaction = gateway.begin("held", SOON_S, LIMITS)
    (found,) = transaction.run(body("INSERT INTO t VALUES (1) RETURNING n"), SOON_S)
    assert found.rows == ((1,),)
    with cluster.snapshot():
        transaction.run(body("INSERT INTO t VALUES (2)"), SOON_S)
    (found,) = transaction.run(body("SELECT n FROM t ORDER BY n"), SOON_S)
    assert found.rows == ((0,), (1,), (2,))
    assert count_of(cluster.follower, database="held") == 1
    assert transaction.commit(SOON_S).log_index > 0
    assert count_of(cluster.follower, database="held") == 3
    check_same_state(cluster.nodes, "held")


def test_whoever_reads_and_writes_meanwhile(cluster: Cluster) -> None:
    """Linearizable reads at the follower see what was acknowledged; what fails says so; nothing is doubled."""
    stopping = threading.Event()
    acknowledged, unknown = [0], set[int]()
    wrong: list[Any] = []
    reads = [0]
    follower = cluster.follower

    def write() -> None:
        number = 0
        while not stopping.is_set():
            number += 1
            try:
                if number % 2:
                    execute(follower, "INSERT INTO t VALUES (?)", number)
                else:
                    transaction = follower.gateway.begin("app", SOON_S, LIMITS)
                    try:
                        transaction.run(body("INSERT INTO t VALUES (?)", number), SOON_S)
                        transaction.commit(SOON_S)
                    finally:
                        transaction.rollback()
            except Error as error:
                if error.outcome is Outcome.UNKNOWN:
                    unknown.add(number)
            else:
                acknowledged.append(number)

    def read() -> None:
        while not stopping.is_set():
            before = set(acknowledged)
            try:
                found = numbers(follower)
            except OperationalError:
                continue
            reads[0] += 1
            if not before <= set(found) or len(set(found)) != len(found):
                wrong.append((before - set(found), found))

    threads = [threading.Thread(target=function) for function in (write, read, read)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            with cluster.snapshot():
                count = len(acknowledged)
                wait_until(lambda count=count: len(acknowledged) > count + 10, "writes go on")
            count, seen = len(acknowledged), reads[0]
            wait_until(
                lambda count=count, seen=seen: len(acknowledged) > count + 10 and reads[0] > seen + 10,
                "writes and reads go on",
            )
    finally:
        stopping.set()
        for thread in threads:
            thread.join(SOON_S)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []
    rows = numbers(follower)
    assert len(set(rows)) == len(rows)
    assert set(acknowledged) <= set(rows)
    assert set(rows) - set(acknowledged) <= unknown
    check_same_state(cluster.nodes)
