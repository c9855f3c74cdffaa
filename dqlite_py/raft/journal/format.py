"""Bytes of the journal: segment header, write group, record. No I/O.

All integers little-endian; indexes, terms and sequences are below 2**63. Format version 1.

Envelope (first 16 bytes of every file of ours; the same in all versions, so that a version is known by name)
    0  8  magic
    8  4  format version
   12  4  crc32c of bytes 0..12
Segment header (4096 bytes)
    0  16 envelope, magic b"DQLJSEG\\0"
   16  16 cluster id
   32   8 node id
   40   8 first index: entries with this index or above in older segments are truncated by this segment
   48   8 term of entry (first index - 1), 0 if that is index 0
   56   8 sequence of this segment (grows by one with each segment ever made)
   64   8 sequence of the predecessor, 0: none, everything older is dead (new journal, or reset after a
          snapshot)
   72   8 last data group in the predecessor when this segment was made
   80   8 sequence of the first group in this segment
   88   4 salt: seed of all CRCs below, random, so that copies of journal bytes inside payloads are never
          taken for groups
   92   4 0
   96   4 crc32c of bytes 0..96
  100     zeros up to 4096
Group (8-byte aligned; one per Journal.write)
    0   4 magic b"DQG\\x01"
    4   4 crc32c of bytes 8..40, seeded with the salt
    8   8 sequence: one more than the group before
   16   8 offset of this group in its file
   24   8 bytes of records that follow
   32   4 number of records
   36   4 kind: 1 data, 2 mark, 3 seal
   40     records
Record (padded with zeros to 8 bytes)
    0   4 crc32c of bytes 4..end including the padding, seeded with the salt
    4   4 payload bytes
    8   1 type: 1 entry, 2 truncate (drop entries with index or above), 3 seal (index: sequence of the next
          segment)
    9   1 entry kind (model.EntryKind), else 0
   10   2 0
   12   4 low 32 bits of the group's sequence
   16   8 term
   24   8 index
   32     payload

A *data* group is synced before the next group's header is written, so a valid header of a later group proves
that the earlier ones were durable. A *mark* is an empty group written without a sync after a synced group; it
gives that proof early and is overwritten, with the same sequence, by the next data group or seal. A *seal*
ends a segment and is written after the next segment is durable: a sealed last segment means that its
successor is missing.
"""

from __future__ import annotations

import enum
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dqlite_py.limits import RECORD_BYTES_MAX
from dqlite_py.model import Entry
from dqlite_py.nativelib import Buffer, crc32c

FORMAT_VERSION: Final = 1
SEGMENT_MAGIC: Final = b"DQLJSEG\0"
GROUP_MAGIC: Final = b"DQG\x01"
HEADER_BYTES: Final = 4096
ENVELOPE_BYTES: Final = 16
GROUP_HEADER_BYTES: Final = 40
RECORD_HEADER_BYTES: Final = 32
PAYLOAD_BYTES_MAX: Final = RECORD_BYTES_MAX - RECORD_HEADER_BYTES - 8
SEAL_BYTES: Final = GROUP_HEADER_BYTES + RECORD_HEADER_BYTES
GROUP_BYTES_MAX: Final = 2**30
NUMBER_END: Final = 2**63

_ENVELOPE: Final = struct.Struct("<8sII")
_SEGMENT: Final = struct.Struct("<16s16sQQQQQQQIII")
_GROUP: Final = struct.Struct("<4sIQQQII")
_GROUP_BODY: Final = struct.Struct("<QQQII")
RECORD: Final = struct.Struct("<IIBBHIQQ")
_CRC: Final = struct.Struct("<I")


class GroupKind(enum.IntEnum):
    DATA = 1
    MARK = 2
    SEAL = 3


class RecordType(enum.IntEnum):
    ENTRY = 1
    TRUNCATE = 2
    SEAL = 3


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What a segment says about itself; see the module's table."""

    cluster_id: bytes
    node_id: int
    first_index: int
    previous_term: int
    sequence: int
    previous_sequence: int
    previous_group: int
    first_group: int
    salt: int


@dataclass(frozen=True, slots=True)
class GroupHeader:
    sequence: int
    offset: int
    body_bytes: int
    record_count: int
    kind: int


def pack_envelope(magic: bytes) -> bytes:
    """Return the 16 bytes that open a file of the present format version."""
    start = struct.pack("<8sI", magic, FORMAT_VERSION)
    return start + _CRC.pack(crc32c(start))


def envelope_version(data: Buffer, magic: bytes) -> int | None:
    """Return the format version in a file's first bytes, None when they are no valid envelope of `magic`."""
    if len(data) < ENVELOPE_BYTES:
        return None
    found, version, crc = _ENVELOPE.unpack_from(data)
    if found != magic or crc != crc32c(bytes(data[:12])):
        return None
    return int(version)


