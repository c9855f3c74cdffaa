"""Gateways to stock dqlite servers, for blocking threads and for coroutines of any event loop.

What is dropped without being closed is closed on the loop's thread, also what nobody has waited for.
Belongs to the process that made it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

from dqlite_py.client.background import Background
from dqlite_py.client.stock.streams import Found, Stream
from dqlite_py.client.stock.transactions import FrozenState, Transaction
from dqlite_py.client.stock.work import Stock, no_keys
from dqlite_py.command import check_database_name
from dqlite_py.config import TlsSettings
from dqlite_py.errors import Error, InterfaceError, OutcomeUnknown
from dqlite_py.gateway import (
    Freshness,
    Interrupt,
    Once,
    QueryResult,
    Row,
    ServerInfo,
    SqlParams,
    StatementResult,
    TransactionLimits,
    UnitResult,
    WriteKey,
)
from dqlite_py.model import Address
from dqlite_py.raft.tls import TlsContexts

T = TypeVar("T")


STOCK: Final = ServerInfo("dqlite", exactly_once=False, read_levels=("stale",), changes=False)


class _Base:
    """`degrades`: reads of level LINEARIZABLE, which these servers do not have, are answered as LEADER; else refused.

    Raises ssl.SSLError or OSError for unusable TLS files.
    """

    server = STOCK

    def __init__(
        self, addresses: Sequence[Address], tls: TlsSettings | None = None, *, degrades: bool = False
    ) -> None:
        self.addresses = tuple(addresses)
        self._context = None if tls is None else TlsContexts(tls).client
        self._degrades = degrades
        self._opening = threading.Lock()
        self._made = self._open()

    def _open(self) -> Background[Stock]:
        addresses, context, degrades = self.addresses, self._context, self._degrades

        async def open() -> Stock:
            return Stock(addresses, context, degrades=degrades)

        background = Background(open, Stock.close, "dqlite-stock-client", Stock.descriptors)
        weakref.finalize(self, background.end, wait=False)
        return background

    @property
    def background(self) -> Background[Stock]:
        """This process's: a forked child makes its own at its first call."""
        if not self._made.is_ours:
            with self._opening:
                if not self._made.is_ours:
                    self._made = self._open()
        return self._made

    def new_key(self, database: str) -> WriteKey:
        """Raises NotSupportedError: a stock server remembers no keys."""
        raise no_keys()

    def close(self) -> None:
        """End the thread and its connections; done by itself when nobody holds the gateway any more. Idempotent."""
        self._made.end()

    def calls(self) -> Calls:
        return Calls(self, self.background)


class Calls:
    """How calls get to the loop's thread and back. Belongs to the process that made it, and keeps the gateway."""

    def __init__(self, gateway: _Base, background: Background[Stock]) -> None:
        self._gateway = gateway
        self._background = background

    @property
    def is_ours(self) -> bool:
        return self._background.is_ours

    def soon(self, function: Callable[[], object]) -> None:
        """Run it on the loop's thread; not in another process, and not when that has ended."""
        if self._background.is_ours:
            with contextlib.suppress(InterfaceError):
                self._background.submit(_called(function))

    def run(self, make: Callable[[Stock], Coroutine[Any, Any, T]]) -> T:
        """Block until it is done; a KeyboardInterrupt cancels it."""
        return self._background.run(make(self._background.resource))

    async def wait(self, make: Callable[[Stock], Coroutine[Any, Any, T]]) -> T:
        """The same for a coroutine on any event loop."""
        future = self._background.submit(make(self._background.resource))
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and not task.cancelling():
                raise InterfaceError("the connection to the servers was closed during the call") from None
            raise


async def _called(function: Callable[[], object]) -> None:
    function()


def _unresolved(key: WriteKey) -> OutcomeUnknown:
    return OutcomeUnknown(
        "a dqlite server remembers no keys: what became of the write cannot be found out", **key._asdict()
    )


