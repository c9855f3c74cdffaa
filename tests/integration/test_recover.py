"""A majority lost for good: `dqlite-py cluster recover` on real folders, and the old nodes' way back.

What must never happen: a node of the old cluster that votes in, leads or feeds the recovered one.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dqlite_py.cli.demo.processes import NodeProcess
from dqlite_py.cli.main import main
from dqlite_py.errors import Error, InterfaceError
from dqlite_py.model import Address
from dqlite_py.node.succession import RECOVERED, RECOVERING, REJOIN
from dqlite_py.offline import recover as recovery
from dqlite_py.ports import SystemDisk, disk_error
from tests.integration.cluster import Cluster, wait_until
from tests.support.folders import fingerprint


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as running:
        running.client.write(
            running.nodes[0].address, "CREATE TABLE rows(number INTEGER PRIMARY KEY, text TEXT)"
        )
        yield running


def run(*arguments: object) -> Any:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def recover(folder: Path, *options: object) -> dict[str, Any]:
    result = run("cluster", "recover", "--dir", folder, "--yes", "--json", *options)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def insert(cluster: Cluster, node: NodeProcess, *numbers: int) -> None:
    for number in numbers:
        cluster.client.write(node.address, "INSERT INTO rows VALUES (?, 'row')", number)


def numbers(cluster: Cluster, node: NodeProcess, level: str = "linearizable") -> list[int]:
    rows = cluster.client.read(node.address, "SELECT number FROM rows ORDER BY 1", level=level)
    return [number for (number,) in rows]


def forget(cluster: Cluster) -> None:
    """The test's caller belongs to the old cluster: be a new one."""
    cluster.client.drop_connections()


def wait_leading(cluster: Cluster, node: NodeProcess) -> dict[str, Any]:
    def leads() -> dict[str, Any] | None:
        status = cluster.status(node)
        return status if status["is_leader"] and status["healthy"] else None

    found: dict[str, Any] = wait_until(leads, f"{node.name} leads: {node.log_tail()}")
    return found


def wait_member(cluster: Cluster, node: NodeProcess, cluster_id: str) -> None:
    def is_member() -> bool:
        status = cluster.status(node)
        own = [m for m in status["members"] if m["id"] == status["node_id"]]
        return status["cluster_id"] == cluster_id and bool(own) and own[0]["role"] == "voter"

    wait_until(is_member, f"{node.name} is a voter of {cluster_id}: {node.log_tail()}")


def wait_gone(node: NodeProcess) -> int:
    """Its exit code, when it has stopped by itself."""
    assert node.process is not None
    return node.process.wait(60)


def test_two_of_three_lost_and_one_comes_back(cluster: Cluster) -> None:
    leader, survivor, late = cluster.leader(), *cluster.followers()
    insert(cluster, leader, *range(10))
    cluster.settled()
    late.kill()  # it misses what follows
    insert(cluster, leader, *range(10, 20))
    wait_until(lambda: numbers(cluster, survivor, "stale") == list(range(20)), "the survivor has all")
    old_id = cluster.status(leader)["cluster_id"]
    for node in (leader, survivor):
        node.kill()

    before = fingerprint(survivor.folder)
    shown = run("cluster", "recover", "--dir", survivor.folder, "--dry-run", "--json")
    assert shown.exit_code == 0, shown.output
    plan = json.loads(shown.stdout)
    assert fingerprint(survivor.folder) == before
    assert plan["old_cluster_id"] == old_id
    assert plan["last_index"] >= plan["certain_index"]
    assert {m["address"] for m in plan["left_out"]} == {leader.address, late.address}
    assert plan["newest_write_us"] > 0
    words = run("cluster", "recover", "--dir", survivor.folder, "--dry-run").output
    assert "nothing was changed" in words
    assert fingerprint(survivor.folder) == before

    done = recover(survivor.folder)
    assert done["cluster_id"] != old_id
    assert run("verify", survivor.folder).exit_code == 0
    forget(cluster)
    survivor.start()
    status = wait_leading(cluster, survivor)
    assert status["cluster_id"] == done["cluster_id"]
    assert [m["id"] for m in status["members"]] == [status["node_id"]]
    assert numbers(cluster, survivor) == list(range(20))
    insert(cluster, survivor, *range(20, 30))

    # An old member comes back by itself: first it finds out and stops, then it joins.
    late.start()
    assert wait_gone(late) == 4, late.log_tail(40)
    assert (late.folder / REJOIN).exists()
    late.start()
    wait_member(cluster, late, done["cluster_id"])
    wait_until(lambda: numbers(cluster, late, "stale") == list(range(30)), "it has all")
    assert not (late.folder / REJOIN).exists()
    (aside,) = late.folder.glob("before-rejoin-*")
    kept = run("verify", aside, "--json")
    assert json.loads(kept.stdout)["cluster_id"] == old_id  # nothing was deleted
    assert kept.exit_code == 0

    # Any member tells the next one that comes back, and a restart changes nothing.
    late.kill()
    late.start()
    wait_member(cluster, late, done["cluster_id"])
    assert cluster.status(late)["recovered_from"][0][0].hex() == old_id
    states = [cluster.client.call(node.address, "state.hash") for node in (survivor, late)]
    assert states[0]["databases"] == states[1]["databases"]


