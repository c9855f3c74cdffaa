"""The hardened PySyncObj: a SyncObj whose consensus rules are replaced by RaftCore.

Kept from PySyncObj 0.3.17: the SyncObj object and its life cycle (doTick, destroy), SyncObjConf for the timings, the
command queue, the table of callbacks waiting for a log index, the Node and Transport interfaces and the status API.
Replaced: every rule of consensus, persistence and apply (see docs/decisions/0001). Each override names the faults it
closes; what is bypassed raises, so that nothing can reach it (raft/upstream.py).

Runs on the node's loop thread only. Performs the core's Effects in the order that effects.py prescribes; does
not know what entries hold.
"""

from __future__ import annotations

import asyncio
import logging
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, Protocol

from pysyncobj.node import Node as SyncNode
from pysyncobj.syncobj import SyncObj

from dqlite_py.errors import Busy, Error, JournalFailed, OutcomeUnknown
from dqlite_py.limits import INFLIGHT_BYTES_MAX, TICK_MS
from dqlite_py.logs import event
from dqlite_py.model import Configuration, Entry, LogIndex, NodeId, Snapshot, Term
from dqlite_py.ports import Clock
from dqlite_py.raft.core import NOTHING_TO_DO, RaftCore
from dqlite_py.raft.effects import Effects, FetchEntries
from dqlite_py.raft.gate import DurabilityGate
from dqlite_py.raft.journal import Journal, JournalThread, NotInJournal
from dqlite_py.raft.messages import AppendRequest, Message, SnapshotOffer
from dqlite_py.raft.settings import RaftSettings
from dqlite_py.raft.transport import PeerTransport
from dqlite_py.raft.upstream import BYPASSED_MEMBERS, OVERRIDDEN_MEMBERS, TransportAdapter, bypass, make_conf
from dqlite_py.raft.waiting import ProposalCallback, WaitingProposals, answer

log = logging.getLogger("dqlite_py.raft")


class HostListener(Protocol):
    """What the node does with consensus' results; all called on the loop thread."""

    def on_committed(self, entries: Sequence[Entry]) -> None: ...
    def on_state_change(self) -> None: ...
    def on_became_leader(self, term: Term) -> None: ...
    def on_lost_leadership(self) -> None: ...
    def on_configuration(self, configuration: Configuration) -> None: ...
    def on_snapshot_offer(self, offer: SnapshotOffer) -> None: ...
    def on_read_ready(self, read_id: int, index: LogIndex) -> None: ...
    def on_read_failed(self, read_id: int) -> None: ...
    def on_removed(self) -> None: ...
    def on_fatal(self, error: BaseException) -> None: ...


