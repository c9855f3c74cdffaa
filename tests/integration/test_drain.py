"""A stop that somebody asked for lets transactions end that are open on the leader."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import dqlite_py
from dqlite_py.errors import TransactionEnded
from tests.integration.cluster import wait_until
from tests.integration.embedded import embedded_cluster, leader_of


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[dqlite_py.Node]]:
    with embedded_cluster(tmp_path) as started:
        leader_of(started).connect("app", isolation_level=None).execute("CREATE TABLE t(v)")
        yield started


def stopping(node: dqlite_py.Node, drain_s: float) -> threading.Thread:
    thread = threading.Thread(target=node.stop, kwargs={"drain_s": drain_s}, name="stops")
    thread.start()
    return thread


def test_an_open_transaction_ends_first(
    nodes: list[dqlite_py.Node], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    leader = leader_of(nodes)
    other = next(node for node in nodes if node is not leader)
    conn = other.connect("app", isolation_level=None)
    conn.execute("BEGIN IMMEDIATE")
    conn.execute("INSERT INTO t VALUES (1)")
    thread = stopping(leader, 60.0)
    wait_until(lambda: "waiting for open transactions" in caplog.text, "it waits")
    conn.execute("INSERT INTO t VALUES (2)")
    conn.execute("COMMIT")
    thread.join(60.0)
    assert leader.join_thread(0)
    assert conn.execute("SELECT v FROM t ORDER BY v").fetchall() == [(1,), (2,)]


def test_one_that_does_not_end_is_rolled_back(
    nodes: list[dqlite_py.Node], caplog: pytest.LogCaptureFixture
) -> None:
    leader = leader_of(nodes)
    conn = next(node for node in nodes if node is not leader).connect("app", isolation_level=None)
    conn.execute("BEGIN IMMEDIATE")
    conn.execute("INSERT INTO t VALUES (1)")
    thread = stopping(leader, 0.2)
    thread.join(60.0)
    assert leader.join_thread(0)
    assert "open transactions are rolled back count=1" in caplog.text
    with pytest.raises(TransactionEnded) as caught:
        conn.execute("COMMIT")
    assert caught.value.retryable
    assert conn.execute("SELECT count(*) FROM t").fetchone() == (0,)
