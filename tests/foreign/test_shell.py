"""Debian's `dqlite` shell (package go-dqlite), unmodified: SQL, every command that goes over the wire, TLS."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.foreign import clusters
from tests.foreign.clusters import ForeignCluster

SHELL = "dqlite"
COMMAND_S = 60.0
TLS = Path(__file__).parents[1] / "support" / "tls"


@pytest.fixture(autouse=True)
def shell_is_installed() -> None:
    if shutil.which(SHELL) is None:
        pytest.skip("the dqlite shell is not on PATH (Debian: apt-get install go-dqlite)")


def _run(
    cluster: ForeignCluster, line: str, *options: str, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """One invocation with a one-shot command, in a database named `shell`."""
    return subprocess.run(
        [SHELL, "-s", cluster.servers, *options, "shell", line],
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        cwd=folder,
        check=False,
    )


def told(cluster: ForeignCluster, line: str, *options: str, folder: Path | None = None) -> str:
    """What the shell prints; it succeeds."""
    ran = _run(cluster, line, *options, folder=folder)
    assert ran.returncode == 0, (line, ran.stderr)
    return ran.stdout.rstrip("\n")


def refused(cluster: ForeignCluster, line: str) -> str:
    """What the shell says in its first line; it fails."""
    ran = _run(cluster, line)
    assert ran.returncode != 0, (line, ran.stdout)
    return ran.stderr.splitlines()[0]


def test_sql(cluster: ForeignCluster) -> None:
    assert told(cluster, "CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT, c BOOLEAN, d DATETIME)") == ""
    insert = "INSERT INTO t VALUES(1, 'x', 1, '2026-01-02 03:04:05'), (2, NULL, NULL, NULL)"
    assert told(cluster, f"{insert};INSERT INTO t(b) VALUES('z')") == ""
    null = "false" if cluster.is_stock else "<nil>"  # upstream takes NULL in a BOOLEAN column for 0
    assert told(cluster, "SELECT * FROM t").splitlines() == [
        "1|x|true|2026-01-02 03:04:05 +0000 UTC",
        f"2|<nil>|{null}|<nil>",
        f"3|z|{null}|<nil>",
    ]
    assert told(cluster, "SELECT count(*), 1.5, x'6162' FROM t;SELECT 7") == "3|1.5|[97 98]\n7"
    assert told(cluster, "UPDATE t SET b = b || '!' WHERE a <> 2;SELECT group_concat(b) FROM t") == "x!,z!"
    assert told(cluster, "SELECT a FROM t", "-f", "json") == "1\n2\n3"  # -f is for commands only
    assert told(cluster, "DELETE FROM t WHERE a = 3;SELECT max(a) FROM t") == "2"


def test_errors_are_told_and_undo_only_their_statement(cluster: ForeignCluster) -> None:
    told(cluster, "CREATE TABLE e(a INTEGER PRIMARY KEY);INSERT INTO e VALUES(1)")
    assert refused(cluster, "SELECT * FROM nowhere") == "Error: query: no such table: nowhere"
    assert refused(cluster, "INSERT INTO e VALUES(1)") == "Error: exec: UNIQUE constraint failed: e.a"
    assert refused(cluster, "INSERT INTO e VALUES(2);INSERT INTO e VALUES(2);INSERT INTO e VALUES(3)") == (
        "Error: exec: UNIQUE constraint failed: e.a"
    )
    assert "syntax error" in refused(cluster, "NOT SQL")
    assert "syntax error" in refused(cluster, ".bogus")
    assert told(cluster, "SELECT a FROM e") == "1\n2"


def test_a_statement_that_returns_rows_without_select_is_refused(cluster: ForeignCluster) -> None:
    """The shell sends all but SELECT as EXEC; nothing may stay locked behind the refusal."""
    told(cluster, "CREATE TABLE r(a INTEGER PRIMARY KEY)")
    assert refused(cluster, "PRAGMA user_version").startswith("Error: exec: ")
    if not cluster.is_stock:  # upstream aborts, or keeps the lock for ever
        assert refused(cluster, "INSERT INTO r VALUES(1) RETURNING a").startswith("Error: exec: ")
    assert told(cluster, "INSERT INTO r VALUES(2);SELECT a FROM r") == "2"


def test_cluster_and_leader(cluster: ForeignCluster) -> None:
    leader = cluster.leader().address
    assert told(cluster, ".leader") == leader
    lines = [line.split("|") for line in told(cluster, ".cluster").splitlines()]
    assert {address for _node_id, address, _role in lines} == set(cluster.addresses)
    assert {role for _node_id, _address, role in lines} == {"voter"}
    found = json.loads(told(cluster, ".cluster", "-f", "json"))
    assert {f"{node['ID']:x}" for node in found} == {node_id for node_id, _address, _role in lines}
    assert all(node["Role"] == 0 for node in found)


def test_describe_and_weight(cluster: ForeignCluster) -> None:
    for number, address in enumerate(cluster.addresses):
        assert told(cluster, f".weight {address} {number + 5}") == ""
        assert told(cluster, f".describe {address}") == f"{address}|0|{number + 5}"
        described = json.loads(told(cluster, f".describe {address}", "-f", "json"))
        assert described == {"FailureDomain": 0, "Weight": number + 5}


def test_dump_is_a_database(cluster: ForeignCluster, tmp_path: Path) -> None:
    told(cluster, "CREATE TABLE d(a);INSERT INTO d VALUES('dumped'), ('twice')")
    address = cluster.leader().address
    assert told(cluster, f".dump {address} shell", folder=tmp_path) == "OK"
    assert {path.name for path in tmp_path.iterdir()} >= {"shell", "shell-wal"}
    with sqlite3.connect(tmp_path / "shell") as database:
        assert database.execute("SELECT a FROM d").fetchall() == [("dumped",), ("twice",)]
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    database.close()


def test_the_leader_is_killed_under_an_open_shell(cluster: ForeignCluster) -> None:
    told(cluster, "CREATE TABLE k(a INTEGER PRIMARY KEY)")
    command = [SHELL, "-s", cluster.servers, "shell"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as shell:
        assert shell.stdin is not None
        assert shell.stdout is not None
        try:
            shell.stdin.write("INSERT INTO k VALUES(1)\n.leader\n")
            shell.stdin.flush()
            before = shell.stdout.readline().replace("dqlite> ", "").strip()
            assert cluster.kill_leader().address == before
            lines = ["SELECT count(*) FROM k", "INSERT INTO k VALUES(2)", "SELECT missing", "SELECT a FROM k"]
            output, _errors = shell.communicate("\n".join([*lines, ".leader", ""]), timeout=COMMAND_S)
        finally:
            shell.kill()
    found = [line.replace("dqlite> ", "") for line in output.splitlines()]
    assert found[0] == "1"
    assert "no such column: missing" in found[1]
    assert found[2:4] == ["1", "2"]
    assert found[4] in set(cluster.addresses) - {before}


def test_remove(own_cluster: ForeignCluster) -> None:
    assert refused(own_cluster, ".remove 127.0.0.1:1") == 'Error: no node has address "127.0.0.1:1"'
    address = own_cluster.follower().address
    assert told(own_cluster, f".remove {address}") == ""
    lines = told(own_cluster, ".cluster").splitlines()
    assert len(lines) == 2
    assert not any(address in line for line in lines)


@pytest.fixture
def tls_cluster(tmp_path: Path) -> Iterator[ForeignCluster]:
    with clusters.ours(tmp_path, tls=TLS) as cluster:
        yield cluster


def test_tls(tls_cluster: ForeignCluster, tmp_path: Path) -> None:
    """The shell trusts what is in the file of its own certificate, so the authority is put there too."""
    own = tmp_path / "shell.pem"
    own.write_bytes((TLS / "node.pem").read_bytes() + (TLS / "ca.pem").read_bytes())
    options = ("-c", str(own), "-k", str(TLS / "node.key"))
    assert told(tls_cluster, "CREATE TABLE t(a);INSERT INTO t VALUES(1);SELECT a FROM t", *options) == "1"
    assert told(tls_cluster, ".leader", *options) in tls_cluster.addresses
    tls_cluster.kill_leader()
    assert told(tls_cluster, "INSERT INTO t VALUES(2);SELECT sum(a) FROM t", *options) == "3"
    stranger = tmp_path / "stranger.pem"
    stranger.write_bytes((TLS / "stranger.pem").read_bytes() + (TLS / "ca.pem").read_bytes())
    address = tls_cluster.leader().address
    ran = subprocess.run(
        [
            SHELL,
            "-s",
            address,
            "-c",
            str(stranger),
            "-k",
            str(TLS / "stranger.key"),
            "shell",
            f".describe {address}",
        ],
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (1, ""), ran.stderr
