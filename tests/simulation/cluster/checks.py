"""Checks of a whole simulated cluster: hooks into the running nodes, and the rules that need their clocks.

`attach` wraps methods of ONE node's life on the instances; the product's code stays as it is. What the hooks see goes
to checks_consensus, checks_state and checks_clients, which know what must be true. A violation is raised where it
happens, and kept: the product catches exceptions in places, so the simulation gives `on_violation`.

Beside safety four rules of behaviour are checked (RF-11, RF-18, RF-22): a leader steps down soon after another one
began, a node raises the term only when it hears a majority, a leader finds where logs meet without trying every entry,
and offers a snapshot once per heartbeat round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from dqlite_py.errors import Error, InternalError
from dqlite_py.limits import TICK_MS
from dqlite_py.model import Entry, EntryKind, LogIndex, NodeId
from dqlite_py.node.runtime import NodeRuntime
from dqlite_py.raft.effects import Effects, RaftState
from dqlite_py.raft.journal import JournalBatch
from dqlite_py.raft.membership import decode_configuration
from dqlite_py.raft.messages import AppendReply, Message, SnapshotOffer, TimeoutNow, VoteReply, VoteRequest
from tests.simulation.cluster.checks_callers import CallerWatch
from tests.simulation.cluster.checks_changes import ChangeWatch
from tests.simulation.cluster.checks_clients import ClientFacts
from tests.simulation.cluster.checks_consensus import ConsensusFacts, DurableLog
from tests.simulation.cluster.checks_life import Life
from tests.simulation.cluster.checks_members import MemberFacts
from tests.simulation.cluster.checks_roles import RoleFacts
from tests.simulation.cluster.checks_scratch import ScratchFacts
from tests.simulation.cluster.checks_state import StateWatch
from tests.simulation.cluster.clients import Operation
from tests.simulation.raft_world import SafetyViolation

SINGLE_STEPS_MAX = 12  # a step per term is what hints allow, and terms may be one entry long
OLD_LEADER_PATIENCE = 3  # maximum election timeouts, by the old leader's own clock, ticking


class Checks:
    """One per simulated cluster. `on_violation` hears the first violation; `now`: simulated seconds, for messages."""

    def __init__(self, *, on_violation: Callable[[SafetyViolation], None] | None = None) -> None:
        self.violation: SafetyViolation | None = None
        self.on_violation = on_violation
        self.now: Callable[[], float] | None = None
        self.consensus = ConsensusFacts(self.fail)
        self.clients = ClientFacts(self.fail)
        self.transactions = self.clients.transactions
        self.scratch = ScratchFacts(self.fail)
        self.members = MemberFacts(self.fail)
        self.roles = RoleFacts(self.fail)
        self.state = StateWatch(self.consensus, self.fail)
        self.state.on_results = self._check_results
        self.callers = CallerWatch(self.fail)
        self.changes = ChangeWatch(self.consensus, self.fail)
        self.lives: dict[int, Life] = {}  # the newest life of each node id
        self.step_count = 0
        self.elections = 0
        self._ids: dict[str, int] = {}  # machine -> node id, until its folder is wiped
        # (node id, read id) -> when it was asked: what was committed, the newest term that somebody led
        self._reads: dict[tuple[int, int], tuple[int, int]] = {}
        self._lost: dict[int, None] = {}  # nodes that started on damaged disks

    # -- verdict -------------------------------------------------------------------------------------------

    def fail(self, message: str) -> NoReturn:
        """Note and raise a violation."""
        error = SafetyViolation(message if self.now is None else f"at {self.now():.6f} s: {message}")
        if self.violation is None:
            self.violation = error
            if self.on_violation is not None:
                self.on_violation(error)
        raise error

    def raise_if_broken(self) -> None:
        """Raise the first violation, wherever it was swallowed."""
        if self.violation is not None:
            raise self.violation

    # -- nodes ---------------------------------------------------------------------------------------------

    def attach(self, name: str, runtime: NodeRuntime) -> None:
        """Watch a life: called after NodeRuntime is made and before it starts."""
        life = Life(name, runtime)
        log, snapshot = runtime.opened.log, runtime.opened.state.manifest.snapshot
        found = DurableLog.of_runs(
            log.base_index, log.base_term, log.last_index, log.term_runs, runtime.opened.journal.hard_state
        )
        damaged = self.may_be_damaged(name)
        self.consensus.started(name, life.node, found, (snapshot.index, snapshot.term), damaged)
        self.lives[life.node] = life
        self._ids[name] = life.node
        self.members.lives_at(life.node, str(runtime.transport.advertised_address()))
        if damaged:
            self._lost[life.node] = None
        self._check_start(life, runtime)
        self._watch_journal(life, runtime)
        self._watch_core(life)
        self._watch_messages(life, runtime)
        self._watch_effects(life, runtime)
        self.state.watch(life, runtime)
        self.callers.watch(name, runtime)
        self.changes.watch(name, runtime)
        self._watch_failure(life, runtime)

    def node_id(self, name: str) -> int | None:
        """The id in the folder of machine `name`; None when it never served, or was wiped."""
        return self._ids.get(name)

    def damaged(self, name: str) -> None:
        """The files of `name` are about to be changed by somebody else."""
        self.state.damage(name)

    def may_be_damaged(self, name: str) -> bool:
        return name in self.state.damaged

    def wiped(self, name: str) -> None:
        """The data folder of `name` is gone; it comes back under another id, or never served."""
        self._ids.pop(name, None)
        self.state.sound(name)

    def final(self, contents: Mapping[str, Mapping[str, Sequence[Any]]]) -> None:
        """After all faults, with everybody up and caught up: the tables of every node, see ClientFacts.final."""
        self.raise_if_broken()
        self.clients.final(contents)

    # -- clients -------------------------------------------------------------------------------------------

    def operation_began(self, operation: Operation) -> None:
        self.clients.began(operation, self.may_be_damaged(operation.node))

    def operation_ended(self, operation: Operation) -> None:
        """Damage is no excuse but for stale reads: who may have damaged databases must not answer from them."""
        self.clients.ended(operation, self.may_be_damaged(operation.node))

    # -- hooks ---------------------------------------------------------------------------------------------

    def _check_start(self, life: Life, runtime: NodeRuntime) -> None:
        """The configuration in force is the latest in log or snapshot (RF-9)."""
        log, core = runtime.opened.log, life.core
        latest = max(
            [c.index for c in log.configurations], default=runtime.opened.state.manifest.configuration.index
        )
        if core.configuration.index < latest:
            self.fail(
                f"configuration: {life.name} starts with that of entry {core.configuration.index}, its log has one at "
                f"{latest}"
            )

    def _watch_journal(self, life: Life, runtime: NodeRuntime) -> None:
        journal: Any = runtime.opened.journal
        write, compact, consensus = journal.write, journal.compact, self.consensus
        disk = consensus.disks[life.node]

        def checked_write(batches: Sequence[JournalBatch]) -> None:
            disk.pending = batches
            write(batches)
            disk.pending = None
            consensus.written(life.name, life.node, batches)

        def checked_compact(upto: LogIndex) -> None:
            compact(upto)
            disk.compact(journal.base_index)
            self.state.compacted(life, journal.base_index, runtime.opened.state.manifest.index)

        journal.write, journal.compact = checked_write, checked_compact

    def _watch_core(self, life: Life) -> None:
        core, consensus = life.core, self.consensus
        commit_to, read_index, tick = core._commit_to, core.read_index, core.tick
        patience = OLD_LEADER_PATIENCE * core.settings.election_max_ms / TICK_MS

        def checked_commit_to(index: LogIndex) -> None:
            before = core.commit_index
            commit_to(index)
            if core.commit_index != before:
                self._commit_moved(life, before)

        def checked_read_index(read_id: int, now_ms: float) -> None:
            self._reads[life.node, read_id] = consensus.committed_max, consensus.newest_term
            read_index(read_id, now_ms)

        def checked_tick(now_ms: float) -> None:
            tick(now_ms)
            if core.state is RaftState.LEADER and core.term < consensus.newest_term:
                life.old_ticks += 1
                if life.old_ticks > patience:
                    self.fail(
                        f"check-quorum: {life.name} leads term {core.term} on for {life.old_ticks} of its ticks, "
                        f"another leads {consensus.newest_term}"
                    )
            else:
                life.old_ticks = 0

        core._commit_to, core.read_index, core.tick = checked_commit_to, checked_read_index, checked_tick

    def _commit_moved(self, life: Life, before: int) -> None:
        core = life.core
        index = life.commit = int(core.commit_index)
        if core.state is RaftState.LEADER:
            voters = core.configuration.voters
            self.consensus.commits(life.name, core.term, before + 1, index, voters, life.term_at)
        else:
            self.consensus.believes_committed(life.name, index, life.term_at(index))
            if index > max(core._verified_index, core.snapshot.index):
                self.fail(
                    f"commit index: {life.name} takes entry {index} for committed, its log is compared with the "
                    f"leader's only up to {core._verified_index}"
                )

    def _watch_messages(self, life: Life, runtime: NodeRuntime) -> None:
        host: Any = runtime.host
        transport: Any = runtime.transport
        send_all, receive, heard = transport.send_all, host.receive, life.heard
        core, consensus = life.core, self.consensus
        check = self._check_message
        rare = (AppendReply, VoteReply, VoteRequest, SnapshotOffer)

        def checked_send_all(messages: Sequence[tuple[NodeId, Message]]) -> None:
            for peer, message in messages:
                if type(message) in rare:
                    check(life, peer, message)
            send_all(messages)

        def checked_receive(sender: NodeId, message: Message) -> None:
            heard[sender] = None
            kind = type(message)
            if kind is TimeoutNow:
                life.told_to_campaign = True
            receive(sender, message)
            if kind is AppendReply and core.state is RaftState.LEADER:
                progress = core._progress.get(sender)
                if progress is not None:
                    consensus.counts(life.name, core.term, sender, progress.match_index)

        transport.send_all = host._gate._send_all = checked_send_all
        host.receive = checked_receive

    def _check_message(self, life: Life, peer: NodeId, message: Message) -> None:
        """What a message tells is on the disk at this moment."""
        consensus, name, node = self.consensus, life.name, life.node
        if isinstance(message, AppendReply):
            consensus.reveals(name, node, message.term)
            if message.reject:
                if life.refuses(peer, message.term, message.prev_index) > SINGLE_STEPS_MAX:
                    self.fail(f"pace: {name} is asked for entry after entry, down to {message.prev_index}")
            else:
                leader = self.lives.get(peer)
                index, held = message.match_index, None
                if leader is not None and leader.core.is_leader and leader.core.term == message.term:
                    held = leader.term_at(index)
                consensus.acknowledges(name, node, index, message.term, held)
        elif isinstance(message, VoteReply):
            consensus.reveals(name, node, message.term)
            if message.granted and not message.pre:
                consensus.grants(name, node, peer, message.for_term)
        elif isinstance(message, VoteRequest):
            if not message.pre:
                consensus.grants(name, node, node, message.term)
        elif isinstance(message, SnapshotOffer):
            place, (known, count) = (message.term, message.round), life.offered.get(peer, ((0, 0), 0))
            life.offered[peer] = (place, count + 1 if known == place else 1)
            if known == place and count >= 2:
                self.fail(
                    f"pace: {name} offers a snapshot to {peer} again and again in round {message.round}"
                )

    def _watch_effects(self, life: Life, runtime: NodeRuntime) -> None:
        host: Any = runtime.host
        perform, check = host._perform, self._check_effects

        def checked_perform(fx: Effects) -> None:
            check(life, fx)
            perform(fx)

        host._perform = checked_perform

    def _check_effects(self, life: Life, fx: Effects) -> None:
        core, consensus = life.core, self.consensus
        self.step_count += 1
        if core.term != life.term:
            if core.term < life.term:
                self.fail(f"terms: the term of {life.name} went back from {life.term} to {core.term}")
            life.term = core.term
        if core.commit_index != life.commit:
            if core.commit_index < life.commit:
                self.fail(f"commit index of {life.name} went back from {life.commit} to {core.commit_index}")
            self._commit_moved(life, life.commit)  # by a snapshot
        if fx.hard_state is not None and fx.hard_state.voted_for == life.node:
            self._check_candidacy(life)
        if fx.entries:
            before = LogIndex(fx.entries[0].index - 1)
            log = core.log
            consensus.appends(life.name, fx.entries, log.term_at(before) if log.holds(before) else None)
        if fx.configuration is not None and core.state is RaftState.LEADER:
            self._check_proposals(life, fx)
        if fx.became_leader is not None:
            self.roles.leads(life.node, core._now)
            self.elections += 1
            voters = core.configuration.voters
            consensus.leads(life.name, life.node, fx.became_leader, voters, life.term_at)
        for entry in fx.committed:
            self._check_handed_out(life, entry)
        for read_id, index in fx.reads_ready:
            least, newest = self._reads.pop((life.node, read_id), (0, 0))
            if index < least or core.term < newest:
                self.fail(
                    f"linearizable reads: {life.name} serves a read at entry {index} in term {core.term}; when it was "
                    f"asked for, {least} was committed and somebody led term {newest}"
                )
        for peer in fx.lost_data:
            self._check_accusation(life, int(peer))
        for read_id in fx.reads_failed:
            self._reads.pop((life.node, read_id), None)

    def _check_proposals(self, life: Life, fx: Effects) -> None:
        core, disks = life.core, self.consensus.disks
        for entry in fx.entries:
            if entry.kind is EntryKind.CONFIGURATION:
                self.roles.proposed(
                    life.node,
                    core._now,
                    core.committed_configuration,
                    decode_configuration(entry),
                    int(core.commit_index),
                    core.settings.promote_lag_entries_max,
                    lambda node: disks[node].last if node in disks else 0,
                )

    def _check_accusation(self, life: Life, peer: int) -> None:
        other = self.lives.get(peer)
        if other is not None and peer not in self._lost:
            self.fail(f"soundness: {life.name} says that {other.name} lost data, its disk is sound")

    def _check_candidacy(self, life: Life) -> None:
        """Pre-vote: who hears nobody raises no term (RF-11)."""
        voters = life.core.configuration.voters
        told, life.told_to_campaign = life.told_to_campaign, False
        others = sum(1 for voter in voters if voter in life.heard)
        if not told and (others + 1) * 2 <= len(voters):
            self.fail(
                f"pre-vote: {life.name} stands in term {life.core.term}, but heard only {others} of the "
                f"{len(voters)} voters since it stood before"
            )
        life.heard.clear()

    def _check_handed_out(self, life: Life, entry: Entry) -> None:
        if self.consensus.hands_out(life.name, entry):
            if entry.kind is EntryKind.COMMAND:
                self.clients.committed(entry)
                self.scratch.committed(entry)
            elif entry.kind is EntryKind.CONFIGURATION:
                self.members.committed(entry)
        if entry.index > self.consensus.disks[life.node].last:
            self.fail(f"durability: {life.name} applies entry {entry.index} that its disk does not have")

    def _check_results(self, name: str, entry: Entry, results: Sequence[Any]) -> None:
        if disagreement := self.clients.sessions.disagreement(entry, results):
            self.fail(f"keys: {name} says of entry {entry.index} that {disagreement}")

    # -- failures ------------------------------------------------------------------------------------------

    def _watch_failure(self, life: Life, runtime: NodeRuntime) -> None:
        host: Any = runtime.host
        fail = host.fail

        def checked_fail(error: BaseException) -> None:
            fail(error)
            self._check_failure(life.name, error)

        host.fail = checked_fail

    def _check_failure(self, name: str, error: BaseException) -> None:
        """What a disk can do to a node is no fault of the node; a broken invariant is, and an error nobody foresaw."""
        if isinstance(error, SafetyViolation) or self.may_be_damaged(name) or _is_disk_error(error):
            return
        if isinstance(error, InternalError) or not isinstance(error, (Error, OSError)):
            self.fail(f"soundness: {name} stopped itself: {type(error).__name__}: {error}")


def _is_disk_error(error: BaseException) -> bool:
    """SQLite's report of a failed read, write or sync."""
    return isinstance(error, Error) and "disk I/O error" in error.message


__all__ = ["Checks", "SafetyViolation"]
