"""Committed entries to the databases: routing, order, progress. Loop thread.

Each database has its own apply thread (database_worker), so a statement that runs for seconds in one neither
delays heartbeats (RF-15) nor the other databases. `applied_index` is the largest index up to which everything is
applied. How much may be under way at once is bounded by the core (RaftSettings.unapplied_bytes_max).

Whether a database exists after an entry follows from the log alone: OPEN makes it, DROP removes it, and units for one
that does not exist have no effect. A replay may therefore meet entries of a database whose file a later DROP has
removed already: they have no effect, an OPEN among them neither (StateFolder.dropped_at), and the DROP comes.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from dqlite_py.command import CommandHeader, CommandKind, StateHash, decode_header
from dqlite_py.errors import (
    Error,
    MalformedMessage,
    OperationalError,
    OutcomeUnknown,
    RaftInvariantBroken,
    StorageFull,
    no_such_database,
)
from dqlite_py.logs import event
from dqlite_py.model import Entry, EntryKind, LogIndex
from dqlite_py.node.change_hub import ChangeHub
from dqlite_py.node.database_worker import FULL_RETRY_S, Applied, DatabaseWorker
from dqlite_py.storage.meta import UNKNOWN_MAKER, MadeBy
from dqlite_py.storage.readers import ReaderPool
from dqlite_py.storage.state_folder import StateFolder

log = logging.getLogger("dqlite_py.apply")

READERS_PER_DATABASE = 4


class Applier:
    """Owns the database workers and reader pools of the current state generation."""

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        folder: StateFolder,
        on_worker: Callable[..., Awaitable[Any]],
        wants_results: Callable[[int], bool],
        on_applied: Callable[[Entry, Any, Error | None], None],
        on_divergence: Callable[[str, StateHash, int], None],
        on_opened: Callable[[], None],
        on_fatal: Callable[[BaseException], None],
        before_close: Callable[[str], Awaitable[None]] | None = None,
        changes: ChangeHub | None = None,
    ) -> None:
        self._loop = loop
        self._before_close = before_close
        self._folder = folder
        self._on_worker = on_worker
        self._wants_results = wants_results
        self._on_entry_applied = on_applied
        self._on_divergence = on_divergence
        self._on_opened = on_opened
        self._on_fatal = on_fatal
        self._changes = changes
        self.workers: dict[str, DatabaseWorker] = {}
        self.readers: dict[str, ReaderPool] = {}
        self.dispatched_index = 0  # everything up to here was routed
        self.last_now_us = 0  # the newest of all routed commands: log time never goes back
        self.log_time_us = 0  # of the last one: lower after a restart of a leader whose clock is behind
        self._held: deque[Entry] = deque()  # behind a database that is being dropped
        self._dropping: asyncio.Task[None] | None = None
        self.drop_lock = asyncio.Lock()  # databases do not vanish while it is held
        self._waiters: list[tuple[int, str | None, asyncio.Future[None]]] = []
        self._stopped = False
        self._why_closed = OperationalError("the database was dropped")

    # -- opening --------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open every database of the current generation; raises what stands in the way (then close)."""
        manifest = self._folder.manifest
        self.dispatched_index = manifest.index
        self.last_now_us = self.log_time_us = manifest.now_us
        # A crash may have left a file that the manifest does not know half-made.
        workers = [
            self._start_worker(name, create=manifest.get(name) is None)
            for name in self._folder.list_databases()
        ]
        for worker in workers:
            applied = await asyncio.wrap_future(worker.opened)
            self._folder.check_database(worker.name, applied)
            if applied == 0 and manifest.get(worker.name) is None:
                # Its OPEN is still in the log. Before it, entries of a dropped database of the same name may come.
                await self._close_database(worker.name)
                await self._on_worker(self._folder.drop_database, worker.name)
        if self._changes is not None:
            await self._on_worker(self._changes.opened, list(self.workers))
        for worker in workers:
            self._add_readers(worker)

    def _start_worker(self, name: str, *, create: bool, made_by: MadeBy = UNKNOWN_MAKER) -> DatabaseWorker:
        worker = DatabaseWorker(
            name,
            self._folder.database_path(name),
            create=create,
            made_by=made_by,
            post=self._post,
            on_applied=self._report,
            on_fatal=self._on_fatal,
            changes=(lambda _name: None) if self._changes is None else self._changes.log_of,
        )
        self.workers[name] = worker
        worker.start()
        return worker

    def _add_readers(self, worker: DatabaseWorker) -> None:
        if not self._stopped and self.workers.get(worker.name) is worker:
            self.readers[worker.name] = ReaderPool(worker.path, READERS_PER_DATABASE)
            self._on_opened()

    def _post(self, function: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:
            event(log, logging.DEBUG, "the loop closed before an apply was reported")

    # -- progress -------------------------------------------------------------------------------------

    @property
    def applied_index(self) -> LogIndex:
        firsts = [worker.pending[0] for worker in self.workers.values() if worker.pending]
        return LogIndex(min(firsts, default=self.dispatched_index + 1) - 1)

    def is_applied(self, database: str | None, index: int) -> bool:
        """True when every entry up to `index` that concerns `database` (None: any) is applied here."""
        if self.dispatched_index < index:
            return False
        if database is None:
            return self.applied_index >= index
        worker = self.workers.get(database)
        return worker is None or not worker.pending or worker.pending[0] > index

    def has_applied(self, database: str, index: int) -> bool:
        """`is_applied` for an open database, from any thread; False when that cannot be told."""
        if self.dispatched_index < index:
            return False
        worker = self.workers.get(database)
        if worker is None:
            return False
        try:
            return worker.pending[0] > index
        except IndexError:
            return True

    def when_applied(self, database: str | None, index: int) -> asyncio.Future[None] | None:
        """None when applied already, else a future; it is cancelled when the databases are closed or replaced."""
        if self.is_applied(database, index):
            return None
        future: asyncio.Future[None] = self._loop.create_future()
        if self._stopped:
            future.cancel()  # nothing is applied here any more: a snapshot is being put in place, or the node stops
        else:
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
        self._held.extend(entries)
        self._route_held()

    def _route_held(self) -> None:
        while self._held and self._dropping is None and not self._stopped:
            entry = self._held.popleft()
            if entry.index != self.dispatched_index + 1:
                raise RaftInvariantBroken(
                    f"entry {entry.index} was handed over after entry {self.dispatched_index}"
                )
            self._route(entry)
        self._wake_waiters()

    def _route(self, entry: Entry) -> None:
        header: CommandHeader | None = None
        error: Error | None = None
        if entry.kind is EntryKind.COMMAND:
            try:
                header = decode_header(
                    entry.payload
                )  # UnknownFormat passes: this release cannot follow such a log
            except MalformedMessage as malformed:
                # The same bytes on every node: no effect anywhere, and nobody is wedged (RF-14).
                event(log, logging.ERROR, "an entry has no effect", log_index=entry.index, reason=malformed)
                error = malformed
        if header is not None:
            self.log_time_us = header.now_us
            self.last_now_us = max(self.last_now_us, header.now_us)
            if header.kind is CommandKind.DROP:
                self._dropping = self._loop.create_task(self._drop(entry, header.database))
                return
        if header is None:
            self.dispatched_index = entry.index
            self._on_entry_applied(entry, None, error)
            return
        worker = self.workers.get(header.database)
        if worker is None:
            if header.kind is not CommandKind.OPEN:
                self.dispatched_index = entry.index
                self._on_entry_applied(entry, None, no_such_database(header.database))
                return
            if entry.index < self._folder.dropped_at(header.database):
                self.dispatched_index = entry.index
                self._on_entry_applied(entry, None, None)
                return
            made_by = MadeBy(entry.index, header.now_us)
            worker = self._start_worker(header.database, create=True, made_by=made_by)
            worker.opened.add_done_callback(self._created(worker))
        worker.submit(entry, header, self._wants_results(entry.index))
        self.dispatched_index = entry.index  # AFTER it is pending: see has_applied

    def _created(self, worker: DatabaseWorker) -> Callable[[Any], None]:
        def done(opened: Any) -> None:
            error = opened.exception()
            self._post(lambda: self._add_readers(worker) if error is None else self._on_fatal(error))

        return done

    async def _drop(self, entry: Entry, database: str) -> None:
        """Remove a database once its earlier entries are done; what follows in the log waits."""
        try:
            while not await self._dropped(entry, database):
                if self._stopped:
                    return  # the log has it
                await asyncio.sleep(FULL_RETRY_S)
        except Exception as error:  # noqa: BLE001 - reported as the node's failure
            self._on_fatal(error)
            return
        self._dropping = None
        self.dispatched_index = entry.index
        self._on_entry_applied(entry, None, None)
        self._route_held()

    async def _dropped(self, entry: Entry, database: str) -> bool:
        """False while the disk is too full to note it."""
        async with self.drop_lock:
            worker = self.workers.get(database)
            await self._close_database(database)
            for left in worker.left if worker is not None else ():
                # A full disk held it up here; elsewhere it was perhaps applied before the database went.
                self._on_entry_applied(left, None, OutcomeUnknown(f"database {database} was dropped"))
            try:
                await self._on_worker(self._folder.drop_database, database, entry.index)
            except StorageFull as full:
                event(log, logging.ERROR, "a database cannot be dropped yet", database=database, reason=full)
                return False
            if self._changes is not None:
                await self._on_worker(self._changes.dropped, database)
        return True

    def _report(self, worker: DatabaseWorker, finished: list[Applied]) -> None:
        for item in finished:
            if item.divergence is not None:
                self._on_divergence(worker.name, *item.divergence)
            self._on_entry_applied(item.entry, item.results, item.error)
        self._wake_waiters()

    def fail(self, error: BaseException) -> None:
        """The state on disk cannot be kept: the node stops."""
        self._on_fatal(error)

    # -- closing --------------------------------------------------------------------------------------

    async def _close_database(self, name: str) -> None:
        await self._close_readers(name)
        worker = self.workers.get(name)
        if worker is not None:
            if self._before_close is not None:
                await self._before_close(name)
            await self._on_worker(worker.stop)
            self.workers.pop(name, None)
            await self._close_readers(name)  # a database that had just been opened got them meanwhile

    async def _close_readers(self, name: str) -> None:
        pool = self.readers.pop(name, None)
        if pool is not None:
            await self._on_worker(pool.close, self._why_closed)

    async def close(self) -> None:
        """Finish what was routed and close every database; waiting reads are cancelled."""
        self._stopped = True
        self._why_closed = OperationalError("the node is stopping, or replaces its databases by a snapshot")
        if self._dropping is not None:
            await asyncio.wait([self._dropping])
        for name in list(self.workers):
            await self._close_database(name)
        waiters, self._waiters = self._waiters, []
        for _index, _database, future in waiters:
            if not future.done():
                future.cancel()
