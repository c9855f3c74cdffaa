"""The follower's side: appending what a leader sends, acknowledging what is durable, installing snapshots.

Layer above replication.py; called by core.py. Acknowledgements are not sent where a request is read but when
the effects are taken, so that many requests share one.
"""

from __future__ import annotations

from collections.abc import Sequence

from dqlite_py.errors import MalformedMessage, RaftInvariantBroken
from dqlite_py.model import Configuration, Entry, EntryKind, LogIndex, NodeId, Snapshot, Term
from dqlite_py.raft.effects import RaftState
from dqlite_py.raft.membership import decode_configuration
from dqlite_py.raft.messages import AppendReply, AppendRequest, SnapshotOffer
from dqlite_py.raft.replication import LeaderPart


class FollowerPart(LeaderPart):
    """INVARIANT: an acknowledgement never exceeds min(_verified_index, durable index) (RF-3, RF-7)."""

    def _init_follower_part(self) -> None:
        self._ack_wanted = False
        self._acked_index = LogIndex(0)
        self._fetching_from: tuple[NodeId, Term] | None = None  # the offer the host is working on

    # -- the leader speaks -------------------------------------------------------------------------

    def _follow(self, sender: NodeId, term: Term, round_number: int) -> None:
        """A live leader of a term >= ours was heard."""
        if term > self.term or self.state is not RaftState.FOLLOWER or self.leader_id != sender:
            if term == self.term and (self.state is RaftState.LEADER or self.leader_id not in (None, sender)):
                raise RaftInvariantBroken(
                    f"two leaders in term {term}: {self.leader_id} and {sender} (node {self.node_id}, {self.state})"
                )
            self._become_follower(term, sender)
            self._acked_index = LogIndex(0)
        self._contact_ms = self._now
        self._deadline = self._now + self._timeout_ms
        if round_number > self._seen_round:
            self._seen_round = round_number

    def _on_append_request(self, request: AppendRequest) -> None:
        if request.term < self.term:
            self._refuse_old_term(request.sender)
            return
        configurations = _check_entries(request)
        self._follow(request.sender, request.term, request.round)
        self._told_commit_index = request.commit_index
        entries, log = request.entries, self.log
        prev_index = request.prev_index
        continues = prev_index == log.last_index and request.prev_term == log.last_term
        if not continues and not self._meets(request):
            self._reject(request)
            return
        reached = LogIndex(prev_index + len(entries))
        if continues and entries:
            self._append_from(LogIndex(prev_index + 1), entries, configurations)
        elif entries and reached >= log.base_index:
            first = self._first_missing(prev_index, entries)
            if first is not None:
                self._append_from(first, entries[first - prev_index - 1 :], configurations)
        if reached > self._verified_index:
            self._verified_index = reached
        if request.commit_index > self.commit_index:
            self._commit_to(min(request.commit_index, self._verified_index))
        if not entries or self._verified_index <= self._durability.durable_index:
            self._ack_wanted = True  # otherwise when the disk is done, see _entries_durable
        heard_index, heard_ms = self._heard
        if (
            self.applied_index >= heard_index
            and not self._stalled_before
            and self._leader_is_informed(request.commit_index)
        ):
            self._fresh_ms = heard_ms
            self._heard = (request.commit_index, self._now)

    def _leader_is_informed(self, commit_index: LogIndex) -> bool:
        """Before it has committed an entry of its term, a leader does not know all that is committed."""
        if self._informed_term != self.term and self.log.matches(commit_index, self.term):
            self._informed_term = self.term
        return self._informed_term == self.term

    def _meets(self, request: AppendRequest) -> bool:
        """The consistency check. Below our base the log is committed, hence the same as the leader's."""
        prev_index = request.prev_index
        if prev_index < self.log.base_index:
            return True
        if self.log.matches(prev_index, request.prev_term):
            return True
        if prev_index <= self.commit_index:
            raise RaftInvariantBroken(
                f"leader {request.sender} of term {request.term} has term {request.prev_term} at {prev_index}, "
                f"here it is {self.log.term_at(prev_index)} and committed (commit index {self.commit_index})"
            )
        return False

    def _first_missing(self, prev_index: LogIndex, entries: Sequence[Entry]) -> LogIndex | None:
        """The first index of `entries` that our log lacks; conflicting entries of ours are dropped.

        NEVER touches entries that match: they were acknowledged and may be committed (RF-1).
        """
        log = self.log
        for entry in entries:
            index = entry.index
            if index > log.last_index:
                return index
            if index >= log.base_index and log.term_at(index) != entry.term:
                self._drop_conflict(index, entry)
                return index
        return None

    def _drop_conflict(self, index: LogIndex, entry: Entry) -> None:
        if index <= self.commit_index:
            raise RaftInvariantBroken(
                f"leader {self.leader_id} of term {self.term} conflicts at committed index {index}: its term "
                f"{entry.term}, ours {self.log.term_at(index)}, commit index {self.commit_index}"
            )
        self.log.truncate(index)
        self._durability.truncated(index)
        effects = self._effects
        pending = effects.entries
        if pending and pending[0].index <= index:
            del pending[index - pending[0].index :]  # never left for the journal
        else:
            pending.clear()
            effects.truncate_from = (
                index  # below every earlier cut of this batch: `pending` followed that one
            )
        if self._configurations.truncated(index):
            effects.configuration = self.configuration
            effects.state_changed = True

    def _append_from(
        self, first: LogIndex, entries: Sequence[Entry], configurations: Sequence[Configuration]
    ) -> None:
        self.log.append(entries)
        self._effects.entries.extend(entries)
        for configuration in configurations:
            if configuration.index >= first:
                self._configurations.appended(configuration)
                self._effects.configuration = configuration
                self._effects.state_changed = True

    # -- answers -----------------------------------------------------------------------------------

    def _reply(self, to: NodeId, *, reject: bool, prev: LogIndex, hint: LogIndex, round_number: int) -> None:
        hint_term = self.log.term_if_held(hint)
        match = LogIndex(0) if reject else hint
        reply = AppendReply(
            self.node_id, self.term, reject, prev, match, hint, hint_term, round_number, self._quarantined
        )
        self._send_durable(to, reply)

    def _refuse_old_term(self, sender: NodeId) -> None:
        """Tell a deposed leader of our term; silence would leave it leading (RF-11).

        Round 0: it answers no request of our term. The sender may lead that term by now, and must take nothing
        but the term from this.
        """
        self._reply(sender, reject=True, prev=LogIndex(0), hint=LogIndex(0), round_number=0)

    def _reject(self, request: AppendRequest) -> None:
        """Name the last place where the logs may still meet."""
        before = LogIndex(min(self.log.last_index, request.prev_index - 1))
        hint = max(self.log.last_not_after(before, request.prev_term), self.commit_index)
        self._reply(
            request.sender, reject=True, prev=request.prev_index, hint=hint, round_number=request.round
        )

    def _acknowledge(self) -> None:
        """Send the acknowledgement that is due; once per take_effects."""
        self._ack_wanted = False
        if self.state is RaftState.FOLLOWER and self.leader_id is not None:
            self._acked_index = self._durable_match()
            self._reply(
                self.leader_id,
                reject=False,
                prev=LogIndex(0),
                hint=self._acked_index,
                round_number=self._seen_round,
            )

    def _durable_match(self) -> LogIndex:
        return min(self._verified_index, self._durability.durable_index)

    def _entries_durable(self) -> None:
        """A batch reached the disk: acknowledge what it added."""
        if self.leader_id is not None and self._durable_match() > self._acked_index:
            self._ack_wanted = True

    # -- snapshots ---------------------------------------------------------------------------------

    def _on_snapshot_offer(self, offer: SnapshotOffer) -> None:
        if offer.term < self.term:
            self._refuse_old_term(offer.sender)
            return
        if not 0 < offer.index < 2**63 or not 0 < offer.snapshot_term <= offer.term:
            raise MalformedMessage(f"impossible snapshot offer: {offer!r:.300}", what="snapshot offer")
        self._follow(offer.sender, offer.term, offer.round)
        self._ack_wanted = True
        if self._quarantined and offer.index >= self.log.base_index:
            self._fetch_snapshot(offer)
        elif offer.index <= self.commit_index:
            # The offering leader has our committed prefix, hence our log equals its log up to there.
            self._verified_index = max(self._verified_index, offer.index)
        else:
            self._fetch_snapshot(offer)

    def _fetch_snapshot(self, offer: SnapshotOffer) -> None:
        """Have the host fetch it, once per leadership. The commit index does NOT move yet (RF-6)."""
        self._offer = offer
        origin = (offer.sender, offer.term)
        if self._fetching_from != origin:
            self._fetching_from = origin
            self._effects.snapshot_offer = offer

    def wants_snapshot(self, index: LogIndex) -> bool:
        """True when a state at `index` would help this node; ask before putting it in place."""
        return index >= self.log.base_index if self._quarantined else index > self.commit_index

    def install_snapshot(self, snapshot: Snapshot, now_ms: float) -> None:
        """The state at `snapshot` is durable and in place: entries after it are handed out from now on.

        Keeps the log's suffix if it contains (index, term), else replaces the log. Raises RaftInvariantBroken
        when the snapshot contradicts what is committed here or lies before the log.
        """
        self._advance_clock(now_ms)
        index = snapshot.index
        keep = self.log.matches(index, snapshot.term)
        if index < self.log.base_index or (not keep and (index <= self.commit_index or self.is_leader)):
            raise RaftInvariantBroken(
                f"snapshot ({index}, term {snapshot.term}) cannot be installed over log {self.log.base_index}.."
                f"{self.log.last_index}, commit index {self.commit_index}, state {self.state}"
            )
        if snapshot.term > self.term:
            self._become_follower(snapshot.term, None)
        before = self._configurations.at(self.commit_index)
        if not keep:
            self._reset_log(snapshot)
        self._configurations.rebased(snapshot.configuration, index, keep_later=keep)
        self._restore_from(snapshot)
        if before.get(self.node_id) is not None and self.configuration.get(self.node_id) is None:
            self._effects.removed = True
        offer = self._offer
        if offer is not None and offer.index <= self.commit_index:
            self._verified_index = max(self._verified_index, offer.index)
        self._acked_index = LogIndex(0)
        self._ack_wanted = keep  # otherwise when the reset is durable

    def _restore_from(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.commit_index = max(self.commit_index, snapshot.index)
        self.applied_index = self._handed_index = snapshot.index
        self._unapplied.clear()
        self._unapplied_bytes = 0
        self._fetching_committed = False
        self._fetching_from = None
        self._quarantined = False
        self._effects.configuration = self.configuration
        self._effects.state_changed = True

    def snapshot_failed(self, now_ms: float) -> None:
        """Fetching or installing failed; the leader's next offer starts it anew."""
        self._advance_clock(now_ms)
        self._fetching_from = None

    def request_snapshot(self) -> None:
        """The state machine here is not to be trusted: hand out nothing, lead no more, until one is installed."""
        self._quarantined = True
        self._fetching_from = None
        if self.state is not RaftState.FOLLOWER:
            self._become_follower(self.term, None)
        self._effects.state_changed = True


def _check_entries(request: AppendRequest) -> list[Configuration]:
    """The configurations among the entries. Raises MalformedMessage when the request contradicts itself, and
    UnknownFormat; nothing was done then."""
    index, term = request.prev_index, request.prev_term
    configurations: list[Configuration] = []
    sound = 0 <= index < 2**62 and 0 <= term <= request.term and (term > 0) == (index > 0)
    for entry in request.entries:
        index = LogIndex(index + 1)
        sound = sound and entry.index == index and entry.term > 0 and term <= entry.term <= request.term
        term = entry.term
        if entry.kind is EntryKind.CONFIGURATION:
            configurations.append(decode_configuration(entry))
    if not sound:
        raise MalformedMessage(
            f"append request of term {request.term} after ({request.prev_index}, {request.prev_term}) with "
            f"{len(request.entries)} entries contradicts itself",
            what="append request",
        )
    return configurations
