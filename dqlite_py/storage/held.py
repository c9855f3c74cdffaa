"""Readers that are held for longer than a call: unread results and read transactions. Any thread.

A held reader keeps the state that it sees, and with it the WAL from that state on: who forgets one loses it after a
time (HoldLimits), and the next call says so. One call at a time runs on a held reader, others wait; ending one may
happen beside a call, which then stops soon and gives the reader back itself.
"""

from __future__ import annotations

import threading
import time
from copy import copy
from typing import Any, Final, NamedTuple, Protocol

from dqlite_py.errors import Error
from dqlite_py.gateway import Interrupt, QueryResult, Row
from dqlite_py.limits import STREAM_CHUNK_BYTES
from dqlite_py.storage.reader import Reader

SQL_NAMED_MAX: Final = 80


class HoldLimits(NamedTuple):
    """`idle_s`: the longest pause between two calls; `hold_s`: the longest time altogether."""

    idle_s: float
    hold_s: float


class Home(Protocol):
    """Where a reader goes when it is held no longer (readers.ReaderPool)."""

    def take_back(self, hold: Hold, reader: Reader) -> None: ...


class Hold:
    """A reader that is out of the pool.

    INVARIANTS: only who has `running` touches the reader; `_reader` and its `ending` change under `_guard` only, so
    that nothing reaches a reader that went back.
    """

    def __init__(self, home: Home, reader: Reader, what: str, limits: HoldLimits, error: type[Error]) -> None:
        self.what = what
        self.running = threading.Lock()
        self.is_over = False
        self._guard = threading.Lock()
        self._is_forgotten = False
        self._home = home
        self._reader: Reader | None = reader
        self._limits = limits
        self._error = error
        self._why: Error | None = None
        self._began = self._used = time.monotonic()

    def reader(self) -> Reader:
        """For who has `running`. Raises why the hold is over."""
        reader = self._reader
        if reader is None or self.is_over:
            raise self._error(f"{self.what} is closed") if self._why is None else copy(self._why)
        return reader

    def used(self) -> None:
        """A call is over, `running` is free again."""
        self._used = time.monotonic()
        if self.is_over:
            self._settle()

    def end(self, why: Error | None = None) -> None:
        """Give the reader back now, or as soon as the call under way has stopped. Idempotent."""
        if not self.is_over:
            if why is not None and not isinstance(why, self._error):
                why = self._error(f"{self.what} was ended: {why}")
            ending = self._error(f"{self.what} was closed meanwhile") if why is None else why
            with self._guard:
                self._end(why, ending)
        self._settle()

    def _end(self, why: Error | None, ending: Error) -> None:
        if not self.is_over:
            self._why = why
            self.is_over = True
            if self._reader is not None:
                self._reader.ending = ending

    def forget(self) -> None:
        """As `end`, by a finalizer, which may run inside any of these methods: the pool does what it cannot."""
        self._is_forgotten = True
        if self._guard.acquire(blocking=False):
            try:
                self._end(None, self._error(f"{self.what} was dropped"))
            finally:
                self._guard.release()
            self._settle()

    def _settle(self) -> None:
        if not self.running.acquire(blocking=False):
            return  # who has it comes here later
        try:
            with self._guard:
                reader, self._reader = self._reader, None
            if reader is not None:
                self._home.take_back(self, reader)
        finally:
            self.running.release()

    def end_if_overdue(self, now: float) -> None:
        """By the pool, now and then."""
        limits = self._limits
        if self.is_over or self._is_forgotten:
            self.end()
        elif now - self._began > limits.hold_s:
            self.end(self._error(f"{self.what} was open for over {limits.hold_s:g} s: the node has ended it"))
        elif not self.running.locked() and now - self._used > limits.idle_s:
            self.end(
                self._error(f"{self.what} was not used for over {limits.idle_s:g} s: the node has ended it")
            )


class HeldStream:
    """Implements gateway.RowStream: rows of a result that were not read yet.

    Ends its hold when it is over, unless that is a transaction's.
    """

    def __init__(
        self,
        hold: Hold,
        cursor: Any,
        timeout_s: float | None,
        interrupt: Interrupt | None,
        *,
        owns_hold: bool,
    ) -> None:
        self._hold = hold
        self._cursor = cursor
        self._timeout_s = timeout_s
        self._interrupt = interrupt
        self._owns_hold = owns_hold

    def fetch(self) -> list[Row]:
        """As RowStream.fetch; may take as long as the query was allowed to, each time.

        Raises what Reader.query raises, and why the node has ended the stream.
        """
        hold, is_over = self._hold, True
        try:
            with hold.running:
                if self._cursor is None:
                    return []
                reader = hold.reader()
                rows = reader.fetch(
                    self._cursor,
                    timeout_s=self._timeout_s,
                    bytes_max=STREAM_CHUNK_BYTES,
                    interrupt=self._interrupt,
                )
                is_over = reader.unread is None
            return rows
        finally:
            if is_over:
                self._cursor = None
                if self._owns_hold:
                    hold.end()
            hold.used()

    def close(self) -> None:
        cursor, self._cursor = self._cursor, None
        if cursor is None:
            return
        hold = self._hold
        if self._owns_hold:
            hold.end()
        elif not hold.is_over and hold.running.acquire(blocking=False):
            try:
                hold.reader().drop(cursor)
            finally:
                hold.running.release()
                hold.used()

    def __del__(self) -> None:
        if self._cursor is not None and self._owns_hold:
            self._hold.forget()


class HeldTransaction:
    """Implements gateway.ReadTransaction. `log_index`: of the state."""

    def __init__(self, hold: Hold, log_index: int) -> None:
        self._hold = hold
        self.log_index = log_index

    def query(
        self, sql: str, params: Any, timeout_s: float | None, interrupt: Interrupt | None = None
    ) -> QueryResult:
        """As ReadTransaction.query. Raises what Reader.query raises; a failing query does not end the transaction."""
        hold = self._hold
        try:
            with hold.running:
                reader = hold.reader()
                found = reader.query(
                    sql, params, timeout_s=timeout_s, bytes_max=STREAM_CHUNK_BYTES, interrupt=interrupt
                )
                cursor = reader.unread
        finally:
            hold.used()
        more = None if cursor is None else HeldStream(hold, cursor, timeout_s, interrupt, owns_hold=False)
        return QueryResult(found.columns, found.decltypes, found.rows, self.log_index, more)

    def close(self) -> None:
        self._hold.end()

    def __del__(self) -> None:
        self._hold.forget()


def shortened(sql: str) -> str:
    """As a message names it."""
    text = " ".join(sql[: 2 * SQL_NAMED_MAX].split())
    return text if len(text) <= SQL_NAMED_MAX else text[:SQL_NAMED_MAX] + " ..."
