"""What a server is asked most, in few steps: requests with SQL.

Twin of requests.decode_request: what is unusual is left to that, and a property test feeds both.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from dqlite_py.wire.dqlite.frames import Frame
from dqlite_py.wire.dqlite.values import SqlValue

_U64: Final = struct.Struct("<Q")
_I64: Final = struct.Struct("<q")
_DOUBLE: Final = struct.Struct("<d")


class SqlRequest(NamedTuple):
    """Of EXEC_SQL and QUERY_SQL."""

    database: int
    sql: str
    values: list[SqlValue]


def sql_request(frame: Frame) -> SqlRequest | None:
    """The fields of a sound EXEC_SQL or QUERY_SQL of schema 0; None for whatever else, which decode_request judges."""
    body = frame.body
    if frame.schema != 0:
        return None
    try:
        end = body.index(b"\0", 8)
        sql = body[8:end].decode()
        (database,) = _U64.unpack_from(body)
        position = (end | 7) + 1
        values = _values(body, position) if position < len(body) else []
    except (ValueError, struct.error, IndexError):
        return None
    return None if values is None or position > len(body) else SqlRequest(database, sql, values)


def _values(body: bytes, position: int) -> list[SqlValue] | None:
    count = body[position]
    position += 1
    codes = body[position : position + count]
    if len(codes) != count:
        return None
    position = position + count + 7 & ~7
    values: list[SqlValue] = []
    for code in codes:
        if code == 1:
            values.append(_I64.unpack_from(body, position)[0])
            position += 8
        elif code in (3, 10):
            end = body.index(b"\0", position)
            values.append(body[position:end].decode())
            position = (end | 7) + 1
        elif code == 5:
            values.append(None)
            position += 8
        elif code == 2:
            values.append(_DOUBLE.unpack_from(body, position)[0])
            position += 8
        elif code == 4:
            begin = position + 8
            end = begin + _U64.unpack_from(body, position)[0]
            values.append(body[begin:end])
            position = end + 7 & ~7
        elif code == 11:
            values.append(int(_U64.unpack_from(body, position)[0] != 0))
            position += 8
        else:
            return None
    return values if position == len(body) else None
