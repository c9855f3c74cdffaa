"""Requests about the cluster through dqlite's protocol: who leads, who is told so, what happens when it changes."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import dqlite_py
from dqlite_py.wire.dqlite.frames import Version
from dqlite_py.wire.dqlite.requests import RequestType
from dqlite_py.wire.dqlite.responses import (
    Database,
    Empty,
    Failure,
    Files,
    Metadata,
    Result,
    Server,
    ServerEntry,
    Servers,
    Welcome,
)
from dqlite_py.wire.dqlite.values import typed
from tests.integration.cluster import wait_until
from tests.integration.embedded import embedded_cluster, leader_of
from tests.support.dqliteclient import DqliteClient

NOT_LEADER = Failure(10250, "not leader")
SQL_REQUESTS = (
    (RequestType.OPEN, ("app", 0, "")),
    (RequestType.PREPARE, (0, "SELECT 1")),
    (RequestType.EXEC, (0, 0, ())),
    (RequestType.QUERY, (0, 0, ())),
    (RequestType.EXEC_SQL, (0, "SELECT 1", ())),
    (RequestType.QUERY_SQL, (0, "SELECT 1", ())),
    (RequestType.ADD, (9, "127.0.0.1:1")),
    (RequestType.ASSIGN, (9, 0)),
    (RequestType.REMOVE, (9,)),
    (RequestType.TRANSFER, (0,)),
)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[dqlite_py.Node]]:
    with embedded_cluster(tmp_path) as made:
        yield made


@pytest.fixture
def node(tmp_path: Path) -> Iterator[dqlite_py.Node]:
    with dqlite_py.Node(tmp_path / "node") as made:
        made.wait_ready()
        yield made


def followers(nodes: list[dqlite_py.Node]) -> list[dqlite_py.Node]:
    leader = leader_of(nodes)
    return [node for node in nodes if node is not leader]


def wait_until_it_serves(client: DqliteClient, node: dqlite_py.Node) -> None:
    """It names itself as soon as it takes requests."""
    wait_until(
        lambda: client.call(RequestType.LEADER, 0) == Server(node.node_id, node.address), "the leader serves"
    )


def test_every_node_names_the_leader_and_only_the_leader_serves(nodes: list[dqlite_py.Node]) -> None:
    leader = leader_of(nodes)
    for node in nodes:
        with DqliteClient(node.address) as client:
            found = client.call(RequestType.LEADER, 0)
            assert found == Server(leader.node_id, leader.address)
            assert client.call(RequestType.CLIENT, 4711) == Welcome(15_000)
    for node in followers(nodes):
        with DqliteClient(node.address) as client:
            for kind, fields in SQL_REQUESTS:
                assert client.call(kind, *fields) == NOT_LEADER, kind


def test_a_client_of_the_legacy_version_is_told_an_address_only(node: dqlite_py.Node) -> None:
    with DqliteClient(node.address, version=Version.LEGACY) as client:
        assert client.call(RequestType.LEADER, 0) == Server(None, node.address)
        assert client.call(RequestType.OPEN, "app", 0, "") == Database(0)


def test_members_in_both_formats(nodes: list[dqlite_py.Node]) -> None:
    with DqliteClient(nodes[0].address) as client:
        found = client.call(RequestType.CLUSTER, 1)
        assert isinstance(found, Servers)
        assert set(found.entries) == {ServerEntry(node.node_id, node.address, 0) for node in nodes}
        client.has_roles = False
        found = client.call(RequestType.CLUSTER, 0)
        assert isinstance(found, Servers)
        assert set(found.entries) == {ServerEntry(node.node_id, node.address) for node in nodes}
        assert client.call(RequestType.CLUSTER, 2) == Failure(1005, "unrecognized cluster format")


def test_describe_of_an_unknown_format_ends_nobodys_process(node: dqlite_py.Node) -> None:
    with DqliteClient(node.address) as client:
        assert client.call(RequestType.DESCRIBE, 1) == Failure(15, "bad format version")
        assert isinstance(client.call(RequestType.DESCRIBE, 0), Metadata)


def test_requests_that_dqlite_has_no_use_for(node: dqlite_py.Node) -> None:
    with DqliteClient(node.address) as client:
        assert client.call(RequestType.HEARTBEAT, 1) == Failure(1005, "unrecognized request type")
        assert client.call(RequestType.CONNECT, 1, "127.0.0.1:1") == Failure(
            1005, "unrecognized request type"
        )
        assert client.call(RequestType.INTERRUPT, 0) == Empty()


def test_a_database_is_opened_once(node: dqlite_py.Node) -> None:
    none = Failure(12, "no database opened")
    with DqliteClient(node.address) as client:
        assert client.call(RequestType.EXEC_SQL, 0, "SELECT 1", ()) == none
        assert client.call(RequestType.FINALIZE, 0, 0) == none
        bad = client.call(RequestType.OPEN, "../etc/passwd", 0, "")
        assert isinstance(bad, Failure)
        assert client.call(RequestType.OPEN, "app", 0, "volatile") == Database(0)
        assert client.call(RequestType.EXEC_SQL, 7, "SELECT 1", ()) == none
        again = client.call(RequestType.OPEN, "other", 0, "")
        assert again == Failure(5, "a database for this connection is already open")


def test_leadership_is_transferred(nodes: list[dqlite_py.Node]) -> None:
    leader, target = leader_of(nodes), followers(nodes)[0]
    with DqliteClient(leader.address, database="app") as client:
        assert client.call(RequestType.TRANSFER, 4711) == Failure(1, "server ID is not valid")
        assert client.call(RequestType.TRANSFER, target.node_id) == Empty()
        assert client.execute("SELECT 1 WHERE 0") == NOT_LEADER
        assert client.call(RequestType.LEADER, 0) == Server(target.node_id, target.address)
    with DqliteClient(target.address) as client:
        wait_until_it_serves(client, target)
        assert client.call(RequestType.TRANSFER, 0) == Empty()
        assert leader_of(nodes) is not target


def test_members_are_removed(nodes: list[dqlite_py.Node]) -> None:
    leader, gone = leader_of(nodes), followers(nodes)[0]
    with DqliteClient(leader.address) as client:
        assert client.call(RequestType.REMOVE, 4711) == Failure(1, "server ID is not valid")
        assert client.call(RequestType.REMOVE, gone.node_id) == Empty()
        assert gone.node_id not in {member["id"] for member in leader.members()}
        assert client.call(RequestType.REMOVE, gone.node_id) == Failure(1, "server ID is not valid")


def test_members_are_added(node: dqlite_py.Node) -> None:
    with DqliteClient(node.address) as client:
        assert client.call(RequestType.ADD, node.node_id, "127.0.0.1:1") == Failure(
            1, "server ID already in use"
        )
        for wrong in ("no address", "127.0.0.1:0", ""):
            assert isinstance(client.call(RequestType.ADD, 4711, wrong), Failure)
        assert client.call(RequestType.ADD, 4711, "127.0.0.1:1") == Empty()
        assert {member["id"]: member["address"] for member in node.members()}[4711] == "127.0.0.1:1"
        assert {member["id"]: member["role"] for member in node.members()}[4711] == "spare"
        assert client.call(RequestType.ASSIGN, 99, 0) == Failure(1, "Resource not found")
        assert client.call(RequestType.ASSIGN, 4711, 2) == Failure(1, "server role is not valid")
        assert client.call(RequestType.ASSIGN, 4711, 7) == Failure(1, "server role is not valid")
        unheard = client.call(RequestType.ASSIGN, 4711, 1)  # nobody knows what a node there would understand
        assert isinstance(unheard, Failure)
        assert unheard.code == 1
        assert client.call(RequestType.REMOVE, 4711) == Empty()


def test_roles_are_assigned(nodes: list[dqlite_py.Node]) -> None:
    leader, changed = leader_of(nodes), followers(nodes)[0]
    with DqliteClient(leader.address) as client:
        for role, name in ((2, "spare"), (1, "standby"), (0, "voter")):
            assert client.call(RequestType.ASSIGN, changed.node_id, role) == Empty()
            assert {member["id"]: member["role"] for member in leader.members()}[changed.node_id] == name


@pytest.mark.parametrize("request_type", [RequestType.ASSIGN, RequestType.REMOVE])
def test_the_leader_itself_is_relieved_of_its_vote_or_removed(
    nodes: list[dqlite_py.Node], request_type: RequestType
) -> None:
    leader = leader_of(nodes)
    others = [node for node in nodes if node is not leader]
    fields = (leader.node_id, 2) if request_type is RequestType.ASSIGN else (leader.node_id,)
    with DqliteClient(leader.address) as client:
        assert client.call(request_type, *fields) == Empty()
    roles = {member["id"]: member["role"] for member in leader_of(others).members()}
    left = {leader.node_id: "spare"} if request_type is RequestType.ASSIGN else {}
    assert roles == {node.node_id: "voter" for node in others} | left


def test_a_weight_is_set_at_any_node_and_known_to_all(nodes: list[dqlite_py.Node]) -> None:
    told = followers(nodes)[0]
    with DqliteClient(told.address) as client:
        assert client.call(RequestType.DESCRIBE, 0) == Metadata(0, 0)
        assert client.call(RequestType.WEIGHT, 7) == Empty()
        wait_until(
            lambda: client.call(RequestType.DESCRIBE, 0) == Metadata(0, 7), "the node knows its weight"
        )
        assert client.call(RequestType.WEIGHT, 2**64 - 1) == Empty()
    with DqliteClient(leader_of(nodes).address) as client:
        assert client.call(RequestType.DESCRIBE, 0) == Metadata(0, 0)


def test_writes_and_transactions_over_a_change_of_leaders(nodes: list[dqlite_py.Node]) -> None:
    leader = leader_of(nodes)
    with (
        DqliteClient(leader.address, database="app") as writer,
        DqliteClient(leader.address, database="app") as holder,
    ):
        writer.done("CREATE TABLE t (a)")
        holder.done("BEGIN IMMEDIATE")
        holder.done("INSERT INTO t VALUES ('lost')")
        written = threading.Thread(target=lambda: writer.done("INSERT INTO t VALUES ('waits')"))
        before = leader.status()["dqlite"]["requests"]
        written.start()
        wait_until(lambda: leader.status()["dqlite"]["requests"] == before + 1, "the write waits")
        leader.transfer_leadership()
        written.join(20)
        assert not written.is_alive()
        assert holder.execute("COMMIT") == NOT_LEADER
    new = leader_of(nodes)
    with DqliteClient(new.address) as client:
        wait_until_it_serves(client, new)
        assert client.call(RequestType.OPEN, "app", 0, "") == Database(0)
        assert client.values("SELECT a FROM t") == [("waits",)]


def test_a_dump_is_a_database_on_any_node(nodes: list[dqlite_py.Node], tmp_path: Path) -> None:
    leader = leader_of(nodes)
    with DqliteClient(leader.address, database="app") as client:
        client.done("CREATE TABLE t (a, b)")
        for number in range(20):
            client.done("INSERT INTO t VALUES (?, zeroblob(100000))", number)
    for node in nodes:
        wait_until(lambda node=node: node.databases().get("app") == leader.databases()["app"], "all applied")
        with DqliteClient(node.address) as client:
            found = client.call(RequestType.DUMP, "app")
            assert isinstance(found, Files)
            (name, image), wal = found.files
            assert (name, wal) == ("app", ("app-wal", b""))
            assert client.call(RequestType.DUMP, "nowhere") == Failure(1002, "database does not exists")
            assert client.call(RequestType.DUMP, "../x") == Failure(1002, "database does not exists")
            assert client.call(RequestType.CLIENT, 1) == Welcome(15_000)
        path = tmp_path / f"{node.node_id}.db"
        path.write_bytes(image)
        with closing(sqlite3.connect(path)) as copy:
            assert copy.execute("SELECT count(*), sum(a) FROM t").fetchone() == (20, 190)
            assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_status_counts_what_clients_do(node: dqlite_py.Node) -> None:
    with DqliteClient(node.address, database="app") as client:
        assert client.call(RequestType.EXEC_SQL, 0, "CREATE TABLE t (a)", ()) == Result(0, 0)
        client.call(RequestType.EXEC_SQL, 0, "INSERT INTO t VALUES (?)", (typed(1),))
        status = node.status()["dqlite"]
        assert (status["connections"], status["requests"], status["violations"]) == (1, 3, {})
    wait_until(lambda: node.status()["dqlite"]["connections"] == 0, "the connection is gone")
