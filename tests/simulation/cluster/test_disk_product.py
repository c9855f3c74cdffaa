"""The product's journal and database engine on the simulated disk: crashes at any operation, full and failing disks."""

from __future__ import annotations

import copy
import os
import random
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from dqlite_py.command import encode_statements, encode_units, stamp_unit
from dqlite_py.errors import Error, JournalFailed, StorageFull
from dqlite_py.model import WriteKey
from dqlite_py.ports import Disk
from dqlite_py.raft.journal import Journal
from dqlite_py.storage.engine import DatabaseEngine
from tests.simulation.cluster.disk import Crashed, MountedDisk, SimDisk
from tests.simulation.cluster.disk_testing import machine, nothing
from tests.support.engines import NOW_US, SEED, entry, one
from tests.support.journals import CLUSTER, NODE, SEGMENT_BYTES, STEP_BYTES, entries
from tests.support.journalscript import STEPS, Oracle, batch, put

ROW_BYTES = 900


# -- journal -------------------------------------------------------------------------------------------------


def open_journal(disk: Disk, folder: str) -> Journal:
    salts = iter(range(1, 1_000_000))
    return Journal.open(
        disk,
        folder,
        create=True,
        salt=lambda: next(salts) * 2654435761 % 2**32,
        segment_bytes=SEGMENT_BYTES,
        step_bytes=STEP_BYTES,
        cluster_id=CLUSTER,
        node_id=NODE,
    )


def run_journal(disk: MountedDisk, folder: str, oracle: Oracle) -> None:
    journal = open_journal(disk, folder)
    oracle.check(journal)
    for step in STEPS:
        step(journal, oracle)


def script_length() -> int:
    with machine() as disk:
        run_journal(disk.mount(nothing), disk.folder, Oracle())
        return disk.operations


@pytest.mark.parametrize("lose_unsynced", [True, False])
def test_the_journal_holds_what_it_acknowledged_whatever_the_operation_of_the_crash(
    lose_unsynced: bool,
) -> None:
    length = script_length()
    assert length > 150
    totals: dict[str, int] = {}
    for operation in range(1, length + 1):
        with machine(operation) as disk:
            oracle, crashes = Oracle(), list[None]()
            mounted = disk.mount(partial(crashes.append, None))
            disk.crash_after(operation)
            with pytest.raises(Crashed):
                run_journal(mounted, disk.folder, oracle)
            assert len(crashes) == 1
            disk.settle(lose_unsynced=lose_unsynced)
            after = copy.deepcopy(oracle)
            # The next start is hit, too; then one that is not.
            mounted = disk.mount(nothing)
            disk.crash_after(1 + operation % 17)
            with suppress(Crashed):
                after.check(open_journal(mounted, disk.folder))
            disk.settle(lose_unsynced=True)
            mounted = disk.mount(nothing)
            journal = open_journal(mounted, disk.folder)
            state = after.check(journal)
            next_index = state.start + len(state.log) + 1
            put(batch(entries=entries(next_index, next_index + 8, term=20)))(journal, after)
            journal.close()
            assert mounted.open_count == 0
            disk.settle(lose_unsynced=True)
            after.check(open_journal(disk.mount(nothing), disk.folder))
            for name, count in disk.counts().items():
                totals[name] = totals.get(name, 0) + count
    for name in ("lost", "torn", "names_undone", "sizes_lost"):
        assert totals[name] > 0, (name, totals)


def test_the_journal_on_a_full_disk() -> None:
    with machine() as disk:
        mounted = disk.mount(nothing)
        oracle = Oracle()
        journal = open_journal(mounted, disk.folder)
        oracle.check(journal)
        disk.full = True
        last = 0
        with suppress(StorageFull):
            while last < 1000:
                put(batch(entries=entries(last + 1, last + 3)))(journal, oracle)
                last += 3
        assert last < 1000
        disk.full = False
        oracle.allowed = [oracle.promised]  # refused: it did not happen
        put(batch(entries=entries(last + 1, last + 40)))(journal, oracle)
        disk.settle(lose_unsynced=True)
        assert len(oracle.check(open_journal(disk.mount(nothing), disk.folder)).log) == last + 40


def test_the_journal_stops_after_a_failed_sync() -> None:
    for seed in range(20):
        with machine(seed) as disk:
            mounted = disk.mount(nothing)
            oracle = Oracle()
            journal = open_journal(mounted, disk.folder)
            oracle.check(journal)
            put(batch(entries=entries(1, 5)))(journal, oracle)
            disk.fail_syncs = 1
            with pytest.raises(JournalFailed):
                put(batch(entries=entries(6, 8)))(journal, oracle)
            with pytest.raises(JournalFailed):
                journal.write([batch(entries=entries(9, 9))])
            disk.settle(lose_unsynced=bool(seed % 2))
            again = open_journal(disk.mount(nothing), disk.folder)
            state = oracle.check(again)
            disk.settle(lose_unsynced=True)
            # What the restarted node has shown stays, though the kernel had called those pages clean.
            assert oracle.check(open_journal(disk.mount(nothing), disk.folder)) == state


# -- database ------------------------------------------------------------------------------------------------


