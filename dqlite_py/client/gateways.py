"""Gateways over the network, for blocking threads and for coroutines of any event loop: both kinds over one table of
what the client's loop thread can be asked (`Requests`), which nodes of ours and stock servers each have.

What is dropped without being closed is closed on the loop's thread, as soon as that is found out; so is what opens when
whoever asked for it has just gone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from dqlite_py.client.calls import Calls, PerProcess
from dqlite_py.errors import Error, OutcomeUnknown
from dqlite_py.gateway import (
    Freshness,
    Interrupt,
    Once,
    QueryResult,
    Row,
    SqlParams,
    StatementResult,
    TransactionLimits,
    UnitResult,
    WriteKey,
)

R = TypeVar("R")
T = TypeVar("T")
X = TypeVar("X")


class LoopStream(Protocol):
    """The rest of a result, on the loop's thread."""

    async def fetch(self) -> list[Row]: ...
    def close(self) -> None: ...


class LoopState(Protocol):
    """A frozen state, on the loop's thread; see gateway.ReadTransaction."""

    log_index: int

    async def query(
        self, sql: str, params: SqlParams, timeout_s: float, interrupt: Interrupt | None = None
    ) -> tuple[QueryResult, Any]: ...
    def close(self) -> None: ...


class LoopTransaction(Protocol):
    """A write transaction, on the loop's thread; see gateway.WriteTransaction."""

    @property
    def is_open(self) -> bool: ...
    @property
    def commit_key(self) -> WriteKey | None:
        """Of a COMMIT that was asked for, where the servers know keys."""

    async def run(
        self, body: bytes, timeout_s: float, interrupt: Interrupt | None = None
    ) -> list[StatementResult]: ...
    async def commit(self, timeout_s: float) -> UnitResult: ...
    async def rollback(self) -> None: ...
    def abandon(self) -> None:
        """Nobody goes on with it."""


@dataclass(frozen=True, slots=True)
class Requests(Generic[R]):
    """What can be asked, as in gateway.Gateway: of what lives on the loop (R), with all arguments in their order."""

    new_key: Callable[[R, str], WriteKey]  # any thread
    execute_unit: Callable[[R, str, bytes, float, Once], Coroutine[Any, Any, UnitResult]]
    resolve: Callable[[R, str, WriteKey, float], Coroutine[Any, Any, UnitResult]]
    query: Callable[
        [R, str, str, SqlParams, Freshness, float, Interrupt | None],
        Coroutine[Any, Any, tuple[QueryResult, Any]],
    ]
    begin: Callable[[R, str, float, TransactionLimits, int | None], Coroutine[Any, Any, LoopTransaction]]
    begin_read: Callable[[R, str, Freshness, float, TransactionLimits], Coroutine[Any, Any, LoopState]]
    open_database: Callable[[R, str, float], Coroutine[Any, Any, None]]
    is_read: Callable[[R, str, str], Coroutine[Any, Any, bool]]


class _Gateway(Generic[R]):
    def __init__(self, shared: PerProcess[R], requests: Requests[R]) -> None:
        self._shared = shared
        self._requests = requests

    @property
    def _calls(self) -> Calls[R]:
        return Calls(self._shared)

    def new_key(self, database: str) -> WriteKey:
        return self._requests.new_key(self._shared.background.resource, database)


class _Dropped:
    """Closes on the loop what nobody holds any more."""

    def __init__(self, calls: Calls[Any], close: Callable[[], object]) -> None:
        self._calls = calls
        self._close = close

    def _close_soon(self) -> None:
        self._calls.soon(self._close)

    def __del__(self) -> None:
        self._calls.soon(self._close)


