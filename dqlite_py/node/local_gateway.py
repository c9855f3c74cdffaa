"""The Gateway of an embedded node: blocking calls of user threads, handed to the loop and back.

A write costs one hand-over. KeyboardInterrupt ends the wait and withdraws a write that is not on its way yet.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

from dqlite_py.errors import DatabaseLocked, Error, NodeStopped, OperationalError
from dqlite_py.gateway import Once, TransactionLimits, UnitResult, WriteKey, WriteTransaction
from dqlite_py.node.applier import Applier
from dqlite_py.node.cluster_view import ClusterView
from dqlite_py.node.local_transactions import MARGIN_S, Begin, BlockingTransaction, LocalTransaction
from dqlite_py.node.pending_write import PendingWrite, fence, unit_result
from dqlite_py.node.read_gateway import ReadGateway
from dqlite_py.node.reads import ReadBarriers
from dqlite_py.node.tickets import Deadline, Inbox, Ticket, unknown_after
from dqlite_py.node.transaction import Transaction
from dqlite_py.node.transaction_calls import TransactionCalls
from dqlite_py.node.transactions import Beginning, Transactions
from dqlite_py.node.writes import Writes
from dqlite_py.sqlite_codes import BUSY

BEGIN_GRACE_S: Final = 5.0  # the loop says by itself that the time is over


class LocalGateway(ReadGateway):
    """Implements dqlite_py.gateway.Gateway; every method may be called from any thread but the loop's."""

    def __init__(
        self,
        *,
        inbox: Inbox,
        writes: Writes,
        reads: ReadBarriers,
        view: ClusterView,
        applier: Callable[[], Applier],
        transactions: Transactions,
        calls: TransactionCalls,
        spawn: Callable[[Any], Any],
    ) -> None:
        super().__init__(inbox=inbox, reads=reads, view=view, applier=applier)
        self.inbox = inbox
        self.writes = writes
        self.transactions = transactions
        self.calls = calls
        self._spawn = spawn

    # -- units ------------------------------------------------------------------------------------------

    def execute_unit(self, database: str, body: bytes, timeout_s: float, *, once: Once = True) -> UnitResult:
        ticket = Ticket(self.inbox.turns)
        write = PendingWrite(database, body, ticket.resolve, Deadline(timeout_s), **how(once))
        return self._written(write, ticket)

    def hand_over(self, write: PendingWrite) -> None:
        """To the loop. Raises NodeStopped, of a question what became of a write OutcomeUnknown."""
        try:
            self.inbox.put(self.writes.submit, write)
        except NodeStopped as error:
            if write.is_uncertain:
                raise write.unknown(str(error)) from None
            raise

    def new_key(self, database: str) -> WriteKey:
        return self.writes.sessions.new()

    def resolve(self, database: str, key: WriteKey, timeout_s: float) -> UnitResult:
        ticket = Ticket(self.inbox.turns)
        return self._written(fence(database, key, ticket.resolve, Deadline(timeout_s)), ticket)

    def _written(self, write: PendingWrite, ticket: Ticket) -> UnitResult:
        self.hand_over(write)
        try:
            # The loop answers at the deadline by itself when it can say more; the margin covers a busy loop.
            return unit_result(ticket.wait(write.deadline.timeout_s + MARGIN_S, write.give_up))
        except Error:
            raise
        except BaseException:  # a KeyboardInterrupt, or what else a signal's handler raises
            write.give_up()
            self._tell(self.writes.withdraw, write)
            raise

    # -- transactions -----------------------------------------------------------------------------------

    def begin(
        self, database: str, wait_s: float, limits: TransactionLimits, *, base_index: int | None = None
    ) -> WriteTransaction:
        ticket = Ticket(self.inbox.turns)
        begin = Beginning(database, wait_s, limits, ticket.resolve, base_index=base_index)
        self.inbox.put(self.calls.begin_anywhere, begin)
        try:
            found = ticket.wait(wait_s + BEGIN_GRACE_S, lambda: not_begun(wait_s))
        except BaseException as error:
            if ticket.abandoned or not isinstance(error, Error):
                self._tell(self.calls.leave, begin)
            raise
        if isinstance(found, Transaction):
            return LocalTransaction(found, self.transactions, self.inbox)
        return BlockingTransaction(found, self._run, self.inbox)

    def _tell(self, function: Callable[..., None], *args: Any) -> None:
        with suppress(NodeStopped):  # which does as much
            self.inbox.put(function, *args)

    # -- databases --------------------------------------------------------------------------------------

    def open_database(self, database: str, timeout_s: float) -> None:
        """Return when the database exists on this node; creates it through the log."""
        work = self.opening(database, Deadline(timeout_s))
        if work is not None:
            self._run(work, timeout_s, lambda: unknown_after(timeout_s))

    def opening(self, database: str, deadline: Deadline) -> Begin | None:
        """What the loop has to do for that; None: nothing."""
        return None if database in self._applier().readers else partial(self._open, database, deadline)

    async def _open(self, database: str, deadline: Deadline) -> None:
        await self.writes.open_database(database, deadline)
        while database not in self._applier().readers and not self._view.is_spare:
            if deadline.passed:
                raise OperationalError(f"database {database} is created, but this node has not caught up yet")
            await self._view.wait_change(0.02)

    async def drop(self, database: str, deadline: Deadline) -> None:
        """Remove it everywhere. Returns when it is gone here, too, so that whoever asked can make it anew at once, or
        when the time is over: the log has it. On the loop."""
        index = await self.writes.drop_database(database, deadline)
        applier = self._applier
        while applier().dispatched_index < index and not deadline.passed and not self._view.is_spare:
            await self._view.wait_change(min(0.02, deadline.left_s))

    # -- the loop -----------------------------------------------------------------------------------------

    def _run(self, begin: Begin, timeout_s: float, on_timeout: Callable[[], Error]) -> Any:
        """Run a coroutine on the loop and wait for its result."""
        ticket = Ticket(self.inbox.turns)
        self.run_on_loop(begin, ticket.resolve, on_timeout)
        return ticket.wait(timeout_s + MARGIN_S, on_timeout)

    def run_on_loop(
        self, begin: Begin, resolve: Callable[[Any, Error | None], None], on_end: Callable[[], Error]
    ) -> None:
        """Make a coroutine there, and run it; `resolve` hears on the loop, `on_end()` when the node stops in the
        middle. Raises NodeStopped: it was not begun."""

        async def work() -> None:
            try:
                value = await begin()
            except Error as error:
                resolve(None, error)
            except BaseException:
                resolve(None, on_end())
                raise
            else:
                resolve(value, None)

        self.inbox.put(lambda: self._spawn(work()))


def how(once: Once) -> dict[str, Any]:
    """Arguments of PendingWrite."""
    return {"once": False, "key": once} if isinstance(once, WriteKey) else {"once": once}


def not_begun(wait_s: float) -> DatabaseLocked:
    return DatabaseLocked(f"database is locked: the transaction did not begin within {wait_s:g} s", code=BUSY)