class Applied:
    """An engine whose names are synced through the disk, and what it had applied and made durable when it ended."""

    def __init__(self, disk: SimDisk, mounted: MountedDisk, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = disk.folder + "/main.db"
        self.started = 0
        self.durable = -1
        self.engine: DatabaseEngine | None = None
        monkeypatch.setattr(
            "dqlite_py.storage.engine._sync_directory", lambda path: mounted.fsync_dir(os.path.dirname(path))
        )

    def run(self, entry_count: int, rng: random.Random) -> None:
        """Open and apply; ends with what the disk raises."""
        engine = self.engine = DatabaseEngine.open(self.path, create=True)
        try:
            self.started = engine.applied_index
            if engine.applied_index == 0:
                self.started = 1
                engine.apply(1, table(), want_results=False)
            for index in range(engine.applied_index + 1, engine.applied_index + 1 + entry_count):
                self.started = index
                engine.apply(index, row(index), want_results=False)
                if rng.random() < 0.1:
                    engine.checkpoint_full()
        finally:
            self.durable = engine.durable_index

    def close(self) -> None:
        if self.engine is not None:
            self.engine.close()


def table() -> bytes:
    return entry(one("CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB)"))


def row(index: int) -> bytes:
    """Most have the key of a client session: its row, not _dqlite_meta, then shows the applied index."""
    body = encode_statements([("INSERT INTO t VALUES (?, ?)", [index, b"%d " % index * (ROW_BYTES // 5)])])
    key = WriteKey(bytes([index % 3]) * 16, index) if index % 4 else None
    return encode_units("main", NOW_US, SEED, None, [stamp_unit(body, key)])


def expected_hashes(folder: Path, entry_count: int) -> list[int]:
    """State hashes by applied index, from a run on the real disk."""
    engine = DatabaseEngine.open(str(folder / "expected.db"), create=True)
    try:
        hashes = [engine.state_hash, engine.apply(1, table(), want_results=False).state_hash]
        hashes += [
            engine.apply(index, row(index), want_results=False).state_hash
            for index in range(2, entry_count + 1)
        ]
        return hashes
    finally:
        engine.close()


def test_a_database_is_some_applied_state_not_older_than_its_durable_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The crash is within SQLite's operations: opening, committing, checkpointing, restarting the WAL."""
    hashes = expected_hashes(tmp_path, 300)
    crashes, newer, older, totals = 0, 0, 0, dict[str, int]()
    for seed in range(150):
        with machine(seed) as disk:
            rng = random.Random(seed)
            durable = -1
            for _ in range(3):
                mounted = disk.mount(nothing)
                applied = Applied(disk, mounted, monkeypatch)
                disk.crash_after(rng.randint(1, 90))
                try:
                    applied.run(40, rng)
                except (Crashed, Error):
                    assert mounted.is_over
                    crashes += 1
                applied.close()
                durable = max(durable, applied.durable)
                disk.settle(lose_unsynced=rng.random() < 0.8)
                disk.crash_after(None)
                mounted = disk.mount(nothing)
                check = Applied(disk, mounted, monkeypatch)
                engine = DatabaseEngine.open(check.path, create=durable < 0)
                try:
                    assert durable <= engine.applied_index <= max(applied.started, durable), seed
                    assert engine.state_hash == hashes[engine.applied_index], seed
                    newer += engine.applied_index > durable
                    older += engine.applied_index < applied.started
                    durable = engine.durable_index
                    assert durable == engine.applied_index
                finally:
                    engine.close()
                disk.settle(lose_unsynced=True)
            for name, count in disk.counts().items():
                totals[name] = totals.get(name, 0) + count
    assert crashes > 200
    assert newer > 20
    assert older > 20
    assert totals["sqlite_operations"] > 1000
    for name in ("lost", "torn", "sizes_lost", "names_undone"):
        assert totals[name] > 20, (name, totals)


def test_a_database_on_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    with machine() as disk:
        applied = Applied(disk, disk.mount(nothing), monkeypatch)
        applied.run(5, random.Random(1))
        engine = applied.engine
        assert engine is not None
        try:
            disk.full = True
            for _ in range(3):
                with pytest.raises(StorageFull):
                    engine.apply(7, row(7), want_results=False)
            assert engine.applied_index == 6
            with pytest.raises(Error):
                engine.checkpoint()
            disk.full = False
            engine.apply(7, row(7), want_results=False)
            assert engine.checkpoint_full()
            assert engine.durable_index == 7
        finally:
            engine.close()
        disk.settle(lose_unsynced=True)


def test_a_failed_sync_makes_nothing_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = 0
    for seed in range(20):
        with machine(seed) as disk:
            applied = Applied(disk, disk.mount(nothing), monkeypatch)
            applied.run(0, random.Random(1))
            engine = applied.engine
            assert engine is not None
            try:
                assert engine.checkpoint_full()
                engine.apply(2, row(2), want_results=False)
                disk.fail_syncs = 1
                with pytest.raises(Error):
                    engine.checkpoint()
                assert engine.durable_index == 1
                disk.cut_power()
            finally:
                engine.close()
            disk.settle(lose_unsynced=True)
            again = Applied(disk, disk.mount(nothing), monkeypatch)
            again.run(0, random.Random(1))
            assert again.durable in (1, 2)
            lost += again.durable == 1
            again.close()
            disk.settle(lose_unsynced=False)
    assert lost > 5
