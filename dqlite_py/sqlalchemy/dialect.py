"""The SQLAlchemy dialect `dqlitepy`: SQLAlchemy's own for SQLite, over a connection of dqlite_py.

SQL, types and reflection are SQLite's. Different here: where connections come from, how transactions begin
(transactions.py), read levels, which errors mean that a connection is of no use any more, and that the cluster's own
tables are not shown. `name` stays "sqlite", so that options (`sqlite_where`), `@compiles(…, "sqlite")`, variants and
Alembic's batch mode apply.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, Final

from sqlalchemy import pool
from sqlalchemy.dialects.sqlite.base import SQLiteDialect
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import IsolationLevel
from sqlalchemy.exc import ArgumentError

from dqlite_py import client
from dqlite_py.dbapi import LEGACY_TRANSACTION_CONTROL
from dqlite_py.errors import InterfaceError, JournalFailed, NodeStopped, NotLeader, ProgrammingError
from dqlite_py.gateway import ReadLevel
from dqlite_py.sqlalchemy.reading import Reading, argument, reading_of
from dqlite_py.sqlalchemy.transactions import (
    AUTOCOMMIT,
    LEVELS,
    READ_COMMITTED,
    SERIALIZABLE,
    Transactions,
    check_begin_mode,
)
from dqlite_py.sqlalchemy.urls import Target, target_of

RESERVED_PREFIX: Final = "_dqlite_"
_GONE: Final = (NodeStopped, NotLeader, JournalFailed)


class DqliteDialect(SQLiteDialect):
    """`create_engine("dqlitepy://…")`.

    begin_mode: how a SERIALIZABLE transaction begins: IMMEDIATE (default; it queues for the database and cannot fail
    because of others), DEFERRED (a snapshot that blocks nobody; a write in it fails with SnapshotConflict when the
    database was changed since), EXCLUSIVE (as IMMEDIATE). Also an execution option, and an option of the URL.
    read_level: how fresh reads are, as for `connect`; transactions are DEFERRED then, unless a statement's options
    say how to begin. Also an execution option, and an option of the URL.
    """

    driver = "dqlitepy"
    default_paramstyle = "qmark"
    returns_native_bytes = True
    supports_statement_cache = True
    supports_sane_rowcount_returning = True

    def __init__(self, begin_mode: str = "IMMEDIATE", read_level: Any = None, **options: Any) -> None:
        super().__init__(**options)
        self._transactions = Transactions(argument(check_begin_mode, begin_mode))
        self._read_level = None if read_level is None else argument(ReadLevel, read_level)

    # -- connections ------------------------------------------------------------------------------------------

    @classmethod
    def import_dbapi(cls) -> ModuleType:
        return importlib.import_module("dqlite_py.dbapi")

    @classmethod
    def get_pool_class(cls, url: URL) -> type[pool.Pool]:
        return pool.QueuePool

    @classmethod
    def get_async_dialect_cls(cls, url: URL) -> type[SQLiteDialect]:
        """`create_async_engine("dqlitepy://…")` needs no `+aio`."""
        found: type[SQLiteDialect] = importlib.import_module("dqlite_py.sqlalchemy.aio").AioDqliteDialect
        return found

    def create_connect_args(self, url: URL) -> tuple[Sequence[Any], dict[str, Any]]:
        target = target_of(url)
        if "begin_mode" in target.options:
            self._transactions.begin_mode = argument(check_begin_mode, target.options.pop("begin_mode"))
        if "read_level" in target.options:
            self._read_level = argument(ReadLevel, target.options.pop("read_level"))
        return (target,), target.options

    def connect(self, *arguments: Any, **options: Any) -> Any:
        """Only asked when the engine has no `creator`. Pools hand connections from thread to thread."""
        target = check_members(*arguments)
        return client.connect(target.addresses, target.database, **{"check_same_thread": False, **options})

    def on_connect(self) -> Callable[[Any], None]:
        return _check_autocommit

    def _get_server_version_info(self, connection: Any) -> tuple[int, ...]:
        version: tuple[int, ...] = self.loaded_dbapi.sqlite_version_info
        return version

    def is_disconnect(self, error: Any, connection: Any, cursor: Any) -> bool:
        if isinstance(error, _GONE):
            return True
        return isinstance(error, (ProgrammingError, InterfaceError)) and "closed" in str(error).lower()

    def do_ping(self, dbapi_connection: Any) -> bool:
        """Whether the connection can be used at all: asks this node only, not the cluster."""
        with Reading(ReadLevel.STALE, None).on(dbapi_connection):
            return bool(super().do_ping(dbapi_connection))

    # -- transactions -----------------------------------------------------------------------------------------

    def get_isolation_level_values(self, dbapi_connection: Any) -> Sequence[IsolationLevel]:
        return LEVELS

    def get_isolation_level(self, dbapi_connection: Any) -> IsolationLevel:
        return _LEVEL_OF.get(dbapi_connection.isolation_level, SERIALIZABLE)

    def set_isolation_level(self, dbapi_connection: Any, level: IsolationLevel) -> None:
        dbapi_connection.isolation_level = _SETTING_OF[level]

    def detect_autocommit_setting(self, dbapi_connection: Any) -> bool:
        return self.get_isolation_level(dbapi_connection) == AUTOCOMMIT

    def do_begin(self, dbapi_connection: Any) -> None:
        self._transactions.announce(_info(dbapi_connection), self.get_isolation_level(dbapi_connection))

    def do_commit(self, dbapi_connection: Any) -> None:
        self._transactions.end(_info(dbapi_connection), dbapi_connection.in_transaction, is_commit=True)
        try:
            dbapi_connection.commit()
        except Exception:
            # SQLAlchemy takes it as ended, and sends no ROLLBACK; deferred foreign keys leave it open.
            if dbapi_connection.in_transaction:
                dbapi_connection.rollback()
            raise

    def do_rollback(self, dbapi_connection: Any) -> None:
        self._transactions.end(_info(dbapi_connection), dbapi_connection.in_transaction, is_commit=False)
        super().do_rollback(dbapi_connection)

    # -- statements -------------------------------------------------------------------------------------------

    def do_execute(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        reading = self._before(statement, context)
        if reading is None:
            cursor.execute(statement, parameters)
        else:
            with reading.on(context.root_connection.connection.dbapi_connection):
                cursor.execute(statement, parameters)

    def do_execute_no_params(self, cursor: Any, statement: str, context: Any = None) -> None:
        self.do_execute(cursor, statement, (), context)

    def do_executemany(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        self._before(statement, context)
        cursor.executemany(statement, parameters)

    def _before(self, statement: str, context: Any) -> Reading | None:
        """Begin the announced transaction if the statement needs it; returns how fresh the statement's reads are."""
        if context is None:
            return None
        proxy = context.root_connection.connection
        connection = proxy.dbapi_connection
        reading = reading_of(context.execution_options, self._read_level)
        begin = self._transactions.wanted(
            proxy.info,
            self.get_isolation_level(connection),
            connection.in_transaction,
            statement,
            _begin_mode(context.execution_options, reading),
        )
        if begin is not None:
            _run(connection, begin)
        return reading

    # -- reflection -------------------------------------------------------------------------------------------

    def get_table_names(
        self, connection: Any, schema: Any = None, sqlite_include_internal: Any = False, **options: Any
    ) -> list[str]:
        names = super().get_table_names(connection, schema, sqlite_include_internal, **options)
        return [name for name in names if not is_reserved(name)]

    def has_table(self, connection: Any, table_name: str, schema: Any = None, **options: Any) -> bool:
        return not is_reserved(table_name) and super().has_table(connection, table_name, schema, **options)


