"""What a stock server can do of what a gateway is asked, and how often it is asked. Loop thread.

The rule: what was refused, or broke before a write was sent, is tried again at whoever leads, until the time is over.
A write that may have happened is never repeated: a stock server remembers no keys.
"""

from __future__ import annotations

import asyncio
import itertools
import ssl
import weakref
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

from dqlite_py.client.stock.connection import StockConnection
from dqlite_py.client.stock.failures import Doubtful, Refused, checked, committed, is_of_the_log
from dqlite_py.client.stock.pool import Pauses, Pool
from dqlite_py.client.stock.statements import Sql, asks, decode_body, statement
from dqlite_py.client.stock.streams import Found, Stream, ask_rows, begin, interruptible
from dqlite_py.client.stock.transactions import FrozenState, Transaction, begun, execute, run_statement
from dqlite_py.command import check_database_name
from dqlite_py.errors import (
    DatabaseLocked,
    Error,
    InterfaceError,
    NoLeader,
    NotSupportedError,
    OperationalError,
    OutcomeUnknown,
)
from dqlite_py.gateway import (
    NOT_LINEARIZABLE,
    Freshness,
    Interrupt,
    Once,
    ReadLevel,
    SqlParams,
    StatementResult,
    TransactionLimits,
    UnitResult,
)
from dqlite_py.model import Address, WriteKey
from dqlite_py.sqltext import StatementKind, describe

T = TypeVar("T")
_LEADER_WAIT_S: Final = 2.0  # on top of waiting for the database
_TELL: Final = 'SELECT 1 FROM "sqlite_master" LIMIT 1'


class Doubt:
    """`exists`: a write is on its way, and was not answered."""

    exists = False


class Stock:
    """Made on the loop it is used on."""

    def __init__(
        self, addresses: Sequence[Address], context: ssl.SSLContext | None, *, degrades: bool
    ) -> None:
        """`degrades`: linearizable reads are answered by what the leader has."""
        self._pool = Pool(addresses, context)
        self._degrades = degrades
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._states: weakref.WeakValueDictionary[int, FrozenState] = weakref.WeakValueDictionary()
        self._numbers = itertools.count(1)

    # -- writes

    async def execute_unit(self, database: str, body: bytes, timeout_s: float, once: Once) -> UnitResult:
        """See Gateway.execute_unit. Cancelled: the outcome is not known."""
        if isinstance(once, WriteKey):
            raise no_keys()
        statements = decode_body(body)
        alone = len(statements) == 1 and not statements[0].kind.has_rows
        doubt = Doubt()

        async def work(connection: StockConnection) -> list[StatementResult]:
            if not alone:
                return await _group(connection, statements, doubt)
            doubt.exists = True
            return [await run_statement(connection, statements[0])]

        return UnitResult(0, await self._asked(database, timeout_s, work, doubt))

    async def begin(
        self, database: str, wait_s: float, limits: TransactionLimits, base_index: int | None
    ) -> Transaction:
        """See Gateway.begin."""
        busy_until = self._loop.time() + wait_s
        if base_index is not None:
            state = self._states.get(base_index)
            if state is None:
                raise InterfaceError("the read transaction that this one goes on from is over")
            try:
                return await state.become_writer(busy_until, busy_until + _LEADER_WAIT_S)
            except (TimeoutError, Refused, Doubtful) as error:
                raise DatabaseLocked(f"the transaction cannot write: {error or 'busy'}", code=5) from None

        async def work(connection: StockConnection) -> Transaction:
            try:
                return Transaction(await begun(self._pool, connection, "BEGIN IMMEDIATE", limits))
            except Refused as refused:
                if not refused.elsewhere and self._loop.time() >= busy_until:
                    raise refused.error from None
                raise

        return await self._asked(database, wait_s + _LEADER_WAIT_S, work, Doubt(), keeps=True)

    def new_key(self, _database: str) -> WriteKey:
        """Raises NotSupportedError."""
        raise no_keys()

    async def resolve(self, _database: str, key: WriteKey, _timeout_s: float) -> UnitResult:
        """See Gateway.resolve."""
        raise OutcomeUnknown(
            "a dqlite server remembers no keys: what became of the write cannot be found out", **key._asdict()
        )

    # -- reads

    async def query(
        self,
        database: str,
        sql: str,
        params: SqlParams,
        freshness: Freshness,
        timeout_s: float,
        interrupt: Interrupt | None = None,
    ) -> Found:
        """See Gateway.query."""
        self._check(freshness)
        begin(interrupt)
        asked = statement(sql, params)

        async def work(connection: StockConnection) -> Found:
            with interruptible(connection, interrupt):
                result, has_more = await ask_rows(connection, asked)
            if has_more:
                return result, Stream(connection, timeout_s, interrupt, self._pool.put, self.spawn)
            self._pool.put(connection)
            return result, None

        return await self._asked(database, timeout_s, work, Doubt(), keeps=True)

    async def begin_read(
        self, database: str, freshness: Freshness, timeout_s: float, limits: TransactionLimits
    ) -> FrozenState:
        """See Gateway.begin_read."""
        self._check(freshness)

        async def work(connection: StockConnection) -> FrozenState:
            held = await begun(self._pool, connection, "BEGIN", limits)
            try:
                await ask_rows(connection, statement(_TELL, ()))  # the state is that of the first read
            except BaseException:
                held.end(broken="its state was not read")
                raise
            state = FrozenState(held, -next(self._numbers), self.spawn)
            self._states[state.log_index] = state
            return state

        return await self._asked(database, timeout_s, work, Doubt(), keeps=True)

    async def open_database(self, database: str, timeout_s: float) -> None:
        """See Gateway.open_database."""
        check_database_name(database)
        self._pool.put(await self._pool.take(database, self._loop.time() + timeout_s))

    async def is_read(self, sql: str, _database: str) -> bool:
        """See Gateway.is_read: by its text, what SQL is wrong says the server."""
        kind = describe(sql).kind
        return asks(sql) if kind is StatementKind.ASK else kind is StatementKind.READ

    # -- common

    async def _asked(
        self,
        database: str,
        timeout_s: float,
        work: Callable[[StockConnection], Coroutine[Any, Any, T]],
        doubt: Doubt,
        *,
        keeps: bool = False,
    ) -> T:
        """`keeps`: the connection is its result's, which gives it back."""
        deadline = self._loop.time() + timeout_s
        pauses = Pauses()
        last: Error | None = None
        while True:
            try:
                connection = await self._pool.take(database, deadline)
            except NoLeader as error:
                raise last or error from None
            try:
                async with asyncio.timeout_at(deadline):
                    found = await work(connection)
            except (Error, Refused, Doubtful, TimeoutError) as error:
                self._let_go(connection, error)
                last = _judged(error, doubt, last, timeout_s)
            except BaseException as error:
                self._let_go(connection, error)
                raise
            else:
                if not keeps:
                    self._pool.put(connection)
                return found
            try:
                async with asyncio.timeout_at(deadline):
                    await pauses.rest()
            except TimeoutError:
                raise last from None

    def _let_go(self, connection: StockConnection, error: BaseException) -> None:
        if not isinstance(error, (Error, Refused)):
            connection.abort("its request was given up")
        if isinstance(error, (Doubtful, TimeoutError)):
            self._pool.drop_leader(connection)  # the server may be gone, and every idle connection with it
        self._pool.put(connection, leads=not (isinstance(error, Refused) and error.elsewhere))

    def _check(self, freshness: Freshness) -> None:
        level = freshness.level
        if level is ReadLevel.LINEARIZABLE and not self._degrades:
            raise NotSupportedError(NOT_LINEARIZABLE)
        if (level is ReadLevel.SESSION and freshness.log_index > 0) or freshness.max_staleness_s is not None:
            raise NotSupportedError(
                "a dqlite server cannot tell how new its state is: session tokens and max_staleness need nodes of ours"
            )

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def descriptors(self) -> list[int]:
        """Of open sockets."""
        return self._pool.descriptors()

    async def close(self) -> None:
        self._pool.close()


