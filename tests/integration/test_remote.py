"""Programs outside the nodes: the usual connections over the network, through fail-over, and when nobody answers."""

from __future__ import annotations

import asyncio
import itertools
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dqlite_py
from dqlite_py.errors import (
    DatabaseLocked,
    IntegrityError,
    NoLeader,
    OperationalError,
    Outcome,
    TransactionEnded,
    WrongCluster,
)
from dqlite_py.node import transaction_services
from tests.integration.cluster import Cluster, wait_until
from tests.integration.embedded import check_same_state, embedded_cluster, leader_of

WAIT_S = 30.0


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[dqlite_py.Node]]:
    with embedded_cluster(tmp_path) as found:
        yield found


def target(nodes: list[dqlite_py.Node]) -> str:
    return ",".join(node.address for node in nodes) + "/app"


def test_a_connection_like_any_other(nodes: list[dqlite_py.Node]) -> None:
    with dqlite_py.connect(f"dqlitepy://{target(nodes)}") as conn:
        conn.execute("CREATE TABLE t(k INTEGER PRIMARY KEY, v TEXT UNIQUE)")
        found = conn.execute("INSERT INTO t(v) VALUES (?), (?) RETURNING k", ("a", "b"))
        assert found.fetchall() == [(1,), (2,)]
        conn.execute("SAVEPOINT s")
        conn.execute("DELETE FROM t")
        assert conn.execute("SELECT count(*) FROM t").fetchone() == (0,)
        conn.execute("ROLLBACK TO s")
        with pytest.raises(IntegrityError) as caught:
            conn.execute("INSERT INTO t(v) VALUES ('a')")
        assert caught.value.code == 2067
        conn.commit()
        conn.execute("INSERT INTO t(v) VALUES ('c')")
        conn.rollback()
        assert conn.execute("SELECT v FROM t ORDER BY k").fetchall() == [("a",), ("b",)]
        conn.executemany("INSERT INTO t(v) VALUES (:v)", [{"v": f"many {n}"} for n in range(500)])
        conn.commit()
        assert conn.execute("PRAGMA table_info(t)").fetchall()[0][1] == "k"
        with pytest.raises(OperationalError, match="no such table"):
            conn.execute("SELECT * FROM missing")
    conn.close()
    assert nodes[0].connect("app").execute("SELECT count(*) FROM t").fetchone() == (502,)
    check_same_state(nodes)


def test_transactions_exclude_each_other(nodes: list[dqlite_py.Node]) -> None:
    first = dqlite_py.connect(target(nodes), isolation_level=None)
    second = dqlite_py.connect(target(nodes), isolation_level=None, busy_timeout=0.2)
    first.execute("CREATE TABLE t(v)")
    first.execute("BEGIN IMMEDIATE")
    first.execute("INSERT INTO t VALUES (1)")
    with pytest.raises(DatabaseLocked):
        second.execute("BEGIN IMMEDIATE")
    assert second.execute("SELECT count(*) FROM t").fetchone() == (0,)
    first.execute("COMMIT")
    second.execute("BEGIN IMMEDIATE")
    assert second.execute("SELECT count(*) FROM t").fetchone() == (1,)
    second.execute("ROLLBACK")
    first.close()
    second.close()


def test_who_does_not_wait_gets_what_is_free(nodes: list[dqlite_py.Node]) -> None:
    with dqlite_py.connect(target(nodes), busy_timeout=0) as conn:
        conn.execute("CREATE TABLE t(v)")
        for number in range(5):
            conn.execute("INSERT INTO t VALUES (?)", (number,))
            conn.commit()
        assert conn.execute("SELECT count(*) FROM t").fetchone() == (5,)
    conn.close()


def test_a_program_that_goes_away_holds_up_nobody(nodes: list[dqlite_py.Node]) -> None:
    """Its transaction ends with its connection, long before the node's time limits."""
    gone = dqlite_py.connect(target(nodes), isolation_level=None, idle_limit=300.0)
    gone.execute("CREATE TABLE t(v)")
    gone.execute("BEGIN IMMEDIATE")
    gone.execute("INSERT INTO t VALUES (1)")
    gone._core.gateway._shared.background.end()
    with dqlite_py.connect([leader_of(nodes).address], "app", isolation_level=None) as conn:
        conn.execute("INSERT INTO t VALUES (2)")
        assert conn.execute("SELECT v FROM t").fetchall() == [(2,)]
    conn.close()
    with pytest.raises(dqlite_py.Error):
        gone.execute("INSERT INTO t VALUES (3)")
    gone.close()


def test_a_nodes_own_limits_of_transactions(nodes: list[dqlite_py.Node]) -> None:
    """Who asks for more does not get it: a reader keeps the write-ahead log, a writer everybody."""
    with dqlite_py.connect(
        target(nodes), isolation_level=None, idle_limit=50_000.0, hold_limit=80_000.0
    ) as conn:
        conn.execute("CREATE TABLE t(v)")
        conn.execute("BEGIN IMMEDIATE")
        [transaction] = leader_of(nodes)._running().transactions._open
        assert transaction.limits == (3600.0, 3600.0)
        conn.execute("ROLLBACK")
    conn.close()


