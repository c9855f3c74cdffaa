"""Verdicts at start: what is refused, by name and with the way to mend it, and that nothing is modified then."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from dqlite_py.errors import CorruptJournal, CorruptState, Error, UnknownFormat, WrongCluster
from dqlite_py.model import LogIndex, NodeId
from dqlite_py.nativelib import crc32c
from dqlite_py.raft.journal import format as fmt
from dqlite_py.raft.journal.hint import read_hint
from dqlite_py.raft.journal.recovery import segment_name
from tests.support.faultdisk import FaultDisk, Loss
from tests.support.journals import (
    CLUSTER,
    FOLDER,
    NODE,
    STEP_BYTES,
    contents,
    entries,
    entry,
    hard,
    open_journal,
)
from tests.support.journalscript import batch

pytestmark = pytest.mark.rf("RF-17")

JOURNAL = FOLDER + "/journal"


@pytest.fixture
def disk() -> FaultDisk:
    """A journal of five segments, closed."""
    disk = FaultDisk(FOLDER)
    journal = open_journal(disk)
    journal.write([batch(hard_state=hard(1, 7))])
    for start in range(1, 61, 4):
        journal.write([batch(entries=entries(start, start + 3))])
    journal.close()
    assert len(disk.listdir(JOURNAL)) >= 5
    return disk


def refused(disk: FaultDisk, error: type[Error] = CorruptJournal, **options: object) -> Error:
    before = disk.tree()
    with pytest.raises(error) as found:
        open_journal(disk, create=False, **options)
    assert disk.tree() == before
    assert disk.open_count == 0
    with pytest.raises(error):
        open_journal(disk, create=True, **options)
    assert disk.tree() == before
    return found.value


def names(disk: FaultDisk) -> list[str]:
    """The segment files, oldest first."""
    return [name for name in disk.listdir(JOURNAL) if name.endswith(".seg")]


def test_a_segment_missing_in_the_middle(disk: FaultDisk) -> None:
    for name in names(disk)[1:-1]:
        content = disk.contents(f"{JOURNAL}/{name}")
        disk.remove(f"{JOURNAL}/{name}")
        error = refused(disk)
        assert "missing" in str(error)
        assert "put the file back" in str(error)
        disk.put(f"{JOURNAL}/{name}", content)
    open_journal(disk)


def test_the_last_segment_missing(disk: FaultDisk) -> None:
    disk.remove(f"{JOURNAL}/{names(disk)[-1]}")
    error = refused(disk)
    assert names(disk)[-1] in str(error)
    assert "no later segment" in str(error)


def test_a_missing_first_segment_looks_like_a_compacted_one(disk: FaultDisk) -> None:
    """Documented: the host compares base_index with the state machine's index."""
    disk.remove(f"{JOURNAL}/{names(disk)[0]}")
    journal = open_journal(disk)
    assert journal.base_index == int(names(disk)[0][:20]) - 1 > 0


def test_all_segments_missing(disk: FaultDisk) -> None:
    for name in names(disk):
        disk.remove(f"{JOURNAL}/{name}")
    assert "journal missing" in str(refused(disk))


def test_the_hard_state_missing(disk: FaultDisk) -> None:
    disk.remove(FOLDER + "/hardstate")
    assert "hard state missing" in str(refused(disk, CorruptState))


def test_an_empty_folder_is_not_opened_without_create() -> None:
    with pytest.raises(CorruptState):
        open_journal(FaultDisk(FOLDER), create=False)


