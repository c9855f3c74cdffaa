"""A full disk shows before anything of a group is written; preallocation keeps writes from asking for space."""

from __future__ import annotations

import errno

import pytest

from dqlite_py.errors import StorageFull
from dqlite_py.model import LogIndex
from tests.support.faultdisk import FaultDisk
from tests.support.journals import FOLDER, STEP_BYTES, contents, entries, entry, hard, open_journal
from tests.support.journalscript import batch


def test_full_while_growing_changes_nothing_but_the_hard_state() -> None:
    disk = FaultDisk(FOLDER)
    journal = open_journal(disk, segment_bytes=2**20)
    journal.write([batch(entries=entries(1, 3))])
    disk.capacity_bytes = disk.used_bytes() + 100
    too_much = [batch(hard_state=hard(2, 3), truncate_from=2, entries=[entry(2, 2, 60_000)])]
    for _ in range(2):
        with pytest.raises(StorageFull, match="free disk space") as error:
            journal.write(too_much)
        assert error.value.retryable
        assert contents(journal) == entries(1, 3)
        assert journal.hard_state == hard(2, 3)
    assert journal.failure is None
    journal.write([batch(entries=entries(4, 4))])  # what fits goes on
    disk.capacity_bytes = None
    journal.write(too_much)
    assert journal.last_index == 2
    journal.close()
    assert contents(open_journal(disk)) == [*entries(1, 1), entry(2, 2, 60_000)]


def test_full_while_rolling_leaves_no_trace() -> None:
    disk = FaultDisk(FOLDER)
    journal = open_journal(disk)
    journal.write([batch(entries=entries(1, 12))])
    disk.capacity_bytes = disk.used_bytes() + 1000
    before = disk.tree()
    for change in (
        batch(entries=entries(13, 30)),
        batch(truncate_from=2, entries=entries(2, 40)),
        batch(reset=(50, 1), entries=entries(51, 70)),
        batch(reset=(0, 0), entries=entries(1, 20)),
    ):
        with pytest.raises(StorageFull):
            journal.write([change])
        assert disk.tree() == before
    disk.capacity_bytes = None
    journal.write([batch(entries=entries(13, 30))])
    assert contents(journal) == entries(1, 30)


def test_a_full_disk_at_the_first_start() -> None:
    disk = FaultDisk(FOLDER)
    disk.capacity_bytes = 6000
    with pytest.raises(StorageFull):
        open_journal(disk)
    assert disk.open_count == 0
    disk.capacity_bytes = None
    assert open_journal(disk).last_index == 0


def test_a_full_disk_at_a_later_start_still_opens_and_reads() -> None:
    disk = FaultDisk(FOLDER)
    journal = open_journal(disk)
    journal.write([batch(entries=entries(1, 8))])
    disk.after_kill()
    disk.remove(FOLDER + "/journal/synced")
    disk.capacity_bytes = 0
    journal = open_journal(disk)
    assert contents(journal) == entries(1, 8)
    with pytest.raises(StorageFull):
        journal.write([batch(entries=[entry(9)])])
    disk.capacity_bytes = None
    journal.write([batch(entries=[entry(9)])])
    assert journal.last_index == 9


def test_a_seal_after_a_cut_finds_its_place_or_storage_full() -> None:
    """Opening cuts the file behind the last group, so the seal's reserve must be made again before the roll."""
    disk = FaultDisk(FOLDER)
    journal = open_journal(disk)
    journal.write([batch(entries=[entry(1, size=3000)])])  # past the segment's size
    disk.after_kill()
    journal = open_journal(disk)
    disk.capacity_bytes = disk.used_bytes()
    with pytest.raises(StorageFull):
        journal.write([batch(entries=[entry(2)])])
    assert journal.failure is None
    disk.capacity_bytes += 72
    journal.write([batch(entries=[entry(2)])])
    assert len(journal._table.segments) == 2
    assert journal._table.segments[0].is_sealed


def test_no_space_in_the_middle_of_a_group_is_final() -> None:
    """A file system that promised the space and does not have it (thin provisioning): fail-stop."""
    disk = FaultDisk(FOLDER)
    journal = open_journal(disk)
    disk.fails_with, disk.fails_at = errno.ENOSPC, disk.call_count + 1
    with pytest.raises(Exception, match="No space left") as error:
        journal.write([batch(entries=entries(1, 2))])
    assert type(error.value).__name__ == "JournalFailed"


def test_prepare_keeps_room_ahead_and_the_roll_needs_none() -> None:
    disk = FaultDisk(FOLDER)
    journal = open_journal(disk)
    index = 0
    for _ in range(40):
        assert journal.prepare()
        assert journal.room_bytes() >= STEP_BYTES // 2
        disk.capacity_bytes = disk.used_bytes()
        index += 1
        journal.write([batch(entries=[entry(index, size=700)])])
        disk.capacity_bytes = None
    assert len(journal._table.segments) > 5
    disk.capacity_bytes = 0
    while journal.prepare():
        index += 1
        journal.write([batch(entries=[entry(index, size=700)])])
    assert journal.failure is None
    disk.capacity_bytes = disk.used_bytes() - journal.size_bytes // 2
    journal.compact(LogIndex(index))
    assert journal.prepare()


def test_preallocated_bytes_take_up_space() -> None:
    disk = FaultDisk(FOLDER)
    journal = open_journal(disk)
    assert journal.size_bytes == len(disk.contents(journal._table.current.path)) >= STEP_BYTES
    disk.capacity_bytes = 10**6
    assert journal.free_bytes() == 10**6 - disk.used_bytes()
