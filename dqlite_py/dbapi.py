"""The embedded database API (PEP 249): `node.connect("name")` or `connect(gateway, "name")`.

Differences from sqlite3, all on purpose:
- Every statement is its own transaction, durable on a majority when the call returns. So `commit()` has
  nothing left to do, and `rollback()` raises NotSupportedError when there are writes since the last commit()
  that it would have to undo. BEGIN, COMMIT, SAVEPOINT … are refused; `Connection.execute_atomic` runs a list
  of statements all or nothing, and so do `executemany` and `executescript`.
- `with connection:` leaves it open, as sqlite3 does. When the block raises, writes of the block stay; the
  exception carries a note that says so.
- Fetching from a statement that returns no rows raises ProgrammingError, as PEP 249 demands.
- Parameters are None, int, float, str, bytes; dates and times are stored as ISO text.

threadsafety is 2: a connection keeps no transaction between calls, and the node below serves any thread.
Cursors hold a position and are not shared. Does no networking of its own; runs on user threads, never on the
node's loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, Self

from dqlite_py import errors
from dqlite_py.command import check_database_name
from dqlite_py.dbapi_cursor import Cursor, RowFactory
from dqlite_py.dbapi_executor import ATOMIC_HINT, Executor, check_no_transaction
from dqlite_py.errors import (
    DatabaseError,
    DataError,
    Error,
    IntegrityError,
    InterfaceError,
    InternalError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
    Warning,
)
from dqlite_py.gateway import PlainGateway, ReadLevel
from dqlite_py.limits import REQUEST_TIMEOUT_MS
from dqlite_py.rows import (
    BINARY,
    DATETIME,
    NUMBER,
    ROWID,
    STRING,
    Binary,
    Date,
    DateFromTicks,
    Row,
    Time,
    TimeFromTicks,
    Timestamp,
    TimestampFromTicks,
)
from dqlite_py.sqltext import StatementKind, describe

__all__ = [
    "BINARY",
    "DATETIME",
    "NUMBER",
    "ROWID",
    "STRING",
    "Binary",
    "Connection",
    "Cursor",
    "DataError",
    "DatabaseError",
    "Date",
    "DateFromTicks",
    "Error",
    "IntegrityError",
    "InterfaceError",
    "InternalError",
    "NotSupportedError",
    "OperationalError",
    "ProgrammingError",
    "ReadLevel",
    "Row",
    "Time",
    "TimeFromTicks",
    "Timestamp",
    "TimestampFromTicks",
    "Warning",
    "apilevel",
    "connect",
    "paramstyle",
    "threadsafety",
]

apilevel: Final = "2.0"
threadsafety: Final = 2
paramstyle: Final = "qmark"  # named (:name) is accepted as well

TIMEOUT_S: Final = REQUEST_TIMEOUT_MS / 1000


def connect(
    gateway: PlainGateway,
    database: str,
    *,
    timeout: float = TIMEOUT_S,
    read_level: ReadLevel | str = ReadLevel.LINEARIZABLE,
    row_factory: RowFactory | None = None,
) -> Connection:
    """Open `database` on a node, creating it in the cluster when it does not exist.

    `timeout`: seconds that any one call may take. `read_level`: how fresh reads are. Raises InterfaceError
    for a bad argument, or what kept the cluster from opening the database in time.
    """
    connection = Connection(
        gateway, database, timeout=timeout, read_level=read_level, row_factory=row_factory
    )
    gateway.open_database(database, connection.timeout)
    return connection


class Connection:
    """One user of one database. Closing it leaves the node and the other connections alone.

    `row_factory`: given to the cursors created afterwards; see Cursor.
    """

    Warning = errors.Warning
    Error = errors.Error
    InterfaceError = errors.InterfaceError
    DatabaseError = errors.DatabaseError
    DataError = errors.DataError
    OperationalError = errors.OperationalError
    IntegrityError = errors.IntegrityError
    InternalError = errors.InternalError
    ProgrammingError = errors.ProgrammingError
    NotSupportedError = errors.NotSupportedError

    def __init__(
        self,
        gateway: PlainGateway,
        database: str,
        *,
        timeout: float = TIMEOUT_S,
        read_level: ReadLevel | str = ReadLevel.LINEARIZABLE,
        row_factory: RowFactory | None = None,
    ) -> None:
        """Bind to a database that exists already; `connect` creates it first."""
        self.row_factory = row_factory
        self._executor = Executor(
            gateway, check_database_name(database), _check_timeout(timeout), _check_level(read_level)
        )

    # -- statements -----------------------------------------------------------------------------------

    def cursor(self) -> Cursor:
        self._executor.check_open()
        return Cursor(self, self._executor, self.row_factory)

    def execute(self, sql: str, params: Any = (), /) -> Cursor:
        """Run one statement on a new cursor; see Cursor.execute."""
        return self.cursor().execute(sql, params)

    def executemany(self, sql: str, seq_of_params: Iterable[Any], /) -> Cursor:
        """Run one statement per parameter set, all or nothing, on a new cursor; see Cursor.executemany."""
        return self.cursor().executemany(sql, seq_of_params)

    def executescript(self, script: str, /) -> Cursor:
        """Run a script, all or nothing, on a new cursor; see Cursor.executescript."""
        return self.cursor().executescript(script)

    def execute_atomic(self, statements: Iterable[tuple[str, Any] | str], /) -> list[Cursor]:
        """Run statements as one unit: all of them happen, or none.

        `statements`: (sql, params) pairs, or just sql. Each sees what those before it did; SELECT is allowed.
        Returns a cursor per statement, holding its rows, rowcount and lastrowid. Raises the first failing
        statement's error; `details["statement"]` is its position.
        """
        pairs = [_check_pair(item) for item in statements]
        for sql, _params in pairs:
            statement = describe(sql)
            check_no_transaction(statement)
            if statement.kind is StatementKind.EMPTY or not statement.is_single:
                raise ProgrammingError(f"each item of execute_atomic() is one statement, not {sql!r:.80}")
        cursors = [self.cursor() for _pair in pairs]
        results = self._executor.write(pairs) if pairs else []
        return [
            cursor.show(sql, result)
            for cursor, (sql, _params), result in zip(cursors, pairs, results, strict=True)
        ]

    # -- transactions ---------------------------------------------------------------------------------

    def commit(self) -> None:
        """Do nothing: every statement is durable when it returns."""
        self._executor.check_open()
        self._executor.settle()

    def rollback(self) -> None:
        """Do nothing when nothing was written since the last commit(); else raise NotSupportedError.

        The writes are durable and cannot be undone; pretending otherwise would hide it. It raises once for
        them.
        """
        self._executor.check_open()
        writes = self._executor.settle()
        if writes:
            raise NotSupportedError(
                f"rollback() cannot undo {writes} write{'s' * (writes > 1)} since the last commit(): each "
                f"was durable when it returned; {ATOMIC_HINT}"
            )

    @property
    def in_transaction(self) -> bool:
        """Always False: no transaction stays open between calls."""
        return False

    @property
    def autocommit(self) -> bool:
        """Always True: each call commits by itself."""
        return True

    # -- settings -------------------------------------------------------------------------------------

    @property
    def database(self) -> str:
        return self._executor.database

    @property
    def timeout(self) -> float:
        """Seconds that any one call may take."""
        return self._executor.timeout_s

    @timeout.setter
    def timeout(self, seconds: float) -> None:
        self._executor.timeout_s = _check_timeout(seconds)

    @property
    def read_level(self) -> ReadLevel:
        return self._executor.read_level

    @read_level.setter
    def read_level(self, level: ReadLevel | str) -> None:
        self._executor.read_level = _check_level(level)

    # -- life -----------------------------------------------------------------------------------------

    @property
    def is_closed(self) -> bool:
        return self._executor.is_closed

    def close(self) -> None:
        """Refuse any later use of the connection and its cursors. Closing twice is allowed."""
        self._executor.close()

    def __enter__(self) -> Self:
        self._executor.check_open()
        self._executor.settle()
        return self

    def __exit__(self, _type: object, exception: BaseException | None, _traceback: object) -> None:
        writes = self._executor.settle()
        if exception is not None and writes:
            exception.add_note(
                f"dqlite_py: {writes} write{'s' * (writes > 1)} of this `with connection:` block "
                f"{'are' if writes > 1 else 'is'} durable already, or may be, and not rolled back"
            )

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else f"read_level={self.read_level.value}"
        return f"<dqlite_py Connection to {self.database!r}, {state}>"


def _check_timeout(seconds: float) -> float:
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < float("inf"):
        raise InterfaceError(f"timeout must be a number of seconds above 0, not {seconds!r}")
    return float(seconds)


def _check_level(level: ReadLevel | str) -> ReadLevel:
    try:
        return ReadLevel(level)
    except ValueError:
        names = ", ".join(known.value for known in ReadLevel)
        raise InterfaceError(f"read_level {level!r} is not known: use one of {names}") from None


def _check_pair(item: tuple[str, Any] | str) -> tuple[str, Any]:
    if isinstance(item, str):
        return item, ()
    if isinstance(item, Sequence) and len(item) == 2:
        return item[0], item[1]
    raise InterfaceError(f"each item of execute_atomic() is (sql, params) or sql, not {item!r:.80}")
