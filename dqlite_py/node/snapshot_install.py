"""Follower side of a snapshot: fetch it, put it in place, let log and databases continue after it. Loop thread.

ORDER: fetched and verified files are fsynced; the databases are closed; CURRENT is switched (state folder); the new
databases are opened; THEN raft's log follows and acknowledges. A crash anywhere leaves the old or the new state;
startup.reconcile finishes the journal's part.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from dqlite_py.errors import Error, JournalFailed, OperationalError
from dqlite_py.logs import event
from dqlite_py.model import LogIndex, NodeId
from dqlite_py.node.applier import Applier
from dqlite_py.node.cluster_view import ClusterView
from dqlite_py.node.compaction import Compaction
from dqlite_py.node.snapshot_fetch import FetchedSnapshot, SnapshotFetcher
from dqlite_py.raft.host import RaftHost
from dqlite_py.raft.messages import SnapshotOffer
from dqlite_py.raft.rpc import RpcError
from dqlite_py.storage.state_folder import StateFolder

log = logging.getLogger("dqlite_py.snapshot")

REASON = "snapshot"
RETRY_S = 0.5
REPAIR_PATIENCE_S = 3.0


class SnapshotInstall:
    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        host: RaftHost,
        view: ClusterView,
        folder: StateFolder,
        fetcher: SnapshotFetcher,
        compaction: Compaction,
        applier: Callable[[], Applier],
        replace_applier: Callable[[], None],
        on_installed: Callable[[], None],
        on_fatal: Callable[[BaseException], None],
        on_worker: Callable[..., Awaitable[Any]],
        now_ms: Callable[[], float],
    ) -> None:
        self._loop = loop
        self._host = host
        self._view = view
        self._folder = folder
        self._fetcher = fetcher
        self._compaction = compaction
        self._applier = applier
        self._replace_applier = replace_applier
        self._on_installed = on_installed
        self._on_fatal = on_fatal
        self._on_worker = on_worker
        self._now_ms = now_ms
        self._task: asyncio.Task[None] | None = None
        self.installing = False  # committed entries are not routed meanwhile: raft hands them out again
        self.installed_count = 0

    def offer(self, offer: SnapshotOffer) -> None:
        """The leader offers a snapshot: fetch it, unless one is being fetched."""
        if self._task is None or self._task.done():
            self._task = self._loop.create_task(self._run(offer.sender, offer.index))

    async def repair_from_anybody(self, healthy: Sequence[NodeId]) -> None:
        """A quarantined node without a leader: it may hold the longer log, so that nobody else can be elected, and it
        never leads itself. Any member that the majority agrees with has what it needs."""
        while self._host.core.is_quarantined:
            await asyncio.sleep(REPAIR_PATIENCE_S)
            for member in healthy:
                busy = self._task is not None and not self._task.done()
                if busy or self._host.core.leader_id is not None or not self._host.core.is_quarantined:
                    break
                event(
                    log,
                    logging.WARNING,
                    "no leader offers a snapshot: fetching one from a member",
                    member=member,
                )
                self._task = self._loop.create_task(self._run(member, LogIndex(0)))
                await asyncio.wait([self._task])

    async def _run(self, leader: NodeId, minimum: LogIndex) -> None:
        try:
            fetched = await self._fetcher.fetch(leader, minimum_index=minimum)
        except JournalFailed as error:
            # A failed fsync leaves pages that look whole: only a restart gives certainty.
            self._on_fatal(error)
            return
        except (Error, RpcError, OSError, TimeoutError) as error:
            event(
                log,
                logging.WARNING,
                "snapshot not received (the leader offers again)",
                member=leader,
                reason=error,
            )
            await asyncio.sleep(RETRY_S)  # the leader offers at every heartbeat
            self._host.core.snapshot_failed(self._now_ms())
            self._host.pump_soon()
            return
        try:
            await self._install(fetched)
        except Exception as error:  # noqa: BLE001 - a half-installed state is not served; the node stops and restarts
            self._on_fatal(error)

    async def _install(self, fetched: FetchedSnapshot) -> None:
        snapshot = fetched.snapshot
        core = self._host.core
        async with self._compaction.lock:
            if not core.wants_snapshot(snapshot.index):
                event(log, logging.INFO, "a snapshot is not needed any more", log_index=snapshot.index)
                await self._on_worker(self._folder.discard, fetched.generation_path)
                core.snapshot_failed(self._now_ms())
                return
            self._view.block(REASON, lambda: OperationalError("a snapshot is being installed: try again"))
            self.installing = True
            try:
                await self._applier().close()
                await self._on_worker(self._folder.activate, fetched.generation_path, fetched.manifest)
                self._replace_applier()
                await self._applier().open()
            finally:
                self.installing = False
            self._host.install(snapshot)  # hands out again what follows the snapshot
            self._view.unblock(REASON)
        self.installed_count += 1
        self._on_installed()
        event(log, logging.WARNING, "snapshot installed", log_index=snapshot.index, term=snapshot.term)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=5.0)
