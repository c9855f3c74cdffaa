"""RPC methods of programs that read (sql.*): results in pieces, frozen states. Loop thread; SQL runs on own threads.

Any node answers, from its own state as soon as that is as fresh as asked for. What is open between two calls belongs to
the connection that asked for it: it ends with that, or by the limits of the reader pool, or of its transaction.

sql.query {id, database, sql, params, timeout_s, level, log_index, max_staleness_s|nil}, or {id, transaction, sql, …}
  -> [columns, decltypes, rows, log index, has more]
sql.fetch {id, timeout_s} -> [rows, is last]
sql.begin_read {id, database, level, log_index, max_staleness_s|nil, idle_s, hold_s, timeout_s} -> log index
sql.interrupt {id}, sql.close {id} -> nil: both end a statement that runs, the second also what is open
sql.is_read {database, sql} -> true or false
sql.read {database, sql, params, level, timeout_s} -> [columns, rows]: the whole of a small result
`id`: 16 bytes of the caller's choice, known from the moment the request is read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from dqlite_py.command import check_params
from dqlite_py.errors import (
    Busy,
    InterfaceError,
    NotSupportedError,
    OperationalError,
    RequestTooLarge,
)
from dqlite_py.gateway import (
    Ending,
    Freshness,
    Interrupt,
    QueryResult,
    ReadLevel,
    ReadTransaction,
    Row,
    RowStream,
    SqlParams,
    TransactionLimits,
)
from dqlite_py.limits import RPC_VALUES_MAX
from dqlite_py.node.fields import (
    RESULTS_BYTES_MAX,
    database_of,
    field,
    freshness_of,
    id_of,
    limits_of,
    timeout_of,
)
from dqlite_py.node.programs import Caller, Handler
from dqlite_py.node.read_gateway import interrupted
from dqlite_py.node.runtime_parts import Parts
from dqlite_py.node.tickets import Deadline
from dqlite_py.node.transaction_calls import settle

THREADS: Final = 16
OPEN_MAX: Final = 4096  # of all programs: queries under way, unread results, frozen states
PIECES_PER_ANSWER: Final = 4


class _Opened:
    """What an id stands for."""

    def __init__(self, owner: Caller) -> None:
        self.owner = owner
        self.interrupt = Ending()
        self.stream: RowStream | None = None
        self.transaction: ReadTransaction | None = None
        self.is_closed = False
        self._found: Any = None  # by a thread, for a handler that may be gone

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """On a thread: what it opens is closed when nobody wants it any more."""
        self._found = found = function(*args)
        if self.is_closed:  # looked at AFTER it was noted: whoever closes looks the other way round
            self.close_found()
            raise interrupted()
        return found

    def close_found(self) -> None:
        """What `run` opened, if anything; any thread."""
        found = self._found
        held = found.more if isinstance(found, QueryResult) else found
        if held is not None:
            held.close()


class ReadServices:
    """Registers the handlers on the transport; to be closed after it and after the reader pools."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._opened: dict[bytes, _Opened] = {}
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="dqlite-read")

    def register(self) -> None:
        ended: dict[str, Handler] = {
            "sql.read": self.read,
            "sql.query": self.query,
            "sql.fetch": self.fetch,
            "sql.begin_read": self.begin_read,
            "sql.is_read": self.is_read,
        }
        finished: dict[str, Handler] = {"sql.interrupt": self.interrupt, "sql.close": self.close_one}
        transport, programs = self._parts.transport, self._parts.programs
        for method, handler in (ended | finished).items():
            transport.register(method, handler)
        programs.add(ended, ends_when_cancelled=True)
        programs.add(finished)
        transport.watch_callers(self._caller_gone)
        programs.watch_callers(self._caller_gone)

    def close(self) -> None:
        """The reader pools have ended what was open."""
        self._opened.clear()
        self._threads.shutdown(wait=False)

    # -- methods --------------------------------------------------------------------------------------------------

    async def query(self, context: Any, body: Any) -> Any:
        number, sql, params = id_of(body), field(body, "sql", str), check_params(body.get("params", []))
        timeout_s = timeout_of(body)
        if body.get("transaction") is not None:
            transaction = self._get(field(body, "transaction", bytes), context).transaction
            if transaction is None:
                raise InterfaceError("'transaction' names something else")
            opened = self._open(number, context)
            work = self._on_thread(opened.run, transaction.query, sql, params, timeout_s, opened.interrupt)
        else:
            database, freshness = database_of(body), freshness_of(body)
            opened = self._open(number, context)
            work = self._query(opened, database, sql, params, freshness, timeout_s)
        found: QueryResult = await self._finished(number, opened, work)
        opened.stream = found.more
        if opened.is_closed:
            self._end(number, opened)
            raise interrupted()
        has_more = found.more is not None
        if not has_more:
            self._forget(number, opened)
        rows = self._fitting(number, opened, found.rows)
        return [list(found.columns), list(found.decltypes), rows, found.log_index, has_more]

    async def fetch(self, context: Any, body: Any) -> Any:
        number = id_of(body)
        opened = self._get(number, context)
        stream = opened.stream
        if stream is None:
            raise InterfaceError("this id stands for no result, or for one that is being read")
        opened.stream = None  # one call at a time
        is_last = True
        try:
            rows, is_last = await self._on_thread(_pieces, stream)
        except asyncio.CancelledError:
            opened.interrupt.request()
            raise
        finally:
            if is_last or opened.is_closed:
                self._forget(number, opened)
                self._threads.submit(stream.close)
            else:
                opened.stream = stream
        return [self._fitting(number, opened, rows), is_last]

    async def begin_read(self, context: Any, body: Any) -> Any:
        number, database, freshness = id_of(body), database_of(body), freshness_of(body)
        limits, timeout_s = limits_of(body), timeout_of(body)
        opened = self._open(number, context)
        work = self._begin_read(opened, database, freshness, timeout_s, limits)
        opened.transaction = found = await self._finished(number, opened, work)
        if opened.is_closed:
            self._end(number, opened)
            raise interrupted()
        return found.log_index

    async def interrupt(self, context: Any, body: Any) -> Any:
        opened = self._opened.get(id_of(body))
        if opened is not None and opened.owner is context.connection:
            opened.interrupt.request()

    async def close_one(self, context: Any, body: Any) -> Any:
        number = id_of(body)
        opened = self._opened.get(number)
        if opened is not None and opened.owner is context.connection:
            self._end(number, opened)

    async def is_read(self, _context: Any, body: Any) -> Any:
        database, sql = database_of(body), field(body, "sql", str)
        return await self._on_thread(self._parts.gateway.is_read, sql, database)

    async def read(self, _context: Any, body: Any) -> Any:
        """[columns, rows], whole."""
        database, sql = database_of(body), field(body, "sql", str)
        try:
            params = check_params(body.get("params", []))
            freshness = Freshness(ReadLevel(field(body, "level", str, "linearizable")))
        except ValueError:
            raise NotSupportedError(f"read level {body.get('level')!r} is not known") from None
        interrupt = Ending()
        left_s = await self._wait_fresh(database, freshness, timeout_of(body), interrupt)
        read_here = self._parts.gateway.read_here
        found = await self._on_thread(read_here, database, sql, params, freshness, left_s, interrupt)
        return [list(found.columns), [list(row) for row in found.rows]]

    # -- inside ---------------------------------------------------------------------------------------------------

    async def _query(
        self,
        opened: _Opened,
        database: str,
        sql: str,
        params: SqlParams,
        freshness: Freshness,
        timeout_s: float,
    ) -> Any:
        left_s = await self._wait_fresh(database, freshness, timeout_s, opened.interrupt)
        query_here = self._parts.gateway.query_here
        return await self._on_thread(
            opened.run, query_here, database, sql, params, freshness, left_s, opened.interrupt
        )

    async def _begin_read(
        self,
        opened: _Opened,
        database: str,
        freshness: Freshness,
        timeout_s: float,
        limits: TransactionLimits,
    ) -> Any:
        left_s = await self._wait_fresh(database, freshness, timeout_s, opened.interrupt)
        return await self._on_thread(
            opened.run, self._parts.gateway.begin_read_here, database, left_s, limits
        )

    async def _wait_fresh(
        self, database: str, freshness: Freshness, timeout_s: float, interrupt: Interrupt
    ) -> float:
        """Until a read here is as fresh as asked for; occupies no thread. Returns what is left of the time."""
        reads = self._parts.reads
        if freshness.level is not ReadLevel.LINEARIZABLE and reads.is_fresh(database, freshness):
            return timeout_s
        deadline = Deadline(timeout_s)
        future: asyncio.Future[Any] = self._parts.loop.create_future()
        put = settle(future)
        reads.barrier(database, put, deadline, freshness)
        interrupt.set(lambda: put(None, interrupted()))
        try:
            async with asyncio.timeout(deadline.left_s):
                await future
        except TimeoutError:
            raise reads.too_stale(database, freshness) from None
        finally:
            interrupt.set(None)
        return deadline.left_s

    async def _finished(self, number: bytes, opened: _Opened, work: Awaitable[Any]) -> Any:
        """What `work` gives. When it fails or is cancelled nothing stays open, and nothing goes on running."""
        try:
            return await work
        except asyncio.CancelledError:
            opened.is_closed = True
            opened.interrupt.request()
            opened.close_found()
            self._forget(number, opened)
            raise
        except BaseException:
            self._forget(number, opened)
            raise

    def _open(self, number: bytes, context: Any) -> _Opened:
        if number in self._opened:
            raise InterfaceError("this id stands for something that is open already")
        if len(self._opened) >= OPEN_MAX:
            raise Busy(f"{OPEN_MAX} queries, results and read transactions of programs are open on this node")
        if not context.connection.is_open:
            raise OperationalError("the connection that it came by was closed")
        opened = self._opened[number] = _Opened(context.connection)
        return opened

    def _get(self, number: bytes, context: Any) -> _Opened:
        opened = self._opened.get(number)
        if opened is None or opened.owner is not context.connection:
            raise OperationalError("it is not open on this node (any more)")
        return opened

    def _forget(self, number: bytes, opened: _Opened) -> None:
        if self._opened.get(number) is opened:
            del self._opened[number]

    def _end(self, number: bytes, opened: _Opened) -> None:
        """Close it, and what runs of it."""
        self._forget(number, opened)
        opened.is_closed = True
        opened.interrupt.request()
        for held in (opened.stream, opened.transaction):
            if held is not None:
                self._threads.submit(held.close)
        opened.stream = opened.transaction = None

    def _fitting(self, number: bytes, opened: _Opened, rows: list[Row]) -> list[Row]:
        """The rows; raises RequestTooLarge, and nothing is open any more."""
        if len(rows) > RPC_VALUES_MAX:
            self._end(number, opened)
            raise RequestTooLarge(f"{len(rows)} rows do not fit into an answer: use LIMIT")
        if len(rows) <= PIECES_PER_ANSWER:
            size = sum(len(value) for row in rows for value in row if isinstance(value, (str, bytes)))
            if size > RESULTS_BYTES_MAX:
                self._end(number, opened)
                raise RequestTooLarge(
                    f"rows of {size} bytes do not fit into an answer: select parts by substr()"
                )
        return rows

    def _caller_gone(self, connection: Caller) -> None:
        for number, opened in list(self._opened.items()):
            if opened.owner is connection:
                self._end(number, opened)

    async def _on_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        return await self._parts.loop.run_in_executor(self._threads, function, *args)


def _pieces(stream: RowStream) -> tuple[list[Row], bool]:
    """Some pieces of a result, and whether they are the last."""
    rows: list[Row] = []
    for _ in range(PIECES_PER_ANSWER):
        piece = stream.fetch()
        if not piece:
            return rows, True
        rows += piece
    return rows, False
