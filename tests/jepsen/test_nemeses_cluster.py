"""Nemeses on real node processes: the faults arrive in them, they recover, and nothing acknowledged is lost."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jepsen.cluster import ClientError, Cluster, make_cluster
from jepsen.cluster.keeping import REPOSITORY
from jepsen.errors import JepsenError
from jepsen.faults import FaultKit
from jepsen.nemeses import NEMESES
from jepsen.nemeses.base import restore
from jepsen.nemeses.damage import CorruptDatabase
from tests.jepsen.fake_nodes import FakeCluster

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("processes"),
    pytest.mark.timeout(240),
]


class Writers:
    """One thread per node inserts numbers; `acknowledged` are those that were answered."""

    def __init__(self, cluster: Cluster) -> None:
        self.acknowledged: list[tuple[str, int]] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(node,)) for node in cluster.nodes]

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _write(self, node: Any) -> None:
        client = None
        number = 0
        while not self._stop.wait(0.005):
            number += 1
            try:
                if client is None or client.is_closed:
                    client = node.client(2.0)
                client.execute("INSERT INTO t VALUES (?, ?)", (node.name, number))
                self.acknowledged.append((node.name, number))
            except ClientError:
                time.sleep(0.02)
        if client is not None:
            client.close()

    def wait_more(self, count: int, timeout_s: float = 30.0) -> None:
        wanted = len(self.acknowledged) + count
        deadline = time.monotonic() + timeout_s
        while len(self.acknowledged) < wanted:
            assert time.monotonic() < deadline, f"fewer than {count} writes within {timeout_s:g} s"
            time.sleep(0.01)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("nemeses") / "c"
    with FaultKit(folder) as kit, make_cluster("loopback", folder, 3, **kit.options()) as made:
        with made.nodes[0].client(10.0) as client:
            client.execute("CREATE TABLE t(w TEXT, i INTEGER)")
        yield made


@pytest.fixture
def healthy(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster is shared by the tests of this module: each leaves it whole."""
    cluster.wait_healthy()
    yield cluster
    restore(cluster)


def check(cluster: Cluster, writers: Writers) -> None:
    """Everything acknowledged is there, once, and the replicas are equal."""
    cluster.wait_healthy()
    states = cluster.final_states()
    assert len({(s.applied_index, s.state_hash, s.content) for s in states.values()}) == 1, states
    with cluster.nodes[0].client(20.0) as client:
        rows = client.query("SELECT w, i FROM t").rows
        client.execute("DELETE FROM t")
    assert len(rows) == len(set(rows))
    assert set(writers.acknowledged) <= set(rows)


def seed_where(cluster: Cluster, name: str, fits: Callable[[Any], bool]) -> int:
    """The first seed whose choice is the one to be shown here."""
    return seeds_where(cluster, name, fits, 1)[0]


def seeds_where(cluster: Cluster, name: str, fits: Callable[[Any], bool], count: int) -> list[int]:
    """Nothing is done to the cluster."""
    folder = cluster.folder.parent / f"fake-{name}-{time.monotonic_ns()}"
    folder.mkdir()
    fake: Any = FakeCluster(folder, len(cluster.nodes))
    seeds: list[int] = []
    try:
        for seed in range(200):
            nemesis = NEMESES[name]()
            value = nemesis.start(fake, random.Random(seed))
            nemesis.stop(fake)
            if fits(value):
                seeds.append(seed)
            if len(seeds) == count:
                return seeds
    finally:
        fake.close()
    raise AssertionError("no seed makes that choice")


def test_every_process_has_its_faults(healthy: Cluster) -> None:
    for node in healthy.nodes:
        assert node.faults.attached_pid == node.pid


def test_power_loss_of_all_nodes_at_once(healthy: Cluster) -> None:
    nemesis = NEMESES["power-loss"]()
    seed = seed_where(healthy, "power-loss", lambda value: len(value["lost"]) == 3)
    with Writers(healthy) as writers:
        writers.wait_more(200)
        value = nemesis.start(healthy, random.Random(seed))
        assert not any(node.is_running for node in healthy.nodes)
        assert sum(lost["sectors"] for lost in value["lost"].values()) > 0, "something was not synced"
        nemesis.stop(healthy)
        writers.wait_more(50)
        nemesis.final(healthy)
    check(healthy, writers)


def test_failing_syncs_stop_the_node(healthy: Cluster) -> None:
    nemesis = NEMESES["disk-errors"]()
    seed = seed_where(healthy, "disk-errors", lambda value: value["call"] == "sync" and value["count"] == 1)
    with Writers(healthy) as writers:
        writers.wait_more(50)
        (name,) = nemesis.start(healthy, random.Random(seed))["nodes"]
        node = healthy.node(name)
        deadline = time.monotonic() + 20
        while node.is_running:
            assert time.monotonic() < deadline, "it goes on after a failed sync"
            time.sleep(0.02)
        assert node.exit_code == 4
        assert "Input/output error" in node.log_path.read_text()
        writers.wait_more(50)
        assert nemesis.stop(healthy)[name]["failed"] >= 1
        node.wait_serving()
    check(healthy, writers)


