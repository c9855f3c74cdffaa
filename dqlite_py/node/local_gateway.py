"""The Gateway of an embedded node: blocking calls of user threads, handed to the loop and back.

A write costs one hand-over; a read runs on the caller's own thread with a pooled read connection, after a read
barrier when it is linearizable. KeyboardInterrupt ends the wait, not a write that is already on its way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from dqlite_py.errors import Error, NodeStopped, NoLeader, OperationalError
from dqlite_py.gateway import QueryResult, ReadLevel, StatementResult, UnitResult
from dqlite_py.model import WriteKey
from dqlite_py.node.applier import Applier
from dqlite_py.node.client_sessions import KEYS_ARE_KNOWN
from dqlite_py.node.cluster_view import ClusterView
from dqlite_py.node.pending_write import PendingWrite, fence, unit_result
from dqlite_py.node.reads import ReadBarriers
from dqlite_py.node.tickets import Deadline, Inbox, Ticket, unknown_after
from dqlite_py.node.writes import Writes

_LINEARIZABLE: Final = ReadLevel.LINEARIZABLE


class LocalGateway:
    """Implements dqlite_py.gateway.Gateway; every method may be called from any thread but the loop's."""

    def __init__(
        self,
        *,
        inbox: Inbox,
        writes: Writes,
        reads: ReadBarriers,
        view: ClusterView,
        applier: Callable[[], Applier],
        spawn: Callable[[Any], Any],
    ) -> None:
        self._inbox = inbox
        self._writes = writes
        self._reads = reads
        self._view = view
        self._applier = applier
        self._spawn = spawn

    def execute_unit(self, database: str, body: bytes, timeout_s: float, *, once: bool = True) -> UnitResult:
        ticket = Ticket(self._inbox.turns)
        write = PendingWrite(
            database, body, ticket.resolve, Deadline(timeout_s), once=once and KEYS_ARE_KNOWN
        )
        return self._written(write, ticket)

    def resolve(self, database: str, key: WriteKey, timeout_s: float) -> UnitResult:
        ticket = Ticket(self._inbox.turns)
        return self._written(fence(database, key, ticket.resolve, Deadline(timeout_s)), ticket)

    def _written(self, write: PendingWrite, ticket: Ticket) -> UnitResult:
        self._inbox.put(self._writes.submit, write)
        try:
            # The loop answers at the deadline by itself when it can say more; the margin covers a busy loop.
            return unit_result(ticket.wait(write.deadline.timeout_s + 0.25, write.give_up))
        except KeyboardInterrupt:
            write.give_up()
            raise

    def write(self, database: str, unit: bytes, timeout_s: float) -> list[StatementResult]:
        ticket = Ticket(self._inbox.turns)
        write = PendingWrite(database, b"", ticket.resolve, Deadline(timeout_s), once=False, unit=unit)
        return self._written(write, ticket).statements or []

    def read(self, database: str, sql: str, params: Any, level: ReadLevel, timeout_s: float) -> QueryResult:
        if level is _LINEARIZABLE:
            deadline = Deadline(timeout_s)
            ticket = Ticket(self._inbox.turns)
            self._inbox.put(self._reads.barrier, database, ticket.resolve, deadline)
            ticket.wait(timeout_s, lambda: NoLeader(f"the read was not confirmed within {timeout_s:g} s"))
            timeout_s = deadline.left_s
        refusal = self._view.refusal(write=False)
        if refusal is not None:
            raise refusal
        pool = self._applier().readers.get(database)
        if pool is None:
            raise OperationalError(f"no such database here (yet): {database}")
        return pool.query(sql, params, timeout_s=timeout_s)

    def is_read(self, sql: str, database: str) -> bool:
        pool = self._applier().readers.get(database)
        if pool is None:
            raise OperationalError(f"no such database here (yet): {database}")
        return pool.classify(sql) == "read"

    def open_database(self, database: str, timeout_s: float) -> None:
        """Return when the database exists on this node; creates it through the log."""
        if database in self._applier().readers:
            return
        deadline = Deadline(timeout_s)
        self._run(self._open(database, deadline), timeout_s)

    async def _open(self, database: str, deadline: Deadline) -> None:
        await self._writes.open_database(database, deadline)
        while database not in self._applier().readers:
            if deadline.passed:
                raise OperationalError(f"database {database} is created, but this node has not caught up yet")
            await self._view.wait_change(0.02)

    def _run(self, coroutine: Any, timeout_s: float) -> Any:
        """Run a coroutine on the loop and wait for its result."""
        ticket = Ticket(self._inbox.turns)

        async def work() -> None:
            try:
                value = await coroutine
            except Error as error:
                ticket.resolve(None, error)
            except BaseException as error:
                ticket.resolve(None, NodeStopped(f"the call ended early: {error!r}"))
                raise
            else:
                ticket.resolve(value, None)

        try:
            self._inbox.put(lambda: self._spawn(work()))
        except NodeStopped:
            coroutine.close()
            raise
        return ticket.wait(timeout_s + 0.25, lambda: unknown_after(timeout_s))
