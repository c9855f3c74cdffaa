"""What cursors of both kinds share: PEP 249's attributes, and running and fetching as steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from dqlite_py.dbapi.core import Core
from dqlite_py.dbapi.results import Description, Result, ResultState
from dqlite_py.dbapi.settings import check_seconds, check_staleness
from dqlite_py.dbapi.steps import Steps
from dqlite_py.errors import InterfaceError, ProgrammingError
from dqlite_py.gateway import Freshness, ReadLevel

if TYPE_CHECKING:
    from dqlite_py.dbapi.baseconnection import BaseConnection

_RECURSIVE: Final = "Recursive use of cursors not allowed."


class BaseCursor:
    """`description`, `rowcount`, `lastrowid`, `arraysize`, `row_factory`: as PEP 249 and sqlite3 have them.

    `rowcount`: rows changed by the last INSERT, UPDATE, DELETE or REPLACE, else -1.
    `lastrowid`: the rowid of the last row that `execute` inserted; other statements leave it unchanged.
    `description[n][1]`: the declared type of a column where it is known; equal to one of PEP 249's type objects.
    `row_factory`: called with the cursor and a tuple for each row handed out; None hands out the tuples.
    """

    _connection: BaseConnection | None = None
    _state: ResultState
    _core: Core
    _is_closed = False
    _is_running = False

    def _bind(self, connection: BaseConnection) -> None:
        if self._is_running:
            self._check_idle()
        core = connection._core
        self._connection = connection
        self._core = core
        self._state = ResultState(core)
        self.arraysize = 1
        self.row_factory: Any = connection.row_factory

    # -- attributes -----------------------------------------------------------------------------------

    @property
    def description(self) -> Description | None:
        return self._state.description

    @property
    def rowcount(self) -> int:
        return self._state.rowcount

    @property
    def lastrowid(self) -> int | None:
        return self._state.lastrowid

    @property
    def rownumber(self) -> int | None:
        """The 0-based position of the next row; None without a result."""
        return self._state.rownumber

    # -- steps ----------------------------------------------------------------------------------------

    def _run_one(
        self, sql: str, params: Any, read_level: Any, max_staleness: Any, timeout: Any
    ) -> Steps[None]:
        self._begin()
        try:
            core, state = self._core, self._state
            freshness = None
            if read_level is not None or max_staleness is not None:
                freshness = self._freshness(read_level, max_staleness)
            timeout_s = core.settings.timeout_s if timeout is None else check_seconds("timeout", timeout)
            if state.rest is not None:
                yield from state.drop()
            state.clear()
            result = yield from core.execute(sql, params, freshness, timeout_s)
            if result is not None:
                state.show(result)
        finally:
            self._is_running = False

    def _run_many(self, sql: str, sets: Iterable[Any], timeout: Any) -> Steps[None]:
        self._begin()
        try:
            yield from self._cleared()
            result = yield from self._core.execute_many(sql, sets, self._timeout(timeout))
            if result is not None:
                self._state.show(result)
        finally:
            self._is_running = False

    def _run_script(self, script: str, timeout: Any) -> Steps[None]:
        self._begin()
        try:
            if not isinstance(script, str):
                raise TypeError(f"executescript() argument must be str, not {type(script).__name__}")
            if "\0" in script:
                raise ValueError("embedded null character")
            yield from self._cleared()
            yield from self._core.execute_script(script, self._timeout(timeout))
        finally:
            self._is_running = False

    def _fetch_one(self) -> Steps[Any]:
        self._check_idle()
        state = self._state
        if state.position >= len(state.check_rows()) and not (yield from state.more()):
            return None
        return self._take_next()

    def _has_next(self) -> bool:
        """Whether the next row is at hand."""
        rows = self._state.rows
        return (
            rows is not None
            and self._state.position < len(rows)
            and not self._is_closed
            and not self._core.is_closed
        )

    def _take_next(self) -> Any:
        state = self._state
        row: Any = state.check_rows()[state.position]
        state.position += 1
        if not state.is_plain:
            self._is_running = True
            try:
                row = state.converted(row)
            finally:
                self._is_running = False
        return row if self.row_factory is None else self.row_factory(self, row)

    def _fetch_some(self, count: int | None) -> Steps[list[Any]]:
        """The next `count` rows, or all."""
        self._check_idle()
        state = self._state
        rows = state.check_rows()
        taken: list[Any] = (
            rows[state.position :] if count is None else rows[state.position : state.position + count]
        )
        state.position += len(taken)
        while count is None or len(taken) < count:
            rows = yield from state.more()
            if not rows:
                break
            part = rows if count is None else rows[: count - len(taken)]
            state.position = len(part)
            taken += part
        if not state.is_plain:
            self._is_running = True
            try:
                taken = [state.converted(row) for row in taken]
            finally:
                self._is_running = False
        factory = self.row_factory
        return taken if factory is None else [factory(self, row) for row in taken]

    def _finish(self) -> Steps[None]:
        self._check_idle()
        self._is_closed = True
        rowcount = self._state.rowcount
        yield from self._cleared()
        self._state.rowcount = rowcount  # it can still be asked for, as in sqlite3

    def _cleared(self) -> Steps[None]:
        yield from self._state.drop()
        self._state.clear()

    def _show(self, result: Result | None) -> None:
        if result is not None:
            self._state.show(result)

    # -- checks ---------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._check_idle()
        self._check_open()
        self._is_running = True

    def _check_idle(self) -> None:
        if self._is_running:
            raise ProgrammingError(_RECURSIVE)

    def _check_open(self) -> None:
        if self._connection is None:
            raise ProgrammingError("Base Cursor.__init__ not called.")
        if self._connection._is_closed:
            raise ProgrammingError("Cannot operate on a closed database.")
        if self._is_closed:
            raise ProgrammingError("Cannot operate on a closed cursor.")

    def _timeout(self, seconds: Any) -> float:
        return self._core.settings.timeout_s if seconds is None else check_seconds("timeout", seconds)

    def _freshness(self, read_level: Any, max_staleness: Any) -> Freshness:
        settings = self._core.settings
        assert self._connection is not None
        level = settings.read_level if read_level is None else self._connection._named_level(read_level)
        if level is ReadLevel.SESSION:
            if max_staleness is not None:
                raise _no_staleness(level)
            return Freshness(level, self._core.token)
        if level is ReadLevel.STALE:
            staleness = settings.max_staleness_s if max_staleness is None else check_staleness(max_staleness)
            return Freshness(level, 0, staleness)
        if max_staleness is not None:
            raise _no_staleness(level)
        return Freshness(level)

    def _count(self, size: int | None) -> int:
        count = self.arraysize if size is None else size
        if count < 0:
            raise ProgrammingError(f"fetchmany() takes a size of 0 or more, not {count}")
        return count

    def setinputsizes(self, sizes: Sequence[Any], /) -> None:
        """Accepted for PEP 249; does nothing."""

    def setoutputsize(self, size: int, column: int | None = None, /) -> None:
        """Accepted for PEP 249; does nothing."""


def _no_staleness(level: ReadLevel) -> InterfaceError:
    return InterfaceError(f"max_staleness is for reads of level 'stale', not {level.value!r}")
