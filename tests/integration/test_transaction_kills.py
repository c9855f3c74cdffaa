"""The leader is killed -9 while transactions of another node's users are open, and while they commit."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dqlite_py.command import encode_statements
from dqlite_py.errors import Error, Outcome, TransactionEnded
from dqlite_py.gateway import LINEARIZABLE, TransactionLimits
from tests.integration.cluster import wait_until
from tests.integration.mixed_cluster import MixedCluster

KILLS = 5
CLIENTS = 4
LIMITS = TransactionLimits(30.0, 60.0)
READ = encode_statements([("SELECT n FROM counter", [])])
SCHEMA = encode_statements([("CREATE TABLE counter(n INTEGER)", []), ("INSERT INTO counter VALUES (0)", [])])


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[MixedCluster]:
    with MixedCluster(tmp_path) as running:
        running.node.gateway.execute_unit("app", SCHEMA, 30.0)
        yield running


def value(cluster: MixedCluster) -> int:
    ((n,),) = cluster.node.gateway.query("app", "SELECT n FROM counter", (), LINEARIZABLE, 30.0).rows
    assert isinstance(n, int)
    return n


def increment(cluster: MixedCluster) -> None:
    transaction = cluster.node.gateway.begin("app", 60.0, LIMITS)
    try:
        (found,) = transaction.run(READ, 30.0)
        assert found.rows is not None
        (n,) = found.rows[0]
        assert isinstance(n, int)
        transaction.run(encode_statements([("UPDATE counter SET n = ?", [n + 1])]), 30.0)
        transaction.commit(60.0)
    finally:
        transaction.rollback()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_killed_between_two_statements(cluster: MixedCluster) -> None:
    cluster.let_a_process_lead()
    transaction = cluster.node.gateway.begin("app", 30.0, LIMITS)
    transaction.run(encode_statements([("UPDATE counter SET n = 100", [])]), 30.0)
    cluster.kill_leader()
    with pytest.raises(TransactionEnded) as caught:
        transaction.run(READ, 30.0)
    assert caught.value.outcome is Outcome.NOT_APPLIED
    assert not transaction.is_open
    with pytest.raises(TransactionEnded):
        transaction.commit(30.0)
    transaction.rollback()
    assert value(cluster) == 0
    increment(cluster)
    assert value(cluster) == 1


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_while_transactions_come_and_go(cluster: MixedCluster) -> None:
    """Every outcome is known in the end: success, or a certain no."""
    stopping = threading.Event()
    committed = [0] * CLIENTS
    ended = [0] * CLIENTS
    failures: list[BaseException] = []

    def work(number: int) -> None:
        while not stopping.is_set():
            try:
                increment(cluster)
            except Error as error:
                if error.outcome is not Outcome.NOT_APPLIED or not error.retryable:
                    failures.append(error)
                    raise
                ended[number] += 1
            except BaseException as error:
                failures.append(error)
                raise
            else:
                committed[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(KILLS):
            before = sum(committed)
            wait_until(lambda b=before: failures or sum(committed) > b + 20, "transactions go on")
            cluster.kill_leader()
    finally:
        stopping.set()
        for thread in threads:
            thread.join(90)
    assert failures == []
    assert value(cluster) == sum(committed)
    assert sum(ended) >= 1


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_program_that_vanishes_leaves_the_database_free(cluster: MixedCluster) -> None:
    cluster.let_a_process_lead()
    client, leader = cluster.processes.client, cluster.processes.leader()
    body = {"id": b"i" * 16, "database": "app", "wait_s": 30.0, "idle_s": 600.0, "hold_s": 600.0}
    client.call(leader.address, "tx.begin", body)
    results, is_open, _ = client.call(
        leader.address, "tx.run", {"id": b"i" * 16, "body": READ, "timeout_s": 30.0}
    )
    assert is_open
    assert results
    cluster.processes.client.drop_connections()
    increment(cluster)
    assert value(cluster) == 1
