"""RF-17: stock's journal has offsets of 4 bytes, no checksum, no lock, an unchecked header and a sparse
memory map. Ours has segments of records with CRC-32C, checks every header field, locks the data folder,
writes with pwrite into preallocated files, and stops with CorruptJournal for damage that is not a torn
tail."""

from __future__ import annotations

import errno
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pysyncobj.journal import FileJournal

from dqlite_py.errors import CorruptJournal, DirectoryLocked, StorageFull, UnknownFormat, WrongCluster
from dqlite_py.model import Entry, EntryKind, LogIndex, NodeId, Term
from dqlite_py.nativelib import crc32c
from dqlite_py.ports import SystemDisk, WriteGroup
from dqlite_py.raft.journal import Journal, JournalBatch, lock_folder
from dqlite_py.raft.journal.format import FORMAT_VERSION, SEGMENT_MAGIC

pytestmark = pytest.mark.rf("RF-17")

stock_warnings = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture
def stock_file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "journal"
    yield path
    path.unlink(missing_ok=True)  # one of these tests makes it 4 GiB long, sparsely


def fill(path: Path, count: int) -> None:
    journal = FileJournal(str(path))
    for index in range(1, count + 1):
        journal.add(b"command%04d" % index, index, 1)
    journal._destroy()


@stock_warnings
def test_stock_has_the_fault(stock_file: Path) -> None:
    """A flipped bit is served as if it had been written."""
    fill(stock_file, 100)
    data = bytearray(stock_file.read_bytes())
    data[data.index(b"command0050")] ^= 1
    stock_file.write_bytes(data)
    journal = FileJournal(str(stock_file))
    assert len(journal) == 100
    assert journal[49][0] == b"bommand0050"
    journal._destroy()


@stock_warnings
def test_stock_is_shared_by_two_writers(stock_file: Path) -> None:
    fill(stock_file, 3)
    one, other = FileJournal(str(stock_file)), FileJournal(str(stock_file))
    one.add(b"one", 4, 2)
    other.add(b"other", 4, 3)
    one._destroy()
    other._destroy()
    journal = FileJournal(str(stock_file))
    assert [entry[0] for entry in journal[3:]] == [b"other"]
    journal._destroy()


@stock_warnings
def test_stock_overwrites_foreign_files(stock_file: Path) -> None:
    stock_file.write_bytes(b"SQLite format 3\0" + bytes(24) + b"somebody's rows" * 100)
    journal = FileJournal(str(stock_file))
    journal.add(b"x" * 100, 1, 1)
    journal._destroy()
    assert stock_file.read_bytes().count(b"somebody's rows") < 100


@stock_warnings
def test_stock_stops_at_4_gib_with_memory_ahead_of_the_file(stock_file: Path) -> None:
    journal = FileJournal(str(stock_file))
    journal._FileJournal__currentOffset = 2**32 - 60  # as if 4 GiB had been written
    journal.add(b"x", 1, 1)
    with pytest.raises(struct.error):
        journal.add(b"x" * 60, 2, 1)
    assert journal[-1][1] == 2
    journal._destroy()


@stock_warnings
def test_stock_maps_space_that_it_has_not_got(stock_file: Path) -> None:
    """The file is sparse: a full disk shows as SIGBUS at a store, which no code can handle."""
    journal = FileJournal(str(stock_file))
    journal.add(b"x" * 2**22, 1, 1)
    journal.add(b"x", 2, 1)
    journal._destroy()
    stat = stock_file.stat()
    assert stat.st_blocks * 512 < stat.st_size


CLUSTER, NODE = b"cluster of tests", NodeId(1)
SEGMENT_BYTES = 64 * 1024


def entries(first: int, last: int, size: int = 500) -> list[Entry]:
    return [
        Entry(LogIndex(i), Term(1), EntryKind.COMMAND, (b"command%04d-" % i).ljust(size, b"x"))
        for i in range(first, last + 1)
    ]


def open_journal(folder: Path, disk: SystemDisk | None = None, cluster: bytes = CLUSTER) -> Journal:
    return Journal.open(
        disk or SystemDisk(),
        str(folder),
        cluster_id=cluster,
        node_id=NODE,
        create=True,
        segment_bytes=SEGMENT_BYTES,
        step_bytes=16 * 1024,
    )


def write(journal: Journal, batch: list[Entry]) -> None:
    journal.write([JournalBatch(reset=None, hard_state=None, truncate_from=None, entries=batch)])


def filled(folder: Path, count: int, per_write: int = 10) -> list[Path]:
    """A closed journal of `count` entries; returns its segment files."""
    journal = open_journal(folder)
    for first in range(1, count + 1, per_write):
        write(journal, entries(first, min(first + per_write - 1, count)))
    journal.close()
    return sorted((folder / "journal").glob("*.seg"))


def refusal(folder: Path) -> CorruptJournal | None:
    """Why the journal does not open."""
    try:
        journal = open_journal(folder)
    except CorruptJournal as error:
        return error
    journal.close()
    return None


