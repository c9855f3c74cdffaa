"""What the API layers ask of a node: write a unit, read, open a database.

Only the Protocol and its records; no logic. Implemented by the embedded node (node/) and, in tests, by
tests/support/fakegateway.py; called by dbapi (and later by the protocol servers' adapters).
Every method is thread-safe and blocks the calling user thread; a KeyboardInterrupt ends the wait.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from dqlite_py.command import SqlValue

Row = tuple[SqlValue, ...]


class ReadLevel(enum.Enum):
    """How fresh a read must be."""

    LINEARIZABLE = "linearizable"  # sees every write acknowledged before the read began, by any node
    STALE = "stale"  # whatever this node has applied, at once


class StatementResult(NamedTuple):
    """What one statement of a unit did.

    `rowcount`: rows changed by INSERT, UPDATE, DELETE or REPLACE; -1 for any other statement.
    `last_insert_rowid`: SQLite's value after the statement, starting from 0 in each unit.
    `columns`, `rows`: of a statement that returns rows (RETURNING, or a SELECT inside a unit), else None.
    """

    rowcount: int
    last_insert_rowid: int
    columns: tuple[str, ...] | None = None
    rows: Sequence[Row] | None = None


class QueryResult(NamedTuple):
    """All rows of a read. `decltypes` holds the declared type of each column, None for an expression."""

    columns: tuple[str, ...]
    decltypes: tuple[str | None, ...]
    rows: list[Row]


class Gateway(Protocol):
    """A node, as the API layers see it. Every call may raise any class of `errors`."""

    def write(self, database: str, unit: bytes, timeout_s: float) -> list[StatementResult]:
        """Commit one unit (from `command.encode_unit`), all or nothing; one result per statement.

        Returns when the unit is durable on a majority and applied on the leader. Raises the unit's own SQL error
        (nothing of it was applied; `details["statement"]` is the position of the failing statement),
        or a cluster error whose `outcome` says what is now true. A KeyboardInterrupt while waiting leaves the
        outcome unknown to the caller.
        """
        ...

    def read(
        self,
        database: str,
        sql: str,
        params: Sequence[SqlValue] | Mapping[str, SqlValue],
        level: ReadLevel,
        timeout_s: float,
    ) -> QueryResult:
        """Run one read-only statement and return all of its rows. `params` are checked (rows.sql_params)."""
        ...

    def open_database(self, database: str, timeout_s: float) -> None:
        """Return when `database` exists, creating it through the log when it does not."""
        ...

    def is_read(self, sql: str, database: str) -> bool:
        """Tell whether `sql` only reads: it goes to `read`, not into the log. Raises for bad SQL."""
        ...
