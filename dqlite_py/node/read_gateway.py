"""The reading half of an embedded node's Gateway: on the caller's own thread, with a pooled read connection.

A read that needs no barrier (stale, session and leader reads mostly do not) touches the loop not at all; the others
hand it one call. KeyboardInterrupt and Interrupt end the wait and the query.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from dqlite_py.errors import NodeStopped, OperationalError, RequestTooLarge
from dqlite_py.gateway import (
    Freshness,
    Interrupt,
    QueryResult,
    ReadLevel,
    ReadTransaction,
    SqlParams,
    TransactionLimits,
)
from dqlite_py.limits import RESULT_BYTES_MAX
from dqlite_py.node.applier import Applier
from dqlite_py.node.cluster_view import ClusterView
from dqlite_py.node.reads import ReadBarriers
from dqlite_py.node.tickets import Deadline, Inbox, Ticket
from dqlite_py.storage.reader import VALUE_BYTES
from dqlite_py.storage.readers import HoldLimits, ReaderPool

_LINEARIZABLE: Final = ReadLevel.LINEARIZABLE
_SESSION: Final = ReadLevel.SESSION
SQLITE_INTERRUPT: Final = 9


class ReadGateway:
    """Any thread but the loop's."""

    def __init__(
        self, *, inbox: Inbox, reads: ReadBarriers, view: ClusterView, applier: Callable[[], Applier]
    ) -> None:
        self._inbox = inbox
        self._reads = reads
        self._view = view
        self._applier = applier

    def query(
        self,
        database: str,
        sql: str,
        params: SqlParams,
        freshness: Freshness,
        timeout_s: float,
        interrupt: Interrupt | None = None,
    ) -> QueryResult:
        """As Gateway.query. Raises NoLeader and TooStale (nothing was read), Busy, and what SQLite reports."""
        if freshness.level is _LINEARIZABLE or not self._reads.is_fresh(database, freshness):
            timeout_s = self.wait_fresh(database, freshness, timeout_s, interrupt)
        return self.query_here(database, sql, params, freshness, timeout_s, interrupt)

    def query_here(
        self,
        database: str,
        sql: str,
        params: SqlParams,
        freshness: Freshness,
        timeout_s: float,
        interrupt: Interrupt | None = None,
    ) -> QueryResult:
        """The query alone: its barrier is behind it."""
        pool = self._pool(database)
        if freshness.level is _SESSION:
            found = pool.stream(sql, params, timeout_s=timeout_s, interrupt=interrupt, with_index=True)
            if found.log_index < freshness.log_index:  # what came between was for other databases
                found = found._replace(log_index=freshness.log_index)
        else:
            found = pool.stream(sql, params, timeout_s=timeout_s, interrupt=interrupt)
        if found.more is not None:
            self._reads.watch_held()
        return found

    def begin_read(
        self, database: str, freshness: Freshness, timeout_s: float, limits: TransactionLimits
    ) -> ReadTransaction:
        """As Gateway.begin_read. Raises as `query`."""
        if freshness.level is _LINEARIZABLE or not self._reads.is_fresh(database, freshness):
            timeout_s = self.wait_fresh(database, freshness, timeout_s)
        return self.begin_read_here(database, timeout_s, limits)

    def begin_read_here(self, database: str, timeout_s: float, limits: TransactionLimits) -> ReadTransaction:
        transaction = self._pool(database).begin(
            HoldLimits(limits.idle_s, limits.hold_s), timeout_s=timeout_s
        )
        self._reads.watch_held()
        return transaction

    def read(self, database: str, sql: str, params: Any, level: ReadLevel, timeout_s: float) -> QueryResult:
        """The whole result at once; raises RequestTooLarge as well."""
        found = self.query(database, sql, params, Freshness(level), timeout_s)
        return found if found.more is None else _whole(found)

    def is_read(self, sql: str, database: str) -> bool:
        return self._pool(database).classify(sql) == "read"

    # -- inside -------------------------------------------------------------------------------------------

    def wait_fresh(
        self, database: str, freshness: Freshness, timeout_s: float, interrupt: Interrupt | None = None
    ) -> float:
        """Wait for the barrier; returns what is left of the time."""
        deadline = Deadline(timeout_s)
        ticket = Ticket(self._inbox.turns)
        self._inbox.put(self._reads.barrier, database, ticket.resolve, deadline, freshness)
        if interrupt is None:
            ticket.wait(timeout_s, lambda: self._reads.too_stale(database, freshness))
            return deadline.left_s
        interrupt.set(lambda: self._end_wait(ticket))
        try:
            ticket.wait(timeout_s, lambda: self._reads.too_stale(database, freshness))
        finally:
            interrupt.set(None)
        return deadline.left_s

    def _end_wait(self, ticket: Ticket) -> None:
        with suppress(NodeStopped):  # who waits hears that
            self._inbox.put(ticket.resolve, None, interrupted())

    def _pool(self, database: str) -> ReaderPool:
        refusal = self._view.refusal(write=False)
        if refusal is not None:
            raise refusal
        pool = self._applier().readers.get(database)
        if pool is None:
            raise OperationalError(f"no such database here (yet): {database}")
        return pool


def interrupted() -> OperationalError:
    return OperationalError("the query was interrupted", code=SQLITE_INTERRUPT)


def _whole(found: QueryResult) -> QueryResult:
    rows, more = found.rows, found.more
    size = 0
    while more is not None and (piece := more.fetch()):
        for row in piece:
            for value in row:
                size += len(value) if isinstance(value, (str, bytes)) else VALUE_BYTES
        if size > RESULT_BYTES_MAX:
            more.close()
            raise RequestTooLarge(
                f"the result is over {RESULT_BYTES_MAX} bytes: use LIMIT or select fewer columns"
            )
        rows += piece
    return found._replace(rows=rows, more=None)
