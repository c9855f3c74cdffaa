"""Log compaction: checkpoint the databases, record the point, THEN drop journal segments. Loop thread.

The point is the largest index up to which every database survives a power loss without the log (its own fsynced
checkpoint); the MANIFEST that says so is durable BEFORE a segment goes. A tail of the log is kept for followers that
are a little behind, so that they need no snapshot; what follows a copy that somebody fetches is kept longer, or the
log would not continue it when it has arrived.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from dqlite_py.errors import Error, InternalError, JournalFailed, OperationalError
from dqlite_py.limits import COMPACT_LOG_BYTES, LOG_TAIL_BYTES, SNAPSHOT_LOG_BYTES
from dqlite_py.logs import event
from dqlite_py.model import LogIndex, Snapshot
from dqlite_py.node.applier import Applier
from dqlite_py.node.database_worker import DatabaseWorker
from dqlite_py.raft.core import RaftCore
from dqlite_py.raft.journal import Journal
from dqlite_py.storage.manifest import DatabaseState, Manifest, ordered
from dqlite_py.storage.state_folder import StateFolder

log = logging.getLogger("dqlite_py.compaction")

CHECK_EVERY_S = 1.0
AHEAD_S = 30.0  # then the rest is done at once, on the apply thread


class Compaction:
    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        core: RaftCore,
        journal: Journal,
        folder: StateFolder,
        applier: Callable[[], Applier],
        on_journal_thread: Callable[[Callable[[], Any]], Awaitable[Any]],
        on_worker: Callable[..., Awaitable[Any]],
        compact_bytes: int = COMPACT_LOG_BYTES,
        tail_bytes: int = LOG_TAIL_BYTES,
        fetched_index: Callable[[], LogIndex | None] = lambda: None,
        fetched_bytes: int = SNAPSHOT_LOG_BYTES,
    ) -> None:
        self._loop = loop
        self._core = core
        self._journal = journal
        self._folder = folder
        self._applier = applier
        self._on_journal_thread = on_journal_thread
        self._on_worker = on_worker
        self._compact_bytes = compact_bytes
        self._tail_bytes = tail_bytes
        self._fetched_index = fetched_index  # what followers need that fetch a snapshot (fetched_log.py)
        self._fetched_bytes = fetched_bytes  # so much of the log is kept for them
        self._next_bytes = compact_bytes  # while they do
        self._task: asyncio.Task[None] | None = None
        self.paused = False
        self.lock = asyncio.Lock()  # also taken while a snapshot replaces the state
        self.count = 0

    def start(self) -> None:
        self._task = self._loop.create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=5.0)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(CHECK_EVERY_S)
            if self.paused or self._journal.size_bytes < self._threshold_bytes():
                continue
            try:
                await self.compact()
            except (JournalFailed, InternalError) as error:
                self._applier().fail(error)
                return
            except Error as error:  # a full disk, a database that is dropped just now: the next try may do it
                event(log, logging.WARNING, "compaction postponed", reason=error)

    def _threshold_bytes(self) -> int:
        return self._compact_bytes if self._fetched_index() is None else self._next_bytes

    async def compact(self) -> LogIndex:
        """Checkpoint, record, drop. Returns the new compaction point (unchanged when nothing could move)."""
        async with self.lock:
            applier = self._applier()
            workers = dict(applier.workers)
            await self._checkpoint_ahead(workers)
            checkpointed = await self._checkpoint(applier.dispatched_index, workers)
            manifest = None if checkpointed is None else self._manifest_at(*checkpointed, applier.last_now_us)
            if manifest is None:
                return self._folder.manifest.index
            point = manifest.index
            async with applier.drop_lock:
                # A database made anew under a dropped one's name is behind what was noted of the old one.
                if any(applier.workers.get(name) is not worker for name, worker in workers.items()):
                    raise OperationalError("a database was dropped during the checkpoint: try again")
                await self._on_worker(self._folder.write_manifest, manifest)
            keep_from = min(int(point), self._drop_to())
            await self._on_journal_thread(lambda: self._journal.compact(LogIndex(keep_from)))
            self._core.compacted(manifest.snapshot, LogIndex(self._journal.first_index))
            grows_by = max(0, self._compact_bytes - self._tail_bytes)
            self._next_bytes = max(self._compact_bytes, self._journal.size_bytes + grows_by)
            self.count += 1
            event(
                log,
                logging.INFO,
                "log compacted",
                snapshot_index=point,
                first_index=self._journal.first_index,
            )
            return point

    def _drop_to(self) -> int:
        drop_to = int(self._journal.index_before_tail(self._tail_bytes))
        fetched = self._fetched_index()
        if fetched is None:
            return drop_to
        return min(drop_to, max(int(fetched), self._journal.index_before_tail(self._fetched_bytes)))

    async def _checkpoint_ahead(self, workers: Mapping[str, DatabaseWorker]) -> None:
        """The long part beside the writes: what is left for the apply threads holds up what they acknowledge."""
        for worker in workers.values():
            await asyncio.wrap_future(worker.call(_request_checkpoint))
            if worker.engine is not None:
                await self._on_worker(worker.engine.wait_checkpoint, AHEAD_S)

    async def _checkpoint(
        self, routed: int, workers: Mapping[str, DatabaseWorker]
    ) -> tuple[int, list[DatabaseState]] | None:
        """Checkpoint every database; the point and what each file durably holds, or None when a reader is in the way.

        Calls queue behind all applies routed before them, so each complete database holds everything up to `routed`
        (and perhaps more: it then skips what it has when the log is replayed).
        """
        # `routed` was read BEFORE the calls are queued.
        calls = [(name, worker.call(_checkpoint_fully)) for name, worker in workers.items()]
        states: list[DatabaseState] = []
        for name, call in calls:
            complete, applied, state_hash, pages = await asyncio.wrap_future(call)
            if not complete:
                event(
                    log,
                    logging.INFO,
                    "compaction waits for a reader that holds an old snapshot",
                    database=name,
                )
                return None
            states.append(DatabaseState(name, LogIndex(applied), state_hash, pages))
        return routed, states

    def _manifest_at(self, point: int, states: list[DatabaseState], now_us: int) -> Manifest | None:
        old = self._folder.manifest
        if point <= old.index:
            return None
        at = self._core.snapshot_at(LogIndex(point))
        return Manifest(old.cluster_id, at.index, at.term, at.configuration, ordered(states), now_us)

    def snapshot(self) -> Snapshot:
        return self._folder.manifest.snapshot


def _request_checkpoint(engine: Any) -> None:
    engine.request_checkpoint()


def _checkpoint_fully(engine: Any) -> tuple[bool, int, int, int]:
    """(complete, applied index, state hash, pages) with the database file fsynced up to the applied index."""
    engine.checkpoint_full()
    return (
        engine.durable_index >= engine.applied_index,
        engine.applied_index,
        engine.state_hash,
        engine.page_count,
    )
