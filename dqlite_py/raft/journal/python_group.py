"""Data groups built and written in Python: the twin of native_group.py. Called by group.py when Python is chosen."""

from __future__ import annotations

from collections.abc import Sequence

from dqlite_py.model import Entry
from dqlite_py.ports import SystemDisk
from dqlite_py.raft.journal import format as journal_format
from dqlite_py.raft.journal.files import write_fully

_SYSTEM = SystemDisk()


def build_group(
    sequence: int, offset: int, salt: int, truncate_from: int | None, entries: Sequence[Entry]
) -> bytearray:
    """Return a data group's bytes for `offset` of a file."""
    return journal_format.build_group(sequence, offset, salt, truncate_from, entries)[0]


def write_group(
    fd: int, sequence: int, offset: int, salt: int, truncate_from: int | None, entries: Sequence[Entry]
) -> None:
    """Write a data group whole at `offset` of `fd`, then fdatasync; raises OSError."""
    write_fully(_SYSTEM, fd, build_group(sequence, offset, salt, truncate_from, entries), offset)
    _SYSTEM.fdatasync(fd)
