"""Bytes of a change log: DIR/changes/<database>/<base, 20 digits>.chg. No I/O.

Integers little-endian; indexes below 2**63. Format version 1.

Segment header
    0   8 magic b"DQLCHG\\0\\0"
    8   4 format version
   12   4 salt: seed of all CRCs of records, random, so that old bytes of a reused file are never taken for records
   16   8 base: the records of this segment tell of entries above it
   24   4 crc32c of bytes 0..24
   28   4 0
Record
    0   4 crc32c of bytes 4..end, seeded with the salt
    4   4 body bytes
    8   8 previous index: that of the record before, in the first one the segment's base
   16   8 index: the record tells what became of this database in (previous index, index]
   24     body, msgpack: an array, whose missing elements at the end are nil
            0 bin, SQLite's changeset of the entry
            1 layout of the tables after the entry; in the first record of a segment, and where it changed:
              {table: [[column, ...], [place of a primary key's column, ...], whether keys are loose]}, columns as in
              the changeset; loose: values that are not the same may compare equal
            2 [[old | nil, new | nil], ...] definitions that changed, each [type, name, tbl_name, sql]
            3 {table: [row, ...]} all rows of the tables that the entry created
            4 {table: [[key value, ...], ...]} rows that the changeset calls inserted and that were there before

The first record that is not whole, or not this segment's, ends it: what power loss tore, or damage.
"""

from __future__ import annotations

import struct
from typing import Any, Final, NamedTuple

import msgpack

from dqlite_py.errors import MalformedMessage
from dqlite_py.limits import CHANGES_ENTRY_BYTES_MAX
from dqlite_py.nativelib import crc32c

MAGIC: Final = b"DQLCHG\0\0"
VERSION: Final = 1
HEADER_BYTES: Final = 32
RECORD_HEADER_BYTES: Final = 24
BODY_BYTES_MAX: Final = 2 * CHANGES_ENTRY_BYTES_MAX
NUMBER_END: Final = 2**63

_HEADER: Final = struct.Struct("<8sIIQII")
_RECORD: Final = struct.Struct("<IIQQ")
_CRC: Final = struct.Struct("<I")

Layout = dict[str, tuple[list[str], list[int], bool]]
Definition = tuple[str, str, str, str]  # type, name, tbl_name, sql


class Body(NamedTuple):
    """What a record tells of its entry. `layout` is None where it did not change."""

    changeset: bytes
    layout: Layout | None = None
    definitions: list[tuple[Definition | None, Definition | None]] | None = None
    created: dict[str, list[tuple[Any, ...]]] | None = None
    known: dict[str, list[tuple[Any, ...]]] | None = None


class RecordHeader(NamedTuple):
    crc: int
    body_bytes: int
    previous: int
    log_index: int


def pack_header(base: int, salt: int) -> bytes:
    """The segment header of the present version."""
    start = struct.pack("<8sIIQ", MAGIC, VERSION, salt, base)
    return start + struct.pack("<II", crc32c(start), 0)


def parse_header(data: bytes) -> tuple[int, int] | None:
    """(base, salt) of a segment header, None when it is none of this version."""
    if len(data) < HEADER_BYTES:
        return None
    magic, version, salt, base, crc, _ = _HEADER.unpack_from(data)
    valid = magic == MAGIC and version == VERSION and crc == crc32c(data[:24]) and base < NUMBER_END
    return (base, salt) if valid else None


def pack_body(body: Body) -> bytes:
    """msgpack of a body, as short as it goes."""
    used = max(place for place, part in enumerate(body) if part is not None)
    return bytes(msgpack.packb(body[: used + 1]))


def pack_record(previous: int, index: int, body: bytes, salt: int) -> bytes:
    head = _RECORD.pack(0, len(body), previous, index)[4:]
    return _CRC.pack(crc32c(body, crc32c(head, salt))) + head + body


def parse_record_header(data: bytes) -> RecordHeader | None:
    """The record's header, its lengths and indexes checked; None when it cannot be one."""
    if len(data) < RECORD_HEADER_BYTES:
        return None
    header = RecordHeader._make(_RECORD.unpack_from(data))
    possible = 0 < header.body_bytes <= BODY_BYTES_MAX and header.previous < header.log_index < NUMBER_END
    return header if possible else None


def is_intact(header: RecordHeader, head: bytes, body: bytes, salt: int) -> bool:
    """Whether `head` (the record's first 24 bytes) and `body` are what was written."""
    return (
        len(body) == header.body_bytes
        and crc32c(body, crc32c(head[4:RECORD_HEADER_BYTES], salt)) == header.crc
    )


def parse_body(data: bytes) -> Body:
    """Checked; raises MalformedMessage."""
    try:
        fields = msgpack.unpackb(data, raw=False, use_list=False, strict_map_key=True, max_ext_len=0)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise MalformedMessage(f"a record of changes is not valid: {error}", what="changes") from None
    if not (type(fields) is tuple and 1 <= len(fields) <= 5 and type(fields[0]) is bytes):
        raise _wrong("body")
    changeset, layout, definitions, *rows = fields + (None,) * (5 - len(fields))
    if not (layout is None or (type(layout) is dict and all(_is_layout(*item) for item in layout.items()))):
        raise _wrong("layout")
    if not (definitions is None or (type(definitions) is tuple and all(map(_is_redefinition, definitions)))):
        raise _wrong("definitions")
    if not all(each is None or _is_rows(each) for each in rows):
        raise _wrong("list of rows")
    return Body(changeset, layout, None if definitions is None else list(definitions), *rows)


def _is_rows(value: Any) -> bool:
    return type(value) is dict and all(
        type(table) is str and type(rows) is tuple and all(type(row) is tuple for row in rows)
        for table, rows in value.items()
    )


def _is_layout(table: Any, value: Any) -> bool:
    return (
        type(table) is str
        and type(value) is tuple
        and len(value) == 3
        and type(value[2]) is bool
        and type(value[0]) is tuple
        and type(value[1]) is tuple
        and all(type(name) is str for name in value[0])
        and all(type(place) is int and 0 <= place < len(value[0]) for place in value[1])
    )


def _is_redefinition(value: Any) -> bool:
    if not (type(value) is tuple and len(value) == 2 and value != (None, None)):
        return False
    return all(
        half is None or (type(half) is tuple and len(half) == 4 and all(type(text) is str for text in half))
        for half in value
    )


def _wrong(what: str) -> MalformedMessage:
    return MalformedMessage(f"a record of changes has a wrong {what}", what="changes")
