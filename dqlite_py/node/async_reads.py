"""The reading half of the AsyncGateway of an embedded node.

A barrier is handed to the node's loop and comes back through the Outbox, with all others that are answered together. A
query whose text has always been quick runs where it was asked for, as a change of threads costs several times as much;
it is broken off when it is not quick this time, and begins anew on a thread of the database's readers, like all others.

Cancelling a task ends the read where it runs, or before it runs.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from dqlite_py.gateway import (
    AsyncReadTransaction,
    Ending,
    Freshness,
    Interrupt,
    QueryResult,
    ReadLevel,
    ReadTransaction,
    RowStream,
    SqlParams,
    TransactionLimits,
)
from dqlite_py.node.read_gateway import ReadGateway, interrupted
from dqlite_py.node.tickets import Deadline

if TYPE_CHECKING:
    from dqlite_py.node.async_gateway import Outbox

_LINEARIZABLE: Final = ReadLevel.LINEARIZABLE
OutboxOfTask = Callable[[], "Outbox"]


class AsyncReads(ABC):
    def __init__(self, reads: ReadGateway) -> None:
        self._read_half = reads

    @abstractmethod
    def _outbox(self) -> Outbox:
        """Of the running loop."""

    async def query(
        self,
        database: str,
        sql: str,
        params: SqlParams,
        freshness: Freshness,
        timeout_s: float,
        interrupt: Interrupt | None = None,
    ) -> QueryResult:
        half = self._read_half
        if freshness.level is _LINEARIZABLE or not half.reads.is_fresh(database, freshness):
            timeout_s = await self._wait_fresh(database, freshness, timeout_s, interrupt)
        ending = Ending()
        found = half.query_if_quick(database, sql, params, freshness, timeout_s, ending)
        if found is None:
            work = partial(half.query_and_learn, database, sql, params, freshness, timeout_s, ending)
            found = await on_reader(half, database, self._outbox, work, ending.request, interrupt)
        return self._with_stream(database, found, ending, interrupt)

    async def begin_read(
        self, database: str, freshness: Freshness, timeout_s: float, limits: TransactionLimits
    ) -> AsyncReadTransaction:
        half = self._read_half
        if freshness.level is _LINEARIZABLE or not half.reads.is_fresh(database, freshness):
            timeout_s = await self._wait_fresh(database, freshness, timeout_s, None)
        work = partial(half.begin_read_here, database, timeout_s, limits)
        transaction = await on_reader(half, database, self._outbox, work, None)
        return AsyncTransactionOfReads(self, database, transaction)

    async def is_read(self, sql: str, database: str) -> bool:
        half = self._read_half
        return bool(await on_reader(half, database, self._outbox, partial(half.is_read, sql, database), None))

    async def _wait_fresh(
        self, database: str, freshness: Freshness, timeout_s: float, interrupt: Interrupt | None
    ) -> float:
        half, outbox, deadline = self._read_half, self._outbox(), Deadline(timeout_s)
        future = outbox.expect(deadline, lambda: half.reads.too_stale(database, freshness))
        put = partial(outbox.put, future)
        half.put_barrier(database, put, deadline, freshness)
        if interrupt is None:
            await outbox.wait(future)
            return deadline.left_s
        interrupt.set(lambda: put(None, interrupted()))
        try:
            await outbox.wait(future)
        finally:
            interrupt.set(None)
        return deadline.left_s

    def _with_stream(
        self, database: str, found: QueryResult, ending: Ending, interrupt: Interrupt | None
    ) -> QueryResult:
        if found.more is None:
            return found
        more: Any = AsyncHeldStream(self, database, found.more, ending, interrupt)
        return found._replace(more=more)


async def on_reader(
    half: ReadGateway,
    database: str,
    outbox_of_task: OutboxOfTask,
    work: Callable[[], Any],
    cancel: Callable[[], None] | None,
    interrupt: Interrupt | None = None,
) -> Any:
    """Run `work` on a thread of the database's readers. `cancel` is called when the task is cancelled meanwhile, or
    by `interrupt`."""
    pool = half.pool(database)
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    if interrupt is not None:
        interrupt.set(cancel)
    try:
        pool.call(work, partial(outbox_of_task().put, future))
        return await future
    except asyncio.CancelledError:
        if cancel is not None:
            cancel()
        raise
    finally:
        if interrupt is not None:
            interrupt.set(None)


class AsyncTransactionOfReads:
    """Implements dqlite_py.gateway.AsyncReadTransaction."""

    def __init__(self, reads: AsyncReads, database: str, transaction: ReadTransaction) -> None:
        self._reads = reads
        self._database = database
        self._transaction = transaction

    @property
    def log_index(self) -> int:
        return self._transaction.log_index

    async def query(
        self, sql: str, params: SqlParams, timeout_s: float, interrupt: Interrupt | None = None
    ) -> QueryResult:
        ending = Ending()
        work = partial(self._transaction.query, sql, params, timeout_s, ending)
        reads = self._reads
        found = await on_reader(
            reads._read_half, self._database, reads._outbox, work, ending.request, interrupt
        )
        return reads._with_stream(self._database, found, ending, interrupt)

    async def close(self) -> None:
        self._transaction.close()


class AsyncHeldStream:
    """Implements dqlite_py.gateway.AsyncRowStream."""

    def __init__(
        self,
        reads: AsyncReads,
        database: str,
        stream: RowStream,
        ending: Ending,
        interrupt: Interrupt | None,
    ) -> None:
        self._reads = reads
        self._database = database
        self._stream = stream
        self._ending = ending
        self._interrupt = interrupt

    async def fetch(self) -> Any:
        """A task that is cancelled closes the stream."""
        reads, stream = self._reads, self._stream
        try:
            end = self._ending.request
            return await on_reader(
                reads._read_half, self._database, reads._outbox, stream.fetch, end, self._interrupt
            )
        except asyncio.CancelledError:
            stream.close()
            raise

    async def close(self) -> None:
        self._stream.close()
