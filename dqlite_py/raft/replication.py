"""The leader's side: feeding followers and reading their answers.

Layer above counting.py; called by core.py (step, take_effects) and elections.py (become leader). Sends nothing
itself: fills the effects. Messages are built once per next index and shared by all followers that need it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dqlite_py.model import Entry, EntryKind, LogIndex, NodeId, Role, Term
from dqlite_py.raft.counting import CountingPart
from dqlite_py.raft.effects import FetchEntries, RaftState
from dqlite_py.raft.messages import AppendReply, AppendRequest, SnapshotOffer
from dqlite_py.raft.progress import PeerView, Progress, ProgressState

Batch = tuple[AppendRequest, int]


class LeaderPart(CountingPart):
    """INVARIANT: `_progress` is empty unless this node leads; it never holds this node."""

    def _init_leader_part(self) -> None:
        self._init_counting_part()
        self._disconnected: set[NodeId] = set()
        self._heartbeat_due_ms = 0.0
        self._heartbeat_wanted = False
        self._commit_push_wanted = False

    # -- leadership begins and ends ----------------------------------------------------------------

    def _leadership_begins(self) -> None:
        self.state = RaftState.LEADER
        self.leader_id = self.node_id
        self._effects.state_changed = True
        self._effects.became_leader = self.term
        self._furthest_match = LogIndex(0)
        self._has_handed_over = False
        self._void_lease()
        self._sync_progress()
        # The no-op makes entries of earlier terms committable, reads and configuration changes possible.
        self._append_own(EntryKind.NOOP, b"")
        self._want_heartbeat()

    def _leadership_ended(self) -> None:
        self._void_lease()
        self._progress = {}
        self._effects.reads_failed.extend(self._reads.fail_all())
        self._uncommitted.clear()
        self.uncommitted_bytes = 0
        self._heartbeat_wanted = self._feed_wanted = False

    def _sync_progress(self) -> None:
        """Follow the configuration in force: removed members get nothing, spares the heartbeats only."""
        members = {m.id for m in self.configuration.members if m.role is not Role.SPARE} - {self.node_id}
        for peer in members:
            known = self._progress.get(peer)
            if known is None or known.departed or known.state is ProgressState.SPARE:
                self._lost_data.discard(peer)
                self._progress[peer] = self._new_progress(peer)
        spares = self._spares()
        for peer in spares - self._progress.keys():
            self._progress[peer] = self._new_progress(peer)
            self._progress[peer].become_spare()
        for peer, progress in self._progress.items():
            is_spare = peer in spares and progress.state is ProgressState.SPARE
            progress.departed = peer not in members and not is_spare
        self._feed_wanted = True

    def _spares(self) -> set[NodeId]:
        return {m.id for m in self.configuration.members if m.role is Role.SPARE} - {self.node_id}

    def _new_progress(self, peer: NodeId) -> Progress:
        return Progress(peer, LogIndex(self.log.last_index + 1), self._now, peer not in self._disconnected)

    @property
    def peers(self) -> Mapping[NodeId, PeerView]:
        """Followers as the leader sees them; empty elsewhere."""
        return {peer: progress.view() for peer, progress in self._progress.items()}

    # -- appending ---------------------------------------------------------------------------------

    def _append_own(self, kind: EntryKind, payload: bytes) -> Entry:
        """Append an entry of this leader; the next effects send it to disk and followers in parallel."""
        index = LogIndex(self.log.last_index + 1)
        entry = Entry(index, self.term, kind, payload)
        self.log.append((entry,))
        self._effects.entries.append(entry)
        size = len(payload)
        self._uncommitted.append((index, size))
        self.uncommitted_bytes += size
        self._feed_wanted = True
        return entry

    # -- feeding followers -------------------------------------------------------------------------

    def _want_heartbeat(self) -> None:
        self._heartbeat_wanted = self._feed_wanted = True

    def _feed_followers(self) -> None:
        """Send what each follower may get now; once per take_effects."""
        heartbeat = self._heartbeat_wanted or self._reads.wants_round
        if heartbeat:
            self._begin_round()
        self._feed_wanted = self._heartbeat_wanted = False
        shared: dict[LogIndex, Batch] = {}
        for progress in self._progress.values():
            if progress.connected:
                self._feed(progress, heartbeat, shared)
        self._commit_push_wanted = False

    def _begin_round(self) -> None:
        self._round += 1
        self._heartbeat_due_ms = self._now + self.settings.heartbeat_ms
        self._reads.round_begins(self._round, self.commit_index)
        self._rounds_sent.append((self._round, self._now))
        self._confirm_rounds()

    def _feed(self, progress: Progress, heartbeat: bool, shared: dict[LogIndex, Batch]) -> None:
        if progress.state in (ProgressState.LOST_DATA, ProgressState.SPARE):
            if heartbeat:
                self._send_empty(progress, LogIndex(0))
            return
        if heartbeat and progress.gave_up_waiting(self._now, 2 * self.settings.election_max_ms):
            progress.become_probe(LogIndex(progress.match_index + 1))
        # After every step back: what the follower needs next may be compacted away.
        entering = progress.next_index <= self.log.base_index and progress.state is not ProgressState.SNAPSHOT
        if entering:
            progress.become_snapshot(self.applied_index)
        if progress.state is ProgressState.SNAPSHOT:
            if heartbeat or entering:
                self._offer_snapshot(progress)
            return
        if heartbeat and progress.needs_snapshot:
            self._offer_snapshot(progress)
        if progress.state is ProgressState.PROBE:
            if heartbeat or not progress.paused:
                progress.paused = True
                self._send_empty(progress, LogIndex(progress.next_index - 1))
            return
        sent = self._send_entries(progress, shared)
        if not sent and (heartbeat or (self._commit_push_wanted and self._misses_commit(progress))):
            self._send_empty(progress, self._surely_matching(progress))

    def _surely_matching(self, progress: Progress) -> LogIndex:
        """What a heartbeat builds on: it overtakes entries in flight and must not be refused for that."""
        match_index = progress.match_index
        return match_index if self.log.holds(match_index) else LogIndex(0)

    def _misses_commit(self, progress: Progress) -> bool:
        return progress.commit_sent < self.commit_index and progress.state is ProgressState.REPLICATE

    def _push_commit(self) -> None:
        """Once per tick: followers that got no entries since learn the commit index by an empty message."""
        if any(self._misses_commit(progress) for progress in self._progress.values()):
            self._commit_push_wanted = self._feed_wanted = True

    def _send_entries(self, progress: Progress, shared: dict[LogIndex, Batch]) -> bool:
        """Send batches while entries and window last; True when at least one left."""
        settings, log = self.settings, self.log
        sent = False
        while (first := progress.next_index) <= log.last_index and progress.has_room(
            settings.inflight_bytes_max, settings.inflight_messages_max
        ):
            batch = shared.get(first)
            if batch is None:
                if first < log.cache_first:
                    self._fetch_for(progress)
                    break
                entries, size = log.batch(first, settings.append_bytes_max, settings.append_entries_max)
                batch = shared[first] = self._append_request(first, entries), size
            self._send_batch(progress, batch)
            sent = True
        return sent

    def _append_request(self, first: LogIndex, entries: tuple[Entry, ...]) -> AppendRequest:
        prev = LogIndex(first - 1)
        return AppendRequest(
            self.node_id, self.term, prev, self.log.term_at(prev), entries, self.commit_index, self._round
        )

    def _send_batch(self, progress: Progress, batch: Batch) -> None:
        request, size = batch
        self._effects.messages.append((progress.id, request))
        progress.commit_sent = request.commit_index
        progress.sent(request.entries[-1].index, size, self._now)

    def _send_empty(self, progress: Progress, prev: LogIndex) -> None:
        """A heartbeat; `prev` 0 proves nothing and asks nothing."""
        prev_term = self.log.term_at(prev) if prev else Term(0)
        request = AppendRequest(self.node_id, self.term, prev, prev_term, (), self.commit_index, self._round)
        progress.commit_sent = self.commit_index
        self._effects.messages.append((progress.id, request))

    def _offer_snapshot(self, progress: Progress) -> None:
        index = self.applied_index if progress.needs_snapshot else progress.snapshot_index
        if index < self.log.base_index:  # the offer grew old while the follower did not answer
            index = self.applied_index
            progress.become_snapshot(index)
        if index == 0:
            return
        identity = self.snapshot_at(index)
        offer = SnapshotOffer(
            self.node_id, self.term, index, identity.term, identity.configuration, self._round
        )
        self._effects.messages.append((progress.id, offer))

    def _fetch_for(self, progress: Progress) -> None:
        progress.fetching = True
        self._effects.fetch.append(
            FetchEntries(progress.id, progress.next_index, self.settings.append_bytes_max)
        )

    def entries_fetched(self, peer: NodeId, first_index: LogIndex, entries: Sequence[Entry]) -> None:
        """The host read entries for `peer`. What no longer fits the log or the follower is dropped."""
        progress = self._progress.get(peer)
        if progress is None:
            return
        progress.fetching = False
        usable = self._prefix_of_log(first_index, entries)
        if not usable:
            return  # retried with its next answer or heartbeat, no spinning
        self._feed_wanted = True
        if (
            progress.connected
            and progress.next_index == first_index
            and progress.has_room(self.settings.inflight_bytes_max, self.settings.inflight_messages_max)
        ):
            usable = usable[: self.settings.append_entries_max]
            self._send_batch(progress, (self._append_request(first_index, usable), _size(usable)))

    def _prefix_of_log(self, first_index: LogIndex, entries: Sequence[Entry]) -> tuple[Entry, ...]:
        """The leading entries that are in our log today: the log may have moved on during the read."""
        count = 0
        for offset, entry in enumerate(entries):
            if entry.index != first_index + offset or not self.log.matches(entry.index, entry.term):
                break
            count += 1
        if first_index <= self.log.base_index:
            return ()
        return tuple(entries[:count])

    # -- answers -----------------------------------------------------------------------------------

    def _on_append_reply(self, reply: AppendReply) -> None:
        progress = self._progress.get(reply.sender)
        if progress is None:
            return  # not a member, or this node does not lead: its word counts for nothing (RF-4)
        if reply.term > self.term:
            self._become_follower(reply.term, None)
            return
        if not self._is_current_reply(reply) or not 0 < reply.round <= self._round:
            return
        progress.last_reply_ms = self._now
        progress.needs_snapshot = reply.needs_snapshot
        if reply.round > progress.round:
            progress.round = reply.round
            self._confirm_rounds()
        if progress.state in (ProgressState.LOST_DATA, ProgressState.SPARE):
            return
        if reply.reject:
            self._on_reject(progress, reply)
        elif reply.match_index <= self.log.last_index:
            self._on_success(progress, reply.match_index)

    def _is_current_reply(self, reply: AppendReply) -> bool:
        """Answers to an earlier term's leader tell nothing of this term's log (RF-3); refusals that only tell
        a term have round 0."""
        return reply.term == self.term

    def _on_success(self, progress: Progress, match_index: LogIndex) -> None:
        advanced = match_index > progress.match_index
        if advanced:
            progress.acknowledge(match_index, self._round, self._now)
            if match_index > self._furthest_match:
                self._furthest_match = match_index
        state = progress.state
        if state is ProgressState.PROBE:
            self._replicate_from(progress, progress.next_index)
        elif state is ProgressState.SNAPSHOT and progress.match_index >= self.log.base_index:
            self._replicate_from(progress, LogIndex(progress.match_index + 1))
        if progress.next_index <= self.log.last_index:
            self._feed_wanted = True  # the window has room again
        if advanced:
            if match_index > self.commit_index:
                self._advance_commit()
            self._follower_advanced(progress)

    def _replicate_from(self, progress: Progress, next_index: LogIndex) -> None:
        """The logs meet. A new round, so that refusals of earlier requests can be told apart."""
        progress.become_replicate(next_index)
        self._round += 1
        progress.since_round = self._round

    def _on_reject(self, progress: Progress, reply: AppendReply) -> None:
        """The logs do not meet at prev_index: step back by whole terms (paper 5.3, end)."""
        if self._proves_lost_data(progress, reply):
            self._declare_lost(progress)
            return
        if reply.prev_index <= progress.match_index or progress.state is ProgressState.SNAPSHOT:
            return  # overtaken by a later acknowledgement
        if progress.state is ProgressState.PROBE and reply.prev_index != progress.next_index - 1:
            return
        if progress.state is ProgressState.REPLICATE and reply.round < progress.since_round:
            return
        meet = self.log.last_not_after(reply.hint_index, reply.hint_term)
        progress.become_probe(LogIndex(min(meet + 1, reply.prev_index)))
        self._feed_wanted = True

    def _proves_lost_data(self, progress: Progress, reply: AppendReply) -> bool:
        """A request sent after the acknowledgement of match_index was refused for a log shorter than that."""
        return (
            reply.round > progress.match_round
            and progress.match_index > 0
            and min(reply.hint_index, reply.prev_index - 1) < progress.match_index
        )

    def _declare_lost(self, progress: Progress) -> None:
        """Its vote and acknowledgements no longer prove durability: do not count them until it joins anew."""
        progress.become_lost()
        self._lost_data.add(progress.id)
        self._effects.lost_data.append(progress.id)
        self._effects.state_changed = True

    # -- removed members and new spares ------------------------------------------------------------

    def _drop_departed(self) -> None:
        """Forget removed members, and feed new spares no more, once they had time to learn of it."""
        gone: list[NodeId] = []
        for peer, progress in self._progress.items():
            if not progress.departed or self.configuration.index > self.commit_index:
                continue
            if progress.departed_ms is None:
                progress.departed_ms = self._now
            elif self._now - progress.departed_ms > 2 * self.settings.election_max_ms:
                gone.append(peer)
        spares = self._spares() if gone else ()
        for peer in gone:
            if peer in spares:
                self._progress[peer].become_spare()
            else:
                del self._progress[peer]

    # -- hooks that upper layers fill --------------------------------------------------------------

    def _follower_advanced(self, progress: Progress) -> None:
        """A follower acknowledged more (leadership transfer waits for it)."""


def _size(entries: Sequence[Entry]) -> int:
    return sum(len(entry.payload) for entry in entries)
