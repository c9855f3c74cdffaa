"""The transaction of a connection: when it asks the node for what, and what is true after an error.

    PENDING  BEGIN was said, nothing was asked for: it holds up nobody
    READING  the first statement was a read: a ReadTransaction, one frozen state
    WRITING  the first write, or BEGIN IMMEDIATE: the WriteTransaction, statements run on the leader
    ENDED    the node ended it; every statement says so until rollback()

A write after reads asks for the writer with the log index of what was read (SnapshotConflict when that is history).
Savepoints set before the first write are only noted, and set in the WriteTransaction when it begins. Steps (steps.py).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dqlite_py.command import encode_statements
from dqlite_py.dbapi.statements import quoted
from dqlite_py.dbapi.steps import NO_KEYWORDS, Steps
from dqlite_py.dbapi.streams import Reader
from dqlite_py.errors import Error, InternalError, OperationalError, ProgrammingError, TransactionEnded
from dqlite_py.gateway import (
    AsyncWriteTransaction,
    Freshness,
    QueryResult,
    ReadLevel,
    StatementResult,
    WriteTransaction,
)
from dqlite_py.sqlite_codes import CONSTRAINT

if TYPE_CHECKING:
    from dqlite_py.dbapi.core import Core


class Phase(enum.Enum):
    PENDING = "pending"
    READING = "reading"
    WRITING = "writing"
    ENDED = "ended"


class Transaction:
    """One transaction of `core`, which forgets it (`core.transaction = None`) when it is over."""

    def __init__(self, core: Core, *, by_savepoint: bool = False) -> None:
        self.phase = Phase.PENDING
        self._core = core
        self._by_savepoint = by_savepoint
        self._savepoints: list[str] = []
        self._reader: Reader | None = None
        self._writer: WriteTransaction | AsyncWriteTransaction | None = None
        self._level: ReadLevel | None = None
        self._why = ""

    # -- statements -----------------------------------------------------------------------------------

    def read(
        self, sql: str, params: Any, freshness: Freshness | None, timeout_s: float
    ) -> Steps[tuple[QueryResult, Reader | None]]:
        """Run a reading statement; `freshness` is what the statement itself asks for. With what it reads from."""
        core = self._core
        if self.phase is Phase.WRITING:
            [result] = yield from self.write(encode_statements([(sql, params)]), 1, timeout_s)
            return _as_query(result), None
        self._check_open()
        if self._reader is None:
            wanted = core.freshness() if freshness is None else freshness
            transaction = yield (
                core.gateway.begin_read,
                (core.database, wanted, timeout_s, core.settings.limits),
                NO_KEYWORDS,
            )
            self._reader, self.phase, self._level = Reader(transaction), Phase.READING, wanted.level
            core.saw(transaction.log_index)
        elif freshness is not None and freshness.level is not self._level:
            raise ProgrammingError(
                f"read_level is {self._level.value if self._level else ''} for the whole transaction: "
                "its first read has set it"
            )
        reader = self._reader
        try:
            found: QueryResult = yield (
                reader.transaction.query,
                (sql, params, timeout_s, core.interrupt),
                NO_KEYWORDS,
            )
        except TransactionEnded as error:
            yield from self._end(error)
            raise
        return found, reader

    def write(self, body: bytes, count: int, timeout_s: float) -> Steps[list[StatementResult]]:
        """Run `count` statements on the WriteTransaction, which begins here when there is none."""
        if self._writer is None:
            yield from self.begin_writing()
        results: list[StatementResult] = yield from self._run(body, timeout_s)
        if len(results) != count:
            raise InternalError(f"{len(results)} results came back for {count} statements")
        return results

    def begin_writing(self) -> Steps[None]:
        self._check_open()
        core, reader = self._core, self._reader
        base = None if reader is None else {"base_index": reader.transaction.log_index}
        self._writer = yield (
            core.gateway.begin,
            (core.database, core.settings.busy_timeout_s, core.settings.limits),
            base or NO_KEYWORDS,
        )
        self.phase = Phase.WRITING
        if reader is not None:
            self._reader = None
            yield from reader.end()
        if self._savepoints:
            sqls = [(f"SAVEPOINT {quoted(name)}", ()) for name in self._savepoints]
            yield from self._run(encode_statements(sqls), core.settings.timeout_s)

    def _run(self, body: bytes, timeout_s: float) -> Steps[list[StatementResult]]:
        writer = self._writer
        if writer is None:
            raise self._ended()
        try:
            results: list[StatementResult] = yield (
                writer.run,
                (body, timeout_s, self._core.interrupt),
                NO_KEYWORDS,
            )
        except BaseException as error:
            if not writer.is_open:
                if isinstance(error, Error) and error.code is not None and error.code & 0xFF == CONSTRAINT:
                    self._over()  # OR ROLLBACK, RAISE(ROLLBACK): what was asked for, as in SQLite
                else:
                    yield from self._end(error)
            raise
        return results

    # -- its end --------------------------------------------------------------------------------------

    def commit(self) -> Steps[None]:
        """Make it durable. After an error it is over, too, unless deferred foreign keys can still be put right.

        Cancelled or interrupted it is over: what is not on its way is rolled back, the rest is the log's to say.
        """
        if self.phase is Phase.ENDED:
            raise self._ended()
        writer = self._writer
        if writer is None:
            yield from self._leave_reader()
            self._over()
            return
        try:
            result = yield writer.commit, (self._core.settings.timeout_s,), NO_KEYWORDS
        except Error:
            if not writer.is_open:
                self._over()
            raise
        except BaseException:
            self._over()
            yield writer.rollback, (), NO_KEYWORDS
            raise
        self._over()
        self._core.saw(result.log_index)

    def rollback(self) -> Steps[None]:
        writer, self._writer = self._writer, None
        self._over()
        if writer is not None:
            yield writer.rollback, (), NO_KEYWORDS
        yield from self._leave_reader()

    def _leave_reader(self) -> Steps[None]:
        reader, self._reader = self._reader, None
        if reader is not None:
            yield from reader.end()

    def _over(self) -> None:
        if self._core.transaction is self:
            self._core.transaction = None

    def _end(self, error: BaseException) -> Steps[None]:
        """The node has ended it, or nobody knows: nothing more happens in it until rollback()."""
        self.phase = Phase.ENDED
        self._why = str(error) or type(error).__name__
        self._writer = None
        yield from self._leave_reader()

    def _ended(self) -> TransactionEnded:
        return TransactionEnded(
            f"the transaction is over, nothing of it happened: call rollback() ({self._why})"
        )

    def _check_open(self) -> None:
        if self.phase is Phase.ENDED:
            raise self._ended()

    # -- savepoints -----------------------------------------------------------------------------------

    def savepoint(self, name: str) -> Steps[None]:
        self._check_open()
        if self._writer is not None:
            yield from self._control(f"SAVEPOINT {quoted(name)}")
        self._savepoints.append(name)

    def release(self, name: str) -> Steps[None]:
        self._check_open()
        position = self._find(name)
        if position == 0 and self._by_savepoint:
            yield from self.commit()
            return
        if self._writer is not None:
            yield from self._control(f"RELEASE {quoted(name)}")
        del self._savepoints[position:]

    def rollback_to(self, name: str) -> Steps[None]:
        self._check_open()
        position = self._find(name)
        if self._writer is not None:
            yield from self._control(f"ROLLBACK TO {quoted(name)}")
        del self._savepoints[position + 1 :]

    def _control(self, sql: str) -> Steps[None]:
        yield from self._run(encode_statements([(sql, ())]), self._core.settings.timeout_s)

    def _find(self, name: str) -> int:
        wanted = _folded(name)
        for position in range(len(self._savepoints) - 1, -1, -1):
            if _folded(self._savepoints[position]) == wanted:
                return position
        raise OperationalError(f"no such savepoint: {name}", code=1)


def _folded(name: str) -> str:
    """SQLite's names are equal in ASCII without case."""
    return "".join(ch.lower() if ch.isascii() else ch for ch in name)


def _as_query(result: StatementResult) -> QueryResult:
    columns: Sequence[str] = result.columns or ()
    decltypes = result.decltypes or (None,) * len(columns)
    return QueryResult(tuple(columns), tuple(decltypes), list(result.rows or ()))
