"""Read one file of undo notes (format: native/undo.c) into changes, oldest first, and which of them are durable."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from jepsen.errors import SetupError

SECTOR: Final = 512
_MAGIC: Final = b"JUNDO001"
_HEADER: Final = struct.Struct("=8sQQQ")
_RECORD: Final = struct.Struct("=IIqqqqq")
_RECORD_MAGIC: Final = 0x4F444E55
_CHANGE, _SYNCED, _FAILED = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Change:
    """Bytes [start, end) were about to change; `start` is at a sector's boundary. `old`: what was there, from `start`
    to the end of the last sector or of the file."""

    offset: int  # of the record
    start: int
    end: int
    size_before: int
    size_after: int
    old: bytes

    @property
    def is_shorter(self) -> bool:
        """Whether it made the file shorter."""
        return self.size_after < self.size_before

    def sectors(self) -> range:
        return range(self.start // SECTOR, -(-self.end // SECTOR))

    def old_sector(self, sector: int) -> bytes:
        """What that sector held: 512 bytes, zeros where the file had ended."""
        at = sector * SECTOR - self.start
        return self.old[at : at + SECTOR].ljust(SECTOR, b"\0")


@dataclass(slots=True)
class UndoFile:
    changes: list[Change] = field(default_factory=list)
    durable: set[int] = field(default_factory=set)

    def is_durable(self, index: int) -> bool:
        """Whether a sync covered the change, and no sync had failed on it before."""
        return index in self.durable


def read_undo(path: Path) -> UndoFile:
    """Raises SetupError for a file that is none; a record cut short at the end is left out."""
    data = path.read_bytes()
    if len(data) < _HEADER.size:
        return UndoFile()  # killed while it was made
    magic, at, _has_failed, _inode = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise SetupError(f"{path} holds no undo notes: remove the data folder and start anew")
    found = UndoFile()
    doomed_before = 0  # `at` may lie behind the end: killed between emptying the file and saying so
    while at + _RECORD.size <= len(data):
        mark, kind, start, old_bytes, end, before, after = _RECORD.unpack_from(data, at)
        content = at + _RECORD.size
        if mark != _RECORD_MAGIC or content + old_bytes > len(data):
            break
        if kind == _CHANGE:
            found.changes.append(Change(at, start, end, before, after, data[content : content + old_bytes]))
        elif kind == _SYNCED:
            found.durable.update(
                index for index, change in enumerate(found.changes) if doomed_before <= change.offset < start
            )
        elif kind == _FAILED:
            doomed_before = start
        at = content + old_bytes
    return found
