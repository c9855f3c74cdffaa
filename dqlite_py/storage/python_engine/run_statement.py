"""One statement of a unit, parameters in, rows out: run_statement.c.

What fails raises SqlError: deterministic, the unit's result on every node, unless `is_environmental` says that it
is this node's trouble.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Final

import apsw

from dqlite_py.storage.python_engine.guard import Control
from dqlite_py.storage.python_engine.msgpack import Item, ItemWriter, Kind
from dqlite_py.storage.python_engine.payload import Statement
from dqlite_py.storage.python_engine.sqlite_api import TRANSIENT, sqlite
from dqlite_py.storage.python_engine.statements import Prepared, SqlError, error_of
from dqlite_py.storage.python_engine.utf8 import utf8_valid

if TYPE_CHECKING:
    from dqlite_py.storage.python_engine.engine import EngineState

_SQLITE_UTF8: Final = 1
_INTEGER, _FLOAT, _TEXT, _BLOB = 1, 2, 3, 4  # SQLite's fundamental types
_CONSTRAINT_ROWID: Final = apsw.SQLITE_CONSTRAINT_ROWID
_ENVIRONMENTAL: Final = frozenset(
    {
        apsw.SQLITE_CORRUPT,
        apsw.SQLITE_INTERNAL,
        apsw.SQLITE_BUSY,
        apsw.SQLITE_NOMEM,
        apsw.SQLITE_READONLY,
        apsw.SQLITE_INTERRUPT,
        apsw.SQLITE_IOERR,
        apsw.SQLITE_CANTOPEN,
        apsw.SQLITE_PROTOCOL,
        apsw.SQLITE_SCHEMA,
        apsw.SQLITE_MISUSE,
        apsw.SQLITE_NOLFS,
        apsw.SQLITE_NOTADB,
    }
)
# FTS reports these for what a client wrote into its index, on every node alike.
_OF_THE_STATEMENT: Final = frozenset({apsw.SQLITE_CORRUPT_VTAB, apsw.SQLITE_CORRUPT_SEQUENCE})


def is_environmental(code: int) -> bool:
    """Is this SQLite code a failure of this node (disk, memory, files) and not of the statement?"""
    return code & 0xFF in _ENVIRONMENTAL and code not in _OF_THE_STATEMENT


# -- parameters -----------------------------------------------------------------------------------------


def _bind(db: int, handle: int, position: int, item: Item) -> None:
    kind, value = item
    code: int
    if kind is Kind.INT:
        code = sqlite.bind_int64(handle, position, value)
    elif kind is Kind.FLOAT:
        code = sqlite.bind_double(handle, position, value)
    elif kind is Kind.TEXT:
        assert isinstance(value, bytes)
        code = sqlite.bind_text64(handle, position, value, len(value), TRANSIENT, _SQLITE_UTF8)
    elif kind is Kind.BLOB:
        assert isinstance(value, bytes)
        code = sqlite.bind_blob64(handle, position, value, len(value), TRANSIENT)
    else:
        code = sqlite.bind_null(handle, position)
    if code != apsw.SQLITE_OK:
        raise error_of(db, code)


def _bind_all(db: int, statement: Prepared, values: list[Item]) -> None:
    if len(values) != statement.parameter_count:
        raise SqlError(
            apsw.SQLITE_RANGE,
            b"the statement has %d parameters, and %d were given" % (statement.parameter_count, len(values)),
        )
    for position, value in enumerate(values, 1):
        _bind(db, statement.handle, position, value)


def _bind_named(db: int, statement: Prepared, values: dict[bytes, Item]) -> None:
    for position in range(1, statement.parameter_count + 1):
        name: bytes | None = sqlite.bind_parameter_name(statement.handle, position)
        if name is None:
            raise SqlError(apsw.SQLITE_RANGE, b"parameter ? has no name, and the values were given by name")
        value = values.get(name[1:])
        if value is None:
            raise SqlError(apsw.SQLITE_RANGE, b"no value was given for parameter " + name[:100])
        _bind(db, statement.handle, position, value)


# -- rows -----------------------------------------------------------------------------------------------


def _put_text(results: ItemWriter, text: bytes) -> None:
    if utf8_valid(text):
        results.put_text(text)
    else:
        results.put_blob(text)  # a client's decoder would stumble over it


def _put_value(results: ItemWriter, handle: int, column: int) -> int:
    """Append a value; returns the bytes it counts for."""
    kind = sqlite.column_type(handle, column)
    if kind == _INTEGER:
        results.put_int(sqlite.column_int64(handle, column))
        return 9
    if kind == _FLOAT:
        results.put_float(sqlite.column_double(handle, column))
        return 9
    if kind not in (_TEXT, _BLOB):
        results.put_nil()
        return 1
    is_text = kind == _TEXT
    place = (sqlite.column_text if is_text else sqlite.column_blob)(handle, column)
    size: int = sqlite.column_bytes(handle, column)
    content = ctypes.string_at(place, size) if place and not results.discard else b""
    if is_text:
        _put_text(results, content)
    else:
        results.put_blob(content)
    return size + 5


def _put_columns(results: ItemWriter, statement: Prepared) -> None:
    results.put_array(statement.column_count)
    for column in range(statement.column_count):
        _put_text(results, sqlite.column_name(statement.handle, column) or b"")


def _put_row(engine: EngineState, statement: Prepared) -> None:
    engine.results.put_array(statement.column_count)
    engine.row_bytes += 5
    for column in range(statement.column_count):
        engine.row_bytes += _put_value(engine.results, statement.handle, column)
    if engine.row_bytes > engine.row_bytes_max:
        raise SqlError(
            apsw.SQLITE_TOOBIG,
            b"the result rows are too large: fetch less, or read with a query of its own",
            wrote=not statement.is_readonly,
        )


def _step_all(engine: EngineState, statement: Prepared, place: int) -> None:
    """Step to the end. The results array of rows, if the statement has columns, is open at `place`."""
    rows = 0
    while (code := sqlite.step(statement.handle)) == apsw.SQLITE_ROW:
        _put_row(engine, statement)
        rows += 1
    if code != apsw.SQLITE_DONE:
        error = error_of(engine.db, code)
        error.wrote = not statement.is_readonly
        raise error
    if statement.column_count > 0:
        engine.results.set_array(place, rows)


def _decltypes(statement: Prepared) -> tuple[bytes | None, ...]:
    return tuple(sqlite.column_decltype(statement.handle, i) for i in range(statement.column_count))


def _execute(engine: EngineState, statement: Prepared) -> None:
    results = engine.results
    if not statement.is_readonly:
        engine.wrote = True
        engine.changed = engine.changed or statement.control is Control.NONE
    if statement.column_count > 0 and engine.keeps_decltypes:
        engine.decltypes = _decltypes(statement)
    results.put_array(4)  # [rowcount, rowid, columns, rows]
    if statement.column_count == 0:
        _step_all(engine, statement, 0)
        results.put_int(_rowcount_of(engine, statement))
        results.put_int(sqlite.last_insert_rowid(engine.db))
        results.put_nil()
        results.put_nil()
        return
    rowcount_place = results.put_open_int()  # the numbers are known last
    rowid_place = results.put_open_int()
    _put_columns(results, statement)
    place = results.put_open_array()
    _step_all(engine, statement, place)
    results.set_int(rowcount_place, _rowcount_of(engine, statement))
    results.set_int(rowid_place, sqlite.last_insert_rowid(engine.db))


def _rowcount_of(engine: EngineState, statement: Prepared) -> int:
    rowcount: int = sqlite.changes64(engine.db) if statement.is_dml else -1
    return rowcount


def _reload_schema(engine: EngineState) -> None:
    code = engine.reload_schema()
    if code != apsw.SQLITE_OK:
        raise error_of(engine.db, code)


def run_statement(engine: EngineState, text: Statement) -> None:
    """Run a statement, append [rowcount, rowid, columns, rows] to the results; raises SqlError."""
    statement = engine.statements.get(text.sql)
    try:
        if isinstance(text.params, dict):
            _bind_named(engine.db, statement, text.params)
        else:
            _bind_all(engine.db, statement, text.params)
        _execute(engine, statement)
    finally:
        sqlite.reset(statement.handle)  # its code repeats the step's
        sqlite.clear_bindings(statement.handle)
        if statement.control is Control.ROLLBACK_TO and engine.schema_changed:
            _reload_schema(engine)
        elif not (statement.is_readonly or statement.is_dml) and statement.control is Control.NONE:
            engine.schema_changed = engine.schema_touched = True
            engine.statements.clear()
    if engine.max_rowid_used:
        raise SqlError(
            _CONSTRAINT_ROWID,
            b"rowid 9223372036854775807 cannot be used: rowids after it would be random",
            wrote=True,
        )
