"""The running node on its loop: wires raft, storage, transport and services. The only place that knows all parts.

Built and run by app.Node on the node's own thread; nothing here blocks the loop. It is the listener of raft's
results (raft.host.HostListener) and the `Parts` of the RPC services.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dqlite_py.command import StateHash
from dqlite_py.errors import Error, NodeStopped, OperationalError
from dqlite_py.limits import TICK_MS
from dqlite_py.model import Address, Configuration, Entry, EntryKind, LogIndex, NodeId, Term
from dqlite_py.node.applier import Applier
from dqlite_py.node.cluster_view import ClusterView
from dqlite_py.node.compaction import Compaction
from dqlite_py.node.divergence import Divergence
from dqlite_py.node.inbound import Inbound
from dqlite_py.node.local_gateway import LocalGateway
from dqlite_py.node.membership import Membership
from dqlite_py.node.pinning import pin_all
from dqlite_py.node.proposals import DatabaseProposals
from dqlite_py.node.reads import ReadBarriers
from dqlite_py.node.services import Services
from dqlite_py.node.settings import NodeSettings
from dqlite_py.node.snapshot_fetch import SnapshotFetcher
from dqlite_py.node.snapshot_install import SnapshotInstall
from dqlite_py.node.snapshot_source import SnapshotSource
from dqlite_py.node.startup import OpenFolder
from dqlite_py.node.status import node_status
from dqlite_py.node.storage_watch import StorageWatch
from dqlite_py.node.tickets import Deadline, Inbox
from dqlite_py.node.writes import Writes
from dqlite_py.ports import Clock, Disk
from dqlite_py.raft.core import RaftCore
from dqlite_py.raft.host import RaftHost
from dqlite_py.raft.journal import JournalThread
from dqlite_py.raft.messages import SnapshotOffer
from dqlite_py.raft.rpc import RpcError
from dqlite_py.raft.transport import PeerTransport

log = logging.getLogger("dqlite_py.node")

WORKERS = 4
HAND_OVER_S = 1.5
ASK_IF_REMOVED_S = 2.0


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
        self.cluster_id = opened.identity.cluster_id
        self.node_id = opened.identity.node_id
        self.failed: BaseException | None = None
        self.removed = asyncio.Event()
        self._disk = disk
        self._clock = clock
        self._on_fatal = on_fatal
        self._last_now_us = 0
        self._addresses: dict[NodeId, Address] = {}  # of every member ever seen
        self._tasks: set[asyncio.Task[Any]] = set()
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
        self.journal_thread = JournalThread(opened.journal)
        self.host = RaftHost(
            loop=loop,
            core=self.core,
            journal=opened.journal,
            journal_thread=self.journal_thread,
            transport=transport,
            executor=self._workers,
            clock=clock,
            listener=self,
            settings=settings.raft,
        )
        self.view = ClusterView(loop, self.core)
        self._applier = self._new_applier()
        self.inbox = Inbox(loop)
        self.writes = Writes(
            loop=loop,
            view=self.view,
            propose=self.host.propose,
            pump=self.host.pump,
            call=self.call,
            make_proposals=self._make_proposals,
            now_us=self.log_now_us,
        )
        self.reads = ReadBarriers(
            loop=loop,
            core=self.core,
            view=self.view,
            applier=self.applier,
            pump=self.host.pump_soon,
            now_ms=clock.monotonic_ms,
            call=self.call,
        )
        self.membership = Membership(
            loop=loop,
            core=self.core,
            view=self.view,
            pump=self.host.pump_soon,
            now_ms=clock.monotonic_ms,
            is_connected=transport.is_connected,
            hand_over=self._hand_over,
        )
        self.divergence = Divergence(
            loop=loop,
            node_id=self.node_id,
            view=self.view,
            configuration=lambda: self.core.configuration,
            local_hash=self.hash_at,
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
        )
        self.snapshot_source = SnapshotSource(
            folder=opened.state.outgoing_path,
            disk=disk,
            cluster_id=self.cluster_id,
            pin_all=lambda: pin_all(self.core, self.applier()),
            first_log_index=lambda: opened.journal.first_index,
            executor=self._workers,
            clock=clock,
        )
        self.snapshot_fetcher = SnapshotFetcher(
            call=transport.call, state_folder=opened.state, disk=disk, executor=self._workers
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
            on_change=self._on_storage_low,
            on_worker=self.on_worker,
        )
        self.gateway = LocalGateway(
            inbox=self.inbox,
            writes=self.writes,
            reads=self.reads,
            view=self.view,
            applier=self.applier,
            spawn=self.spawn,
        )

    # -- life cycle -------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the databases, join the conversation. The transport is listening already."""
        try:
            await self._applier.open()
        except BaseException:
            await self._applier.close()
            raise
        await self.snapshot_source.start()
        Services(self).register()
        self.transport.register("snapshot.begin", self.snapshot_source.begin)
        self.transport.register("snapshot.chunk", self.snapshot_source.chunk)
        self.journal_thread.start()
        self.inbound.attach(self)
        self.sync_peers()
        await self.storage_watch.check()
        self.host.start()
        self.storage_watch.start()
        self.compaction.start()
        self.spawn(self._keep_address())
        self.spawn(self._ask_if_removed())

    async def stop(self, *, hand_over: bool = True) -> None:
        """Hand leadership over, answer everybody, finish what is committed, close everything."""
        if (
            hand_over
            and self.core.is_leader
            and len(self.core.configuration.voters) > 1
            and self.failed is None
        ):
            await self._hand_over()
        self.view.block("stopping", lambda: NodeStopped("the node is stopping"))
        self.view.changed()
        self.inbox.close()
        for part in (
            self.snapshot_install,
            self.compaction,
            self.storage_watch,
            self.membership,
            self.divergence,
        ):
            await part.stop()
        self.reads.stop()
        await self.writes.stop()
        await self.snapshot_source.stop()
        self.host.destroy()
        for task in list(self._tasks):
            task.cancel()
        await self.transport.stop()
        await self.on_worker(self.journal_thread.stop)
        await self._applier.close()
        await self.on_worker(self.opened.journal.close)
        self._workers.shutdown(wait=False)

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a background task failed: %r", error)

    # -- threads ------------------------------------------------------------------------------------------------

    def on_worker(self, function: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        return self.loop.run_in_executor(self._workers, function, *args)

    def on_journal_thread(self, function: Callable[[], Any]) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self.loop.create_future()

        def report(error: BaseException | None) -> None:
            if not future.done():
                if error is None:
                    future.set_result(None)
                else:
                    future.set_exception(error)

        def done(error: BaseException | None) -> None:
            self.loop.call_soon_threadsafe(report, error)

        self.journal_thread.submit_task(function, done)
        return future

    async def call(self, target: NodeId, method: str, body: Any, timeout_s: float) -> Any:
        return await self.transport.call(target, method, body, max(0.001, timeout_s))

    # -- applier --------------------------------------------------------------------------------------------------

    def applier(self) -> Applier:
        return self._applier

    def _new_applier(self) -> Applier:
        return Applier(
            loop=self.loop,
            folder=self.opened.state,
            on_worker=self.on_worker,
            wants_results=self.host.is_awaited,
            on_applied=self._on_applied,
            on_divergence=self.divergence_suspected,
            on_opened=self.view_changed,
            on_fatal=self.on_fatal,
        )

    def view_changed(self) -> None:
        self.view.changed()

    def _replace_applier(self) -> None:
        self._applier = self._new_applier()

    def _on_applied(self, entry: Entry, results: Any, error: Error | None) -> None:
        if entry.kind is EntryKind.NOOP and entry.term == self.core.term and self.core.is_leader:
            self.view.ready_term = entry.term
            self.view.changed()
        self.host.entry_applied(entry, results, error)
        self.core.applied(self._applier.applied_index)

    def hash_at(self, database: str, index: int) -> int | None:
        worker = self._applier.workers.get(database)
        return None if worker is None else worker.hash_at(index)

    def divergence_suspected(self, database: str, claim: StateHash, ours: int) -> None:
        self.divergence.suspect(database, claim, ours)

    def _request_repair(self) -> None:
        self.core.request_snapshot()
        self.host.pump_soon()

    # -- raft's listener ------------------------------------------------------------------------------------------

    def on_committed(self, entries: Sequence[Entry]) -> None:
        if self.snapshot_install.installing:
            return  # read again from the journal by the databases that are being put in place
        self._applier.dispatch(entries)

    def on_state_change(self) -> None:
        self.sync_peers()
        self.view.changed()

    def on_became_leader(self, term: Term) -> None:
        log.info("leader of term %d", term)
        self.membership.start_promoting()

    def on_lost_leadership(self) -> None:
        log.info("leadership lost; term is %d", self.core.term)
        self.view.ready_term = None
        self.writes.lost_leadership()
        self.view.changed()

    def on_configuration(self, _configuration: Configuration) -> None:
        self.sync_peers()
        self.view.changed()

    def sync_peers(self) -> None:
        """Dial the members; before the first configuration arrives, whoever of our cluster has shown itself."""
        members = {m.id: m.address for m in self.core.configuration.members if m.id != self.node_id}
        self._addresses.update(members)
        for departed in self.core.peers:
            # A removed member is fed until it knows (thesis 4.2.2).
            if departed not in members and departed in self._addresses:
                members[departed] = self._addresses[departed]
        leader = self.core.leader_id
        if not members:
            members = dict(self.inbound.learned)
        elif leader is not None and leader not in members and leader in self.inbound.learned:
            members[leader] = self.inbound.learned[
                leader
            ]  # a member that our configuration does not hold yet
        self.transport.set_peers(members)

    def accept_sender(self, _node_id: NodeId) -> bool:
        """Any node of our cluster (the transport has checked): one's own configuration may be the old one, so
        requests are taken from members it does not know yet (thesis 4.1). Votes and acknowledgements are counted
        by the core, from members only (RF-4)."""
        return True

    def on_snapshot_offer(self, offer: SnapshotOffer) -> None:
        self.snapshot_install.offer(offer)

    def on_read_ready(self, read_id: int, index: LogIndex) -> None:
        self.reads.ready(read_id, index)

    def on_read_failed(self, read_id: int) -> None:
        self.reads.failed(read_id)

    def on_removed(self) -> None:
        log.error("this node was removed from the cluster; it serves nothing any more")
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

    def _on_storage_low(self, low: bool) -> None:
        self.host.storage_low = low

    # -- proposals ------------------------------------------------------------------------------------------------

    def log_now_us(self) -> int:
        """The log's time: never goes back, even across leaders (design, section 6)."""
        self._last_now_us = max(self._clock.wall_us(), self._last_now_us + 1, self._applier.last_now_us + 1)
        return self._last_now_us

    def _make_proposals(self, database: str, propose: Any) -> DatabaseProposals:
        return DatabaseProposals(
            database,
            propose=propose,
            now_us=self.log_now_us,
            state_hash=self._state_hash,
            call_soon=self.loop.call_soon,
        )

    def _state_hash(self, database: str) -> StateHash | None:
        worker = self._applier.workers.get(database)
        return None if worker is None else worker.last_hash

    # -- requests -------------------------------------------------------------------------------------------------

    async def transfer(self, target: NodeId | None, timeout_s: float) -> NodeId | None:
        """Hand leadership over; the target once it leads (or another node does), None when nobody took over in time."""
        if not self.core.is_leader:
            raise self.view.not_leader()
        chosen = self.host.transferLeadership(target)
        deadline = Deadline(timeout_s)
        while not deadline.passed:
            await self.view.wait_change(TICK_MS / 1000)
            if not self.core.is_leader and self.view.remote_leader is not None:
                return chosen
        return None

    async def _hand_over(self) -> bool:
        """Give leadership to another voter; False when nobody took it."""
        try:
            return await self.transfer(None, HAND_OVER_S) is not None
        except Error as error:
            log.info("leadership was not handed over: %s", error)
            return False

    async def _keep_address(self) -> None:
        """Tell the leader when our advertised address is not the one in the configuration."""
        while not self.removed.is_set():
            me = self.core.configuration.get(self.node_id)
            if me is not None and me.address != self.transport.advertised_address():
                body = {"id": self.node_id, "address": self.transport.advertised_address()}
                try:
                    await self.writes.on_leader(
                        "leader.address",
                        body,
                        Deadline(5.0),
                        lambda: self.membership.update_address(
                            self.node_id, self.transport.advertised_address(), Deadline(5.0)
                        ),
                    )
                except (Error, RpcError) as error:
                    log.warning("the cluster does not know our new address yet: %s", error)
            await asyncio.sleep(1.0)

    async def _ask_if_removed(self) -> None:
        """A node that was down while it was removed hears from no leader: members tell it."""
        while not self.removed.is_set():
            await asyncio.sleep(ASK_IF_REMOVED_S)
            mine = self.core.configuration
            if self.core.leader_id is not None or mine.get(self.node_id) is None:
                continue
            for member in mine.members:
                if member.id == self.node_id or self.core.leader_id is not None:
                    continue
                try:
                    answer = await self.call(member.id, "raft.configuration", {}, 1.0)
                    theirs = Configuration.from_wire(answer["members"], answer["index"])
                except (Error, RpcError, KeyError, TypeError) as error:
                    log.debug("member %s gave no configuration: %s", member.id, error)
                    continue
                if theirs.index > mine.index and theirs.get(self.node_id) is None:
                    self.on_removed()
                    return

    def status(self) -> dict[str, Any]:
        return node_status(self)

    async def wait_ready(self, deadline: Deadline) -> None:
        """Return when a leader is known and this node is a member; raises OperationalError with the reason."""
        while True:
            if self.failed is not None:
                raise NodeStopped(f"this node has failed: {self.failed}")
            member = self.core.configuration.get(self.node_id) is not None
            if member and (self.view.is_ready_leader or self.view.remote_leader is not None):
                return
            if deadline.passed:
                raise OperationalError("no leader yet: fewer than a majority of the voters can be reached")
            await self.view.wait_change(min(0.2, deadline.left_s))
