"""Rows of a result as frames: as many as fit, the next frame when there is a next row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from dqlite_py.limits import DQLITE_BATCH_BYTES
from dqlite_py.wire.dqlite.frames import Frame, encode_frame
from dqlite_py.wire.dqlite.primitives import encode_text, encode_uint64
from dqlite_py.wire.dqlite.responses import ResponseType
from dqlite_py.wire.dqlite.rows import column_kinds, encode_plain_row

_MORE = b"\xee" * 8
_LAST = b"\xff" * 8


class RowsFrames:
    """A frame is closed when it is large enough, and given out as one with more to follow only when a row comes
    that is not in it: so none is empty but the last."""

    __slots__ = ("_head", "_kinds", "_rows", "_size")

    def __init__(self, columns: Sequence[str], decltypes: Sequence[str | None]) -> None:
        self._kinds = column_kinds(decltypes)
        self._head = encode_uint64(len(columns)) + b"".join(map(encode_text, columns))
        self._rows: list[bytes] = []
        self._size = len(self._head)

    def add(self, rows: Sequence[Sequence[Any]]) -> Iterator[bytes]:
        """Take rows; yields the frames that are full."""
        for row in rows:
            if self._size >= DQLITE_BATCH_BYTES and self._rows:
                yield self._frame(_MORE)
            encoded = encode_plain_row(row, self._kinds)
            self._rows.append(encoded)
            self._size += len(encoded)

    def last(self) -> bytes:
        return self._frame(_LAST)

    def _frame(self, marker: bytes) -> bytes:
        body = b"".join((self._head, *self._rows, marker))
        self._rows.clear()
        self._size = len(self._head)
        return encode_frame(Frame(ResponseType.ROWS, 0, body))
