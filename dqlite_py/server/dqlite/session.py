"""The SQL of one connection: an open database, its transaction, prepared statements, the sticky results.

Knows requests and results, no frames. One request at a time; the node's loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, TypeVar

from dqlite_py.aio.steps import drive
from dqlite_py.command import encode_statements
from dqlite_py.dbapi.core import Core, only
from dqlite_py.dbapi.results import Result
from dqlite_py.dbapi.settings import Settings
from dqlite_py.dbapi.statements import Control, Known
from dqlite_py.dbapi.steps import begun
from dqlite_py.dbapi.transaction import Phase
from dqlite_py.errors import Error, OperationalError, OutcomeUnknown, TransactionEnded
from dqlite_py.gateway import Freshness, UnitResult
from dqlite_py.limits import DQLITE_STATEMENTS_MAX
from dqlite_py.node.loop_gateway import LoopGateway
from dqlite_py.server.dqlite.bounds import PreparedTexts
from dqlite_py.server.dqlite.failures import (
    BUSY,
    EMPTY_STATEMENT,
    NO_DATABASE,
    NO_STATEMENT,
    NOMEM,
    PARAMETERS,
    READONLY,
    REPEATED,
    ROWS_YIELDED,
    TAIL,
    Refused,
    failure_of,
)
from dqlite_py.server.dqlite.interrupts import QueryInterrupt
from dqlite_py.server.dqlite.pragmas import carry_out
from dqlite_py.server.dqlite.settings import STATEMENTS_BYTES_MAX, ServerSettings
from dqlite_py.server.dqlite.texts import Text, filled_in, first_of, is_long, look_at, statements_of
from dqlite_py.sqltext import StatementKind, describe
from dqlite_py.wire.dqlite.responses import Failure, Statement

Values = Sequence[Any]
Looked = TypeVar("Looked")
_SAVEPOINT: Final = "_rows_of_exec"
_COMMIT: Final = Control("COMMIT")
_ROLLBACK: Final = Control("ROLLBACK")
_ALREADY_OPEN: Final = Failure(BUSY, "a database for this connection is already open")
_READ_ONLY: Final = "attempt to write a readonly database"


class Changed(NamedTuple):
    """What RESULT says: SQLite's last_insert_rowid and changes of the connection."""

    rowid: int
    changes: int


