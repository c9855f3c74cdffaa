"""Start, join, leave: identities, addresses, and who is refused, with real processes or embedded nodes."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import dqlite_py
from dqlite_py import errors
from dqlite_py.cli.demo.processes import NodeProcess, free_addresses
from dqlite_py.model import Address
from dqlite_py.node.succession import Rejoin, write_rejoin
from dqlite_py.ports import SystemDisk
from tests.integration.cluster import Cluster, wait_until
from tests.integration.embedded import check_same_state, embedded_cluster, leader_of, voters


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as running:
        running.client.write(running.nodes[0].address, "CREATE TABLE t(v INTEGER)")
        for number in range(20):
            running.client.write(running.nodes[number % 3].address, "INSERT INTO t VALUES (?)", number)
        yield running


def count(cluster: Cluster, node: NodeProcess) -> int:
    found: int = cluster.client.read(node.address, "SELECT count(*) FROM t")[0][0]
    return found


def test_all_restarted_together(cluster: Cluster) -> None:
    term = cluster.status(cluster.leader())["term"]
    for node in cluster.nodes:
        node.terminate()
    for node in cluster.nodes:
        node.wait_stopped()
    for node in cluster.nodes:
        node.join = ()  # membership comes from the log, never from arguments (RF-9)
        node.start()
    cluster.wait_formed()
    assert [count(cluster, node) for node in cluster.nodes] == [20, 20, 20]
    assert cluster.status(cluster.leader())["term"] > term
    cluster.check_equal()


def test_all_restarted_on_new_addresses(cluster: Cluster) -> None:
    for node in cluster.nodes:
        node.terminate()
    for node in cluster.nodes:
        node.wait_stopped()
    moved = free_addresses(3)
    for node, address in zip(cluster.nodes, moved, strict=True):
        node.address = address
        node.join = tuple(a for a in moved if a != address)
        node.start()
    cluster.wait_formed()
    known = [sorted(m["address"] for m in cluster.status(node)["members"]) for node in cluster.nodes]
    wait_until(
        lambda: all(
            sorted(m["address"] for m in cluster.status(node)["members"]) == sorted(moved)
            for node in cluster.nodes
        ),
        f"the configuration holds the new addresses {moved}, not {known}",
    )
    cluster.client.write(moved[1], "INSERT INTO t VALUES (99)")
    assert count(cluster, cluster.nodes[2]) == 21


def test_sigterm_hands_leadership_over_first(cluster: Cluster) -> None:
    leader = cluster.leader()
    term = cluster.status(leader)["term"]
    leader.terminate()
    assert leader.process is not None
    assert leader.process.wait(20) == 0
    new = cluster.leader()
    assert new is not leader
    assert cluster.status(new)["term"] == term + 1, "one election, asked for"
    assert "leadership lost" in leader.log_path.read_text()
    leader.start()
    wait_until(lambda: cluster.status(leader)["leader_id"], "the node is back")


def test_a_second_process_on_the_same_folder_is_refused(cluster: Cluster) -> None:
    node = cluster.nodes[1]
    (address,) = free_addresses(1)
    second = NodeProcess("second", address, node.folder, ())
    second.start()
    assert second.process is not None
    assert second.process.wait(20) == 3
    assert "another process" in " ".join(second.log_tail()).lower()
    assert count(cluster, node) == 20


def test_join_through_a_follower_and_remove(tmp_path: Path) -> None:
    with embedded_cluster(tmp_path) as nodes:
        leader = leader_of(nodes)
        leader.connect("app", isolation_level=None).execute("CREATE TABLE t(v)")
        follower = next(node for node in nodes if node is not leader)
        fourth = dqlite_py.Node(tmp_path / "n3", join=[follower.address])
        nodes.append(fourth.start())
        wait_until(lambda: voters(fourth) == 4, "the fourth node votes")
        fourth.connect("app", isolation_level=None).execute("INSERT INTO t VALUES (4)")
        check_same_state(nodes)
        follower.remove_member(fourth.node_id)
        assert voters(leader) == 3
        wait_until(lambda: not fourth.status()["healthy"], "the removed node knows")
        with pytest.raises(errors.NodeStopped, match="removed"):
            fourth.connect("app", isolation_level=None).execute("INSERT INTO t VALUES (5)")
        with pytest.raises(errors.MembershipRefused, match="no member"):
            leader.remove_member(12345)


def test_a_member_that_was_down_while_it_was_removed_is_told(tmp_path: Path) -> None:
    with embedded_cluster(tmp_path) as nodes:
        leader = leader_of(nodes)
        position, victim = next((i, node) for i, node in enumerate(nodes) if node is not leader)
        old_id, address = victim.node_id, victim.address
        victim.stop()
        leader.remove_member(old_id)
        nodes[position] = dqlite_py.Node(tmp_path / f"n{position}", listen=address).start()
        wait_until(lambda: "removed" in nodes[position].status()["problem"], "it knows that it was removed")
        assert leader.status()["is_leader"]


def test_a_removed_member_that_starts_again_is_told_again(tmp_path: Path) -> None:
    with embedded_cluster(tmp_path) as nodes:
        leader = leader_of(nodes)
        position, victim = next((i, node) for i, node in enumerate(nodes) if node is not leader)
        leader.remove_member(victim.node_id)
        wait_until(lambda: "removed" in victim.status()["problem"], "it knows that it was removed")
        address = victim.address
        victim.stop()
        nodes[position] = dqlite_py.Node(tmp_path / f"n{position}", listen=address).start()
        wait_until(lambda: "removed" in nodes[position].status()["problem"], "it is told so again")
        assert leader.status()["is_leader"]


def test_the_leader_can_be_removed(tmp_path: Path) -> None:
    with embedded_cluster(tmp_path) as nodes:
        leader = leader_of(nodes)
        leader.connect("app", isolation_level=None).execute("CREATE TABLE t(v)")
        others = [node for node in nodes if node is not leader]
        others[0].remove_member(leader.node_id)
        new = leader_of(others)
        wait_until(lambda: voters(new) == 2, "two voters remain")
        others[0].connect("app", isolation_level=None).execute("INSERT INTO t VALUES (1)")
        check_same_state(others)


def test_a_removal_that_loses_the_quorum_is_refused(tmp_path: Path) -> None:
    with embedded_cluster(tmp_path) as nodes:
        leader = leader_of(nodes)
        down, healthy = (node for node in nodes if node is not leader)
        healthy_id = healthy.node_id
        down.stop()
        wait_until(
            lambda: sum(m["connected"] for m in leader.members()) == 2, "the leader sees one member down"
        )
        with pytest.raises(errors.MembershipRefused, match=r"majority|answer"):
            leader.remove_member(healthy_id)
        assert voters(leader) == 3


def test_a_wiped_disk_under_an_old_address_is_refused_with_the_mend(tmp_path: Path) -> None:
    with embedded_cluster(tmp_path) as nodes:
        leader = leader_of(nodes)
        position, victim = next((i, node) for i, node in enumerate(nodes) if node is not leader)
        old_id, address = victim.node_id, victim.address
        victim.stop()
        shutil.rmtree(tmp_path / f"n{position}")
        wiped = dqlite_py.Node(tmp_path / f"n{position}", listen=address, join=[leader.address])
        with pytest.raises(errors.MemberRefused, match=f"cluster remove {old_id}"):
            wiped.start()
        leader.remove_member(old_id)
        nodes[position] = dqlite_py.Node(
            tmp_path / f"n{position}", listen=address, join=[leader.address]
        ).start()
        wait_until(lambda: voters(nodes[position]) == 3, "it votes under its new identity")


def test_a_lost_journal_under_the_old_identity_is_refused(tmp_path: Path) -> None:
    with embedded_cluster(tmp_path) as nodes:
        leader = leader_of(nodes)
        position, victim = next((i, node) for i, node in enumerate(nodes) if node is not leader)
        victim.stop()
        shutil.rmtree(tmp_path / f"n{position}" / "journal")
        with pytest.raises(errors.CorruptJournal, match="missing"):
            dqlite_py.Node(tmp_path / f"n{position}").start()


def test_a_node_of_another_cluster_is_refused(tmp_path: Path) -> None:
    with dqlite_py.Node(tmp_path / "other") as stranger:
        stranger.wait_ready()
        stranger.connect("app", isolation_level=None).execute("CREATE TABLE mine(v)")
        address = stranger.address
    with embedded_cluster(tmp_path, 2) as nodes:
        members = {member["id"] for member in nodes[0].members()}
        with dqlite_py.Node(tmp_path / "other", listen=address, join=[nodes[0].address]) as again:
            again.wait_ready()
            assert again.cluster_id != nodes[0].cluster_id
            again.connect("app", isolation_level=None).execute(
                "INSERT INTO mine VALUES (1)"
            )  # untouched, still its own cluster
            wait_until(
                lambda: any("cluster" in text for text in again.status()["refusals"]), "the refusal is shown"
            )
            assert {member["id"] for member in nodes[0].members()} == members


def test_nobody_to_join_is_said_by_address(tmp_path: Path) -> None:
    (address,) = free_addresses(1)
    with pytest.raises(errors.OperationalError, match=address):
        dqlite_py.Node(tmp_path / "n", join=[address], start_timeout=1.0).start()


def test_sigkill_while_joining_leaves_a_folder_that_can_join(tmp_path: Path) -> None:
    with Cluster(tmp_path, 1) as cluster:
        (address,) = free_addresses(1)
        late = NodeProcess("late", address, tmp_path / "late", (cluster.nodes[0].address,))
        for delay_s in (0.3, 0.5, 0.7):
            late.start()
            assert late.process is not None
            with contextlib.suppress(subprocess.TimeoutExpired):
                late.process.wait(delay_s)
            late.process.send_signal(signal.SIGKILL)
            late.process.wait()
        late.start()
        try:
            wait_until(
                lambda: sum(m["role"] == "voter" for m in cluster.status(late)["members"]) == 2,
                f"the node joins after all: {late.log_tail()}",
            )
        finally:
            late.kill()


def test_a_rejoin_at_the_address_of_another_cluster_adds_nobody_there(tmp_path: Path) -> None:
    """Found by reading: the stranger became a stand-by there, and only then saw that it was wrong."""
    mine = tmp_path / "mine"
    with dqlite_py.Node(mine) as node:
        node.wait_ready()
        old = bytes.fromhex(node.status()["cluster_id"])
    with dqlite_py.Node(tmp_path / "other") as other:
        other.wait_ready()
        rejoin = Rejoin(old, bytes(range(16)), "before-rejoin-1", (Address(other.address),))
        write_rejoin(SystemDisk(), str(mine), rejoin)
        with pytest.raises(errors.WrongCluster, match="does not continue"):
            dqlite_py.Node(mine).start()
        assert [member["id"] for member in other.members()] == [other.node_id]
