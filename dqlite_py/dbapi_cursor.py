"""The PEP 249 Cursor: runs statements through its connection's executor and hands out the rows.

Holds complete results (a node returns all rows at once). Used on user threads; one cursor by one thread at a
time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Self

from dqlite_py.dbapi_executor import Executor, check_no_transaction
from dqlite_py.errors import ProgrammingError
from dqlite_py.gateway import QueryResult, StatementResult
from dqlite_py.rows import Description
from dqlite_py.sqltext import Statement, StatementKind, describe, split_script

if TYPE_CHECKING:
    from dqlite_py.dbapi import Connection

RowFactory = Callable[["Cursor", tuple[Any, ...]], Any]
_READ: Final = StatementKind.READ
_SEVERAL: Final = "more than one statement: use executescript() or connection.execute_atomic()"
_CHANGING = (StatementKind.INSERT, StatementKind.CHANGE)


class Cursor:
    """A result and the position in it. Create it with `Connection.cursor()`.

    `rowcount`: rows changed by the last INSERT, UPDATE, DELETE or REPLACE, else -1.
    `lastrowid`: the rowid of the last row that `execute` inserted; other statements leave it unchanged.
    `row_factory`: called with the cursor and a tuple for each row handed out; None hands out the tuples.
    """

    def __init__(self, connection: Connection, executor: Executor, row_factory: RowFactory | None) -> None:
        self.arraysize = 1
        self.row_factory = row_factory
        self._connection = connection
        self._executor = executor
        self._is_closed = False
        self._busy = threading.Lock()
        self._lastrowid: int | None = None
        self._columns: Sequence[str] = ()
        self._decltypes: Sequence[str | None] = ()
        self._rows: list[tuple[Any, ...]] | None = None
        self._position = 0
        self._rowcount = -1

    # -- running --------------------------------------------------------------------------------------

    def execute(self, sql: str, params: Any = (), /) -> Self:
        """Run one statement; a write is durable on a majority when this returns.

        `params`: a sequence for `?` and `?1`, a mapping for `:name`. Raises any class of `errors`; after an
        error whose `outcome` is UNKNOWN, or a KeyboardInterrupt, a write may have happened.
        """
        self._begin()
        try:
            statement = describe(sql)
            if not statement.is_single:
                raise ProgrammingError(_SEVERAL)
            if statement.kind is _READ:
                self._columns, self._decltypes, self._rows = self._executor.read(sql, params)[:3]
            elif statement.kind is StatementKind.EMPTY:
                pass
            elif self._executor.is_read(statement, sql):
                self._show_query(self._executor.read(sql, params))
            else:
                [result] = self._executor.write([(sql, params)])
                self._show_result(statement, result)
        finally:
            self._busy.release()
        return self

    def executemany(self, sql: str, seq_of_params: Iterable[Any], /) -> Self:
        """Run one INSERT, UPDATE, DELETE or REPLACE for each parameter set: as one unit, all or nothing.

        `rowcount` is the sum; rows of RETURNING are those of all sets, in order; `lastrowid` stays unchanged.
        """
        self._begin()
        try:
            statement = describe(sql)
            if not statement.is_single:
                raise ProgrammingError(_SEVERAL)
            check_no_transaction(statement)
            if statement.kind not in _CHANGING:
                raise ProgrammingError("executemany() runs INSERT, UPDATE, DELETE or REPLACE only")
            results = self._executor.write_repeated(sql, seq_of_params)
            self._rowcount = sum([result.rowcount for result in results])
            if results and results[0].columns is not None:
                rows = [row for result in results for row in result.rows or ()]
                self._show_rows(results[0].columns, rows)
        finally:
            self._busy.release()
        return self

    def executescript(self, script: str, /) -> Self:
        """Run a script's statements as one unit, all or nothing; their rows are dropped.

        One BEGIN at the start with a COMMIT at the end is accepted and changes nothing.
        """
        self._begin()
        try:
            if not isinstance(script, str):
                raise ProgrammingError(f"a script must be str, not {type(script).__name__}")
            statements = _without_frame(split_script(script))
            for sql in statements:
                check_no_transaction(describe(sql))
            if statements:
                self._executor.write([(sql, ()) for sql in statements])
        finally:
            self._busy.release()
        return self

    def _begin(self) -> None:
        """Take the cursor for one statement and drop its old result, BEFORE the statement is looked at."""
        if self._is_closed or self._executor.is_closed:
            self._check_open()
        if not self._busy.acquire(False):
            raise ProgrammingError("the cursor is running another statement: give each thread its own cursor")
        self._clear()

    # -- results --------------------------------------------------------------------------------------

    def _clear(self) -> None:
        self._rows = None
        self._position = 0
        self._rowcount = -1

    def _show_query(self, found: QueryResult) -> None:
        if found.columns:  # a PRAGMA that only acts has none
            self._columns, self._decltypes, self._rows = found[:3]

    def _show_rows(self, columns: Sequence[str], rows: list[tuple[Any, ...]]) -> None:
        self._columns, self._decltypes, self._rows = columns, (None,) * len(columns), rows

    def _show_result(self, statement: Statement, result: StatementResult) -> None:
        if statement.kind in _CHANGING:
            self._rowcount = result.rowcount
        if statement.kind is StatementKind.INSERT and result.rowcount > 0:
            self._lastrowid = result.last_insert_rowid
        if result.columns:
            self._show_rows(result.columns, list(result.rows or ()))

    def show(self, sql: str, result: StatementResult) -> Self:
        """Take over one result of a unit (Connection.execute_atomic)."""
        self._clear()
        self._show_result(describe(sql), result)
        return self

    @property
    def connection(self) -> Connection:
        return self._connection

    @property
    def description(self) -> Description | None:
        """(name, declared type or None, None × 5) for each column; None when there are no rows."""
        if self._rows is None:
            return None
        pairs = zip(self._columns, self._decltypes, strict=True)
        return tuple((name, decltype, None, None, None, None, None) for name, decltype in pairs)

    @property
    def rowcount(self) -> int:
        return self._rowcount

    @property
    def lastrowid(self) -> int | None:
        return self._lastrowid

    @property
    def rownumber(self) -> int | None:
        """The 0-based position of the next row; None without a result."""
        return None if self._rows is None else self._position

    def fetchone(self) -> Any:
        """The next row, or None at the end. Raises ProgrammingError when the statement returned no rows."""
        rows = self._rows
        if rows is None or self._is_closed or self._executor.is_closed:
            rows = self._check_rows()
        position = self._position
        if position >= len(rows):
            return None
        row = rows[position]
        self._position = position + 1
        return row if self.row_factory is None else self.row_factory(self, row)

    def fetchmany(self, size: int | None = None) -> list[Any]:
        """The next `size` (default `arraysize`) rows, fewer at the end."""
        count = self.arraysize if size is None else size
        if count < 0:
            raise ProgrammingError(f"fetchmany() takes a size of 0 or more, not {count}")
        return self._take(count)

    def fetchall(self) -> list[Any]:
        """All remaining rows."""
        rows = self._rows
        if rows is None or self._is_closed or self._executor.is_closed:
            rows = self._check_rows()
        taken = rows[self._position :]
        self._position = len(rows)
        factory = self.row_factory
        return taken if factory is None else [factory(self, row) for row in taken]

    def _take(self, count: int) -> list[Any]:
        taken = self._check_rows()[self._position : self._position + count]
        self._position += len(taken)
        factory = self.row_factory
        return taken if factory is None else [factory(self, row) for row in taken]

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        self._check_open()
        if self._rows is None or self._position >= len(self._rows):
            raise StopIteration
        return self.fetchone()

    def _check_rows(self) -> list[tuple[Any, ...]]:
        self._check_open()
        if self._rows is None:
            raise ProgrammingError(
                "no rows to fetch: the last statement does not return any, or none was run"
            )
        return self._rows

    # -- life -----------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._is_closed:
            raise ProgrammingError("the cursor is closed")
        self._executor.check_open()

    def close(self) -> None:
        """Drop the result; any later use raises ProgrammingError."""
        self._clear()
        self._is_closed = True

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def setinputsizes(self, sizes: Sequence[Any], /) -> None:
        """Accepted for PEP 249; does nothing."""
        self._check_open()

    def setoutputsize(self, size: int, column: int | None = None, /) -> None:
        """Accepted for PEP 249; does nothing."""
        self._check_open()


def _without_frame(statements: list[str]) -> list[str]:
    """Drop BEGIN … COMMIT around a whole script (as in a dump): the unit is that transaction."""
    if (
        len(statements) >= 2
        and describe(statements[0]).keyword == "BEGIN"
        and describe(statements[-1]).keyword in ("COMMIT", "END")
    ):
        return statements[1:-1]
    return statements
