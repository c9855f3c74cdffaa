"""`python -m jepsen.server`: its requests, its answers to nonsense, and how it ends."""

from __future__ import annotations

import json
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jepsen.cluster.base import ProcessCluster
from jepsen.cluster.client import Failed, NodeClient, Unknown
from jepsen.cluster.loopback import LoopbackCluster
from jepsen.server.protocol import REQUEST_BYTES_MAX

pytestmark = pytest.mark.xdist_group("processes")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessCluster]:
    with LoopbackCluster(tmp_path_factory.mktemp("server"), 1) as made:
        yield made


@pytest.fixture
def client(cluster: ProcessCluster) -> Iterator[NodeClient]:
    with cluster.nodes[0].client(10.0) as made:
        made.execute("DROP TABLE IF EXISTS t")
        made.execute("CREATE TABLE t(a INTEGER PRIMARY KEY, b)")
        yield made


def raw(cluster: ProcessCluster, *lines: bytes) -> list[Any]:
    """The answers to these bytes; None when the node closed the connection instead."""
    found: list[Any] = []
    with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rb") as answers:
        connection.settimeout(20)
        connection.connect(str(cluster.nodes[0].control_path))
        for line in lines:
            connection.sendall(line)
            answer = answers.readline()
            found.append(json.loads(answer) if answer else None)
    return found


def test_values(client: NodeClient) -> None:
    values = [None, 2**63 - 1, -1.5, "ä\n", b"\x00\xff"]
    for value in values:
        assert client.execute("INSERT INTO t(b) VALUES (?)", [value]).rowcount == 1
    found = client.query("SELECT b FROM t ORDER BY a")
    assert (found.columns, found.rows) == (["b"], [(value,) for value in values])


def test_named_parameters(client: NodeClient) -> None:
    assert client.query("SELECT :x + :y", {"x": 1, "y": 2}).rows == [(3,)]


@pytest.mark.parametrize("level", ["linearizable", "leader", "session", "stale"])
def test_read_levels(client: NodeClient, level: str) -> None:
    client.execute("INSERT INTO t VALUES (1, 2)")
    assert client.query("SELECT * FROM t", level=level).rows == [(1, 2)]


def test_unknown_level(client: NodeClient) -> None:
    with pytest.raises(Failed, match="level is one of linearizable, leader, session, stale, not 'fresh'"):
        client.query("SELECT 1", level="fresh")


def test_unit_sees_itself(client: NodeClient) -> None:
    results = client.unit([("INSERT INTO t VALUES (1, 10)", ()), ("SELECT b FROM t", ())])
    assert [r.rowcount for r in results] == [1, -1]
    assert results[1].rows == [(10,)]


def test_a_repeated_unit_is_answered_again(client: NodeClient) -> None:
    key = client.new_key()
    statements = [("INSERT INTO t VALUES (1, 10) RETURNING b", ())]
    first, again = client.unit(statements, key), client.unit(statements, key)
    assert [r.rows for r in first] == [r.rows for r in again] == [[(10,)]]
    assert client.query("SELECT count(*) FROM t").rows == [(1,)]
    assert client.new_key() != key


def test_transaction(client: NodeClient) -> None:
    results = client.transaction([("INSERT INTO t VALUES (1, 10)", ()), ("SELECT b FROM t", ())])
    assert results[1].rows == [(10,)]
    with pytest.raises(Failed, match="IntegrityError"):
        client.transaction(
            [("INSERT INTO t VALUES (2, 10)", ()), ("INSERT INTO t VALUES (1, 11)", ())], "BEGIN"
        )
    assert client.query("SELECT * FROM t").rows == [(1, 10)]


def test_a_token_carries_a_session_on(client: NodeClient) -> None:
    token = client.execute("INSERT INTO t VALUES (1, 10)").token
    assert token is not None
    assert client.query("SELECT b FROM t", level="session", token=token).rows == [(10,)]


def test_unit_is_all_or_nothing(client: NodeClient) -> None:
    with pytest.raises(Failed, match="IntegrityError"):
        client.unit([("INSERT INTO t VALUES (1, 10)", ()), ("INSERT INTO t VALUES (1, 11)", ())])
    assert client.query("SELECT * FROM t").rows == []


def test_sql_error_is_failed(client: NodeClient) -> None:
    with pytest.raises(Failed, match="syntax error") as caught:
        client.execute("SELEC")
    assert caught.value.name == "OperationalError"


