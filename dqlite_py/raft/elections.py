"""Elections: pre-vote, votes, stickiness, check-quorum, leadership transfer (thesis 3.10, 4.2.3, 6.4, 9.6).

Layer above following.py; called by core.py. Time comes with tick; a tick is also where a leader notices that
it lost its quorum.
"""

from __future__ import annotations

from dqlite_py.errors import MembershipRefused, NotLeader
from dqlite_py.model import NodeId, Term
from dqlite_py.raft.effects import RaftState
from dqlite_py.raft.following import FollowerPart
from dqlite_py.raft.messages import TimeoutNow, VoteReply, VoteRequest
from dqlite_py.raft.progress import Progress, ProgressState
from dqlite_py.raft.quorum import is_quorum
from dqlite_py.raft.state import NOBODY


class ElectionPart(FollowerPart):
    """INVARIANT: `_votes` holds ids of distinct members that granted this (pre-)candidacy; our own vote is
    in it only when it is durable."""

    def _init_election_part(self) -> None:
        self._votes: set[NodeId] = set()
        self._transfer: tuple[NodeId, float] | None = None  # (target, give up at)

    # -- time --------------------------------------------------------------------------------------

    def tick(self, now_ms: float) -> None:
        """Let time pass: elections, heartbeats, check-quorum. Call every limits.TICK_MS."""
        self._advance_clock(now_ms)
        stalled = self._has_stalled()
        if self.state is RaftState.LEADER:
            self._tick_leader(stalled)
        elif stalled:
            # A stall of this process is no evidence against the leader: its messages wait in our buffers.
            self._deadline = max(self._deadline, self._now + self.settings.election_min_ms / 2)
        elif self._now >= self._deadline:
            self._restart_election_timer()
            if self._may_campaign():
                self._campaign(pre=True)
            elif self.leader_id is not None:
                self._become_follower(self.term, None)  # nobody leads any more, and it will not be us

    def _has_stalled(self) -> bool:
        """True when the last tick is long ago; not twice in a row, or a slow process would never elect."""
        late = self._now - self._last_tick_ms > self.settings.election_min_ms / 2
        self._last_tick_ms = self._now
        stalled = late and not self._stalled_before
        self._stalled_before = stalled
        return stalled

    def _tick_leader(self, stalled: bool) -> None:
        if not stalled and not self._has_active_quorum():
            self._become_follower(self.term, None)  # check-quorum: somebody else may lead by now
            return
        if self._transfer is not None and self._now >= self._transfer[1]:
            self._transfer = None
        if self._now >= self._heartbeat_due_ms:
            self._want_heartbeat()
            self._hurry_transfer()
        self._push_commit()
        self._drop_departed()

    # -- campaigning -------------------------------------------------------------------------------

    def _may_campaign(self) -> bool:
        """Only voters lead, and only with a state machine to be trusted.

        Also who is one no more by a change that may not be committed (thesis 4.2.2): perhaps nobody else has that
        change, and then nobody that still counts us has a log for which we may vote. It leads until the change is
        committed.
        """
        return not self._quarantined and self._configurations.has_voted_since(self.node_id, self.commit_index)

    def campaign(self, now_ms: float) -> None:
        """Stand for election now, beginning with the pre-vote; nothing happens if this node may not lead.

        For tests: within the minimum election time-out of hearing a leader it would break that one's lease.
        """
        self._advance_clock(now_ms)
        if self.state is not RaftState.LEADER and self._may_campaign():
            self._campaign(pre=True)

    def _campaign(self, *, pre: bool, transfer: bool = False) -> None:
        self._restart_election_timer()
        self.state = RaftState.PRE_CANDIDATE if pre else RaftState.CANDIDATE
        self.leader_id = None
        self._effects.state_changed = True
        self._votes.clear()
        if not pre:
            self._set_hard_state(Term(self.term + 1), self.node_id)
        term = Term(self.term + 1) if pre else self.term
        last_index, last_term = self.log.last_index, self.log.last_term
        request = VoteRequest(self.node_id, term, pre, last_index, last_term, transfer)
        for voter in sorted(self._configurations.voters - {self.node_id}):
            self._send_durable(voter, request)
        if pre:
            self._count_vote(self.node_id)

    def _own_vote_durable(self) -> None:
        """Our hard state reached the disk: a candidate's own vote counts from now on."""
        if self.state is RaftState.CANDIDATE and self._durability.hard_state_durable:
            self._count_vote(self.node_id)

    def _count_vote(self, voter: NodeId) -> None:
        """Count a grant. A set: duplicates count once; is_quorum: members only (RF-4)."""
        self._votes.add(voter)
        if not is_quorum(self._configurations.voters, self._votes - self._lost_data):
            return
        if self.state is RaftState.PRE_CANDIDATE:
            self._campaign(pre=False)
        else:
            self._transfer = None
            self._leadership_begins()

    # -- voting ------------------------------------------------------------------------------------

    def _on_vote_request(self, request: VoteRequest) -> None:
        if request.term < self.term:
            self._answer_vote(request, False)
            return
        if not request.transfer and self._hears_leader():
            return  # stickiness: as if it had not arrived, so that no term rises (RF-11)
        if request.pre:
            self._answer_vote(request, request.term > self.term and self._is_up_to_date(request))
            return
        if request.term > self.term:
            self._become_follower(request.term, None)
        granted = self._may_vote_for(request.sender) and self._is_up_to_date(request)
        if granted:
            if self.voted_for == NOBODY:
                self._set_hard_state(self.term, request.sender)
            if self.state is RaftState.PRE_CANDIDATE:
                self._become_follower(self.term, None)
            self._restart_election_timer()
        self._answer_vote(request, granted)

    def _hears_leader(self) -> bool:
        """True when leading, or within the minimum election timeout of hearing a leader (thesis 4.2.3).

        Whether that one leads still does not matter, nor which term this is by now: its lease rests on our silence. The
        same holds after a restart, in which we forgot whom we heard.
        """
        if self.state is RaftState.LEADER:
            return True
        return self._now - self._contact_ms < self.settings.election_min_ms

    def _may_vote_for(self, candidate: NodeId) -> bool:
        """One vote per term; the same candidate may hear of it again. Membership is for the candidate to
        count:
        our configuration may be older than the one it is elected by (thesis 4.1)."""
        if self.voted_for == candidate:
            return True
        return self.voted_for == NOBODY and self.leader_id is None

    def _is_up_to_date(self, request: VoteRequest) -> bool:
        """Paper 5.4.1: the candidate's log ends at least where ours does."""
        return (request.last_term, request.last_index) >= (self.log.last_term, self.log.last_index)

    def _answer_vote(self, request: VoteRequest, granted: bool) -> None:
        reply = VoteReply(self.node_id, self.term, request.pre, request.term, granted)
        self._send_durable(request.sender, reply)

    def _on_vote_reply(self, reply: VoteReply) -> None:
        if reply.sender not in self._configurations.voters:
            return
        if reply.term > self.term:
            self._become_follower(reply.term, None)
            return
        if reply.granted and self._is_current_grant(reply):
            self._count_vote(reply.sender)

    def _is_current_grant(self, reply: VoteReply) -> bool:
        """A grant counts for the candidacy it names only (RF-3)."""
        if reply.pre:
            return self.state is RaftState.PRE_CANDIDATE and reply.for_term == self.term + 1
        return self.state is RaftState.CANDIDATE and reply.for_term == self.term

    # -- leadership transfer -----------------------------------------------------------------------

    def transfer_leadership(self, target: NodeId | None, now_ms: float) -> NodeId:
        """Hand leadership to `target`, or to the lightest follower that is near, of several the furthest; returns whom.

        Takes no proposals meanwhile; gives up after the maximum election timeout. Raises NotLeader,
        MembershipRefused.
        """
        self._advance_clock(now_ms)
        if self.state is not RaftState.LEADER:
            raise NotLeader("only the leader can hand over leadership", leader_id=self.leader_id)
        if self._transfer is not None and target in (None, self._transfer[0]):
            return self._transfer[0]
        chosen = self._transfer_target(target)
        self._has_handed_over = True  # BEFORE a TimeoutNow leaves, which may arrive at any time in this term
        self._void_lease()
        self._transfer = (chosen, self._now + self.settings.election_max_ms)
        self._feed_wanted = True
        self._hurry_transfer()
        return chosen

    def _transfer_target(self, target: NodeId | None) -> NodeId:
        able = [
            progress
            for progress in self._progress.values()
            if self._is_voter(progress.id) and self._may_take_over(progress)
        ]
        if target is not None:
            able = [progress for progress in able if progress.id == target]
        if self._transfer is not None or not able:
            raise MembershipRefused(
                f"leadership cannot go to {target if target is not None else 'anybody'} now: "
                + ("another transfer is under way" if self._transfer is not None else "no reachable voter"),
            )
        lag = self.settings.promote_lag_entries_max
        near = [progress for progress in able if progress.match_index + lag >= self.log.last_index]
        weights = {member.id: member.weight for member in self.configuration.members}
        return max(near or able, key=lambda p: (-weights.get(p.id, 0), p.match_index, p.id)).id

    def _may_take_over(self, progress: Progress) -> bool:
        return (
            progress.state is not ProgressState.LOST_DATA
            and progress.connected
            and not progress.needs_snapshot
        )

    def _hurry_transfer(self) -> None:
        """Tell the target to campaign once its log is as long as ours; repeated with heartbeats."""
        if self._transfer is None:
            return
        progress = self._progress.get(self._transfer[0])
        if progress is None or not self._is_voter(progress.id):
            self._transfer = None
        elif progress.match_index == self.log.last_index:
            self._effects.messages.append((progress.id, TimeoutNow(self.node_id, self.term)))

    def _follower_advanced(self, progress: Progress) -> None:
        if self._transfer is not None and self._transfer[0] == progress.id:
            self._hurry_transfer()

    def _leadership_ended(self) -> None:
        super()._leadership_ended()
        self._transfer = None

    def _on_timeout_now(self, message: TimeoutNow) -> None:
        """The leader hands over: campaign at once, past pre-vote and stickiness."""
        if message.term == self.term and message.sender == self.leader_id and self._may_campaign():
            self._campaign(pre=False, transfer=True)
