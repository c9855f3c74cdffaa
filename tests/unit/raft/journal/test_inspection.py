"""Looking at a journal offline: the same verdicts as at a start, and not a byte changed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeVar

import pytest

from dqlite_py.errors import CorruptJournal, CorruptState, Error, WrongCluster
from dqlite_py.model import NodeId
from dqlite_py.raft.journal.inspection import JournalReport, inspect_journal
from tests.support.faultdisk import FaultDisk
from tests.support.journals import CLUSTER, FOLDER, NODE, entries, hard, open_journal
from tests.support.journalscript import batch

JOURNAL = FOLDER + "/journal"
T = TypeVar("T")


@pytest.fixture
def disk() -> FaultDisk:
    """A journal of some segments with entries 1 to 60, closed."""
    disk = FaultDisk(FOLDER)
    journal = open_journal(disk)
    journal.write([batch(hard_state=hard(3, 7))])
    for start in range(1, 61, 4):
        journal.write([batch(entries=entries(start, start + 3, term=1 + start // 30))])
    journal.close()
    return disk


def inspect(disk: FaultDisk) -> JournalReport:
    """Inspect, and see that nothing changed and nothing stays open."""
    before = disk.tree()
    try:
        return inspect_journal(disk, FOLDER, cluster_id=CLUSTER, node_id=NODE)
    finally:
        assert disk.tree() == before
        assert disk.open_count == 0


def overwrite(disk: FaultDisk, path: str, offset: int, data: bytes) -> None:
    fd = disk.open(path)
    disk.pwrite(fd, data, offset)
    disk.close(fd)


def test_a_healthy_journal(disk: FaultDisk) -> None:
    report = inspect(disk)
    assert (report.base_index, report.last_index, report.last_term) == (0, 60, 2)
    assert report.hard_state == hard(3, 7)
    assert report.segment_count == len(disk.listdir(JOURNAL)) - 1  # beside the note `synced`
    assert report.size_bytes > 0
    assert report.torn_at is None


def test_a_compacted_journal_says_where_it_begins(disk: FaultDisk) -> None:
    first = next(name for name in disk.listdir(JOURNAL) if name.endswith(".seg"))
    disk.unlink(f"{JOURNAL}/{first}")
    report = inspect(disk)
    assert report.base_index > 0
    assert report.last_index == 60


def test_a_torn_end_is_told_and_not_cut(disk: FaultDisk) -> None:
    last = [name for name in disk.listdir(JOURNAL) if name.endswith(".seg")][-1]
    path = f"{JOURNAL}/{last}"
    fd = disk.open(path)
    size = disk.size(fd)
    disk.close(fd)
    overwrite(disk, path, size, b"torn")
    report = inspect(disk)
    assert report.last_index == 60
    assert report.torn_at is not None
    assert report.torn_at[0] == path
    assert disk.tree()[path][report.torn_at[1] :].strip(b"\0") == b"torn"


def test_the_hard_state_missing(disk: FaultDisk) -> None:
    disk.unlink(f"{FOLDER}/hardstate")
    with pytest.raises(CorruptState, match="hard state missing"):
        inspect(disk)


def test_all_segments_missing(disk: FaultDisk) -> None:
    for name in disk.listdir(JOURNAL):
        disk.unlink(f"{JOURNAL}/{name}")
    with pytest.raises(CorruptJournal, match="journal missing"):
        inspect(disk)


def test_another_nodes_folder(disk: FaultDisk) -> None:
    with pytest.raises(WrongCluster):
        inspect_journal(disk, FOLDER, cluster_id=CLUSTER, node_id=NodeId(NODE + 1))


@pytest.mark.parametrize("seed", range(60))
def test_damage_anywhere_gets_the_verdict_of_a_start(disk: FaultDisk, seed: int) -> None:
    rng = random.Random(seed)
    path = rng.choice([p for p in disk.tree() if p != f"{JOURNAL}/synced"])
    overwrite(disk, path, rng.randrange(len(disk.tree()[path])), rng.randbytes(rng.choice([1, 1, 40])))
    found = outcome(lambda: inspect(disk))
    started = outcome(lambda: open_journal(disk, create=False))
    if isinstance(started, Error):
        assert isinstance(found, Error)
        assert (type(found), str(found)) == (type(started), str(started))
        return
    assert isinstance(found, JournalReport)
    assert (found.base_index, found.last_index) == (started.base_index, started.last_index)
    assert found.hard_state == started.hard_state
    started.close()


def outcome(call: Callable[[], T]) -> T | Error:
    try:
        return call()
    except Error as error:
        return error
