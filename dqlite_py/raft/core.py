"""RaftCore: the consensus rules as a deterministic step. Inputs are method calls, outputs are Effects.

Does no I/O, reads no clock, has no randomness but the one given: simulation runs the very code that ships.
Called by raft/host.py on the loop thread: any number of inputs, then take_effects() and do what it says, in
its order.
The parts, lowest first: state, replication (leader's side), following, elections, and here the public door.

Sources: Ongaro & Ousterhout, "In Search of an Understandable Consensus Algorithm" (paper); Ongaro,
"Consensus: Bridging Theory and Practice" (thesis). RF-n: faults of PySyncObj that must not come back (docs/).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from dqlite_py.errors import (
    Busy,
    MalformedMessage,
    MembershipRefused,
    NotLeader,
    RaftInvariantBroken,
    RequestTooLarge,
)
from dqlite_py.limits import ENTRY_BYTES_MAX
from dqlite_py.model import Configuration, Entry, EntryKind, HardState, LogIndex, NodeId, Snapshot, Term
from dqlite_py.raft.effects import Effects, RaftState
from dqlite_py.raft.elections import ElectionPart
from dqlite_py.raft.log import LogStart
from dqlite_py.raft.membership import check_change, encode_configuration, is_new_voter
from dqlite_py.raft.messages import (
    AppendReply,
    AppendRequest,
    Message,
    SnapshotOffer,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from dqlite_py.raft.progress import ProgressState
from dqlite_py.raft.settings import RaftSettings

NOTHING_TO_DO = Effects()


class RaftCore(ElectionPart):
    """One member's consensus state. Not thread-safe: one thread, no re-entrance.

    `snapshot` is what the state folder durably holds, `applied_index` what the state machine has applied,
    `log` what the journal holds. All three must be durable.
    """

    def __init__(
        self,
        *,
        node_id: NodeId,
        settings: RaftSettings,
        random: Random,
        hard_state: HardState,
        snapshot: Snapshot,
        log: LogStart,
        applied_index: LogIndex,
        now_ms: float,
    ) -> None:
        super().__init__(
            node_id=node_id,
            settings=settings,
            random=random,
            hard_state=hard_state,
            snapshot=snapshot,
            log=log,
            applied_index=applied_index,
            now_ms=now_ms,
        )
        self._init_leader_part()
        self._init_follower_part()
        self._init_election_part()
        self._must_leave = False
        self._hands_out_later = False
        self.dropped_messages = 0  # from peers, malformed; for status
        self.last_dropped: MalformedMessage | None = None
        self._handlers: dict[type[Any], Callable[[Any], None]] = {
            AppendRequest: self._on_append_request,
            AppendReply: self._on_append_reply,
            VoteRequest: self._on_vote_request,
            VoteReply: self._on_vote_reply,
            SnapshotOffer: self._on_snapshot_offer,
            TimeoutNow: self._on_timeout_now,
        }

    # -- inputs ------------------------------------------------------------------------------------

    def step(self, message: Message, now_ms: float) -> None:
        """Take a peer's message. One that contradicts itself is dropped, see `dropped_messages`.

        Raises RaftInvariantBroken when it contradicts what is committed here, UnknownFormat when it holds a
        configuration of a later release: this node must stop.
        """
        if now_ms > self._now:
            self._now = now_ms
        if message.sender == self.node_id:
            return
        try:
            self._handlers[type(message)](message)
        except MalformedMessage as error:
            self.dropped_messages += 1
            self.last_dropped = error

    def propose(self, payload: bytes, now_ms: float) -> tuple[Term, LogIndex]:
        """Append a COMMAND; it is decided by what is committed at the index returned.

        Raises NotLeader, Busy, RequestTooLarge: nothing was appended.
        """
        if now_ms > self._now:
            self._now = now_ms
        if self.state is not RaftState.LEADER or self._transfer is not None:
            self._check_leads()
        size = len(payload)
        if size > ENTRY_BYTES_MAX:
            raise RequestTooLarge(f"an entry of {size} bytes is over the limit of {ENTRY_BYTES_MAX}")
        if self.uncommitted_bytes and self.uncommitted_bytes + size > self.settings.uncommitted_bytes_max:
            raise Busy(
                f"{self.uncommitted_bytes} bytes wait to be committed; the limit is "
                f"{self.settings.uncommitted_bytes_max}"
            )
        if self.log.cache_bytes > self.settings.log_cache_bytes_max + self.settings.uncommitted_bytes_max:
            raise Busy("the disk is behind: too many entries wait to be written")
        entry = self._append_own(EntryKind.COMMAND, payload)
        return entry.term, entry.index

    def _check_leads(self) -> None:
        if self.state is not RaftState.LEADER:
            raise NotLeader("this node is not the leader", leader_id=self.leader_id)
        if self._transfer is not None:
            raise NotLeader("leadership is being handed over", leader_id=self._transfer[0])

    def propose_configuration(self, new: Configuration, now_ms: float) -> tuple[Term, LogIndex]:
        """Append a change of one member; in force at once. Raises NotLeader, MembershipRefused."""
        self._advance_clock(now_ms)
        self._check_leads()
        self._check_change_may_start()
        member = check_change(self.configuration, new, self.settings.members_max)
        if member is not None and is_new_voter(self.configuration, member.id, member):
            self._check_caught_up(member.id)
        self._check_quorum_survives(new)
        entry = self._append_own(EntryKind.CONFIGURATION, encode_configuration(new))
        configuration = new.at(entry.index)
        self._configurations.appended(configuration)
        self._effects.configuration = configuration
        self._effects.state_changed = True
        self._void_lease()  # it was given by the voters of before
        self._sync_progress()
        return entry.term, entry.index

    def _check_change_may_start(self) -> None:
        """One change at a time, and not before this term committed something (thesis 4.1, bug of 2015)."""
        if self.configuration.index > self.commit_index:
            raise MembershipRefused(
                f"another change (entry {self.configuration.index}) is not committed yet",
                pending=self.configuration.index,
            )
        if not self._own_term_committed():
            raise MembershipRefused("the leader has not committed an entry of its term yet; try again")

    def _check_caught_up(self, node_id: NodeId) -> None:
        """A voter without the log would make the quorum hang on its catching up (RF-9, thesis 4.2.1)."""
        progress = self._progress.get(node_id)
        lag = self.settings.promote_lag_entries_max
        if progress is None or progress.state is not ProgressState.REPLICATE or progress.needs_snapshot:
            raise MembershipRefused(
                f"member {node_id} must first receive the log as a stand-by", member=node_id
            )
        if progress.match_index + lag < self.commit_index:
            raise MembershipRefused(
                f"member {node_id} is at entry {progress.match_index} of {self.commit_index}: let it catch up first",
                member=node_id,
            )

    def _check_quorum_survives(self, new: Configuration) -> None:
        active = self._active_voters(new.voters, self._now - self.settings.election_max_ms)
        if active * 2 <= len(new.voters):
            raise MembershipRefused(
                f"only {active} of the {len(new.voters)} voters of the new configuration answer: it would stall"
            )

    def persisted(self, token: int) -> None:
        """The journal batch `token` is durable, and all before it."""
        self._durability.persisted(token, self._effects)
        state = self.state
        if state is RaftState.LEADER:
            self._advance_commit()
        elif state is RaftState.FOLLOWER:
            self._entries_durable()
        elif state is RaftState.CANDIDATE:
            self._own_vote_durable()

    def applied(self, index: LogIndex) -> None:
        """The state machine has applied everything up to `index`."""
        if index > self._handed_index:
            raise RaftInvariantBroken(f"entry {index} reported applied, handed out are {self._handed_index}")
        if index > self.applied_index:
            self.applied_index = index
        unapplied = self._unapplied
        while unapplied and unapplied[0][0] <= index:
            self._unapplied_bytes -= unapplied.popleft()[1]

    def read_index(self, read_id: int, now_ms: float) -> None:
        """Ask for an index at which a read is linearizable; answered in reads_ready or reads_failed."""
        self._advance_clock(now_ms)
        if self.state is not RaftState.LEADER or not self._own_term_committed():
            self._effects.reads_failed.append(read_id)
            return
        self._reads.add(read_id)
        if self._reads.wants_round:
            self._feed_wanted = True

    def lease_index(self, now_ms: float) -> LogIndex | None:
        """An index at which a read is linearizable, if the lease holds; sends nothing."""
        self._advance_clock(now_ms)
        return self.commit_index if self._now < self.lease_until_ms else None

    def compacted(self, snapshot: Snapshot, first_index: LogIndex | None = None) -> None:
        """The state at `snapshot` is durable; the journal keeps entries from `first_index` on (None: as before)."""
        if not self.snapshot.index <= snapshot.index <= self.commit_index:
            raise RaftInvariantBroken(
                f"compaction at {snapshot.index}: snapshot {self.snapshot.index}, commit {self.commit_index}"
            )
        if first_index is not None and first_index > snapshot.index + 1:
            raise RaftInvariantBroken(
                f"entries from {snapshot.index + 1} to {first_index - 1} would be nowhere"
            )
        self.snapshot = snapshot
        self._configurations.rebased(snapshot.configuration, snapshot.index, keep_later=True)
        if first_index is not None:
            self.log.compact(LogIndex(first_index - 1))

    def peer_connected(self, peer: NodeId, now_ms: float) -> None:
        """Messages to `peer` have a chance again."""
        self._advance_clock(now_ms)
        self._disconnected.discard(peer)
        progress = self._progress.get(peer)
        if progress is not None and not progress.connected:
            progress.connected = True
            self._restart_peer(peer)
            self._want_heartbeat()

    def peer_disconnected(self, peer: NodeId) -> None:
        """Messages to `peer` are lost until it connects."""
        self._disconnected.add(peer)
        progress = self._progress.get(peer)
        if progress is not None:
            progress.connected = False
            self._restart_peer(peer)

    def _restart_peer(self, peer: NodeId) -> None:
        """What was in flight may be lost: find anew where the logs meet."""
        progress = self._progress[peer]
        if progress.state in (ProgressState.PROBE, ProgressState.REPLICATE):
            known = progress.match_index > 0
            progress.become_probe(LogIndex(progress.match_index + 1) if known else progress.next_index)

    # -- output ------------------------------------------------------------------------------------

    def take_effects(self) -> Effects:
        """Everything to do since the last call, in Effects' order. The caller owns it."""
        if self._must_leave:
            self._leave()
        if self._feed_wanted:
            self._feed_followers()
        if self._ack_wanted:
            self._acknowledge()
        if self.commit_index > self._handed_index:
            if self._hands_out_later:
                self._hands_out_later = False
                self._hand_out_committed()
            elif self._effects.entries and self.state is RaftState.FOLLOWER:
                self._hands_out_later = True
            else:
                self._hand_out_committed()
        effects, log = self._effects, self.log
        if effects.entries or effects.has_batch:
            effects.token = self._durability.close_batch(log.last_index)
        elif not effects:
            return NOTHING_TO_DO
        self._effects = Effects()
        if log.cache_bytes > log.cache_bytes_max:
            log.evict(self._durability.durable_index)  # what the journal holds can be read again
        return effects

    def _configuration_took_hold(self) -> None:
        self._must_leave = self.state is RaftState.LEADER and not self.is_voter

    def _leave(self) -> None:
        """A leader outside the voters leads until that is committed, then steps down (thesis 4.2.2)."""
        self._must_leave = False
        if self.state is not RaftState.LEADER:
            return
        heirs = [p for p in self._progress.values() if self._is_voter(p.id) and self._may_take_over(p)]
        best = max(heirs, key=lambda p: p.match_index, default=None)
        self._commit_push_wanted = True
        self._feed_followers()
        if best is not None and best.match_index == self.log.last_index:
            self._effects.messages.append((best.id, TimeoutNow(self.node_id, self.term)))
        self._become_follower(self.term, None)

    # -- handing out what is committed -------------------------------------------------------------

    def _hand_out_committed(self) -> None:
        """Only what is committed AND durable here, within the window of what is not applied yet."""
        first = LogIndex(self._handed_index + 1)
        last = min(self.commit_index, self._durability.durable_index)
        if last < first or self._quarantined or self._unapplied_bytes >= self.settings.unapplied_bytes_max:
            return
        if first >= self.log.cache_first:
            self._hand_out(self.log.cached(first, last))
        elif not self._fetching_committed:
            self._fetching_committed = True
            self._effects.fetch_committed = (first, min(last, LogIndex(self.log.cache_first - 1)))

    def _hand_out(self, entries: Sequence[Entry]) -> None:
        self._effects.committed.extend(entries)
        self._handed_index = entries[-1].index
        size = 0
        for entry in entries:
            size += len(entry.payload)
        self._unapplied.append((self._handed_index, size))
        self._unapplied_bytes += size

    def committed_fetched(self, entries: Sequence[Entry]) -> None:
        """The host read committed entries. What does not follow the last one handed out is dropped."""
        self._fetching_committed = False
        last = min(self.commit_index, self._durability.durable_index)
        usable = [
            entry
            for entry in self._prefix_of_log(LogIndex(self._handed_index + 1), entries)
            if entry.index <= last
        ]
        if usable and not self._quarantined:
            self._hand_out(usable)


__all__ = ["HardState", "LogStart", "RaftCore", "RaftSettings"]
