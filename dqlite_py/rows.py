"""PEP 249's type objects and constructors, parameter adaptation, and the Row factory.

Values only; no I/O. Called by dbapi and its users on any thread.
"""

from __future__ import annotations

import datetime
import enum
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Final, Protocol, overload

from dqlite_py.command import SqlValue, check_params
from dqlite_py.limits import STATEMENT_PARAMS_MAX

Description = tuple[tuple[str, str | None, None, None, None, None, None], ...]


class HasDescription(Protocol):
    @property
    def description(self) -> Description | None: ...


class Row(Sequence[SqlValue]):
    """A row with access by position, slice and (caseless) column name. Equal to a Row of equal names and
    values.

    Use as a row factory: `connection.row_factory = Row`.
    """

    __slots__ = ("_names", "_values")

    def __init__(self, cursor: HasDescription, values: Sequence[SqlValue]) -> None:
        self._names = tuple(column[0] for column in cursor.description or ())
        self._values = tuple(values)

    def keys(self) -> list[str]:
        """The column names, in order."""
        return list(self._names)

    @overload
    def __getitem__(self, key: int | str) -> SqlValue: ...
    @overload
    def __getitem__(self, key: slice) -> tuple[SqlValue, ...]: ...
    def __getitem__(self, key: int | str | slice) -> SqlValue | tuple[SqlValue, ...]:
        if not isinstance(key, str):
            return self._values[key]
        wanted = key.lower()
        for name, value in zip(self._names, self._values, strict=True):
            if name == key or name.lower() == wanted:
                return value
        raise IndexError(f"no column {key!r}; the row has {', '.join(self._names)}")

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Row):
            return NotImplemented
        return self._names == other._names and self._values == other._values

    def __hash__(self) -> int:
        return hash((self._names, self._values))

    def __repr__(self) -> str:
        pairs = zip(self._names, self._values, strict=True)
        return f"Row({', '.join(f'{name}={value!r}' for name, value in pairs)})"


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


_INTEGER_END: Final = 2**63
_PLAIN: Final = frozenset({type(None), int, float, str, bytes})
_SEQUENCES: Final = frozenset({list, tuple})


def adapt_params(params: Any) -> Any:
    """Replace dates and times among the parameters by their ISO text, which SQLite's date functions read.

    Everything else is left for `command.check_params` to accept or refuse.
    """
    if isinstance(params, Mapping):
        if _PLAIN.issuperset(map(type, params.values())):
            return params
        return {name: _adapt(value) for name, value in params.items()}
    if isinstance(params, (tuple, list)):
        if _PLAIN.issuperset(map(type, params)):
            return params
        return [_adapt(value) for value in params]
    return params


def adapt_many(parameter_sets: Iterable[Any]) -> list[Any]:
    """`adapt_params` of each; in one look where there is nothing to adapt."""
    sets = list(parameter_sets)
    if _SEQUENCES.issuperset(map(type, sets)) and _PLAIN.issuperset(map(type, chain.from_iterable(sets))):
        return sets
    return [adapt_params(params) for params in sets]


def sql_params(params: Any) -> Any:
    """Adapt and check the parameters of one statement; raises InterfaceError or DataError.

    The usual ones are found to be right in one pass and returned as they are.
    """
    kind = type(params)
    if (kind is list or kind is tuple) and len(params) <= STATEMENT_PARAMS_MAX:
        for value in params:
            kind = type(value)
            if kind is int:
                if not -_INTEGER_END <= value < _INTEGER_END:
                    break
            elif kind is str:
                if not value.isascii():
                    break
            elif value is not None and kind is not bytes and kind is not float:
                break
        else:
            return params
    return check_params(adapt_params(params))


def _adapt(value: Any) -> Any:
    if isinstance(value, datetime.datetime):
        return value.isoformat(" ")
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    return value
