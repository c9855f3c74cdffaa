"""The SQL of one connection: an open database, its transaction, prepared statements, the sticky results.

Knows requests and results, no frames. One request at a time; the node's loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from dqlite_py.aio.steps import drive
from dqlite_py.command import encode_statements
from dqlite_py.dbapi.core import Core, only
from dqlite_py.dbapi.results import Result
from dqlite_py.dbapi.settings import Settings
from dqlite_py.dbapi.statements import Control, Known, classify
from dqlite_py.errors import Error, OperationalError, TransactionEnded
from dqlite_py.gateway import Freshness, UnitResult
from dqlite_py.limits import DQLITE_STATEMENTS_MAX
from dqlite_py.node.loop_gateway import LoopGateway
from dqlite_py.server.dqlite.failures import (
    BUSY,
    EMPTY_STATEMENT,
    NO_DATABASE,
    NO_STATEMENT,
    PARAMETERS,
    READONLY,
    ROWS_YIELDED,
    TAIL,
    Refused,
)
from dqlite_py.server.dqlite.pragmas import carry_out, own_pragma
from dqlite_py.server.dqlite.settings import STATEMENTS_BYTES_MAX, ServerSettings
from dqlite_py.sqltext import StatementKind, first_end, split_script, tokens, word_of
from dqlite_py.wire.dqlite.responses import Failure, Statement

Values = Sequence[Any]
_SAVEPOINT: Final = "_rows_of_exec"
_COMMIT: Final = Control("COMMIT")
_ROLLBACK: Final = Control("ROLLBACK")
_EMPTY: Final = StatementKind.EMPTY
_READS: Final = (StatementKind.READ, StatementKind.ASK, StatementKind.EMPTY, StatementKind.TRANSACTION)
_ALREADY_OPEN: Final = Failure(BUSY, "a database for this connection is already open")
_READ_ONLY: Final = "attempt to write a readonly database"


class Changed(NamedTuple):
    """What RESULT says: SQLite's last_insert_rowid and changes of the connection."""

    rowid: int
    changes: int


class Prepared(NamedTuple):
    sql: str
    known: Known


