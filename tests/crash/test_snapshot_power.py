"""The power goes during every change to the disk, and what was not synced is lost, kept or torn: the state folder
is old or new, a listed database exists with its bytes, and a partial snapshot resumes only on what is durable."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from dqlite_py.model import LogIndex
from dqlite_py.node import snapshot_incoming
from dqlite_py.node.snapshot_incoming import IncomingSnapshot, resumable_id
from dqlite_py.node.snapshot_wire import FileFacts, Offer
from dqlite_py.storage.manifest import DatabaseState, Manifest
from dqlite_py.storage.state_files import database_file
from dqlite_py.storage.state_folder import StateFolder
from tests.support.faultdisk import FaultDisk, Loss, PowerLoss
from tests.support.snapshots import CLUSTER, manifest

pytestmark = pytest.mark.rf("RF-8")

DIR = "/data"
OLD = manifest(5, DatabaseState("kept", LogIndex(5), 1, 1), DatabaseState("old", LogIndex(5), 1, 1))
NEW = manifest(9, DatabaseState("kept", LogIndex(9), 2, 1), DatabaseState("new", LogIndex(9), 2, 1))
MOVED = manifest(7, *OLD.databases, DatabaseState("fresh", LogIndex(7), 1, 1))
LOSSES = [(loss, seed) for loss in Loss for seed in (range(12) if loss is Loss.TEAR else (0,))]


def write(disk: FaultDisk, path: str, data: bytes, *, sync: bool) -> None:
    fd = disk.open(path, create=True)
    disk.pwrite(fd, data, 0)
    if sync:
        disk.fsync(fd)
    disk.close(fd)


def content(database: DatabaseState) -> bytes:
    return f"{database}".encode() * 40


def old_disk() -> FaultDisk:
    disk = FaultDisk(DIR)
    folder = StateFolder.open(DIR, disk, CLUSTER)
    for database in OLD.databases:
        write(disk, folder.database_path(database.name), content(database), sync=True)
    for suffix in ("-wal", "-shm"):
        write(disk, folder.database_path("old") + suffix, b"wal", sync=True)
    folder.write_manifest(OLD)
    return disk.after_power_loss(Loss.DROP)  # everything so far is durable


def crashes(work: Callable[[FaultDisk], None]) -> Iterator[tuple[int, FaultDisk, bool]]:
    """Every disk that a power loss during `work` can leave, for every change: (change, disk, was it finished)."""
    for at in range(1, 300):
        disk = old_disk()
        disk.power_fails_at = disk.change_count + at
        with suppress(PowerLoss):
            work(disk)
        for loss, seed in LOSSES:
            yield at, disk.after_power_loss(loss, seed), not disk.is_off
        if not disk.is_off:
            assert at > 8
            return
    raise AssertionError("no end of changes")


def opened(disk: FaultDisk) -> StateFolder:
    folder = StateFolder.open(DIR, disk, CLUSTER)
    for database in folder.manifest.databases:
        assert disk.contents(folder.database_path(database.name)) == content(database)
    return folder


def test_activate() -> None:
    """The files of the new generation are written but NOT synced by whoever filled it."""

    def install(disk: FaultDisk) -> None:
        folder = StateFolder.open(DIR, disk, CLUSTER)
        path = folder.begin_generation()
        for database in NEW.databases:
            write(disk, f"{path}/{database_file(database.name)}", content(database), sync=False)
        folder.activate(path, NEW)

    seen = set()
    for at, disk, finished in crashes(install):
        folder = opened(disk)
        assert folder.manifest in (OLD, NEW), f"change {at}"
        assert folder.manifest == NEW or not finished
        seen.add(folder.manifest.index)
        install_again = folder.manifest == OLD
        if install_again:
            install(disk)
            assert opened(disk.after_power_loss(Loss.DROP)).manifest == NEW
    assert seen == {5, 9}


def test_write_manifest() -> None:
    """A new database's bytes are durable (checkpointed), its name is not: the manifest may not come first."""

    def compact(disk: FaultDisk) -> None:
        folder = StateFolder.open(DIR, disk, CLUSTER)
        write(disk, folder.database_path("fresh"), content(MOVED.databases[0]), sync=True)
        assert MOVED.databases[0].name == "fresh"
        folder.write_manifest(MOVED)

    seen = set()
    for at, disk, finished in crashes(compact):
        folder = opened(disk)
        assert folder.manifest in (OLD, MOVED), f"change {at}"
        assert folder.manifest == MOVED or not finished
        seen.add(folder.manifest.index)
    assert seen == {5, 7}


