"""PEP 249's type objects and constructors. Values only."""

from __future__ import annotations

import datetime
import enum
import time
from typing import Final


class _Family(enum.Enum):
    STRING = "STRING"
    BINARY = "BINARY"
    NUMBER = "NUMBER"
    DATETIME = "DATETIME"
    ROWID = "ROWID"


def _family(declared: str) -> _Family:
    """SQLite's affinity rules (sqlite.org/datatype3.html 3.1), with dates taken out of NUMERIC."""
    text = declared.upper()
    if text == "ROWID":
        return _Family.ROWID
    if "DATE" in text or "TIME" in text:
        return _Family.DATETIME
    if "INT" in text:
        return _Family.NUMBER
    if any(word in text for word in ("CHAR", "CLOB", "TEXT")):
        return _Family.STRING
    if "BLOB" in text or not text.strip():
        return _Family.BINARY
    return _Family.NUMBER


class TypeObject:
    """Equal to the declared types (`description[n][1]`) of its family: `NUMBER == "INTEGER"`."""

    __slots__ = ("_family",)

    def __init__(self, family: _Family) -> None:
        self._family = family

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            return _family(other) is self._family
        return isinstance(other, TypeObject) and other._family is self._family

    def __hash__(self) -> int:
        return hash(self._family)

    def __repr__(self) -> str:
        return self._family.value


STRING: Final = TypeObject(_Family.STRING)
BINARY: Final = TypeObject(_Family.BINARY)
NUMBER: Final = TypeObject(_Family.NUMBER)
DATETIME: Final = TypeObject(_Family.DATETIME)
ROWID: Final = TypeObject(_Family.ROWID)

Date = datetime.date
Time = datetime.time
Timestamp = datetime.datetime
Binary = bytes


def DateFromTicks(ticks: float) -> datetime.date:
    return datetime.date(*time.localtime(ticks)[:3])


def TimeFromTicks(ticks: float) -> datetime.time:
    return datetime.time(*time.localtime(ticks)[3:6])


def TimestampFromTicks(ticks: float) -> datetime.datetime:
    return datetime.datetime(*time.localtime(ticks)[:6])
