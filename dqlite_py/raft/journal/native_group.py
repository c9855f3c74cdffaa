"""Data groups built and written by native/journal.c. The twin in Python is format.build_group.

Called by group.py only when C is chosen. The interpreter's lock is not held in either call; entries stay alive,
and with them their payloads, which C reads where they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dqlite_py._native import ffi, lib
from dqlite_py.model import Entry
from dqlite_py.ports import disk_error
from dqlite_py.raft.journal.format import group_bytes

_from_buffer = ffi.from_buffer
_write = lib.dq_group_write


def build_group(
    sequence: int, offset: int, salt: int, truncate_from: int | None, entries: Sequence[Entry]
) -> bytearray:
    """Return a data group's bytes for `offset` of a file; raises OSError (no memory)."""
    buffer = bytearray(group_bytes(entries, truncate_from is not None))
    with ffi.from_buffer("uint8_t[]", buffer) as target:
        error = lib.dq_group_build(
            target, len(buffer), sequence, offset, salt, truncate_from or 0, *_arguments(entries)
        )
    if error:
        raise disk_error(error)
    return buffer


def write_group(
    fd: int, sequence: int, offset: int, salt: int, truncate_from: int | None, entries: Sequence[Entry]
) -> None:
    """Write a data group whole at `offset` of `fd`, then fdatasync; raises OSError."""
    error = _write(fd, sequence, offset, salt, truncate_from or 0, *_arguments(entries))
    if error:
        raise disk_error(error)


def _arguments(entries: Sequence[Entry]) -> tuple[int, int, Sequence[int], bytes, list[int], list[Any]]:
    """First index, count, and per entry: term, kind, payload size, payload."""
    if len(entries) == 1:
        index, term, kind, payload = entries[0]
        return index, 1, [term], bytes((kind,)), [len(payload)], [_from_buffer(payload)]
    if not entries:
        return 0, 0, [], b"", [], []
    _, terms, kinds, payloads = zip(*entries, strict=True)
    return (
        entries[0][0],
        len(entries),
        terms,
        bytes(kinds),
        list(map(len, payloads)),
        list(map(_from_buffer, payloads)),
    )
