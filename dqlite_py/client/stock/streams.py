"""A result as it comes: the first rows, and the rest of them over the connection that has it. Loop thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from dqlite_py.client.stock.connection import StockConnection, rows
from dqlite_py.client.stock.failures import Doubtful, Refused, checked
from dqlite_py.client.stock.statements import Sql, decltypes, plain_rows
from dqlite_py.errors import Error, OperationalError, RequestTooLarge
from dqlite_py.gateway import Interrupt, QueryResult, Row
from dqlite_py.limits import RESULT_BYTES_MAX, STREAM_CHUNK_BYTES

_END_S: Final = 1.0  # dqlite sends the rest of a result before it looks at an INTERRUPT
_INTERRUPTED: Final = 9
Found = tuple[QueryResult, "Stream | None"]


@contextmanager
def interruptible(connection: StockConnection, interrupt: Interrupt | None) -> Iterator[None]:
    """`interrupt` closes the connection: dqlite reads nothing while it works. Any failure in between is then that.

    One that came since the request began (`begin`), while nothing was waited for, counts as well.
    """
    if interrupt is None:
        yield
        return
    loop = asyncio.get_running_loop()

    def end() -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(connection.abort, "interrupted")

    interrupt.set(end)
    try:
        if interrupt.is_requested:
            raise _interrupted()
        yield
    except Doubtful:
        if interrupt.is_requested:
            raise _interrupted() from None
        raise
    finally:
        interrupt.set(None)


def begin(interrupt: Interrupt | None) -> None:
    """A statement begins: what was asked for before does not concern it."""
    if interrupt is not None:
        interrupt.begin()


def _interrupted() -> OperationalError:
    return OperationalError("interrupted", code=_INTERRUPTED)


async def ask_rows(connection: StockConnection, sql: Sql) -> tuple[QueryResult, bool]:
    """The first rows, and whether more will come."""
    batch = rows(connection, checked(await connection.ask(sql.request())))
    columns = batch.columns
    result = QueryResult(columns, decltypes(batch.rows, len(columns)), plain_rows(batch.rows))
    return result, not batch.is_last


async def all_rows(connection: StockConnection, sql: Sql) -> QueryResult:
    """The whole result; raises RequestTooLarge, the connection closed, for one over RESULT_BYTES_MAX."""
    result, has_more = await ask_rows(connection, sql)
    total_bytes = connection.frame_bytes
    while has_more:
        batch = rows(connection, checked(await connection.receive()))
        result.rows.extend(plain_rows(batch.rows))
        has_more = not batch.is_last
        total_bytes += connection.frame_bytes
        if total_bytes > RESULT_BYTES_MAX:
            connection.abort("a result that is too large")
            raise RequestTooLarge(
                f"the result is over {RESULT_BYTES_MAX} bytes: read it outside a write transaction"
            )
    return result


class Stream:
    """See gateway.AsyncRowStream. `give_back(connection)` is called once, at the end."""

    def __init__(
        self,
        connection: StockConnection,
        timeout_s: float,
        interrupt: Interrupt | None,
        give_back: Callable[[StockConnection], object],
        spawn: Callable[[Any], object],
    ) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self._interrupt = interrupt
        self._give_back = give_back
        self._spawn = spawn
        self._kept: list[Row] = []  # taken off the connection, which was needed for something else
        self._failure: Exception | None = None
        self._is_over = False
        self._is_fetching = False
        self._ending: asyncio.Event | None = None  # set when the connection serves again after `close`
        self.fetched_bytes = 0  # by the last fetch

    async def fetch(self) -> list[Row]:
        """A failure ends the stream, and so does cancelling it."""
        if self._kept:
            found, self._kept = self._kept, []
            return found
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        if self._is_over:
            return []
        try:
            async with asyncio.timeout(self._timeout_s):
                with interruptible(self._connection, self._interrupt):
                    return await self._fetch()
        except (TimeoutError, Refused, Doubtful) as error:
            self._break()
            raise _as_error(error) from None
        except BaseException:
            self._break()
            raise

    async def _fetch(self) -> list[Row]:
        found: list[Row] = []
        self.fetched_bytes = 0
        self._is_fetching = True
        try:
            while self.fetched_bytes < STREAM_CHUNK_BYTES:
                batch = rows(self._connection, checked(await self._connection.receive()))
                self.fetched_bytes += self._connection.frame_bytes
                found.extend(plain_rows(batch.rows))
                if batch.is_last:
                    self._over()
                    break
        finally:
            self._is_fetching = False
        return found

    async def keep(self) -> None:
        """Take the rest off the connection; what is wrong with it is told by `fetch`."""
        total_bytes = 0
        if self._ending is not None:
            await self._ending.wait()
        try:
            while not self._is_over:
                self._kept.extend(await self._fetch())
                total_bytes += self.fetched_bytes
                if total_bytes > RESULT_BYTES_MAX:
                    raise RequestTooLarge(f"the rest of the result is over {RESULT_BYTES_MAX} bytes")
        except (Error, Refused, Doubtful) as error:
            self._failure = _as_error(error)
            self._connection.abort("the rest of the result cannot be kept")
            self._over()

    def close(self) -> None:
        self._kept.clear()
        if not self._is_over:
            self._is_over = True
            if self._is_fetching:
                self._connection.abort("the rest of the result is not read")
                self._give_back(self._connection)
            else:
                self._ending = asyncio.Event()
                self._spawn(self._end(self._ending))

    async def _end(self, ended: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(_END_S):
                await self._connection.end_rows()
        except (TimeoutError, Doubtful):
            self._connection.abort("the rest of the result is not read")
        finally:
            self._give_back(self._connection)
            ended.set()

    def _break(self) -> None:
        self._connection.abort("the rest of the result is not read")
        self._over()

    def _over(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._give_back(self._connection)


def _as_error(error: Exception) -> Exception:
    match error:
        case TimeoutError():
            return OperationalError("the rest of the result did not come in time")
        case Refused() | Doubtful():
            return OperationalError(f"the rest of the result is lost: {error}")
    return error
