"""The state folder: what it creates, refuses, replaces and removes."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from dqlite_py.errors import (
    CorruptState,
    InterfaceError,
    InternalError,
    JournalFailed,
    StorageFull,
    UnknownFormat,
    WrongCluster,
)
from dqlite_py.model import LogIndex
from dqlite_py.ports import SystemDisk
from dqlite_py.storage.manifest import MANIFEST_MAGIC, DatabaseState, Manifest
from dqlite_py.storage.sealedfile import seal
from dqlite_py.storage.state_files import CURRENT_MAGIC, database_file
from dqlite_py.storage.state_folder import StateFolder
from tests.support.snapshots import CLUSTER, CountingDisk, manifest

DISK = SystemDisk()


def opened(folder: Path) -> StateFolder:
    return StateFolder.open(str(folder), DISK, CLUSTER)


def put(path: str, data: bytes = b"data") -> None:
    Path(path).write_bytes(data)


def listed(name: str = "main", applied_index: int = 10) -> DatabaseState:
    return DatabaseState(name, LogIndex(applied_index), 1, 1)


def installed(folder: StateFolder, value: Manifest) -> None:
    path = folder.begin_generation()
    for database in value.databases:
        put(os.path.join(path, database_file(database.name)))
    folder.activate(path, value)


def test_first_start_creates_an_empty_state(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    assert folder.manifest == Manifest.empty(CLUSTER)
    assert folder.generation_path == str(tmp_path / "state" / "g1")
    assert folder.database_path("main") == str(tmp_path / "state" / "g1" / "main.db")
    assert folder.list_databases() == []
    assert sorted(os.listdir(tmp_path / "state")) == ["CURRENT", "g1"]
    assert opened(tmp_path).manifest == Manifest.empty(CLUSTER)


def test_database_names_never_collide() -> None:
    names = ["a", "a.db", "a.db-wal", "a-wal", "MANIFEST", "x" * 128]
    files = [database_file(name) + suffix for name in names for suffix in ("", "-wal", "-shm")]
    assert len(set(files)) == len(files)
    assert "MANIFEST" not in files
    with pytest.raises(InterfaceError):
        database_file("../x")


def test_write_manifest_moves_the_compaction_point(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    put(folder.database_path("main"))
    put(folder.database_path("fresh"))
    folder.write_manifest(manifest(12, listed()))
    assert folder.manifest.index == 12
    again = opened(tmp_path)
    assert again.manifest == folder.manifest
    assert again.list_databases() == ["fresh", "main"]


def test_the_state_never_goes_back(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    folder.write_manifest(manifest(12, term=2))
    for older in (manifest(11, term=2), manifest(12, term=1)):
        with pytest.raises(InternalError, match="go back"):
            folder.write_manifest(older)
        with pytest.raises(InternalError, match="go back"):
            folder.activate(folder.begin_generation(), older)
    folder.write_manifest(manifest(12, term=2))
    assert opened(tmp_path).manifest == manifest(12, term=2)


def test_a_manifest_names_only_what_is_there(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    with pytest.raises(InternalError, match="lists database main, not present"):
        folder.write_manifest(manifest(12, listed()))
    with pytest.raises(InternalError, match="lists database main, not present"):
        folder.activate(folder.begin_generation(), manifest(12, listed()))
    with pytest.raises(WrongCluster):
        folder.write_manifest(manifest(12, cluster=b"x" * 16))
    assert opened(tmp_path).manifest == Manifest.empty(CLUSTER)


def test_activate_replaces_the_whole_state(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    put(folder.database_path("old"))
    put(folder.database_path("old") + "-wal")
    folder.write_manifest(manifest(5, listed("old", 5)))
    installed(folder, manifest(12, listed("new", 12)))
    for seen in (folder, opened(tmp_path)):
        assert seen.generation_path.endswith("g2")
        assert seen.manifest == manifest(12, listed("new", 12))
        assert seen.list_databases() == ["new"]
    assert sorted(os.listdir(tmp_path / "state")) == ["CURRENT", "g2"]


def test_activate_takes_only_a_generation_begun_here(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    for path in (
        folder.generation_path,
        str(tmp_path),
        str(tmp_path / "g9"),
        str(tmp_path / "state" / "g02"),
    ):
        with pytest.raises(InterfaceError, match="not a generation"):
            folder.activate(path, manifest(12))
        with pytest.raises(InterfaceError, match="not a generation"):
            folder.discard(path)
    begun = folder.begin_generation()
    other = folder.begin_generation()
    assert begun != other
    folder.discard(begun)
    assert not os.path.exists(begun)
    folder.activate(other, manifest(12))
    assert sorted(os.listdir(tmp_path / "state")) == ["CURRENT", "g3"]


def test_open_removes_what_was_interrupted(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    put(folder.database_path("main"))
    left = folder.begin_generation()
    put(os.path.join(left, "main.db"))
    orphan = folder.database_path("gone") + "-wal"
    for path in (orphan, folder.generation_path + "/MANIFEST.tmp", str(tmp_path / "state/CURRENT.tmp")):
        put(path)
    (tmp_path / "incoming/aa").mkdir(parents=True)
    (tmp_path / "incoming/bb").mkdir()
    put(str(tmp_path / "incoming/aa/0.db"))
    put(str(tmp_path / "incoming/bb/PROGRESS"))
    opened(tmp_path)
    assert sorted(os.listdir(tmp_path / "state")) == ["CURRENT", "g1"]
    assert sorted(os.listdir(tmp_path / "state/g1")) == ["MANIFEST", "main.db"]
    assert os.listdir(tmp_path / "incoming") == ["bb"]


def test_drop_database_forgets_then_removes(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    for name in ("main", "other"):
        for suffix in ("", "-wal", "-shm"):
            put(folder.database_path(name) + suffix)
    folder.write_manifest(manifest(12, listed(), listed("other")))
    folder.drop_database("main")
    folder.drop_database("never-was")
    assert opened(tmp_path).manifest == manifest(12, listed("other"))
    assert folder.list_databases() == ["other"]
    assert not [name for name in os.listdir(folder.generation_path) if name.startswith("main")]


def test_a_drop_behind_the_manifest_is_noted_until_the_manifest_has_passed_it(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    put(folder.database_path("main"))
    folder.write_manifest(manifest(12, listed()))
    folder.drop_database("main", 40)
    folder.drop_database("never-listed", 41)
    assert (folder.dropped_at("main"), folder.dropped_at("never-listed")) == (40, 0)
    again = opened(tmp_path)
    assert (again.dropped_at("main"), again.list_databases()) == (40, [])
    again.write_manifest(manifest(39))
    assert again.dropped_at("main") == 40
    again.write_manifest(manifest(40))
    assert again.dropped_at("main") == 0
    assert os.listdir(again.generation_path) == ["MANIFEST"]


def test_a_listed_database_that_is_missing_is_corruption(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    put(folder.database_path("main"))
    folder.write_manifest(manifest(12, listed()))
    os.unlink(folder.database_path("main"))
    with pytest.raises(CorruptState, match=r"database main is listed .* file is missing") as caught:
        opened(tmp_path)
    assert caught.value.details["file"] == folder.database_path("main")


def test_a_database_behind_its_entry_is_corruption(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    put(folder.database_path("main"))
    folder.write_manifest(manifest(12, listed(applied_index=10)))
    for fine in (10, 11):
        folder.check_database("main", fine)
    folder.check_database("not-listed", 0)
    with pytest.raises(CorruptState, match="stands at log index 9") as caught:
        folder.check_database("main", 9)
    assert caught.value.details["found"] == "9"


def test_a_strange_database_file_is_corruption(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    put(folder.generation_path + "/..db")
    with pytest.raises(CorruptState, match="not a database of this node"):
        folder.list_databases()


def test_another_clusters_folder_is_refused(tmp_path: Path) -> None:
    opened(tmp_path)
    with pytest.raises(WrongCluster):
        StateFolder.open(str(tmp_path), DISK, b"x" * 16)


@pytest.mark.parametrize("file", ["CURRENT", "g1/MANIFEST"])
@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "flip", "long", "newer", "wrong kind"])
def test_damage_is_named_and_never_mended_by_starting_empty(tmp_path: Path, file: str, damage: str) -> None:
    folder = opened(tmp_path)
    put(folder.database_path("main"))
    folder.write_manifest(manifest(12, listed()))
    path = tmp_path / "state" / file
    data = path.read_bytes()
    magic = {"CURRENT": CURRENT_MAGIC, "g1/MANIFEST": MANIFEST_MAGIC}[file]
    other = {CURRENT_MAGIC: MANIFEST_MAGIC, MANIFEST_MAGIC: CURRENT_MAGIC}[magic]
    changed = {
        "empty": b"",
        "cut": data[:-1],
        "flip": data[:-1] + bytes([data[-1] ^ 1]),
        "long": data + bytes(2**20),
        "newer": seal(magic, 9, [1]),
        "wrong kind": seal(other, 1, [1]),
    }
    path.unlink() if damage == "gone" else path.write_bytes(changed[damage])
    with pytest.raises(UnknownFormat if damage == "newer" else CorruptState) as caught:
        opened(tmp_path)
    assert str(path) in str(caught.value)
    assert os.path.exists(folder.database_path("main"))


@pytest.mark.parametrize("body", [[], [0], [-1], [True], ["1"], [2], {"g": 1}, [10**18], None])
def test_current_names_a_generation_that_exists(tmp_path: Path, body: object) -> None:
    opened(tmp_path)
    (tmp_path / "state/CURRENT").write_bytes(seal(CURRENT_MAGIC, 1, body))
    with pytest.raises(CorruptState):
        opened(tmp_path)


def test_no_space_changes_nothing_and_passes(tmp_path: Path) -> None:
    opened(tmp_path)
    disk = CountingDisk(error=lambda: OSError(errno.ENOSPC, "no space left"))
    folder = StateFolder.open(str(tmp_path), disk, CLUSTER)
    disk.fail_at = disk.calls + 3
    with pytest.raises(StorageFull):
        folder.write_manifest(manifest(12))
    assert folder.manifest.index == 0
    folder.write_manifest(manifest(12))
    assert opened(tmp_path).manifest.index == 12


def test_a_failed_sync_is_final(tmp_path: Path) -> None:
    opened(tmp_path)
    disk = CountingDisk(error=lambda: OSError(errno.EIO, "io error"))
    folder = StateFolder.open(str(tmp_path), disk, CLUSTER)
    disk.fail_at = disk.calls + 3
    with pytest.raises(JournalFailed):
        folder.write_manifest(manifest(12))
    for write in (
        lambda: folder.write_manifest(manifest(12)),
        folder.begin_generation,
        lambda: folder.drop_database("main"),
    ):
        with pytest.raises(JournalFailed, match="failed before"):
            write()


def test_a_full_disk_after_the_rename_is_final_too(tmp_path: Path) -> None:
    opened(tmp_path)
    disk = CountingDisk(error=lambda: OSError(errno.ENOSPC, "no space left"))
    folder = StateFolder.open(str(tmp_path), disk, CLUSTER)
    before = disk.calls
    folder.write_manifest(manifest(11))
    assert disk.log[-1] == "fsync_dir g1"
    disk.fail_at = disk.calls + (disk.calls - before)
    with pytest.raises(JournalFailed):
        folder.write_manifest(manifest(12))
