"""The PEP 249 Cursor. Results stream: beyond the first rows they are fetched from the node as they are asked for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self

from dqlite_py.dbapi import direct
from dqlite_py.dbapi.baseconnection import BaseConnection
from dqlite_py.dbapi.basecursor import BaseCursor
from dqlite_py.dbapi.statements import classify
from dqlite_py.dbapi.steps import Steps, drive

if TYPE_CHECKING:
    from dqlite_py.dbapi.connection import Connection


class Cursor(BaseCursor):
    """A result and the position in it. Create it with `Connection.cursor()`; see BaseCursor for its attributes."""

    def __init__(self, connection: Connection, /) -> None:
        if not (isinstance(connection, BaseConnection) and connection._is_sync):
            raise TypeError(f"Cursor() argument 1 must be a Connection, not {type(connection).__name__}")
        self._bind(connection)
        self._guard = connection._guard

    @property
    def connection(self) -> Connection:
        found: Any = self._connection
        result: Connection = found
        return result

    # -- running --------------------------------------------------------------------------------------

    def execute(
        self,
        sql: str,
        params: Any = (),
        /,
        *,
        read_level: Any = None,
        max_staleness: float | None = None,
        timeout: float | None = None,
    ) -> Self:
        """Run one statement. Outside a transaction a write is durable on a majority when this returns.

        `params`: a sequence for `?` and `?1`, a mapping for `:name`. `read_level`, `max_staleness` (seconds), `timeout`
        (seconds): for this statement, instead of the connection's. Raises any class of `errors`; after an error whose
        `outcome` is UNKNOWN, or a KeyboardInterrupt, a write may have happened.
        """
        is_plain = read_level is None and max_staleness is None and timeout is None
        if not (is_plain and self._run_directly(sql, params)):
            self._drive(self._run_one(sql, params, read_level, max_staleness, timeout))
        return self

    def executemany(self, sql: str, seq_of_params: Iterable[Any], /, *, timeout: float | None = None) -> Self:
        """Run one INSERT, UPDATE, DELETE or REPLACE for each parameter set, all sent at once.

        Outside a transaction: as one unit, all or nothing. `rowcount` is the sum; rows of RETURNING are those of all
        sets, in order; `lastrowid` stays unchanged.
        """
        self._drive(self._run_many(sql, seq_of_params, timeout))
        return self

    def executescript(self, script: str, /, *, timeout: float | None = None) -> Self:
        """Run a script; an open transaction is committed first. Rows of its statements are dropped.

        What stands between transaction statements (BEGIN, COMMIT, SAVEPOINT …), or all when there are none, happens as
        one unit, all or nothing.
        """
        self._drive(self._run_script(script, timeout))
        return self

    def _run_directly(self, sql: str, params: Any) -> bool:
        """Run what needs one call of the gateway; False, and nothing has happened, when it is not that simple."""
        if self._connection is None:
            return False
        guard = self._guard
        guard.enter()
        try:
            core, state = self._core, self._state
            if self._is_running or self._is_closed or core.is_closed or state.rest is not None:
                return False
            if state.rows is not None or state.rowcount != -1:
                state.clear()
            known = classify(sql)
            if not direct.is_direct(core, known):
                return False
            self._is_running = True
            try:
                result = direct.execute(core, known, sql, params)
            finally:
                self._is_running = False
            if result is not None:
                state.show(result)
            return True
        finally:
            guard.leave()

    def _drive(self, steps: Steps[Any]) -> Any:
        if self._connection is None:
            self._check_open()
        guard = self._guard
        guard.enter()
        try:
            return drive(steps)
        finally:
            guard.leave()

    # -- results --------------------------------------------------------------------------------------

    def fetchone(self) -> Any:
        """The next row, or None at the end. Raises ProgrammingError when the statement returned no rows."""
        if self._connection is None:
            self._check_open()
        guard = self._guard
        guard.enter()
        try:
            row = self._row_at_hand()
            if row is not None:
                return row if self.row_factory is None else self.row_factory(self, row)
            self._check_open()
            return drive(self._fetch_one())
        finally:
            guard.leave()

    def fetchmany(self, size: int | None = None) -> list[Any]:
        """The next `size` (default `arraysize`) rows, fewer at the end."""
        self._ready()
        found: list[Any] = self._drive(self._fetch_some(self._count(size)))
        return found

    def fetchall(self) -> list[Any]:
        """All remaining rows."""
        self._ready()
        state = self._state
        rows = state.rows
        if rows is not None and state.rest is None and state.is_plain and self.row_factory is None:
            if self._is_running:
                self._check_idle()
            position, state.position = state.position, len(rows)
            return rows[position:] if position else rows.copy()
        found: list[Any] = self._drive(self._fetch_some(None))
        return found

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        row = self._row_at_hand() if self._connection is not None and self._guard.may_pass() else None
        if row is not None:
            return row if self.row_factory is None else self.row_factory(self, row)
        self._ready()
        if self._state.rows is None:
            raise StopIteration
        found = self._drive(self._fetch_next())
        if found is None:
            raise StopIteration
        return found[0]

    def _row_at_hand(self) -> Any:
        """The next row when nothing has to be checked, fetched or converted for it, else None."""
        state = self._state
        rows = state.rows
        if rows is None or self._is_closed or self._is_running or self._core.is_closed:
            return None
        position = state.position
        if position >= len(rows) or not state.is_plain:
            return None
        state.position = position + 1
        return rows[position]

    def _fetch_next(self) -> Steps[tuple[Any] | None]:
        self._check_idle()
        state = self._state
        if state.rows is None or (state.position >= len(state.rows) and not (yield from state.more())):
            return None
        return (self._take_next(),)

    def _ready(self) -> None:
        if self._connection is not None:
            self._guard.check()
        self._check_open()

    # -- life -----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Drop the result; any later use raises ProgrammingError."""
        if self._connection is None:
            self._check_open()
        self._guard.check()
        self._drive(self._finish())

    def __enter__(self) -> Self:
        self._ready()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        if self._connection is not None and self._state.rest is not None and not self._guard.is_forked():
            drive(self._state.drop())