def test_node_requests(cluster: ProcessCluster, client: NodeClient) -> None:
    status = client.status()
    assert status["address"] == cluster.nodes[0].address
    [member] = client.members()
    assert (member["id"], member["role"]) == (status["node_id"], "voter")
    assert client.compact() > 0
    with pytest.raises(Failed, match="MembershipRefused"):
        client.transfer(status["node_id"] + 1)
    with pytest.raises(Failed, match="MembershipRefused"):
        client.remove(status["node_id"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"\n", "one JSON object per line"),
        (b"\xff\xfe\n", "one JSON object per line"),
        (b"[" * 100_000 + b"\n", "one JSON object per line"),
        (b"[]\n", "a JSON object"),
        (b"{}\n", "f is one of execute"),
        (b'{"f":["status"]}\n', "f is one of execute"),
        (b'{"f":"status","timeout_s":0}\n', "timeout_s is a number above 0"),
        (b'{"f":"status","timeout_s":1e999}\n', "timeout_s is a number above 0"),
        (b'{"f":"status","timeout_s":true}\n', "timeout_s is a number above 0"),
        (b'{"f":"execute"}\n', "a statement is sql"),
        (b'{"f":"execute","sql":"SELECT ?","params":[[1]]}\n', "an SQL value is null"),
        (b'{"f":"execute","sql":"SELECT ?","params":[{"bytes":"0"}]}\n', "not hexadecimal"),
        (b'{"f":"execute","sql":"SELECT ?","params":7}\n', "params are an array"),
        (b'{"f":"unit","statements":{}}\n', "statements is an array"),
        (b'{"f":"unit","statements":[["SELECT 1"]]}\n', "a statement is sql"),
        (b'{"f":"unit","statements":[["SELECT 1",[]]],"key":["zz",1]}\n', "a key is [session in hex"),
        (b'{"f":"query","sql":"SELECT 1","token":7}\n', "a token is a string"),
        (b'{"f":"remove"}\n', "id is a node id"),
        (b'{"f":"transfer","target":true}\n', "target is a node id"),
    ],
)
def test_malformed_request(cluster: ProcessCluster, line: bytes, message: str) -> None:
    """It is told what is wrong, nothing is done, and the connection lives on."""
    refused, after = raw(cluster, line, b'{"f":"members"}\n')
    assert refused["error"]["class"] == "MalformedRequest"
    assert refused["error"]["outcome"] == "failed"
    assert message in refused["error"]["message"]
    assert len(after["ok"]) == 1


def test_endless_line_is_refused(cluster: ProcessCluster) -> None:
    [refused] = raw(cluster, b" " * (REQUEST_BYTES_MAX + 1))
    assert f"at most {REQUEST_BYTES_MAX} bytes" in refused["error"]["message"]


def run_server(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jepsen.server", "--name", "n1", "--dir", str(folder)]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--listen", "10.0.0.1:1", "--control", "unix:x"], 2, "without TLS"),
        (["--listen", "nonsense", "--control", "unix:x"], 2, "listen address 'nonsense'"),
        (["--listen", "127.0.0.1:0", "--control", "nonsense"], 3, "neither host:port nor unix:path"),
        (["--listen", "127.0.0.1:0", "--control", "127.0.0.1:99999"], 3, "cannot listen on control address"),
        (["--listen", "127.0.0.1:0"], 2, "--control"),
    ],
)
def test_bad_arguments(arguments: list[str], code: int, message: str, tmp_path: Path) -> None:
    done = run_server(tmp_path / "data", *arguments)
    assert done.returncode == code
    assert message in done.stderr


def test_second_process_on_a_folder(cluster: ProcessCluster, tmp_path: Path) -> None:
    done = run_server(
        cluster.nodes[0].folder, "--listen", "127.0.0.1:0", "--control", f"unix:{tmp_path}/second"
    )
    assert done.returncode == 3
    assert "DirectoryLocked" in done.stderr


def test_life(tmp_path: Path) -> None:
    """SIGTERM and `shutdown` end it cleanly; a node that fails by itself says why and exits with 4."""
    with LoopbackCluster(tmp_path / "run", 1) as cluster:
        node = cluster.nodes[0]
        with node.client(10.0) as client:
            client.execute("CREATE TABLE t(a)")
        assert node.stop() == 0
        node.start()
        node.wait_serving()
        with node.client(10.0) as client:
            assert client.query("SELECT * FROM t").rows == []
            client.shutdown()
        wait_ended(node)
        assert node.exit_code == 0
        assert "stopped" in node.log_tail()

        node.start()
        node.wait_serving()
        with node.client(10.0) as client:
            pid = node.pid
            assert pid is not None
            # No file may grow beyond this: the journal's next write fails.
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (200_000, 200_000))
            with pytest.raises((Unknown, Failed)):
                client.execute("INSERT INTO t VALUES (?)", [b"x" * 400_000])
        wait_ended(node)
        assert node.exit_code == 4
        assert "the node failed: JournalFailed" in node.log_tail()


def wait_ended(node: Any) -> None:
    deadline = time.monotonic() + 30
    while node.is_running:
        assert time.monotonic() < deadline, node.log_tail()
        time.sleep(0.02)
