"""The reading half of an embedded node's Gateway: on the caller's own thread, with a pooled read connection.

A read that needs no barrier (stale, session and leader reads mostly do not) touches the loop not at all; the others
hand it one call. KeyboardInterrupt and Interrupt end the wait and the query.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from dqlite_py.errors import Error, NodeStopped, OperationalError, RequestTooLarge
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
from dqlite_py.sqlite_codes import INTERRUPT
from dqlite_py.storage.reader import VALUE_BYTES
from dqlite_py.storage.readers import HoldLimits, ReaderPool

_LINEARIZABLE: Final = ReadLevel.LINEARIZABLE
_SESSION: Final = ReadLevel.SESSION


class ReadGateway:
    """Any thread but the loop's."""

    def __init__(
        self, *, inbox: Inbox, reads: ReadBarriers, view: ClusterView, applier: Callable[[], Applier]
    ) -> None:
        self._inbox = inbox
        self.reads = reads
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
        level = freshness.level
        if level is _LINEARIZABLE or not self.reads.is_fresh(database, freshness):
            timeout_s = self.wait_fresh(database, freshness, timeout_s, interrupt)
        if level is _SESSION:
            return self.query_here(database, sql, params, freshness, timeout_s, interrupt)
        found = self.pool(database).stream(sql, params, timeout_s, interrupt)
        return found if found.more is None else self._finished(found, freshness)

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
        pool, with_index = self.pool(database), freshness.level is _SESSION
        found = pool.stream(sql, params, timeout_s=timeout_s, interrupt=interrupt, with_index=with_index)
        return self._finished(found, freshness) if with_index or found.more is not None else found

    def query_if_quick(
        self,
        database: str,
        sql: str,
        params: SqlParams,
        freshness: Freshness,
        timeout_s: float,
        interrupt: Interrupt,
    ) -> QueryResult | None:
        """As `query_here`, for a thread that must not be held up: None when that cannot be excluded."""
        pool, with_index = self.pool(database), freshness.level is _SESSION
        found = pool.stream_if_quick(
            sql, params, timeout_s=timeout_s, interrupt=interrupt, with_index=with_index
        )
        return None if found is None else self._finished(found, freshness)

    def query_and_learn(
        self,
        database: str,
        sql: str,
        params: SqlParams,
        freshness: Freshness,
        timeout_s: float,
        interrupt: Interrupt,
    ) -> QueryResult:
        """As `query_here`; `query_if_quick` may do it next time."""
        pool, with_index = self.pool(database), freshness.level is _SESSION
        found = pool.stream_and_learn(
            sql, params, timeout_s=timeout_s, interrupt=interrupt, with_index=with_index
        )
        return self._finished(found, freshness)

    def _finished(self, found: QueryResult, freshness: Freshness) -> QueryResult:
        if found.more is not None:
            self.reads.watch_held()
        if freshness.level is _SESSION and found.log_index < freshness.log_index:
            return found._replace(log_index=freshness.log_index)  # what came between was for other databases
        return found

    def begin_read(
        self, database: str, freshness: Freshness, timeout_s: float, limits: TransactionLimits
    ) -> ReadTransaction:
        """As Gateway.begin_read. Raises as `query`."""
        if freshness.level is _LINEARIZABLE or not self.reads.is_fresh(database, freshness):
            timeout_s = self.wait_fresh(database, freshness, timeout_s)
        return self.begin_read_here(database, timeout_s, limits)

    def begin_read_here(self, database: str, timeout_s: float, limits: TransactionLimits) -> ReadTransaction:
        transaction = self.pool(database).begin(HoldLimits(limits.idle_s, limits.hold_s), timeout_s=timeout_s)
        self.reads.watch_held()
        return transaction

    def read(self, database: str, sql: str, params: Any, level: ReadLevel, timeout_s: float) -> QueryResult:
        """The whole result at once; raises RequestTooLarge as well."""
        found = self.query(database, sql, params, Freshness(level), timeout_s)
        return found if found.more is None else _whole(found)

    def read_here(
        self,
        database: str,
        sql: str,
        params: SqlParams,
        freshness: Freshness,
        timeout_s: float,
        interrupt: Interrupt,
    ) -> QueryResult:
        """The same without its barrier."""
        found = self.query_here(database, sql, params, freshness, timeout_s, interrupt)
        return found if found.more is None else _whole(found)

    def is_read(self, sql: str, database: str) -> bool:
        return self.pool(database).classify(sql) == "read"

    # -- inside -------------------------------------------------------------------------------------------

    def put_barrier(
        self,
        database: str,
        callback: Callable[[Any, Error | None], None],
        deadline: Deadline,
        freshness: Freshness,
    ) -> None:
        self._inbox.put(self.reads.barrier, database, callback, deadline, freshness)

    def wait_fresh(
        self, database: str, freshness: Freshness, timeout_s: float, interrupt: Interrupt | None = None
    ) -> float:
        """Wait for the barrier; returns what is left of the time."""
        deadline = Deadline(timeout_s)
        ticket = Ticket(self._inbox.turns)
        self._inbox.put(self.reads.barrier, database, ticket.resolve, deadline, freshness)
        if interrupt is None:
            ticket.wait(timeout_s, lambda: self.reads.too_stale(database, freshness))
            return deadline.left_s
        interrupt.set(lambda: self._end_wait(ticket))
        try:
            ticket.wait(timeout_s, lambda: self.reads.too_stale(database, freshness))
        finally:
            interrupt.set(None)
        return deadline.left_s

    def _end_wait(self, ticket: Ticket) -> None:
        with suppress(NodeStopped):  # who waits hears that
            self._inbox.put(ticket.resolve, None, interrupted())

    def pool(self, database: str) -> ReaderPool:
        refusal = self._view.refusal(write=False)
        if refusal is not None:
            raise refusal
        pool = self._applier().readers.get(database)
        if pool is None:
            if self._view.is_spare:
                raise self._view.no_current_copy()
            raise OperationalError(f"no such database here (yet): {database}")
        return pool


def interrupted() -> OperationalError:
    return OperationalError("the query was interrupted", code=INTERRUPT)


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
