"""Statements of a body as requests to a stock server, and its answers as our results. Pure.

From the text alone: which statements return rows, what must not be sent over connections that are shared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgpack

from dqlite_py.command import SqlValue
from dqlite_py.dbapi.statements import classify
from dqlite_py.errors import DataError, InterfaceError, NotSupportedError
from dqlite_py.gateway import Row, StatementResult
from dqlite_py.sqltext import CACHED_LENGTH_MAX, StatementKind, describe, tokens, word_of
from dqlite_py.wire.dqlite.requests import Request, RequestType
from dqlite_py.wire.dqlite.responses import Result
from dqlite_py.wire.dqlite.tuples import params_schema
from dqlite_py.wire.dqlite.values import ValueType, WireValue, typed

_CHANGING: Final = (StatementKind.INSERT, StatementKind.CHANGE)
_WRITING_PRAGMAS: Final = frozenset({"user_version", "application_id"})
_WITH_ARGUMENT: Final = {
    *("foreign_key_check", "foreign_key_list", "index_info", "index_list", "index_xinfo", "integrity_check"),
    *("quick_check", "table_info", "table_list", "table_xinfo"),
}
_ASKING_PRAGMAS: Final = _WITH_ARGUMENT | {
    *("application_id", "collation_list", "compile_options", "database_list", "encoding", "foreign_keys"),
    *(
        "freelist_count",
        "function_list",
        "journal_mode",
        "module_list",
        "page_count",
        "page_size",
        "pragma_list",
    ),
    *("schema_version", "user_version"),
}
# What stands for the declared type, which the protocol does not tell.
_DECLTYPES: Final = {
    ValueType.BOOLEAN: "BOOLEAN",
    ValueType.UNIXTIME: "DATETIME",
    ValueType.ISO8601: "DATETIME",
}


class Kind(NamedTuple):
    """`has_rows`: it is a QUERY. `is_change`: its number of rows counts. `is_insert`: and its rowid."""

    has_rows: bool
    is_change: bool
    is_insert: bool


class Sql(NamedTuple):
    """A statement and its values in their order."""

    text: str
    params: tuple[WireValue, ...]

    @property
    def kind(self) -> Kind:
        return kind_of(self.text)

    def request(self) -> Request:
        type = RequestType.QUERY_SQL if self.kind.has_rows else RequestType.EXEC_SQL
        return Request(type, (0, self.text, self.params), params_schema(len(self.params)))


def decode_body(body: bytes) -> list[Sql]:
    """The statements of a body (units.py). Raises NotSupportedError for what a stock server cannot be asked."""
    found: list[Any] = msgpack.unpackb(body)  # made by this program
    texts: list[str] = []
    statements = []
    for sql, params in found:
        if isinstance(sql, str):
            texts.append(sql)
        statements.append(statement(texts[sql] if isinstance(sql, int) else sql, params))
    return statements


def statement(text: str, params: Sequence[SqlValue] | Mapping[str, SqlValue]) -> Sql:
    """Named values in the order of their numbers: the protocol has only that."""
    if isinstance(params, Mapping):
        names = classify(text).parameters
        try:
            params = [params[name or ""] for name in names]
        except KeyError as error:
            raise InterfaceError(f"no value for the parameter {error}") from None
    _refuse(text)
    if any(isinstance(value, str) and "\0" in value for value in params):
        raise DataError(
            "text with a NUL character cannot be sent to a dqlite server: it would be cut off there"
        )
    return Sql(text, tuple(map(typed, params)))


def kind_of(text: str) -> Kind:
    return _kind_cached(text) if len(text) <= CACHED_LENGTH_MAX else _kind(text)


def _kind(text: str) -> Kind:
    kind = describe(text).kind
    is_change = kind in _CHANGING
    if is_change:
        has_rows = any(word_of(token) == "RETURNING" for token in tokens(text))
    else:
        has_rows = kind is StatementKind.READ or (kind is StatementKind.ASK and asks(text))
    return Kind(has_rows, is_change, kind is StatementKind.INSERT)


_kind_cached = lru_cache(maxsize=512)(_kind)


def asks(text: str) -> bool:
    """Whether a PRAGMA or something unknown only reads. Raises NotSupportedError for a PRAGMA of connections."""
    words = [token.group() for token in tokens(text) if token.group() != ";"]
    if words[0].upper() != "PRAGMA":
        return True  # the server says what is wrong with it
    name = (
        (words[3] if words[2:3] == ["."] and len(words) > 3 else "".join(words[1:2])).strip("\"'`[]").lower()
    )
    has_value = any(word in ("=", "(") for word in words)
    if has_value and name in _WRITING_PRAGMAS:
        return False
    if name in _ASKING_PRAGMAS and (not has_value or name in _WITH_ARGUMENT):
        return True
    raise NotSupportedError(
        f"PRAGMA {name} is not supported: it is about one connection, and those to a dqlite server are shared",
        code=23,
    )


def _refuse(text: str) -> None:
    if describe(text).kind is StatementKind.SCHEMA:
        words = [word_of(token) for _, token in zip(range(2), tokens(text), strict=False)]
        if words[0] in ("ATTACH", "DETACH") or words[1:] in (["TEMP"], ["TEMPORARY"]):
            raise NotSupportedError(
                f"{' '.join(words)} is not supported: connections to a dqlite server are shared", code=23
            )


def written(sql: Sql, result: Result) -> StatementResult:
    """SQLite's numbers of before stand in a RESULT when a statement has none of its own."""
    kind = sql.kind
    rowcount = result.rows_affected if kind.is_change else -1
    return StatementResult(rowcount, result.last_insert_rowid if kind.is_insert and rowcount > 0 else 0)


def plain_rows(rows: Iterable[Sequence[WireValue]]) -> list[Row]:
    """As SQLite stores them: BOOLEAN and UNIXTIME are integers, ISO8601 is text, but "" for its NULL."""
    return [tuple(_plain(value) for value in row) for row in rows]


def decltypes(rows: Sequence[Sequence[WireValue]], columns: int) -> tuple[str | None, ...]:
    """As far as the first row shows them."""
    if not rows:
        return (None,) * columns
    return tuple(_DECLTYPES.get(value.type) for value in rows[0])


def _plain(wire: WireValue) -> SqlValue:
    return None if wire.type is ValueType.ISO8601 and wire.value == "" else wire.value