class SqlSession:
    """See the module. `rowid`, `changes`: of the newest statement that had any, as in SQLite."""

    __slots__ = (
        "_core",
        "_free_id",
        "_gateway",
        "_settings",
        "_statements",
        "_statements_bytes",
        "busy_timeout_s",
        "changes",
        "is_query_only",
        "rowid",
    )

    def __init__(self, gateway: LoopGateway, settings: ServerSettings) -> None:
        self._gateway = gateway
        self._settings = settings
        self._core: Core | None = None
        self._statements: dict[int, Prepared] = {}
        self._statements_bytes = 0
        self._free_id = 0
        self.is_query_only = False
        self.busy_timeout_s = settings.busy_timeout_s
        self.rowid = 0
        self.changes = 0

    @property
    def is_open(self) -> bool:
        return self._core is not None

    @property
    def in_transaction(self) -> bool:
        return self._core is not None and self._core.transaction is not None

    def core(self, database_id: int) -> Core:
        """Raises Refused when no database of this id is open."""
        if self._core is None or database_id != 0:
            raise Refused(NO_DATABASE)
        return self._core

    async def open(self, database: str) -> None:
        """Create the database when it does not exist."""
        if self._core is not None:
            raise Refused(_ALREADY_OPEN)
        await self._gateway.open_database(database, self._settings.timeout_s)
        settings = self._settings
        self._core = Core(
            self._gateway,
            database,
            Settings(
                timeout_s=settings.timeout_s,
                busy_timeout_s=self.busy_timeout_s,
                limits=settings.limits,
                read_level=settings.read_level,
                max_staleness_s=None,
                once=True,
                isolation_level=None,
                autocommit=-1,
                detect_types=0,
                freshness=Freshness(settings.read_level),
            ),
        )

    def interrupt(self) -> None:
        if self._core is not None:
            self._core.interrupt.request()

    async def close(self) -> None:
        """Roll back what is open."""
        core, self._core = self._core, None
        self._statements.clear()
        if core is not None:
            await drive(core.close())

    # -- prepared statements --------------------------------------------------------------------------

    async def prepare(self, sql: str, *, with_tail: bool) -> Statement:
        """Keep the first statement. Raises Refused and what SQLite says."""
        core = self.core(0)
        end = first_end(sql)
        text, tail = sql[:end], sql[end:]
        if not with_tail and tail and classify(tail).kind is not _EMPTY:
            raise Refused(TAIL)
        known = classify(text)
        if known.kind is _EMPTY:
            raise Refused(EMPTY_STATEMENT)
        size = len(text)
        if (
            len(self._statements) >= DQLITE_STATEMENTS_MAX
            or self._statements_bytes + size > STATEMENTS_BYTES_MAX
        ):
            raise Refused(Failure(7, "too many prepared statements on this connection: finalize some"))
        if core.transaction is None and known.control is None and own_pragma(text) is None:
            await self._gateway.check(core.database, text)
        statement_id = self._free_id
        self._statements[statement_id] = Prepared(text, known)
        self._statements_bytes += size
        while self._free_id in self._statements:
            self._free_id += 1
        return Statement(0, statement_id, len(known.parameters), len(text.encode()) if with_tail else None)

    def statement(self, statement_id: int) -> Prepared:
        found = self._statements.get(statement_id)
        if found is None:
            raise Refused(NO_STATEMENT)
        return found

    def finalize(self, statement_id: int) -> None:
        found = self.statement(statement_id)
        del self._statements[statement_id]
        self._statements_bytes -= len(found.sql)
        self._free_id = min(self._free_id, statement_id)

    # -- writes ---------------------------------------------------------------------------------------

    def plain_write(self, sql: str, values: Values) -> bytes | None:
        """The body of a unit, when `sql` is one write outside a transaction and returns no rows; else None."""
        core = self._core
        if core is None or core.transaction is not None or self.is_query_only:
            return None
        known = classify(sql)
        if not known.is_plain or known.kind in _READS or _may_return(sql):
            return None
        return encode_statements(((sql, _fitted(known, values)),))

    def wrote(self, sql: str, unit: UnitResult) -> Changed:
        """The unit of `plain_write` is done."""
        done = only(sql, unit)
        self._note(classify(sql), done.rowcount, done.last_insert_rowid)
        return Changed(self.rowid, self.changes)

    def _note(self, known: Known, rowcount: int, rowid: int | None) -> None:
        if known.changes and rowcount >= 0:
            self.changes = rowcount
            if known.kind is StatementKind.INSERT and rowcount > 0 and rowid:
                self.rowid = rowid

    async def execute(self, database_id: int, sql: str, values: Values) -> Changed:
        """Run every statement of `sql`, one after the other as SQLite does; parameters are used up in that order."""
        core = self.core(database_id)
        known = classify(sql)
        if known.is_single:
            await self._execute_one(core, sql, known, values)
        else:
            for text in split_script(sql):
                about = classify(text)
                await self._execute_one(core, text, about, values)
                values = values[len(about.parameters) :]
        return Changed(self.rowid, self.changes)

    async def _execute_one(self, core: Core, sql: str, known: Known, values: Values) -> None:
        if known.kind is _EMPTY:
            return
        if _may_return(sql) and known.kind not in _READS:
            result = await self._undone_if_rows(core, sql, known, values)
        else:
            result = await self._run(core, sql, known, values)
        if result is None:
            return
        if result.columns is not None and result.rows:
            if result.rest is not None:
                await drive(result.rest.close())
            raise Refused(ROWS_YIELDED)
        self._note(known, result.rowcount, result.lastrowid)

    async def _undone_if_rows(self, core: Core, sql: str, known: Known, values: Values) -> Result | None:
        """What returns rows to EXEC must not take effect, and nothing stays open that was not."""
        transaction = core.transaction
        if transaction is None:
            await drive(core.begin("IMMEDIATE"))
        else:
            await drive(transaction.savepoint(_SAVEPOINT))
        try:
            result = await self._run(core, sql, known, values)
            if result is not None and result.rows:
                raise Refused(ROWS_YIELDED)
        except BaseException:
            if transaction is None and core.transaction is not None:
                await drive(core.control(_ROLLBACK))
            elif transaction is not None and core.transaction is transaction:
                with suppress(Error):  # when the node has ended it, nothing of it happened either
                    await drive(transaction.rollback_to(_SAVEPOINT))
                    await drive(transaction.release(_SAVEPOINT))
            raise
        await drive(core.control(_COMMIT) if transaction is None else transaction.release(_SAVEPOINT))
        return result

    # -- reads and what else has columns ------------------------------------------------------------------

    async def query(self, database_id: int, sql: str, values: Values) -> Result:
        """Run one statement; `columns` of the result are () when it returns none."""
        core = self.core(database_id)
        known = classify(sql)
        if not known.is_single:
            raise Refused(TAIL)
        if known.kind is _EMPTY:
            raise Refused(EMPTY_STATEMENT)
        if len(values) > len(known.parameters):
            raise Refused(PARAMETERS)
        result = await self._run(core, sql, known, values)
        if result is None:
            return Result((), (), [], None)
        self._note(known, result.rowcount, result.lastrowid)
        return result if result.columns is not None else Result((), (), [], None)

    async def _run(self, core: Core, sql: str, known: Known, values: Values) -> Result | None:
        if known.kind is StatementKind.ASK and (pragma := own_pragma(sql)) is not None:
            return carry_out(self, *pragma)
        if self.is_query_only and known.kind not in _READS:
            raise OperationalError(_READ_ONLY, code=READONLY)
        core.settings.busy_timeout_s = self.busy_timeout_s
        try:
            return await drive(core.execute(sql, _fitted(known, values), None, core.settings.timeout_s))
        except TransactionEnded:
            if known.control == _COMMIT and core.transaction is not None:
                # The client has heard that nothing of it happened; pools hand the connection on without a ROLLBACK.
                await drive(core.control(_ROLLBACK))
            raise


def _fitted(known: Known, values: Values) -> Values:
    """As many as the statement has parameters: what is missing is NULL."""
    count = len(known.parameters)
    if len(values) == count:
        return values
    return [*values[:count], *[None] * (count - len(values))]


def _may_return(sql: str) -> bool:
    """Whether the word RETURNING is in it anywhere but in a string or comment."""
    if "returning" not in sql.lower():
        return False
    return any(word_of(token) == "RETURNING" for token in tokens(sql))