class StockGateway(_Base):
    """Implements gateway.Gateway."""

    def execute_unit(self, database: str, body: bytes, timeout_s: float, *, once: Once = True) -> UnitResult:
        return self.calls().run(lambda stock: stock.execute_unit(database, body, timeout_s, once))

    def resolve(self, database: str, key: WriteKey, timeout_s: float) -> UnitResult:
        raise _unresolved(key)

    def query(
        self,
        database: str,
        sql: str,
        params: SqlParams,
        freshness: Freshness,
        timeout_s: float,
        interrupt: Interrupt | None = None,
    ) -> QueryResult:
        calls = self.calls()

        async def found(stock: Stock) -> QueryResult:
            result = await stock.query(database, sql, params, freshness, timeout_s, interrupt)
            return _with_rest(result, lambda stream: StockStream(calls, stream))

        return calls.run(found)

    def begin(
        self, database: str, wait_s: float, limits: TransactionLimits, *, base_index: int | None = None
    ) -> StockTransaction:
        calls = self.calls()

        async def begun(stock: Stock) -> StockTransaction:
            return StockTransaction(calls, await stock.begin(database, wait_s, limits, base_index))

        return calls.run(begun)

    def begin_read(
        self, database: str, freshness: Freshness, timeout_s: float, limits: TransactionLimits
    ) -> StockReadTransaction:
        calls = self.calls()

        async def begun(stock: Stock) -> StockReadTransaction:
            state = await stock.begin_read(database, freshness, timeout_s, limits)
            return StockReadTransaction(calls, state)

        return calls.run(begun)

    def open_database(self, database: str, timeout_s: float) -> None:
        check_database_name(database)
        self.calls().run(lambda stock: stock.open_database(database, timeout_s))

    def is_read(self, sql: str, database: str) -> bool:
        return Stock.is_read(sql)


class _Dropped:
    """Closes what nobody holds any more."""

    def __init__(self, calls: Calls, close: Callable[[], object]) -> None:
        self._calls = calls
        self._close = close

    def _soon(self) -> None:
        self._calls.soon(self._close)

    def __del__(self) -> None:
        self._soon()


class StockStream(_Dropped):
    """Implements gateway.RowStream."""

    def __init__(self, calls: Calls, stream: Stream) -> None:
        super().__init__(calls, stream.close)
        self._stream = stream

    def fetch(self) -> list[Row]:
        return self._calls.run(lambda _: self._stream.fetch())

    def close(self) -> None:
        self._soon()


class StockReadTransaction(_Dropped):
    """Implements gateway.ReadTransaction."""

    def __init__(self, calls: Calls, state: FrozenState) -> None:
        super().__init__(calls, state.close)
        self._state = state
        self.log_index = state.log_index

    def query(
        self, sql: str, params: SqlParams, timeout_s: float, interrupt: Interrupt | None = None
    ) -> QueryResult:
        async def found(_stock: Stock) -> QueryResult:
            result = await self._state.query(sql, params, timeout_s, interrupt)
            return _with_rest(result, lambda stream: StockStream(self._calls, stream))

        return self._calls.run(found)

    def close(self) -> None:
        self._soon()


class StockTransaction(_Dropped):
    """Implements gateway.WriteTransaction."""

    def __init__(self, calls: Calls, transaction: Transaction) -> None:
        super().__init__(calls, transaction.abandon)
        self._transaction = transaction

    @property
    def is_open(self) -> bool:
        return self._transaction.is_open and self._calls.is_ours

    def run(self, body: bytes, timeout_s: float, interrupt: Interrupt | None = None) -> list[StatementResult]:
        return self._calls.run(lambda _: self._transaction.run(body, timeout_s, interrupt))

    def commit(self, timeout_s: float) -> UnitResult:
        return self._calls.run(lambda _: self._transaction.commit(timeout_s))

    def rollback(self) -> None:
        with contextlib.suppress(Error):
            self._calls.run(lambda _: self._transaction.rollback())


