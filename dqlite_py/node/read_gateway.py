"""The reading half of an embedded node's Gateway: on the caller's own thread, with a pooled read connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from dqlite_py.errors import NoLeader, NotSupportedError, OperationalError
from dqlite_py.gateway import (
    Freshness,
    Interrupt,
    QueryResult,
    ReadLevel,
    ReadTransaction,
    SqlParams,
    TransactionLimits,
)
from dqlite_py.node.applier import Applier
from dqlite_py.node.cluster_view import ClusterView
from dqlite_py.node.reads import ReadBarriers
from dqlite_py.node.tickets import Deadline, Inbox, Ticket

_LINEARIZABLE: Final = ReadLevel.LINEARIZABLE


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
        return self.read(database, sql, params, freshness.level, timeout_s)

    def begin_read(
        self, database: str, freshness: Freshness, timeout_s: float, limits: TransactionLimits
    ) -> ReadTransaction:
        raise NotSupportedError("this release freezes no states for reading")

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
