"""A batch of rows, the body of response 7 (dqlite's wire protocol, "Rows").

uint64 column count, the names, per row: 4-bit types (low half first), zeros to the next word, values; then one word:
0xff x 8 after the last batch, 0xee x 8 when another batch, with the names again, follows.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from dqlite_py.limits import DQLITE_COLUMNS_MAX
from dqlite_py.wire.dqlite.primitives import BodyReader, encode_text, encode_uint64, padding
from dqlite_py.wire.dqlite.values import (
    SqlValue,
    ValueType,
    WireValue,
    decode_type,
    decode_value,
    encode_value,
    is_boolean,
    is_time,
    typed_as,
)
from dqlite_py.wire.dqlite.violations import ProtocolViolation

_LAST: Final = b"\xff" * 8
_MORE: Final = b"\xee" * 8
_ZEROS: Final = bytes(8)
_INTEGER: Final = int(ValueType.INTEGER)
_FLOAT: Final = int(ValueType.FLOAT)
_SHORT: Final = frozenset({int, str, float})
_pack_integer: Final = struct.Struct("<q").pack
_pack_float: Final = struct.Struct("<d").pack
_TEXT: Final = int(ValueType.TEXT)
_NULL: Final = int(ValueType.NULL)


class RowsBatch(NamedTuple):
    """Columns, rows, and whether they are the last. A batch that is not the last has at least one row."""

    columns: tuple[str, ...]
    rows: tuple[tuple[WireValue, ...], ...]
    is_last: bool


def encode_row(row: tuple[WireValue, ...]) -> bytes:
    """Types and values of one row."""
    halves = [value.type for value in row] + [0] * (len(row) % 2)
    header = bytes(low | high << 4 for low, high in zip(halves[::2], halves[1::2], strict=True))
    return header + padding(len(header)) + b"".join(map(encode_value, row))


class ColumnKind(enum.IntEnum):
    """What a declared type does to the values of its column."""

    PLAIN = 0
    TIME = 1
    BOOLEAN = 2


def column_kinds(decltypes: Iterable[str | None]) -> tuple[ColumnKind, ...]:
    """Looked at once for all rows of a result."""
    return tuple(
        ColumnKind.TIME
        if is_time(decltype)
        else ColumnKind.BOOLEAN
        if is_boolean(decltype)
        else ColumnKind.PLAIN
        for decltype in decltypes
    )


def encode_plain_row(row: Sequence[SqlValue], kinds: Sequence[ColumnKind]) -> bytes:
    """`encode_row` of `typed` values, in fewer steps: what servers send most of."""
    codes: list[int] = []
    parts: list[bytes] = [b""]
    for value, kind in zip(row, kinds, strict=True):
        type_ = type(value)
        if value is None:
            codes.append(_NULL)
            parts.append(_ZEROS)
        elif kind or type_ not in _SHORT:
            wire = typed_as(value, kind is ColumnKind.TIME, kind is ColumnKind.BOOLEAN)
            codes.append(wire.type)
            parts.append(encode_value(wire))
        elif type_ is str:
            codes.append(_TEXT)
            parts.append(encode_text(value))  # type: ignore[arg-type]
        elif type_ is int:
            codes.append(_INTEGER)
            parts.append(_pack_integer(value))
        else:
            codes.append(_FLOAT)
            parts.append(_pack_float(value))
    if len(codes) % 2:
        codes.append(0)
    header = bytes([low | high << 4 for low, high in zip(codes[::2], codes[1::2], strict=True)])
    parts[0] = header + padding(len(header))
    return b"".join(parts)


def encode_rows(batch: RowsBatch) -> bytes:
    """The body. ValueError for what clients take for a stalled server: no rows, and more to follow."""
    if not batch.is_last and not batch.rows:
        raise ValueError("a batch without rows that is not the last")
    names = b"".join(map(encode_text, batch.columns))
    rows = b"".join(map(encode_row, batch.rows))
    return encode_uint64(len(batch.columns)) + names + rows + (_LAST if batch.is_last else _MORE)


def decode_rows(body: bytes, columns_max: int = DQLITE_COLUMNS_MAX) -> RowsBatch:
    """The batch; its rows are bounded by the body, each being a word at least."""
    reader = BodyReader(body)
    count = reader.uint64()
    if count > columns_max:
        raise ProtocolViolation(f"{count} columns, at most {columns_max}")
    columns = tuple(reader.text() for _ in range(count))
    rows: list[tuple[WireValue, ...]] = []
    # The last word is the marker: a row's types cannot be 0xf or 0xe.
    while (marker := reader.take(8)) not in (_LAST, _MORE):
        if not count:
            raise ProtocolViolation("a row without columns")
        header = marker + reader.take(max(0, (count + 15) // 16 * 8 - 8))
        codes = [half for byte in header for half in (byte & 15, byte >> 4)][:count]
        rows.append(tuple(decode_value(reader, decode_type(code)) for code in codes))
    reader.finish()
    if marker == _MORE and not rows:
        raise ProtocolViolation("a batch without rows that is not the last")
    return RowsBatch(columns, tuple(rows), marker == _LAST)