class BlockingGateway(_Gateway[R]):
    """Implements gateway.Gateway."""

    def execute_unit(self, database: str, body: bytes, timeout_s: float, *, once: Once = True) -> UnitResult:
        ask = self._requests.execute_unit
        return self._calls.run(lambda link: ask(link, database, body, timeout_s, once), OutcomeUnknown)

    def resolve(self, database: str, key: WriteKey, timeout_s: float) -> UnitResult:
        ask = self._requests.resolve
        return self._calls.run(lambda link: ask(link, database, key, timeout_s), OutcomeUnknown)

    def query(
        self,
        database: str,
        sql: str,
        params: SqlParams,
        freshness: Freshness,
        timeout_s: float,
        interrupt: Interrupt | None = None,
    ) -> QueryResult:
        ask, calls = self._requests.query, self._calls
        return calls.run(
            lambda link: _result(
                BlockingStream,
                calls,
                partial(ask, link, database, sql, params, freshness, timeout_s, interrupt),
            )
        )

    def begin(
        self, database: str, wait_s: float, limits: TransactionLimits, *, base_index: int | None = None
    ) -> BlockingTransaction:
        ask, calls = self._requests.begin, self._calls
        return calls.run(
            lambda link: _opened(
                BlockingTransaction, calls, partial(ask, link, database, wait_s, limits, base_index)
            )
        )

    def begin_read(
        self, database: str, freshness: Freshness, timeout_s: float, limits: TransactionLimits
    ) -> BlockingReadTransaction:
        ask, calls = self._requests.begin_read, self._calls
        return calls.run(
            lambda link: _opened(
                BlockingReadTransaction, calls, partial(ask, link, database, freshness, timeout_s, limits)
            )
        )

    def open_database(self, database: str, timeout_s: float) -> None:
        ask = self._requests.open_database
        self._calls.run(lambda link: ask(link, database, timeout_s))

    def is_read(self, sql: str, database: str) -> bool:
        ask = self._requests.is_read
        return self._calls.run(lambda link: ask(link, sql, database))


class BlockingStream(_Dropped):
    """Implements gateway.RowStream."""

    def __init__(self, calls: Calls[Any], stream: LoopStream) -> None:
        super().__init__(calls, stream.close)
        self._stream = stream

    def fetch(self) -> list[Row]:
        return self._calls.run(lambda _: self._stream.fetch())

    def close(self) -> None:
        self._close_soon()


class BlockingReadTransaction(_Dropped):
    """Implements gateway.ReadTransaction."""

    def __init__(self, calls: Calls[Any], state: LoopState) -> None:
        super().__init__(calls, state.close)
        self._state = state
        self.log_index = state.log_index

    def query(
        self, sql: str, params: SqlParams, timeout_s: float, interrupt: Interrupt | None = None
    ) -> QueryResult:
        calls, state = self._calls, self._state
        return calls.run(
            lambda _: _result(BlockingStream, calls, partial(state.query, sql, params, timeout_s, interrupt))
        )

    def close(self) -> None:
        self._close_soon()


class _Transaction(_Dropped):
    def __init__(self, calls: Calls[Any], transaction: LoopTransaction) -> None:
        super().__init__(calls, transaction.abandon)
        self._transaction = transaction

    @property
    def is_open(self) -> bool:
        return self._transaction.is_open and self._calls.background.is_ours

    def _tell_key(self, error: BaseException) -> None:
        """Who breaks a COMMIT off can ask what became of it. OutcomeUnknown has the key in its details."""
        key = self._transaction.commit_key
        if key is not None and isinstance(error, OutcomeUnknown):
            error.details = {**key._asdict(), **error.details}
        elif key is not None and not isinstance(error, Error):
            error.write_key = key  # type: ignore[attr-defined]
            error.add_note(
                f"a COMMIT was under way; its key: session {key.session.hex()}, sequence {key.sequence}"
            )


class BlockingTransaction(_Transaction):
    """Implements gateway.WriteTransaction."""

    def run(self, body: bytes, timeout_s: float, interrupt: Interrupt | None = None) -> list[StatementResult]:
        return self._calls.run(lambda _: self._transaction.run(body, timeout_s, interrupt))

    def commit(self, timeout_s: float) -> UnitResult:
        """A KeyboardInterrupt carries the COMMIT's key (attribute `write_key`), for `resolve`."""
        try:
            return self._calls.run(lambda _: self._transaction.commit(timeout_s), OutcomeUnknown)
        except BaseException as error:
            self._tell_key(error)
            raise

    def rollback(self) -> None:
        with contextlib.suppress(Error):
            self._calls.run(lambda _: self._transaction.rollback())


