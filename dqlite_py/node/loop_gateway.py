"""The AsyncGateway of a node for tasks of the node's own loop: what clients of other protocols are served by.

Nothing is handed from thread to thread but SQL itself: reads run on the database's reader threads, statements of
transactions on the transactions' threads. An autocommit write needs no task either (`write`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

from dqlite_py.errors import Error
from dqlite_py.gateway import (
    AsyncWriteTransaction,
    Ending,
    Freshness,
    Interrupt,
    Once,
    QueryResult,
    SqlParams,
    StatementResult,
    TransactionLimits,
    UnitResult,
)
from dqlite_py.limits import REQUEST_TIMEOUT_MS
from dqlite_py.logs import event
from dqlite_py.model import WriteKey
from dqlite_py.node.async_gateway import SWEEP_S, Outbox
from dqlite_py.node.async_reads import AsyncReads, on_reader
from dqlite_py.node.cluster_view import ClusterView
from dqlite_py.node.local_gateway import LocalGateway, how
from dqlite_py.node.local_transactions import MARGIN_S, committed
from dqlite_py.node.pending_write import PendingWrite, fence, unit_result
from dqlite_py.node.read_gateway import interrupted
from dqlite_py.node.tickets import Deadline
from dqlite_py.node.transaction import Transaction, group_results
from dqlite_py.node.transaction_calls import HostedTransaction, LoopTransaction, settle
from dqlite_py.node.transactions import Beginning

T = TypeVar("T")
log = logging.getLogger("dqlite_py.node")
LEADERLESS_S: Final = REQUEST_TIMEOUT_MS / 1000  # nobody waits longer for a leader to be elected
INTERRUPT_AGAIN_S: Final = 0.05
Written = Callable[[UnitResult | None, Error | None], None]
"""Hears what became of a write: its result, or an error whose outcome is true."""


class Wait(NamedTuple):
    """How long a write is waited for: altogether, and when nobody leads."""

    deadline: Deadline
    without_leader: Deadline


class LoopGateway(AsyncReads):
    """Implements dqlite_py.gateway.AsyncGateway. The node's loop only."""

    def __init__(self, gateway: LocalGateway, loop: asyncio.AbstractEventLoop, view: ClusterView) -> None:
        super().__init__(gateway)
        self._gateway = gateway
        self._loop = loop
        self._box = Outbox(loop)
        self._view = view
        self._waiting: dict[PendingWrite, Wait] = {}
        self._is_watched = False

    def _outbox(self) -> Outbox:
        return self._box

    # -- units ------------------------------------------------------------------------------------------

    def write(
        self, database: str, body: bytes, timeout_s: float, written: Written, *, once: Once = True
    ) -> PendingWrite:
        """Commit statements as one unit; `written` hears exactly once, perhaps before this returns."""

        def answered(outcome: Any, error: Error | None) -> None:
            if self._waiting.pop(write, None) is None:
                return
            result: UnitResult | None = None
            if error is None:
                try:
                    result = unit_result(outcome)
                except Error as failed:
                    error = failed
            _tell(written, result, error)

        write = PendingWrite(database, body, answered, Deadline(timeout_s), **how(once))
        self._waiting[write] = Wait(Deadline(timeout_s + MARGIN_S), Deadline(LEADERLESS_S))
        if not self._is_watched:
            self._is_watched = True
            self._loop.call_later(SWEEP_S, self._sweep)
        self._gateway.writes.submit(write)
        return write

    def _sweep(self) -> None:
        """The log mostly answers in time by itself. What takes its time may, while there is a leader."""
        leads = self._view.writing_leader is not None
        late = [
            write
            for write, wait in self._waiting.items()
            if wait.deadline.passed or (not leads and wait.without_leader.passed)
        ]
        for write in late:
            write.callback(None, write.give_up())
        self._is_watched = bool(self._waiting)
        if self._is_watched:
            self._loop.call_later(SWEEP_S, self._sweep)

    async def execute_unit(
        self, database: str, body: bytes, timeout_s: float, *, once: Once = True
    ) -> UnitResult:
        """A task that is cancelled withdraws what is not on its way yet; the rest goes on."""
        future: asyncio.Future[UnitResult] = self._loop.create_future()
        write = self.write(database, body, timeout_s, settle(future), once=once)
        try:
            return await future
        except asyncio.CancelledError:
            self._gateway.writes.withdraw(write)
            raise

    def new_key(self, database: str) -> WriteKey:
        return self._gateway.new_key(database)

    async def resolve(self, database: str, key: WriteKey, timeout_s: float) -> UnitResult:
        future: asyncio.Future[Any] = self._loop.create_future()
        self._gateway.writes.submit(fence(database, key, settle(future), Deadline(timeout_s)))
        return unit_result(await future)

    # -- reads --------------------------------------------------------------------------------------------

    async def query(
        self,
        database: str,
        sql: str,
        params: SqlParams,
        freshness: Freshness,
        timeout_s: float,
        interrupt: Interrupt | None = None,
    ) -> QueryResult:
        """On a reader's thread however quick it may be: heartbeats wait for nobody's disk."""
        half = self._read_half
        if not half.reads.is_fresh(database, freshness):
            timeout_s = await self._wait_fresh(database, freshness, timeout_s, interrupt)
        ending = Ending()
        work = partial(half.query_here, database, sql, params, freshness, timeout_s, ending)
        found = await on_reader(half, database, self._outbox, work, ending.request, interrupt)
        return self._with_stream(database, found, ending, interrupt)

    async def check(self, database: str, sql: str) -> None:
        """Have SQLite look at a statement. Raises what is wrong with it."""
        half = self._read_half
        await on_reader(half, database, self._outbox, partial(half.pool(database).check, sql), None)

    async def decltypes(self, database: str, sql: str, params: SqlParams) -> tuple[str | None, ...]:
        """The declared types of what a write would return; () where they cannot be told."""
        half = self._read_half
        try:
            work = partial(half.pool(database).decltypes, sql, params)
            found: tuple[str | None, ...] = await on_reader(half, database, self._outbox, work, None)
        except Error:
            return ()  # what is wrong with it shows when it runs
        return found

    async def _wait_fresh(
        self, database: str, freshness: Freshness, timeout_s: float, interrupt: Interrupt | None
    ) -> float:
        half, deadline = self._read_half, Deadline(min(timeout_s, LEADERLESS_S))
        future = self._box.expect(deadline, lambda: half.reads.too_stale(database, freshness))
        if interrupt is not None:
            interrupt.set(lambda: settle(future)(None, interrupted()))
        try:
            half.reads.barrier(database, settle(future), deadline, freshness)
            await self._box.wait(future)
        finally:
            if interrupt is not None:
                interrupt.set(None)
        return timeout_s - (deadline.timeout_s - deadline.left_s)

    # -- transactions -----------------------------------------------------------------------------------

    async def begin(
        self, database: str, wait_s: float, limits: TransactionLimits, *, base_index: int | None = None
    ) -> AsyncWriteTransaction:
        """A task that is cancelled leaves the queue, or rolls back what has begun."""
        future: asyncio.Future[Any] = self._loop.create_future()
        begin = Beginning(database, wait_s, limits, settle(future), base_index=base_index)
        self._gateway.calls.begin_anywhere(begin)
        try:
            found = await future
        except asyncio.CancelledError:
            self._gateway.calls.leave(begin)
            raise
        if isinstance(found, Transaction):
            found = HostedTransaction(found, self._gateway.transactions)
        return TransactionOnLoop(found, self._loop)

    async def off_loop(self, function: Callable[..., T], *args: Any) -> T:
        """Run what takes time by itself on a thread of the transactions'."""
        return await self._loop.run_in_executor(self._gateway.transactions.executor, function, *args)

    # -- databases ----------------------------------------------------------------------------------------

    async def open_database(self, database: str, timeout_s: float) -> None:
        work = self._gateway.opening(database, Deadline(min(timeout_s, LEADERLESS_S)))
        if work is not None:
            await work()


