"""Leaders killed -9 under load: every write is repeated inside by its key, and takes effect once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dqlite_py.command import encode_statements
from dqlite_py.errors import NeverApplied
from dqlite_py.gateway import WriteKey
from tests.integration.cluster import wait_until
from tests.integration.mixed_cluster import MixedCluster

KILLS = 5
WRITERS = 8
COUNT = encode_statements([("UPDATE counter SET n = n + 1 WHERE id = ?", [1])])
SCHEMA = encode_statements(
    [
        ("CREATE TABLE counter(id INTEGER PRIMARY KEY, n INTEGER)", []),
        ("INSERT INTO counter VALUES (1, 0)", []),
    ]
)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[MixedCluster]:
    with MixedCluster(tmp_path) as running:
        yield running


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_write_is_lost_or_doubled_when_leaders_are_killed(cluster: MixedCluster) -> None:
    gateway = cluster.node.gateway
    gateway.execute_unit("app", SCHEMA, 30.0)
    stopping = threading.Event()
    acknowledged = [0] * WRITERS
    failures: list[BaseException] = []

    def write(number: int) -> None:
        while not stopping.is_set():
            try:
                result = gateway.execute_unit("app", COUNT, 60.0)
            except BaseException as error:
                failures.append(error)
                raise
            assert result.statements is not None
            assert result.statements[0].rowcount == 1
            assert result.log_index > 0
            acknowledged[number] += 1

    threads = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(KILLS):
            before = sum(acknowledged)
            wait_until(lambda b=before: failures or sum(acknowledged) > b + 50, "writes go on")
            cluster.kill_leader()
    finally:
        stopping.set()
        for thread in threads:
            thread.join(90)
    assert failures == []
    connection = cluster.node.connect("app")
    ((n,),) = connection.execute("SELECT n FROM counter").fetchall()
    assert n == sum(acknowledged)
    connection.close()


@pytest.mark.slow
def test_what_became_of_a_write_is_found_by_its_key(cluster: MixedCluster) -> None:
    """By programs that asked with a key of their own, and lost the answer."""
    gateway = cluster.node.gateway
    gateway.execute_unit("app", SCHEMA, 30.0)
    client = cluster.processes.client
    address = cluster.processes.nodes[0].address
    _, _, log_time_us = client.call(
        address, "sql.execute", {"database": "app", "body": COUNT, "timeout_s": 30.0}
    )
    key = [b"a program's key.", log_time_us + 1]
    body = {"database": "app", "body": COUNT, "timeout_s": 30.0, "key": key}
    first = client.call(address, "sql.execute", body)
    other = cluster.processes.nodes[1].address
    assert client.call(other, "sql.execute", body)[1] == first[1]
    assert client.call(other, "sql.resolve", {"database": "app", "key": key})[1] == first[1]
    found = gateway.resolve("app", WriteKey(*key), 30.0)
    assert found.statements is not None
    assert found.statements[0].rowcount == 1
    unused = WriteKey(b"another session.", log_time_us + 2)
    with pytest.raises(NeverApplied):
        gateway.resolve("app", unused, 30.0)
    with pytest.raises(NeverApplied):
        client.call(address, "sql.execute", body | {"key": list(unused)})
    connection = cluster.node.connect("app")
    assert connection.execute("SELECT n FROM counter").fetchall() == [(2,)]
    connection.close()
