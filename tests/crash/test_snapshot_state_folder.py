"""Every I/O call of the state folder fails, or is the last before a kill: old or new state, never a mix."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from dqlite_py.errors import Error, StorageFull
from dqlite_py.model import LogIndex
from dqlite_py.ports import SystemDisk
from dqlite_py.storage.manifest import DatabaseState, Manifest
from dqlite_py.storage.state_files import database_file
from dqlite_py.storage.state_folder import StateFolder
from tests.support.snapshots import CLUSTER, CountingDisk, SimulatedKill, manifest

pytestmark = pytest.mark.rf("RF-8")
OLD = manifest(5, DatabaseState("kept", LogIndex(5), 1, 1), DatabaseState("old", LogIndex(5), 1, 1))
NEW = manifest(9, DatabaseState("kept", LogIndex(9), 2, 1), DatabaseState("new", LogIndex(9), 2, 1))
ERRORS: dict[str, Callable[[], BaseException]] = {
    "kill": SimulatedKill,
    "io": lambda: OSError(errno.EIO, "io error"),
    "full": lambda: OSError(errno.ENOSPC, "no space left"),
}


def prepared(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    folder = StateFolder.open(str(path), SystemDisk(), CLUSTER)
    fill(folder.generation_path, OLD)
    folder.write_manifest(OLD)
    return path


def fill(generation_path: str, value: Manifest) -> None:
    for database in value.databases:
        Path(generation_path, database_file(database.name)).write_text(f"{database}")


def state_of(path: Path) -> tuple[Manifest, dict[str, str]]:
    """The manifest and every database's content as a restarted node finds them, and no rubbish beside."""
    folder = StateFolder.open(str(path), SystemDisk(), CLUSTER)
    assert sorted(os.listdir(path / "state")) == sorted(["CURRENT", f"g{folder.generation}"])
    files = set(os.listdir(folder.generation_path)) - {"MANIFEST"}
    assert files == {database_file(name) for name in folder.list_databases()}
    return folder.manifest, {n: Path(folder.database_path(n)).read_text() for n in folder.list_databases()}


def expected(value: Manifest) -> tuple[Manifest, dict[str, str]]:
    return value, {database.name: f"{database}" for database in value.databases}


def install(folder: StateFolder) -> None:
    path = folder.begin_generation()
    fill(path, NEW)
    folder.activate(path, NEW)


def failures(path: Path, kind: str, work: Callable[[StateFolder], None]) -> Iterator[tuple[int, bool]]:
    """Run `work` with call 1, 2, ... failing, until it no longer fails; gives (calls, did it raise?)."""
    for at in range(1, 1000):
        prepared(path)
        disk = CountingDisk(error=ERRORS[kind])
        folder = StateFolder.open(str(path), disk, CLUSTER)
        disk.fail_at = disk.calls + at
        raised = False
        try:
            work(folder)
        except (Error, SimulatedKill):
            raised = True
        yield at, raised
        if disk.calls < disk.fail_at:
            assert at > 5, "the loop has tried something"
            return
    raise AssertionError("no end of calls")


@pytest.mark.parametrize("kind", ERRORS)
def test_activate_leaves_old_or_new(tmp_path: Path, kind: str) -> None:
    seen = set()
    for at, raised in failures(tmp_path / "n", kind, install):
        state = state_of(tmp_path / "n")
        assert state in (expected(OLD), expected(NEW)), f"call {at}"
        assert raised or state == expected(NEW), f"call {at}: success was reported"
        seen.add(state[0].index)
        # Whatever was left, the next installation works.
        if state == expected(OLD):
            install(StateFolder.open(str(tmp_path / "n"), SystemDisk(), CLUSTER))
            assert state_of(tmp_path / "n") == expected(NEW)
    assert seen == {5, 9}


def test_a_full_disk_during_activate_can_be_retried(tmp_path: Path) -> None:
    """StorageFull means that nothing has changed, in memory and on disk; every other error is final."""

    def install_twice(folder: StateFolder) -> None:
        try:
            install(folder)
        except StorageFull:
            assert folder.manifest == OLD
            install(folder)
        assert folder.manifest == NEW

    finals = 0
    for at, raised in failures(tmp_path / "n", "full", install_twice):
        finals += raised
        assert state_of(tmp_path / "n") in (expected(OLD), expected(NEW)), f"call {at}"
        assert raised or state_of(tmp_path / "n") == expected(NEW)
    assert finals == 2  # the directory syncs right after the renames of MANIFEST and CURRENT