def pack_segment_header(header: SegmentHeader) -> bytes:
    """Return the header block (4096 bytes)."""
    body = _SEGMENT.pack(
        pack_envelope(SEGMENT_MAGIC),
        header.cluster_id,
        header.node_id,
        header.first_index,
        header.previous_term,
        header.sequence,
        header.previous_sequence,
        header.previous_group,
        header.first_group,
        header.salt,
        0,
        0,
    )[:96]
    return (body + _CRC.pack(crc32c(body))).ljust(HEADER_BYTES, b"\0")


def parse_segment_header(block: bytes) -> SegmentHeader | None:
    """Return the header of a block of the present version, None when it is damaged or cannot be."""
    if len(block) != HEADER_BYTES or block[100:].strip(b"\0"):
        return None
    fields = _SEGMENT.unpack_from(block)
    if fields[11] != crc32c(block[:96]) or fields[10] != 0:
        return None
    header = SegmentHeader(*fields[1:10])
    possible = max(fields[2:9]) < NUMBER_END and header.previous_sequence < header.sequence
    return header if possible and header.first_index > 0 and header.first_group > 0 else None


def pack_group_header(header: GroupHeader, salt: int) -> bytes:
    body = _GROUP_BODY.pack(
        header.sequence, header.offset, header.body_bytes, header.record_count, header.kind
    )
    return GROUP_MAGIC + _CRC.pack(crc32c(body, salt)) + body


def parse_group_header(data: Buffer, offset: int, salt: int) -> GroupHeader | None:
    """Return the group header in `data` (40 bytes found at `offset` of the file), None when it is not one."""
    if len(data) < GROUP_HEADER_BYTES:
        return None
    magic, crc, *fields = _GROUP.unpack_from(data)
    if magic != GROUP_MAGIC or fields[1] != offset or crc != crc32c(bytes(data[8:GROUP_HEADER_BYTES]), salt):
        return None
    return GroupHeader(*fields)


def aligned(size: int) -> int:
    """Round up to a multiple of 8."""
    return (size + 7) & ~7


def record_bytes(payload_bytes: int) -> int:
    """Return what a record of that payload takes up in the file."""
    return RECORD_HEADER_BYTES + aligned(payload_bytes)


def group_bytes(entries: Sequence[Entry], truncates: bool) -> int:
    """Return the size of a data group before it is built."""
    size = GROUP_HEADER_BYTES + (RECORD_HEADER_BYTES if truncates else 0)
    return size + sum(record_bytes(len(entry.payload)) for entry in entries)


def build_group(
    sequence: int, offset: int, salt: int, truncate_from: int | None, entries: Sequence[Entry]
) -> tuple[bytearray, array[int]]:
    """Return a data group's bytes for `offset` of a file, and the file offset of each entry's record."""
    buffer = bytearray(group_bytes(entries, truncate_from is not None))
    low = sequence & 0xFFFFFFFF
    at = GROUP_HEADER_BYTES
    offsets: array[int] = array("Q")
    pack_into, pack_crc = RECORD.pack_into, _CRC.pack_into
    view = memoryview(buffer)
    if truncate_from is not None:
        _put_record(buffer, at, salt, RecordType.TRUNCATE, low, truncate_from)
        at += RECORD_HEADER_BYTES
    for index, term, kind, payload in entries:
        size = len(payload)
        end = at + RECORD_HEADER_BYTES + ((size + 7) & ~7)
        pack_into(buffer, at, 0, size, 1, kind, 0, low, term, index)
        buffer[at + RECORD_HEADER_BYTES : at + RECORD_HEADER_BYTES + size] = payload
        pack_crc(buffer, at, crc32c(view[at + 4 : end], salt))
        offsets.append(offset + at)
        at = end
    count = len(entries) + (truncate_from is not None)
    header = GroupHeader(sequence, offset, at - GROUP_HEADER_BYTES, count, GroupKind.DATA)
    buffer[:GROUP_HEADER_BYTES] = pack_group_header(header, salt)
    return buffer, offsets


def build_mark(sequence: int, offset: int, salt: int) -> bytes:
    return pack_group_header(GroupHeader(sequence, offset, 0, 0, GroupKind.MARK), salt)


def build_seal(sequence: int, offset: int, salt: int, next_sequence: int) -> bytearray:
    buffer = bytearray(SEAL_BYTES)
    header = GroupHeader(sequence, offset, RECORD_HEADER_BYTES, 1, GroupKind.SEAL)
    buffer[:GROUP_HEADER_BYTES] = pack_group_header(header, salt)
    _put_record(buffer, GROUP_HEADER_BYTES, salt, RecordType.SEAL, sequence & 0xFFFFFFFF, next_sequence)
    return buffer


def _put_record(buffer: bytearray, at: int, salt: int, kind: RecordType, low: int, index: int) -> None:
    """Put a record without payload, term or entry kind."""
    RECORD.pack_into(buffer, at, 0, 0, kind, 0, 0, low, 0, index)
    _CRC.pack_into(buffer, at, crc32c(bytes(buffer[at + 4 : at + RECORD_HEADER_BYTES]), salt))
