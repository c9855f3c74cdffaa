"""Transactions on a stock server: one connection of the pool each, until the end. Loop thread.

A broken connection ends a transaction, and nothing of it happened: the server rolls back. Only COMMIT can be in doubt.
The time limits are kept here, a stock server has none: who is over one loses the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from dqlite_py.client.stock.connection import StockConnection
from dqlite_py.client.stock.failures import Doubtful, Refused, checked, committed
from dqlite_py.client.stock.pool import Pauses, Pool
from dqlite_py.client.stock.statements import Sql, decode_body, statement, written
from dqlite_py.client.stock.streams import Found, Stream, all_rows, ask_rows, begin, interruptible
from dqlite_py.errors import (
    Error,
    IntegrityError,
    OutcomeUnknown,
    SnapshotConflict,
    TransactionEnded,
)
from dqlite_py.gateway import Interrupt, SqlParams, StatementResult, TransactionLimits, UnitResult
from dqlite_py.model import WriteKey
from dqlite_py.sqlite_codes import BUSY_SNAPSHOT
from dqlite_py.wire.dqlite.requests import Request, RequestType
from dqlite_py.wire.dqlite.responses import Response, Result

T = TypeVar("T")
_END_S: Final = 2.0
_IN_TRANSACTION: Final = "within a transaction"
_LOCK: Final = 'SAVEPOINT "_dqlite_lock"; PRAGMA user_version = 0'
_UNDO_LOCK: Final = 'ROLLBACK TO "_dqlite_lock"; RELEASE "_dqlite_lock"'


def execute(sql: str) -> Request:
    """A statement of our own, without values."""
    return Request(RequestType.EXEC_SQL, (0, sql, ()))


def result_of(response: Response) -> Result:
    """Raises what a FAILURE means, Doubtful for anything that is no RESULT."""
    if not isinstance(checked(response), Result):
        raise Doubtful(f"the dqlite server answered a statement with {type(response).__name__}")
    assert isinstance(response, Result)
    return response


async def run_statement(connection: StockConnection, sql: Sql) -> StatementResult:
    """One statement, inside a transaction when it both writes and has rows: alone dqlite would not replicate it."""
    if not sql.kind.has_rows:
        return written(sql, result_of(await connection.ask(sql.request())))
    found = await all_rows(connection, sql)
    rowid = 0
    if sql.kind.is_insert and found.rows:
        [(number,)] = (await all_rows(connection, statement("SELECT last_insert_rowid()", ()))).rows
        rowid = number if isinstance(number, int) else 0
    rowcount = len(found.rows) if sql.kind.is_change else -1
    return StatementResult(rowcount, rowid, found.columns, found.rows, found.decltypes)


class Held:
    """A connection that belongs to a transaction, and the time limits of that."""

    def __init__(self, pool: Pool, connection: StockConnection, limits: TransactionLimits) -> None:
        self.connection = connection
        self._pool = pool
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._hold = self._loop.call_later(limits.hold_s, self._expired, f"hold_limit of {limits.hold_s:g} s")
        self._idle: asyncio.TimerHandle | None = None
        self.is_open = True
        self.why = "it was ended"
        self.rest()

    def work(self) -> None:
        """Raises TransactionEnded; the pause is over."""
        if not self.is_open:
            raise TransactionEnded(f"the transaction is over, nothing of it happened: {self.why}")
        if self._idle is not None:
            self._idle.cancel()

    def rest(self) -> None:
        if self.is_open:
            limits = self._limits
            self._idle = self._loop.call_later(
                limits.idle_s, self._expired, f"idle_limit of {limits.idle_s:g} s"
            )

    def stay(self) -> None:
        """The limit of the whole is over: a COMMIT in work must not break because of it."""
        self._hold.cancel()

    def end(self, *, broken: str | None = None, leads: bool = True) -> None:
        """Give the connection back, closed when something is `broken`. Idempotent."""
        if not self.is_open:
            return
        self.is_open = False
        self._hold.cancel()
        if self._idle is not None:
            self._idle.cancel()
        if broken is not None:
            self.why = broken
            self.connection.abort(broken)
        self._pool.put(self.connection, leads=leads)

    def _expired(self, why: str) -> None:
        self.end(broken=why)

    async def roll_back(self) -> None:
        """And give the connection back; the server rolls back by itself what cannot be asked for."""
        if not self.is_open:
            return
        self.work()
        try:
            async with asyncio.timeout(_END_S):
                checked(await self.connection.ask(execute("ROLLBACK")))
        except (Doubtful, Refused, TimeoutError, asyncio.CancelledError) as error:
            self.end(broken=f"it was rolled back: {error}")
            if isinstance(error, asyncio.CancelledError):
                raise
        except Error:
            self.end()  # there was none any more
        else:
            self.end()


class Transaction:
    """See gateway.AsyncWriteTransaction."""

    commit_key: WriteKey | None = None  # a stock server knows none

    def __init__(self, held: Held) -> None:
        self._held = held

    @property
    def is_open(self) -> bool:
        return self._held.is_open

    async def run(
        self, body: bytes, timeout_s: float, interrupt: Interrupt | None = None
    ) -> list[StatementResult]:
        """Cancelled: it is rolled back."""
        statements = decode_body(body)
        results: list[StatementResult] = []
        held = self._held
        held.work()
        begin(interrupt)
        try:
            async with asyncio.timeout(timeout_s):
                with interruptible(held.connection, interrupt):
                    for sql in statements:
                        results.append(
                            await self._repeated(lambda sql=sql: run_statement(held.connection, sql))  # type: ignore[misc]
                        )
        except (Doubtful, Refused, TimeoutError) as error:
            raise self._ended(error) from None
        except asyncio.CancelledError:
            held.end(broken="its statement was cancelled")
            raise
        except Error as error:
            error.details["statement"] = len(results)
            await self._look(error)
            raise
        held.rest()
        return results

    async def commit(self, timeout_s: float) -> UnitResult:
        """Cancelled: whether it was committed is not known."""
        held = self._held
        held.work()
        held.stay()
        try:
            async with asyncio.timeout(timeout_s):
                await self._repeated(lambda: _commit(held.connection))
        except (Doubtful, TimeoutError) as error:
            reason = str(error) or "no answer in time"
            held.end(broken=reason)
            raise OutcomeUnknown(f"COMMIT was sent, and its answer is lost: {reason}") from None
        except Refused as error:
            raise self._ended(error) from None
        except asyncio.CancelledError:
            held.end(broken="its COMMIT was cancelled")
            raise
        except IntegrityError:  # deferred foreign keys
            held.rest()
            raise
        except Error:
            await held.roll_back()
            raise
        held.end()
        return UnitResult(0, [])

    async def rollback(self) -> None:
        await self._held.roll_back()

    def abandon(self) -> None:
        """Nobody goes on with it."""
        self._held.end(broken="nobody went on with it")

    async def _repeated(self, work: Callable[[], Awaitable[T]]) -> T:
        """Until the server is not busy with its checkpoint."""
        pauses = Pauses()
        while True:
            try:
                return await work()
            except Refused as refused:
                if refused.elsewhere:
                    raise
            await pauses.rest()

    async def _look(self, error: Error) -> None:
        """After a failed statement: is the transaction still there (not after OR ROLLBACK)?"""
        held = self._held
        if error.code == BUSY_SNAPSHOT:
            held.end(broken=error.message)
            raise SnapshotConflict(
                f"the database was changed since this transaction read it: {error.message}",
                code=error.code,
                statement=error.details["statement"],
            ) from None
        try:
            async with asyncio.timeout(_END_S):
                await _checked(held.connection, execute("BEGIN"))
        except Error as answer:
            if _IN_TRANSACTION in answer.message:
                held.rest()
                return
            held.end(broken=answer.message)
        except (Doubtful, Refused, TimeoutError) as answer:
            held.end(broken=str(answer))
        else:
            held.why = error.message
            await held.roll_back()

    def _ended(self, error: Exception) -> Error:
        """Nothing of it happened, whatever it was."""
        reason = str(error) or "no answer in time"
        leads = not (isinstance(error, Refused) and error.elsewhere)
        self._held.end(broken=reason, leads=leads)
        return TransactionEnded(f"the transaction is over, nothing of it happened: {reason}")


class FrozenState:
    """See gateway.AsyncReadTransaction. `log_index` is a number of this program's, below 0."""

    def __init__(self, held: Held, number: int, spawn: Callable[[Any], object]) -> None:
        self.log_index = number
        self._held = held
        self._spawn = spawn
        self._stream: Stream | None = None
        self._is_taken = False

    async def query(
        self, sql: str, params: SqlParams, timeout_s: float, interrupt: Interrupt | None = None
    ) -> Found:
        held = self._held
        held.work()
        begin(interrupt)
        try:
            async with asyncio.timeout(timeout_s):
                await self._free()
                with interruptible(held.connection, interrupt):
                    result, has_more = await ask_rows(held.connection, statement(sql, params))
        except (Doubtful, Refused, TimeoutError) as error:
            reason = str(error) or "no answer in time"
            held.end(broken=reason)
            raise TransactionEnded(f"the read transaction is lost: {reason}") from None
        except asyncio.CancelledError:
            held.end(broken="its statement was cancelled")
            raise
        except Error:
            held.rest()
            raise
        if has_more:
            self._stream = Stream(held.connection, timeout_s, interrupt, self._rested, self._spawn)
        else:
            held.rest()
        return result, self._stream if has_more else None

    async def become_writer(self, busy_until: float, deadline: float) -> Transaction:
        """The same connection as a writer, of the state it has read. Raises as Gateway.begin. Times are the loop's."""
        held = self._held
        held.work()
        pauses = Pauses()
        try:
            async with asyncio.timeout_at(deadline):
                await self._free()
                while True:
                    try:
                        await _checked(held.connection, execute(_LOCK))
                        await _checked(held.connection, execute(_UNDO_LOCK))
                        break
                    except Refused as refused:
                        if refused.elsewhere:
                            raise
                        await _checked(held.connection, execute(_UNDO_LOCK))
                        if asyncio.get_running_loop().time() >= busy_until:
                            raise refused.error from None
                    await pauses.rest()
        except TimeoutError:
            held.end(broken="the server did not answer in time")
            raise
        except Error as error:
            held.rest()
            if error.code != BUSY_SNAPSHOT:
                raise
            raise SnapshotConflict(
                f"the database was changed since this transaction read it: {error.message}", code=error.code
            ) from None
        self._is_taken = True
        held.rest()
        return Transaction(held)

    def close(self) -> None:
        if not self._is_taken and self._held.is_open:
            if self._stream is not None:
                self._stream.close()
                self._held.end(broken="it was closed while a result was read")
            else:
                self._spawn(self._held.roll_back())

    async def _free(self) -> None:
        """One request at a time: what is still coming is kept here."""
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.keep()
            self._held.work()  # the end of a result begins a pause

    def _rested(self, _connection: StockConnection) -> None:
        self._stream = None
        self._held.rest()


async def _checked(connection: StockConnection, request: Request) -> Response:
    return checked(await connection.ask(request))


async def _commit(connection: StockConnection) -> None:
    committed(await connection.ask(execute("COMMIT")))


async def begun(pool: Pool, connection: StockConnection, sql: str, limits: TransactionLimits) -> Held:
    """Begin on a connection of the pool; it belongs to the result then."""
    await _checked(connection, execute(sql))
    return Held(pool, connection, limits)
