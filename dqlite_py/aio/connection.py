"""The database API for asyncio: `async with aio.connect(node, "app") as connection:`.

The same logic as dbapi's (its core), with the calls awaited. A connection belongs to the event loop that it was made
on; calls of several tasks on it take turns, but a transaction is the connection's: give each task its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Self

from dqlite_py.aio.cursor import AsyncCursor
from dqlite_py.aio.steps import drive
from dqlite_py.dbapi.baseconnection import BaseConnection
from dqlite_py.dbapi.dump import dump_steps
from dqlite_py.dbapi.settings import check_autocommit, check_isolation_level
from dqlite_py.dbapi.steps import Steps, once
from dqlite_py.dbapi.transaction import Transaction
from dqlite_py.gateway import AsyncGateway, WriteKey


class AsyncConnection(BaseConnection):
    """See BaseConnection for the options and the attributes, dbapi.Connection for the methods.

    `async with connection:` commits, or rolls back when its block raises, and leaves the connection open.
    """

    def __init__(self, gateway: AsyncGateway, database: str, **options: Any) -> None:
        self._lock = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        super().__init__(gateway, database, **options)

    # -- statements -----------------------------------------------------------------------------------

    def cursor(self, factory: Callable[[AsyncConnection], Any] = AsyncCursor) -> Any:
        """A new cursor; not a coroutine."""
        self._ready()
        cursor = factory(self)
        if not issubclass(type(cursor), AsyncCursor):  # whatever its __class__ says
            raise TypeError(f"factory must return a cursor, not {type(cursor).__name__}")
        if self.row_factory is not None:
            cursor.row_factory = self.row_factory
        return cursor

    async def execute(
        self,
        sql: str,
        params: Any = (),
        /,
        *,
        read_level: Any = None,
        max_staleness: float | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Run one statement on a new cursor, which is returned."""
        return await self.cursor().execute(
            sql, params, read_level=read_level, max_staleness=max_staleness, timeout=timeout
        )

    async def executemany(
        self, sql: str, seq_of_params: Iterable[Any], /, *, timeout: float | None = None
    ) -> Any:
        """Run one statement per parameter set on a new cursor."""
        return await self.cursor().executemany(sql, seq_of_params, timeout=timeout)

    async def executescript(self, script: str, /, *, timeout: float | None = None) -> Any:
        """Run a script on a new cursor."""
        return await self.cursor().executescript(script, timeout=timeout)

    async def execute_atomic(
        self,
        statements: Iterable[tuple[str, Any] | str],
        /,
        *,
        timeout: float | None = None,
        key: WriteKey | None = None,
    ) -> list[Any]:
        """Run statements as one unit, in one round; see dbapi.Connection.execute_atomic."""
        results = await self._drive(self._core.execute_atomic(statements, self._timeout(timeout), key))
        return [self._showing(result) for result in results]

    async def resolve(self, error: BaseException, timeout: float | None = None) -> Any:
        """Find out what became of a write; see dbapi.Connection.resolve."""
        return self._showing(await self._drive(self._core.resolve(error, self._timeout(timeout))))

    def _showing(self, result: Any) -> Any:
        cursor = self.cursor()
        cursor._show(result)
        return cursor

    def iterdump(self, *, filter: str | None = None) -> AsyncIterator[str]:
        """The database as SQL, of one state; for `async for`. See dbapi.Connection.iterdump."""
        self._ready()
        return self._dump(filter)

    async def _dump(self, pattern: str | None) -> AsyncIterator[str]:
        open_one = self._core.transaction
        transaction = Transaction(self._core) if open_one is None else open_one
        steps, value = dump_steps(self._core, transaction, pattern), None
        try:
            while True:
                step = steps.send(value)
                if isinstance(step, str):
                    value = None
                    yield step
                else:
                    value = await self._drive(once(step))
        except StopIteration:
            return
        finally:
            if open_one is None:
                async with self._lock:
                    await drive(transaction.rollback())

    # -- transactions ---------------------------------------------------------------------------------

    async def commit(self) -> None:
        """See dbapi.Connection.commit. Cancelled: the outcome is not known here."""
        await self._drive(self._core.commit())

    async def rollback(self) -> None:
        """Undo the open transaction; nothing to do without one."""
        await self._drive(self._core.rollback())

    async def set_isolation_level(self, level: str | None) -> None:
        """What assigning to `isolation_level` does on a sync connection: None commits."""
        await self._drive(self._core.set_isolation_level(check_isolation_level(level)))

    async def set_autocommit(self, value: bool | int) -> None:
        """What assigning to `autocommit` does on a sync connection: True commits, False begins."""
        await self._drive(self._core.set_autocommit(check_autocommit(value)))

    async def _drive(self, steps: Steps[Any]) -> Any:
        self._known()
        self._guard.check()
        async with self._lock:
            self._check_open()
            return await drive(steps)

    # -- life -----------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Roll back what is open and refuse any later use. Closing twice is allowed."""
        core = self._known()
        self._guard.check()
        async with self._lock:
            if not self._is_closed:
                self._is_closed = core.is_closed = True
                await drive(core.close())

    async def __aenter__(self) -> Self:
        self._ready()
        return self

    async def __aexit__(self, _type: object, exception: BaseException | None, _traceback: object) -> None:
        await self._drive(self._core.leave(failed=exception is not None))

    def __del__(self) -> None:
        if not self._is_closed and not self._guard.is_forked():
            self._is_closed = True
            if self._core.transaction is not None or self._core.rests:
                self._leave_behind(self._core.close())

    def _leave_behind(self, steps: Steps[None]) -> None:
        """Carry out what a forgotten object leaves to do, on its loop; the node's limits do it where that is gone."""
        if self._guard.is_forked() or self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(_begin, steps)


_left_behind: set[asyncio.Task[None]] = set()


def _begin(steps: Steps[None]) -> None:
    task = asyncio.get_running_loop().create_task(drive(steps))
    _left_behind.add(task)
    task.add_done_callback(_left_behind.discard)
