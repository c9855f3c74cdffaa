"""The reading half of the AsyncGateway: the blocking one's methods on threads of the task's event loop.

Cancelling a task ends the read where it runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from dqlite_py.gateway import (
    AsyncReadTransaction,
    Freshness,
    Interrupt,
    QueryResult,
    ReadTransaction,
    RowStream,
    SqlParams,
    TransactionLimits,
)
from dqlite_py.node.read_gateway import ReadGateway


async def on_thread(function: Callable[..., Any], *args: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, function, *args)


async def interruptibly(function: Callable[..., Any], *args: Any, interrupt: Interrupt | None) -> Any:
    """Run `function(*args, interrupt)`; cancelled: interrupt it."""
    end = interrupt if interrupt is not None else Interrupt()
    try:
        return await on_thread(function, *args, end)
    except asyncio.CancelledError:
        end.request()
        raise


class ThreadedReads:
    def __init__(self, reads: ReadGateway) -> None:
        self._read_half = reads

    async def query(
        self,
        database: str,
        sql: str,
        params: SqlParams,
        freshness: Freshness,
        timeout_s: float,
        interrupt: Interrupt | None = None,
    ) -> QueryResult:
        found: QueryResult = await interruptibly(
            self._read_half.query, database, sql, params, freshness, timeout_s, interrupt=interrupt
        )
        return _streaming(found)

    async def begin_read(
        self, database: str, freshness: Freshness, timeout_s: float, limits: TransactionLimits
    ) -> AsyncReadTransaction:
        return ThreadedReadTransaction(
            await on_thread(self._read_half.begin_read, database, freshness, timeout_s, limits)
        )

    async def is_read(self, sql: str, database: str) -> bool:
        return bool(await on_thread(self._read_half.is_read, sql, database))


class ThreadedReadTransaction:
    def __init__(self, transaction: ReadTransaction) -> None:
        self._transaction = transaction

    @property
    def log_index(self) -> int:
        return self._transaction.log_index

    async def query(
        self, sql: str, params: SqlParams, timeout_s: float, interrupt: Interrupt | None = None
    ) -> QueryResult:
        return _streaming(
            await interruptibly(self._transaction.query, sql, params, timeout_s, interrupt=interrupt)
        )

    async def close(self) -> None:
        await on_thread(self._transaction.close)


class ThreadedRowStream:
    """Implements dqlite_py.gateway.AsyncRowStream."""

    def __init__(self, stream: RowStream) -> None:
        self._stream = stream

    async def fetch(self) -> Any:
        return await on_thread(self._stream.fetch)

    async def close(self) -> None:
        await on_thread(self._stream.close)


def _streaming(found: QueryResult) -> QueryResult:
    if found.more is None:
        return found
    more: Any = ThreadedRowStream(found.more)
    return found._replace(more=more)
