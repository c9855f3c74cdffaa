"""A batch of rows, the body of response 7 (dqlite's wire protocol, "Rows").

uint64 column count, the names, per row: 4-bit types (low half first), zeros to the next word, values; then one word:
0xff x 8 after the last batch, 0xee x 8 when another batch, with the names again, follows.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from dqlite_py.limits import DQLITE_COLUMNS_MAX
from dqlite_py.wire.dqlite.primitives import BodyReader, encode_text, encode_uint64, padding
from dqlite_py.wire.dqlite.values import WireValue, decode_type, decode_value, encode_value
from dqlite_py.wire.dqlite.violations import ProtocolViolation

_LAST: Final = b"\xff" * 8
_MORE: Final = b"\xee" * 8


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
