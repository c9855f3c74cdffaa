"""One reader connection: a query in, bounded rows out. Used by one thread at a time (readers.py sees to that)."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import apsw

from dqlite_py.command import check_params
from dqlite_py.errors import (
    DataError,
    InternalError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
    RequestTooLarge,
)
from dqlite_py.gateway import QueryResult
from dqlite_py.limits import RESULT_BYTES_MAX
from dqlite_py.sqltext import CACHED_LENGTH_MAX, describe
from dqlite_py.storage.authorizer import ReadAuthorizer
from dqlite_py.storage.connection import open_reader
from dqlite_py.storage.implementation import inspect
from dqlite_py.storage.sqlerrors import AUTH, RANGE, error_class, error_from_apsw

PROGRESS_OPS: Final = 20_000  # VDBE steps between two looks at the clock
VALUE_BYTES: Final = 16  # what a value counts for besides its text or blob
KNOWN_MAX: Final = 256  # texts per connection
ERROR: Final = 1
INTERRUPT: Final = 9
MISUSE: Final = 21
SEVERAL_STATEMENTS: Final = "several statements in one string: send them one by one"


Columns = tuple[tuple[str, ...], tuple[str | None, ...]]  # names and declared types


class Reader:
    """See the module.

    A text that ran once is known: to be one statement that only reads (a matter of the text alone), and with which
    columns. Those may change with the schema, but not unless SQLite prepares the statement again; it then asks the
    authorizer, which notes that it was asked.
    """

    def __init__(self, path: str, *, result_bytes_max: int = RESULT_BYTES_MAX) -> None:
        self._connection = open_reader(path)
        self._result_bytes_max = result_bytes_max
        self._authorizer = ReadAuthorizer()
        self._deadline = 0.0
        self._is_cancelled: Callable[[], bool] | None = None
        self._known: dict[str, Columns] = {}
        self._cursor = self._connection.cursor()  # for known texts
        self._has_begun = False
        self._columns: Columns | None = None
        self._connection.authorizer = self._authorizer
        self._connection.set_progress_handler(self._must_stop, PROGRESS_OPS)

    def query(
        self,
        sql: str,
        params: Any,
        *,
        timeout_s: float | None,
        is_cancelled: Callable[[], bool] | None = None,
    ) -> QueryResult:
        """Run one reading statement to its end. `params` are checked (command.check_params).

        Raises ProgrammingError (several statements, parameters), NotSupportedError (refused), RequestTooLarge,
        OperationalError (timed out or cancelled: code INTERRUPT), and what SQLite reports.
        """
        self._deadline = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        self._is_cancelled = is_cancelled
        authorizer = self._authorizer
        authorizer.reason = None
        authorizer.was_asked = False
        columns = self._known.get(sql)
        try:
            if columns is None:
                return self._query_unknown(sql, params)
            cursor = self._cursor
            cursor.execute(sql, params)
            if authorizer.was_asked:
                columns = self._known[sql] = self._columns_now(cursor, sql, params)
            return QueryResult(columns[0], columns[1], self._collect(cursor))
        except BaseException as error:
            if columns is not None:
                self._cursor.close(True)  # it may be amidst its rows
                self._cursor = self._connection.cursor()
            if isinstance(error, Exception):
                self._raise_translated(error, params)
            raise

    def _query_unknown(self, sql: str, params: Any) -> QueryResult:
        statement = describe(sql)
        if not statement.is_single:
            raise ProgrammingError(SEVERAL_STATEMENTS, code=MISUSE)
        bindings = check_params(params)
        explains = self._authorizer.explains = statement.keyword == "EXPLAIN"
        cursor = self._checked_cursor()
        try:
            cursor.execute(sql, bindings)
            if not self._has_begun:
                raise ProgrammingError("the SQL text holds no statement", code=ERROR)
            columns = self._columns_now(cursor, sql, bindings)
            rows = self._collect(cursor)
        finally:
            cursor.close(True)
            self._authorizer.explains = False
        if len(sql) <= CACHED_LENGTH_MAX and not explains:
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            self._known[sql] = columns
        return QueryResult(*columns, rows)

    def is_readonly(self, sql: str) -> bool:
        """Ask SQLite, by preparing; raises as `query` does. A refused write counts as a write."""
        self._authorizer.reason = None
        code, readonly, message = inspect(self._connection, sql.encode())
        if code == 0:
            return readonly
        if code == MISUSE:
            raise ProgrammingError(message, code=code)
        if self._authorizer.reason is not None:
            return False
        raise error_class(code)(message, code=code)

    def close(self) -> None:
        self._connection.close()

    # -- called by apsw ---------------------------------------------------------------------------------

    def _checked_cursor(self) -> apsw.Cursor:
        self._has_begun = False
        cursor = self._connection.cursor()
        cursor.exec_trace = self._before_execution
        return cursor

    def _before_execution(self, cursor: apsw.Cursor, sql: str, bindings: Any) -> bool:
        """Before a statement's first step: nothing may be left to chance by what `query` saw in the text."""
        if not cursor.has_vdbe:  # comments behind the statement
            return True
        if self._has_begun:
            raise ProgrammingError(SEVERAL_STATEMENTS, code=MISUSE)
        if not (cursor.is_readonly or cursor.is_explain):
            raise NotSupportedError("the statement changes the database: send it as a write", code=AUTH)
        self._has_begun = True
        return True

    def _look_at_columns(self, cursor: apsw.Cursor, sql: str, bindings: Any) -> bool:
        """Instead of an execution. Not in the one above: a cursor remembers the columns from before its first step."""
        if not cursor.has_vdbe:  # a semicolon before the statement
            return True
        self._columns = _split(cursor.get_description())
        return False

    def _must_stop(self) -> bool:
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

    def _collect(self, cursor: apsw.Cursor) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = []
        size = 0
        for row in cursor:
            size += VALUE_BYTES * len(row)
            for value in row:
                kind = type(value)
                if kind is str or kind is bytes:
                    size += len(value)
            if size > self._result_bytes_max:
                raise RequestTooLarge(
                    f"the result is over {self._result_bytes_max} bytes: use LIMIT or select fewer columns"
                )
            rows.append(row)
        return rows

    def _raise_translated(self, error: Exception, params: Any) -> None:
        if isinstance(error, apsw.InterruptError):
            cancelled = self._is_cancelled is not None and self._is_cancelled()
            why = "cancelled" if cancelled else "not finished in time"
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


def _split(description: tuple[tuple[str, str | None], ...]) -> Columns:
    return tuple([c[0] for c in description]), tuple([c[1] for c in description])
