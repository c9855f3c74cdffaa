"""Reading a database: a bounded set of reader connections, used directly or through the pool's threads.

`query` runs on the caller's thread with a connection of the pool (a local read pays no thread hop); `submit` runs
on a thread of the pool. Readers see the last SQL commit when they begin, and never block the writer. Any thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, Literal

from dqlite_py.command import check_params
from dqlite_py.errors import Busy, InterfaceError, NotSupportedError, ProgrammingError
from dqlite_py.gateway import QueryResult
from dqlite_py.limits import PENDING_READS_MAX, REQUEST_TIMEOUT_MS, RESULT_BYTES_MAX
from dqlite_py.sqltext import StatementKind, describe
from dqlite_py.storage.authorizer import RESERVED_PREFIX
from dqlite_py.storage.implementation import refusal
from dqlite_py.storage.reader import MISUSE, SEVERAL_STATEMENTS, Reader
from dqlite_py.storage.sqlerrors import AUTH

__all__ = ["QueryResult", "ReadFuture", "ReaderPool"]

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
    """`size` connections and as many threads. Open it after the writer, close it before."""

    def __init__(self, path: str, size: int, *, result_bytes_max: int = RESULT_BYTES_MAX) -> None:
        if size < 1:
            raise InterfaceError("a reader pool needs at least one connection")
        self._path = path
        self._size = size
        self._idle: list[Reader] = []
        self._changed = threading.Condition()
        self._pending = 0
        self._waiting = 0
        self._closed = False
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="reader")
        try:
            for _ in range(size):
                self._idle.append(Reader(path, result_bytes_max=result_bytes_max))
        except BaseException:
            self._close_idle()
            raise

    # -- reading --------------------------------------------------------------------------------------

    def query(
        self,
        sql: str,
        params: Any = (),
        *,
        timeout_s: float | None = REQUEST_TIMEOUT_MS / 1000,
        is_cancelled: Callable[[], bool] | None = None,
    ) -> QueryResult:
        """Run one reading statement on this thread; waits for a free connection within the same time.

        Raises what Reader.query raises, Busy (no connection came free in time; nothing ran), InterfaceError.
        """
        try:
            reader = self._idle.pop()
        except IndexError:
            began = time.monotonic()
            reader = self._wait_for_reader(timeout_s)
            if timeout_s is not None:
                timeout_s = max(0.0, timeout_s - (time.monotonic() - began))
        try:
            return reader.query(sql, params, timeout_s=timeout_s, is_cancelled=is_cancelled)
        finally:
            self._idle.append(reader)
            if self._waiting or self._closed:
                self._tell_given_back()

    def submit(
        self, sql: str, params: Any = (), *, timeout_s: float | None = REQUEST_TIMEOUT_MS / 1000
    ) -> ReadFuture:
        """Run it on a thread of the pool; raises Busy when too many wait already."""
        params = check_params(params)
        future = ReadFuture()
        with self._changed:
            if self._closed:
                raise InterfaceError("the database's readers are closed")
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
        try:
            reader = self._idle.pop()
        except IndexError:
            reader = self._wait_for_reader(REQUEST_TIMEOUT_MS / 1000)
        try:
            return "read" if reader.is_readonly(sql) else "write"
        finally:
            self._idle.append(reader)
            if self._waiting or self._closed:
                self._tell_given_back()

    def tables(self) -> list[str]:
        """Ordinary tables of clients, by name."""
        found = self.query(
            "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' ORDER BY name"
        )
        names = [str(name) for (name,) in found.rows]
        return [name for name in names if not name.startswith(("sqlite_", RESERVED_PREFIX))]

    def close(self) -> None:
        """Wait for the queries under way, then close all connections. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._threads.shutdown(wait=True, cancel_futures=False)
        with self._changed:
            self._waiting += 1
            self._changed.wait_for(lambda: len(self._idle) == self._size)
            self._waiting -= 1
            self._size = 0
            self._close_idle()

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
            with self._changed:
                self._pending -= 1

    def _wait_for_reader(self, timeout_s: float | None) -> Reader:
        """Take a connection when none is idle: the callers above try that first, it is the whole cost then."""
        with self._changed:
            self._waiting += 1  # BEFORE looking again: whoever gives back then notifies
            try:
                self._changed.wait_for(lambda: bool(self._idle) or self._closed, timeout_s)
                if self._idle:
                    return self._idle.pop()
            finally:
                self._waiting -= 1
            if self._closed:
                raise InterfaceError("the database's readers are closed")
            raise Busy("no reader connection came free in time: nothing was read")

    def _tell_given_back(self) -> None:
        with self._changed:
            if self._size == 0:  # closed meanwhile
                self._close_idle()
            elif self._closed:
                self._changed.notify_all()
            else:
                self._changed.notify()

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()
