"""One reader connection: a query in, bounded rows out. Used by one thread at a time (readers.py sees to that)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import apsw

from dqlite_py.command import check_params
from dqlite_py.errors import (
    DataError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
    RequestTooLarge,
)
from dqlite_py.limits import RESULT_BYTES_MAX
from dqlite_py.sqltext import describe
from dqlite_py.storage.authorizer import ReadAuthorizer
from dqlite_py.storage.connection import open_reader
from dqlite_py.storage.implementation import inspect
from dqlite_py.storage.sqlerrors import AUTH, RANGE, error_class, error_from_apsw

PROGRESS_OPS: Final = 20_000  # VDBE steps between two looks at the clock
VALUE_BYTES: Final = 16  # what a value counts for besides its text or blob
ERROR: Final = 1
INTERRUPT: Final = 9
MISUSE: Final = 21
SEVERAL_STATEMENTS: Final = "several statements in one string: send them one by one"


class QueryResult(NamedTuple):
    """`columns` and `decltypes` go together; a type is None where the column is an expression."""

    columns: tuple[str, ...]
    decltypes: tuple[str | None, ...]
    rows: list[tuple[Any, ...]]


class Reader:
    """See the module."""

    def __init__(self, path: str, *, result_bytes_max: int = RESULT_BYTES_MAX) -> None:
        self._connection = open_reader(path)
        self._result_bytes_max = result_bytes_max
        self._authorizer = ReadAuthorizer()
        self._deadline = 0.0
        self._is_cancelled: Callable[[], bool] | None = None
        self._description: tuple[tuple[str, str | None], ...] | None = None
        self._connection.authorizer = self._authorizer
        self._connection.exec_trace = self._before_execution
        self._connection.set_progress_handler(self._must_stop, PROGRESS_OPS)

    def query(
        self,
        sql: str,
        params: Any,
        *,
        timeout_s: float | None,
        is_cancelled: Callable[[], bool] | None = None,
    ) -> QueryResult:
        """Run one reading statement to its end.

        Raises ProgrammingError (several statements, parameters), NotSupportedError (refused), RequestTooLarge,
        OperationalError (timed out or cancelled: code INTERRUPT), and what SQLite reports.
        """
        statement = describe(sql)
        if not statement.is_single:
            raise ProgrammingError(SEVERAL_STATEMENTS, code=MISUSE)
        bindings = check_params(params)
        self._deadline = time.monotonic() + timeout_s if timeout_s is not None else float("inf")
        self._is_cancelled = is_cancelled
        self._authorizer.reason = None
        self._authorizer.explains = statement.keyword == "EXPLAIN"
        self._description = None
        try:
            cursor = self._connection.execute(sql, bindings)
            try:
                rows = self._collect(cursor)
            finally:
                cursor.close(True)
        except apsw.InterruptError as error:
            why = "cancelled" if is_cancelled is not None and is_cancelled() else "not finished in time"
            raise OperationalError(f"the query was {why}", code=INTERRUPT) from error
        except apsw.Error as error:
            raise self._translate(error) from error
        except KeyError as error:
            raise ProgrammingError(f"no value was given for parameter {error}", code=RANGE) from None
        except UnicodeDecodeError as error:
            raise DataError(
                f"a text value is not valid UTF-8: {error.reason}; select CAST(... AS BLOB)"
            ) from None
        description = self._description
        if description is None:
            raise ProgrammingError("the SQL text holds no statement", code=ERROR)
        return QueryResult(tuple(c[0] for c in description), tuple(c[1] for c in description), rows)

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

    def _before_execution(self, cursor: apsw.Cursor, sql: str, bindings: Any) -> bool:
        """Before a statement's first step: nothing may be left to chance by what `query` saw in the text."""
        if not cursor.has_vdbe:  # comments behind the statement
            return True
        if self._description is not None:
            raise ProgrammingError(SEVERAL_STATEMENTS, code=MISUSE)
        if not (cursor.is_readonly or cursor.is_explain):
            raise NotSupportedError("the statement changes the database: send it as a write", code=AUTH)
        self._description = cursor.get_description()
        return True

    def _must_stop(self) -> bool:
        if self._is_cancelled is not None and self._is_cancelled():
            return True
        return time.monotonic() >= self._deadline

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

    def _translate(self, error: apsw.Error) -> Exception:
        reason = self._authorizer.reason
        if reason is not None:
            return NotSupportedError(reason, code=AUTH)
        return error_from_apsw(error)
