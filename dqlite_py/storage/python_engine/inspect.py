"""Looking at SQL without changing anything: inspect.c."""

from __future__ import annotations

from typing import Final

import apsw

from dqlite_py.storage.python_engine.guard import Guard
from dqlite_py.storage.python_engine.sql_text import is_blank
from dqlite_py.storage.python_engine.sqlite_api import sqlite
from dqlite_py.storage.python_engine.statements import prepare
from dqlite_py.storage.python_engine.utf8 import utf8_copy

_MESSAGE_BYTES: Final = 512
_INT32_MAX: Final = 2**31 - 1


def refused(sql: bytes) -> bytes | None:
    """Why the first words of `sql` bar it from the log, or None."""
    guard = Guard()
    return utf8_copy(guard.reason, _MESSAGE_BYTES) if guard.check(sql) else None


def inspect(db: int, sql: bytes) -> tuple[int, bool, bytes]:
    """Prepare without executing: (SQLite code, is read-only, message)."""
    if b"\0" in sql:
        return apsw.SQLITE_ERROR, False, b"the SQL text contains a NUL character"
    if len(sql) > _INT32_MAX:
        return apsw.SQLITE_TOOBIG, False, b""
    mutex = sqlite.db_mutex(db)
    sqlite.mutex_enter(mutex)  # keeps the message ours
    try:
        return _prepared(db, sql)
    finally:
        sqlite.mutex_leave(mutex)


def _prepared(db: int, sql: bytes) -> tuple[int, bool, bytes]:
    code, handle, rest = prepare(db, sql, 0)
    if code != apsw.SQLITE_OK:
        return sqlite.extended_errcode(db), False, utf8_copy(sqlite.errmsg(db), _MESSAGE_BYTES)
    if handle is None:
        return apsw.SQLITE_ERROR, False, b"the SQL text holds no statement"
    try:
        if not is_blank(sql, rest):
            return apsw.SQLITE_MISUSE, False, b"several statements in one string: send them one by one"
        return apsw.SQLITE_OK, sqlite.stmt_readonly(handle) != 0, b""
    finally:
        sqlite.finalize(handle)
