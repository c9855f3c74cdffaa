"""Gateways over the network: the same requests, asked by blocking threads or by coroutines of any event loop.

What is dropped without being closed is closed at its node, as soon as it is found out. So is what opens when whoever
asked for it has just gone: what closes it is made on the link's thread, together with it.
"""

from __future__ import annotations

import contextlib
from typing import Any

from dqlite_py.client import reads, transactions, writes
from dqlite_py.client.link import Link
from dqlite_py.client.shared import Calls, SharedLink
from dqlite_py.errors import Error
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


class RemoteGateway:
    """Implements gateway.Gateway."""

    def __init__(self, shared: SharedLink) -> None:
        self._shared = shared

    @property
    def _calls(self) -> Calls:
        return Calls(self._shared)

    def execute_unit(self, database: str, body: bytes, timeout_s: float, *, once: Once = True) -> UnitResult:
        return self._calls.run(lambda link: writes.execute(link, database, body, timeout_s, once))

    def new_key(self, database: str) -> WriteKey:
        return self._shared.background.resource.sessions.new()

    def resolve(self, database: str, key: WriteKey, timeout_s: float) -> UnitResult:
        return self._calls.run(lambda link: writes.resolve(link, database, key, timeout_s))

    def query(
        self,
        database: str,
        sql: str,
        params: SqlParams,
        freshness: Freshness,
        timeout_s: float,
        interrupt: Interrupt | None = None,
    ) -> QueryResult:
        calls = self._calls

        async def found(link: Link) -> QueryResult:
            result = await reads.query(link, database, sql, params, freshness, timeout_s, interrupt)
            return _with_rest(calls, result)

        return calls.run(found)

    def begin(
        self, database: str, wait_s: float, limits: TransactionLimits, *, base_index: int | None = None
    ) -> RemoteTransaction:
        calls = self._calls

        async def begun(link: Link) -> RemoteTransaction:
            transaction = await transactions.begin(link, database, wait_s, limits, base_index)
            return RemoteTransaction(calls, transaction)

        return calls.run(begun)

    def begin_read(
        self, database: str, freshness: Freshness, timeout_s: float, limits: TransactionLimits
    ) -> RemoteReadTransaction:
        calls = self._calls

        async def begun(link: Link) -> RemoteReadTransaction:
            state = await reads.begin_read(link, database, freshness, timeout_s, limits)
            return RemoteReadTransaction(calls, state)

        return calls.run(begun)

    def open_database(self, database: str, timeout_s: float) -> None:
        self._calls.run(lambda link: reads.open_database(link, database, timeout_s))

    def is_read(self, sql: str, database: str) -> bool:
        return self._calls.run(lambda link: reads.is_read(link, sql, database))


class RemoteStream:
    """Implements gateway.RowStream."""

    def __init__(self, calls: Calls, stream: reads.Stream) -> None:
        self._calls = calls
        self._stream = stream

    def fetch(self) -> list[Row]:
        return self._calls.run(lambda _: self._stream.fetch())

    def close(self) -> None:
        self._calls.soon(self._stream.close)

    def __del__(self) -> None:
        self.close()


class RemoteReadTransaction:
    """Implements gateway.ReadTransaction."""

    def __init__(self, calls: Calls, state: reads.FrozenState) -> None:
        self._calls = calls
        self._state = state
        self.log_index = state.log_index

    def query(
        self, sql: str, params: SqlParams, timeout_s: float, interrupt: Interrupt | None = None
    ) -> QueryResult:
        async def found(_link: Link) -> QueryResult:
            result = await self._state.query(sql, params, timeout_s, interrupt)
            return _with_rest(self._calls, result)

        return self._calls.run(found)

    def close(self) -> None:
        self._calls.soon(self._state.close)

    def __del__(self) -> None:
        self.close()


class RemoteTransaction:
    """Implements gateway.WriteTransaction."""

    def __init__(self, calls: Calls, transaction: transactions.Transaction) -> None:
        self._calls = calls
        self._transaction = transaction

    @property
    def is_open(self) -> bool:
        return self._transaction.is_open and self._calls.background.is_ours

    def run(self, body: bytes, timeout_s: float, interrupt: Interrupt | None = None) -> list[StatementResult]:
        return self._calls.run(lambda _: self._transaction.run(body, timeout_s, interrupt))

    def commit(self, timeout_s: float) -> UnitResult:
        """A KeyboardInterrupt carries the COMMIT's key (attribute `write_key`), for `resolve`."""
        try:
            return self._calls.run(lambda _: self._transaction.commit(timeout_s))
        except BaseException as error:
            _with_key(error, self._transaction)
            raise

    def rollback(self) -> None:
        with contextlib.suppress(Error):
            self._calls.run(lambda _: self._transaction.rollback())

    def __del__(self) -> None:
        self._calls.soon(self._transaction.abandon)


