"""Small sealed files (MANIFEST, CURRENT, a receiver's PROGRESS), and the file operations around them.

   0  8  magic, names the kind of file
   8  4  format version, little-endian
  12  4  body length, little-endian
  16  4  crc32c of bytes 0..15 and the body, little-endian
  20     body, msgpack

It does not know what the bodies mean, and replaces no file by itself: `write_temporary` leaves the rename to
the caller, who knows what must be durable before. Any thread but the loop's.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import Any, Final

import msgpack

from dqlite_py.errors import MalformedMessage, StorageFull, UnknownFormat
from dqlite_py.limits import MANIFEST_BYTES_MAX
from dqlite_py.nativelib import crc32c
from dqlite_py.ports import Disk

_HEAD: Final = struct.Struct("<8sII")
_CRC: Final = struct.Struct("<I")
_HEAD_BYTES: Final = _HEAD.size + _CRC.size
_FULL: Final = frozenset((errno.ENOSPC, errno.EDQUOT))


def seal(magic: bytes, version: int, body: Any) -> bytes:
    """Give the sealed file of `body`."""
    data: bytes = msgpack.packb(body, use_bin_type=True)
    head = _HEAD.pack(magic, version, len(data))
    return head + _CRC.pack(crc32c(data, crc32c(head))) + data


def unseal(magic: bytes, version: int, data: bytes, source: str) -> Any:
    """Give the body; raises MalformedMessage, or UnknownFormat for a version this release does not know."""
    if len(data) < _HEAD_BYTES:
        raise MalformedMessage(f"{source} is cut short: {len(data)} bytes", what=source)
    found_magic, found_version, length = _HEAD.unpack_from(data)
    (expected,) = _CRC.unpack_from(data, _HEAD.size)
    body = data[_HEAD_BYTES:]
    if found_magic != magic:
        raise MalformedMessage(f"{source} begins with {found_magic!r} instead of {magic!r}", what=source)
    if length != len(body):
        raise MalformedMessage(f"{source} announces {length} bytes and holds {len(body)}", what=source)
    found = crc32c(body, crc32c(data[: _HEAD.size]))
    if found != expected:
        raise MalformedMessage(
            f"{source} has checksum {found:#010x} instead of {expected:#010x}", what=source
        )
    # AFTER the checksum: a flipped bit in the version is damage, not a newer release.
    if found_version != version:
        raise UnknownFormat(
            f"{source} has format {found_version}; this release knows {version}",
            source=source,
            version=str(found_version),
        )
    try:
        return msgpack.unpackb(body, raw=False, strict_map_key=True, use_list=True, max_ext_len=0)
    except (ValueError, msgpack.UnpackException, RecursionError, TypeError) as error:
        raise MalformedMessage(f"{source} is not valid msgpack: {error}", what=source) from None


def read_sealed(disk: Disk, path: str) -> bytes:
    """Read a small file whole; a file over the limit gives its first bytes, which then fail their check."""
    fd = disk.open(path)
    try:
        parts: list[bytes] = []
        offset = 0
        while offset <= MANIFEST_BYTES_MAX:
            part = disk.pread(fd, MANIFEST_BYTES_MAX + 1 - offset, offset)
            if not part:
                break
            parts.append(part)
            offset += len(part)
        return b"".join(parts)
    finally:
        disk.close(fd)


def write_all(disk: Disk, fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data`, however the disk cuts it."""
    view = memoryview(data)
    while view:
        count = disk.pwrite(fd, view, offset)
        view = view[count:]
        offset += count


def write_temporary(disk: Disk, path: str, data: bytes) -> str:
    """Write `data`, durable, beside `path` and give the temporary file's name; the caller renames it."""
    temporary = path + ".tmp"
    fd = disk.open(temporary, create=True)
    try:
        disk.ftruncate(fd, 0)
        write_all(disk, fd, data, 0)
        disk.fsync(fd)
    finally:
        disk.close(fd)
    return temporary


def remove_folder(disk: Disk, path: str) -> None:
    """Remove a folder of files. What is left after a crash is removed by the next try."""
    for name in disk.listdir(path):
        disk.unlink(os.path.join(path, name))
    # Not through the port: nothing depends on an empty folder being gone, and disks in memory have none.
    if os.path.isdir(path):
        os.rmdir(path)


def storage_full(error: OSError, where: str) -> StorageFull | None:
    """Give the StorageFull for a full disk or quota, None for every other error."""
    if error.errno not in _FULL:
        return None
    return StorageFull(f"no space left for {where}: free space and try again", file=where)
