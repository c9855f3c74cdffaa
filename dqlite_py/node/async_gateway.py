"""The AsyncGateway of an embedded node, for tasks of any event loop but the node's own.

Calls are handed to the node's loop as threads' are, without a thread per call. Answers come back through one Outbox per
event loop: it is woken once for all that are answered together. Reads: async_reads.py.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final
from weakref import WeakKeyDictionary

from dqlite_py.errors import Error, NodeStopped
from dqlite_py.gateway import (
    AsyncWriteTransaction,
    Interrupt,
    Once,
    StatementResult,
    TransactionLimits,
    UnitResult,
)
from dqlite_py.model import WriteKey
from dqlite_py.node.async_reads import AsyncReads
from dqlite_py.node.local_gateway import BEGIN_GRACE_S, LocalGateway, how, not_begun
from dqlite_py.node.local_transactions import MARGIN_S, Begin, committed
from dqlite_py.node.pending_write import PendingWrite, fence, unit_result
from dqlite_py.node.read_gateway import interrupted
from dqlite_py.node.tickets import Deadline, unknown_after
from dqlite_py.node.transaction import GroupResult, Transaction, group_results
from dqlite_py.node.transaction_calls import GRACE_S, HostedTransaction, LoopTransaction
from dqlite_py.node.transactions import Beginning

SWEEP_S: Final = (
    0.1  # how late a task may hear that its time is over; the node's loop mostly tells it earlier
)
OnTimeout = Callable[[], Error]


class Outbox:
    """Answers on their way to the tasks of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._answers: deque[tuple[asyncio.Future[Any], Any, Error | None]] = deque()
        self._is_woken = False
        self._waiting: dict[asyncio.Future[Any], tuple[Deadline, OnTimeout]] = {}
        self._is_watched = False

    def expect(self, deadline: Deadline, on_timeout: OnTimeout) -> asyncio.Future[Any]:
        """On the loop: a future for `put`; it raises `on_timeout()` when nothing comes in time."""
        future = self._loop.create_future()
        self._waiting[future] = (deadline, on_timeout)
        if not self._is_watched:
            self._is_watched = True
            self._loop.call_later(SWEEP_S, self._sweep)
        return future

    async def wait(self, future: asyncio.Future[Any]) -> Any:
        """On the loop: the answer, or its error raised."""
        try:
            return await future
        finally:
            self._waiting.pop(future, None)

    def put(self, future: asyncio.Future[Any], value: Any, error: Error | None) -> None:
        """Any thread: `future` is answered. The loop may be closed: then nobody waits."""
        self._answers.append((future, value, error))
        if not self._is_woken:
            self._is_woken = True
            try:
                self._loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:
                self._answers.clear()

    def _deliver(self) -> None:
        self._is_woken = False  # BEFORE looking: what comes later wakes the loop again
        answers = self._answers
        while answers:
            future, value, error = answers.popleft()
            if future.done():
                continue
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)

    def _sweep(self) -> None:
        late = [future for future, (deadline, _) in self._waiting.items() if deadline.passed]
        for future in late:
            _, on_timeout = self._waiting.pop(future)
            if not future.done():
                future.set_exception(on_timeout())
        self._is_watched = bool(self._waiting)
        if self._is_watched:
            self._loop.call_later(SWEEP_S, self._sweep)


