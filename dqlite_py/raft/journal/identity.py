"""DIR/identity: which cluster and which member a data folder belongs to.

Written once, last in the making of a folder: a folder without it was never in use. Called by the node at
start, before any thread runs.

File (68 bytes): envelope with magic b"DQLIDEN\\0" 16, cluster id 16, node id 8, created (microseconds) 8,
reserved zeros 16, crc32c of all before 4.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from dqlite_py.errors import CorruptState, UnknownFormat
from dqlite_py.model import NodeId
from dqlite_py.nativelib import crc32c
from dqlite_py.ports import Disk
from dqlite_py.raft.journal.files import read_small_file, replace_file
from dqlite_py.raft.journal.format import ENVELOPE_BYTES, FORMAT_VERSION, envelope_version, pack_envelope

MAGIC: Final = b"DQLIDEN\0"
NAME: Final = "identity"
_BODY: Final = struct.Struct("<16s16sQQ16x")
_BYTES: Final = _BODY.size + 4


@dataclass(frozen=True, slots=True)
class Identity:
    """A data folder's owner."""

    cluster_id: bytes
    node_id: NodeId
    created_us: int

    def save(self, disk: Disk, folder: str) -> None:
        """Write DIR/identity durably and whole; raises OSError."""
        body = _BODY.pack(pack_envelope(MAGIC), self.cluster_id, self.node_id, self.created_us)
        replace_file(disk, folder, NAME, body + crc32c(body).to_bytes(4, "little"))

    @classmethod
    def load(cls, disk: Disk, folder: str) -> Identity | None:
        """Return the folder's identity or None; raises CorruptState, UnknownFormat, OSError."""
        path = f"{folder}/{NAME}"
        if not disk.exists(path):
            return None
        data = read_small_file(disk, path, _BYTES + 1)
        version = envelope_version(data[:ENVELOPE_BYTES], MAGIC)
        if version is not None and version != FORMAT_VERSION:
            raise UnknownFormat(
                f"{path} has identity format {version}; this release knows {FORMAT_VERSION}: use a newer one",
                file=path,
                version=version,
            )
        body, crc = data[: _BODY.size], int.from_bytes(data[_BODY.size :], "little")
        if version is None or len(data) != _BYTES or crc32c(body) != crc:
            raise CorruptState(
                f"identity damaged: {path}; put the file back from a backup of this node, or remove the "
                f"node from "
                "the cluster and add it again with an empty folder",
                file=path,
                expected=f"{_BYTES} bytes with a valid crc",
                found=data[:16].hex(),
            )
        _, cluster_id, node_id, created_us = _BODY.unpack(body)
        if not 0 < node_id < 2**63:
            raise CorruptState(
                f"identity of {path} holds node id {node_id}",
                file=path,
                expected="a node id between 1 and 2**63 - 1",
                found=str(node_id),
            )
        return cls(cluster_id, NodeId(node_id), created_us)
