"""The running node on its loop: wires raft, storage, transport and services. The only place that knows all parts.

Built and run by app.Node on the node's own thread; nothing here blocks the loop. It is the `Parts` of the RPC
services; raft's results come through node.raft_events.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from dqlite_py.command import StateHash
from dqlite_py.errors import Error, NodeStopped
from dqlite_py.logs import event
from dqlite_py.model import Entry, EntryKind, LogIndex, NodeId, Term
from dqlite_py.node.applier import Applier
from dqlite_py.node.background import BackgroundTasks, on_thread
from dqlite_py.node.change_followers import ChangeFollowers, follow_all
from dqlite_py.node.change_hub import ChangeHub
from dqlite_py.node.change_services import ChangeServices
from dqlite_py.node.cluster_view import ClusterView
from dqlite_py.node.compaction import Compaction
from dqlite_py.node.divergence import Divergence
from dqlite_py.node.dump_services import DumpServices
from dqlite_py.node.fetched_log import FetchedLog
from dqlite_py.node.inbound import Inbound
from dqlite_py.node.leadership import Leadership
from dqlite_py.node.membership import Membership
from dqlite_py.node.pinning import pin_all
from dqlite_py.node.presence import Presence
from dqlite_py.node.raft_events import RaftEvents
from dqlite_py.node.read_services import ReadServices
from dqlite_py.node.reads import ReadBarriers
from dqlite_py.node.registration import register_services
from dqlite_py.node.role_manager import RoleManager
from dqlite_py.node.settings import NodeSettings
from dqlite_py.node.snapshot_fetch import SnapshotFetcher
from dqlite_py.node.snapshot_install import SnapshotInstall
from dqlite_py.node.snapshot_source import SnapshotSource
from dqlite_py.node.startup import OpenFolder
from dqlite_py.node.status import node_status
from dqlite_py.node.storage_watch import StorageWatch
from dqlite_py.node.tickets import Deadline
from dqlite_py.node.write_path import WritePath
from dqlite_py.ports import Clock, Disk
from dqlite_py.raft.core import RaftCore
from dqlite_py.raft.host import RaftHost
from dqlite_py.raft.journal import JournalThread
from dqlite_py.raft.transport import PeerTransport

log = logging.getLogger("dqlite_py.node")

WORKERS = 4


class NodeRuntime:
    """Everything of one node between `start` and `stop`."""

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        settings: NodeSettings,
        opened: OpenFolder,
        transport: PeerTransport,
        inbound: Inbound,
        disk: Disk,
        clock: Clock,
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        self.loop = loop
        self.settings = settings
        self.opened = opened
        self.transport = transport
        self.inbound = inbound
        self.programs = inbound.programs
        self.cluster_id = opened.identity.cluster_id
        self.node_id = opened.identity.node_id
        self.failed: BaseException | None = None
        self.removed = asyncio.Event()
        self.sections: dict[str, Callable[[], Any]] = {}  # of the status: protocols that others serve here
        self._disk = disk
        self._clock = clock
        self._on_fatal = on_fatal
        self._tasks = BackgroundTasks(loop)
        self._leads_term: Term | None = None
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="dqlite-worker")
        snapshot = opened.state.manifest.snapshot
        self.core = RaftCore(
            node_id=self.node_id,
            settings=settings.raft,
            random=random.Random(),
            hard_state=opened.journal.hard_state,
            snapshot=snapshot,
            log=opened.log,
            applied_index=snapshot.index,
            now_ms=clock.monotonic_ms(),
        )
        self.journal_thread = JournalThread(opened.journal, on_full=self._on_journal_full)
        self.host = RaftHost(
            loop=loop,
            core=self.core,
            journal=opened.journal,
            journal_thread=self.journal_thread,
            transport=transport,
            executor=self._workers,
            clock=clock,
            listener=RaftEvents(self),
            settings=settings.raft,
        )
        self.view = ClusterView(loop, self.core)
        self.leadership = Leadership(self.host, self.view)
        self._changes = ChangeHub(settings.directory, disk, settings.keep_changes)
        self._applier = self._new_applier()
        self.reads = ReadBarriers(
            loop=loop,
            core=self.core,
            view=self.view,
            applier=self.applier,
            pump=self.host.pump,
            now_ms=clock.monotonic_ms,
            call=self.call,
        )
        self.write_path = WritePath(
            loop=loop,
            view=self.view,
            host=self.host,
            reads=self.reads,
            call=self.call,
            spawn=self.spawn,
            applier=self.applier,
            clock=clock,
        )
        self.writes = self.write_path.writes
        self.transactions = self.write_path.transactions
        self.gateway = self.write_path.gateway
        self.async_gateway = self.write_path.async_gateway
        self.read_services = ReadServices(self)
        self.membership = Membership(
            loop=loop,
            core=self.core,
            view=self.view,
            pump=self.host.pump_soon,
            now_ms=clock.monotonic_ms,
            is_connected=transport.is_connected,
            hand_over=self.leadership.hand_over,
            call=self.call,
        )
        self.role_manager = RoleManager(
            loop=loop,
            core=self.core,
            view=self.view,
            membership=self.membership,
            now_ms=clock.monotonic_ms,
            is_connected=transport.is_connected,
            transfer=self.leadership.transfer,
        )
        self.presence = Presence(
            core=self.core,
            view=self.view,
            transport=transport,
            inbound=inbound,
            writes=self.writes,
            membership=self.membership,
            call=self.call,
            removed=self.removed,
            on_removed=self.on_removed,
        )
        self.divergence = Divergence(
            loop=loop,
            node_id=self.node_id,
            view=self.view,
            configuration=lambda: self.core.configuration,
            local_hash=self.hash_at,
            states=self._states,
            call=self.call,
            repair=self._request_repair,
        )
        self.compaction = Compaction(
            loop=loop,
            core=self.core,
            journal=opened.journal,
            folder=opened.state,
            applier=self.applier,
            on_journal_thread=self.on_journal_thread,
            on_worker=self.on_worker,
            compact_bytes=settings.compact_log_bytes,
            tail_bytes=settings.log_tail_bytes,
            fetched_index=FetchedLog(self.core, self._oldest_copy).index,
        )
        self.snapshot_source = SnapshotSource(
            folder=opened.state.outgoing_path,
            disk=disk,
            cluster_id=self.cluster_id,
            pin_all=lambda: pin_all(self.core, self.applier()),
            first_log_index=lambda: opened.journal.first_index,
            last_log_index=lambda: self.core.last_index,
            executor=self._workers,
            clock=clock,
            reserve_bytes=settings.disk_reserve_bytes,
        )
        self.dumps = DumpServices(self, opened.state.outgoing_path, disk, clock)
        self.snapshot_fetcher = SnapshotFetcher(
            call=transport.call,
            state_folder=opened.state,
            disk=disk,
            executor=self._workers,
            reserve_bytes=settings.disk_reserve_bytes,
        )
        self.snapshot_install = SnapshotInstall(
            loop=loop,
            host=self.host,
            view=self.view,
            folder=opened.state,
            fetcher=self.snapshot_fetcher,
            compaction=self.compaction,
            applier=self.applier,
            replace_applier=self._replace_applier,
            on_installed=self.divergence.repaired,
            on_fatal=self.on_fatal,
            on_worker=self.on_worker,
            now_ms=clock.monotonic_ms,
        )
        self.storage_watch = StorageWatch(
            loop=loop,
            disk=disk,
            folder=settings.directory,
            reserve_bytes=settings.disk_reserve_bytes,
            view=self.view,
            on_change=partial(setattr, self.host, "storage_low"),
            on_worker=self.on_worker,
        )
        self.followers = ChangeFollowers(
            self._changes, gateway=self.gateway, workers=lambda: self._applier.workers
        )
        self.change_services = ChangeServices(self.followers)

    # -- life cycle -------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the databases, join the conversation. The transport is listening already."""
        try:
            await self._applier.open()
        except BaseException:
            await self._applier.close()
            raise
        await self.snapshot_source.start()
        register_services(self)
        self.journal_thread.start()
        self.inbound.attach(self)
        self.sync_peers()
        await self.storage_watch.check()
        self.host.start()
        self.divergence.compare_first()
        self.storage_watch.start()
        self.compaction.start()
        if self._changes.keeps_all:
            self.spawn(follow_all(lambda: self._applier.workers, self.view, self.writes))
        self.spawn(self.presence.keep_address())
        self.spawn(self.presence.ask_for_configuration())

    async def stop(self, *, hand_over: bool = True) -> None:
        """Hand leadership over, answer everybody, finish what is committed, close everything."""
        can_hand_over = (
            self.core.is_leader and len(self.core.configuration.voters) > 1 and self.failed is None
        )
        if hand_over and can_hand_over and await self.leadership.hand_over():
            await self.leadership.drain()
        self.view.block("stopping", lambda: NodeStopped("the node is stopping"))
        self.view.changed()
        self.write_path.inbox.close()
        for part in (
            self.snapshot_install,
            self.compaction,
            self.storage_watch,
            self.role_manager,
            self.divergence,
            self.dumps,
        ):
            await part.stop()
        self.reads.stop()
        await self.write_path.stop()
        await self.snapshot_source.stop()
        self.host.destroy()
        self._tasks.cancel()
        await self.transport.stop()
        await self.on_worker(self.journal_thread.stop)
        await self._applier.close()
        self._changes.close()
        self.read_services.close()
        self.change_services.close()
        await self.on_worker(self.opened.journal.close)
        self._workers.shutdown(wait=False)
        self.write_path.close()

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        return self._tasks.spawn(coroutine)

    # -- threads ------------------------------------------------------------------------------------------------

    def on_worker(self, function: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        return self.loop.run_in_executor(self._workers, function, *args)

    def on_journal_thread(self, function: Callable[[], Any]) -> asyncio.Future[Any]:
        return on_thread(self.loop, self.journal_thread.submit_task, function)

    async def call(self, target: NodeId, method: str, body: Any, timeout_s: float) -> Any:
        return await self.transport.call(target, method, body, max(0.001, timeout_s))

    def applier(self) -> Applier:
        return self._applier

    def _new_applier(self) -> Applier:
        return Applier(
            loop=self.loop,
            folder=self.opened.state,
            on_worker=self.on_worker,
            wants_results=self.host.is_awaited,
            on_applied=self._on_applied,
            on_divergence=lambda *found: self.divergence.suspect(*found),
            on_opened=self.view.changed,
            before_close=lambda name: self.transactions.end_all("its database is closed or dropped", name),
            on_fatal=self.on_fatal,
            changes=self._changes,
        )

    def _replace_applier(self) -> None:
        self._applier = self._new_applier()

    def _on_applied(self, entry: Entry, results: Any, error: Error | None) -> None:
        if entry.kind is EntryKind.NOOP and entry.term == self.core.term and self.core.is_leader:
            self.view.ready_term = entry.term
            self.view.changed()
        self.host.entry_applied(entry, (entry.index, results), error)
        self.core.applied(self._applier.applied_index)

    def _oldest_copy(self) -> LogIndex | None:
        """Whose log is kept for followers; on a full disk it is kept for nobody."""
        return None if self.host.storage_low else self.snapshot_source.oldest_index_in_use

    def hash_at(self, database: str, index: int) -> int | None:
        worker = self._applier.workers.get(database)
        return None if worker is None else worker.hash_at(index)

    def _request_repair(self, healthy: list[NodeId]) -> None:
        self.core.request_snapshot()
        self.host.pump_soon()
        self.spawn(self.snapshot_install.repair_from_anybody(healthy))

    # -- reports of the parts -------------------------------------------------------------------------------------

    def sync_peers(self) -> None:
        self.presence.sync_peers()

    def accept_sender(self, _node_id: NodeId) -> bool:
        """Any node of our cluster (the transport has checked), as our own configuration may be the old one (thesis
        4.1); the core counts votes and acknowledgements of members only (RF-4)."""
        return True

    def on_removed(self) -> None:
        event(log, logging.ERROR, "this node was removed from the cluster; it serves nothing any more")
        self.view.block(
            "removed", lambda: NodeStopped("this node was removed from the cluster: join it again")
        )
        self.removed.set()

    def on_fatal(self, error: BaseException) -> None:
        if self.failed is None:
            self.failed = error
            self.view.block("failed", lambda: NodeStopped(f"this node has failed: {error}"))
            self.host.fail(error)
            self._on_fatal(error)

    def _on_journal_full(self, full: bool) -> None:
        """On the journal thread."""
        self.loop.call_soon_threadsafe(self.storage_watch.set_journal_full, full)

    def _states(self) -> dict[str, StateHash | None]:
        return {name: worker.last_hash for name, worker in self._applier.workers.items()}

    async def transfer(self, target: NodeId | None, timeout_s: float) -> NodeId | None:
        return await self.leadership.transfer(target, timeout_s)

    def status(self) -> dict[str, Any]:
        return node_status(self)

    async def wait_ready(self, deadline: Deadline) -> None:
        """Return when a leader is known and this node is a member; raises OperationalError with the reason."""
        await self.leadership.wait_settled(deadline, lambda: self.failed)
