"""Committed entries to the databases: routing, order, progress, memory bound. Loop thread.

Each database has its own apply thread (database_worker), so a statement that runs for seconds in one neither
delays heartbeats (RF-15) nor the other databases. `applied_index` is the largest index up to which everything is
applied. When the databases fall behind, entries are dropped from memory and read again from the journal.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

from dqlite_py.command import CommandHeader, CommandKind, StateHash, decode_header
from dqlite_py.errors import Error, RaftInvariantBroken
from dqlite_py.limits import DATABASES_MAX, MIB
from dqlite_py.model import Entry, EntryKind, LogIndex
from dqlite_py.node.database_worker import Applied, DatabaseWorker
from dqlite_py.storage.readers import ReaderPool
from dqlite_py.storage.state_folder import StateFolder

log = logging.getLogger("dqlite_py.apply")

BACKLOG_BYTES_MAX = 64 * MIB
REFILL_BYTES = 8 * MIB
READERS_PER_DATABASE = 4


class Applier:
    """Owns the database workers and reader pools of the current state generation."""

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        folder: StateFolder,
        read_journal: Callable[[int, int, int], Any],  # awaitable list[Entry]
        wants_results: Callable[[int], bool],
        on_applied: Callable[[Entry, Any, Error | None], None],
        on_divergence: Callable[[str, StateHash, int], None],
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        self._loop = loop
        self._folder = folder
        self._read_journal = read_journal
        self._wants_results = wants_results
        self._on_entry_applied = on_applied
        self._on_divergence = on_divergence
        self._on_fatal = on_fatal
        self.workers: dict[str, DatabaseWorker] = {}
        self.readers: dict[str, ReaderPool] = {}
        self.dispatched_index = 0  # everything up to here was routed
        self.committed_index = 0  # everything up to here may be routed
        self.last_now_us = 0  # of the newest routed command: log time never goes back
        self._waiters: list[tuple[int, str | None, asyncio.Future[None]]] = []
        self._refilling: asyncio.Task[None] | None = None
        self._stopped = False

    # -- opening --------------------------------------------------------------------------------------

    def open(self) -> None:
        """Open every database of the current generation (before the loop serves anything)."""
        self.dispatched_index = self.committed_index = self._folder.manifest.index
        for name in self._folder.list_databases():
            self._open_database(name, create=False)

    def _open_database(self, name: str, *, create: bool) -> DatabaseWorker:
        path = self._folder.database_path(name)
        worker = DatabaseWorker(
            name,
            path,
            create=create,
            post=self._post,
            on_applied=self._report,
            on_fatal=self._on_fatal,
        )
        self.workers[name] = worker
        self.readers[name] = ReaderPool(path, READERS_PER_DATABASE)
        return worker

    def _post(self, function: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:
            log.debug("the loop closed before an apply was reported")

    # -- progress -------------------------------------------------------------------------------------

    @property
    def applied_index(self) -> LogIndex:
        oldest = min(
            (w.pending[0] for w in self.workers.values() if w.pending), default=self.dispatched_index + 1
        )
        return LogIndex(oldest - 1)

    @property
    def backlog_bytes(self) -> int:
        return sum(worker.pending_bytes for worker in self.workers.values())

    def is_applied(self, database: str | None, index: int) -> bool:
        """True when every entry up to `index` that concerns `database` (None: any) is applied here."""
        if self.dispatched_index < index:
            return False
        if database is None:
            return self.applied_index >= index
        worker = self.workers.get(database)
        return worker is None or not worker.pending or worker.pending[0] > index

    async def wait_applied(self, database: str | None, index: int) -> None:
        """Return once `is_applied`. The caller bounds the wait; cancellation leaves nothing behind."""
        if self.is_applied(database, index):
            return
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append((index, database, future))
        await future

    def when_applied(self, database: str | None, index: int) -> asyncio.Future[None] | None:
        """None when applied already, else a future (for callers without a coroutine)."""
        if self.is_applied(database, index):
            return None
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append((index, database, future))
        return future

    def _wake_waiters(self) -> None:
        if not self._waiters:
            return
        still = []
        for index, database, future in self._waiters:
            if future.done():
                continue
            if self.is_applied(database, index):
                future.set_result(None)
            else:
                still.append((index, database, future))
        self._waiters = still

    # -- routing --------------------------------------------------------------------------------------

    def dispatch(self, entries: Sequence[Entry]) -> None:
        """Route committed entries, each exactly once, in index order."""
        self.committed_index = max(self.committed_index, entries[-1].index)
        if self._refilling is None:
            for position, entry in enumerate(entries):
                if entry.index != self.dispatched_index + 1:
                    raise RaftInvariantBroken(
                        f"entry {entry.index} was handed over after entry {self.dispatched_index}"
                    )
                self._route(entry)
                if self.backlog_bytes > BACKLOG_BYTES_MAX and position + 1 < len(entries):
                    self._start_refill()
                    break
        self._wake_waiters()

    def _route(self, entry: Entry) -> None:
        if entry.kind is not EntryKind.COMMAND:
            self.dispatched_index = entry.index
            self._on_entry_applied(entry, None, None)
            return
        header = decode_header(
            entry.payload
        )  # UnknownFormat stops the node: it cannot apply what it does not know
        self.last_now_us = max(self.last_now_us, header.now_us)
        if header.kind is CommandKind.DROP:
            self._route_drop(entry, header)
            return
        worker = self.workers.get(header.database)
        if worker is None:
            if len(self.workers) >= DATABASES_MAX:
                log.warning("database %s is over the limit of %d", header.database, DATABASES_MAX)
            worker = self._open_database(header.database, create=True)
        self.dispatched_index = entry.index
        worker.submit(entry, header, self._wants_results(entry.index))

    def _route_drop(self, entry: Entry, header: CommandHeader) -> None:
        """Remove the database once its earlier entries are done (joins its thread: rare, and nothing waits on it)."""
        self.close_database(header.database)
        self._folder.drop_database(header.database)
        self.dispatched_index = entry.index
        self._on_entry_applied(entry, None, None)

    def _report(self, worker: DatabaseWorker, finished: list[Applied]) -> None:
        for item in finished:
            if item.divergence is not None:
                self._on_divergence(worker.name, *item.divergence)
            self._on_entry_applied(item.entry, item.results, None)
        self._wake_waiters()

    # -- refill from the journal when memory ran out -----------------------------------------------------

    def _start_refill(self) -> None:
        if self._refilling is None and not self._stopped:
            self._refilling = self._loop.create_task(self._refill())

    async def _refill(self) -> None:
        try:
            while self.dispatched_index < self.committed_index and not self._stopped:
                if self.backlog_bytes > BACKLOG_BYTES_MAX // 2:
                    await asyncio.sleep(0.005)
                    continue
                for entry in await self._read_journal(
                    self.dispatched_index + 1, self.committed_index, REFILL_BYTES
                ):
                    self._route(entry)
                self._wake_waiters()
        except Exception as error:  # noqa: BLE001 - reported as the node's failure
            self._on_fatal(error)
        finally:
            self._refilling = None

    # -- closing, replacing -----------------------------------------------------------------------------

    def close_database(self, name: str) -> None:
        pool = self.readers.pop(name, None)
        if pool is not None:
            pool.close()
        worker = self.workers.pop(name, None)
        if worker is not None and not worker.stop():
            raise TimeoutError(f"database {name}: its apply thread did not end")

    def close(self) -> None:
        """Finish what was routed and close every database (any thread, after the loop stopped routing)."""
        self._stopped = True
        if self._refilling is not None:
            self._refilling.cancel()
        for name in list(self.workers):
            self.close_database(name)
        for _index, _database, future in self._waiters:
            if not future.done():
                future.cancel()
        self._waiters.clear()

    def existing(self, name: str) -> bool:
        return name in self.workers and os.path.exists(self._folder.database_path(name))
