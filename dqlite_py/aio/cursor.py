"""The cursor of dqlite_py.aio: dbapi.Cursor with `await`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self

from dqlite_py.aio.steps import drive
from dqlite_py.dbapi.basecursor import BaseCursor
from dqlite_py.dbapi.steps import Steps

if TYPE_CHECKING:
    from dqlite_py.aio.connection import AsyncConnection


class AsyncCursor(BaseCursor):
    """A result and the position in it; `async for row in cursor`. Create it with `AsyncConnection.cursor()`.

    Methods and attributes are those of dqlite_py.dbapi.Cursor. A cancelled call interrupts its statement; what is true
    of the transaction then, the connection's `in_transaction` and the next statement tell.
    """

    def __init__(self, connection: AsyncConnection, /) -> None:
        from dqlite_py.aio.connection import AsyncConnection

        if not isinstance(connection, AsyncConnection):
            raise TypeError(
                f"AsyncCursor() argument 1 must be an AsyncConnection, not {type(connection).__name__}"
            )
        self._bind(connection)

    @property
    def connection(self) -> AsyncConnection:
        return self._owner()

    # -- running --------------------------------------------------------------------------------------

    async def execute(
        self,
        sql: str,
        params: Any = (),
        /,
        *,
        read_level: Any = None,
        max_staleness: float | None = None,
        timeout: float | None = None,
    ) -> Self:
        """See dbapi.Cursor.execute."""
        await self._drive(self._run_one(sql, params, read_level, max_staleness, timeout))
        return self

    async def executemany(
        self, sql: str, seq_of_params: Iterable[Any], /, *, timeout: float | None = None
    ) -> Self:
        """See dbapi.Cursor.executemany."""
        await self._drive(self._run_many(sql, seq_of_params, timeout))
        return self

    async def executescript(self, script: str, /, *, timeout: float | None = None) -> Self:
        """See dbapi.Cursor.executescript."""
        await self._drive(self._run_script(script, timeout))
        return self

    async def _drive(self, steps: Steps[Any]) -> Any:
        owner = self._owner()
        owner._guard.check()
        async with owner._lock:
            return await drive(steps)

    # -- results --------------------------------------------------------------------------------------

    async def fetchone(self) -> Any:
        """The next row, or None at the end."""
        self._ready()
        return await self._drive(self._fetch_one())

    async def fetchmany(self, size: int | None = None) -> list[Any]:
        """The next `size` (default `arraysize`) rows, fewer at the end."""
        self._ready()
        found: list[Any] = await self._drive(self._fetch_some(self._count(size)))
        return found

    async def fetchall(self) -> list[Any]:
        """All remaining rows."""
        self._ready()
        found: list[Any] = await self._drive(self._fetch_some(None))
        return found

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        if not (self._owner()._guard.may_pass() and self._has_next()):
            self._ready()
            if self._state.rows is None or not await self._drive(self._state.more()):
                raise StopAsyncIteration
        return self._take_next()

    def _ready(self) -> None:
        self._owner()._guard.check()
        self._check_open()

    def _owner(self) -> AsyncConnection:
        if self._connection is None:
            self._check_open()
        found: Any = self._connection
        owner: AsyncConnection = found
        return owner

    # -- life -----------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Drop the result; any later use raises ProgrammingError."""
        await self._drive(self._finish())

    async def __aenter__(self) -> Self:
        self._ready()
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.close()

    def __del__(self) -> None:
        if self._connection is not None and self._state.rest is not None:
            self._owner()._leave_behind(self._state.drop())
