"""RaftCore with one rule taken away, each: what the simulation and the directed tests must notice.

The product has no switches for this: every mutant overrides one small method. Fault ids as in RaftCore's comments.
"""

from __future__ import annotations

from collections.abc import Sequence

from dqlite_py.model import Entry, LogIndex, NodeId, Role, Snapshot
from dqlite_py.raft.core import RaftCore
from dqlite_py.raft.effects import RaftState
from dqlite_py.raft.messages import AppendReply, AppendRequest, Message, SnapshotOffer, VoteReply, VoteRequest
from dqlite_py.raft.progress import Progress


class TruncatesMatching(RaftCore):
    """RF-1: everything after prev_index is deleted before the new entries are added."""

    def _first_missing(self, prev_index: LogIndex, entries: Sequence[Entry]) -> LogIndex | None:
        after = LogIndex(prev_index + 1)
        if self.log.base_index < after <= self.log.last_index:
            self.log.truncate(after)
            self._durability.truncated(after)
            self._effects.entries = [e for e in self._effects.entries if e.index < after]
            self._effects.truncate_from = after
            self._configurations.truncated(after)
            self._verified_index = min(self._verified_index, prev_index)
        return super()._first_missing(prev_index, entries)


class CountsStaleAcks(RaftCore):
    """RF-3: acknowledgements given to an earlier term's leader count in this term."""

    def _is_current_reply(self, reply: AppendReply) -> bool:
        return True


class CountsStaleGrants(RaftCore):
    """RF-3: grants given to an earlier candidacy count in this one."""

    def _is_current_grant(self, reply: VoteReply) -> bool:
        return self.state is (RaftState.PRE_CANDIDATE if reply.pre else RaftState.CANDIDATE)


class CountsDuplicateVotes(RaftCore):
    """RF-4: votes are a counter."""

    def _count_vote(self, voter: NodeId) -> None:
        fresh = next((v for v in sorted(self.configuration.voters) if v not in self._votes), voter)
        super()._count_vote(fresh if voter in self._votes else voter)


class AcksBeforeDurable(RaftCore):
    """RF-2: what is only in memory is acknowledged."""

    def _durable_match(self) -> LogIndex:
        return self._verified_index

    def _on_append_request(self, request: AppendRequest) -> None:
        super()._on_append_request(request)
        self._ack_wanted = True


class CountsItselfBeforeDurable(RaftCore):
    """RF-2: the leader counts entries that its own disk does not have yet."""

    def _own_match(self) -> LogIndex:
        return self.log.last_index


class AcksUnverified(RaftCore):
    """RF-7: everything durable is acknowledged, though it may be another leader's."""

    def _durable_match(self) -> LogIndex:
        return self._durability.durable_index


class VotesBeforeDurable(RaftCore):
    """RF-5: votes and terms are told before they are on disk."""

    def _send_durable(self, peer: NodeId, message: Message) -> None:
        self._effects.messages.append((peer, message))


class CommitsOnOffer(RaftCore):
    """RF-6: the snapshot offer moves the commit index."""

    def _on_snapshot_offer(self, offer: SnapshotOffer) -> None:
        super()._on_snapshot_offer(offer)
        if offer.term == self.term:
            self._commit_to(min(offer.index, self.log.last_index))


class CommitsOldTerms(RaftCore):
    """Paper figure 8: entries of earlier terms are committed by counting."""

    def _may_commit(self, index: LogIndex) -> bool:
        return True


class CommitsUnverified(RaftCore):
    """The leader's commit index is believed beyond what was compared with its log."""

    def _on_append_request(self, request: AppendRequest) -> None:
        super()._on_append_request(request)
        if request.term == self.term:
            self._commit_to(min(request.commit_index, self.log.last_index))


class VotesForShortLogs(RaftCore):
    """Paper 5.4.1 left out: votes go to candidates without the committed entries."""

    def _is_up_to_date(self, request: VoteRequest) -> bool:
        return True


class NoPendingGuard(RaftCore):
    """RF-9: several configuration changes under way."""

    def _check_change_may_start(self) -> None:
        return


class NoRollback(RaftCore):
    """RF-9: a truncated configuration stays in force."""

    def _drop_conflict(self, index: LogIndex, entry: Entry) -> None:
        kept = self._configurations.latest
        super()._drop_conflict(index, entry)
        self._configurations.latest = kept


class CountsLearners(RaftCore):
    """RF-9: stand-bys count towards the commit quorum."""

    def _quorum_index(self) -> LogIndex:
        members = [m.id for m in self.configuration.members if m.role is not Role.SPARE]
        matches = sorted(
            (
                self._own_match()
                if m == self.node_id
                else p.match_index
                if (p := self._progress.get(m))
                else 0
                for m in members
            ),
            reverse=True,
        )
        return LogIndex(matches[len(self.configuration.voters) // 2])


class ReadsWithoutQuorum(RaftCore):
    """RF-12: reads are served on the leader's word alone."""

    def _echoed_round(self, voter: NodeId) -> int:
        return self._round


class ReadsBeforeOwnTermCommit(RaftCore):
    """RF-12: a new leader serves reads before it knows what is committed."""

    def _own_term_committed(self) -> bool:
        return True


class HandsOutBeforeDurable(RaftCore):
    """Committed entries reach the state machine before this node's own disk has them."""

    def _hand_out_committed(self) -> None:
        durable = self._durability.durable_index
        self._durability.durable_index = self.log.last_index
        super()._hand_out_committed()
        self._durability.durable_index = durable


class SnapshotDropsSuffix(RaftCore):
    """Installing a snapshot drops entries behind it that this node had acknowledged."""

    def install_snapshot(self, snapshot: Snapshot, now_ms: float) -> None:
        super().install_snapshot(snapshot, now_ms)
        if self.log.last_index > snapshot.index:
            self._reset_log(snapshot)


class NoCheckQuorum(RaftCore):
    """RF-11: no check-quorum: a leader without followers leads on."""

    def _has_active_quorum(self) -> bool:
        return True


class NoStickiness(RaftCore):
    """RF-11: any node that campaigns deposes a healthy leader."""

    def _hears_leader(self) -> bool:
        return False


class TrustsLostData(RaftCore):
    """A follower that forgot acknowledged entries counts as if nothing had happened."""

    def _proves_lost_data(self, progress: Progress, reply: AppendReply) -> bool:
        return False


class OwnVoteBeforeDurable(RaftCore):
    """RF-5: a candidate counts its own vote before it is on disk."""

    def _campaign(self, *, pre: bool, transfer: bool = False) -> None:
        super()._campaign(pre=pre, transfer=transfer)
        if self.state is RaftState.CANDIDATE:
            self._count_vote(self.node_id)
