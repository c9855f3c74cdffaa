"""Read levels on leader and followers, streams and read transactions of a running cluster."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dqlite_py
from dqlite_py import errors
from dqlite_py.command import encode_statements
from dqlite_py.gateway import Freshness, Gateway, Interrupt, QueryResult, ReadLevel, TransactionLimits
from tests.integration.cluster import wait_until
from tests.integration.embedded import embedded_cluster, leader_of

T_S = 10.0
LEADER = Freshness(ReadLevel.LEADER)
STALE = Freshness(ReadLevel.STALE)
LIMITS = TransactionLimits(60, 60)
ENDLESS = "WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"


def gateway(node: dqlite_py.Node) -> Gateway:
    found: Gateway = node._running().gateway
    return found


def write(node: dqlite_py.Node, sql: str, *params: Any) -> int:
    return gateway(node).execute_unit("app", encode_statements([(sql, list(params))]), T_S).log_index


def read(node: dqlite_py.Node, sql: str, freshness: Freshness, timeout_s: float = T_S) -> QueryResult:
    return gateway(node).query("app", sql, (), freshness, timeout_s)


def rest(found: QueryResult) -> list[Any]:
    rows = list(found.rows)
    while found.more is not None and (piece := found.more.fetch()):
        rows += piece
    return rows


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[dqlite_py.Node]]:
    with embedded_cluster(tmp_path) as running:
        for node in running:
            gateway(node).open_database("app", T_S)
        write(running[0], "CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)")
        yield running


def fill(node: dqlite_py.Node, rows: int) -> int:
    return write(
        node,
        "INSERT INTO t (b) WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < ?) "
        "SELECT 'row ' || x FROM c",
        rows,
    )


@pytest.mark.parametrize("freshness", [Freshness(), LEADER, Freshness(ReadLevel.STALE, 0, 0.0)])
def test_reads_that_need_the_leader_see_every_write_on_every_node(
    nodes: list[dqlite_py.Node], freshness: Freshness
) -> None:
    for number in range(1, 31):
        write(nodes[number % 3], "INSERT INTO t (b) VALUES (?)", str(number))
        assert read(nodes[(number + 1) % 3], "SELECT count(*) FROM t", freshness).rows == [(number,)]


def test_leader_reads_need_no_message_and_no_loop(nodes: list[dqlite_py.Node]) -> None:
    leader = leader_of(nodes)
    write(leader, "INSERT INTO t VALUES (1, 'x')")
    reads = leader._running().reads
    wait_until(lambda: reads.is_fresh("app", LEADER), "a lease")
    before = reads._next_id
    for _ in range(100):
        assert read(leader, "SELECT b FROM t", LEADER).rows == [("x",)]
    assert (
        reads._next_id - before < 50
    )  # rounds of leadership that were asked for: none, but for a slow machine


def test_followers_ask_for_the_lease_without_a_round(nodes: list[dqlite_py.Node]) -> None:
    leader = leader_of(nodes)
    wait_until(lambda: leader._running().reads.is_fresh("app", LEADER), "a lease")
    follower = next(node for node in nodes if node is not leader)
    before = leader._running().reads._next_id
    for _ in range(100):
        read(follower, "SELECT b FROM t", LEADER)
    assert leader._running().reads._next_id - before < 50


def test_a_session_sees_its_own_writes_and_never_goes_back(nodes: list[dqlite_py.Node]) -> None:
    """By nothing but the token, from node to node."""
    token = 0
    seen = 0
    for number in range(1, 61):
        if number % 2:
            token = max(token, write(nodes[number % 3], "INSERT INTO t (b) VALUES ('x')"))
            seen += 1
        found = read(nodes[(number + 1) % 3], "SELECT count(*) FROM t", Freshness(ReadLevel.SESSION, token))
        assert found.log_index >= token
        assert found.rows == [(seen,)]
        token = found.log_index


def test_sessions_of_many_threads_are_monotonic(nodes: list[dqlite_py.Node]) -> None:
    stop = threading.Event()
    failures: list[str] = []
    first = write(nodes[0], "INSERT INTO t (b) VALUES ('x')")

    def watch(offset: int) -> None:
        token, last = first, 0
        turn = offset
        while not stop.is_set():
            turn += 1
            found = read(nodes[turn % 3], "SELECT count(*) FROM t", Freshness(ReadLevel.SESSION, token))
            count = found.rows[0][0]
            if count < last or found.log_index < token:  # type: ignore[operator]
                failures.append(f"{count} rows at {found.log_index} after {last} at {token}")
            last, token = count, found.log_index  # type: ignore[assignment]

    threads = [threading.Thread(target=watch, args=(offset,)) for offset in range(3)]
    for thread in threads:
        thread.start()
    for number in range(150):
        write(nodes[number % 3], "INSERT INTO t (b) VALUES ('x')")
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_token_of_the_future_is_waited_for_and_then_told(nodes: list[dqlite_py.Node]) -> None:
    with pytest.raises(errors.TooStale, match=r"has applied log index \d+, not yet 1000000"):
        read(nodes[0], "SELECT 1", Freshness(ReadLevel.SESSION, 1_000_000), 0.2)
    wait_until(
        lambda: not nodes[0]._running().applier()._waiters or write(nodes[0], "DELETE FROM t"), "no leftovers"
    )


def test_a_node_that_is_cut_off(nodes: list[dqlite_py.Node]) -> None:
    """The others stop: what is left serves what it has, within the bound that a read sets."""
    leader = leader_of(nodes)
    left = next(node for node in nodes if node is not leader)
    token = write(leader, "INSERT INTO t VALUES (1, 'x')")
    within = Freshness(ReadLevel.STALE, 0, 3600.0)
    wait_until(lambda: left._running().reads.is_fresh("app", within), "the follower heard of it")
    assert read(left, "SELECT b FROM t", Freshness(ReadLevel.SESSION, token)).rows == [("x",)]
    for node in nodes:
        if node is not left:
            node.stop(hand_over=False)
    for freshness in (STALE, within, Freshness(ReadLevel.SESSION, token)):
        assert read(left, "SELECT b FROM t", freshness, 2.0).rows == [("x",)]
    wait_until(lambda: left._running().reads.staleness_ms("app") > 2_000, "time passes")
    with pytest.raises(errors.TooStale, match=r"up to date \d+\.\d s ago, 2 s are allowed"):
        read(left, "SELECT b FROM t", Freshness(ReadLevel.STALE, 0, 2.0), 0.3)
    for freshness in (Freshness(), LEADER):
        with pytest.raises(errors.NoLeader):
            read(left, "SELECT b FROM t", freshness, 0.3)
    assert read(left, "SELECT b FROM t", within, 2.0).rows == [("x",)]


def test_a_long_stream_beside_writes_and_checkpoints(nodes: list[dqlite_py.Node]) -> None:
    fill(nodes[0], 100_000)
    for node in nodes:
        found = read(node, "SELECT a, b FROM t ORDER BY a", Freshness())
        assert found.more is not None
        rows = list(found.rows)
        for _ in range(20):
            write(nodes[0], "UPDATE t SET b = b || '!' WHERE a % 100 = 0")
            rows += found.more.fetch()
        rows += rest(found._replace(rows=[]))
        assert len(rows) == 100_000
        assert len({text.count("!") for a, text in rows if a % 100 == 0}) == 1  # one state


def test_as_many_streams_as_there_may_be(nodes: list[dqlite_py.Node]) -> None:
    fill(nodes[0], 3_000)
    for node in nodes:
        streams = [read(node, "SELECT a FROM t", Freshness()) for _ in range(64)]
        assert all(found.more is not None for found in streams)
        with pytest.raises(errors.Busy, match="64 results"):
            read(node, "SELECT a FROM t", STALE)
        write(nodes[0], "UPDATE t SET b = 'y' WHERE a = 1")
        assert read(node, "SELECT b FROM t WHERE a = 1", Freshness()).rows == [("y",)]
        assert {len(rest(found)) for found in streams} == {3_000}


@pytest.mark.parametrize("level", [Freshness(), LEADER, STALE, Freshness(ReadLevel.SESSION, 1)])
def test_a_read_transaction_keeps_its_state_and_blocks_nobody(
    nodes: list[dqlite_py.Node], level: Freshness
) -> None:
    fill(nodes[0], 2_000)
    for node in nodes:
        read(node, "SELECT 1", Freshness())  # the table is there also for a stale read
        transaction = gateway(node).begin_read("app", level, T_S, LIMITS)
        before = transaction.query("SELECT count(*) FROM t", (), T_S)
        assert before.log_index == transaction.log_index > 0
        stream = transaction.query("SELECT a FROM t", (), T_S)
        write(nodes[0], "DELETE FROM t WHERE a = (SELECT max(a) FROM t)")
        assert transaction.query("SELECT count(*) FROM t", (), T_S).rows == before.rows
        assert [(len(rest(stream)),)] == before.rows
        transaction.close()
        with pytest.raises(errors.TransactionEnded):
            transaction.query("SELECT 1", (), T_S)


def test_a_forgotten_transaction_is_ended(nodes: list[dqlite_py.Node]) -> None:
    transaction = gateway(nodes[1]).begin_read("app", STALE, T_S, TransactionLimits(0.1, 60))
    pool = nodes[1]._running().applier().readers["app"]
    wait_until(lambda: not pool.has_held, "the node ends it")
    with pytest.raises(errors.TransactionEnded, match=r"not used for over 0\.1 s"):
        transaction.query("SELECT 1", (), T_S)


def test_dropping_the_database_ends_what_is_open(nodes: list[dqlite_py.Node]) -> None:
    fill(nodes[0], 3_000)
    for node in nodes:
        read(node, "SELECT 1", Freshness())  # the rows are there also for a stale read
    open_ones = [
        (gateway(n).begin_read("app", STALE, T_S, LIMITS), read(n, "SELECT a FROM t", Freshness()))
        for n in nodes
    ]
    nodes[0].drop_database("app")
    for transaction, found in open_ones:
        wait_until(
            lambda transaction=transaction: ended(lambda: transaction.query("SELECT 1", (), T_S)),
            "it has ended",
        )
        with pytest.raises(errors.TransactionEnded, match="was dropped"):
            transaction.query("SELECT 1", (), T_S)
        assert found.more is not None
        with pytest.raises(errors.OperationalError, match="was dropped"):
            found.more.fetch()


def test_stopping_the_node_ends_what_is_open(nodes: list[dqlite_py.Node]) -> None:
    fill(nodes[0], 3_000)
    node = nodes[2]
    transaction = gateway(node).begin_read("app", STALE, T_S, LIMITS)
    found = read(node, "SELECT a FROM t", Freshness())
    node.stop(hand_over=False)
    with pytest.raises(errors.TransactionEnded, match="the node is stopping"):
        transaction.query("SELECT 1", (), T_S)
    assert found.more is not None
    with pytest.raises(errors.OperationalError, match="the node is stopping"):
        found.more.fetch()


def test_an_interrupt_ends_the_query_and_the_wait(nodes: list[dqlite_py.Node]) -> None:
    interrupt = Interrupt()
    done = threading.Event()

    def nag() -> None:
        while not done.wait(0.01):
            interrupt.request()

    nagging = threading.Thread(target=nag)
    nagging.start()
    for freshness in (STALE, Freshness(), Freshness(ReadLevel.SESSION, 1_000_000)):
        with pytest.raises(errors.OperationalError, match="interrupted"):
            gateway(nodes[1]).query("app", ENDLESS, (), freshness, 60.0, interrupt)
    done.set()
    nagging.join()


def ended(call: Any) -> bool:
    try:
        call()
    except errors.TransactionEnded:
        return True
    return False
