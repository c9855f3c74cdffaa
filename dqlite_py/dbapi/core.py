"""What a connection does, once for sync and async: where each statement goes; transaction control as in sqlite3.

Steps only (steps.py): asks the gateway through them, never waits itself. Holds what the cursors of a connection share.
One call at a time; who uses it sees to that (a thread check or a lock).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final

from dqlite_py.command import encode_repeated_statements, encode_statements
from dqlite_py.dbapi.parameters import bind, bind_many
from dqlite_py.dbapi.results import Result, check_kept, not_kept
from dqlite_py.dbapi.script import atomic_pairs, split
from dqlite_py.dbapi.settings import LEGACY_TRANSACTION_CONTROL, Settings, check_key
from dqlite_py.dbapi.statements import Control, Known, classify
from dqlite_py.dbapi.steps import NO_KEYWORDS, Steps
from dqlite_py.dbapi.streams import Reader, Rest
from dqlite_py.dbapi.transaction import Transaction
from dqlite_py.errors import (
    Error,
    InternalError,
    OperationalError,
    ProgrammingError,
)
from dqlite_py.gateway import (
    AsyncGateway,
    Freshness,
    Gateway,
    Interrupt,
    QueryResult,
    ReadLevel,
    StatementResult,
    UnitResult,
    WriteKey,
)
from dqlite_py.sqltext import StatementKind

_READ: Final = StatementKind.READ
_ASK: Final = StatementKind.ASK
_EMPTY: Final = StatementKind.EMPTY
_INSERT: Final = StatementKind.INSERT
_SESSION: Final = ReadLevel.SESSION
_LEGACY: Final = LEGACY_TRANSACTION_CONTROL
_SEVERAL: Final = "You can only execute one statement at a time."
_NO_TRANSACTION: Final = "cannot {} - no transaction is active"
_ATOMIC: Final = '"_execute_atomic"'


class Core:
    """`transaction`: the open one, or None. `token`: the newest log index that this connection has seen."""

    def __init__(self, gateway: Gateway | AsyncGateway, database: str, settings: Settings) -> None:
        self.gateway = gateway
        self.database = database
        self.settings = settings
        self.transaction: Transaction | None = None
        self.interrupt = Interrupt()
        self.rests: set[Rest] = set()
        self.total_changes = 0
        self.token = 0
        self.is_closed = False
        self.text_factory: Any = str
        self.trace: Callable[[str], Any] | None = None
        self.once = {"once": settings.once}
        if settings.autocommit is False:
            self.transaction = Transaction(self)

    def saw(self, log_index: int) -> None:
        if log_index > self.token:
            self.token = log_index

    def freshness(self) -> Freshness:
        """What a read of this connection asks for when it does not say."""
        freshness = self.settings.freshness
        return Freshness(_SESSION, self.token) if freshness.level is _SESSION else freshness

    # -- statements -----------------------------------------------------------------------------------

    def execute(
        self, sql: str, params: Any, freshness: Freshness | None, timeout_s: float
    ) -> Steps[Result | None]:
        """Run one statement; None for an empty one and for transaction control."""
        known = classify(sql)
        if not known.is_single:
            raise ProgrammingError(_SEVERAL)
        values = bind(known.parameters, params)
        kind = known.kind
        if known.control is not None:
            yield from self.control(known.control)
            return None
        if kind is _EMPTY:
            return None
        is_read = kind is _READ
        if kind is _ASK:
            is_read = yield self.gateway.is_read, (sql, self.database), NO_KEYWORDS
        if self.transaction is None and known.is_dml:
            yield from self._begin_implicitly()
        if self.trace is not None:
            self._trace(sql)
        if is_read:
            return (yield from self._read(sql, values, freshness, timeout_s))
        body = encode_statements(((sql, values),))
        if self.transaction is not None:
            [result] = yield from self.transaction.write(body, 1, timeout_s)
        else:
            result = only(sql, (yield from self._unit(body, timeout_s)))
        return self.result(known, result)

    def _read(
        self, sql: str, values: Any, freshness: Freshness | None, timeout_s: float
    ) -> Steps[Result | None]:
        reader: Reader | None = None
        found: QueryResult
        if self.transaction is not None:
            found, reader = yield from self.transaction.read(sql, values, freshness, timeout_s)
        else:
            wanted = self.freshness() if freshness is None else freshness
            found = yield (
                self.gateway.query,
                (self.database, sql, values, wanted, timeout_s, self.interrupt),
                NO_KEYWORDS,
            )
        return self.found(found, reader)

    def found(self, found: QueryResult, reader: Reader | None) -> Result | None:
        columns, decltypes, rows, log_index, more = found
        if log_index > self.token:
            self.token = log_index
        rest = None if more is None else Rest(more, reader, self.rests)
        if not columns:  # a PRAGMA that only acts
            return None
        return Result(columns, decltypes, rows, rest)

    def execute_many(self, sql: str, sets: Iterable[Any], timeout_s: float) -> Steps[Result | None]:
        """Run a statement for each parameter set: as one unit, or as one group of the transaction."""
        known = classify(sql)
        if not known.is_single:
            raise ProgrammingError(_SEVERAL)
        if known.control is not None or known.kind in (_READ, _ASK, _EMPTY):
            raise ProgrammingError("executemany() can only execute DML statements.")
        bound = bind_many(known.parameters, list(sets))
        if self.transaction is None and known.is_dml:
            yield from self._begin_implicitly()
        if not bound:
            return Result(None, (), [], None, 0) if known.changes else None
        if self.trace is not None:
            self._trace(sql)
        body = encode_repeated_statements(sql, bound)
        if self.transaction is not None:
            results = yield from self.transaction.write(body, len(bound), timeout_s)
        else:
            unit = yield from self._unit(body, timeout_s)
            if unit.statements is None:
                check_kept(sql)
                self.total_changes += max(0, unit.rowcount)
                return Result(None, (), [], None, unit.rowcount)
            results = unit.statements
        return self._sum(known, results)

    def _sum(self, known: Known, results: list[StatementResult]) -> Result:
        rowcount = -1
        if known.changes:
            rowcount = sum([result.rowcount for result in results])
            self.total_changes += rowcount
        columns = results[0].columns
        if columns is None:
            return Result(None, (), [], None, rowcount)
        rows = [row for result in results for row in result.rows or ()]
        return Result(columns, results[0].decltypes or (None,) * len(columns), rows, None, rowcount)

    def execute_script(self, script: str, timeout_s: float) -> Steps[None]:
        """Run a script; what stands between its transaction statements happens as a whole or not at all."""
        if self.transaction is not None and self.settings.autocommit == _LEGACY:
            yield from self._commit()
        for part in split(script):
            if isinstance(part, Control):
                yield from self.control(part)
                continue
            for sql in part if self.trace is not None else ():
                self._trace(sql)
            body = encode_statements([(sql, ()) for sql in part])
            if self.transaction is not None:
                results = yield from self.transaction.write(body, len(part), timeout_s)
            else:
                results = (yield from self._unit(body, timeout_s)).statements or []
            self.total_changes += sum([max(0, result.rowcount) for result in results])

    def execute_atomic(
        self, statements: Iterable[Any], timeout_s: float, key: WriteKey | None = None
    ) -> Steps[list[Result]]:
        """Run statements all or nothing: as one unit, or inside a savepoint of the open transaction."""
        if key is not None:
            check_key(key, in_transaction=self.transaction is not None)
        pairs, known = atomic_pairs(statements)
        if not pairs:
            return []
        body = encode_statements(pairs)
        if self.transaction is not None:
            results = yield from self._in_savepoint(self.transaction, pairs, timeout_s)
        else:
            unit = yield from self._unit(body, timeout_s, key)
            if unit.statements is None:
                raise not_kept()
            results = unit.statements
        if len(results) != len(pairs):
            raise InternalError(f"{len(results)} results came back for {len(pairs)} statements")
        return [self.result(about, result) for about, result in zip(known, results, strict=True)]

    def _in_savepoint(
        self, transaction: Transaction, pairs: list[tuple[str, Any]], timeout_s: float
    ) -> Steps[list[StatementResult]]:
        framed = [(f"SAVEPOINT {_ATOMIC}", ()), *pairs, (f"RELEASE {_ATOMIC}", ())]
        try:
            results = yield from transaction.write(encode_statements(framed), len(framed), timeout_s)
        except Error as error:
            position = error.details.get("statement")
            if isinstance(position, int) and self.transaction is transaction:
                error.details["statement"] = position - 1
                undo = [(f"ROLLBACK TO {_ATOMIC}", ()), (f"RELEASE {_ATOMIC}", ())]
                yield from transaction.write(encode_statements(undo), 2, timeout_s)
            raise
        return results[1:-1]

    def resolve(self, error: BaseException, timeout_s: float) -> Steps[Result | None]:
        """The result of the last statement of the write whose outcome `error` left unknown."""
        details = error.details if isinstance(error, Error) else {}
        session, sequence = details.get("session"), details.get("sequence")
        if not isinstance(session, bytes) or not isinstance(sequence, int):
            raise ProgrammingError(
                "this error names no write to ask for: only an OutcomeUnknown of a write with exactly_once does"
            )
        key = WriteKey(session, sequence)
        unit: UnitResult = yield self.gateway.resolve, (self.database, key, timeout_s), NO_KEYWORDS
        self.saw(unit.log_index)
        if not unit.statements:
            return Result(None, (), [], None, unit.rowcount)
        last = unit.statements[-1]
        columns = last.columns
        decltypes = last.decltypes or (None,) * len(columns or ())
        rowid = last.last_insert_rowid if last.rowcount > 0 else None
        return Result(columns, decltypes, list(last.rows or ()), None, unit.rowcount, rowid)

    def _unit(self, body: bytes, timeout_s: float, key: WriteKey | None = None) -> Steps[UnitResult]:
        once = self.once if key is None else {"once": key}
        unit: UnitResult = yield self.gateway.execute_unit, (self.database, body, timeout_s), once
        if unit.log_index > self.token:
            self.token = unit.log_index
        return unit

    def result(self, known: Known, result: StatementResult) -> Result:
        rowcount, rowid, columns, rows, decltypes = result
        if not known.changes:
            rowcount = -1
        elif rowcount > 0:
            self.total_changes += rowcount
        inserted = rowid if known.kind is _INSERT and rowcount > 0 else None
        if columns is None:
            return Result(None, (), [], None, rowcount, inserted)
        return Result(
            columns, decltypes or (None,) * len(columns), list(rows or ()), None, rowcount, inserted
        )

    # -- transactions ---------------------------------------------------------------------------------

    def control(self, control: Control) -> Steps[None]:
        """Carry out BEGIN, COMMIT, SAVEPOINT … of a statement."""
        transaction = self.transaction
        verb, name = control
        if verb == "BEGIN":
            if transaction is not None:
                raise OperationalError("cannot start a transaction within a transaction", code=1)
            yield from self.begin(name)
        elif verb == "SAVEPOINT":
            if transaction is None:
                transaction = self.transaction = Transaction(self, by_savepoint=True)
            yield from transaction.savepoint(name)
        elif transaction is None:
            if verb in ("COMMIT", "ROLLBACK"):
                raise OperationalError(_NO_TRANSACTION.format(verb.lower()), code=1)
            raise OperationalError(f"no such savepoint: {name}", code=1)
        elif verb == "COMMIT":
            yield from self._commit()
        elif verb == "ROLLBACK":
            yield from self._rollback()
        elif verb == "RELEASE":
            yield from transaction.release(name)
        else:
            yield from transaction.rollback_to(name)

    def begin(self, mode: str) -> Steps[None]:
        if self.trace is not None:
            self._trace(f"BEGIN {mode}")
        transaction = self.transaction = Transaction(self)
        if mode in ("IMMEDIATE", "EXCLUSIVE"):
            try:
                yield from transaction.begin_writing()
            except BaseException:
                self.transaction = None
                raise

    def begins_implicitly(self) -> bool:
        settings = self.settings
        return settings.isolation_level is not None and settings.autocommit == _LEGACY

    def _begin_implicitly(self) -> Steps[None]:
        if self.begins_implicitly():
            yield from self.begin(self.settings.isolation_level or "")

    def commit(self) -> Steps[None]:
        """connection.commit()."""
        if self.settings.autocommit is False:
            if self.transaction is None:
                raise OperationalError(_NO_TRANSACTION.format("commit"), code=1)
            try:
                yield from self._commit()
            finally:
                if self.transaction is None:  # also after a failure that ended it
                    yield from self.begin("")
        elif self.settings.autocommit == _LEGACY and self.transaction is not None:
            yield from self._commit()

    def rollback(self) -> Steps[None]:
        """connection.rollback()."""
        if self.settings.autocommit is False:
            if self.transaction is None:
                raise OperationalError(_NO_TRANSACTION.format("rollback"), code=1)
            yield from self._rollback()
            yield from self.begin("")
        elif self.settings.autocommit == _LEGACY and self.transaction is not None:
            yield from self._rollback()

    def leave(self, failed: bool) -> Steps[None]:
        """The end of `with connection:`: commit, or roll back when the block or the commit failed."""
        if self.settings.autocommit is True or (self.transaction is None and self.settings.autocommit):
            return
        if failed:
            yield from self.rollback()
            return
        try:
            yield from self.commit()
        except BaseException:
            if self.transaction is not None:
                yield from self.rollback()
            raise

    def _commit(self) -> Steps[None]:
        if self.transaction is not None:
            if self.trace is not None:
                self._trace("COMMIT")
            yield from self.transaction.commit()

    def _rollback(self) -> Steps[None]:
        if self.transaction is not None:
            if self.trace is not None:
                self._trace("ROLLBACK")
            yield from self.transaction.rollback()

    def set_isolation_level(self, level: str | None) -> Steps[None]:
        """None commits, as in sqlite3."""
        self.settings.isolation_level = level
        if level is None:
            yield from self._commit()

    def set_autocommit(self, value: bool | int) -> Steps[None]:
        """True commits; False begins a transaction."""
        self.settings.autocommit = value
        if value is True:
            yield from self._commit()
        elif value is False and self.transaction is None:
            yield from self.begin("")

    def close(self) -> Steps[None]:
        """Roll back what is open, and let go of all results."""
        try:
            if self.transaction is not None:
                yield from self.transaction.rollback()
        finally:
            for rest in list(self.rests):
                yield from rest.close()

    def _trace(self, sql: str) -> None:
        if self.trace is not None:
            with suppress(Exception):  # as in sqlite3: tracing disturbs nothing
                self.trace(sql)


def only(sql: str, unit: UnitResult) -> StatementResult:
    if unit.statements is None:
        check_kept(sql)
        return StatementResult(unit.rowcount, 0)
    if len(unit.statements) != 1:
        raise InternalError(f"{len(unit.statements)} results came back for one statement")
    return unit.statements[0]
