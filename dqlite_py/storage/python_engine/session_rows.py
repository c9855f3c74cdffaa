"""The table _dqlite_sessions on the writer connection: its rows as SQLite holds them (sessions.c)."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Final

import apsw

from dqlite_py.storage.python_engine.sqlite_api import TRANSIENT, sqlite
from dqlite_py.storage.python_engine.statements import SqlError, error_of, prepare

_PREPARE_PERSISTENT: Final = 1
_INTEGER, _BLOB = 1, 4  # SQLite's fundamental types
_EXISTS: Final = b"SELECT 1 FROM sqlite_schema WHERE name = '_dqlite_sessions'"
_ALL: Final = b"SELECT log_index, now_us, results FROM _dqlite_sessions ORDER BY log_index"
_CREATE: Final = (
    b"CREATE TABLE _dqlite_sessions (log_index INTEGER PRIMARY KEY, now_us INTEGER NOT NULL, "
    b"results BLOB NOT NULL)"
)
_STATEMENTS: Final = {
    "insert": b"REPLACE INTO _dqlite_sessions (log_index, now_us, results) VALUES (?1, ?2, ?3)",
    "remove": b"DELETE FROM _dqlite_sessions WHERE log_index = ?1",
    "find": b"SELECT results FROM _dqlite_sessions WHERE log_index = ?1",
}


class Damaged(Exception):
    """The table is not what it must be; says what was found."""


class SessionRows:
    """Of one database. `load` comes before anything else."""

    def __init__(self, db: int) -> None:
        self.is_new = False  # the transaction at hand creates the table
        self._db = db
        self._statements: dict[str, int] = {}  # empty while the table does not exist

    def load(self) -> Iterator[tuple[int, int, bytes]]:
        """All rows in log order, none without a table; raises SqlError and Damaged."""
        if not list(self._query(_EXISTS)):
            return
        try:
            self._prepare()
        except SqlError as error:
            if error.code & 0xFF == apsw.SQLITE_ERROR:  # not our table
                raise Damaged(error.message.decode()) from None
            raise
        for index, now_us, results in self._query(_ALL):
            if not (isinstance(index, int) and isinstance(now_us, int) and isinstance(results, bytes)):
                raise Damaged("a value of another type")
            yield index, now_us, results

    def insert(self, index: int, now_us: int, results: bytes) -> int:
        """Also in place of a row. An SQLite code."""
        code: int = apsw.SQLITE_OK if self._statements else self._create()
        if code != apsw.SQLITE_OK:
            return code
        handle = self._statements["insert"]
        code = sqlite.bind_int64(handle, 1, index) or sqlite.bind_int64(handle, 2, now_us)
        return code or sqlite.bind_blob64(handle, 3, results, len(results), TRANSIENT) or _step(handle)

    def remove(self, index: int) -> int:
        """An SQLite code."""
        handle = self._statements["remove"]
        return sqlite.bind_int64(handle, 1, index) or _step(handle)

    def find(self, index: int) -> bytes | None:
        """The results of a row; raises SqlError."""
        handle = self._statements["find"]
        code = sqlite.bind_int64(handle, 1, index) or sqlite.step(handle)
        found = _column(handle, 0) if code == apsw.SQLITE_ROW else None
        sqlite.reset(handle)
        if code not in (apsw.SQLITE_ROW, apsw.SQLITE_DONE):
            raise error_of(self._db, code)
        return found if isinstance(found, bytes) else None

    def commit(self) -> None:
        self.is_new = False

    def undo(self) -> None:
        """The transaction was rolled back."""
        if self.is_new:  # it does not exist any more
            self.close()
            self.is_new = False

    def close(self) -> None:
        """Finalizes the statements. Idempotent."""
        for handle in self._statements.values():
            sqlite.finalize(handle)
        self._statements.clear()

    def _create(self) -> int:
        code, handle, _ = prepare(self._db, _CREATE, 0)
        if code == apsw.SQLITE_OK and handle is not None:
            code = _step(handle)
            sqlite.finalize(handle)
            self.is_new = True
        if code == apsw.SQLITE_OK:
            self._prepare()
        return code

    def _prepare(self) -> None:
        """Raises SqlError."""
        for name, sql in _STATEMENTS.items():
            code, handle, _ = prepare(self._db, sql, _PREPARE_PERSISTENT)
            if code != apsw.SQLITE_OK or handle is None:
                error = error_of(self._db, code)
                self.close()
                raise error
            self._statements[name] = handle

    def _query(self, sql: bytes) -> Iterator[list[int | bytes | None]]:
        code, handle, _ = prepare(self._db, sql, 0)
        try:
            while code == apsw.SQLITE_OK:
                code = sqlite.step(handle)
                if code == apsw.SQLITE_ROW:
                    code = apsw.SQLITE_OK
                    yield [_column(handle, i) for i in range(sqlite.column_count(handle))]
            if code != apsw.SQLITE_DONE:
                raise error_of(self._db, code)
        finally:
            sqlite.finalize(handle)


def _step(handle: int) -> int:
    code: int = sqlite.step(handle)
    reset_code: int = sqlite.reset(handle)
    return apsw.SQLITE_OK if code in (apsw.SQLITE_DONE, apsw.SQLITE_ROW) else reset_code or code


def _column(handle: int | None, position: int) -> int | bytes | None:
    """An INTEGER or a BLOB; None for any other type."""
    kind = sqlite.column_type(handle, position)
    if kind == _INTEGER:
        number: int = sqlite.column_int64(handle, position)
        return number
    if kind != _BLOB:
        return None
    address = sqlite.column_blob(handle, position)
    return ctypes.string_at(address, sqlite.column_bytes(handle, position)) if address else b""