class AsyncLocalGateway(AsyncReads):
    """Implements dqlite_py.gateway.AsyncGateway."""

    def __init__(self, gateway: LocalGateway) -> None:
        super().__init__(gateway)
        self._gateway = gateway
        self._outboxes: WeakKeyDictionary[asyncio.AbstractEventLoop, Outbox] = WeakKeyDictionary()

    def _outbox(self) -> Outbox:
        loop = asyncio.get_running_loop()
        outbox = self._outboxes.get(loop)
        if outbox is None:
            outbox = self._outboxes[loop] = Outbox(loop)
        return outbox

    # -- units ------------------------------------------------------------------------------------------

    async def execute_unit(
        self, database: str, body: bytes, timeout_s: float, *, once: Once = True
    ) -> UnitResult:
        """A task that is cancelled withdraws what is not on its way yet; the rest goes on."""
        write = PendingWrite(database, body, _nobody, Deadline(timeout_s), **how(once))
        return await self._written(write)

    def new_key(self, database: str) -> WriteKey:
        return self._gateway.new_key(database)

    async def resolve(self, database: str, key: WriteKey, timeout_s: float) -> UnitResult:
        return await self._written(fence(database, key, _nobody, Deadline(timeout_s)))

    async def _written(self, write: PendingWrite) -> UnitResult:
        outbox = self._outbox()
        future = outbox.expect(Deadline(write.deadline.timeout_s + MARGIN_S), write.give_up)
        write.callback = partial(outbox.put, future)
        writes = self._gateway.writes
        self._gateway.hand_over(write)
        try:
            return unit_result(await outbox.wait(future))
        except asyncio.CancelledError:
            self._tell(writes.withdraw, write)
            raise

    # -- transactions -----------------------------------------------------------------------------------

    async def begin(
        self, database: str, wait_s: float, limits: TransactionLimits, *, base_index: int | None = None
    ) -> AsyncWriteTransaction:
        """A task that is cancelled leaves the queue, or rolls back what has begun."""
        outbox = self._outbox()
        begin = Beginning(database, wait_s, limits, _nobody, base_index=base_index)

        def late() -> Error:
            self._tell(self._gateway.calls.leave, begin)
            return not_begun(wait_s)

        future = outbox.expect(Deadline(wait_s + BEGIN_GRACE_S), late)
        begin.callback = partial(outbox.put, future)
        self._gateway.inbox.put(self._gateway.calls.begin_anywhere, begin)
        try:
            found = await outbox.wait(future)
        except asyncio.CancelledError:
            self._tell(self._gateway.calls.leave, begin)
            raise
        if isinstance(found, Transaction):
            found = HostedTransaction(found, self._gateway.transactions)
        return AsyncTransaction(found, self)

    # -- databases ----------------------------------------------------------------------------------------

    async def open_database(self, database: str, timeout_s: float) -> None:
        work = self._gateway.opening(database, Deadline(timeout_s))
        if work is not None:
            await self.on_node(work, timeout_s, lambda: unknown_after(timeout_s))

    # -- the node's loop ------------------------------------------------------------------------------------

    async def on_node(self, begin: Begin, timeout_s: float, on_timeout: OnTimeout) -> Any:
        """Run its coroutine on the node's loop. It goes on when the task is cancelled."""
        outbox = self._outbox()
        future = outbox.expect(Deadline(timeout_s + MARGIN_S), on_timeout)
        self._gateway.run_on_loop(begin, partial(outbox.put, future), on_timeout)
        return await outbox.wait(future)

    def _tell(self, function: Callable[..., None], *args: Any) -> None:
        """For whom a node that stops does as much."""
        try:
            self._gateway.inbox.put(function, *args)
        except NodeStopped:
            return

    def interrupt(self, transaction: LoopTransaction) -> None:
        self._tell(transaction.interrupt)


class AsyncTransaction:
    """Implements dqlite_py.gateway.AsyncWriteTransaction."""

    def __init__(self, transaction: LoopTransaction, gateway: AsyncLocalGateway) -> None:
        self._transaction = transaction
        self._gateway = gateway

    @property
    def is_open(self) -> bool:
        return self._transaction.is_open

    async def run(
        self, body: bytes, timeout_s: float, interrupt: Interrupt | None = None
    ) -> list[StatementResult]:
        """A task that is cancelled interrupts the statement."""
        transaction = self._transaction
        is_ended = False

        def end() -> None:
            nonlocal is_ended
            is_ended = True  # BEFORE the node's loop hears of it, which may not have begun
            self._gateway.interrupt(transaction)

        async def run() -> GroupResult:
            if is_ended:
                raise interrupted()
            return await transaction.run(body, timeout_s)

        if interrupt is not None:
            interrupt.set(end)
        try:
            found = await self._gateway.on_node(run, timeout_s + GRACE_S, lambda: unknown_after(timeout_s))
        except asyncio.CancelledError:
            end()
            raise
        finally:
            if interrupt is not None:
                interrupt.set(None)
        return group_results(found)

    async def commit(self, timeout_s: float) -> UnitResult:
        """It goes on when the task is cancelled, whose outcome is then unknown."""
        transaction = self._transaction
        return committed(
            await self._gateway.on_node(
                partial(transaction.commit, timeout_s),
                timeout_s,
                lambda: transaction.unknown_commit(timeout_s),
            )
        )

    async def rollback(self) -> None:
        try:
            await self._gateway.on_node(self._transaction.rollback, GRACE_S, lambda: unknown_after(GRACE_S))
        except Error:
            return  # nothing of it happens in any case


def _nobody(_value: Any, _error: Error | None) -> None:
    """Replaced before the call is handed over."""
