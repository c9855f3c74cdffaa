"""Reading a database: reader connections, used directly or through the pool's threads.

`query` and `stream` run on the caller's thread with a connection of the pool (a local read pays no thread hop);
`submit` runs on a thread of the pool. Readers see the last SQL commit when they begin, and never block the writer. Any
thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final, Literal

from dqlite_py.command import check_params
from dqlite_py.errors import (
    Busy,
    Error,
    InterfaceError,
    InternalError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
    RequestTooLarge,
    TransactionEnded,
)
from dqlite_py.gateway import Interrupt, QueryResult
from dqlite_py.limits import (
    PENDING_READS_MAX,
    READER_THREADS_MAX,
    READERS_HELD_MAX,
    REQUEST_TIMEOUT_MS,
    RESULT_BYTES_MAX,
    STREAM_CHUNK_BYTES,
    STREAM_HOLD_MS,
    STREAM_IDLE_MS,
)
from dqlite_py.sqlite_codes import AUTH, MISUSE
from dqlite_py.sqltext import StatementKind, describe
from dqlite_py.storage.authorizer import RESERVED_PREFIX
from dqlite_py.storage.held import HeldStream, HeldTransaction, HoldLimits, shortened
from dqlite_py.storage.implementation import refusal
from dqlite_py.storage.pace import QUICK_S, Pace
from dqlite_py.storage.reader import SEVERAL_STATEMENTS, Reader, TookTooLong
from dqlite_py.storage.reader_connections import ReaderConnections

__all__ = ["HoldLimits", "QueryResult", "ReadFuture", "ReaderPool"]

STREAM_LIMITS: Final = HoldLimits(STREAM_IDLE_MS / 1000, STREAM_HOLD_MS / 1000)
_READS: Final = (StatementKind.READ,)
_WRITES: Final = (StatementKind.INSERT, StatementKind.CHANGE, StatementKind.SCHEMA, StatementKind.TRANSACTION)


class ReadFuture(Future[QueryResult]):
    """A future whose `cancel` also interrupts the query when it runs (it then ends with OperationalError)."""

    def __init__(self) -> None:
        super().__init__()
        self.cancel_requested = False

    def cancel(self) -> bool:
        self.cancel_requested = True
        return super().cancel()


class ReaderPool:
    """`size` connections for reads that are short, more for those that are not: up to `held_max` that are held (unread
    results, read transactions), and as many again when short reads wait for long ones. Open it after the writer, close
    it before.
    """

    def __init__(
        self, path: str, size: int, *, held_max: int = READERS_HELD_MAX, threads_max: int = READER_THREADS_MAX
    ) -> None:
        if size < 1:
            raise InterfaceError("a reader pool needs at least one connection")
        self._connections = ReaderConnections(path, size, held_max)
        self._idle = self._connections.idle
        self._give_back = self._connections.give_back
        self._lock = threading.Lock()
        self._pace = Pace()
        self._pending = 0
        self._is_closed = False
        self._threads = ThreadPoolExecutor(threads_max, thread_name_prefix="reader")

    # -- reading --------------------------------------------------------------------------------------

    def query(
        self,
        sql: str,
        params: Any = (),
        *,
        timeout_s: float | None = REQUEST_TIMEOUT_MS / 1000,
        is_cancelled: Callable[[], bool] | None = None,
        bytes_max: int = RESULT_BYTES_MAX,
    ) -> QueryResult:
        """Run one reading statement to its end on this thread; waits for a free connection within the same time.

        Raises what Reader.query raises, RequestTooLarge, Busy (no connection came free in time; nothing ran),
        InterfaceError, and why the pool was closed meanwhile.
        """
        try:
            reader = self._idle.pop()
        except IndexError:
            reader, timeout_s = self._connections.wait(timeout_s)
        try:
            found = reader.query(
                sql, params, timeout_s=timeout_s, bytes_max=bytes_max, is_cancelled=is_cancelled
            )
            if reader.unread is not None:
                reader.reset()
                raise RequestTooLarge(
                    f"the result is over {bytes_max} bytes: use LIMIT or select fewer columns"
                )
            return found
        finally:
            self._give_back(reader)

    def stream(
        self,
        sql: str,
        params: Any = (),
        timeout_s: float | None = REQUEST_TIMEOUT_MS / 1000,
        interrupt: Interrupt | None = None,
        *,
        with_index: bool = False,
    ) -> QueryResult:
        """As `query`, but a result that is not small comes in pieces (`more`); `timeout_s` is for each of them.

        `with_index`: `log_index` of the result tells the state that was read. Raises Busy as well when too many
        results are unread.
        """
        try:
            reader = self._idle.pop()
        except IndexError:
            reader, timeout_s = self._connections.wait(timeout_s)
        if with_index:
            return self._stream(reader, sql, params, timeout_s, interrupt, with_index, hurries=False)
        try:
            found = reader.query(
                sql, params, timeout_s=timeout_s, bytes_max=STREAM_CHUNK_BYTES, interrupt=interrupt
            )
        except BaseException:
            self._give_back(reader)
            raise
        if reader.unread is not None:
            return self._held(reader, found, sql, timeout_s, interrupt, 0)
        self._give_back(reader)
        return found

    def stream_if_quick(
        self,
        sql: str,
        params: Any,
        *,
        timeout_s: float | None,
        interrupt: Interrupt | None = None,
        with_index: bool = False,
    ) -> QueryResult | None:
        """As `stream`, for a thread that must not wait: None when the query may take over a millisecond, as
        far as is known."""
        pace = self._pace
        if not pace.is_quick(sql):
            return None
        try:
            reader = self._idle.pop()
        except IndexError:
            return None
        began = time.monotonic()
        try:
            found = self._stream(reader, sql, params, timeout_s, interrupt, with_index, hurries=True)
        except TookTooLong:
            pace.was_slow(sql)
            return None
        pace.took(sql, time.monotonic() - began)
        return found

    def stream_and_learn(
        self,
        sql: str,
        params: Any,
        *,
        timeout_s: float | None,
        interrupt: Interrupt,
        with_index: bool = False,
    ) -> QueryResult:
        """As `stream`; `stream_if_quick` may know the text afterwards."""
        began = time.monotonic()
        found = self.stream(sql, params, timeout_s=timeout_s, interrupt=interrupt, with_index=with_index)
        if time.monotonic() - began < QUICK_S:
            self._pace.was_quick(sql)
        return found

    def _stream(
        self,
        reader: Reader,
        sql: str,
        params: Any,
        timeout_s: float | None,
        interrupt: Interrupt | None,
        with_index: bool,
        *,
        hurries: bool,
    ) -> QueryResult:
        is_held = False
        try:
            index = reader.state_index() if with_index else 0
            found = reader.query(
                sql,
                params,
                timeout_s=timeout_s,
                bytes_max=STREAM_CHUNK_BYTES,
                interrupt=interrupt,
                hurries=hurries,
            )
            if with_index:
                reader.let_go()
            if reader.unread is not None:
                is_held = True
                return self._held(reader, found, sql, timeout_s, interrupt, index)
            return found._replace(log_index=index) if with_index else found
        finally:
            if not is_held:
                if with_index:
                    reader.let_go()
                self._give_back(reader)

    def _held(
        self,
        reader: Reader,
        found: QueryResult,
        sql: str,
        timeout_s: float | None,
        interrupt: Interrupt | None,
        index: int,
    ) -> QueryResult:
        """The first rows of a result, and a stream of the rest, which keeps the reader."""
        cursor = reader.unread
        assert cursor is not None
        try:
            hold = self._connections.hold(
                reader, f"the result of {shortened(sql)}", STREAM_LIMITS, OperationalError
            )
        except BaseException:
            self._give_back(reader)
            raise
        more = HeldStream(hold, cursor, timeout_s, interrupt, owns_hold=True)
        return found._replace(log_index=index, more=more)

    def begin(self, limits: HoldLimits, *, timeout_s: float | None) -> HeldTransaction:
        """Freeze the present state. Raises Busy, InterfaceError, OperationalError."""
        try:
            reader = self._idle.pop()
        except IndexError:
            reader, _ = self._connections.wait(timeout_s)
        is_held = False
        try:
            index = reader.begin()
            hold = self._connections.hold(reader, "the read transaction", limits, TransactionEnded)
            is_held = True
            return HeldTransaction(hold, index)
        finally:
            if not is_held:
                reader.reset()
                self._give_back(reader)

    def call(self, function: Callable[[], Any], done: Callable[[Any, Error | None], None]) -> None:
        """Run `function` on a thread of the pool, then `done` with its value or error. Raises Busy, InterfaceError."""
        with self._lock:
            if self._is_closed:
                raise self._connections.closed()
            if self._pending >= PENDING_READS_MAX:
                raise Busy(f"{self._pending} queries wait already: try again later")
            self._pending += 1
            self._threads.submit(self._run, function, done)

    def _run(self, function: Callable[[], Any], done: Callable[[Any, Error | None], None]) -> None:
        value: Any = None
        error: Error | None = None
        try:
            value = function()
        except Error as known:
            error = known
        except BaseException as unknown:  # noqa: BLE001 - belongs to whoever waits
            error = InternalError(f"the read failed: {unknown!r}")
        with self._lock:
            self._pending -= 1
        done(value, error)

    def submit(
        self, sql: str, params: Any = (), *, timeout_s: float | None = REQUEST_TIMEOUT_MS / 1000
    ) -> ReadFuture:
        """Run it on a thread of the pool; raises Busy when too many wait already."""
        params = check_params(params)
        future = ReadFuture()
        with self._lock:
            if self._is_closed:
                raise self._connections.closed()
            if self._pending >= PENDING_READS_MAX:
                raise Busy(f"{self._pending} queries wait already: try again later")
            self._pending += 1
            self._threads.submit(self._serve, future, sql, params, timeout_s)
        return future

    def classify(self, sql: str) -> Literal["read", "write"]:
        """Tell by its text, or by asking SQLite, where a statement goes. Executes nothing.

        Raises ProgrammingError (no statement, several, wrong SQL where SQLite was asked) and NotSupportedError
        (a statement that the log refuses, with the advice what to do).
        """
        statement = describe(sql)
        if statement.kind is StatementKind.EMPTY:
            raise ProgrammingError("the SQL text holds no statement", code=1)
        if not statement.is_single:
            raise ProgrammingError(SEVERAL_STATEMENTS, code=MISUSE)
        if statement.kind in _READS or statement.keyword == "PRAGMA":
            return "read"
        reason = refusal(sql.encode())
        if reason is not None:
            raise NotSupportedError(reason, code=AUTH)
        if statement.kind in _WRITES:
            return "write"
        with self._lent() as reader:
            return "read" if reader.is_readonly(sql) else "write"

    def check(self, sql: str) -> None:
        """Have SQLite look at one statement without running it. Raises as `classify`, and what SQLite says of it."""
        is_pragma = describe(sql).keyword == "PRAGMA"  # never for the log: the reader judges it
        reason = None if is_pragma else refusal(sql.encode())
        if reason is not None:
            raise NotSupportedError(reason, code=AUTH)
        with self._lent() as reader:
            if not reader.is_readonly(sql, only_looks=True) and is_pragma:
                raise NotSupportedError(reader.refused or "not authorized", code=AUTH)

    def decltypes(self, sql: str, params: Any) -> tuple[str | None, ...]:
        """The declared types of what a statement would return; it is not run. Raises what SQLite says of it."""
        with self._lent() as reader:
            return reader.decltypes(sql, params)

    @contextmanager
    def _lent(self) -> Iterator[Reader]:
        try:
            reader = self._idle.pop()
        except IndexError:
            reader, _ = self._connections.wait(REQUEST_TIMEOUT_MS / 1000)
        try:
            yield reader
        finally:
            self._give_back(reader)

    def tables(self) -> list[str]:
        """Ordinary tables of clients, by name."""
        found = self.query(
            "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' ORDER BY name"
        )
        names = [str(name) for (name,) in found.rows]
        return [name for name in names if not name.startswith(("sqlite_", RESERVED_PREFIX))]

    # -- closing ----------------------------------------------------------------------------------------

    def close(self, why: Error | None = None) -> None:
        """End everything that runs or is held, saying `why`, and close all connections. Idempotent."""
        with self._lock:
            self._is_closed = True
        self._connections.end_all(why)
        self._threads.shutdown(wait=True, cancel_futures=False)
        self._connections.close()

    # -- readers that are held --------------------------------------------------------------------------

    @property
    def has_held(self) -> bool:
        return bool(self._connections.held)

    def sweep(self) -> None:
        """End what was held for too long, on a thread of the pool; call it every second or so while `has_held`."""
        with self._lock:
            if not self._is_closed:
                self._threads.submit(self._connections.end_overdue)

    # -- inside ---------------------------------------------------------------------------------------

    def _serve(self, future: ReadFuture, sql: str, params: Any, timeout_s: float | None) -> None:
        try:
            if not future.set_running_or_notify_cancel():
                return
            result = self.query(
                sql, params, timeout_s=timeout_s, is_cancelled=lambda: future.cancel_requested
            )
        except BaseException as error:  # noqa: BLE001 - belongs to whoever waits
            future.set_exception(error)
        else:
            future.set_result(result)
        finally:
            with self._lock:
                self._pending -= 1
