"""One flipped bit in every byte of a small data folder: refused, or cut without losing what a later write proves."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from dqlite_py.errors import CorruptJournal, CorruptState
from dqlite_py.raft.journal import Identity, Journal
from dqlite_py.raft.journal.format import (
    GROUP_HEADER_BYTES,
    GROUP_MAGIC,
    HEADER_BYTES,
    RECORD_HEADER_BYTES,
    SEAL_BYTES,
)
from tests.support.faultdisk import FaultDisk
from tests.support.journals import CLUSTER, FOLDER, NODE, contents, entries, hard, open_journal
from tests.support.journalscript import batch

pytestmark = pytest.mark.rf("RF-17")

HARD = hard(3, 7)


def small_journal(disk: FaultDisk) -> Journal:
    """Two segments; the second has three groups."""
    journal = open_journal(disk)
    journal.write([batch(hard_state=HARD, entries=entries(1, 10, size=101))])
    journal.write([batch(entries=entries(11, 12, size=300))])
    journal.write([batch(entries=entries(13, 14))])
    journal.write([batch(truncate_from=14, entries=entries(14, 15, term=2))])
    return journal


def flipped(disk: FaultDisk, path: str, offset: int, rng: random.Random) -> FaultDisk:
    copy = FaultDisk(FOLDER)
    copy.mkdir(FOLDER + "/journal")
    for name, data in disk.tree().items():
        if name == path:
            damaged = bytearray(data)
            damaged[offset] ^= 1 << rng.randrange(8)
            data = bytes(damaged)
        copy.put(name, data)
    return copy


def offsets(end: int) -> Iterator[int]:
    """Every byte up to `end`, but of the header's zeros only some."""
    yield from range(128)
    yield from range(128, HEADER_BYTES, 97)
    yield from range(HEADER_BYTES, end)


def layout(journal: Journal, disk: FaultDisk) -> tuple[str, int, str, int, int]:
    """Paths and ends of the two segments, and where the last group starts."""
    first, second = journal._table.segments
    start = second.offsets[-2] - RECORD_HEADER_BYTES - GROUP_HEADER_BYTES  # truncation, then entry 14
    assert disk.contents(second.path)[start : start + 4] == GROUP_MAGIC
    return first.path, first.end + SEAL_BYTES, second.path, second.end, start


def assert_refused(disk: FaultDisk, path: str, offset: int) -> None:
    before = disk.tree()
    with pytest.raises(CorruptJournal) as error:
        open_journal(disk)
    assert set(error.value.details) == {"file", "offset", "expected", "found"}
    assert disk.tree() == before
    assert disk.open_count == 0


def test_a_clean_close_leaves_nothing_ambiguous() -> None:
    disk, rng = FaultDisk(FOLDER), random.Random(1)
    journal = small_journal(disk)
    wanted = contents(journal)
    first, first_end, second, second_end, _ = layout(journal, disk)
    journal.close()
    for path, end in ((first, first_end), (second, second_end)):
        for offset in offsets(end):
            assert_refused(flipped(disk, path, offset, rng), path, offset)
    for offset in range(second_end, len(disk.contents(second)), 7):  # the mark, and zeros
        assert contents(open_journal(flipped(disk, second, offset, rng))) == wanted


def test_without_a_mark_only_the_last_group_can_be_cut() -> None:
    disk, rng = FaultDisk(FOLDER), random.Random(2)
    journal = small_journal(disk)
    wanted = [entry for entry in contents(journal) if entry.index < 14]
    _, _, second, second_end, last_group = layout(journal, disk)
    for offset in offsets(last_group):
        assert_refused(flipped(disk, second, offset, rng), second, offset)
    for offset in range(last_group, second_end):
        damaged = flipped(disk, second, offset, rng)
        assert contents(open_journal(damaged))[: len(wanted)] == wanted
        assert open_journal(damaged).last_index == 14  # entry 14 of term 1 came with the group before


def test_a_mark_makes_the_last_group_certain() -> None:
    disk, rng = FaultDisk(FOLDER), random.Random(3)
    journal = small_journal(disk)
    _, _, second, second_end, last_group = layout(journal, disk)
    journal.mark()  # not synced; the process is killed
    for offset in range(last_group, second_end, 3):
        assert_refused(flipped(disk, second, offset, rng), second, offset)


def test_a_torn_group_with_a_copy_of_the_journal_as_payload_is_cut() -> None:
    """Group headers inside a payload prove nothing: they are bound to their offset and to the salt."""
    disk = FaultDisk(FOLDER)
    journal = open_journal(disk, segment_bytes=64 * 1024)
    journal.write([batch(entries=entries(1, 5))])
    journal.write([batch(entries=entries(6, 9))])
    segment = journal._table.current
    copied = disk.contents(segment.path)[HEADER_BYTES : segment.end]
    start = segment.end
    item = entries(10, 10)[0]._replace(payload=bytes(-(start + GROUP_HEADER_BYTES + 32) % 8) + copied * 3)
    journal.write([batch(entries=[item])])
    data = bytearray(disk.contents(segment.path))
    data[start : start + 4] = bytes(4)
    disk.put(segment.path, bytes(data))
    assert open_journal(disk, segment_bytes=64 * 1024).last_index == 9


def test_hard_state_never_goes_back() -> None:
    disk, rng = FaultDisk(FOLDER), random.Random(4)
    small_journal(disk).close()
    path = FOLDER + "/hardstate"
    size = len(disk.contents(path))
    for offset in [*range(80), *range(4096, size)]:
        assert open_journal(flipped(disk, path, offset, rng)).hard_state == HARD
    for offset in range(68):
        damaged = flipped(flipped(disk, path, offset, rng), path, 4096 + rng.randrange(68), rng)
        before = damaged.tree()
        with pytest.raises(CorruptState):
            open_journal(damaged)
        assert damaged.tree() == before


def test_identity_is_never_misread() -> None:
    disk, rng = FaultDisk(FOLDER), random.Random(5)
    Identity(CLUSTER, NODE, 12345).save(disk, FOLDER)
    path = FOLDER + "/identity"
    for offset in range(len(disk.contents(path))):
        with pytest.raises(CorruptState):
            Identity.load(flipped(disk, path, offset, rng), FOLDER)
