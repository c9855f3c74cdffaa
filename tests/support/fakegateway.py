"""Gateways for tests of the API layers: one over SQLite in memory, and a recorder around any gateway.

`FakeGateway` decodes units as the replicas do and follows the same rules (each unit's last_insert_rowid
starts from 0, one failing statement undoes its unit), but replicates nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import apsw
import apsw.ext
import msgpack

from dqlite_py.command import check_database_name, check_unit
from dqlite_py.errors import Error, OperationalError, ProgrammingError
from dqlite_py.gateway import PlainGateway, QueryResult, ReadLevel, StatementResult
from dqlite_py.storage.sqlerrors import error_from_apsw

_CHANGING = ("INSERT", "REPLACE", "UPDATE", "DELETE", "WITH")


class RecordingGateway:
    """Passes calls on to a gateway and notes them. `fail_next` makes the next write, read or open raise."""

    def __init__(self, inner: PlainGateway) -> None:
        self.inner = inner
        self.calls: list[str] = []
        self.units: list[list[Any]] = []
        self.levels: list[ReadLevel] = []
        self.timeouts: list[float] = []
        self.fail_next: BaseException | None = None
        self.before_write: Callable[[], None] = lambda: None

    def open_database(self, database: str, timeout_s: float) -> None:
        self._called("open_database", timeout_s)
        self.inner.open_database(database, timeout_s)

    def write(self, database: str, unit: bytes, timeout_s: float) -> list[StatementResult]:
        self._called("write", timeout_s)
        self.before_write()
        self.units.append(_statements(unit))
        return self.inner.write(database, unit, timeout_s)

    def read(self, database: str, sql: str, params: Any, level: ReadLevel, timeout_s: float) -> QueryResult:
        self._called("read", timeout_s)
        self.levels.append(level)
        return self.inner.read(database, sql, params, level, timeout_s)

    def is_read(self, sql: str, database: str) -> bool:
        self.calls.append("is_read")
        return self.inner.is_read(sql, database)

    def _called(self, name: str, timeout_s: float) -> None:
        self.calls.append(name)
        self.timeouts.append(timeout_s)
        failure, self.fail_next = self.fail_next, None
        if failure is not None:
            raise failure


class FakeGateway:
    """Implements dqlite_py.gateway.PlainGateway on databases in memory; thread-safe."""

    def __init__(self) -> None:
        self._databases: dict[str, apsw.Connection] = {}
        self._lock = threading.RLock()

    def open_database(self, database: str, timeout_s: float) -> None:
        with self._lock:
            if check_database_name(database) not in self._databases:
                connection = apsw.Connection(":memory:")
                connection.pragma("foreign_keys", True)
                connection.authorizer = _authorize
                self._databases[database] = connection

    def write(self, database: str, unit: bytes, timeout_s: float) -> list[StatementResult]:
        with self._lock:
            connection = self._database(database)
            connection.set_last_insert_rowid(0)
            results: list[StatementResult] = []
            connection.execute("BEGIN IMMEDIATE")
            try:
                for sql, params in _statements(unit):
                    results.append(_run(connection, sql, params))
            except (apsw.Error, KeyError) as error:
                connection.execute("ROLLBACK")
                raise _translate(error, statement=len(results)) from None
            connection.execute("COMMIT")
            return results

    def read(self, database: str, sql: str, params: Any, level: ReadLevel, timeout_s: float) -> QueryResult:
        with self._lock:
            connection = self._database(database)
            connection.pragma("query_only", True)
            try:
                columns = _columns(connection, sql)
                rows = list(connection.cursor().execute(sql, params))
            except (apsw.Error, KeyError) as error:
                raise _translate(error) from None
            finally:
                connection.pragma("query_only", False)
        return QueryResult(tuple(name for name, _ in columns), tuple(kind for _, kind in columns), rows)

    def is_read(self, sql: str, database: str) -> bool:
        with self._lock:
            try:
                details = apsw.ext.query_info(self._database(database), sql)
            except apsw.Error as error:
                raise _translate(error) from None
            return bool(details.is_readonly) or sql.lstrip().upper().startswith("PRAGMA")  # as a node does

    def _database(self, database: str) -> apsw.Connection:
        if database not in self._databases:
            raise OperationalError(f"no such database: {database}")
        return self._databases[database]


def _statements(unit: bytes) -> list[Any]:
    """[[sql, params], …] with back references replaced by their SQL."""
    strings: list[str] = []
    statements: list[Any] = []
    for sql, params in msgpack.unpackb(check_unit(unit), raw=False)[2]:
        if isinstance(sql, str):
            strings.append(sql)
        statements.append([sql if isinstance(sql, str) else strings[sql], params])
    return statements


def _run(connection: apsw.Connection, sql: str, params: Any) -> StatementResult:
    columns = tuple(name for name, _ in _columns(connection, sql))
    rows = list(connection.cursor().execute(sql, params))
    changes = connection.changes() if sql.lstrip().upper().startswith(_CHANGING) else -1
    rowid = connection.last_insert_rowid()
    return StatementResult(changes, rowid, columns, rows) if columns else StatementResult(changes, rowid)


def _columns(connection: apsw.Connection, sql: str) -> Sequence[tuple[str, str | None]]:
    return apsw.ext.query_info(connection, sql).description


def _authorize(action: int, *_names: Any) -> int:
    refused = (apsw.SQLITE_ATTACH, apsw.SQLITE_DETACH, apsw.SQLITE_CREATE_TEMP_TABLE)
    return apsw.SQLITE_DENY if action in refused else apsw.SQLITE_OK


def _translate(error: apsw.Error | KeyError, **details: Any) -> Error:
    if isinstance(error, KeyError):
        return ProgrammingError(f"no value for parameter {error}", **details)
    found = error_from_apsw(error)
    return type(found)(found.message, code=found.code, **details)
