"""Gateways for tests of the API layers: over SQLite files with real transactions, sync and async, and a recorder.

`FakeGateway` decodes statement bodies as the replicas do and keeps the rules of gateway.py (one writer per database
in the order of coming, last_insert_rowid from 0 in each unit, one failing statement undoes its unit, frozen states,
streams), but replicates nothing. What a cluster does by itself is done by the test: `end_transactions` ends them as a
node does, `next_write` loses an answer or the write.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import apsw.ext
import msgpack

from dqlite_py.command import check_database_name
from dqlite_py.errors import (
    DatabaseLocked,
    Error,
    InternalError,
    NeverApplied,
    OperationalError,
    OutcomeUnknown,
    ProgrammingError,
    SnapshotConflict,
    TransactionEnded,
)
from dqlite_py.gateway import (
    Freshness,
    Interrupt,
    Once,
    QueryResult,
    ReadTransaction,
    Row,
    RowStream,
    StatementResult,
    TransactionLimits,
    UnitResult,
    WriteKey,
    WriteTransaction,
)
from dqlite_py.sqltext import StatementKind, describe
from dqlite_py.storage.sqlerrors import error_from_apsw

CHUNK_ROWS = 100
_CHANGING = (StatementKind.INSERT, StatementKind.CHANGE)


class FakeGateway:
    """Implements dqlite_py.gateway.Gateway; thread-safe. Close it, or use it as a context manager.

    `next_write`: "lost" makes the next write happen and its answer never come, "dropped" makes it not happen and
    nobody know. `open_streams`, `open_transactions`: how many are not closed; a leak check for tests.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="fakegateway"))
        self._databases: dict[str, _Database] = {}
        self._lock = threading.Lock()
        self._kept: dict[WriteKey, UnitResult] = {}
        self.next_write = ""
        self._sequence = 0

    def close(self) -> None:
        """Close its files and remove them."""
        for database in self._databases.values():
            database.close()
        self._databases.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> FakeGateway:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def open_database(self, database: str, timeout_s: float) -> None:
        with self._lock:
            if check_database_name(database) not in self._databases:
                self._databases[database] = _Database(self._folder / f"{database}.db")

    def execute_unit(self, database: str, body: bytes, timeout_s: float, *, once: Once = True) -> UnitResult:
        found = self._database(database)
        if isinstance(once, WriteKey):
            if once not in self._kept and not self.next_write:
                self._kept[once] = found.run_unit(statements_of(body), timeout_s)
            if once in self._kept:
                return self._kept[once]
        fate, self.next_write = self.next_write, ""
        if not fate:
            return found.run_unit(statements_of(body), timeout_s)
        self._sequence += 1
        key = once if isinstance(once, WriteKey) else WriteKey(b"fake session \0\0\0", self._sequence)
        if fate == "lost":
            self._kept[key] = found.run_unit(statements_of(body), timeout_s)
        raise OutcomeUnknown("no answer came", session=key.session, sequence=key.sequence)

    def new_key(self, database: str) -> WriteKey:
        self._sequence += 1
        return WriteKey(b"a caller's own \0", self._sequence)

    def resolve(self, database: str, key: WriteKey, timeout_s: float) -> UnitResult:
        if key not in self._kept:
            raise NeverApplied("the write did not happen and never will")
        return self._kept[key]

    def query(
        self,
        database: str,
        sql: str,
        params: Any,
        freshness: Freshness,
        timeout_s: float,
        interrupt: Interrupt | None = None,
    ) -> QueryResult:
        found = self._database(database)
        connection = found.take_reader()
        try:
            result = found.select(connection, sql, params, interrupt, lambda: found.give_reader(connection))
        except BaseException:
            found.give_reader(connection)
            raise
        if result.more is None:
            found.give_reader(connection)
        return result._replace(log_index=found.index)

    def begin(
        self, database: str, wait_s: float, limits: TransactionLimits, *, base_index: int | None = None
    ) -> WriteTransaction:
        found = self._database(database)
        found.turn.acquire(wait_s)
        if base_index is not None and base_index != found.index:
            found.turn.release()
            raise SnapshotConflict("the database was changed since this transaction read it", code=517)
        return FakeWriteTransaction(found)

    def begin_read(
        self, database: str, freshness: Freshness, timeout_s: float, limits: TransactionLimits
    ) -> ReadTransaction:
        return FakeReadTransaction(self._database(database))

    def is_read(self, sql: str, database: str) -> bool:
        found = self._database(database)
        connection = found.take_reader()
        try:
            details = apsw.ext.query_info(connection, sql)
        except apsw.Error as error:
            raise _translate(error) from None
        finally:
            found.give_reader(connection)
        return bool(details.is_readonly) or sql.lstrip().upper().startswith("PRAGMA")  # as a node does

    # -- for tests ----------------------------------------------------------------------------------------

    def end_transactions(self, database: str, why: str = "idle for too long") -> None:
        """End all open transactions, as a node does that loses leadership or patience."""
        for transaction in list(self._database(database).open):
            transaction.end(why)

    @property
    def open_streams(self) -> int:
        return sum(found.streams for found in self._databases.values())

    @property
    def running(self) -> int:
        """Statements that could be interrupted now."""
        return sum(found.running for found in self._databases.values())

    @property
    def open_transactions(self) -> int:
        return sum(len(found.open) for found in self._databases.values())

    def _database(self, database: str) -> _Database:
        if database not in self._databases:
            raise OperationalError(f"no such database: {database}")
        return self._databases[database]