def test_an_old_node_with_more_does_not_go_over_by_itself(cluster: Cluster) -> None:
    leader, ahead, survivor = cluster.leader(), *cluster.followers()
    insert(cluster, leader, *range(5))
    cluster.settled()
    survivor.kill()  # it misses acknowledged writes
    insert(cluster, leader, *range(5, 10))
    wait_until(lambda: numbers(cluster, ahead, "stale") == list(range(10)), "the other has all")
    for node in (leader, ahead):
        node.kill()

    report = ahead.folder.parent / "ahead.json"
    report.write_text(run("verify", ahead.folder, "--json").stdout)
    refused = run("cluster", "recover", "--dir", survivor.folder, "--yes", "--compare", report)
    assert refused.exit_code == 1
    assert "NEWER" in refused.output
    done = recover(survivor.folder, "--compare", report, "--force")
    forget(cluster)
    survivor.start()
    wait_leading(cluster, survivor)
    insert(cluster, survivor, 100)

    ahead.start()
    wait_until(lambda: "does not join that by itself" in ahead.log_path.read_text(), "it says why not")
    assert ahead.is_running
    forget(cluster)
    assert cluster.status(ahead)["leader_id"] == 0
    assert numbers(cluster, ahead, "stale") == list(range(10))  # to be looked at, or dumped
    ahead.kill()
    forget(cluster)
    before = fingerprint(ahead.folder)
    place = ("cluster", "rejoin", "--dir", ahead.folder, "--join", survivor.address)
    assert run(*place, "--dry-run").exit_code == 0
    assert fingerprint(ahead.folder) == before
    assert run(*place, "--yes").exit_code == 0
    again = run(
        "cluster", "recover", "--dir", ahead.folder, "--yes"
    )  # it would be a second cluster of the old one
    assert again.exit_code == 3
    assert f"about to join cluster {done['cluster_id']}" in again.output
    ahead.start()
    wait_member(cluster, ahead, done["cluster_id"])
    wait_until(lambda: numbers(cluster, ahead, "stale") == [0, 1, 2, 3, 4, 100], "the recovered state")


def test_an_old_majority_and_the_recovered_node_never_mix(cluster: Cluster) -> None:
    """The operator was wrong: the two others were not lost. Each side goes on alone, and no write wanders."""
    leader, other, survivor = cluster.leader(), *cluster.followers()
    insert(cluster, leader, *range(5))
    cluster.settled()
    survivor.kill()
    recover(survivor.folder)
    insert(cluster, leader, 10)
    survivor.start()
    forget(cluster)
    wait_leading(cluster, survivor)
    insert(cluster, survivor, 20)
    forget(cluster)
    insert(cluster, leader, 11)
    for node in (leader, other):
        wait_until(lambda n=node: numbers(cluster, n, "stale") == [0, 1, 2, 3, 4, 10, 11], "the old side's")
        assert node.is_running
    # One of the old majority restarts, and still finds its leader: it stays.
    other.kill()
    other.start()
    wait_until(lambda: cluster.status(other)["leader_id"], "the old cluster lives")
    insert(cluster, leader, 12)
    wait_until(lambda: numbers(cluster, other, "stale")[-1] == 12, "and goes on")
    forget(cluster)
    assert numbers(cluster, survivor) == [0, 1, 2, 3, 4, 20]
    assert len(cluster.status(survivor)["members"]) == 1


