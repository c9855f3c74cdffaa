"""The SQLAlchemy dialect `dqlitepy+aio`: the same rules over `dqlite_py.aio`, for `create_async_engine`.

SQLAlchemy runs its own synchronous code in a greenlet and awaits where the driver does; the classes here adapt our
coroutines to that. Used on the event loop that the engine is used on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from sqlalchemy import pool
from sqlalchemy.connectors.asyncio import (
    AsyncAdapt_dbapi_connection,
    AsyncAdapt_dbapi_cursor,
    AsyncAdapt_dbapi_ss_cursor,
    AsyncAdapt_terminate,
)
from sqlalchemy.dialects.sqlite.base import SQLiteExecutionContext
from sqlalchemy.engine import URL
from sqlalchemy.util import await_only

from dqlite_py import client, dbapi
from dqlite_py.gateway import ReadLevel
from dqlite_py.sqlalchemy.dialect import DqliteDialect, check_members


class _Cursor(AsyncAdapt_dbapi_cursor):
    __slots__ = ()

    def _aenter_cursor(self, cursor: Any) -> Any:
        return cursor  # there is nothing to enter


class _StreamingCursor(AsyncAdapt_dbapi_ss_cursor):
    __slots__ = ()

    def _aenter_cursor(self, cursor: Any) -> Any:
        return cursor


class AdaptedConnection(AsyncAdapt_terminate, AsyncAdapt_dbapi_connection):
    """What SQLAlchemy sees of an `aio.Connection`."""

    __slots__ = ()
    _cursor_cls = _Cursor
    _ss_cursor_cls = _StreamingCursor

    @property
    def isolation_level(self) -> str | None:
        level: str | None = self._connection.isolation_level
        return level

    @isolation_level.setter
    def isolation_level(self, level: str | None) -> None:
        await_only(self._connection.set_isolation_level(level))

    @property
    def read_level(self) -> ReadLevel:
        level: ReadLevel = self._connection.read_level
        return level

    @read_level.setter
    def read_level(self, level: ReadLevel) -> None:
        self._connection.read_level = level

    @property
    def max_staleness(self) -> float | None:
        staleness: float | None = self._connection.max_staleness
        return staleness

    @max_staleness.setter
    def max_staleness(self, seconds: float | None) -> None:
        self._connection.max_staleness = seconds

    @property
    def autocommit(self) -> bool | int:
        autocommit: bool | int = self._connection.autocommit
        return autocommit

    @property
    def in_transaction(self) -> bool:
        return bool(self._connection.in_transaction)

    async def _terminate_graceful_close(self) -> None:
        await self._connection.close()

    def _terminate_force_close(self) -> None:
        """Outside of a greenlet nothing can be awaited: the connection leaves what is to do to its loop."""


class AdaptedDbapi:
    """The DB-API module as SQLAlchemy wants it: names of `dqlite_py.dbapi`, and a `connect` that awaits."""

    def __init__(self) -> None:
        self.connect: Final = _connect

    def __getattr__(self, name: str) -> Any:
        return getattr(dbapi, name)


def _connect(*, async_creator_fn: Callable[[], Awaitable[Any]]) -> AdaptedConnection:
    """By `create_async_engine(async_creator=…)`; within a greenlet of SQLAlchemy."""
    return AdaptedConnection(dbapi, await_only(async_creator_fn()))


class AioExecutionContext(SQLiteExecutionContext):
    def create_server_side_cursor(self) -> Any:
        return self._dbapi_connection.cursor(server_side=True)


class AioDqliteDialect(DqliteDialect):
    """`create_async_engine("dqlitepy+aio://…")`; see DqliteDialect."""

    driver = "aio"
    is_async = True
    has_terminate = True
    supports_statement_cache = True
    supports_server_side_cursors = True
    execution_ctx_cls = AioExecutionContext

    @classmethod
    def import_dbapi(cls) -> Any:
        return AdaptedDbapi()

    @classmethod
    def get_pool_class(cls, url: URL) -> type[pool.Pool]:
        return pool.AsyncAdaptedQueuePool

    def connect(self, *arguments: Any, **options: Any) -> Any:
        """Only asked when the engine has no creator."""
        target = check_members(*arguments)
        return _connect(
            async_creator_fn=lambda: client.connect_async(target.addresses, target.database, **options)
        )

    def get_driver_connection(self, connection: Any) -> Any:
        return connection._connection

    def do_terminate(self, dbapi_connection: Any) -> None:
        dbapi_connection.terminate()