class TransactionOnLoop:
    """Implements dqlite_py.gateway.AsyncWriteTransaction."""

    def __init__(self, transaction: LoopTransaction, loop: asyncio.AbstractEventLoop) -> None:
        self._transaction = transaction
        self._loop = loop
        self._interrupting: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        return self._transaction.is_open

    async def run(
        self, body: bytes, timeout_s: float, interrupt: Interrupt | None = None
    ) -> list[StatementResult]:
        """A task that is cancelled interrupts the statement."""
        transaction = self._transaction
        if interrupt is not None:
            interrupt.set(self._interrupt)
        try:
            found = await transaction.run(body, timeout_s)
        except asyncio.CancelledError:
            transaction.interrupt()
            raise
        finally:
            if interrupt is not None:
                interrupt.set(None)
            if self._interrupting is not None:
                self._interrupting.cancel()
                self._interrupting = None
        return group_results(found)

    def _interrupt(self) -> None:
        """Until the run is over: one that has not begun on its thread cannot be interrupted yet."""
        if self._interrupting is not None:
            self._interrupting.cancel()
        self._transaction.interrupt()
        self._interrupting = self._loop.call_later(INTERRUPT_AGAIN_S, self._interrupt)

    async def commit(self, timeout_s: float) -> UnitResult:
        """A task that is cancelled leaves a proposed unit to the log."""
        return committed(await self._transaction.commit(timeout_s))

    async def rollback(self) -> None:
        await self._transaction.rollback()


def _tell(written: Written, result: UnitResult | None, error: Error | None) -> None:
    """Others wait for the same entry: what one of them makes of its answer is not theirs to suffer."""
    try:
        written(result, error)
    except Exception:  # noqa: BLE001 - logged
        event(log, logging.ERROR, "an answer could not be delivered", exc_info=True)