def test_a_result_in_a_transaction_that_is_too_large_for_an_answer(
    nodes: list[dqlite_py.Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its statement ran: a COMMIT must not make durable what its program was told has failed."""
    monkeypatch.setattr(transaction_services, "RESULTS_BYTES_MAX", 1000)
    with dqlite_py.connect(target(nodes), isolation_level=None) as conn:
        conn.execute("CREATE TABLE t(v)")
        conn.execute("BEGIN IMMEDIATE")
        with pytest.raises(TransactionEnded, match="does not fit into an answer"):
            conn.execute("INSERT INTO t VALUES (zeroblob(2000)) RETURNING v")
        with pytest.raises(TransactionEnded):
            conn.execute("COMMIT")
        conn.execute("ROLLBACK")
        assert conn.execute("SELECT count(*) FROM t").fetchall() == [(0,)]
    conn.close()


async def test_asyncio(nodes: list[dqlite_py.Node]) -> None:
    async with dqlite_py.connect_async(target(nodes), isolation_level=None) as conn:
        await conn.execute("CREATE TABLE t(v)")

        async def write(number: int) -> None:
            async with dqlite_py.connect_async(target(nodes), isolation_level=None) as own:
                await own.execute("INSERT INTO t VALUES (?)", (number,))
                await own.execute("BEGIN")
                await own.execute("INSERT INTO t VALUES (?)", (-number,))
                await own.execute("ROLLBACK")

        await asyncio.gather(*(write(number) for number in range(50)))
        found = await conn.execute("SELECT v FROM t ORDER BY v")
        assert [row async for row in found] == [(number,) for number in range(50)]


# -- when things go wrong ---------------------------------------------------------------------------------------


@pytest.fixture
def nobody() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{probe.getsockname()[1]}"


def test_nobody_there(nobody: str) -> None:
    with pytest.raises(NoLeader, match=nobody) as caught:
        dqlite_py.connect(f"{nobody}/app", timeout=0.5)
    assert caught.value.outcome is Outcome.NOT_APPLIED


def test_nodes_of_two_clusters(tmp_path: Path) -> None:
    with dqlite_py.Node(tmp_path / "a") as first, dqlite_py.Node(tmp_path / "b") as second:
        first.wait_ready()
        second.wait_ready()
        conn = dqlite_py.connect([first.address, second.address], "app", timeout=60)
        conn.execute("CREATE TABLE t(v)")
        assert "app" not in second.status()["databases"]
        first.stop()
        with pytest.raises((NoLeader, WrongCluster)):
            conn.execute("SELECT * FROM t", timeout=1).fetchall()
        conn.close()
        assert "app" not in second.status()["databases"]


def test_the_leader_stops_in_a_transaction(nodes: list[dqlite_py.Node]) -> None:
    conn = dqlite_py.connect(target(nodes), isolation_level=None, timeout=WAIT_S)
    conn.execute("CREATE TABLE t(v)")
    conn.execute("BEGIN IMMEDIATE")
    conn.execute("INSERT INTO t VALUES (1)")
    leader_of(nodes).stop(hand_over=False)
    with pytest.raises(TransactionEnded) as caught:
        conn.execute("INSERT INTO t VALUES (2)")
    assert caught.value.outcome is Outcome.NOT_APPLIED
    conn.rollback()
    conn.execute("INSERT INTO t VALUES (3)")
    assert conn.execute("SELECT v FROM t").fetchall() == [(3,)]
    conn.close()


class Writer(threading.Thread):
    """Writes its own numbers, by turns as lone statements and in transactions; each number is tried once."""

    def __init__(self, address: str, label: int) -> None:
        super().__init__(name=f"writer-{label}")
        self.address, self.label = address, label
        self.acknowledged: set[int] = set()
        self.unsure: set[int] = set()
        self.failed: list[Exception] = []
        self.stopping = threading.Event()

    def run(self) -> None:
        conn = dqlite_py.connect(self.address, isolation_level=None, timeout=WAIT_S, busy_timeout=WAIT_S)
        try:
            for number in itertools.count():
                if self.stopping.is_set():
                    return
                self.write(conn, number)
        except Exception as error:  # noqa: BLE001 - the test looks at it
            self.failed.append(error)
        finally:
            conn.close()

    def write(self, conn: Any, number: int) -> None:
        try:
            if number % 2:
                conn.execute("BEGIN IMMEDIATE")
            conn.execute("INSERT INTO rows VALUES (?, ?)", (self.label, number))
            if number % 2:
                conn.execute("COMMIT")
        except OperationalError as error:
            if error.outcome is Outcome.UNKNOWN:
                self.unsure.add(number)
            conn.rollback()
        else:
            self.acknowledged.add(number)


def test_the_leader_is_killed_again_and_again(tmp_path: Path) -> None:
    """What was acknowledged is there once, what failed is not there, and lone writes do not fail at all."""
    with Cluster(tmp_path) as cluster:
        addresses = ",".join(node.address for node in cluster.nodes) + "/app"
        with dqlite_py.connect(addresses, isolation_level=None, timeout=WAIT_S) as conn:
            conn.execute("CREATE TABLE rows(writer INTEGER, number INTEGER)")
        conn.close()
        writers = [Writer(addresses, label) for label in range(3)]
        for writer in writers:
            writer.start()
        for _ in range(3):
            before = [len(writer.acknowledged) for writer in writers]
            leader = cluster.leader()
            leader.kill()
            wait_until(
                lambda before=before: all(
                    len(writer.acknowledged) > count + 10
                    for writer, count in zip(writers, before, strict=True)
                ),
                f"writes go on without the leader: {[writer.failed for writer in writers]}",
            )
            leader.start()
            cluster.wait_formed()
        for writer in writers:
            writer.stopping.set()
        for writer in writers:
            writer.join(WAIT_S)
        assert not any(writer.failed for writer in writers)
        cluster.check_equal()
        rows = cluster.client.read(cluster.leader().address, "SELECT writer, number FROM rows")
        for writer in writers:
            found = sorted(number for label, number in rows if label == writer.label)
            assert len(found) == len(set(found)), "written twice"
            assert writer.acknowledged <= set(found), "lost"
            assert set(found) <= writer.acknowledged | writer.unsure, "written although it failed"
            assert all(number % 2 for number in writer.unsure), "a lone write had its key"
