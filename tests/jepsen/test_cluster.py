"""Real clusters of both kinds: forming, killing, cutting, delaying, members that come and go."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jepsen.cluster.api import Cluster
from jepsen.cluster.base import ProcessCluster
from jepsen.cluster.client import ClientError, Failed, Unknown
from jepsen.cluster.loopback import LoopbackCluster
from jepsen.cluster.make import make_cluster, why_no_namespaces
from jepsen.cluster.namespaces import NamespaceCluster
from jepsen.cluster.node import ProcessNode
from jepsen.errors import SetupError

pytestmark = pytest.mark.xdist_group("processes")
KINDS: dict[str, type[ProcessCluster]] = {"loopback": LoopbackCluster, "namespaces": NamespaceCluster}
WAIT_S = 60.0


@pytest.fixture(scope="class")
def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ProcessCluster]:
    kind = request.cls.kind
    if kind == "namespaces" and (missing := why_no_namespaces()):
        pytest.skip(missing)
    with KINDS[kind](tmp_path_factory.mktemp(kind), 3) as made:
        with made.nodes[0].client(20.0) as client:
            client.execute("CREATE TABLE t(a INTEGER PRIMARY KEY AUTOINCREMENT, b)")
        yield made


@pytest.fixture
def cluster(shared: ProcessCluster) -> Iterator[ProcessCluster]:
    """The class's cluster, whole again before and after each test."""
    shared.wait_healthy(WAIT_S)
    yield shared
    shared.network.heal()
    shared.network.delay(None)
    for node in shared.nodes:
        node.resume()
        if not node.is_running:
            node.start()
    shared.wait_healthy(WAIT_S)