_SETTING_OF: Final[Mapping[IsolationLevel, str | None]] = {
    SERIALIZABLE: "",
    READ_COMMITTED: "IMMEDIATE",
    AUTOCOMMIT: None,
}
_LEVEL_OF: Final[Mapping[str | None, IsolationLevel]] = {None: AUTOCOMMIT, "IMMEDIATE": READ_COMMITTED}


def is_reserved(name: str) -> bool:
    """Whether a table is the cluster's own."""
    return name.lower().startswith(RESERVED_PREFIX)


def check_members(target: Target) -> Target:
    """Raises ArgumentError when the URL leads nowhere."""
    if not target.addresses:
        raise ArgumentError(
            f"the URL names no member of a cluster: write dqlitepy://host:9001/{target.database}, or, for a node in "
            f'this process, dqlite_py.sqlalchemy.engine_for(node, "{target.database}")'
        )
    return target


def _begin_mode(options: Mapping[str, Any], reading: Reading | None) -> str | None:
    """What the options of a statement say; who asks for a read level reads, and waits for no writer."""
    if "begin_mode" in options:
        return argument(check_begin_mode, options["begin_mode"])
    return None if reading is None else "DEFERRED"


def _check_autocommit(connection: Any) -> None:
    """With that attribute the driver begins and ends transactions by other rules; commit() would do nothing."""
    if connection.autocommit != LEGACY_TRANSACTION_CONTROL:
        raise ArgumentError(
            "connect without autocommit: SQLAlchemy has isolation_level='AUTOCOMMIT', for an engine or a connection"
        )


def _info(proxy: Any) -> dict[Any, Any]:
    """The pool's notes on a connection, which live as long as it."""
    try:
        info: dict[Any, Any] = proxy.info
    except RuntimeError:  # SQLAlchemy's first look at a new connection, in no transaction
        return {}
    return info


def _run(connection: Any, sql: str) -> None:
    cursor = connection.cursor()
    try:
        cursor.execute(sql)
    finally:
        cursor.close()
