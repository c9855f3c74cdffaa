"""The simulated disk's faults: full, failing, rotting, slow; and SQLite on it."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import apsw
import pytest

from tests.simulation.cluster.disk import DiskFaults, SimDisk, seed_sqlite, set_sqlite_time
from tests.simulation.cluster.disk_testing import machine, never, nothing, put

# -- faults --------------------------------------------------------------------------------------------------


def test_full_disk() -> None:
    with machine() as disk:
        mounted = disk.mount(nothing)
        path = disk.folder + "/a/x"
        put(mounted, path, b"1" * 1000)
        fd = mounted.open(path)
        disk.full = True
        assert mounted.free_bytes(disk.folder) == 0
        assert mounted.pwrite(fd, b"2" * 100, 100) == 100
        assert mounted.pwrite(fd, b"2" * 100, 950) == 50
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as caught:
            mounted.pwrite(fd, b"3", 1000)
        assert caught.value.errno == errno.ENOSPC
        disk.full = False
        mounted.ftruncate(fd, 100_000)
        disk.full = True
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            mounted.pwrite(fd, b"3", 50_000)  # a hole
        disk.full = False
        disk.capacity_bytes = 100_010
        assert mounted.free_bytes(disk.folder) == 10
        assert mounted.pwrite(fd, b"4" * 100, 100_000) == 10
        mounted.unlink(path)
        assert mounted.free_bytes(disk.folder) == 100_010
        disk.settle(lose_unsynced=False)


def test_what_a_failed_sync_dropped_is_never_written() -> None:
    lost = 0
    for seed in range(40):
        with machine(seed) as disk:
            mounted = disk.mount(nothing)
            path = disk.folder + "/a/x"
            put(mounted, path, b"1" * 2048)
            fd = mounted.open(path)
            mounted.pwrite(fd, b"2" * 1024, 0)
            mounted.ftruncate(fd, 4096)
            disk.fail_syncs = 1
            with pytest.raises(OSError, match=os.strerror(errno.EIO)):
                mounted.fdatasync(fd)
            assert mounted.pread(fd, 1024, 0) == b"2" * 1024
            mounted.pwrite(fd, b"3" * 1024, 1024)
            mounted.pwrite(fd, b"4", 3000)
            mounted.fdatasync(fd)  # succeeds, and does not bring what the first one dropped
            disk.settle(lose_unsynced=True)
            found = Path(path).read_bytes()
            assert found[1024:2048] == b"3" * 1024
            assert found[2048:] == (bytes(952) + b"4").ljust(2048, b"\0")
            lost += b"1" in found
    assert lost > 20


def test_rot() -> None:
    with machine() as disk:
        put(disk.mount(nothing), disk.folder + "/a/00000000000000000001.seg", bytes(100))
        disk.settle(lose_unsynced=False)
        assert disk.rot_some("database", random.Random(1)) is None
        found = disk.rot_some("journal", random.Random(1))
        assert found is not None
        assert Path(found.path).read_bytes()[found.offset] == 1 << found.bit
        assert disk.counts()["rotted"] == 1


def test_latency_is_slept_and_no_latency_is_not() -> None:
    slept: list[float] = []
    faults = DiskFaults()
    with machine(faults=faults, sleep=slept.append) as disk:
        mounted = disk.mount(nothing)
        put(mounted, disk.folder + "/a/x", b"1")
        assert slept == []
        faults.sync_s, faults.write_s, faults.read_s = (1.0, 2.0), (3.0, 4.0), (5.0, 6.0)
        put(mounted, disk.folder + "/a/x", b"1")
        mounted.pread(mounted.open(disk.folder + "/a/x"), 1, 0)
        assert [int(seconds) for seconds in slept] == [3, 1, 1, 5]
        faults.slow, faults.slow_s = 1.0, 10.0
        mounted.fsync_dir(disk.folder)
        assert 1.0 < slept[-1] < 12.0
        disk.settle(lose_unsynced=False)


def test_a_link_in_the_path_is_refused() -> None:
    with machine() as disk:
        os.symlink(disk.folder, disk.folder + "-link")
        with pytest.raises(ValueError, match="without links"):
            SimDisk(disk.folder + "-link", random.Random(0), sleep=never, faults=DiskFaults())  # type: ignore[arg-type]


# -- SQLite --------------------------------------------------------------------------------------------------


def test_sqlite_repeats_by_seed_and_sees_the_simulated_time() -> None:
    def life() -> tuple[bytes, bytes, object]:
        with machine() as disk:
            disk.mount(nothing)
            path = disk.folder + "/a/x.db"
            connection = apsw.Connection(path)
            connection.execute("PRAGMA journal_mode = WAL").fetchall()
            connection.execute("CREATE TABLE t (a)").fetchall()
            connection.execute("INSERT INTO t VALUES (random())").fetchall()
            wal = Path(path + "-wal").read_bytes()
            now = connection.execute("SELECT datetime('now')").fetchall()
            connection.close()
            disk.settle(lose_unsynced=False)
            return wal, Path(path).read_bytes(), now

    try:
        set_sqlite_time(1_000_000_000_000)
        seed_sqlite(1)
        first = life()
        seed_sqlite(1)
        assert life() == first
        assert life() != first
        assert first[2] == [("2001-09-09 01:46:40",)]
    finally:
        seed_sqlite(0)
        set_sqlite_time(None)


def test_a_rollback_journal_keeps_transactions_whole() -> None:
    """SQLite with its own, fully synced journal: what it committed is there, whatever the crash."""
    crashes = 0
    for seed in range(150):
        with machine(seed) as disk:
            disk.mount(nothing)
            path = disk.folder + "/a/x.db"
            committed = -1
            connection = apsw.Connection(path)
            try:
                connection.execute("PRAGMA synchronous = EXTRA").fetchall()
                connection.execute("CREATE TABLE t (a, b)").fetchall()
                committed = 0
                disk.crash_after(1 + seed)
                while committed < 12:
                    connection.execute("BEGIN")
                    for _ in range(3):
                        connection.execute("INSERT INTO t VALUES (?, zeroblob(1500))", (committed,))
                    connection.execute("COMMIT")
                    committed += 1
            except apsw.IOError:
                crashes += 1
            connection.close()
            disk.settle(lose_unsynced=True)
            disk.mount(never)
            connection = apsw.Connection(path)
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            ((count,),) = connection.execute("SELECT count(*) FROM t").fetchall()
            assert count in (committed * 3, committed * 3 + 3), seed
            connection.close()
            disk.settle(lose_unsynced=False)
    assert crashes > 100


def test_an_open_connection_of_a_dead_life_is_told() -> None:
    with machine() as disk:
        disk.mount(nothing)
        connection = apsw.Connection(disk.folder + "/a/x.db")
        connection.execute("CREATE TABLE t (a)")
        disk.cut_power()
        with pytest.raises(apsw.IOError):
            connection.execute("INSERT INTO t VALUES (1)")
        with pytest.raises(RuntimeError, match=r"still open on .*x\.db"):
            disk.settle(lose_unsynced=True)
        connection.close()
        disk.settle(lose_unsynced=True)


def test_files_elsewhere_are_not_touched(tmp_path: Path) -> None:
    with machine() as disk:
        disk.mount(nothing)
        connection = apsw.Connection(str(tmp_path / "other.db"))
        connection.execute("CREATE TABLE t (a)")
        disk.cut_power()
        connection.execute("INSERT INTO t VALUES (1)")
        connection.close()
        assert disk.operations == 0
