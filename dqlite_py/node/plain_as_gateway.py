"""A PlainGateway in the clothes of Gateway, until the node offers transactions and levels itself."""

from __future__ import annotations

from typing import NoReturn

from dqlite_py.errors import NotSupportedError
from dqlite_py.gateway import (
    Freshness,
    Interrupt,
    QueryResult,
    SqlParams,
    TransactionLimits,
)
from dqlite_py.node.local_gateway import LocalGateway


class PlainAsGateway:
    """Implements dqlite_py.gateway.Gateway without transactions."""

    def __init__(self, inner: LocalGateway) -> None:
        self._inner = inner
        self.execute_unit = inner.execute_unit
        self.resolve = inner.resolve
        self.open_database = inner.open_database
        self.is_read = inner.is_read

    def query(
        self,
        database: str,
        sql: str,
        params: SqlParams,
        freshness: Freshness,
        timeout_s: float,
        interrupt: Interrupt | None = None,
    ) -> QueryResult:
        return self._inner.read(database, sql, params, freshness.level, timeout_s)

    def begin(
        self, database: str, wait_s: float, limits: TransactionLimits, *, base_index: int | None = None
    ) -> NoReturn:
        _refuse()

    def begin_read(
        self, database: str, freshness: Freshness, timeout_s: float, limits: TransactionLimits
    ) -> NoReturn:
        _refuse()


def _refuse() -> NoReturn:
    raise NotSupportedError(
        "this release has no interactive transactions: connect with isolation_level=None, and use "
        "connection.execute_atomic([(sql, params), …]) for several statements that belong together"
    )
