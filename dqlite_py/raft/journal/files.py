"""Whole reads, whole writes and atomic replacement on top of ports.Disk.

Does not decide what an error means: OSError passes through. Called by the other modules of this package.
"""

from __future__ import annotations

import errno
from typing import Final

from dqlite_py.ports import Disk

# One write makes one folio of the page cache, and every later fdatasync of a part of it walks the whole: filled by the
# MiB, a group's sync takes 50 us more processor time (Linux 6.18, ext4), and /proc/PID/io counts the folio each time.
ZERO_CHUNK: Final = bytes(64 * 1024)
FULL_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


def is_full(error: OSError) -> bool:
    """Whether `error` says that the disk or a quota is full."""
    return error.errno in FULL_ERRNOS


def write_fully(disk: Disk, fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """Write all of `data`, however many calls it takes; raises OSError."""
    view = memoryview(data)
    while view:
        written = disk.pwrite(fd, view, offset)
        if written <= 0:
            raise OSError(errno.EIO, "write made no progress")
        view = view[written:]
        offset += written


def write_zeros(disk: Disk, fd: int, start: int, end: int) -> None:
    """Fill [start, end) with zeros that take up disk space (no hole)."""
    while start < end:
        size = min(len(ZERO_CHUNK), end - start)
        write_fully(disk, fd, memoryview(ZERO_CHUNK)[:size], start)
        start += size


def read_up_to(disk: Disk, fd: int, size: int, offset: int) -> bytes:
    """Read `size` bytes, fewer only at the end of the file."""
    data = disk.pread(fd, size, offset)
    if len(data) == size or not data:
        return data
    parts = [data]
    missing = size - len(data)
    while missing:
        data = disk.pread(fd, missing, offset + size - missing)
        if not data:
            break
        parts.append(data)
        missing -= len(data)
    return b"".join(parts)


def read_small_file(disk: Disk, path: str, bytes_max: int) -> bytes:
    """Read at most `bytes_max` bytes of a file from its start."""
    fd = disk.open(path)
    try:
        return read_up_to(disk, fd, bytes_max, 0)
    finally:
        disk.close(fd)


def replace_file(disk: Disk, folder: str, name: str, content: bytes) -> None:
    """Create or replace folder/name so that a crash leaves the old or the new file, whole."""
    temporary = f"{folder}/{name}.tmp"
    fd = disk.open(temporary, create=True)
    try:
        disk.ftruncate(fd, 0)
        write_fully(disk, fd, content, 0)
        disk.fsync(fd)  # content durable BEFORE the name points to it
    finally:
        disk.close(fd)
    disk.rename(temporary, f"{folder}/{name}")
    disk.fsync_dir(folder)