@pytest.mark.parametrize("kind", ERRORS)
def test_write_manifest_leaves_old_or_new(tmp_path: Path, kind: str) -> None:
    moved = Manifest(CLUSTER, LogIndex(7), OLD.term, OLD.configuration, OLD.databases)
    seen = set()
    for at, raised in failures(tmp_path / "n", kind, lambda folder: folder.write_manifest(moved)):
        found, files = state_of(tmp_path / "n")
        assert found in (OLD, moved), f"call {at}"
        assert files == expected(OLD)[1]
        assert raised or found == moved
        seen.add(found.index)
    assert seen == {5, 7}


@pytest.mark.parametrize("kind", ERRORS)
def test_drop_database_is_all_or_nothing_for_the_manifest(tmp_path: Path, kind: str) -> None:
    def drop(folder: StateFolder) -> None:
        for suffix in ("-wal", "-shm"):
            Path(folder.database_path("old") + suffix).write_text("wal")
        folder.drop_database("old")

    for at, raised in failures(tmp_path / "n", kind, drop):
        left = os.listdir(tmp_path / "n/state/g1")
        assert "old.db-wal" in left or "old.db" not in left  # without its WAL it would be an older state
        folder = StateFolder.open(str(tmp_path / "n"), SystemDisk(), CLUSTER)
        names = folder.list_databases()
        assert folder.manifest in (OLD, OLD.without("old")), f"call {at}"
        assert "kept" in names
        assert raised or (folder.manifest == OLD.without("old") and names == ["kept"])
        # A WAL never outlives its database; a database may outlive its entry (the log drops it again).
        files = os.listdir(folder.generation_path)
        assert "old.db" in files or not [file for file in files if file.startswith("old")]


@pytest.mark.parametrize("kind", ["kill", "io", "full"])
def test_a_first_start_can_be_interrupted_anywhere(tmp_path: Path, kind: str) -> None:
    for at in range(1, 100):
        path = tmp_path / f"n{at}"
        path.mkdir()
        disk = CountingDisk(at, ERRORS[kind])
        with suppress(Error, OSError, SimulatedKill):
            StateFolder.open(str(path), disk, CLUSTER)
        assert StateFolder.open(str(path), SystemDisk(), CLUSTER).manifest == Manifest.empty(CLUSTER)
        if disk.calls < at:
            return
    raise AssertionError("no end of calls")


@pytest.mark.parametrize("kind", ["kill", "io"])
def test_cleaning_up_at_the_start_can_be_interrupted_anywhere(tmp_path: Path, kind: str) -> None:
    for at in range(1, 100):
        path = prepared(tmp_path / f"n{at}")
        folder = StateFolder.open(str(path), SystemDisk(), CLUSTER)
        fill(folder.begin_generation(), NEW)
        Path(folder.database_path("gone") + "-wal").write_text("wal")
        disk = CountingDisk(at, ERRORS[kind])
        with suppress(OSError, SimulatedKill):
            StateFolder.open(str(path), disk, CLUSTER)
        assert state_of(path) == expected(OLD)
        if disk.calls < at:
            return
    raise AssertionError("no end of calls")


def test_the_order_that_power_loss_depends_on(tmp_path: Path) -> None:
    """Files, their MANIFEST, their directory entries, THEN CURRENT; the old generation goes last."""
    prepared(tmp_path / "n")
    disk = CountingDisk()
    folder = StateFolder.open(str(tmp_path / "n"), disk, CLUSTER)
    path = folder.begin_generation()
    fill(path, NEW)
    disk.log.clear()
    folder.activate(path, NEW)
    assert [step for step in disk.log if step not in ("pwrite", "ftruncate")] == [
        *("open kept.db", "fsync", "open new.db", "fsync"),
        *("open MANIFEST.tmp", "fsync", "rename MANIFEST", "fsync_dir g2"),
        "fsync_dir state",
        *("open CURRENT.tmp", "fsync", "rename CURRENT", "fsync_dir state"),
        *("unlink MANIFEST", "unlink kept.db", "unlink old.db"),
    ]