def eventually(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
    return found


def leader_and_others(cluster: ProcessCluster) -> tuple[ProcessNode, list[ProcessNode]]:
    leader = cluster.leader()
    assert leader is not None
    return leader, [node for node in cluster.nodes if node is not leader]


def new_leader(cluster: ProcessCluster, old: ProcessNode) -> ProcessNode:
    def find() -> ProcessNode | None:
        found = cluster.leader()
        return None if found is old else found

    found: ProcessNode = eventually(find, f"no leader after {old.name}")
    return found


def write(node: ProcessNode, value: Any, timeout_s: float = 20.0) -> None:
    with node.client(timeout_s) as client:
        client.execute("INSERT INTO t(b) VALUES (?)", [value])


def read(node: ProcessNode, level: str = "linearizable") -> set[Any]:
    with node.client(20.0) as client:
        return {b for (b,) in client.query("SELECT b FROM t", level=level).rows}


class Cases:
    """Run on one cluster of each kind; a class each, so that random order does not form clusters anew."""

    kind = ""

    def test_every_node_serves(self, cluster: ProcessCluster) -> None:
        for node in cluster.nodes:
            write(node, f"through {node.name}")
        for node in cluster.nodes:
            assert {f"through {n.name}" for n in cluster.nodes} <= read(node)
        states = cluster.final_states()
        assert set(states) == {"n1", "n2", "n3"}
        assert len(set(states.values())) == 1

    def test_an_end_that_nobody_asked_for_is_noted(self, cluster: ProcessCluster) -> None:
        node = leader_and_others(cluster)[1][0]
        for end in (node.kill, node.stop):
            end()
            node.start()
            node.wait_serving()
        assert node.own_exits == []
        assert node.pid is not None
        os.kill(node.pid, signal.SIGABRT)
        eventually(lambda: not node.is_running, "a process survived SIGABRT")
        node.start()
        node.note_exit()
        assert node.own_exits == [-signal.SIGABRT]

    def test_killed_leader(self, cluster: ProcessCluster) -> None:
        """kill -9: its clients know nothing of a request under way, new ones fail; the others go on; it comes back."""
        leader, _others = leader_and_others(cluster)
        write(leader, "before the kill")
        with leader.client(20.0) as client:
            client.status()
            leader.kill()
            assert (leader.is_running, leader.pid, leader.exit_code) == (False, None, -9)
            with pytest.raises(Unknown, match="Connection"):
                client.execute("INSERT INTO t(b) VALUES ('?')")
        with pytest.raises(Failed, match="cannot connect"):
            leader.client(1.0)
        write(new_leader(cluster, leader), "after the kill")
        leader.start()
        leader.wait_serving()
        assert {"before the kill", "after the kill"} <= read(leader)

    def test_paused_node_is_unknown(self, cluster: ProcessCluster) -> None:
        _leader, (node, _other) = leader_and_others(cluster)
        node.pause()
        with node.client(0.3) as client, pytest.raises(Unknown, match="Timeout"):
            client.execute("INSERT INTO t(b) VALUES ('paused')")
        node.resume()
        write(node, "resumed")

    def test_second_start_is_refused(self, cluster: ProcessCluster) -> None:
        with pytest.raises(SetupError, match="n1 runs already"):
            cluster.node("n1").start()
        with pytest.raises(SetupError, match="n1 runs: kill or stop"):
            cluster.node("n1").wipe()
        with pytest.raises(SetupError, match="no node is named 'n9': there are n1, n2, n3"):
            cluster.node("n9")

    def test_one_way_cut_from_the_leader(self, cluster: ProcessCluster) -> None:
        """What the leader sends is lost: the others elect, and it gives up its office.

        Whether it hears of the new leader hangs on a connection that lasts: no answer of its own opens another.
        """
        leader, others = leader_and_others(cluster)
        for other in others:
            cluster.network.cut(leader.name, other.name)
        assert cluster.network.cuts == sorted((leader.name, other.name) for other in others)
        found = new_leader(cluster, leader)
        write(found, "while cut")

        def view_of_the_old() -> dict[str, Any]:
            with leader.client(5.0) as client:
                return client.status()

        eventually(lambda: not view_of_the_old()["is_leader"], "it believes that it still leads")
        with leader.client(1.0) as client, pytest.raises(ClientError):
            client.execute("INSERT INTO t(b) VALUES ('cut off')")
        cluster.network.heal()
        assert cluster.network.cuts == []
        cluster.wait_healthy(WAIT_S)
        assert "while cut" in read(leader)
        write(leader, "healed")

    def test_isolated_follower(self, cluster: ProcessCluster) -> None:
        """Cut both ways it gets nothing; healed it catches up."""
        leader, (node, other) = leader_and_others(cluster)
        for a, b in ((node, leader), (node, other)):
            cluster.network.cut(a.name, b.name)
            cluster.network.cut(b.name, a.name)
        write(leader, "unseen")
        time.sleep(0.2)
        assert "unseen" not in read(node, "stale")
        cluster.network.heal()
        eventually(lambda: "unseen" in read(node, "stale"), "it does not catch up")

    def test_delay_is_felt(self, cluster: ProcessCluster) -> None:
        leader, _others = leader_and_others(cluster)

        def seconds() -> float:
            begin = time.monotonic()
            write(leader, "timed")
            return time.monotonic() - begin

        cluster.network.delay(40)
        assert seconds() > 0.08  # to a follower and back
        cluster.network.delay(None)
        eventually(lambda: seconds() < 0.08, "the delay stays")

    def test_member_removed_and_added(self, cluster: ProcessCluster) -> None:
        write(cluster.nodes[0], "before the removal")
        leader, (node, _other) = leader_and_others(cluster)
        with node.client(20.0) as client:
            old_id = client.status()["node_id"]
        cluster.remove_member(node.name)
        assert not node.is_running
        assert not node.folder.exists()
        with leader.client(20.0) as client:
            assert len(client.members()) == 2
        cluster.add_member(node.name)
        cluster.wait_healthy()
        with node.client(20.0) as client:
            assert client.status()["node_id"] != old_id
        assert "before the removal" in read(node)

    def test_member_stays_while_its_removal_is_not_committed(self, cluster: ProcessCluster) -> None:
        """To wipe it then would be the suite's own loss of data."""
        leader, (node, _other) = leader_and_others(cluster)
        for a in cluster.nodes:
            for b in cluster.nodes:
                if a is not b:
                    cluster.network.cut(a.name, b.name)
        with pytest.raises(SetupError, match=f"{node.name} could not be removed within 3 s"):
            cluster.remove_member(node.name, timeout_s=3)
        assert node.is_running
        assert node.folder.exists()
        cluster.network.heal()
        eventually(cluster.leader, "no leader after the cut")
        with leader.client(20.0) as client:
            is_member = any(m["address"] == node.address for m in client.members())
        if not is_member:  # the entry was appended, and a leader that holds it has committed it since
            cluster.remove_member(node.name)
            cluster.add_member(node.name)

    @pytest.mark.parametrize("pair", [("n1", "n9"), ("n9", "n1"), ("n1", "n1")])
    def test_cut_of_nobody(self, cluster: ProcessCluster, pair: tuple[str, str]) -> None:
        with pytest.raises(SetupError, match=r"no node is named|cannot be cut from itself"):
            cluster.network.cut(*pair)

    @pytest.mark.parametrize("ms", [-1, 60_001, float("nan")])
    def test_delay_out_of_range(self, cluster: ProcessCluster, ms: float) -> None:
        with pytest.raises(SetupError, match="0 to 60000 ms"):
            cluster.network.delay(ms)


class TestLoopback(Cases):
    kind = "loopback"


class TestNamespaces(Cases):
    kind = "namespaces"

    def test_addresses_of_namespaces_are_not_the_machines(self, shared: ProcessCluster) -> None:
        """Nobody outside reaches them, whatever the machine's own networks are."""
        assert "peers0" not in Path("/proc/net/dev").read_text()
        for node in shared.nodes:
            assert "peers0" in Path(f"/proc/{node.pid}/net/dev").read_text()


def test_hooks(tmp_path: Path) -> None:
    """Variables reach the node's process; the faults handle hangs on the node before it starts."""
    seen: list[tuple[str, bool]] = []

    def faults(node: Any) -> str:
        seen.append((node.name, node.is_running))
        return f"faults of {node.name}"

    def variables(name: str) -> dict[str, str]:
        return {"WHO_AM_I": name}

    options: dict[str, Any] = {"process_environment": variables, "faults_factory": faults}
    with make_cluster("loopback", tmp_path / "run", 1, **options) as cluster:
        [node] = cluster.nodes
        assert f"WHO_AM_I={node.name}".encode() in Path(f"/proc/{node.pid}/environ").read_bytes().split(b"\0")
        assert node.faults == "faults of n1"
    assert seen == [("n1", False)]


def test_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "n1").mkdir()
    with pytest.raises(SetupError, match="give each run a folder of its own"), LoopbackCluster(tmp_path, 1):
        pass


def test_node_that_cannot_start_shows_its_log(tmp_path: Path) -> None:
    cluster = LoopbackCluster(tmp_path, 1, process_environment=lambda _name: {"PYTHONPATH": "/nowhere"})
    with pytest.raises(SetupError, match=r"n1 has ended with 1:\n.*No module named"), cluster:
        pass


@pytest.mark.parametrize(
    ("kind", "nodes", "message"), [("docker", 3, "kind is one of"), ("loopback", 0, "1 to 9")]
)
def test_bad_request_for_a_cluster(kind: str, nodes: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=message):
        make_cluster(kind, tmp_path, nodes)


def test_auto_takes_what_there_is(tmp_path: Path) -> None:
    cluster: Cluster = make_cluster("auto", tmp_path, 3)
    assert cluster.kind == ("loopback" if why_no_namespaces() else "namespaces")
