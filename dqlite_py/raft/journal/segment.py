"""One segment file in use: its open file, where each entry lies, reading entries, growing.

Does not know its neighbours, decide about truncation, or hold locks: Journal does. Reads come from any
thread, everything else from the journal thread. The offsets cost 8 bytes per entry.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Final

from dqlite_py.errors import CorruptJournal
from dqlite_py.limits import KIB
from dqlite_py.model import Entry, EntryKind, LogIndex, Term
from dqlite_py.nativelib import crc32c
from dqlite_py.ports import Disk
from dqlite_py.raft.journal.files import read_up_to, write_zeros
from dqlite_py.raft.journal.format import (
    PAYLOAD_BYTES_MAX,
    RECORD,
    RECORD_HEADER_BYTES,
    SEAL_BYTES,
    SegmentHeader,
    record_bytes,
)

READ_CHUNK_BYTES: Final = 256 * KIB
TAIL_BYTES: Final = SEAL_BYTES  # always left free behind the last group: room for a mark or the seal


@dataclass(slots=True)
class Segment:
    """A live segment. INVARIANT: offsets[i] is the record of entry header.first_index + i, ascending."""

    path: str
    fd: int
    header: SegmentHeader
    end: int  # where the next group goes
    allocated: int  # bytes of the file that are written and synced: a group must end before it
    last_group: int  # sequence of the last data group here, header.first_group - 1 when there is none
    offsets: array[int] = field(default_factory=lambda: array("Q"))
    is_sealed: bool = False
    is_dropped: bool = False  # unlinked or replaced: close when the last reader leaves
    readers: int = 0

    @property
    def first_index(self) -> int:
        return self.header.first_index

    @property
    def last_index(self) -> int:
        """The last entry's index; first_index - 1 when there is none."""
        return self.header.first_index + len(self.offsets) - 1

    @property
    def room_bytes(self) -> int:
        return max(0, self.allocated - self.end - TAIL_BYTES)

    def grow(self, disk: Disk, size: int) -> None:
        """Preallocate up to `size` bytes of file; raises OSError and then promises nothing new."""
        write_zeros(disk, self.fd, self.allocated, size)
        disk.fsync(self.fd)  # the new size is durable BEFORE a group relies on it
        self.allocated = size

    def read_entries(
        self, disk: Disk, first: int, offsets: array[int], end: int, bytes_max: int, *, may_be_none: bool
    ) -> list[Entry]:
        """Read the entries at `offsets` (the first has index `first`; `end` bounds the last one's record).

        As many as fit into `bytes_max` payload bytes, but at least one unless `may_be_none`.
        Raises CorruptJournal, OSError.
        """
        entries: list[Entry] = []
        chunk, chunk_start = memoryview(b""), 0
        left = bytes_max
        for position, offset in enumerate(offsets):
            at = offset - chunk_start
            size = self._record_size(chunk, at, offset)
            if size is None:
                wanted = min(READ_CHUNK_BYTES, end - offset)
                chunk, chunk_start, at = self._read(disk, wanted, offset), offset, 0
                size = self._record_size(chunk, 0, offset) or 0
                if size > len(chunk):
                    chunk = self._read(disk, size, offset)
            elif at + size > len(chunk):
                chunk = self._read(disk, max(size, min(READ_CHUNK_BYTES, end - offset)), offset)
                chunk_start, at = offset, 0
            entry = self._parse(chunk, at, size, first + position, offset)
            left -= len(entry.payload)
            if left < 0 and (entries or may_be_none):
                break
            entries.append(entry)
        return entries

    def _read(self, disk: Disk, size: int, offset: int) -> memoryview:
        return memoryview(read_up_to(disk, self.fd, size, offset))

    def _record_size(self, chunk: memoryview, at: int, offset: int) -> int | None:
        """Size of the record at `at`, None when its header is not in the chunk; checked against the limit."""
        if at + RECORD_HEADER_BYTES > len(chunk):
            return None
        size = int.from_bytes(chunk[at + 4 : at + 8], "little")
        if size > PAYLOAD_BYTES_MAX:
            raise self.damage(offset, f"at most {PAYLOAD_BYTES_MAX} payload bytes", str(size))
        return record_bytes(size)

    def _parse(self, chunk: memoryview, at: int, size: int, index: int, offset: int) -> Entry:
        if size == 0 or at + size > len(chunk):
            raise self.damage(offset, f"the record of entry {index}", "the end of the file")
        crc, payload_bytes, kind, entry_kind, _, _, term, found = RECORD.unpack_from(chunk, at)
        actual = crc32c(chunk[at + 4 : at + size], self.header.salt)
        if actual != crc:
            raise self.damage(offset, f"crc {crc:#010x} of entry {index}", f"crc {actual:#010x}")
        if kind != 1 or found != index:
            raise self.damage(offset, f"entry {index}", f"record type {kind} of index {found}")
        start = at + RECORD_HEADER_BYTES
        payload = bytes(chunk[start : start + payload_bytes])
        return Entry(LogIndex(index), Term(term), EntryKind(entry_kind), payload)

    def damage(self, offset: int, expected: str, found: str) -> CorruptJournal:
        return damage(self.path, offset, expected, found)


def damage(path: str, offset: int, expected: str, found: str, mend: str = "") -> CorruptJournal:
    """Build the error for damaged durable data."""
    advice = mend or "restore this node from a backup, or remove it and add it again with an empty folder"
    return CorruptJournal(
        f"journal damaged: {path} at offset {offset}: expected {expected}, found {found}; {advice}",
        file=path,
        offset=offset,
        expected=expected,
        found=found,
    )