class AsyncRemoteGateway:
    """Implements gateway.AsyncGateway."""

    def __init__(self, shared: SharedLink) -> None:
        self._shared = shared

    @property
    def _calls(self) -> Calls:
        return Calls(self._shared)

    async def execute_unit(
        self, database: str, body: bytes, timeout_s: float, *, once: Once = True
    ) -> UnitResult:
        return await self._calls.wait(lambda link: writes.execute(link, database, body, timeout_s, once))

    def new_key(self, database: str) -> WriteKey:
        return self._shared.background.resource.sessions.new()

    async def resolve(self, database: str, key: WriteKey, timeout_s: float) -> UnitResult:
        return await self._calls.wait(lambda link: writes.resolve(link, database, key, timeout_s))

    async def query(
        self,
        database: str,
        sql: str,
        params: SqlParams,
        freshness: Freshness,
        timeout_s: float,
        interrupt: Interrupt | None = None,
    ) -> QueryResult:
        calls = self._calls

        async def found(link: Link) -> QueryResult:
            result = await reads.query(link, database, sql, params, freshness, timeout_s, interrupt)
            return _with_rest(calls, result, AsyncRemoteStream)

        return await calls.wait(found)

    async def begin(
        self, database: str, wait_s: float, limits: TransactionLimits, *, base_index: int | None = None
    ) -> AsyncRemoteTransaction:
        calls = self._calls

        async def begun(link: Link) -> AsyncRemoteTransaction:
            transaction = await transactions.begin(link, database, wait_s, limits, base_index)
            return AsyncRemoteTransaction(calls, transaction)

        return await calls.wait(begun)

    async def begin_read(
        self, database: str, freshness: Freshness, timeout_s: float, limits: TransactionLimits
    ) -> AsyncRemoteReadTransaction:
        calls = self._calls

        async def begun(link: Link) -> AsyncRemoteReadTransaction:
            state = await reads.begin_read(link, database, freshness, timeout_s, limits)
            return AsyncRemoteReadTransaction(calls, state)

        return await calls.wait(begun)

    async def open_database(self, database: str, timeout_s: float) -> None:
        await self._calls.wait(lambda link: reads.open_database(link, database, timeout_s))

    async def is_read(self, sql: str, database: str) -> bool:
        return await self._calls.wait(lambda link: reads.is_read(link, sql, database))


class AsyncRemoteStream:
    """Implements gateway.AsyncRowStream."""

    def __init__(self, calls: Calls, stream: reads.Stream) -> None:
        self._calls = calls
        self._stream = stream

    async def fetch(self) -> list[Row]:
        return await self._calls.wait(lambda _: self._stream.fetch())

    async def close(self) -> None:
        self._calls.soon(self._stream.close)

    def __del__(self) -> None:
        self._calls.soon(self._stream.close)


class AsyncRemoteReadTransaction:
    """Implements gateway.AsyncReadTransaction."""

    def __init__(self, calls: Calls, state: reads.FrozenState) -> None:
        self._calls = calls
        self._state = state
        self.log_index = state.log_index

    async def query(
        self, sql: str, params: SqlParams, timeout_s: float, interrupt: Interrupt | None = None
    ) -> QueryResult:
        async def found(_link: Link) -> QueryResult:
            result = await self._state.query(sql, params, timeout_s, interrupt)
            return _with_rest(self._calls, result, AsyncRemoteStream)

        return await self._calls.wait(found)

    async def close(self) -> None:
        self._calls.soon(self._state.close)

    def __del__(self) -> None:
        self._calls.soon(self._state.close)


class AsyncRemoteTransaction:
    """Implements gateway.AsyncWriteTransaction."""

    def __init__(self, calls: Calls, transaction: transactions.Transaction) -> None:
        self._calls = calls
        self._transaction = transaction

    @property
    def is_open(self) -> bool:
        return self._transaction.is_open and self._calls.background.is_ours

    async def run(
        self, body: bytes, timeout_s: float, interrupt: Interrupt | None = None
    ) -> list[StatementResult]:
        return await self._calls.wait(lambda _: self._transaction.run(body, timeout_s, interrupt))

    async def commit(self, timeout_s: float) -> UnitResult:
        """A CancelledError carries the COMMIT's key (attribute `write_key`), for `resolve`."""
        try:
            return await self._calls.wait(lambda _: self._transaction.commit(timeout_s))
        except BaseException as error:
            _with_key(error, self._transaction)
            raise

    async def rollback(self) -> None:
        with contextlib.suppress(Error):
            await self._calls.wait(lambda _: self._transaction.rollback())

    def __del__(self) -> None:
        self._calls.soon(self._transaction.abandon)


def _with_key(error: BaseException, transaction: transactions.Transaction) -> None:
    """Who breaks a COMMIT off can ask what became of it. OutcomeUnknown has the key in its details."""
    key = transaction.commit_key
    if key is not None and not isinstance(error, Error):
        error.write_key = key  # type: ignore[attr-defined]
        error.add_note(
            f"a COMMIT was under way; its key: session {key.session.hex()}, sequence {key.sequence}"
        )


def _with_rest(calls: Calls, found: reads.Found, kind: Any = RemoteStream) -> QueryResult:
    result, stream = found
    return result if stream is None else result._replace(more=kind(calls, stream))
