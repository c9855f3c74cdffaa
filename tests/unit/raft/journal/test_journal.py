"""What a journal does while nothing goes wrong, and what it refuses."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dqlite_py.errors import CorruptJournal, JournalFailed, RaftInvariantBroken
from dqlite_py.model import EntryKind, LogIndex
from dqlite_py.ports import SystemDisk
from dqlite_py.raft.journal import Journal, JournalBatch, NotInJournal
from dqlite_py.raft.journal.format import SEAL_BYTES
from tests.support.faultdisk import FaultDisk
from tests.support.journals import FOLDER, SEGMENT_BYTES, contents, entries, entry, hard, open_journal
from tests.support.journalscript import STEPS, Oracle, batch, matches


@pytest.fixture
def disk() -> FaultDisk:
    return FaultDisk(FOLDER)


def write(journal: Journal, *batches: JournalBatch) -> None:
    journal.write(batches)


def test_a_new_journal_is_empty(disk: FaultDisk) -> None:
    journal = open_journal(disk)
    assert (journal.base_index, journal.base_term, journal.first_index, journal.last_index) == (0, 0, 1, 0)
    assert journal.hard_state == hard(0)
    assert journal.term_runs() == []
    assert journal.term_at(0) == 0
    assert journal.index_before_tail(0) == 0
    with pytest.raises(NotInJournal):
        journal.read(1, 1, 100)
    journal.close()
    assert disk.open_count == 0


@pytest.mark.parametrize("segment_bytes", [SEGMENT_BYTES, 2**20])
def test_memory_and_disk_agree_after_every_step(disk: FaultDisk, segment_bytes: int) -> None:
    journal, oracle = open_journal(disk, segment_bytes=segment_bytes), Oracle()
    for step in STEPS[:-1]:
        step(journal, oracle)
        assert matches(journal, oracle.promised)
        current = journal._table.current
        assert current.end + SEAL_BYTES <= current.allocated  # a roll never needs space for the seal
        journal.close()
        assert disk.open_count == 0
        journal = open_journal(disk, create=False, segment_bytes=segment_bytes)
        assert matches(journal, oracle.promised)


def test_all_kinds_and_payload_sizes(disk: FaultDisk) -> None:
    log = [
        entry(index, 1, size, kind)
        for index, (size, kind) in enumerate(
            ((size, kind) for size in (0, 1, 7, 8, 9, 3000) for kind in EntryKind), start=1
        )
    ]
    journal = open_journal(disk)
    write(journal, batch(entries=log))
    assert contents(journal) == log
    journal.close()
    assert contents(open_journal(disk)) == log


def test_one_write_and_one_sync_for_many_batches(disk: FaultDisk) -> None:
    journal = open_journal(disk, segment_bytes=2**20, step_bytes=2**20)
    before = disk.change_count, disk.sync_count
    write(journal, *(batch(entries=[entry(index)]) for index in range(1, 51)))
    assert (disk.change_count - before[0], disk.sync_count - before[1]) == (2, 1)
    assert (journal.group_count, journal.sync_count) == (1, 1)


def test_nothing_to_write_writes_nothing(disk: FaultDisk) -> None:
    journal = open_journal(disk)
    write(journal, batch(hard_state=hard(1)))
    before = disk.change_count
    write(journal)
    write(journal, batch(), batch(hard_state=hard(1)), batch(truncate_from=7))
    assert disk.change_count == before


def test_reads_are_bounded(disk: FaultDisk) -> None:
    journal = open_journal(disk)
    log = entries(1, 60)
    for start in range(0, 60, 5):
        write(journal, batch(entries=log[start : start + 5]))
    assert len(journal._table.segments) > 3
    assert journal.read(1, 60, 10**6) == log  # over several segments
    assert journal.read(3, 3, 0) == log[2:3]  # at least one
    assert journal.read(3, 60, 99) == log[2:3]
    assert journal.read(3, 60, 1250) == log[2:14]
    assert journal.read(59, 10**9, 10**6) == log[58:]
    for first in (0, 61):
        with pytest.raises(NotInJournal) as error:
            journal.read(first, 70, 100)
        assert error.value.details == {"first": 1, "last": 60}


def test_large_entries_are_read_whole(disk: FaultDisk) -> None:
    journal = open_journal(disk, segment_bytes=4 * 2**20)
    log = [
        entry(index, size=size)
        for index, size in enumerate((10, 300_000, 10, 700_000, 262_000, 300), start=1)
    ]
    write(journal, batch(entries=log))
    for bytes_max in (0, 400_000, 10**9):
        found = []
        while len(found) < len(log):
            found += journal.read(1 + len(found), 6, bytes_max)
        assert found == log


def test_damage_is_found_when_an_entry_is_read(disk: FaultDisk) -> None:
    journal = open_journal(disk)
    write(journal, batch(entries=entries(1, 3)))
    segment = journal._table.current
    disk.pwrite(segment.fd, b"?", segment.offsets[1] + 40)
    assert journal.read(1, 1, 10) == entries(1, 1)
    with pytest.raises(CorruptJournal, match="crc") as error:
        journal.read(1, 3, 1000)
    assert error.value.details["offset"] == segment.offsets[1]


@pytest.mark.parametrize(
    "broken",
    [
        batch(entries=[entry(12, 3)]),
        batch(entries=[entry(10, 3)]),
        batch(entries=[entry(11, 2)]),
        batch(entries=[entry(11, 3), entry(13, 3)]),
        batch(entries=[entry(11, 4), entry(12, 3)]),
        batch(truncate_from=0),
        batch(truncate_from=9, entries=[entry(10, 3)]),
        batch(reset=(20, 5), entries=[entry(20, 5)]),
        batch(reset=(20, 5), entries=[entry(21, 4)]),
        batch(reset=(20, 5), truncate_from=20),
    ],
    ids=range(10),
)
def test_an_impossible_log_is_refused_before_anything_is_written(
    disk: FaultDisk, broken: JournalBatch
) -> None:
    journal = open_journal(disk)
    write(journal, batch(entries=entries(1, 10, term=3)))
    before = disk.tree()
    with pytest.raises(RaftInvariantBroken):
        write(journal, batch(hard_state=hard(9)), broken)
    assert disk.tree() == before
    assert journal.failure is None


def test_truncating_compacted_entries_is_refused(disk: FaultDisk) -> None:
    journal = open_journal(disk)
    for start in range(1, 61, 5):
        write(journal, batch(entries=entries(start, start + 4)))
    journal.compact(LogIndex(30))
    assert 0 < journal.base_index <= 30
    with pytest.raises(RaftInvariantBroken, match="compacted"):
        write(journal, batch(truncate_from=journal.base_index))
    write(journal, batch(truncate_from=journal.first_index))
    assert journal.last_index == journal.base_index


def test_compaction_drops_whole_segments_only(disk: FaultDisk) -> None:
    journal = open_journal(disk)
    log = entries(1, 20) + entries(21, 60, term=2)
    for start in range(0, 60, 5):
        write(journal, batch(entries=log[start : start + 5]))
    bases = [segment.first_index - 1 for segment in journal._table.segments]
    for upto in range(0, 70, 3):
        journal.compact(LogIndex(upto))
        assert journal.base_index == max(base for base in bases if base <= upto)
        assert contents(journal) == log[journal.base_index :]
        assert journal.term_runs()[0] == (journal.first_index, log[journal.base_index].term)
    assert len(journal._table.segments) == 1
    with pytest.raises(NotInJournal):
        journal.read(journal.base_index, 60, 100)


def test_index_before_tail(disk: FaultDisk) -> None:
    journal = open_journal(disk)
    for start in range(1, 61, 5):
        write(journal, batch(entries=entries(start, start + 4)))
    record = 32 + 104
    for kept in range(60):
        index = journal.index_before_tail(kept * record)
        assert index <= 60 - kept + 12  # group headers count as well, but little
        held = sum(record for _ in range(index, 60))
        assert held + 40 * 13 >= kept * record
    assert journal.index_before_tail(10**9) == 0
    assert journal.index_before_tail(0) == 60


def test_a_failed_or_closed_journal_refuses(disk: FaultDisk) -> None:
    journal = open_journal(disk)
    write(journal, batch(entries=entries(1, 3)))
    journal.close()
    journal.close()
    for call in (
        lambda: journal.write([]),
        lambda: journal.read(1, 1, 1),
        lambda: journal.compact(LogIndex(1)),
        journal.mark,
    ):
        with pytest.raises(JournalFailed, match="closed"):
            call()


def test_a_read_error_is_reported_and_is_not_final(disk: FaultDisk) -> None:
    journal = open_journal(disk)
    write(journal, batch(entries=entries(1, 3)))
    disk.fails_at = disk.call_count + 1
    with pytest.raises(JournalFailed, match="cannot read"):
        journal.read(1, 3, 1000)
    assert journal.read(1, 3, 1000) == entries(1, 3)


def test_marks_are_written_once_and_overwritten(disk: FaultDisk) -> None:
    journal = open_journal(disk)
    for index in range(1, 4):
        write(journal, batch(entries=[entry(index)]))
        before = disk.change_count
        journal.mark()
        journal.mark()
        assert disk.change_count == before + 2  # the mark and the note
    journal.close()
    assert open_journal(disk).last_index == 3


@pytest.mark.rf("RF-17")
def test_beyond_4_gib(tmp_path: Path) -> None:
    """Offsets are 64 bits in the file and in memory; the file here is sparse up to where it is written."""
    disk = SystemDisk()
    journal = Journal.open(
        disk, str(tmp_path), cluster_id=bytes(16), node_id=7, create=True, segment_bytes=2**33
    )
    segment = journal._table.current
    segment.end = segment.allocated = 2**32 + 4096
    write(journal, batch(entries=entries(1, 50)))
    assert min(segment.offsets) > 2**32
    assert journal.read(1, 50, 10**6) == entries(1, 50)
    journal.close()
    os.truncate(segment.path, 0)


def test_the_index_costs_8_bytes_an_entry(disk: FaultDisk) -> None:
    journal = open_journal(disk, segment_bytes=2**22)
    write(journal, batch(entries=entries(1, 5000, size=1)))
    (segment,) = journal._table.segments
    assert segment.offsets.itemsize * len(segment.offsets) == 40_000
    assert len(journal.term_runs()) == 1


def test_readers_beside_a_writer_and_compaction(disk: FaultDisk) -> None:
    """Readers see whole, right entries or NotInJournal, whatever the journal thread does."""
    journal = open_journal(disk)
    write(journal, batch(entries=entries(1, 5)))
    stop, wrong = threading.Event(), []

    def read_all() -> None:
        while not stop.is_set():
            first = int(journal.first_index)
            try:
                found = journal.read(first, first + 40, 3000)
            except NotInJournal:
                continue
            if found != entries(first, first + len(found) - 1):
                wrong.append(found)

    readers = [threading.Thread(target=read_all) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        for start in range(6, 1206, 6):
            write(journal, batch(entries=entries(start, start + 5)))
            journal.compact(LogIndex(start - 30))
            write(journal, batch(truncate_from=start + 3, entries=entries(start + 3, start + 5)))
    finally:
        stop.set()
        for reader in readers:
            reader.join(30)
    assert not wrong
    journal.close()
    assert disk.open_count == 0


def test_a_read_over_segments_never_mixes_old_and_new_entries() -> None:
    """The suffix is replaced while the reader is between two segments: it stops at what it has."""

    class Interrupted(FaultDisk):
        then: Callable[[], None] | None = None

        def pread(self, fd: int, size: int, offset: int) -> bytes:
            then, self.then = self.then, None
            if then is not None:
                then()
            return super().pread(fd, size, offset)

    disk = Interrupted(FOLDER)
    journal = open_journal(disk)
    for start in range(1, 31, 5):
        write(journal, batch(entries=entries(start, start + 4)))
    disk.then = lambda: write(journal, batch(truncate_from=3, entries=entries(3, 30, term=2)))
    found = journal.read(1, 30, 10**6)
    assert found == entries(1, len(found))
    assert 0 < len(found) < 30
    assert journal.read(1, 30, 10**6) == entries(1, 2) + entries(3, 30, term=2)


def test_a_dropped_segment_stays_open_for_its_reader(disk: FaultDisk) -> None:
    journal = open_journal(disk)
    for start in range(1, 61, 5):
        write(journal, batch(entries=entries(start, start + 4)))
    found = journal._table._find(1, 3, 0, may_be_none=False)
    assert found is not None
    segment, offsets, end = found
    journal.compact(LogIndex(60))
    journal.close()
    assert segment.read_entries(disk, 1, offsets, end, 1000, may_be_none=False) == entries(1, 3)
    assert disk.open_count == 1
    journal._table._leave(segment)
    assert disk.open_count == 0