async def _group(
    connection: StockConnection, statements: Sequence[Sql], doubt: Doubt
) -> list[StatementResult]:
    """All or nothing. Whatever breaks before COMMIT is sent has not happened."""
    checked(await connection.ask(execute("BEGIN IMMEDIATE")))
    results: list[StatementResult] = []
    try:
        for sql in statements:
            results.append(await run_statement(connection, sql))
    except (Error, Refused) as error:
        if isinstance(error, Error):
            error.details["statement"] = len(results)
        await _undo(connection)
        raise
    doubt.exists = True
    try:
        committed(await connection.ask(execute("COMMIT")))
    except (Error, Refused):
        doubt.exists = False
        await _undo(connection)
        raise
    doubt.exists = False
    return results


async def _undo(connection: StockConnection) -> None:
    try:
        checked(await connection.ask(execute("ROLLBACK")))
    except (Doubtful, Refused):
        connection.abort("it may be in a transaction")
    except Error:
        pass  # OR ROLLBACK: there is none any more


def _judged(error: BaseException, doubt: Doubt, last: Error | None, timeout_s: float) -> Error:
    """What to say if this was the last attempt; raises what settles the request."""
    match error:
        case Refused():
            doubt.exists = False
            return error.error
        case Error() if doubt.exists and is_of_the_log(error):
            raise OutcomeUnknown(
                f"the write was sent, and failed: {error.message} (code {error.code})"
            ) from None
        case Doubtful() | TimeoutError() if doubt.exists:
            raise OutcomeUnknown(
                f"the write was sent, and its answer is lost: {error or 'no answer in time'}; a dqlite server "
                "remembers no keys, so that nobody can tell whether it happened"
            ) from None
        case Doubtful():
            return OperationalError(f"the dqlite server does not answer: {error.reason}")
        case TimeoutError():
            raise last or OperationalError(f"no answer within {timeout_s:g} s") from None
    raise error


def no_keys() -> NotSupportedError:
    return NotSupportedError(
        "a dqlite server remembers no keys: writes cannot be made exactly once, and an unknown outcome stays unknown"
    )