def test_full_disks_refuse_and_resume(healthy: Cluster) -> None:
    nemesis = NEMESES["disk-full"]()
    seed = seed_where(
        healthy, "disk-full", lambda value: len(value["nodes"]) == 3 and value["free-bytes"] == 0
    )
    with Writers(healthy) as writers:
        writers.wait_more(50)
        nemesis.start(healthy, random.Random(seed))
        with healthy.nodes[0].client(5.0) as client:
            deadline = time.monotonic() + 20
            while True:
                assert time.monotonic() < deadline, "a full disk takes writes"
                try:
                    client.execute("INSERT INTO t VALUES ('probe', 1)")
                    client.execute("DELETE FROM t WHERE w = 'probe'")
                except ClientError as error:
                    if error.name == "StorageFull":
                        break
                    if client.is_closed:
                        raise
        nemesis.stop(healthy)
        writers.wait_more(50)
    with healthy.nodes[0].client(5.0) as client:
        client.execute("DELETE FROM t WHERE w = 'probe'")
    check(healthy, writers)


def test_clocks_are_wrong_in_the_nodes_and_writes_go_on(healthy: Cluster) -> None:
    leader = healthy.leader()
    assert leader is not None
    with Writers(healthy) as writers, leader.client(10.0) as client:
        leader.faults.jump_clock(5 * 3600)
        (stamp,) = client.execute("INSERT INTO t VALUES ('now', unixepoch()) RETURNING i").rows[0]
        client.execute("DELETE FROM t WHERE w = 'now'")
        assert stamp - time.time() > 4 * 3600
        nemesis = NEMESES["clock-drift"]()
        nemesis.start(healthy, random.Random(2))
        writers.wait_more(100)
        nemesis.stop(healthy)
        writers.wait_more(20)
    check(healthy, writers)


@pytest.mark.parametrize("name", ["corrupt-journal", "corrupt-database", "wipe"])
def test_damaged_data_are_refused_or_rebuilt_and_mended(healthy: Cluster, name: str) -> None:
    nemesis = NEMESES[name]()
    with Writers(healthy) as writers:
        writers.wait_more(100)
        started = nemesis.start(healthy, random.Random(4))
        if name != "corrupt-database":
            assert [found["exit"] for found in started.values()] == [3]
        writers.wait_more(100)
        stopped = nemesis.stop(healthy)
        assert set(stopped.values()) <= {"replaced", "rebuilt", "refused", "failed"}
        healthy.wait_healthy()
        writers.wait_more(20)
    assert nemesis.violations == []
    check(healthy, writers)


def test_an_altered_row_is_found_before_it_is_answered(healthy: Cluster) -> None:
    nemesis = NEMESES["corrupt-database"]()
    seed = seed_where(
        healthy, "corrupt-database", lambda value: all("row" in done for done in value.values())
    )
    ((name, done),) = nemesis.start(healthy, random.Random(seed)).items()
    assert "row" in done, "the rows are in the database file"
    assert done["first-reads"] == "right"
    assert nemesis.stop(healthy) == {name: "rebuilt"}
    assert nemesis.violations == []
    healthy.wait_healthy()


# -- canary: a suite that finds nothing proves nothing


NO_SYNC = "import dqlite_py.ports\ndqlite_py.ports.SystemDisk.fdatasync = lambda self, fd: None\n"
NO_COMPARISON = (
    "import dqlite_py.node.divergence\n"
    "dqlite_py.node.divergence.Divergence.compare_first = lambda self: None\n"
)


def broken_product(folder: Path, patch: str) -> str:
    """A PYTHONPATH under which nodes run with a mistake."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(patch)
    return f"{folder}{os.pathsep}{REPOSITORY}"


def what_is_wrong(cluster: Cluster, writers: Writers) -> str:
    """Empty when every node serves and every acknowledged row is there."""
    try:
        for node in cluster.nodes:
            node.wait_serving(20.0)
        cluster.wait_healthy(20.0)
        with cluster.nodes[0].client(20.0) as client:
            rows = client.query("SELECT w, i FROM t").rows
    except (JepsenError, ClientError) as error:
        return str(error)
    lost = set(writers.acknowledged) - set(rows)
    return f"{len(lost)} acknowledged rows are lost" if lost else ""


def test_a_node_that_does_not_sync_its_journal_is_found_out(tmp_path: Path) -> None:
    path = broken_product(tmp_path / "canary", NO_SYNC)
    folder = tmp_path / "c"
    with FaultKit(folder) as kit:
        options = kit.options()
        options["process_environment"] = lambda name: {**kit.environment(name), "PYTHONPATH": path}
        with make_cluster("loopback", folder, 3, **options) as cluster:
            with cluster.nodes[0].client(10.0) as client:
                client.execute("CREATE TABLE t(w TEXT, i INTEGER)")
            # The disk may keep everything by chance: a few losses, until it shows.
            for seed in seeds_where(cluster, "power-loss", lambda value: len(value["lost"]) == 3, 4):
                nemesis = NEMESES["power-loss"]()
                with Writers(cluster) as writers:
                    writers.wait_more(200)
                    nemesis.start(cluster, random.Random(seed))
                nemesis.stop(cluster)
                if what_is_wrong(cluster, writers):
                    return
    raise AssertionError("three machines lost power and nobody noticed that nothing was synced")


def test_a_node_that_serves_before_it_has_compared_is_found_out(tmp_path: Path) -> None:
    path = broken_product(tmp_path / "canary", NO_COMPARISON)
    with make_cluster(
        "loopback", tmp_path / "c", 3, process_environment=lambda _name: {"PYTHONPATH": path}
    ) as made:
        nemesis = CorruptDatabase(notice_s=0)
        seed = seed_where(made, nemesis.name, lambda value: all("row" in done for done in value.values()))
        ((name, done),) = nemesis.start(made, random.Random(seed)).items()
        assert done["first-reads"] == "wrong"
        assert (
            f"{name}: a linearizable read after the start answered damaged data: row" in nemesis.violations[0]
        )