def test_recovered_twice(cluster: Cluster) -> None:
    """At once again, while a node of the first cluster runs and waits for a leader: it finds the third."""
    leader, first, second = cluster.leader(), *cluster.followers()
    insert(cluster, leader, *range(5))
    cluster.settled()
    for node in cluster.nodes:
        node.kill()
    second.start()
    old = recover(first.folder, "--no-databases")
    newer = recover(first.folder)  # at once again
    assert old["cluster_id"] != newer["cluster_id"]
    forget(cluster)
    first.start()
    wait_leading(cluster, first)
    insert(cluster, first, 5)
    assert wait_gone(second) == 4, second.log_tail(40)
    second.start()
    wait_member(cluster, second, newer["cluster_id"])
    wait_until(lambda: numbers(cluster, second, "stale") == list(range(6)), "it has all")


def test_after_compaction_and_with_a_torn_end(cluster: Cluster) -> None:
    leader, survivor, _gone = cluster.leader(), *cluster.followers()
    insert(cluster, leader, *range(50))
    cluster.settled()
    for node in cluster.nodes:
        node.kill()
    segment = max((survivor.folder / "journal").glob("*.seg"))
    with segment.open("r+b") as file:  # behind the last group, as a crash in the middle of a write leaves it
        data = file.read().rstrip(b"\0")
        file.seek(len(data) + 100)
        file.write(b"torn")
    verified = run("verify", survivor.folder, "--json")
    if verified.exit_code:
        pytest.fail(verified.stdout)
    recover(survivor.folder)
    forget(cluster)
    survivor.start()
    wait_leading(cluster, survivor)
    assert numbers(cluster, survivor) == list(range(50))


class StoppingDisk(SystemDisk):
    """From the n-th call on that changes something, nothing changes any more."""

    def __init__(self, stop_at: int) -> None:
        self.left = stop_at

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise disk_error(errno.EIO)

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        if any(bytes(data[:64])):  # not each part of the space that a segment takes ahead
            self._count()
        return super().pwrite(fd, data, offset)

    def write_group(self, fd: int, group: Any) -> None:
        self._count()
        super().write_group(fd, group)

    def rename(self, old: str, new: str) -> None:
        self._count()
        super().rename(old, new)

    def unlink(self, path: str) -> None:
        self._count()
        super().unlink(path)

    def mkdir(self, path: str) -> None:
        self._count()
        super().mkdir(path)


def test_interrupted_anywhere_it_is_completed(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader = cluster.leader()
    insert(cluster, leader, *range(20))
    cluster.settled()
    for node in cluster.nodes:
        node.kill()
    survivor = cluster.nodes[2]
    original = tmp_path / "original"
    shutil.copytree(survivor.folder, original)
    folder = tmp_path / "interrupted"
    old_id = json.loads(run("verify", original, "--json").stdout)["cluster_id"]
    step = reached = 0
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(original, folder)
        disk = StoppingDisk(step)
        with monkeypatch.context() as patched:
            patched.setattr(recovery, "SystemDisk", lambda disk=disk: disk)
            plan = recovery.plan_recovery(str(folder))
            try:
                recovery.recover(plan)
            except (Error, OSError):
                interrupted = True
            else:
                interrupted = False
        if not interrupted:
            break
        if (folder / RECOVERING).exists():
            reached += 1
            started = run("node", "--dir", folder, "--listen", "127.0.0.1:0")
            assert started.exit_code == 3  # half of it is not started
            assert "interrupted" in started.output
            with pytest.raises(InterfaceError, match="was begun with --address"):
                recovery.plan_recovery(str(folder), address=Address("elsewhere:1"))
        recovery.recover(recovery.plan_recovery(str(folder)))
        report = json.loads(run("verify", folder, "--json").stdout)
        assert report["sound"], (step, report["findings"])
        assert report["cluster_id"] != old_id
        assert len(report["members"]) == 1
        assert (folder / RECOVERED).exists()
        step += 1
    assert reached > 15
    shutil.rmtree(survivor.folder)
    shutil.copytree(folder, survivor.folder)
    forget(cluster)
    survivor.start()
    wait_leading(cluster, survivor)
    assert numbers(cluster, survivor) == list(range(20))


def test_a_folder_in_use_or_damaged_is_refused(cluster: Cluster) -> None:
    node = cluster.nodes[1]
    used = run("cluster", "recover", "--dir", node.folder, "--yes")
    assert used.exit_code == 3
    assert "in use" in used.output
    node.kill()
    (node.folder / "hardstate").unlink()
    before = fingerprint(node.folder)
    damaged = run("cluster", "recover", "--dir", node.folder, "--yes")
    assert damaged.exit_code == 3
    assert "hardstate" in damaged.output
    assert fingerprint(node.folder) == before
    unasked = run("cluster", "recover", "--dir", node.folder, "--json")
    assert unasked.exit_code == 2
