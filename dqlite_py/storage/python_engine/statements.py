"""Prepared statements of clients' SQL on the writer connection, least recently used goes first: statements.c."""

from __future__ import annotations

import ctypes
from collections import OrderedDict
from ctypes import c_char_p, c_void_p
from typing import Final

import apsw

from dqlite_py.storage.python_engine.guard import Control, Guard, Place
from dqlite_py.storage.python_engine.sql_text import is_blank
from dqlite_py.storage.python_engine.sqlite_api import sqlite
from dqlite_py.storage.python_engine.utf8 import utf8_copy

STATEMENT_TEXT_BYTES_MAX: Final = 8 << 20
_MESSAGE_BYTES: Final = 1024
_PREPARE_PERSISTENT: Final = 1


class SqlError(Exception):
    """Extended result code and message; `wrote`: rows may already have been changed, the unit must be undone."""

    def __init__(self, code: int, message: bytes, *, wrote: bool = False) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = utf8_copy(message, _MESSAGE_BYTES)
        self.wrote = wrote


def error_of(db: int, code: int) -> SqlError:
    """The error behind an SQLite code that a call on `db` just returned."""
    extended = sqlite.extended_errcode(db)
    if extended & 0xFF == code & 0xFF:
        return SqlError(extended, sqlite.errmsg(db))
    return SqlError(code, sqlite.errstr(code))


def only_reads(guard: Guard, handle: int) -> bool:
    """SQLite calls savepoint control reading, and reading the journal mode writing."""
    is_reading = sqlite.stmt_readonly(handle) != 0 or sqlite.stmt_isexplain(handle) != 0 or guard.is_pragma
    return is_reading and guard.control is Control.NONE


class Prepared:
    """A client's statement."""

    def __init__(self, handle: int, guard: Guard) -> None:
        self.handle = handle
        self.parameter_count: int = sqlite.bind_parameter_count(handle)
        self.column_count: int = sqlite.column_count(handle)
        self.needed = guard.needed  # where it may be
        self.control = guard.control  # of savepoints: neither is_readonly nor is_dml
        self.is_readonly = only_reads(guard, handle)
        self.is_dml = guard.is_dml and not self.is_readonly  # has a row count


def prepare(db: int, sql: bytes, flags: int) -> tuple[int, int | None, int]:
    """(SQLite code, statement if any, where the rest of `sql` begins)."""
    handle, tail, text = c_void_p(), c_void_p(), c_char_p(sql)
    start = ctypes.cast(text, c_void_p).value or 0
    code = sqlite.prepare_v3(db, start, len(sql), flags, ctypes.byref(handle), ctypes.byref(tail))
    return code, handle.value, (tail.value or start) - start


class Statements:
    """A bounded cache."""

    def __init__(self, db: int, guard: Guard, count_max: int) -> None:
        self._db = db
        self._guard = guard
        self._count_max = count_max or 1
        self._bytes = 0
        self._by_text: OrderedDict[bytes, Prepared] = OrderedDict()  # the least recently used first

    def get(self, sql: bytes) -> Prepared:
        """Find or prepare for the guard's place; raises SqlError. Valid until the next call."""
        statement = self._by_text.get(sql)
        if statement is not None and statement.needed <= self._guard.place:
            self._by_text.move_to_end(sql)
            return statement
        statement = Prepared(self._prepare(sql), self._guard)
        while self._by_text and (
            len(self._by_text) >= self._count_max or self._bytes + len(sql) > STATEMENT_TEXT_BYTES_MAX
        ):
            self._drop_oldest()
        self._by_text[sql] = statement
        self._bytes += len(sql)
        return statement

    def clear(self) -> None:
        """Finalize all: after a change of the schema every statement must pass the guard again."""
        while self._by_text:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        sql, statement = self._by_text.popitem(last=False)
        self._bytes -= len(sql)
        sqlite.finalize(statement.handle)

    def _prepare(self, sql: bytes) -> int:
        guard = self._guard
        if b"\0" in sql:
            raise SqlError(apsw.SQLITE_ERROR, b"the SQL text contains a NUL character")
        if guard.check(sql):
            raise SqlError(apsw.SQLITE_AUTH, guard.reason)
        guard.active = True
        code, handle, rest = prepare(self._db, sql, _PREPARE_PERSISTENT)
        guard.active = False
        if code != apsw.SQLITE_OK:
            if guard.is_refused:  # a refused function is an ordinary ERROR to SQLite
                raise SqlError(apsw.SQLITE_AUTH, guard.reason)
            raise error_of(self._db, code)
        if handle is None:
            raise SqlError(apsw.SQLITE_ERROR, b"the SQL text holds no statement")
        if not is_blank(sql, rest):
            sqlite.finalize(handle)
            raise SqlError(
                apsw.SQLITE_AUTH, b"several statements in one string: send them one by one, in one unit"
            )
        if guard.needed is Place.LOOKING and not only_reads(guard, handle):
            sqlite.finalize(handle)
            raise SqlError(apsw.SQLITE_AUTH, guard.reason)
        return handle
