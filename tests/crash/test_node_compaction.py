"""kill -9 during compaction and before any checkpoint: a node replays exactly what its databases lack."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dqlite_py.command import encode_unit
from dqlite_py.errors import Error
from dqlite_py.raft.rpc import RpcError
from tests.integration.cluster import wait_until
from tests.support.rows_writer import Writer, check_rows, create_rows
from tests.support.settings_cluster import (
    COMPACTING,
    KIB,
    MIB,
    SettingsCluster,
    SettingsNode,
)

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("processes"), pytest.mark.timeout(300)]

KILLS = 8
SMALL = {"segment_bytes": 16 * KIB, "node": COMPACTING["node"]}


class Compactor(threading.Thread):
    """Compacts one node again and again, whatever happens to it."""

    def __init__(self, cluster: SettingsCluster, node: SettingsNode) -> None:
        super().__init__(name="compactor")
        self.cluster, self.node = cluster, node
        self.points: list[int] = []
        self._stopping = threading.Event()

    def run(self) -> None:
        while not self._stopping.wait(0.01):
            try:
                self.points.append(self.cluster.compact(self.node))
            except (Error, RpcError):
                self._stopping.wait(0.05)

    def __enter__(self) -> Compactor:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stopping.set()
        self.join(60)
        assert not self.is_alive()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SettingsCluster]:
    with SettingsCluster(tmp_path, **SMALL) as running:
        create_rows(running)
        yield running


def write_to(cluster: SettingsCluster, database: str, sql: str, *params: object) -> None:
    body = {"database": database, "unit": encode_unit([(sql, list(params))]), "timeout_s": 10.0}
    cluster.client.call(cluster.leader().address, "sql.write", body)


def test_kill_in_the_middle_of_compactions(cluster: SettingsCluster) -> None:
    victim = cluster.nodes[1]
    assert isinstance(victim, SettingsNode)
    rng = random.Random(5)
    with (
        Writer(cluster, "a") as first,
        Writer(cluster, "b") as second,
        Compactor(cluster, victim) as compactor,
    ):
        for _ in range(KILLS):
            seen = len(compactor.points)
            wait_until(lambda s=seen: len(compactor.points) > s + 2, "compactions go on")
            threading.Event().wait(rng.random() * 0.05)  # anywhere between two of them
            victim.kill()
            victim.start()
            wait_until(lambda: cluster.status(victim)["leader_id"], f"it starts: {victim.log_tail()}")
        first.wait_more(10)
        second.wait_more(10)
    points = compactor.points
    assert points == sorted(points), "the compaction point never goes back, also over restarts"
    assert len(set(points)) > KILLS
    assert cluster.status(victim)["first_index"] > 1, "and segments were dropped"
    check_rows(cluster, first, second)
    victim.kill()
    victim.start()
    check_rows(cluster, first, second)


def test_databases_ahead_of_the_manifest_are_replayed_exactly_once(cluster: SettingsCluster) -> None:
    """Counters would show a statement that ran twice; the manifest knows nothing of most of them."""
    victim = cluster.followers()[0]
    for name in ("busy", "quiet", "gone"):
        cluster.client.call(cluster.leader().address, "sql.open", {"database": name})
        write_to(cluster, name, "CREATE TABLE counter(n INTEGER)")
        write_to(cluster, name, "INSERT INTO counter VALUES (0)")
    cluster.settled()
    cluster.compact(victim)
    for number in range(300):
        write_to(cluster, "busy", "UPDATE counter SET n = n + 1")
        if number % 50 == 0:
            write_to(cluster, "quiet", "UPDATE counter SET n = n + 1")
        if number < 20:
            write_to(cluster, "gone", "UPDATE counter SET n = n + 1")
    cluster.client.call(cluster.leader().address, "sql.drop", {"database": "gone"})
    states = cluster.settled()
    manifest = cluster.status(victim)["snapshot_index"]
    assert states[0]["databases"]["busy"][0] > manifest + 300
    for _ in range(2):
        victim.kill()
        victim.start()
        wait_until(
            lambda: cluster.client.call(victim.address, "state.hash") == states[0], "the same state as before"
        )
        status = cluster.status(victim)
        assert (status["divergences"], set(status["databases"])) == (0, {"app", "busy", "quiet"})
    for name, value in (("busy", 300), ("quiet", 6)):
        body = {"database": name, "sql": "SELECT n FROM counter", "level": "stale"}
        assert cluster.client.call(victim.address, "sql.read", body)[1] == [[value]]
    assert not list(victim.folder.glob("state/g*/gone.db*"))


def test_a_kill_while_databases_are_made_leaves_a_folder_that_starts(cluster: SettingsCluster) -> None:
    """Files of databases are made outside the journal's order: a half-made one must not stand in the way."""
    victim = cluster.followers()[0]
    rng = random.Random(3)
    made = 0
    for _ in range(6):
        stopping = threading.Event()

        def make(stopping: threading.Event = stopping, first: int = made) -> None:
            number = first
            while not stopping.is_set() and number < first + 10:
                cluster.client.call(cluster.leader().address, "sql.open", {"database": f"d{number}"})
                number += 1

        making = threading.Thread(target=make)
        making.start()
        stopping.wait(rng.random() * 0.3)
        victim.kill()
        stopping.set()
        making.join()
        made += 10  # all of them fit into one cluster
        victim.start()
        wait_until(lambda: cluster.status(victim)["leader_id"], f"it starts: {victim.log_tail()}")
    cluster.check_equal()


def test_a_half_made_database_file_is_made_again(cluster: SettingsCluster) -> None:
    """What kill -9 can leave of a database between its first bytes and its first table."""
    victim = cluster.followers()[0]
    victim.kill()
    write_to(cluster, "app", "INSERT INTO rows VALUES ('x', 1)")
    cluster.client.call(cluster.leader().address, "sql.open", {"database": "fresh"})
    write_to(cluster, "fresh", "CREATE TABLE t(v)")
    (folder,) = victim.folder.glob("state/g*")
    (folder / "fresh.db").write_bytes(b"")
    (folder / "stale.db-wal").write_bytes(b"x" * 100)
    victim.start()
    cluster.check_equal()
    assert not (folder / "stale.db-wal").exists()


def test_the_log_stays_short_while_writes_go_on(tmp_path: Path) -> None:
    """Compaction by size, without being asked, on leader and followers."""
    settings = {"segment_bytes": MIB, "node": {"compact_log_bytes": 3 * MIB, "log_tail_bytes": MIB}}
    with SettingsCluster(tmp_path, **settings) as cluster:
        create_rows(cluster)
        cluster.advance_log(cluster.leader(), 12 * MIB)
        for node in cluster.nodes:
            wait_until(
                lambda n=node: cluster.status(n)["journal_bytes"] <= 4 * MIB, f"{node.name}'s log is short"
            )
        cluster.check_equal()