class _Turn:
    """A lock that is handed over in the order of asking; any thread may release it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._taken = False

    def acquire(self, wait_s: float) -> None:
        with self._lock:
            if not self._taken:
                self._taken = True
                return
            mine = threading.Event()
            self._waiting.append(mine)
        try:
            if mine.wait(wait_s):
                return
        except BaseException:
            self._give_up(mine)
            raise
        self._give_up(mine)
        raise DatabaseLocked("database is locked: another transaction writes to it", code=5)

    def _give_up(self, mine: threading.Event) -> None:
        with self._lock:
            if mine in self._waiting:
                self._waiting.remove(mine)
                return
        self.release()  # it came at the last moment

    def release(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._taken = False


class _Database:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.turn = _Turn()
        self.writer = self._connect()
        self.writer.pragma("journal_mode", "wal")
        self.writer.authorizer = _authorize
        self.index = 1
        self.commit_lock = threading.Lock()  # index and state change together
        self.open: set[Any] = set()
        self.streams = 0
        self.running = 0
        self._readers: list[apsw.Connection] = []

    def _connect(self) -> apsw.Connection:
        connection = apsw.Connection(str(self.path))
        connection.pragma("synchronous", "off")
        connection.pragma("foreign_keys", True)
        return connection

    def close(self) -> None:
        for transaction in list(self.open):
            transaction.end("the node stopped")
        for connection in (self.writer, *self._readers):
            connection.close()

    def take_reader(self) -> apsw.Connection:
        if self._readers:
            return self._readers.pop()
        connection = self._connect()
        connection.pragma("query_only", True)
        return connection

    def give_reader(self, connection: apsw.Connection) -> None:
        self._readers.append(connection)

    def run_unit(self, statements: list[Any], timeout_s: float) -> UnitResult:
        self.turn.acquire(timeout_s)
        try:
            self.writer.execute("BEGIN IMMEDIATE")
            self.writer.set_last_insert_rowid(0)
            try:
                results = self.run_statements(statements)
                self.commit()
            except BaseException:
                if self.writer.in_transaction:
                    self.writer.execute("ROLLBACK")
                raise
            return UnitResult(self.index, results, sum(max(0, result.rowcount) for result in results))
        finally:
            self.turn.release()

    def run_statements(self, statements: list[Any]) -> list[StatementResult]:
        results: list[StatementResult] = []
        for sql, params in statements:
            try:
                results.append(_run(self.writer, sql, params))
            except (apsw.Error, KeyError, UnicodeDecodeError) as error:
                raise _translate(error, statement=len(results)) from None
        return results

    def commit(self) -> None:
        with self.commit_lock:
            try:
                self.writer.execute("COMMIT")
            except apsw.Error as error:
                raise _translate(error) from None
            self.index += 1

    @contextmanager
    def interruptible(self, interrupt: Interrupt | None, connection: apsw.Connection) -> Iterator[None]:
        if interrupt is None:
            yield
            return
        asked = threading.Event()
        connection.set_progress_handler(asked.is_set, 1000)
        interrupt.set(asked.set)
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1
            interrupt.set(None)
            connection.set_progress_handler(None)

    def select(
        self,
        connection: apsw.Connection,
        sql: str,
        params: Any,
        interrupt: Interrupt | None,
        done: Callable[[], None],
    ) -> QueryResult:
        try:
            with self.interruptible(interrupt, connection):
                columns = _columns(connection, sql)
                rows = connection.cursor().execute(sql, params)
                first = _take(rows)
        except (apsw.Error, KeyError, UnicodeDecodeError) as error:
            raise _translate(error) from None
        names = tuple(name for name, _ in columns)
        more = None
        if len(first) == CHUNK_ROWS:
            more = _Stream(self, rows, done)
        return QueryResult(names, tuple(kind for _, kind in columns), first, 0, more)


class _Stream:
    """Implements RowStream."""

    def __init__(self, database: _Database, rows: Iterator[Any], done: Callable[[], None]) -> None:
        self._database = database
        self._rows: Any = rows
        self._done = done
        database.streams += 1

    def fetch(self) -> list[Row]:
        if self._rows is None:
            return []
        try:
            rows = _take(self._rows)
        except apsw.Error as error:
            self.close()
            raise _translate(error) from None
        if not rows:
            self.close()
        return rows

    def close(self) -> None:
        if self._rows is not None:
            self._rows.close()
            self._rows = None
            self._database.streams -= 1
            self._done()


class FakeReadTransaction:
    """Implements ReadTransaction."""

    def __init__(self, database: _Database) -> None:
        self._database = database
        self._ended = ""
        self._streams: list[RowStream] = []
        self._connection: apsw.Connection | None = database.take_reader()
        with database.commit_lock:
            self._connection.execute("BEGIN")
            list(self._connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1"))
            self.log_index = database.index
        database.open.add(self)

    def query(
        self, sql: str, params: Any, timeout_s: float, interrupt: Interrupt | None = None
    ) -> QueryResult:
        if self._connection is None:
            raise TransactionEnded(f"the transaction was ended: {self._ended}")
        result = self._database.select(self._connection, sql, params, interrupt, lambda: None)
        if result.more is not None:
            self._streams.append(result.more)
        return result._replace(log_index=self.log_index)

    def end(self, why: str) -> None:
        self._ended = why
        self.close()

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            for stream in self._streams:
                stream.close()
            connection.execute("ROLLBACK")
            self._database.give_reader(connection)
            self._database.open.discard(self)


class FakeWriteTransaction:
    """Implements WriteTransaction."""

    def __init__(self, database: _Database) -> None:
        self._database = database
        self._ended = ""
        self.is_open = True
        database.writer.execute("BEGIN IMMEDIATE")
        database.writer.set_last_insert_rowid(0)
        self._changes = database.writer.total_changes()
        database.open.add(self)

    def run(self, body: bytes, timeout_s: float, interrupt: Interrupt | None = None) -> list[StatementResult]:
        self._check_open()
        database = self._database
        try:
            with database.interruptible(interrupt, database.writer):
                return database.run_statements(statements_of(body))
        except Error as error:
            if not database.writer.in_transaction:
                self._finish(f"a statement ended it: {error}")
            elif error.code == 9 and any(not is_read(sql) for sql, _ in statements_of(body)):
                self.end("a write was interrupted")
            raise

    def commit(self, timeout_s: float) -> UnitResult:
        self._check_open()
        index = 0
        if self._database.writer.total_changes() == self._changes and not self._database.writer.txn_state():
            self._database.writer.execute("ROLLBACK")
        else:
            self._database.commit()
            index = self._database.index
        self._finish("it was committed")
        return UnitResult(index, [])

    def rollback(self) -> None:
        if self.is_open:
            self.end("it was rolled back")

    def end(self, why: str) -> None:
        self._database.writer.execute("ROLLBACK")
        self._finish(why)

    def _finish(self, why: str) -> None:
        self.is_open = False
        self._ended = why
        self._database.open.discard(self)
        self._database.turn.release()

    def _check_open(self) -> None:
        if not self.is_open:
            raise TransactionEnded(f"the transaction was ended: {self._ended}")


# -- async -----------------------------------------------------------------------------------------------------


async def _on_thread(function: Callable[..., Any], *args: Any, interrupt: Interrupt, **kwargs: Any) -> Any:
    """Run on a thread; a cancelled caller interrupts it and waits for its end, so that what is true is known."""
    running = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        interrupt.request()
        await asyncio.wait([running])
        result = running.exception() or running.result()
        if isinstance(result, QueryResult):
            result = result.more
        for end in ("rollback", "close"):  # of what nobody will use
            if hasattr(result, end):
                getattr(result, end)()
        raise


class AsyncFakeGateway:
    """Implements AsyncGateway over a FakeGateway (or a recorder around one), which may be used beside it."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    async def open_database(self, database: str, timeout_s: float) -> None:
        self.inner.open_database(database, timeout_s)

    async def execute_unit(
        self, database: str, body: bytes, timeout_s: float, *, once: Once = True
    ) -> UnitResult:
        work = self.inner.execute_unit
        result: UnitResult = await _on_thread(
            work, database, body, timeout_s, interrupt=Interrupt(), once=once
        )
        return result

    def new_key(self, database: str) -> WriteKey:
        key: WriteKey = self.inner.new_key(database)
        return key

    async def resolve(self, database: str, key: WriteKey, timeout_s: float) -> UnitResult:
        found: UnitResult = self.inner.resolve(database, key, timeout_s)
        return found

    async def query(
        self,
        database: str,
        sql: str,
        params: Any,
        freshness: Freshness,
        timeout_s: float,
        interrupt: Interrupt | None = None,
    ) -> QueryResult:
        interrupt = interrupt or Interrupt()
        work = self.inner.query
        found = await _on_thread(
            work, database, sql, params, freshness, timeout_s, interrupt, interrupt=interrupt
        )
        return _with_async_stream(found)

    async def begin(
        self, database: str, wait_s: float, limits: TransactionLimits, *, base_index: int | None = None
    ) -> AsyncFakeWriteTransaction:
        work = self.inner.begin
        found = await _on_thread(work, database, wait_s, limits, interrupt=Interrupt(), base_index=base_index)
        return AsyncFakeWriteTransaction(found)

    async def begin_read(
        self, database: str, freshness: Freshness, timeout_s: float, limits: TransactionLimits
    ) -> AsyncFakeReadTransaction:
        return AsyncFakeReadTransaction(self.inner.begin_read(database, freshness, timeout_s, limits))

    async def is_read(self, sql: str, database: str) -> bool:
        return bool(self.inner.is_read(sql, database))


