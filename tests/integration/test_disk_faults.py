"""Full and failing disks of whole nodes: what is refused, what goes on, what resumes by itself."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import dqlite_py
from dqlite_py import errors
from dqlite_py.errors import Error, Outcome
from dqlite_py.limits import MIB
from dqlite_py.ports import SystemDisk
from dqlite_py.raft.rpc import RpcError
from tests.integration.cluster import wait_until
from tests.integration.embedded import check_same_state, embedded_cluster, leader_of
from tests.support.rows_writer import Writer, check_rows, create_rows
from tests.support.settings_cluster import (
    COMPACTING,
    SettingsCluster,
    SettingsNode,
)

RESERVE_BYTES = 16 * MIB


class MeteredDisk(SystemDisk):
    """The real disk; free space is what the test says, by data folder."""

    free: dict[str, int]

    def free_bytes(self, path: str) -> int:
        return next((size for folder, size in self.free.items() if path.startswith(folder)), 2**40)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    sizes: dict[str, int] = {}
    monkeypatch.setattr(MeteredDisk, "free", sizes, raising=False)
    monkeypatch.setattr("dqlite_py.app.SystemDisk", MeteredDisk)
    return sizes


def test_a_follower_below_its_reserve_lags_and_catches_up(tmp_path: Path, free: dict[str, int]) -> None:
    with embedded_cluster(tmp_path, disk_reserve_bytes=RESERVE_BYTES) as nodes:
        leader = leader_of(nodes)
        position, follower = next((i, n) for i, n in enumerate(nodes) if n is not leader)
        connection = leader.connect("app", isolation_level=None)
        connection.execute("CREATE TABLE t(v)")
        check_same_state(nodes)
        term = leader.status()["term"]
        free[str(tmp_path / f"n{position}")] = RESERVE_BYTES - 1
        wait_until(lambda: not follower.status()["healthy"], "the follower notices")
        stands_at = follower.status()["last_index"]
        for number in range(50):
            connection.execute("INSERT INTO t VALUES (?)", (number,))
        assert follower.status()["last_index"] == stands_at, "it takes no more entries"
        stale = follower.connect("app", isolation_level=None, read_level=dqlite_py.ReadLevel.STALE)
        assert stale.execute("SELECT count(*) FROM t").fetchone() == (0,)
        assert leader.status()["term"] == term, "and does not disturb"
        free.clear()
        wait_until(lambda: follower.status()["healthy"], "space has returned")
        check_same_state(nodes)
        assert stale.execute("SELECT count(*) FROM t").fetchone() == (50,)
        assert leader.status()["term"] == term


def test_a_leader_below_its_reserve_refuses_writes_and_resumes(tmp_path: Path, free: dict[str, int]) -> None:
    with embedded_cluster(tmp_path, disk_reserve_bytes=RESERVE_BYTES) as nodes:
        leader = leader_of(nodes)
        position = nodes.index(leader)
        follower = next(node for node in nodes if node is not leader)
        connections = [
            leader.connect("app", isolation_level=None, timeout=5),
            follower.connect("app", isolation_level=None, timeout=5),
        ]
        connections[0].execute("CREATE TABLE t(v)")
        free[str(tmp_path / f"n{position}")] = 0
        wait_until(lambda: not leader.status()["healthy"], "the leader notices")
        for connection in connections:  # also what a follower forwards
            with pytest.raises(errors.StorageFull, match="free space") as caught:
                connection.execute("INSERT INTO t VALUES ('refused')")
            assert caught.value.outcome is Outcome.NOT_APPLIED
            assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)
        free.clear()
        wait_until(lambda: leader.status()["healthy"], "space has returned")
        for connection in connections:
            connection.execute("INSERT INTO t VALUES ('taken')")
        check_same_state(nodes)
        assert connections[1].execute("SELECT v FROM t").fetchall() == [("taken",), ("taken",)]


# -- a disk that is really full ---------------------------------------------------------------------------


MS_REMOUNT, MNT_DETACH = 32, 2


def _mount(folder: Path, size_bytes: int, flags: int = 0) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    return not libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", flags, f"size={size_bytes}".encode())


def grow(folder: Path, size_bytes: int) -> None:
    assert _mount(folder, size_bytes, MS_REMOUNT)


@contextlib.contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    """A file system of this size; where that may not be mounted, a folder with so little space by its own account."""
    folder.mkdir(parents=True)
    if not _mount(folder, size_bytes):
        assert ctypes.get_errno() in (errno.EPERM, errno.EACCES), "mounting is not allowed here"
        yield folder
        return
    try:
        yield folder
    finally:
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.umount2(str(folder).encode(), MNT_DETACH) == 0


class Filler:
    """Takes all space of a node's disk and gives it back."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ballast"
        self.meter = folder.parent / "free"
        self.is_real = os.path.ismount(folder)

    def fill(self, leave_bytes: int = 0) -> None:
        if not self.is_real:
            self.meter.write_text(str(leave_bytes))
            return
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            piece = MIB
            while piece >= 4096:
                free = os.statvfs(self.path).f_bavail * os.statvfs(self.path).f_frsize - leave_bytes
                piece = min(MIB, free // 4096 * 4096)
                if piece <= 0:
                    return
                try:
                    os.write(fd, bytes(piece))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    piece //= 2
        finally:
            os.close(fd)

    def free(self) -> None:
        self.path.unlink(missing_ok=True)
        self.meter.unlink(missing_ok=True)


def refused(cluster: SettingsCluster, node: SettingsNode) -> Error | None:
    """Try to write; the refusal, or None."""
    try:
        cluster.client.write(node.address, "INSERT INTO probes VALUES (1)", timeout_s=2.0)
    except Error as error:
        return error
    return None


def until_refused(cluster: SettingsCluster, node: SettingsNode) -> errors.StorageFull:
    """The refusal of new writes; what was under way when the disk became full has no known outcome."""
    while True:
        error = wait_until(lambda: refused(cluster, node), "writes are refused")
        if isinstance(error, errors.StorageFull):
            return error
        assert error.outcome is Outcome.UNKNOWN, error


@pytest.mark.slow
@pytest.mark.parametrize("leave_bytes", [0, 3 * MIB])
def test_a_full_disk_of_the_only_node(tmp_path: Path, leave_bytes: int) -> None:
    """To the last byte, or below the reserve only: refusals, reads, resumption; nothing acknowledged is lost."""
    with small_disk(tmp_path / "disk", 64 * MIB) as disk:
        settings = {"disk_reserve_bytes": 4 * MIB, "compact_log_bytes": 2**60}
        filler = Filler(disk)
        cluster = SettingsCluster(
            tmp_path, 1, free_bytes_from=str(filler.meter), segment_bytes=8 * MIB, node=settings
        )
        (node,) = cluster.nodes
        assert isinstance(node, SettingsNode)
        node.folder = disk / "node1"
        with cluster:
            create_rows(cluster)
            cluster.client.write(node.address, "CREATE TABLE probes(v)")
            with Writer(cluster, "w") as writer:
                writer.wait_more(20)
                filler.fill(leave_bytes)
                assert until_refused(cluster, node).outcome is Outcome.NOT_APPLIED
                held = cluster.client.read(node.address, "SELECT count(*) FROM rows", level="stale")[0][0]
                assert held >= 20, "reads go on"
                assert node.is_running, node.log_tail()
                filler.free()
                wait_until(lambda: cluster.status(node)["healthy"], f"it resumes: {node.log_tail()}")
                writer.wait_more(20)
            count = len(writer.acknowledged)
            check_rows(cluster, writer)
            before = cluster.settled()[0]["databases"]
            node.kill()
            node.start()
            wait_until(lambda: cluster.settled()[0]["databases"] == before, "the same state after a restart")
            check_rows(cluster, writer)
            assert count == len(writer.acknowledged)


@pytest.mark.slow
def test_a_disk_that_fills_up_by_writing(tmp_path: Path) -> None:
    """The data itself fills the disk, journal, WAL and database file: nothing fails for good, reads go on."""
    with small_disk(tmp_path / "disk", 44 * MIB) as disk:
        settings = {"disk_reserve_bytes": 6 * MIB, "compact_log_bytes": 2**60}
        filler = Filler(disk)
        cluster = SettingsCluster(
            tmp_path, 1, free_bytes_from=str(filler.meter), segment_bytes=8 * MIB, node=settings
        )
        (node,) = cluster.nodes
        assert isinstance(node, SettingsNode)
        node.folder = disk / "node1"
        with cluster:
            cluster.client.write(node.address, "CREATE TABLE probes(v)")
            cluster.client.write(node.address, "CREATE TABLE big(v BLOB)")
            taken = unsure = 0
            if filler.is_real:
                filler.meter.write_text(str(2**40))  # it fills up between two looks at the free space
            with contextlib.suppress(Error, RpcError):
                while taken < 500:
                    if taken == 40 and not filler.is_real:
                        filler.fill()
                    unsure = 1
                    cluster.client.write(
                        node.address, "INSERT INTO big VALUES (?)", bytes(256 * 1024), timeout_s=3.0
                    )
                    unsure = 0
                    taken += 1
            assert 20 <= taken < 500
            if filler.is_real:
                filler.meter.unlink()
            assert until_refused(cluster, node).outcome is Outcome.NOT_APPLIED
            held = cluster.client.read(node.address, "SELECT count(*) FROM big", level="stale")[0][0]
            assert held in (taken, taken + unsure), "reads go on"
            node.kill()
            node.start()
            if filler.is_real:  # databases are opened by moving their WAL into the file: that needs space
                assert node.exit_code() == 3, node.log_tail()
                assert "full" in "\n".join(node.log_tail(3))
                grow(disk, 256 * MIB)
                node.start()
            else:
                filler.free()
            wait_until(lambda: cluster.status(node)["healthy"], f"it serves again: {node.log_tail()}")
            assert cluster.client.read(node.address, "SELECT count(*) FROM big")[0][0] in (
                taken,
                taken + unsure,
            )
            assert refused(cluster, node) is None


@pytest.mark.slow
def test_a_follower_on_a_full_disk_lags_and_catches_up(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64 * MIB) as disk:
        settings = {"disk_reserve_bytes": 4 * MIB, "compact_log_bytes": 2**60}
        filler = Filler(disk)
        cluster = SettingsCluster(tmp_path, 3, segment_bytes=8 * MIB, node=settings)
        victim = cluster.nodes[2]
        assert isinstance(victim, SettingsNode)
        victim.folder = disk / "node3"
        victim.options = {**victim.options, "free_bytes_from": str(filler.meter)}
        with cluster:
            create_rows(cluster)
            if cluster.leader() is victim:
                cluster.client.call(victim.address, "transfer")
            with Writer(cluster, "w") as writer:
                writer.wait_more(20)
                filler.fill()
                wait_until(lambda: not cluster.status(victim)["healthy"], "the follower notices")
                writer.wait_more(20)
                assert victim.is_running, victim.log_tail()
                filler.free()
                wait_until(lambda: cluster.status(victim)["healthy"], f"it resumes: {victim.log_tail()}")
                writer.wait_more(20)
            check_rows(cluster, writer)


# -- a disk that fails ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("role", ["leader", "follower"])
def test_a_failed_fsync_stops_the_node_and_the_others_go_on(tmp_path: Path, role: str) -> None:
    with SettingsCluster(tmp_path) as cluster:
        for node in cluster.nodes:
            assert isinstance(node, SettingsNode)
            node.kill()
            node.options = {"fail_when": str(tmp_path / f"{node.name}.fail")}
            node.start()
        create_rows(cluster)
        victim = cluster.leader() if role == "leader" else cluster.followers()[0]
        assert isinstance(victim, SettingsNode)
        with Writer(cluster, "w") as writer:
            writer.wait_more(20)
            (tmp_path / f"{victim.name}.fail").write_text(str(errno.EIO))
            assert victim.exit_code() == 4, victim.log_tail()
            said = "\n".join(victim.log_tail(20))
            assert "Input/output error" in said
            assert "restart" in said
            writer.wait_more(20)
            victim.start()  # the disk is still broken: it fails again, the same way
            assert victim.exit_code() in (3, 4), victim.log_tail()
            assert "Input/output error" in "\n".join(victim.log_tail(30))
            (tmp_path / f"{victim.name}.fail").unlink()
            victim.start()
            wait_until(lambda: cluster.status(victim)["leader_id"], f"it is back: {victim.log_tail()}")
            writer.wait_more(20)
        check_rows(cluster, writer)


@pytest.mark.slow
def test_the_only_node_fails_its_fsync_and_nothing_unsure_is_called_done(tmp_path: Path) -> None:
    with SettingsCluster(tmp_path, 1, fail_when=str(tmp_path / "fail")) as cluster:
        create_rows(cluster)
        (node,) = cluster.nodes
        assert isinstance(node, SettingsNode)
        with Writer(cluster, "w") as writer:
            writer.wait_more(20)
            (tmp_path / "fail").write_text(str(errno.EIO))
            assert node.exit_code() == 4
            (tmp_path / "fail").unlink()
            node.start()
            writer.wait_more(20)
        check_rows(cluster, writer)
        with pytest.raises((Error, RpcError)):
            cluster.client.read(node.address, "SELECT * FROM nothing")


@pytest.mark.slow
def test_a_failed_fsync_of_an_incoming_snapshot_stops_the_receiver(tmp_path: Path) -> None:
    """What a failed fsync left in the page cache looks whole and is not durable: only a restart gives certainty."""
    with SettingsCluster(tmp_path, fail_incoming_when=str(tmp_path / "fail"), **COMPACTING) as cluster:
        create_rows(cluster)
        victim = cluster.followers()[0]
        assert isinstance(victim, SettingsNode)
        victim.kill()
        cluster.leave_behind(victim)
        (tmp_path / "fail").write_text(str(errno.EIO))
        victim.start()
        assert victim.exit_code() == 4, victim.log_tail()
        assert "Input/output error" in "\n".join(victim.log_tail(30))
        (tmp_path / "fail").unlink()
        victim.start()
        wait_until(lambda: cluster.status(victim)["snapshot_index"] > 0, f"caught up: {victim.log_tail()}")
        cluster.check_equal()
