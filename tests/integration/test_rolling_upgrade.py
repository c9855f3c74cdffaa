"""Three nodes of an earlier release are replaced by this one, one by one, under writes; then formats change."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

import dqlite_py
from dqlite_py.cli.demo.processes import NodeProcess
from dqlite_py.errors import Error, MembershipRefused
from dqlite_py.raft.rpc import RpcError
from dqlite_py.storage.manifest import MANIFEST_MAGIC
from tests.integration.cluster import Cluster, wait_until
from tests.support.old_release import BEFORE_MANIFEST_2, program_of
from tests.support.rows_writer import check_rows, create_rows, wait_more, writing


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """All of the earlier release."""
    running = Cluster(tmp_path)
    program = program_of(BEFORE_MANIFEST_2)
    for node in running.nodes:
        node.program = (program,)
    with running:
        create_rows(running)
        yield running


def manifest_version(folder: Path) -> int:
    newest = max((folder / "state").glob("g*"), key=lambda path: int(path.name[1:]))
    (version,) = struct.unpack_from("<I", (newest / "MANIFEST").read_bytes(), len(MANIFEST_MAGIC))
    return int(version)


def lead(cluster: Cluster, node: NodeProcess) -> None:
    """Make `node` the leader."""
    target = cluster.status(node)["node_id"]

    def handed() -> bool:
        leader = cluster.leader()
        if leader is node:
            return True
        try:
            cluster.client.call(leader.address, "transfer", {"target": target})
        except (Error, RpcError):
            return False
        return False

    wait_until(handed, f"{node.name} leads")


def give_weight(cluster: Cluster, node: NodeProcess) -> None:
    body = {"id": cluster.status(node)["node_id"], "weight": 1, "domain": 0}
    cluster.client.call(node.address, "describe", body)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_rolling_upgrade_and_no_way_back(cluster: Cluster, tmp_path: Path) -> None:
    assert [manifest_version(node.folder) for node in cluster.nodes] == [1, 1, 1]
    with writing(cluster, 2) as writers:
        old = cluster.nodes[0].program
        for node in cluster.nodes:
            wait_more(writers, 30)
            node.terminate()
            assert node.process is not None
            assert node.process.wait(60) == 0, node.log_tail()
            node.program = NodeProcess("", node.address, node.folder, ()).program
            node.start()
            wait_until(lambda node=node: cluster.status(node)["leader_id"], f"{node.name}: {node.log_tail()}")
            for leader in cluster.nodes:  # each release leads the other
                lead(cluster, leader)
                wait_more(writers, 30)
            if node is not cluster.nodes[-1]:  # what one of them could not read is not written
                lead(cluster, node)
                with pytest.raises(MembershipRefused, match="format 2"):
                    give_weight(cluster, node)
    check_rows(cluster, *writers)
    assert not any(cluster.status(node)["divergences"] for node in cluster.nodes)
    give_weight(cluster, cluster.leader())  # a configuration of format 2

    victim = cluster.nodes[2]
    victim.terminate()
    victim.wait_stopped()
    with dqlite_py.Node(
        victim.folder, listen=victim.address
    ) as node:  # here, to make it write a manifest now
        node.wait_ready(30.0)
        wait_until(lambda: node.status()["healthy"], "it serves")
        node.connect("app", isolation_level=None).execute("INSERT INTO rows VALUES ('last', 0)")
        node.compact()
    assert manifest_version(victim.folder) == 3

    victim.program = old
    victim.start()
    assert victim.process is not None
    assert victim.process.wait(60) == 3
    assert "MANIFEST has format 3; this release knows 1" in " ".join(victim.log_tail())
    cluster.client.write(cluster.leader().address, "INSERT INTO rows VALUES ('last', 1)")  # the others go on
