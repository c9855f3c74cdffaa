"""Nodes with the Python engine: in one cluster with the C engine, and where the C extension cannot be imported."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.cluster import Cluster, wait_until
from tests.support.engines import SEED

WITHOUT_EXTENSION = "tests.integration.without_extension"
SCHEMA = (
    "CREATE TABLE t (id INTEGER PRIMARY KEY, k TEXT UNIQUE, v, at DEFAULT (julianday('now')), r DEFAULT (random()))",
    "CREATE VIRTUAL TABLE docs USING fts5 (body)",
    "CREATE TRIGGER noted AFTER INSERT ON t BEGIN "
    "INSERT INTO docs VALUES (NEW.k || ' ' || hex(randomblob(20)) || ' ' || total_changes()); END",
)


def _restarted_with_python(cluster: Cluster, position: int, monkeypatch: pytest.MonkeyPatch) -> None:
    node = cluster.nodes[position]
    node.terminate()
    node.wait_stopped()
    with monkeypatch.context() as patch:
        patch.setenv("DQLITE_PY_IMPL", "python")
        node.start()
    wait_until(lambda: cluster.status(node)["leader_id"], f"{node.name} is back: {node.log_tail()}")


def _uses_extension(pid: int | None) -> bool:
    return "_native.abi3" in Path(f"/proc/{pid}/maps").read_text()


def test_both_engines_in_one_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A difference between them would stop a node: the leader's state hash is in every entry."""
    monkeypatch.delenv("DQLITE_PY_IMPL", raising=False)
    chance = random.Random(SEED)
    with Cluster(tmp_path) as cluster:
        client, first = cluster.client, cluster.nodes[0].address
        for statement in SCHEMA:
            client.write(first, statement)
        _restarted_with_python(cluster, 2, monkeypatch)
        assert [_uses_extension(node.pid) for node in cluster.nodes] == [True, True, False]
        for number in range(120):
            address = cluster.nodes[number % 3].address
            client.write(
                address, "INSERT INTO t (k, v) VALUES (?, ?)", f"k{number}", chance.randbytes(number * 20)
            )
            client.write(address, "INSERT OR ROLLBACK INTO t (id) SELECT id FROM t WHERE 0")
            client.write(
                address, "UPDATE t SET v = randomblob(50), r = random() WHERE id % 7 = ?", number % 7
            )
        cluster.check_equal()
        rows = client.read(cluster.nodes[2].address, "SELECT count(*), total(r) FROM t")
        assert rows == client.read(first, "SELECT count(*), total(r) FROM t")
        assert rows[0][0] == 120
        _restarted_with_python(cluster, 0, monkeypatch)  # also a leader's, and a majority's
        for number in range(200, 220):
            client.write(
                cluster.nodes[number % 3].address,
                "INSERT INTO t (k) VALUES (?)",
                f"k{number}",
                timeout_s=30.0,
            )
        cluster.check_equal()
        assert all(node.is_running for node in cluster.nodes)


def test_nodes_live_without_the_extension(tmp_path: Path) -> None:
    """Start, write, read, compact, catch up by a snapshot, restart; `_native` is not importable all the while."""
    found = subprocess.run(
        [sys.executable, "-m", WITHOUT_EXTENSION, str(tmp_path)],
        env={**os.environ, "DQLITE_PY_IMPL": "python"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == ["python", "done"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("rust", ["'rust'", "'c'", "'python'"]),
        ("c", ["cannot be loaded", "DQLITE_PY_IMPL=python"]),
        ("", ["cannot be loaded", "DQLITE_PY_IMPL=python"]),
    ],
)
def test_importing_fails_with_advice(tmp_path: Path, value: str, words: list[str]) -> None:
    found = subprocess.run(
        [sys.executable, "-m", WITHOUT_EXTENSION, str(tmp_path)],
        env={**os.environ, "DQLITE_PY_IMPL": value},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert found.returncode == 1
    last = found.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert all(word in last for word in words), last
