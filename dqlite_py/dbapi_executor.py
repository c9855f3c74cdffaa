"""What a Connection and its cursors share: the gateway, the settings and the account of writes already
durable.

Does no parsing and keeps no results. Called by dbapi and dbapi_cursor on user threads; safe to share among
them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

from dqlite_py.command import encode_repeated, encode_unit
from dqlite_py.errors import Error, InternalError, NotSupportedError, Outcome, ProgrammingError
from dqlite_py.gateway import PlainGateway, QueryResult, ReadLevel, StatementResult
from dqlite_py.rows import adapt_many, adapt_params, sql_params
from dqlite_py.sqltext import Statement, StatementKind

ATOMIC_HINT = (
    "use connection.execute_atomic([(sql, params), …]), which runs its statements as one all-or-nothing unit"
)


class Executor:
    """Runs reads and units on the gateway for one connection."""

    def __init__(self, gateway: PlainGateway, database: str, timeout_s: float, read_level: ReadLevel) -> None:
        self.database = database
        self.timeout_s = timeout_s
        self.read_level = read_level
        self.is_closed = False
        self._gateway: PlainGateway | None = gateway
        self._lock = threading.Lock()
        self._writes = 0

    # -- life -----------------------------------------------------------------------------------------

    def close(self) -> None:
        self.is_closed = True
        self._gateway = None

    def check_open(self) -> PlainGateway:
        gateway = self._gateway
        if gateway is None:
            raise ProgrammingError("the connection is closed")
        return gateway

    # -- statements -----------------------------------------------------------------------------------

    def is_read(self, statement: Statement, sql: str) -> bool:
        """Whether `sql` goes to `read`; refuses transaction control."""
        if statement.kind is StatementKind.ASK:
            return self.check_open().is_read(sql, self.database)
        check_no_transaction(statement)
        return statement.kind is StatementKind.READ

    def read(self, sql: str, params: Any) -> QueryResult:
        gateway = self._gateway or self.check_open()
        return gateway.read(self.database, sql, sql_params(params), self.read_level, self.timeout_s)

    def write(self, statements: Iterable[tuple[str, Any]]) -> list[StatementResult]:
        """Commit the statements as one unit; one result each."""
        pairs = [(sql, adapt_params(params)) for sql, params in statements]
        return self._commit(encode_unit(pairs), len(pairs))

    def write_repeated(self, sql: str, parameter_sets: Iterable[Any]) -> list[StatementResult]:
        """Commit one statement, executed for each parameter set, as one unit; one result each, none for none."""
        sets = adapt_many(parameter_sets)
        return self._commit(encode_repeated(sql, sets), len(sets)) if sets else []

    def _commit(self, unit: bytes, count: int) -> list[StatementResult]:
        gateway = self.check_open()
        try:
            results = gateway.write(self.database, unit, self.timeout_s)
        except Error as error:
            if error.outcome is Outcome.UNKNOWN:
                self._count_write()
            raise
        except BaseException:  # KeyboardInterrupt: it may still be committed
            self._count_write()
            raise
        self._count_write()
        if len(results) != count:
            raise InternalError(f"{len(results)} results came back for {count} statements")
        return results

    # -- the account of writes ------------------------------------------------------------------------

    def _count_write(self) -> None:
        with self._lock:
            self._writes += 1

    def settle(self) -> int:
        """Writes since the last call that are durable, or may be; the account starts again from zero."""
        with self._lock:
            writes, self._writes = self._writes, 0
            return writes


def check_no_transaction(statement: Statement) -> None:
    if statement.kind is StatementKind.TRANSACTION:
        raise NotSupportedError(
            f"{statement.keyword}: this release has no interactive transactions (every statement is durable "
            f"when it returns); {ATOMIC_HINT}"
        )
