"""Values, and which type a column's value travels as (dqlite's wire protocol, "Tuples"; DATETIME and BOOLEAN columns).

Differs from dqlite where dqlite sends NULL as False or "" or ends the process: a value whose storage class does not
fit its declared type is sent as what it is.
"""

from __future__ import annotations

import enum
import re
from datetime import datetime
from typing import Final, NamedTuple

from dqlite_py.wire.dqlite.primitives import (
    BodyReader,
    encode_blob,
    encode_double,
    encode_int64,
    encode_text,
    encode_uint64,
)
from dqlite_py.wire.dqlite.violations import CODE_PARSE, refused

SqlValue = int | float | str | bytes | None

UNIXTIME_MAX: Final = 253_402_300_799  # 9999-12-31T23:59:59Z, the last that clients can show
_TIME_DECLTYPES: Final = frozenset({"DATETIME", "DATE", "TIMESTAMP"})
# What every client's parser accepts: a date; with minutes; or with seconds, a fraction and an offset.
_ISO8601: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"(?:[ T](?:[01][0-9]|2[0-3]):[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,9})?(?:[+-][0-9]{2}:[0-9]{2})?)?Z?)?"
)


class ValueType(enum.IntEnum):
    """Type codes of the wire."""

    INTEGER = 1
    FLOAT = 2
    TEXT = 3
    BLOB = 4
    NULL = 5
    UNIXTIME = 9  # server to client only
    ISO8601 = 10
    BOOLEAN = 11


class WireValue(NamedTuple):
    """A value with the type it travels as: int for INTEGER, UNIXTIME and BOOLEAN, str for TEXT and ISO8601."""

    type: ValueType
    value: SqlValue


def typed(value: SqlValue, decltype: str | None = None) -> WireValue:
    """`value` as a column declared `decltype` sends it; None for parameters and for expressions."""
    return typed_as(value, is_time(decltype), is_boolean(decltype))


def typed_as(value: SqlValue, in_time: bool, in_boolean: bool) -> WireValue:
    """As `typed`, for a declared type that was looked at before."""
    match value:
        case None:
            return WireValue(ValueType.NULL, None)
        case int():
            if in_time and 0 <= value <= UNIXTIME_MAX:
                return WireValue(ValueType.UNIXTIME, int(value))
            is_flag = in_boolean and value in (0, 1)
            return WireValue(ValueType.BOOLEAN if is_flag else ValueType.INTEGER, int(value))
        case float():
            return WireValue(ValueType.FLOAT, value)
        case str():
            return WireValue(ValueType.ISO8601 if in_time and _is_iso8601(value) else ValueType.TEXT, value)
        case bytes():
            return WireValue(ValueType.BLOB, value)


def is_time(decltype: str | None) -> bool:
    """Whether dqlite takes a column so declared for times: the whole word, in any case."""
    return decltype is not None and decltype.upper() in _TIME_DECLTYPES


def is_boolean(decltype: str | None) -> bool:
    """The same for truth values."""
    return decltype is not None and decltype.upper() == "BOOLEAN"


def _is_iso8601(text: str) -> bool:
    if _ISO8601.fullmatch(text) is None:
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def decode_type(code: int) -> ValueType:
    """The type of a code; an unknown one refuses the message."""
    try:
        return ValueType(code)
    except ValueError:
        raise refused(f"unknown value type {code}", CODE_PARSE) from None


def encode_value(wire: WireValue) -> bytes:
    """The value's words. TypeError where the value is not of its type."""
    match wire:
        case (ValueType.INTEGER | ValueType.UNIXTIME | ValueType.BOOLEAN, int(number)):
            return encode_int64(number)
        case (ValueType.FLOAT, float(number)):
            return encode_double(number)
        case (ValueType.TEXT | ValueType.ISO8601, str(text)):
            return encode_text(text)
        case (ValueType.BLOB, bytes(blob)):
            return encode_blob(blob)
        case (ValueType.NULL, None):
            return encode_uint64(0)
    raise TypeError(f"{type(wire.value).__name__} as {wire.type.name}")


def decode_value(reader: BodyReader, kind: ValueType) -> WireValue:
    """The next value. A BOOLEAN is the integer that dqlite stores, which may be another than 0 and 1."""
    value: SqlValue
    match kind:
        case ValueType.INTEGER | ValueType.UNIXTIME | ValueType.BOOLEAN:
            value = reader.int64()
        case ValueType.FLOAT:
            value = reader.double()
        case ValueType.TEXT | ValueType.ISO8601:
            value = reader.text()
        case ValueType.BLOB:
            value = reader.blob()
        case ValueType.NULL:
            reader.take(8)
            value = None
    return WireValue(kind, value)
