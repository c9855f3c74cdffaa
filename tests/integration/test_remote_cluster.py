"""A cluster from outside its nodes' processes: changes through fail-over, lists and drops of databases, forks."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import dqlite_py
from dqlite_py.client.shared import shared_link
from dqlite_py.errors import InterfaceError, OperationalError
from dqlite_py.wire.dqlite.extension import encode_call, encode_opening
from tests.integration.cluster import wait_until
from tests.integration.embedded import embedded_cluster, leader_of
from tests.integration.test_changes import _is_kept, execute, last_index, upto, work

WAIT_S = 30.0


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[dqlite_py.Node]]:
    with embedded_cluster(tmp_path, keep_changes=2**24) as found:
        yield found


@pytest.fixture
def cluster(nodes: list[dqlite_py.Node]) -> Iterator[dqlite_py.RemoteCluster]:
    with dqlite_py.RemoteCluster([node.address for node in nodes]) as found:
        yield found


def followed(nodes: list[dqlite_py.Node]) -> int:
    """Every node keeps the changes from the returned log index on."""
    execute(nodes[0])
    wait_until(lambda: all(_is_kept(node) for node in nodes), "all keep changes")
    return last_index(leader_of(nodes))


def test_the_changes_that_a_node_tells(nodes: list[dqlite_py.Node], cluster: dqlite_py.RemoteCluster) -> None:
    with cluster.changes("app", timeout=WAIT_S) as stream:
        start = stream.position
        assert start is not None
        work(nodes)
        execute(nodes[0], "INSERT INTO t (v) VALUES (zeroblob(3000000)), (1.5), ('x'), (NULL)")
        told = upto(stream, last_index(nodes[0]))
    with nodes[0].changes("app", after=start, timeout=WAIT_S) as here:
        assert told == upto(here, last_index(nodes[0]))


def test_the_node_that_tells_them_is_lost(
    nodes: list[dqlite_py.Node], cluster: dqlite_py.RemoteCluster
) -> None:
    start = followed(nodes)
    work(nodes)
    with nodes[2].changes("app", after=start, timeout=WAIT_S) as here:
        expected = upto(here, last_index(leader_of(nodes)))
    with cluster.changes("app", after=start, timeout=WAIT_S) as stream:
        told = [next(stream) for _ in range(10)]
        nodes[0].stop(hand_over=False)
        told += upto(stream, last_index(leader_of(nodes[1:])))
        assert told == expected


def test_a_drop_ends_a_stream(nodes: list[dqlite_py.Node], cluster: dqlite_py.RemoteCluster) -> None:
    work(nodes)
    stream = cluster.changes("app", timeout=WAIT_S)
    assert "app" in cluster.databases()
    cluster.drop_database("app")
    assert "app" not in cluster.databases()
    with pytest.raises(OperationalError, match="dropped"):
        next(stream)


async def test_for_an_event_loop(nodes: list[dqlite_py.Node], cluster: dqlite_py.RemoteCluster) -> None:
    start = await asyncio.to_thread(followed, nodes)
    await asyncio.to_thread(work, nodes)
    async with cluster.changes_async("app", after=start, timeout=WAIT_S) as stream:
        assert (await anext(stream)).kind is dqlite_py.ChangeKind.SCHEMA


def test_what_is_given_wrongly(nodes: list[dqlite_py.Node], cluster: dqlite_py.RemoteCluster) -> None:
    with pytest.raises(InterfaceError, match="log index"):
        cluster.changes("app", after=-1)
    with pytest.raises(InterfaceError, match="name no database"):
        dqlite_py.RemoteCluster(f"{nodes[0].address}/app")
    with pytest.raises(InterfaceError, match="unknown options: colour"):
        dqlite_py.RemoteCluster(nodes[0].address, colour="red")
    cluster.close()
    with pytest.raises(InterfaceError, match="closed"):
        cluster.databases()


def test_a_child_lets_go_of_its_parents_sockets(
    nodes: list[dqlite_py.Node], cluster: dqlite_py.RemoteCluster
) -> None:
    connection = cluster.connect("app")
    connection.execute("CREATE TABLE t (v)")
    link = shared_link([node.address for node in nodes], None)  # type: ignore[misc]
    numbers = link.background.resource.descriptors()
    assert numbers
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        targets = [os.readlink(f"/proc/self/fd/{number}") for number in numbers]
        os.write(writing, repr(targets).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as found:
        assert found.read() == repr(["/dev/null"] * len(numbers))
    os.waitpid(child, 0)
    connection.execute("INSERT INTO t VALUES (1)")  # the parent's connection is unharmed
    connection.close()


def test_an_opening_in_two_segments(nodes: list[dqlite_py.Node]) -> None:
    host, _, port = nodes[0].address.rpartition(":")
    opening = encode_opening(bytes.fromhex(nodes[0].cluster_id))
    with socket.create_connection((host, int(port)), WAIT_S) as client:
        client.sendall(opening[:8])
        wait_until(lambda: nodes[0].status()["dqlite"]["connections"] == 1, "dqlite's protocol has it")
        client.sendall(opening[8:] + encode_call(7, "members", b"\x80"))
        heard = b""
        while b"voter" not in heard:
            data = client.recv(65_536)
            assert data, heard
            heard += data
        assert nodes[0].status()["programs"]["connections"] == 1
    wait_until(lambda: nodes[0].status()["programs"]["connections"] == 0, "it is gone")
