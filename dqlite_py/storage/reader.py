"""One reader connection: a query in, rows out, as many as asked for at a time.

Used by one thread at a time (readers.py and held.py see to that); `ending` and interrupts come from any.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from copy import copy
from typing import Any, Final

import apsw

from dqlite_py.command import check_params
from dqlite_py.errors import (
    DataError,
    Error,
    InternalError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
)
from dqlite_py.gateway import Interrupt, QueryResult
from dqlite_py.resultcodes import error_class
from dqlite_py.sqlite_codes import AUTH, ERROR, INTERRUPT, MISUSE, RANGE
from dqlite_py.sqltext import CACHED_LENGTH_MAX, describe
from dqlite_py.storage.authorizer import ReadAuthorizer
from dqlite_py.storage.connection import READER_CACHE_BYTES, open_reader
from dqlite_py.storage.implementation import inspect
from dqlite_py.storage.sqlerrors import error_from_apsw
from dqlite_py.storage.state_index import StateIndex

HURRY_S: Final = 0.001
PROGRESS_OPS: Final = 20_000  # VDBE steps between two looks at the clock
ROW_BYTES: Final = 96  # what a row counts for besides its values,
VALUE_BYTES: Final = 16  # and a value besides its text or blob
KNOWN_MAX: Final = 256  # texts per connection
SEVERAL_STATEMENTS: Final = "several statements in one string: send them one by one"


Columns = tuple[tuple[str, ...], tuple[str | None, ...]]  # names and declared types


class TookTooLong(Exception):
    """A query that was to be quick was not: nothing is known of its result."""


class Reader:
    """See the module.

    A text that ran once is known: to be one statement that only reads (a matter of the text alone), and with which
    columns. Those may change with the schema, but not unless SQLite prepares the statement again; it then asks the
    authorizer, which notes that it was asked.

    A result that is over `bytes_max` is left where it is: `unread` is then the cursor with the rest, for `fetch`.
    Several may be open. `ending` is set from other threads: why everything that runs here has to stop, or None.
    """

    def __init__(self, path: str, *, cache_bytes: int = READER_CACHE_BYTES) -> None:
        self._connection = open_reader(path, cache_bytes=cache_bytes)
        self._authorizer = ReadAuthorizer()
        self._deadline = self._began = 0.0
        self._is_cancelled: Callable[[], bool] | None = None
        self._interrupt: Interrupt | None = None  # of the call under way
        self._hurries = False
        self._known: dict[str, Columns] = {}
        self._cursor = self._connection.cursor()  # for known texts
        self._columns: Columns | None = None
        self._open: set[apsw.Cursor] = set()  # with rows left
        self._state = StateIndex(self._connection, self._authorizer)
        self.unread: apsw.Cursor | None = None
        self.ending: Error | None = None
        self._connection.authorizer = self._authorizer
        self._connection.set_progress_handler(self._must_stop, PROGRESS_OPS)

    # -- queries ----------------------------------------------------------------------------------------

    def query(
        self,
        sql: str,
        params: Any,
        *,
        timeout_s: float | None,
        bytes_max: int,
        is_cancelled: Callable[[], bool] | None = None,
        interrupt: Interrupt | None = None,
        hurries: bool = False,
    ) -> QueryResult:
        """Run one reading statement and return its first rows; `params` are checked (command.check_params).

        `hurries`: raise TookTooLong when a look at the clock finds that it takes longer than HURRY_S.
        Raises ProgrammingError (several statements, parameters), NotSupportedError (refused), OperationalError
        (timed out, interrupted or cancelled: code INTERRUPT), and what SQLite reports.
        """
        now = time.monotonic()
        self._deadline = float("inf") if timeout_s is None else now + timeout_s
        self._began = now
        self._is_cancelled = is_cancelled
        self._interrupt = interrupt
        self._hurries = hurries
        self.unread = None
        authorizer = self._authorizer
        authorizer.reason = None
        authorizer.was_asked = False
        columns = self._known.get(sql)
        if interrupt is not None:
            interrupt.begin()
        try:
            if columns is None:
                return self._query_unknown(sql, params, bytes_max)
            cursor = self._cursor
            cursor.execute(sql, params)
            if authorizer.was_asked:
                columns = self._known[sql] = self._columns_now(cursor, sql, params)
            rows = self._collect(cursor, bytes_max)
            if self.unread is not None:
                self._cursor = self._connection.cursor()
            return QueryResult(columns[0], columns[1], rows)
        except BaseException as error:
            if columns is not None:
                self._cursor.close(True)  # it may be amidst its rows
                self._cursor = self._connection.cursor()
            if isinstance(error, Exception):
                self._raise_translated(error, params)
            raise
        finally:
            self._interrupt = None

    def _query_unknown(self, sql: str, params: Any, bytes_max: int) -> QueryResult:
        statement = describe(sql)
        if not statement.is_single:
            raise ProgrammingError(SEVERAL_STATEMENTS, code=MISUSE)
        bindings = check_params(params)
        explains = self._authorizer.explains = statement.keyword == "EXPLAIN"
        check = _Check()
        cursor = self._connection.cursor()
        cursor.exec_trace = check
        try:
            cursor.execute(sql, bindings)
            if not check.has_begun:
                raise ProgrammingError("the SQL text holds no statement", code=ERROR)
            columns = self._columns_now(cursor, sql, bindings)
            rows = self._collect(cursor, bytes_max)
        finally:
            if self.unread is None:
                cursor.close(True)
            self._authorizer.explains = False
        if len(sql) <= CACHED_LENGTH_MAX and not explains:
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            self._known[sql] = columns
        return QueryResult(*columns, rows)

    def fetch(
        self,
        cursor: apsw.Cursor,
        *,
        timeout_s: float | None,
        bytes_max: int,
        interrupt: Interrupt | None = None,
    ) -> list[tuple[Any, ...]]:
        """The next rows of what was `unread`; at the end, and on an error, the cursor is closed and `unread` None."""
        self._deadline = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        self._is_cancelled = None
        self._hurries = False
        self.unread = None
        self._authorizer.reason = None
        self._interrupt = interrupt
        if interrupt is not None:
            interrupt.begin()
        try:
            return self._collect(cursor, bytes_max)
        except Exception as error:
            self._raise_translated(error, ())
            raise
        finally:
            self._interrupt = None
            if self.unread is None:
                self.drop(cursor)

    def drop(self, cursor: apsw.Cursor) -> None:
        """Nobody wants the rest of its rows."""
        self._open.discard(cursor)
        cursor.close(True)

    def state_index(self) -> int:
        """Log index of the state that is seen, which stays the same until `let_go`, `end` or the next query's end."""
        try:
            return self._state.look()
        except apsw.Error as error:
            raise error_from_apsw(error) from error

    def let_go(self) -> None:
        """See new states from the next query on (unless a result is unread, or a transaction open)."""
        self._state.let_go()

    # -- transactions -----------------------------------------------------------------------------------

    def begin(self) -> int:
        """Freeze the present state until `reset`; returns its log index."""
        try:
            self._control("BEGIN")
            index = self._state.look()
            self._state.let_go()
        except apsw.Error as error:
            self.reset()
            raise error_from_apsw(error) from error
        return index

    def _control(self, sql: str) -> None:
        self._authorizer.is_internal = True
        try:
            self._connection.execute(sql)
        finally:
            self._authorizer.is_internal = False

    def reset(self) -> None:
        """Drop unread results and end a transaction: as good as new."""
        self._state.let_go()
        while self._open:
            self._open.pop().close(True)
        self.unread = None
        self._deadline = float("inf")
        self._is_cancelled = None
        self._interrupt = None
        self._hurries = False
        if not self._connection.getautocommit():
            self._control("ROLLBACK")

    def is_readonly(self, sql: str, *, only_looks: bool = False) -> bool:
        """Ask SQLite, by preparing; raises as `query` does. A refused write counts as a write.

        `only_looks`: raises also what SQLite has against a write or a change of the schema.
        """
        self._authorizer.reason = None
        self._authorizer.only_looks = only_looks
        try:
            if only_looks:  # SQLite compares the schema that it has read when a statement runs, not before
                self._connection.cursor().execute("SELECT 1 FROM sqlite_master LIMIT 0")
            code, readonly, message = inspect(self._connection, sql.encode())
        finally:
            self._authorizer.only_looks = False
        if code == 0:
            return readonly
        if code == MISUSE:
            raise ProgrammingError(message, code=code)
        if self._authorizer.reason is not None:
            return False
        raise error_class(code)(message, code=code)

    def decltypes(self, sql: str, params: Any) -> tuple[str | None, ...]:
        """Of the columns that a statement, also a write, would return: prepared, not run. Raises as `query` does."""
        self._columns = None
        self._authorizer.reason = None
        self._authorizer.only_looks = True
        looking = self._connection.cursor()
        looking.exec_trace = self._look_at_columns
        try:
            looking.execute(sql, params)
        except apsw.ExecTraceAbort:
            pass
        except Exception as error:
            self._raise_translated(error, params)
            raise
        finally:
            self._authorizer.only_looks = False
            looking.close(True)
        return () if self._columns is None else self._columns[1]

    @property
    def refused(self) -> str | None:
        """Why the newest statement was refused, if it was."""
        return self._authorizer.reason

    def close(self) -> None:
        self._connection.close()

    # -- called by apsw ---------------------------------------------------------------------------------

    def _look_at_columns(self, cursor: apsw.Cursor, sql: str, bindings: Any) -> bool:
        """Instead of an execution. Not in the one above: a cursor remembers the columns from before its first step."""
        if not cursor.has_vdbe:  # a semicolon before the statement
            return True
        self._columns = _split(cursor.get_description())
        return False

    def _must_stop(self) -> bool:
        if self.ending is not None or (self._interrupt is not None and self._interrupt.is_requested):
            return True
        if self._hurries and time.monotonic() - self._began > HURRY_S:
            return True
        if self._is_cancelled is not None and self._is_cancelled():
            return True
        return time.monotonic() >= self._deadline

    # -- columns ----------------------------------------------------------------------------------------

    def _columns_now(self, cursor: apsw.Cursor, sql: str, params: Any) -> Columns:
        """Of the statement whose first step `cursor` has just made (SQLite may have prepared it anew for that)."""
        try:
            return _split(cursor.get_description())
        except apsw.ExecutionCompleteError:  # it has no rows: look at the statement without running it
            self._columns = None
            looking = self._connection.cursor()
            looking.exec_trace = self._look_at_columns
            with suppress(apsw.ExecTraceAbort):
                looking.execute(sql, params)
            looking.close(True)
            if self._columns is None:
                raise InternalError("a statement that ran cannot be looked at") from None
            return self._columns

    # -- rows -------------------------------------------------------------------------------------------

    def _collect(self, cursor: apsw.Cursor, bytes_max: int) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = []
        size = 0
        for row in cursor:
            size += ROW_BYTES + VALUE_BYTES * len(row)
            for value in row:
                kind = type(value)
                if kind is str or kind is bytes:
                    size += len(value)
            rows.append(row)
            if size >= bytes_max:
                self.unread = cursor
                self._open.add(cursor)
                break
        return rows

    def _raise_translated(self, error: Exception, params: Any) -> None:
        if isinstance(error, apsw.InterruptError):
            if self.ending is not None:
                raise copy(self.ending) from None
            if self._hurries:
                raise TookTooLong from None
            if self._interrupt is not None and self._interrupt.is_requested:
                why = "interrupted"
            elif self._is_cancelled is not None and self._is_cancelled():
                why = "cancelled"
            else:
                why = "not finished in time"
            raise OperationalError(f"the query was {why}", code=INTERRUPT) from error
        if isinstance(error, apsw.Error):
            reason = self._authorizer.reason
            if reason is not None:
                raise NotSupportedError(reason, code=AUTH) from error
            raise error_from_apsw(error) from error
        if isinstance(error, KeyError):
            raise ProgrammingError(f"no value was given for parameter {error}", code=RANGE) from None
        if isinstance(error, UnicodeDecodeError):
            raise DataError(
                f"a text value is not valid UTF-8: {error.reason}; select CAST(... AS BLOB)"
            ) from None
        if isinstance(error, (TypeError, OverflowError, UnicodeEncodeError)):
            check_params(params)  # names the parameter that SQLite cannot take


class _Check:
    """Before a statement's first step: nothing may be left to chance by what `query` saw in the text."""

    __slots__ = ("has_begun",)

    def __init__(self) -> None:
        self.has_begun = False

    def __call__(self, cursor: apsw.Cursor, sql: str, bindings: Any) -> bool:
        if not cursor.has_vdbe:  # comments behind the statement
            return True
        if self.has_begun:
            raise ProgrammingError(SEVERAL_STATEMENTS, code=MISUSE)
        if not (cursor.is_readonly or cursor.is_explain):
            raise NotSupportedError("the statement changes the database: send it as a write", code=AUTH)
        self.has_begun = True
        return True


def _split(description: tuple[tuple[str, str | None], ...]) -> Columns:
    return tuple([c[0] for c in description]), tuple([c[1] for c in description])
