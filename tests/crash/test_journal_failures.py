"""Each single call to the disk fails once: fail-stop, or StorageFull and the same call again (RF-2, 5, 8)."""

from __future__ import annotations

import copy
import errno
import random

import pytest

from dqlite_py.errors import JournalFailed, StorageFull
from dqlite_py.raft.journal import Journal
from tests.support.faultdisk import FaultDisk, Loss
from tests.support.journals import FOLDER, entries, open_journal
from tests.support.journalscript import STEPS, Oracle, batch, run

pytestmark = [pytest.mark.rf("RF-2"), pytest.mark.rf("RF-8")]


class Ended(Exception):
    """The script came to its end without meeting the fault."""


def run_until_failure(disk: FaultDisk, oracle: Oracle) -> Journal | None:
    """Run the script; StorageFull is answered by the same step again. Return the journal that failed, if open."""
    try:
        journal = open_journal(disk)
    except StorageFull:
        assert disk.open_count == 0
        journal = open_journal(disk)
    except JournalFailed:
        assert disk.open_count == 0
        return None
    oracle.check(journal)
    for step in STEPS:
        try:
            try:
                step(journal, oracle)
            except StorageFull:
                step(journal, oracle)
        except JournalFailed:
            return journal
    raise Ended


def assert_stays_failed(journal: Journal) -> None:
    for call in (
        lambda: journal.write(
            [batch(entries=entries(journal.last_index + 1, journal.last_index + 1, term=99))]
        ),
        lambda: journal.write([]),
        lambda: journal.compact(journal.last_index),
        journal.prepare,
        journal.mark,
    ):
        with pytest.raises(JournalFailed):
            call()


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
def test_each_call_fails(number: int) -> None:
    failed_count = full_count = 0
    for call in range(1, 10_000):
        disk, oracle = FaultDisk(FOLDER), Oracle()
        disk.fails_at, disk.fails_with = call, number
        try:
            journal = run_until_failure(disk, oracle)
        except Ended:
            if disk.call_count < call:
                break
            full_count += 1
            oracle.check(open_journal(disk))  # nothing was lost by doing it again
            continue
        failed_count += 1
        if journal is not None:
            assert_stays_failed(journal)
            journal.close()
            assert disk.open_count == 0
        disk.after_kill()
        state = oracle.check(open_journal(disk))
        # fsyncgate: what the new process has read back must be on the disk, although a sync failed before.
        assert oracle.check(open_journal(disk.after_power_loss(Loss.DROP))) == state, call
    assert failed_count > 100
    assert (full_count > 10) == (number == errno.ENOSPC)


def test_short_writes_are_completed() -> None:
    disk, oracle = FaultDisk(FOLDER), Oracle()
    disk.short_writes = random.Random(4)
    run(disk, oracle)
    oracle.check(open_journal(disk.after_power_loss(Loss.DROP)))


def test_short_writes_and_a_full_disk() -> None:
    """The disk fills up byte by byte in the middle of calls; space returns; nothing is lost or doubled."""
    for spare in range(0, 24_000, 731):
        disk, oracle = FaultDisk(FOLDER), Oracle()
        journal = open_journal(disk)
        disk.capacity_bytes = disk.used_bytes() + spare
        for step in STEPS:
            try:
                step(journal, oracle)
            except StorageFull:
                copy.deepcopy(oracle).check(open_journal(disk.after_power_loss(Loss.KEEP)))
                disk.capacity_bytes = None
                step(journal, oracle)
        oracle.check(open_journal(disk))