def test_drop_database() -> None:
    def drop(disk: FaultDisk) -> None:
        folder = StateFolder.open(DIR, disk, CLUSTER)
        folder.drop_database("old", 40)

    for at, disk, finished in crashes(drop):
        # A database without its WAL would be a sound file of an older state.
        old = f"{DIR}/state/g1/old.db"
        assert disk.exists(old + "-wal") or not disk.exists(old), f"change {at}"
        folder = opened(disk)
        assert folder.manifest in (OLD, OLD.without("old")), f"change {at}"
        # What the manifest no longer lists was there at its point: a replay of the log has to know.
        assert folder.manifest == OLD or folder.dropped_at("old") == 40, f"change {at}"
        if finished:
            assert (folder.manifest, folder.list_databases()) == (OLD.without("old"), ["kept"])
        if "old" not in folder.list_databases():
            assert not disk.exists(folder.database_path("old") + "-wal")


def test_a_first_start() -> None:
    for at in range(1, 100):
        disk = FaultDisk(DIR)
        disk.power_fails_at = at
        with suppress(PowerLoss):
            StateFolder.open(DIR, disk, CLUSTER)
        for loss, seed in LOSSES:
            folder = StateFolder.open(DIR, disk.after_power_loss(loss, seed), CLUSTER)
            assert folder.manifest == Manifest.empty(CLUSTER)
        if not disk.is_off:
            return
    raise AssertionError("no end of changes")


@pytest.mark.rf("RF-7")
def test_a_partial_snapshot_resumes_only_on_durable_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_incoming, "SNAPSHOT_CHUNK_BYTES", 512)
    monkeypatch.setattr(snapshot_incoming, "SNAPSHOT_SYNC_BYTES", 1024)
    databases = [DatabaseState(name, LogIndex(9), 1, pages) for name, pages in (("a", 4), ("b", 3))]
    offer = Offer(bytes(16), manifest(9, *databases), (FileFacts(2048, 1), FileFacts(1536, 1)))
    files = [bytes(range(1, 250)) * 9, bytes(range(3, 253)) * 9]
    incoming_path = DIR + "/incoming"

    def pull(disk: FaultDisk, *, stop_after: int = 1000) -> IncomingSnapshot:
        incoming = IncomingSnapshot.begin(disk, incoming_path, offer)
        for number, chunk in enumerate(list(incoming.missing())):
            if number == stop_after:
                incoming.suspend()
                break
            incoming.append(files[chunk.file][chunk.offset : chunk.offset + chunk.size])
        return incoming

    seen = set()
    for stop_after in (2, 3, 1000):
        for at in range(1, 300):
            disk = FaultDisk(DIR)
            disk.power_fails_at = at
            with suppress(PowerLoss):
                pull(disk, stop_after=stop_after)
            for loss, seed in LOSSES:
                found = disk.after_power_loss(loss, seed)
                resumable = resumable_id(found, incoming_path)
                assert resumable in (None, offer.id)
                incoming = IncomingSnapshot.begin(found, incoming_path, offer)
                seen.add(incoming.done_bytes)
                assert resumable is not None or incoming.done_bytes == 0
                kept = b"".join(files[n][: offer.files[n].size_bytes] for n in (0, 1))[: incoming.done_bytes]
                stored = b"".join(
                    found.contents(f"{incoming_path}/{offer.id.hex()}/{n}.db")
                    for n in (0, 1)
                    if found.exists(f"{incoming_path}/{offer.id.hex()}/{n}.db")
                )
                assert stored[: incoming.done_bytes] == kept
                assert pull(found).done_bytes == offer.size_bytes
            if not disk.is_off:
                break
        else:
            raise AssertionError("no end of changes")
    assert seen >= {0, 1024, 2048, 2048 + 1024, 2048 + 1536}