class AsyncioGateway(_Gateway[R]):
    """Implements gateway.AsyncGateway."""

    async def execute_unit(
        self, database: str, body: bytes, timeout_s: float, *, once: Once = True
    ) -> UnitResult:
        ask = self._requests.execute_unit
        return await self._calls.wait(lambda link: ask(link, database, body, timeout_s, once), OutcomeUnknown)

    async def resolve(self, database: str, key: WriteKey, timeout_s: float) -> UnitResult:
        ask = self._requests.resolve
        return await self._calls.wait(lambda link: ask(link, database, key, timeout_s), OutcomeUnknown)

    async def query(
        self,
        database: str,
        sql: str,
        params: SqlParams,
        freshness: Freshness,
        timeout_s: float,
        interrupt: Interrupt | None = None,
    ) -> QueryResult:
        ask, calls = self._requests.query, self._calls
        return await calls.wait(
            lambda link: _result(
                AsyncioStream,
                calls,
                partial(ask, link, database, sql, params, freshness, timeout_s, interrupt),
            )
        )

    async def begin(
        self, database: str, wait_s: float, limits: TransactionLimits, *, base_index: int | None = None
    ) -> AsyncioTransaction:
        ask, calls = self._requests.begin, self._calls
        return await calls.wait(
            lambda link: _opened(
                AsyncioTransaction, calls, partial(ask, link, database, wait_s, limits, base_index)
            )
        )

    async def begin_read(
        self, database: str, freshness: Freshness, timeout_s: float, limits: TransactionLimits
    ) -> AsyncioReadTransaction:
        ask, calls = self._requests.begin_read, self._calls
        return await calls.wait(
            lambda link: _opened(
                AsyncioReadTransaction, calls, partial(ask, link, database, freshness, timeout_s, limits)
            )
        )

    async def open_database(self, database: str, timeout_s: float) -> None:
        ask = self._requests.open_database
        await self._calls.wait(lambda link: ask(link, database, timeout_s))

    async def is_read(self, sql: str, database: str) -> bool:
        ask = self._requests.is_read
        return await self._calls.wait(lambda link: ask(link, sql, database))


class AsyncioStream(_Dropped):
    """Implements gateway.AsyncRowStream."""

    def __init__(self, calls: Calls[Any], stream: LoopStream) -> None:
        super().__init__(calls, stream.close)
        self._stream = stream

    async def fetch(self) -> list[Row]:
        return await self._calls.wait(lambda _: self._stream.fetch())

    async def close(self) -> None:
        self._close_soon()


class AsyncioReadTransaction(_Dropped):
    """Implements gateway.AsyncReadTransaction."""

    def __init__(self, calls: Calls[Any], state: LoopState) -> None:
        super().__init__(calls, state.close)
        self._state = state
        self.log_index = state.log_index

    async def query(
        self, sql: str, params: SqlParams, timeout_s: float, interrupt: Interrupt | None = None
    ) -> QueryResult:
        calls, state = self._calls, self._state
        return await calls.wait(
            lambda _: _result(AsyncioStream, calls, partial(state.query, sql, params, timeout_s, interrupt))
        )

    async def close(self) -> None:
        self._close_soon()


class AsyncioTransaction(_Transaction):
    """Implements gateway.AsyncWriteTransaction."""

    async def run(
        self, body: bytes, timeout_s: float, interrupt: Interrupt | None = None
    ) -> list[StatementResult]:
        return await self._calls.wait(lambda _: self._transaction.run(body, timeout_s, interrupt))

    async def commit(self, timeout_s: float) -> UnitResult:
        """A CancelledError carries the COMMIT's key (attribute `write_key`), for `resolve`."""
        try:
            return await self._calls.wait(lambda _: self._transaction.commit(timeout_s), OutcomeUnknown)
        except BaseException as error:
            self._tell_key(error)
            raise

    async def rollback(self) -> None:
        with contextlib.suppress(Error):
            await self._calls.wait(lambda _: self._transaction.rollback())


async def _opened(
    kind: Callable[[Calls[Any], X], T], calls: Calls[Any], work: Callable[[], Awaitable[X]]
) -> T:
    """`kind` of what `work` opens. Made on the loop's thread, together with it: also what opens when whoever asked for
    it has just gone is closed when it is dropped. Given up before it begins, it leaves no coroutine behind."""
    return kind(calls, await work())


async def _result(
    kind: Callable[[Calls[Any], LoopStream], Any],
    calls: Calls[Any],
    work: Callable[[], Awaitable[tuple[QueryResult, Any]]],
) -> QueryResult:
    """The same for the rest of a result, when there is one."""
    result, stream = await work()
    return result if stream is None else result._replace(more=kind(calls, stream))