class RaftHost(SyncObj):  # type: ignore[misc]
    """Drive a RaftCore with PySyncObj's shell, our journal thread and our transport."""

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        core: RaftCore,
        journal: Journal,
        journal_thread: JournalThread,
        transport: PeerTransport,
        executor: Executor,
        clock: Clock,
        listener: HostListener,
        settings: RaftSettings,
    ) -> None:
        self.core = core
        self._loop = loop
        self._journal = journal
        self._peers = transport
        self._gate = DurabilityGate(loop, journal_thread, transport.send_all, self._on_durable)
        self._executor = executor
        self._now = clock.monotonic_ms
        self._listener = listener
        self._pumping = False
        self._pump_due = False
        self._pump_again = False
        self._commands_queued = 0
        self._stopped = False
        self._failed: BaseException | None = None
        self._tick_handle: asyncio.TimerHandle | None = None
        self.storage_low = False
        self.tick_lag_ms = 0.0
        conf = make_conf(settings)
        others = [SyncNode(m.id) for m in core.configuration.members if m.id != core.node_id]
        super().__init__(SyncNode(core.node_id), others, conf, transport=TransportAdapter(transport))
        self._waiting = WaitingProposals(self._SyncObj__commandsWaitingCommit)
        self._close_upstream_poller()

    def _close_upstream_poller(self) -> None:
        """SyncObj.__init__ opens an epoll descriptor that we never use."""
        for value in vars(self._poller).values():
            if hasattr(value, "close"):
                value.close()

    # -- life cycle ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin ticking (loop thread)."""
        self._schedule_tick(self._now())
        self.pump()

    def _schedule_tick(self, last: float) -> None:
        def tick() -> None:
            if self._stopped:
                return
            now = self._now()
            self.tick_lag_ms = max(0.0, now - last - TICK_MS)
            self._schedule_tick(now)  # BEFORE the tick: whatever happens in it, the next one comes (RF-14)
            self.doTick(0.0)

        self._tick_handle = self._loop.call_later(TICK_MS / 1000.0, tick)

    def _doDestroy(self) -> None:
        self._stopped = True
        if self._tick_handle is not None:
            self._tick_handle.cancel()
        self._waiting.fail_all(OutcomeUnknown("the node stopped before the write's outcome was known"))

    # -- inputs -------------------------------------------------------------------------------------

    def receive(self, sender: NodeId, message: Message) -> None:
        """A message from `sender`'s authenticated connection; `pump` follows once all that came with it is here."""
        if self._stopped or self._failed is not None or message.sender != sender:
            return
        if self.storage_low and type(message) is AppendRequest and message.entries:
            return  # no room to store them: be a lagging follower until space returns, never a failed one
        try:
            self.core.step(message, self._now())
        except Exception as error:  # noqa: BLE001 - handled there
            self._broken(error)

    def _SyncObj__onMessageReceived(self, node: SyncNode, message: Message) -> None:
        """Close RF-1, 3, 4, 6, 7, 11, 16: one function held all rules upstream; RaftCore.step does now."""
        self.receive(node.id, message)
        self.pump_soon()

    def _SyncObj__onNodeConnected(self, node: SyncNode) -> None:
        self._guard(self.core.peer_connected, node.id, self._now())
        self.pump_soon()

    def _SyncObj__onNodeDisconnected(self, node: SyncNode) -> None:
        self._guard(self.core.peer_disconnected, node.id)
        self.pump_soon()

    def peer_connected(self, peer: NodeId) -> None:
        self._SyncObj__onNodeConnected(SyncNode(peer))

    def peer_disconnected(self, peer: NodeId) -> None:
        self._SyncObj__onNodeDisconnected(SyncNode(peer))

    def _onTick(self, timeToWait: float = 0.0) -> None:
        """Close RF-11, 14, 15, 21: no apply, no poller, no callback can stop a tick. Buffered messages were
        handled before: asyncio runs ready sockets before due timers."""
        if self._stopped or self._failed:
            return
        self._guard(self.core.tick, self._now())
        self.pump()

    def is_awaited(self, index: int) -> bool:
        """Whether someone here waits for the entry at `index` (then its results are needed)."""
        return self._waiting.is_awaited(index)

    @property
    def has_waiting(self) -> bool:
        """Whether somebody here waits for a proposal's outcome (reachable before __init__ is done: SyncObj looks)."""
        return len(getattr(self, "_waiting", ())) > 0

    def propose(self, payload: bytes, callback: ProposalCallback) -> None:
        """Queue a COMMAND; `callback(result, error)` comes once, after apply or with what is known.

        NotLeader/Busy: certainly not appended. Overwritten: certainly not committed. OutcomeUnknown: neither
        is certain. The callback runs on the loop thread.
        """
        try:
            self._SyncObj__commandsQueue.put_nowait((payload, callback))
        except queue.Full:
            answer(callback, None, Busy("too many proposals wait"))
            return
        self._commands_queued += 1
        self._pump_again = True

    def _checkCommandsToApply(self) -> None:
        """Close RF-13: every command is appended or refused here, at once; nothing waits for some later leader."""
        commands = self._SyncObj__commandsQueue
        while self._commands_queued:
            self._commands_queued -= 1
            payload, callback = commands.get_nowait()
            try:
                term, index = self.core.propose(payload, self._now())
            except Error as error:
                answer(callback, None, error)
                continue
            self._waiting.add(term, index, callback)

    # -- outputs ------------------------------------------------------------------------------------

    def pump_soon(self) -> None:
        """Pump once at the end of this loop iteration, however many inputs arrive in it."""
        if not self._pump_due:
            self._pump_due = True
            self._loop.call_soon(self.pump)

    def pump(self) -> None:
        """Take the core's effects and perform them; again only if performing them gave it new input."""
        self._pump_due = False
        if self._pumping:
            self._pump_again = True
            return
        self._pumping = True
        try:
            if self._gate.reports:
                self._gate.collect()
            self._pump_again = True
            while self._pump_again and not self._stopped and self._failed is None:
                self._pump_again = False
                if self._commands_queued:
                    self._checkCommandsToApply()
                effects = self.core.take_effects()
                if effects is not NOTHING_TO_DO:
                    self._perform(effects)
                if self._gate.in_journal:
                    self._gate.be_patient(self.core.disk_may_wait)
        except Exception as error:  # noqa: BLE001 - handled there
            self._broken(error)
        finally:
            self._pumping = False

    def _perform(self, fx: Effects) -> None:
        """Do what effects.py says, in its ORDER."""
        if fx.messages:
            self._peers.send_all(fx.messages)
        if fx.token or fx.messages_when_durable:
            self._gate.submit(fx)
        if fx.configuration is not None:
            self._sync_other_nodes(fx.configuration)
            self._listener.on_configuration(fx.configuration)
        if fx.lost_leadership:
            self._listener.on_lost_leadership()
        if fx.became_leader is not None:
            self._listener.on_became_leader(fx.became_leader)
        if fx.committed:
            self._SyncObj__applyLogEntries(fx.committed)
        for request in fx.fetch:
            self._fetch(request)
        if fx.fetch_committed is not None:
            self._fetch_committed(*fx.fetch_committed)
        for read_id, index in fx.reads_ready:
            self._listener.on_read_ready(read_id, index)
        for read_id in fx.reads_failed:
            self._listener.on_read_failed(read_id)
        for peer in fx.lost_data:
            event(
                log,
                logging.ERROR,
                "a member has lost entries that it had acknowledged; it no longer counts",
                member=peer,
            )
        if fx.snapshot_offer is not None:
            self._listener.on_snapshot_offer(fx.snapshot_offer)
        if fx.state_changed:
            self._listener.on_state_change()
        if fx.removed:
            self._listener.on_removed()

    def _on_durable(self, token: int, error: BaseException | None) -> None:
        if error is not None:
            self.fail(error if isinstance(error, Error) else JournalFailed(f"journal write failed: {error}"))
            return
        try:
            self.core.persisted(token)
        except Exception as broken:  # noqa: BLE001 - handled there
            self._broken(broken)
        self.pump()

    def _SyncObj__applyLogEntries(self, entries: Sequence[Entry] = ()) -> bool:
        """Close RF-14, 15, 20: hand over once, in order; the state machine runs on its own threads."""
        self._listener.on_committed(entries)
        return False

    def entry_applied(self, entry: Entry, result: Any, error: Error | None) -> None:
        """The state machine finished `entry`: answer who waits for its index."""
        self._waiting.entry_applied(entry, result, error)

    # -- slow paths: entries that left the cache are read off the loop ----------------------------------

    def _fetch(self, request: FetchEntries) -> None:
        last = self.core.last_index

        def done(entries: Sequence[Entry]) -> None:
            self.core.entries_fetched(request.peer, request.first_index, entries)

        self._read_journal(request.first_index, last, request.bytes_max, done)

    def _fetch_committed(self, first: LogIndex, last: LogIndex) -> None:
        self._read_journal(first, last, INFLIGHT_BYTES_MAX, self.core.committed_fetched)

    def _read_journal(
        self, first: int, last: int, bytes_max: int, done: Callable[[Sequence[Entry]], None]
    ) -> None:
        def finished(future: Any) -> None:
            if self._stopped or self._failed:
                return
            error = future.exception()
            if error is not None:
                if not isinstance(error, NotInJournal):
                    self.fail(error)
                    return
                self._guard(done, [])  # compacted or truncated meanwhile: the core looks again
            else:
                self._guard(done, future.result())
            self.pump_soon()

        future = self._loop.run_in_executor(self._executor, self._journal.read, first, last, bytes_max)
        future.add_done_callback(finished)

    # -- membership bookkeeping, failure, status --------------------------------------------------------

    def _sync_other_nodes(self, configuration: Configuration) -> None:
        self._SyncObj__otherNodes.clear()
        self._SyncObj__otherNodes.update(
            SyncNode(m.id) for m in configuration.members if m.id != self.core.node_id
        )

    def fail(self, error: BaseException) -> None:
        """Stop taking part, for good: nothing more is sent, acknowledged or applied by this process."""
        if self._failed is not None:
            return
        self._failed = error
        event(log, logging.CRITICAL, "raft stopped", reason=error)
        self._waiting.fail_all(
            OutcomeUnknown(f"the node failed before the write's outcome was known: {error}")
        )
        self._listener.on_fatal(error)

    def _guard(self, function: Callable[..., Any], *args: Any) -> None:
        try:
            function(*args)
        except Exception as error:  # noqa: BLE001 - handled there
            self._broken(error)

    def _broken(self, error: Exception) -> None:
        """A broken invariant stops the node instead of guessing on; called where `error` is handled."""
        event(log, logging.ERROR, "invariant broken", exc_info=True)
        self.fail(error)

    def transferLeadership(self, node: Any = None, callback: Any = None) -> NodeId:
        """Start handing leadership to `node` (a NodeId; None: the most caught-up voter)."""
        target = self.core.transfer_leadership(node, self._now())
        self.pump_soon()
        return target

    def _isLeader(self) -> bool:
        return self.core.is_leader

    def _getLeader(self) -> NodeId | None:
        return self.core.leader_id

    def isReady(self) -> bool:
        return self.core.leader_id is not None

    def getStatus(self) -> dict[str, Any]:
        core = self.core
        return {
            "state": core.state.value,
            "term": core.term,
            "leader": core.leader_id,
            "last_index": core.last_index,
            "commit_index": core.commit_index,
            "applied_index": core.applied_index,
            "first_index": core.first_index,
            "tick_lag_ms": round(self.tick_lag_ms, 1),
        }

    def install(self, snapshot: Snapshot) -> None:
        """The state folder holds `snapshot`, durable and in place: let the log follow."""
        self._guard(self.core.install_snapshot, snapshot, self._now())
        self._waiting.forget_through(snapshot.index)
        self.pump_soon()


bypass(RaftHost)

__all__ = ["BYPASSED_MEMBERS", "OVERRIDDEN_MEMBERS", "HostListener", "RaftHost"]
