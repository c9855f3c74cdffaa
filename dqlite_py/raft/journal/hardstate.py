"""The hard state (term, vote) in a file of two slots.

Why two slots, written one after the other, each synced: the first slot carries the new value BEFORE the
second is touched, so at every moment one slot holds at least the last value that `write` acknowledged:
  - crash or damage while slot A is written: B still holds the acknowledged value;
  - crash or damage while slot B is written: A holds the newer one;
  - later damage of either slot: the other holds the same value, so the vote never goes back unnoticed.
Both damaged is CorruptState. Slot B newer than A cannot come from a crash, only from a disk that lost a
synced write: refused as well. `open` writes and syncs both slots again, because a value read from the page
cache after a failed fsync of an earlier process need not be on the disk.

Slot (64 bytes; slot A at offset 0, slot B at 4096): envelope with magic b"DQLHARD\\0" 16, cluster id 16, node
id 8, sequence 8, term 8, voted_for 8 ... crc32c of all before 4 at offset 64 (so 68 in all).

One thread at a time (the journal thread). Any OSError is final; the caller stops.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from dqlite_py.errors import CorruptState, UnknownFormat, WrongCluster
from dqlite_py.model import HardState, NodeId, Term
from dqlite_py.nativelib import crc32c
from dqlite_py.ports import Disk
from dqlite_py.raft.journal.files import read_up_to, replace_file, write_fully
from dqlite_py.raft.journal.format import ENVELOPE_BYTES, FORMAT_VERSION, envelope_version, pack_envelope

MAGIC: Final = b"DQLHARD\0"
SLOT_OFFSETS: Final = (0, 4096)
_SLOT: Final = struct.Struct("<16s16sQQQQ")
_SLOT_BYTES: Final = _SLOT.size + 4
INITIAL: Final = HardState(Term(0), NodeId(0))


@dataclass(frozen=True, slots=True)
class _Slot:
    cluster_id: bytes
    node_id: int
    sequence: int
    value: HardState


class HardStateFile:
    """Open with `open` or `create`; `value` is what is durable."""

    def __init__(self, disk: Disk, fd: int, slot: _Slot) -> None:
        self._disk = disk
        self._fd = fd
        self._slot = slot

    @property
    def value(self) -> HardState:
        return self._slot.value

    @property
    def is_pristine(self) -> bool:
        """Whether nothing was ever written after `create`."""
        return self._slot.sequence == 1 and self._slot.value == INITIAL

    @classmethod
    def create(cls, disk: Disk, path: str, *, cluster_id: bytes, node_id: int) -> None:
        """Make the file with term 0 and no vote, durably and whole; replaces nothing that a node has used."""
        data = _pack(_Slot(cluster_id, node_id, 1, INITIAL))
        folder, _, name = path.rpartition("/")
        replace_file(disk, folder, name, data.ljust(SLOT_OFFSETS[1], b"\0") + data)

    @classmethod
    def open(cls, disk: Disk, path: str, *, cluster_id: bytes, node_id: int) -> HardStateFile:
        """Open an existing file and make sure that both slots are on the disk.

        Raises CorruptState, UnknownFormat, WrongCluster; nothing is modified then. OSError passes through.
        """
        fd, slot = _read(disk, path, cluster_id, node_id)
        try:
            file = cls(disk, fd, slot)
            file._put(slot)
        except BaseException:
            disk.close(fd)
            raise
        return file

    @staticmethod
    def read(disk: Disk, path: str, *, cluster_id: bytes, node_id: int) -> HardState:
        """Return what the file holds and modify nothing; raises as `open` does."""
        fd, slot = _read(disk, path, cluster_id, node_id)
        disk.close(fd)
        return slot.value

    def write(self, value: HardState) -> None:
        """Make `value` durable; it is when this returns. Raises OSError, then do not use the file again."""
        slot = _Slot(self._slot.cluster_id, self._slot.node_id, self._slot.sequence + 1, value)
        self._put(slot)
        self._slot = slot

    def _put(self, slot: _Slot) -> None:
        data = _pack(slot)
        for offset in SLOT_OFFSETS:  # A is durable BEFORE B is touched
            write_fully(self._disk, self._fd, data, offset)
            self._disk.fdatasync(self._fd)

    def close(self) -> None:
        self._disk.close(self._fd)


def _read(disk: Disk, path: str, cluster_id: bytes, node_id: int) -> tuple[int, _Slot]:
    """Return the open file and its newest slot; nothing is open when it raises."""
    if not disk.exists(path):
        raise CorruptState(
            f"hard state missing: {path}; without it this node could vote twice in one term. "
            "Remove the node from the cluster and add it again with an empty folder",
            file=path,
            expected="hard state",
            found="no file",
        )
    fd = disk.open(path)
    try:
        slots = [_parse(read_up_to(disk, fd, _SLOT_BYTES, offset), path) for offset in SLOT_OFFSETS]
        slot = _decide(path, slots)
        if (slot.cluster_id, slot.node_id) != (cluster_id, node_id):
            raise WrongCluster(
                f"{path} belongs to cluster {slot.cluster_id.hex()}, node {slot.node_id}, not to cluster "
                f"{cluster_id.hex()}, node {node_id}; put back this node's own folder",
                file=path,
            )
    except BaseException:
        disk.close(fd)
        raise
    return fd, slot


def _pack(slot: _Slot) -> bytes:
    body = _SLOT.pack(
        pack_envelope(MAGIC),
        slot.cluster_id,
        slot.node_id,
        slot.sequence,
        slot.value.term,
        slot.value.voted_for,
    )
    return body + crc32c(body).to_bytes(4, "little")


def _parse(data: bytes, path: str) -> _Slot | None:
    """Return the slot, None when damaged; raises UnknownFormat."""
    version = envelope_version(data[:ENVELOPE_BYTES], MAGIC)
    if version is not None and version != FORMAT_VERSION:
        raise UnknownFormat(
            f"{path} has hard state format {version}; this release knows {FORMAT_VERSION}: use a newer one",
            file=path,
            version=version,
        )
    if version is None or len(data) < _SLOT_BYTES:
        return None
    if int.from_bytes(data[_SLOT.size :], "little") != crc32c(data[: _SLOT.size]):
        return None
    _, cluster_id, node_id, sequence, term, voted_for = _SLOT.unpack_from(data)
    return _Slot(cluster_id, node_id, sequence, HardState(Term(term), NodeId(voted_for)))


def _decide(path: str, slots: list[_Slot | None]) -> _Slot:
    first, second = slots
    if first is None and second is None:
        found = "two damaged slots"
    elif first is None or second is None:
        return first or second  # type: ignore[return-value]
    elif first.sequence == second.sequence and first != second:
        found = f"two values {first.value} and {second.value} of sequence {first.sequence}"
    elif first.sequence < second.sequence:
        found = (
            f"slot B (sequence {second.sequence}) newer than slot A ({first.sequence}): the disk lost a write"
        )
    else:
        return first
    raise CorruptState(
        f"hard state damaged: {path}: {found}; remove the node from the cluster and add it again with an "
        f"empty "
        "folder: its vote is not known any more",
        file=path,
        expected="a valid slot",
        found=found,
    )