class SqlSession:
    """See the module. `rowid`, `changes`: of the newest statement that had any, as in SQLite."""

    __slots__ = (
        "_core",
        "_free_id",
        "_gateway",
        "_interrupt",
        "_settings",
        "_statements",
        "_statements_bytes",
        "_texts",
        "busy_timeout_s",
        "changes",
        "is_query_only",
        "rowid",
        "total_changes",
    )

    def __init__(
        self, gateway: LoopGateway, settings: ServerSettings, texts: PreparedTexts | None = None
    ) -> None:
        self._gateway = gateway
        self._texts = texts or PreparedTexts()
        self._settings = settings
        self._core: Core | None = None
        self._interrupt = QueryInterrupt()
        self._statements: dict[int, str] = {}
        self._statements_bytes = 0
        self._free_id = 0
        self.is_query_only = False
        self.busy_timeout_s = settings.busy_timeout_s
        self.rowid = 0
        self.changes = 0
        self.total_changes = 0

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
        core = Core(
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
        core.interrupt = self._interrupt
        self._core = core

    def begin_request(self) -> None:
        """What was interrupted is over."""
        self._interrupt.renew()

    def interrupt(self) -> None:
        """End the request at work, if it is a query."""
        self._interrupt.request()

    async def close(self) -> None:
        """Roll back what is open."""
        core, self._core = self._core, None
        self._statements.clear()
        self._texts.give_back(self._statements_bytes)
        self._statements_bytes = 0
        if core is not None:
            await drive(core.close())

    async def roll_back(self) -> None:
        """The transaction that is open."""
        await drive(self.core(0).control(_ROLLBACK))

    # -- prepared statements --------------------------------------------------------------------------

    async def prepare(self, sql: str, *, with_tail: bool) -> Statement:
        """Keep the first statement. Raises Refused and what SQLite says."""
        core = self.core(0)
        text, size, has_more = await self._looked_at(first_of, sql)
        if has_more and not with_tail:
            raise Refused(TAIL)
        if text.is_empty:
            raise Refused(EMPTY_STATEMENT)
        if (
            len(self._statements) >= DQLITE_STATEMENTS_MAX
            or self._statements_bytes + size > STATEMENTS_BYTES_MAX
        ):
            raise Refused(Failure(NOMEM, "too many prepared statements on this connection: finalize some"))
        if text.known.control is None and text.pragma is None:
            await self._check(core, text)
        if not self._texts.take(size, self._statements_bytes):
            raise Refused(Failure(NOMEM, "too many prepared statements of all connections: try again later"))
        statement_id = self._free_id
        self._statements[statement_id] = text.sql
        self._statements_bytes += size
        while self._free_id in self._statements:
            self._free_id += 1
        return Statement(0, statement_id, len(text.known.parameters), size if with_tail else None)

    async def _check(self, core: Core, text: Text) -> None:
        """Have SQLite look at a statement: where the open transaction is, which may have made what it names."""
        transaction, keyword = core.transaction, describe(text.sql).keyword
        if transaction is None or transaction.phase is not Phase.WRITING or keyword == "PRAGMA":
            await self._gateway.check(core.database, text.sql)
            return
        looking = text.sql if keyword == "EXPLAIN" else f"EXPLAIN {text.sql}"
        await drive(transaction.read(looking, _fitted(text.known, ()), None, core.settings.timeout_s))

    def statement(self, statement_id: int) -> str:
        """The SQL of a prepared statement."""
        found = self._statements.get(statement_id)
        if found is None:
            raise Refused(NO_STATEMENT)
        return found

    def finalize(self, statement_id: int) -> None:
        found = self.statement(statement_id)
        del self._statements[statement_id]
        size = len(found.encode())
        self._statements_bytes -= size
        self._texts.give_back(size)
        self._free_id = min(self._free_id, statement_id)

    # -- writes ---------------------------------------------------------------------------------------

    def plain_write(self, sql: str, values: Values) -> bytes | None:
        """The body of a unit, when `sql` is one write outside a transaction and returns no rows; else None."""
        core = self._core
        if core is None or core.transaction is not None or self.is_query_only or is_long(sql):
            return None
        text = look_at(sql)
        return encode_statements(((sql, _fitted(text.known, values)),)) if text.is_plain_write else None

    def wrote(self, sql: str, unit: UnitResult) -> Changed:
        """The unit of `plain_write` is done."""
        done = only(sql, unit)
        self._note(look_at(sql).known, done.rowcount, done.last_insert_rowid)
        return Changed(self.rowid, self.changes)

    def _note(self, known: Known, rowcount: int, rowid: int | None) -> None:
        if known.changes and rowcount >= 0:
            self.changes = rowcount
            self.total_changes += rowcount
            if known.kind is StatementKind.INSERT and rowcount > 0 and rowid:
                self.rowid = rowid

    async def execute(self, database_id: int, sql: str, values: Values) -> Changed:
        """Run every statement of `sql`, one after the other as SQLite does; parameters are used up in that order."""
        core = self.core(database_id)
        is_changed = False
        for text in await self._looked_at(statements_of, sql):
            try:
                await self._execute_one(core, text, values)
            except Error as error:
                if is_changed and failure_of(error).code in REPEATED:
                    # Clients would send the whole text again, and what is done would be done twice.
                    raise OutcomeUnknown(f"statements before this one took effect: {error.message}") from None
                raise
            values = values[len(text.known.parameters) :]
            is_changed |= core.transaction is None and text.may_end_in_change
        return Changed(self.rowid, self.changes)

    async def _execute_one(self, core: Core, text: Text, values: Values) -> None:
        if text.is_empty:
            return
        run = self._undone_if_rows if text.may_return else self._run
        result = await run(core, text, values)
        if result is None:
            return
        if result.rows:
            if result.rest is not None:
                await drive(result.rest.close())
            raise Refused(ROWS_YIELDED)
        self._note(text.known, result.rowcount, result.lastrowid)

    async def _undone_if_rows(self, core: Core, text: Text, values: Values) -> Result | None:
        """What returns rows to EXEC must not take effect, and nothing stays open that was not."""
        transaction = core.transaction
        if transaction is None:
            await drive(core.begin("IMMEDIATE"))
        else:
            await drive(transaction.savepoint(_SAVEPOINT))
        try:
            result = await self._run(core, text, values)
            if result is not None and result.rows:
                raise Refused(ROWS_YIELDED)
            await drive(core.control(_COMMIT) if transaction is None else transaction.release(_SAVEPOINT))
        except BaseException:
            if transaction is None and core.transaction is not None:
                await drive(core.control(_ROLLBACK))
            elif transaction is not None and core.transaction is transaction:
                with suppress(Error):  # when the node has ended it, nothing of it happened either
                    await drive(transaction.rollback_to(_SAVEPOINT))
                    await drive(transaction.release(_SAVEPOINT))
            raise
        return result

    # -- reads and what else has columns ------------------------------------------------------------------

    async def query(self, database_id: int, sql: str, values: Values) -> Result:
        """Run one statement; `columns` of the result are () when it returns none."""
        core = self.core(database_id)
        text: Text = await self._looked_at(look_at, sql)
        if not text.known.is_single:
            raise Refused(TAIL)
        if text.is_empty:
            raise Refused(EMPTY_STATEMENT)
        if len(values) > len(text.known.parameters):
            raise Refused(PARAMETERS)
        decltypes: Sequence[str | None] = ()
        if text.may_return and core.transaction is None:  # its unit's results do not tell them
            fitted = _fitted(text.known, values)
            decltypes = await self._gateway.decltypes(core.database, text.sql, fitted)
        result = await self._run(core, text, values)
        if result is None:
            return Result((), (), [], None)
        if result.columns is not None and len(decltypes) == len(result.columns):
            result = result._replace(decltypes=decltypes)
        self._note(text.known, result.rowcount, result.lastrowid)
        return result if result.columns is not None else Result((), (), [], None)

    # -- inside -----------------------------------------------------------------------------------------

    async def _looked_at(self, look: Callable[[str], Looked], sql: str) -> Looked:
        return await self._gateway.off_loop(look, sql) if is_long(sql) else look(sql)

    async def _run(self, core: Core, text: Text, values: Values) -> Result | None:
        if text.pragma is not None:
            return carry_out(self, *text.pragma)
        if self.is_query_only and not text.changes_nothing:
            raise OperationalError(_READ_ONLY, code=READONLY)
        core.settings.busy_timeout_s = self.busy_timeout_s
        sql = filled_in(text, self) if text.calls else text.sql
        steps = core.execute(sql, _fitted(text.known, values), None, core.settings.timeout_s)
        try:
            if is_long(text.sql):
                return await drive(await self._gateway.off_loop(begun, steps))
            return await drive(steps)
        except TransactionEnded:
            if text.known.control == _COMMIT and core.transaction is not None:
                # The client has heard that nothing of it happened; pools hand the connection on without a ROLLBACK.
                await drive(core.control(_ROLLBACK))
            raise


def _fitted(known: Known, values: Values) -> Values:
    """As many as the statement has parameters: what is missing is NULL."""
    count = len(known.parameters)
    if len(values) == count:
        return values
    return [*values[:count], *[None] * (count - len(values))]
