"""RF-17: stock's journal has offsets of 4 bytes, no checksum, no lock, an unchecked header and a sparse
memory map. Ours has segments of records with CRC-32C, checks every header field, locks the data folder,
writes with pwrite into preallocated files, and stops with CorruptJournal for damage that is not a torn
tail."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from pysyncobj.journal import FileJournal

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
