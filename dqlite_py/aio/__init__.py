"""The database API for asyncio: `async with dqlite_py.aio.connect(node, "app") as connection:`.

dbapi's behaviour with `await`; see dqlite_py.dbapi for module constants, exceptions and converters, which are shared.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Protocol

from dqlite_py.aio.connection import AsyncConnection
from dqlite_py.aio.cursor import AsyncCursor
from dqlite_py.dbapi.row import Row
from dqlite_py.dbapi.settings import TIMEOUT_S
from dqlite_py.gateway import AsyncGateway, ReadLevel

__all__ = ["AsyncConnection", "AsyncCursor", "ReadLevel", "Row", "connect"]


class HasAsyncGateway(Protocol):
    """A node, or whatever else leads to a cluster."""

    @property
    def async_gateway(self) -> AsyncGateway: ...


def connect(
    target: HasAsyncGateway | AsyncGateway, database: str, *, factory: Any = AsyncConnection, **options: Any
) -> _Connecting:
    """Open `database` on a node, creating it in the cluster when it does not exist.

    `connection = await connect(…)`, to be closed; or `async with connect(…) as connection:`, which commits at the end
    of its block, or rolls back when it raises, and closes. `options`: see dbapi.baseconnection.BaseConnection.
    """
    return _Connecting(target, database, factory, options)


class _Connecting:
    """A connection that is awaited, or opened and closed by a block."""

    def __init__(self, target: Any, database: str, factory: Any, options: dict[str, Any]) -> None:
        self._gateway: AsyncGateway = getattr(target, "async_gateway", target)
        self._database = database
        self._factory = factory
        self._options = options
        self._connection: Any = None

    async def _open(self) -> Any:
        connection = self._factory(self._gateway, self._database, **self._options)
        await self._gateway.open_database(self._database, self._options.get("timeout", TIMEOUT_S))
        return connection

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._open().__await__()

    async def __aenter__(self) -> Any:
        self._connection = await self._open()
        return self._connection

    async def __aexit__(self, kind: Any, exception: BaseException | None, traceback: Any) -> None:
        connection = self._connection
        try:
            if not connection.is_closed:
                await connection.__aexit__(kind, exception, traceback)
        finally:
            await connection.close()