class _AsyncStream:
    def __init__(self, inner: RowStream) -> None:
        self._inner = inner

    async def fetch(self) -> list[Row]:
        await asyncio.sleep(0)
        return self._inner.fetch()

    async def close(self) -> None:
        self._inner.close()


def _with_async_stream(found: QueryResult) -> QueryResult:
    more: Any = None if found.more is None else _AsyncStream(found.more)
    return found._replace(more=more)


class AsyncFakeReadTransaction:
    def __init__(self, inner: ReadTransaction) -> None:
        self._inner = inner

    @property
    def log_index(self) -> int:
        return self._inner.log_index

    async def query(
        self, sql: str, params: Any, timeout_s: float, interrupt: Interrupt | None = None
    ) -> QueryResult:
        interrupt = interrupt or Interrupt()
        work = self._inner.query
        return _with_async_stream(
            await _on_thread(work, sql, params, timeout_s, interrupt, interrupt=interrupt)
        )

    async def close(self) -> None:
        self._inner.close()


class AsyncFakeWriteTransaction:
    def __init__(self, inner: WriteTransaction) -> None:
        self._inner = inner

    @property
    def is_open(self) -> bool:
        return self._inner.is_open

    async def run(
        self, body: bytes, timeout_s: float, interrupt: Interrupt | None = None
    ) -> list[StatementResult]:
        interrupt = interrupt or Interrupt()
        found: list[StatementResult] = await _on_thread(
            self._inner.run, body, timeout_s, interrupt, interrupt=interrupt
        )
        return found

    async def commit(self, timeout_s: float) -> UnitResult:
        found: UnitResult = await _on_thread(self._inner.commit, timeout_s, interrupt=Interrupt())
        return found

    async def rollback(self) -> None:
        self._inner.rollback()