class AsyncStockGateway(_Base):
    """Implements gateway.AsyncGateway."""

    async def execute_unit(
        self, database: str, body: bytes, timeout_s: float, *, once: Once = True
    ) -> UnitResult:
        return await self.calls().wait(lambda stock: stock.execute_unit(database, body, timeout_s, once))

    async def resolve(self, database: str, key: WriteKey, timeout_s: float) -> UnitResult:
        raise _unresolved(key)

    async def query(
        self,
        database: str,
        sql: str,
        params: SqlParams,
        freshness: Freshness,
        timeout_s: float,
        interrupt: Interrupt | None = None,
    ) -> QueryResult:
        calls = self.calls()

        async def found(stock: Stock) -> QueryResult:
            result = await stock.query(database, sql, params, freshness, timeout_s, interrupt)
            return _with_rest(result, lambda stream: AsyncStockStream(calls, stream))

        return await calls.wait(found)

    async def begin(
        self, database: str, wait_s: float, limits: TransactionLimits, *, base_index: int | None = None
    ) -> AsyncStockTransaction:
        calls = self.calls()

        async def begun(stock: Stock) -> AsyncStockTransaction:
            return AsyncStockTransaction(calls, await stock.begin(database, wait_s, limits, base_index))

        return await calls.wait(begun)

    async def begin_read(
        self, database: str, freshness: Freshness, timeout_s: float, limits: TransactionLimits
    ) -> AsyncStockReadTransaction:
        calls = self.calls()

        async def begun(stock: Stock) -> AsyncStockReadTransaction:
            state = await stock.begin_read(database, freshness, timeout_s, limits)
            return AsyncStockReadTransaction(calls, state)

        return await calls.wait(begun)

    async def open_database(self, database: str, timeout_s: float) -> None:
        check_database_name(database)
        await self.calls().wait(lambda stock: stock.open_database(database, timeout_s))

    async def is_read(self, sql: str, database: str) -> bool:
        return Stock.is_read(sql)


class AsyncStockStream(_Dropped):
    """Implements gateway.AsyncRowStream."""

    def __init__(self, calls: Calls, stream: Stream) -> None:
        super().__init__(calls, stream.close)
        self._stream = stream

    async def fetch(self) -> list[Row]:
        return await self._calls.wait(lambda _: self._stream.fetch())

    async def close(self) -> None:
        self._soon()


class AsyncStockReadTransaction(_Dropped):
    """Implements gateway.AsyncReadTransaction."""

    def __init__(self, calls: Calls, state: FrozenState) -> None:
        super().__init__(calls, state.close)
        self._state = state
        self.log_index = state.log_index

    async def query(
        self, sql: str, params: SqlParams, timeout_s: float, interrupt: Interrupt | None = None
    ) -> QueryResult:
        async def found(_stock: Stock) -> QueryResult:
            result = await self._state.query(sql, params, timeout_s, interrupt)
            return _with_rest(result, lambda stream: AsyncStockStream(self._calls, stream))

        return await self._calls.wait(found)

    async def close(self) -> None:
        self._soon()


class AsyncStockTransaction(_Dropped):
    """Implements gateway.AsyncWriteTransaction."""

    def __init__(self, calls: Calls, transaction: Transaction) -> None:
        super().__init__(calls, transaction.abandon)
        self._transaction = transaction

    @property
    def is_open(self) -> bool:
        return self._transaction.is_open and self._calls.is_ours

    async def run(
        self, body: bytes, timeout_s: float, interrupt: Interrupt | None = None
    ) -> list[StatementResult]:
        return await self._calls.wait(lambda _: self._transaction.run(body, timeout_s, interrupt))

    async def commit(self, timeout_s: float) -> UnitResult:
        return await self._calls.wait(lambda _: self._transaction.commit(timeout_s))

    async def rollback(self) -> None:
        with contextlib.suppress(Error):
            await self._calls.wait(lambda _: self._transaction.rollback())


def _with_rest(found: Found, made: Callable[[Stream], Any]) -> QueryResult:
    result, stream = found
    return result if stream is None else result._replace(more=made(stream))
