"""DIR/journal/synced: a lower bound of what was durable, so that a lost end of the journal is noticed.

The journal's own bytes cannot show that whole groups at its end are gone (zeroed blocks, a shorter file, the last
segments deleted together with the seal's witness). So the sequence of a group that was synced is noted here when the
journal is marked, without a sync, and durably at a clean close. Sequences never go back, so a journal that ends
before the noted group has lost acknowledged writes. A missing or damaged note proves nothing and is ignored.

File (60 bytes): envelope with magic b"DQLSYNC\\0" 16, cluster id 16, node id 8, group 8, reserved zeros 8, crc32c of
all before 4. Journal thread only.
"""

from __future__ import annotations

import struct
from typing import Final

from dqlite_py.nativelib import crc32c
from dqlite_py.ports import Disk
from dqlite_py.raft.journal.files import is_full, read_small_file, write_fully
from dqlite_py.raft.journal.format import ENVELOPE_BYTES, FORMAT_VERSION, envelope_version, pack_envelope

NAME: Final = "synced"
MAGIC: Final = b"DQLSYNC\0"
_BODY: Final = struct.Struct("<16s16sQQ8x")


def read_hint(disk: Disk, folder: str, cluster_id: bytes, node_id: int) -> int:
    """Return the noted group, 0 when there is no valid note of this node; raises OSError."""
    path = f"{folder}/{NAME}"
    data = read_small_file(disk, path, _BODY.size + 4) if disk.exists(path) else b""
    if len(data) < _BODY.size + 4 or envelope_version(data[:ENVELOPE_BYTES], MAGIC) != FORMAT_VERSION:
        return 0
    _, found_cluster, found_node, group = _BODY.unpack_from(data)
    if int.from_bytes(data[_BODY.size :], "little") != crc32c(data[: _BODY.size]):
        return 0
    return int(group) if (found_cluster, found_node) == (cluster_id, node_id) else 0


class SyncedHint:
    """The note of an open journal. A full disk leaves it out: a node must start and read on one."""

    def __init__(self, disk: Disk, folder: str, cluster_id: bytes, node_id: int) -> None:
        """Open or make the file; raises OSError."""
        self._disk = disk
        self._owner = cluster_id, node_id
        self._fd: int | None = None
        try:
            self._fd = disk.open(f"{folder}/{NAME}", create=True)
        except OSError as error:
            if not is_full(error):
                raise

    def write(self, group: int) -> None:
        """Note that `group` is durable (it was synced BEFORE this is called); raises OSError."""
        if self._fd is None:
            return
        body = _BODY.pack(pack_envelope(MAGIC), *self._owner, group)
        try:
            write_fully(self._disk, self._fd, body + crc32c(body).to_bytes(4, "little"), 0)
        except OSError as error:
            if not is_full(error):
                raise

    def sync(self) -> None:
        if self._fd is not None:
            self._disk.fsync(self._fd)

    def close(self) -> None:
        if self._fd is not None:
            self._disk.close(self._fd)
            self._fd = None