def test_a_lost_tail_of_an_older_segment(disk: FaultDisk) -> None:
    """Zeros or a shorter file are no torn tail when a later segment exists."""
    path = f"{JOURNAL}/{names(disk)[1]}"
    content = disk.contents(path)
    for cut in (fmt.HEADER_BYTES, len(content) - 700, len(content) // 2):
        disk.put(path, content[:cut].ljust(len(content), b"\0"))
        assert refused(disk).details["file"] == path
        disk.put(path, content[:cut])
        assert refused(disk).details["file"] == path


def test_a_lost_tail_of_the_last_segment(disk: FaultDisk) -> None:
    """Only the note of what was synced can tell; without it this is a torn tail."""
    path = f"{JOURNAL}/{names(disk)[-1]}"
    content, note = disk.contents(path), disk.contents(JOURNAL + "/synced")
    for cut in (fmt.HEADER_BYTES, content.index(fmt.GROUP_MAGIC, fmt.HEADER_BYTES + 1)):
        disk.put(path, content[:cut].ljust(len(content), b"\0"))
        assert refused(disk).details["file"] == path
        for bad_note in (b"", note[:-1], b"\1" + note[1:], note[:40] + b"\xff" + note[41:]):
            copy = disk.after_power_loss(Loss.DROP)
            copy.put(JOURNAL + "/synced", bad_note)
            assert open_journal(copy).last_index < 60


def test_a_clean_close_leaves_the_note_durable() -> None:
    disk = FaultDisk(FOLDER)
    journal = open_journal(disk)
    journal.write([batch(entries=entries(1, 3))])
    journal.close()
    found = disk.after_power_loss(Loss.DROP)
    assert read_hint(found, JOURNAL, CLUSTER, NODE) == 1
    assert read_hint(found, JOURNAL, CLUSTER, NODE + 1) == 0


def test_the_note_never_runs_ahead(disk: FaultDisk) -> None:
    """It is written only behind a sync, so a kill or power loss right after it finds a journal that fits."""
    journal = open_journal(disk)
    for index in range(61, 80):
        journal.write([batch(entries=[entry(index)])])
        journal.mark()
        for loss in Loss:
            assert open_journal(disk.after_power_loss(loss, index)).last_index == index


def test_an_older_version_of_a_file(disk: FaultDisk) -> None:
    """A segment put back from a backup of some days ago has valid bytes, but too few."""
    path = f"{JOURNAL}/{names(disk)[1]}"
    content = bytearray(disk.contents(path))
    start = content.rindex(
        fmt.GROUP_MAGIC, 0, content.rindex(fmt.GROUP_MAGIC)
    )  # last data group; then the seal
    content[start:] = bytes(len(content) - start)
    disk.put(path, bytes(content))
    error = refused(disk)
    assert error.details["file"] == path
    assert error.details["expected"].startswith("group ")


def test_another_nodes_folder(disk: FaultDisk) -> None:
    journal_files = {name: data for name, data in disk.tree().items() if name.startswith(JOURNAL)}
    for options in ({"cluster_id": bytes(16)}, {"node_id": NodeId(8)}):
        other = FaultDisk(FOLDER)
        open_journal(other, **options).close()
        assert "hardstate belongs to cluster" in str(refused(disk, WrongCluster, **options))
        for name, data in journal_files.items():
            other.put(name, data)
        error = refused(other, WrongCluster, **options)
        assert f"{names(disk)[0]} belongs to cluster {CLUSTER.hex()}, node {NODE}" in str(error)
        assert "this node's own" in str(error)


def test_a_newer_format_is_named(disk: FaultDisk) -> None:
    start = struct.pack("<8sI", fmt.SEGMENT_MAGIC, 2)
    path = f"{JOURNAL}/{names(disk)[-1]}"
    disk.put(path, start + crc32c(start).to_bytes(4, "little") + bytes(9000))
    error = refused(disk, UnknownFormat)
    assert error.details == {"file": path, "version": 2}
    assert "journal format 2" in str(error)


@pytest.mark.parametrize(
    "foreign", [b"", b"SQLite format 3\0" + bytes(8000), b"\xff" * 9000, bytes(5000)], ids=range(4)
)
def test_a_foreign_file_is_neither_read_nor_overwritten(disk: FaultDisk, foreign: bytes) -> None:
    path = f"{JOURNAL}/{segment_name(61)}"
    disk.put(path, foreign)
    assert refused(disk).details["file"] == path


def test_names_that_do_not_fit(disk: FaultDisk) -> None:
    first, second = (f"{JOURNAL}/{name}" for name in names(disk)[:2])
    disk.put(f"{JOURNAL}/old.seg", disk.contents(first))
    assert "20 digits" in str(refused(disk))
    disk.remove(f"{JOURNAL}/old.seg")
    content = disk.contents(second)
    disk.remove(second)
    disk.put(f"{JOURNAL}/{segment_name(999)}", content)
    assert "give the file its name back" in str(refused(disk))
    disk.remove(f"{JOURNAL}/{segment_name(999)}")
    disk.put(second, content)
    disk.put(f"{JOURNAL}/notes.txt", b"not ours")
    open_journal(disk)
    assert disk.contents(f"{JOURNAL}/notes.txt") == b"not ours"


def forged(disk: FaultDisk, **changes: int) -> FaultDisk:
    """The disk with fields of the last segment's header changed and its CRC made right."""
    path = f"{JOURNAL}/{names(disk)[-1]}"
    content = disk.contents(path)
    header = fmt.parse_segment_header(content[: fmt.HEADER_BYTES])
    assert header is not None
    changed = replace(header, **changes)  # type: ignore[arg-type]
    disk.put(path, fmt.pack_segment_header(changed) + content[fmt.HEADER_BYTES :])
    return disk


@pytest.mark.parametrize(
    "changes",
    [
        {"previous_term": 9},
        {"previous_term": 0},
        {"previous_group": 1},
        {"previous_group": 2**40},
        {"first_group": 2**40},
        {"previous_sequence": 1},
        {"previous_sequence": 2**60},
        {"sequence": 1},
        {"first_index": 0},
        {"first_index": 2**63},
    ],
    ids=str,
)
def test_contradicting_segments(disk: FaultDisk, changes: dict[str, int]) -> None:
    refused(forged(disk, **changes))


def test_entries_that_contradict_each_other(disk: FaultDisk) -> None:
    """Valid CRCs around an impossible log: not a torn tail, even at the very end."""
    for records in ([entry(62)], [entry(61), entry(61)], [entry(61, term=0)]):
        copy = disk.after_power_loss(Loss.DROP)
        journal = open_journal(copy)
        segment = journal._table.current
        data, _ = fmt.build_group(segment.last_group + 1, segment.end, segment.header.salt, None, records)
        copy.pwrite(segment.fd, data, segment.end)
        copy.after_kill()
        refused(copy)
    journal = open_journal(disk)
    segment = journal._table.current
    data, _ = fmt.build_group(segment.last_group + 1, segment.end, segment.header.salt, 2, [])
    disk.pwrite(segment.fd, data, segment.end)
    disk.after_kill()
    assert "truncation from 2" in str(refused(disk))


def test_a_long_torn_tail_is_cut_for_good(disk: FaultDisk) -> None:
    """Also where preallocation does not reach: nothing of it may stand behind a later group."""
    path = f"{JOURNAL}/{names(disk)[-1]}"
    garbage = bytes(range(1, 256)) * (8 * STEP_BYTES // 255)
    disk.put(path, disk.contents(path) + garbage)
    wanted = contents(open_journal(disk.after_power_loss(Loss.DROP)))
    journal = open_journal(disk)
    assert contents(journal) == wanted
    assert garbage[:200] not in disk.after_power_loss(Loss.DROP).contents(path)


def test_leftovers_of_a_crash_are_removed(disk: FaultDisk) -> None:
    disk.put(f"{JOURNAL}/spare.tmp", b"x" * 100)
    stale = disk.contents(f"{JOURNAL}/{names(disk)[-2]}")
    stale_name = f"{JOURNAL}/{names(disk)[-2]}"
    journal = open_journal(disk)
    journal.write([batch(truncate_from=5, entries=entries(5, 6, term=3))])
    journal.close()
    disk.put(stale_name, stale)  # its unlink did not reach the disk
    journal = open_journal(disk)
    assert contents(journal) == entries(1, 4) + entries(5, 6, term=3)
    assert all(int(name[:20]) <= 5 for name in names(disk))


def test_after_compaction_the_rest_still_opens(disk: FaultDisk) -> None:
    journal = open_journal(disk)
    journal.compact(LogIndex(40))
    wanted = contents(journal)
    journal.close()
    assert contents(open_journal(disk)) == wanted
