"""The result of a statement and the position in it: the part of a cursor that sync and async share.

Converts values on their way out (converters, text_factory, row_factory) when they are fetched, as sqlite3 does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from dqlite_py.dbapi.adapting import PARSE_COLNAMES, PARSE_DECLTYPES, Converter, converters
from dqlite_py.dbapi.steps import Steps
from dqlite_py.dbapi.streams import Rest
from dqlite_py.errors import ProgrammingError, ResultNotKept
from dqlite_py.gateway import Row as Values

if TYPE_CHECKING:
    from dqlite_py.dbapi.core import Core

Description = tuple[tuple[str, str | None, None, None, None, None, None], ...]
_NO_ROWS: Final = "no rows to fetch: the last statement does not return any, or none was run"


class Result(NamedTuple):
    """`columns` None: no rows. `lastrowid` None: it stays what it was."""

    columns: Sequence[str] | None
    decltypes: Sequence[str | None]
    rows: list[Values]
    rest: Rest | None
    rowcount: int = -1
    lastrowid: int | None = None


class ResultState:
    """Rows at hand, those to come, and what is told of them. `None` in `rows`: the statement returns none."""

    __slots__ = (
        "_core",
        "_decltypes",
        "_described",
        "_names",
        "before",
        "convert",
        "lastrowid",
        "position",
        "rest",
        "rowcount",
        "rows",
    )

    def __init__(self, core: Core) -> None:
        self._core = core
        self.lastrowid: int | None = None
        self.rest: Rest | None = None
        self.clear()

    def clear(self) -> None:
        self.rows: list[Values] | None = None
        self.position = 0
        self.before = 0
        self.rowcount = -1
        self.convert: list[Converter | None] | None = None
        self._names: Sequence[str] = ()
        self._decltypes: Sequence[str | None] = ()
        self._described: Description | None = None

    def show(self, result: Result) -> None:
        columns, decltypes, rows, self.rest, self.rowcount, rowid = result
        if rowid is not None:
            self.lastrowid = rowid
        if columns is not None:
            self.rows = rows
            self._names = columns
            self._decltypes = decltypes
            if self._core.settings.detect_types:
                self._prepare(self._core.settings.detect_types)

    def _prepare(self, detect_types: int) -> None:
        found = [
            _converter(name, decltype, detect_types)
            for name, decltype in zip(self._names, self._decltypes, strict=True)
        ]
        self.convert = found if any(found) else None
        if detect_types & PARSE_COLNAMES:
            self._names = [name.partition("[")[0].removesuffix(" ") for name in self._names]

    @property
    def description(self) -> Description | None:
        if self.rows is None:
            return None
        if self._described is None:
            pairs = zip(self._names, self._decltypes, strict=True)
            self._described = tuple((name, kind, None, None, None, None, None) for name, kind in pairs)
        return self._described

    def check_rows(self) -> list[Values]:
        if self.rows is None:
            raise ProgrammingError(_NO_ROWS)
        return self.rows

    def more(self) -> Steps[list[Values]]:
        """The next rows of the stream in the place of those fetched; [] at the end."""
        if self.rest is None:
            return []
        rows: list[Values] = yield from self.rest.fetch()
        if rows:
            self.before += len(self.rows or ())
            self.rows, self.position = rows, 0
        else:
            self.rest = None
        return rows

    def drop(self) -> Steps[None]:
        rest, self.rest = self.rest, None
        if rest is not None:
            yield from rest.close()

    @property
    def rownumber(self) -> int | None:
        return None if self.rows is None else self.before + self.position

    # -- values ---------------------------------------------------------------------------------------

    @property
    def is_plain(self) -> bool:
        """Whether rows are handed out as they came, but for the row factory."""
        return self.convert is None and self._core.text_factory is str

    def converted(self, row: Values) -> tuple[Any, ...]:
        factory = self._core.text_factory
        if self.convert is None:
            return tuple(_text(value, factory) if type(value) is str else value for value in row)
        return tuple(
            _text(value, factory)
            if converter is None and type(value) is str
            else value
            if converter is None or value is None
            else _converted(value, converter)
            for value, converter in zip(row, self.convert, strict=True)
        )


def _converter(name: str, decltype: str | None, detect_types: int) -> Converter | None:
    if detect_types & PARSE_COLNAMES and "[" in name:
        key, end, _ = name.partition("[")[2].partition("]")
        found = converters.get(key.upper()) if end else None
        if found is not None:
            return found
    if detect_types & PARSE_DECLTYPES and decltype:
        return converters.get(decltype.partition(" ")[0].partition("(")[0].upper())
    return None


def _text(value: str, factory: Any) -> Any:
    if factory is str:
        return value
    raw = value.encode()
    return raw if factory is bytes else factory(raw)


def _converted(value: Any, converter: Converter) -> Any:
    raw = _as_bytes(value)
    return converter(raw) if raw else None  # as sqlite3: of an empty value nothing is left to convert


def _as_bytes(value: Any) -> bytes:
    """A value as the text that SQLite makes of it."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, float):
        text = f"{value:.15g}"
        if text.lstrip("-").isdigit():
            text += ".0"
        return text.encode()
    return str(value).encode()


def check_kept(sql: str) -> None:
    """A write done before, whose result was too large to keep: is there more in it than the number of rows?"""
    if "returning" in sql.lower():
        raise not_kept()


def not_kept() -> ResultNotKept:
    return ResultNotKept("the write took effect once, before; its rows were too many to be kept for a retry")