# -- a recorder ------------------------------------------------------------------------------------------------


class RecordingGateway:
    """Passes calls on to a gateway and notes them. `fail_next` makes the next call that it sees raise."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.calls: list[str] = []
        self.units: list[list[Any]] = []
        self.levels: list[Freshness] = []
        self.timeouts: list[float] = []
        self.limits: list[TransactionLimits] = []
        self.onces: list[Once] = []
        self.fail_next: BaseException | None = None
        self.before_write: Callable[[], None] = lambda: None

    def open_database(self, database: str, timeout_s: float) -> None:
        self._called("open_database", timeout_s)
        self.inner.open_database(database, timeout_s)

    def execute_unit(self, database: str, body: bytes, timeout_s: float, *, once: Once = True) -> UnitResult:
        self._called("execute_unit", timeout_s)
        self.onces.append(once)
        self.before_write()
        self.units.append(statements_of(body))
        found: UnitResult = self.inner.execute_unit(database, body, timeout_s, once=once)
        return found

    def new_key(self, database: str) -> WriteKey:
        key: WriteKey = self.inner.new_key(database)
        return key

    def resolve(self, database: str, key: WriteKey, timeout_s: float) -> UnitResult:
        self._called("resolve", timeout_s)
        found: UnitResult = self.inner.resolve(database, key, timeout_s)
        return found

    def query(
        self,
        database: str,
        sql: str,
        params: Any,
        freshness: Freshness,
        timeout_s: float,
        interrupt: Interrupt | None = None,
    ) -> QueryResult:
        self._called("query", timeout_s)
        self.levels.append(freshness)
        found: QueryResult = self.inner.query(database, sql, params, freshness, timeout_s, interrupt)
        return found

    def begin(
        self, database: str, wait_s: float, limits: TransactionLimits, *, base_index: int | None = None
    ) -> WriteTransaction:
        self._called("begin" if base_index is None else "begin upgraded", wait_s)
        self.limits.append(limits)
        return _RecordingWriteTransaction(
            self, self.inner.begin(database, wait_s, limits, base_index=base_index)
        )

    def begin_read(
        self, database: str, freshness: Freshness, timeout_s: float, limits: TransactionLimits
    ) -> ReadTransaction:
        self._called("begin_read", timeout_s)
        self.levels.append(freshness)
        self.limits.append(limits)
        return _RecordingReadTransaction(self, self.inner.begin_read(database, freshness, timeout_s, limits))

    def is_read(self, sql: str, database: str) -> bool:
        self.calls.append("is_read")
        return bool(self.inner.is_read(sql, database))

    def _called(self, name: str, timeout_s: float) -> None:
        self.calls.append(name)
        self.timeouts.append(timeout_s)
        failure, self.fail_next = self.fail_next, None
        if failure is not None:
            raise failure


class _RecordingReadTransaction:
    def __init__(self, recorder: RecordingGateway, inner: ReadTransaction) -> None:
        self._recorder = recorder
        self._inner = inner

    @property
    def log_index(self) -> int:
        return self._inner.log_index

    def query(
        self, sql: str, params: Any, timeout_s: float, interrupt: Interrupt | None = None
    ) -> QueryResult:
        self._recorder._called("read.query", timeout_s)
        return self._inner.query(sql, params, timeout_s, interrupt)

    def close(self) -> None:
        self._recorder.calls.append("read.close")
        self._inner.close()


class _RecordingWriteTransaction:
    def __init__(self, recorder: RecordingGateway, inner: WriteTransaction) -> None:
        self._recorder = recorder
        self._inner = inner

    @property
    def is_open(self) -> bool:
        return self._inner.is_open

    def run(self, body: bytes, timeout_s: float, interrupt: Interrupt | None = None) -> list[StatementResult]:
        self._recorder._called("run", timeout_s)
        self._recorder.units.append(statements_of(body))
        return self._inner.run(body, timeout_s, interrupt)

    def commit(self, timeout_s: float) -> UnitResult:
        self._recorder._called("commit", timeout_s)
        return self._inner.commit(timeout_s)

    def rollback(self) -> None:
        self._recorder.calls.append("rollback")
        self._inner.rollback()


# -- parts -----------------------------------------------------------------------------------------------------


def statements_of(body: bytes) -> list[Any]:
    """[[sql, params], …] with back references replaced by their SQL."""
    strings: list[str] = []
    statements: list[Any] = []
    for sql, params in msgpack.unpackb(body, raw=False):
        if isinstance(sql, str):
            strings.append(sql)
        statements.append([sql if isinstance(sql, str) else strings[sql], params])
    if not statements:
        raise InternalError("a body without statements")
    return statements


def is_read(sql: str) -> bool:
    return sql.lstrip().upper().startswith(("SELECT", "WITH RECURSIVE", "PRAGMA"))


def _take(rows: Iterator[Row]) -> list[Row]:
    return list(itertools.islice(rows, CHUNK_ROWS))


def _run(connection: apsw.Connection, sql: str, params: Any) -> StatementResult:
    described = _columns(connection, sql)
    rows = list(connection.cursor().execute(sql, params))
    changes = connection.changes() if describe(sql).kind in _CHANGING else -1
    rowid = connection.last_insert_rowid()
    if not described:
        return StatementResult(changes, rowid)
    names, decltypes = zip(*described, strict=True)
    return StatementResult(changes, rowid, names, rows, decltypes)


def _columns(connection: apsw.Connection, sql: str) -> Sequence[tuple[str, str | None]]:
    return apsw.ext.query_info(connection, sql).description


def _authorize(action: int, *_names: Any) -> int:
    refused = (apsw.SQLITE_ATTACH, apsw.SQLITE_DETACH, apsw.SQLITE_CREATE_TEMP_TABLE)
    return apsw.SQLITE_DENY if action in refused else apsw.SQLITE_OK


def _translate(error: Exception, **details: Any) -> Error:
    if isinstance(error, UnicodeDecodeError):
        return OperationalError(f"Could not decode to UTF-8: {error.object!r}")
    if isinstance(error, KeyError):
        return ProgrammingError(f"no value for parameter {error}", **details)
    assert isinstance(error, apsw.Error)
    found = error_from_apsw(error)
    return type(found)(found.message, code=found.code, **details)
