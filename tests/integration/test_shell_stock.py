"""The shell as a process in front of real dqlite servers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.stockdqlite import StockNode, stock_cluster

pytestmark = pytest.mark.slow

PROGRAM = (sys.executable, "-m", "dqlite_py.cli.main", "shell")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[StockNode]]:
    with stock_cluster(tmp_path_factory.mktemp("stock"), 3) as made:
        yield made


def shell(nodes: list[StockNode], *arguments: str) -> subprocess.CompletedProcess[str]:
    servers = ",".join(node.address for node in nodes)
    command = [*PROGRAM, "-s", servers, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_sql_and_what_the_servers_are(nodes: list[StockNode]) -> None:
    done = shell(
        nodes, "app", "CREATE TABLE t (a)", "INSERT INTO t VALUES (5)", "SELECT a FROM t", ".consistency"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("5\nleader (what the leader has")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("Warning: these are servers of dqlite itself")


def members(nodes: list[StockNode]) -> dict[str, dict[str, object]]:
    done = shell(nodes, "--json", "app", ".cluster")
    assert done.returncode == 0, done.stderr
    return {member["address"]: member for member in json.loads(done.stdout)}


def test_the_cluster(nodes: list[StockNode]) -> None:
    found = members(nodes)
    assert set(found) == {node.address for node in nodes}
    [leader] = [address for address, member in found.items() if member["leads"]]
    assert shell(nodes, "app", ".leader").stdout == f"{leader}\n"
    voters = [a for a, member in found.items() if member["role"] == "voter" and a != leader]
    if voters:
        assert shell(nodes, "app", f".transfer {voters[0]}").returncode == 0
        assert members(nodes)[voters[0]]["leads"]
    weighed = shell(nodes, "app", f".weight {leader} 7", f".describe {leader}")
    assert weighed.returncode == 0, weighed.stderr
    assert '"weight": 7' in weighed.stdout


def test_what_such_servers_cannot_do(nodes: list[StockNode]) -> None:
    done = shell(nodes, "app", ".databases")
    assert (done.returncode, done.stdout) == (1, "")
    assert "servers of dqlite itself" in done.stderr
