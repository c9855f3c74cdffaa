"""One data group on its way to the disk: where it goes, its entries, and the two ways to write it.

Made by Journal, on the journal thread. The bytes are format.py's; C and Python make the same ones. On the system's
disk and with C, building, writing and syncing are one call that does not hold the interpreter's lock; other disks
see a write and a sync.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from dqlite_py.model import Entry
from dqlite_py.nativelib import IMPLEMENTATION
from dqlite_py.ports import Disk
from dqlite_py.raft.journal.files import write_fully
from dqlite_py.raft.journal.format import GROUP_HEADER_BYTES, RECORD_HEADER_BYTES

if IMPLEMENTATION == "c":
    from dqlite_py.raft.journal import native_group as _chosen
else:
    from dqlite_py.raft.journal import python_group as _chosen  # type: ignore[no-redef]


class Group:
    """Implements ports.WriteGroup. `entries` ascend one by one."""

    __slots__ = ("entries", "offset", "salt", "sequence", "truncate_from")

    def __init__(
        self, sequence: int, offset: int, salt: int, truncate_from: int | None, entries: Sequence[Entry]
    ) -> None:
        self.sequence = sequence
        self.offset = offset
        self.salt = salt
        self.truncate_from = truncate_from
        self.entries = entries

    def lay_out(self) -> tuple[array[int], int]:
        """Return the file offset of each entry's record, and the bytes of the group."""
        at = self.offset + GROUP_HEADER_BYTES
        if self.truncate_from is not None:
            at += RECORD_HEADER_BYTES
        offsets: array[int] = array("Q")
        for entry in self.entries:
            offsets.append(at)
            at += RECORD_HEADER_BYTES + ((len(entry[3]) + 7) & ~7)
        return offsets, at - self.offset

    def build(self) -> bytearray:
        """Return the group's bytes."""
        return _chosen.build_group(self.sequence, self.offset, self.salt, self.truncate_from, self.entries)

    def write(self, fd: int) -> None:
        """Write the group to a descriptor of the operating system, whole, then fdatasync; raises OSError."""
        _chosen.write_group(fd, self.sequence, self.offset, self.salt, self.truncate_from, self.entries)

    def write_in_steps(self, disk: Disk, fd: int) -> None:
        """Do the same with calls of `disk`: for disks that are not the system's; raises OSError."""
        write_fully(disk, fd, self.build(), self.offset)
        disk.fdatasync(fd)