def test_ours_is_closed(tmp_path: Path) -> None:
    """Any flipped bit of any entry is noticed: named by file and offset, never served, never skipped."""
    segments = filled(tmp_path, 300)
    assert len(segments) > 2
    for segment in segments:
        whole = segment.read_bytes()
        places = [at for at in range(len(whole)) if whole.startswith(b"command", at)]
        for at in (places[0], places[len(places) // 2], places[-1]):
            for offset in (-8, 0, 300):
                segment.write_bytes(
                    whole[: at + offset] + bytes([whole[at + offset] ^ 4]) + whole[at + offset + 1 :]
                )
                refused = refusal(tmp_path)
                assert refused is not None, f"served with a flipped bit at {at + offset} of {segment}"
                assert refused.details["file"] == str(segment)
        segment.write_bytes(whole)
    journal = open_journal(tmp_path)
    assert journal.read(1, 300, 2**30) == entries(1, 300)
    journal.close()


def test_ours_stops_at_a_zeroed_page(tmp_path: Path) -> None:
    segment = filled(tmp_path, 100)[0]
    data = bytearray(segment.read_bytes())
    data[16384:20480] = bytes(4096)
    segment.write_bytes(data)
    with pytest.raises(CorruptJournal):
        open_journal(tmp_path)


def test_ours_locks_its_folder(tmp_path: Path) -> None:
    lock = lock_folder(SystemDisk(), str(tmp_path))
    with pytest.raises(DirectoryLocked):
        lock_folder(SystemDisk(), str(tmp_path))
    other_process = (
        "import fcntl, sys\n"
        "try: fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "except BlockingIOError: sys.exit(7)"
    )
    command = [sys.executable, "-c", other_process, str(tmp_path / "LOCK")]
    assert subprocess.run(command, check=False).returncode == 7
    lock.close()
    assert subprocess.run(command, check=False).returncode == 0


def test_ours_refuses_foreign_files_and_leaves_them_alone(tmp_path: Path) -> None:
    segment = filled(tmp_path, 10)[0]
    whole = segment.read_bytes()
    foreign = b"SQLite format 3\0" + bytes(24) + b"somebody's rows" * 1000
    segment.write_bytes(foreign)
    with pytest.raises(CorruptJournal):
        open_journal(tmp_path)
    assert segment.read_bytes() == foreign
    segment.write_bytes(whole)
    with pytest.raises(WrongCluster):
        open_journal(tmp_path, cluster=b"another cluster!")
    envelope = struct.pack("<8sI", SEGMENT_MAGIC, FORMAT_VERSION + 1)
    segment.write_bytes(envelope + struct.pack("<I", crc32c(envelope)) + whole[16:])
    with pytest.raises(UnknownFormat) as caught:
        open_journal(tmp_path)
    assert caught.value.details["version"] == FORMAT_VERSION + 1


class FullDisk(SystemDisk):
    """Has room for `room` more bytes of files; counts growth, as a file system does."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.sizes: dict[int, int] = {}

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        growth = max(0, offset + len(data) - self.size(fd))
        if growth > self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= growth
        return super().pwrite(fd, data, offset)

    def write_group(self, fd: int, group: WriteGroup) -> None:
        group.write_in_steps(self, fd)


def fill_up(journal: Journal) -> int:
    """Write until the disk is full; the last index written."""
    for first in range(1, 10_000, 10):
        try:
            write(journal, entries(first, first + 9))
        except StorageFull:
            return first - 1
    raise AssertionError("never full")


def test_ours_says_when_the_disk_is_full(tmp_path: Path) -> None:
    """No SIGBUS, no half group: what was written stays, what was refused left no trace, space resumes it."""
    disk = FullDisk(room=200 * 1024)
    journal = open_journal(tmp_path, disk)
    done = fill_up(journal)
    assert done > 100
    assert journal.last_index == done
    with pytest.raises(StorageFull):
        write(journal, entries(done + 1, done + 200))
    disk.room = 2**30
    write(journal, entries(done + 1, done + 200))
    journal.close()
    journal = open_journal(tmp_path)
    assert journal.last_index == done + 200
    assert journal.read(1, done + 200, 2**30) == entries(1, done + 200)
    journal.close()


def test_ours_has_its_space_before_it_writes(tmp_path: Path) -> None:
    """Segments are filled with zeros ahead of the groups: no holes that a full disk could refuse later."""
    for segment in filled(tmp_path, 100):
        stat = segment.stat()
        assert stat.st_blocks * 512 >= stat.st_size


def test_ours_has_offsets_of_eight_bytes(tmp_path: Path) -> None:
    """Files stay far below 4 GiB: a new segment begins when one is full, whatever the journal's length."""
    segments = filled(tmp_path, 300)
    assert all(segment.stat().st_size <= SEGMENT_BYTES for segment in segments)
    assert [int(segment.stem) for segment in segments] == sorted(int(segment.stem) for segment in segments)
