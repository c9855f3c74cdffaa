"""Opening, scanning and closing the writer: engine.c."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import c_char_p, c_int, c_int64, c_void_p
from typing import Final

import apsw

from dqlite_py.errors import InternalError
from dqlite_py.storage.engine_api import ApplyFailed, Verdict
from dqlite_py.storage.python_engine import vfs
from dqlite_py.storage.python_engine.functions import Functions
from dqlite_py.storage.python_engine.guard import FOLLOW_TABLE, Guard
from dqlite_py.storage.python_engine.msgpack import ItemWriter
from dqlite_py.storage.python_engine.session_rows import Damaged
from dqlite_py.storage.python_engine.sessions import Sessions
from dqlite_py.storage.python_engine.sqlite_api import address_of, sqlite
from dqlite_py.storage.python_engine.statements import SqlError, Statements, prepare

SCAN_PAGES: Final = 256
_INT64_MAX: Final = 2**63 - 1
_PREPARE_PERSISTENT: Final = 1
_ROW_CHANGE: Final = ctypes.CFUNCTYPE(None, c_void_p, c_int, c_char_p, c_char_p, c_int64)

OWN_STATEMENTS: Final = {
    "begin": b"BEGIN IMMEDIATE",
    "commit": b"COMMIT",
    "rollback": b"ROLLBACK",
    "savepoint": b"SAVEPOINT _dqlite_unit",
    "release": b"RELEASE _dqlite_unit",
    "rollback_to": b"ROLLBACK TO _dqlite_unit",
    "set_index": b"UPDATE _dqlite_meta SET applied_index = ?1",
    # Sets changes() to 0: triggers would read what an earlier entry left.
    "reset_changes": b"DELETE FROM _dqlite_meta WHERE 0",
    "is_followed": b"SELECT 1 FROM sqlite_schema WHERE name = '%s'" % FOLLOW_TABLE,
}


class EngineState:
    """Everything that applying needs, on a connection that only one thread uses.

    Raises ApplyFailed when the table of client sessions is damaged, else InternalError.
    """

    def __init__(self, db: int, statements_max: int, results_max: int) -> None:
        self.db = db
        self.guard = Guard()
        self.statements = Statements(db, self.guard, statements_max)
        self.functions = Functions(db)
        self.watch = vfs.Watch()
        self.sessions = Sessions(db)
        self.results = ItemWriter()
        self.before_commit: Callable[[], None] | None = None
        self.row_bytes = 0  # of the entry's result rows, counted the same with and without output
        self.row_bytes_max = results_max
        self.max_rowid_used = False
        self.schema_changed = False  # by the unit at hand
        self.schema_touched = False  # by the SQLite transaction at hand, or the one before
        self.wrote = False  # the body at hand: what may write, or savepoint control, was stepped
        self.changed = False  # the same, more than savepoint control
        self.keeps_decltypes = False
        self.decltypes: tuple[bytes | None, ...] | None = None  # of the last statement with columns
        self._own: dict[str, int] = {}
        self._on_row_change = _ROW_CHANGE(self._note_row_change)
        # Authorizer and functions BEFORE our own statements: installing them expires what is prepared.
        code = (
            self.guard.install(db) or self.functions.install() or self._prepare_own() or self.learn_followed()
        )
        if code == apsw.SQLITE_OK and not vfs.set_watch(db, self.watch):
            code = apsw.SQLITE_MISUSE
        if code != apsw.SQLITE_OK:
            message = sqlite.errstr(code).decode()
            self.close()
            raise InternalError(f"the apply engine cannot start: {message}", code=code)
        try:
            self.sessions.load()
        except (SqlError, Damaged) as error:
            self.close()
            raise _load_error(error) from None
        sqlite.update_hook(db, address_of(self._on_row_change), None)

    def run_own(self, name: str) -> int:
        """Step a statement of our own to its end and reset it; an SQLite code."""
        handle = self._own[name]
        code: int = sqlite.step(handle)
        reset_code: int = sqlite.reset(handle)
        if code in (apsw.SQLITE_DONE, apsw.SQLITE_ROW):
            return apsw.SQLITE_OK
        return reset_code or code

    def set_index(self, index: int) -> int:
        code: int = sqlite.bind_int64(self._own["set_index"], 1, index)
        return code or self.run_own("set_index")

    def reload_schema(self) -> int:
        """Prepare all anew, and let SQLite read the schema anew; an SQLite code."""
        self.statements.clear()
        code: int = sqlite.exec(self.db, b"PRAGMA writable_schema = RESET", None, None, None)
        return code

    def learn_followed(self) -> int:
        """Find out whether each row that is deleted is to be seen by hooks; an SQLite code."""
        handle = self._own["is_followed"]
        found = sqlite.step(handle) == apsw.SQLITE_ROW
        code: int = sqlite.reset(handle)
        if code == apsw.SQLITE_OK and found != self.guard.deletes_rows:
            self.statements.clear()  # prepared under the other rule
            self.guard.deletes_rows = found
        return code

    def begin(self) -> int:
        """BEGIN, with the schema as a node that has just started reads it; an SQLite code."""
        code = self.reload_schema() if self.schema_touched else apsw.SQLITE_OK
        if code != apsw.SQLITE_OK:
            return code
        self.schema_touched = False
        return self.run_own("begin")

    def scan(self) -> int:
        """Recompute the state hash from the database file, whose WAL must be empty; an SQLite code."""
        pages = self.watch.pages
        code, page_size, page_count = self._dimensions()
        if code == apsw.SQLITE_OK:
            pages.reset(page_size)
        for first in range(0, page_count, SCAN_PAGES):
            size = min(SCAN_PAGES, page_count - first) * page_size
            code, chunk = vfs.file_read(self.db, False, first * page_size, size)
            if code != apsw.SQLITE_OK:
                break
            pages.scan(chunk)
        self.watch.wal_frames = 0
        return code

    def close(self) -> None:
        """Finalizes every statement; random() and friends are then gone from the connection."""
        self.statements.clear()
        for handle in self._own.values():
            sqlite.finalize(handle)
        self._own.clear()
        vfs.set_watch(self.db, None)
        sqlite.update_hook(self.db, None, None)
        sqlite.set_authorizer(self.db, None, None)
        self.functions.remove()
        self.sessions.close()

    def _prepare_own(self) -> int:
        for name, sql in OWN_STATEMENTS.items():
            code, handle, _ = prepare(self.db, sql, _PREPARE_PERSISTENT)
            if code != apsw.SQLITE_OK or handle is None:
                return code
            self._own[name] = handle
        return apsw.SQLITE_OK

    def _dimensions(self) -> tuple[int, int, int]:
        """(SQLite code, page size, pages of the file)."""
        code, handle, _ = prepare(self.db, b"PRAGMA page_size", 0)
        page_size = 0
        if code == apsw.SQLITE_OK and sqlite.step(handle) == apsw.SQLITE_ROW:
            page_size = sqlite.column_int64(handle, 0)
        code = code or sqlite.finalize(handle)
        if code != apsw.SQLITE_OK:
            return code, 0, 0
        code, size = vfs.file_size(self.db, False)
        if code == apsw.SQLITE_OK and (page_size == 0 or size % page_size):
            code = apsw.SQLITE_CORRUPT
        return code, page_size, 0 if code else size // page_size

    def _note_row_change(
        self, context: int, action: int, schema: bytes | None, table: bytes | None, rowid: int
    ) -> None:
        """Called by SQLite. The largest rowid makes it choose later rowids at random: no unit may use it."""
        if rowid == _INT64_MAX and action != apsw.SQLITE_DELETE:
            self.max_rowid_used = True


def _load_error(error: SqlError | Damaged) -> ApplyFailed | InternalError:
    if isinstance(error, Damaged):
        return ApplyFailed(Verdict.ENVIRONMENT, apsw.SQLITE_CORRUPT, 0, str(error))
    message = error.message.decode("utf-8", "replace")
    if error.code & 0xFF == apsw.SQLITE_CORRUPT:
        return ApplyFailed(Verdict.ENVIRONMENT, error.code, 0, message)
    return InternalError(f"the apply engine cannot start: {message}", code=error.code)
