"""What a leader counts: durable copies for commit, echoed rounds for reads and lease, recent answers for check-quorum.

Layer between state.py and replication.py. Counts voters of the configuration in force, each once, and never a
follower that lost data.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from dqlite_py.model import LogIndex, NodeId
from dqlite_py.raft.effects import RaftState
from dqlite_py.raft.progress import Progress, ProgressState
from dqlite_py.raft.quorum import reached_by_quorum
from dqlite_py.raft.reads import ReadQueue
from dqlite_py.raft.state import CoreState

NO_LEASE_MS: Final = float("-inf")


class CountingPart(CoreState):
    """INVARIANT: the commit index moves by counting only, and only to entries of this term.

    `lease_until_ms`: until this moment of its own clock nobody else leads (thesis 6.4.1). May be read by any thread:
    first the clock, then this, then the commit index.
    """

    def _init_counting_part(self) -> None:
        self._progress: dict[NodeId, Progress] = {}
        self._round = 0  # heartbeat rounds of this process, never reused
        self._reads = ReadQueue()
        self._feed_wanted = False  # followers may be sent something
        self._rounds_sent: deque[tuple[int, float]] = (
            deque()
        )  # (round, when it began), none of them confirmed yet
        self._has_handed_over = False  # in this term
        self.lease_until_ms = NO_LEASE_MS
        self._furthest_match = LogIndex(0)  # what the quickest follower has acknowledged in this term
        self._uncommitted: deque[tuple[LogIndex, int]] = deque()  # (index, payload bytes) proposed by us
        self.uncommitted_bytes = 0

    def _advance_commit(self) -> None:
        """Commit what a quorum of voters holds durably, if it is of our term (paper 5.4.2)."""
        index = self._quorum_index()
        if index > self.commit_index and self._may_commit(index):
            self._commit_to(index)
            uncommitted = self._uncommitted
            while uncommitted and uncommitted[0][0] <= index:
                self.uncommitted_bytes -= uncommitted.popleft()[1]

    @property
    def disk_may_wait(self) -> bool:
        """True when nothing could follow from this node's disk having more: it leads, and no follower's disk is ahead.

        Then `persisted` may come together with a follower's next message, which decides; without one, at the next tick.
        """
        return (
            self.state is RaftState.LEADER
            and self._furthest_match <= self._durability.durable_index
            and len(self._configurations.voters) > 1
        )

    def _may_commit(self, index: LogIndex) -> bool:
        return self.log.term_at(index) == self.term

    def _quorum_index(self) -> LogIndex:
        matches: list[int] = []
        for voter in self._configurations.voters:
            if voter == self.node_id:
                matches.append(self._own_match())
                continue
            progress = self._progress.get(voter)
            if progress is None or progress.state is ProgressState.LOST_DATA:
                matches.append(0)
            else:
                matches.append(progress.match_index)
        return LogIndex(reached_by_quorum(matches))

    def _counted(self, voter: NodeId) -> Progress | None:
        """What is known of `voter`, if its word counts."""
        progress = self._progress.get(voter)
        return None if progress is None or progress.state is ProgressState.LOST_DATA else progress

    def _own_match(self) -> LogIndex:
        """The leader counts itself only for what its own disk has."""
        return self._durability.durable_index

    def _confirm_rounds(self) -> None:
        """Serve the reads and renew the lease that a quorum's answers allow."""
        rounds = [
            self._round if voter == self.node_id else self._echoed_round(voter)
            for voter in self._configurations.voters
        ]
        confirmed = reached_by_quorum(rounds)
        self._renew_lease(confirmed)
        if self._reads.waiting:
            self._effects.reads_ready.extend(self._reads.round_confirmed(confirmed))
        if self._reads.wants_round:
            self._feed_wanted = True

    def _renew_lease(self, confirmed: int) -> None:
        """Every quorum has a member that heard of round `confirmed` after the round began, and that votes for nobody
        until the minimum election time-out has passed since (elections.py): until then nobody else leads.

        Not when leadership was to be handed over: that passes by this promise, perhaps late.
        """
        began_ms = None
        sent = self._rounds_sent
        while sent and sent[0][0] <= confirmed:
            began_ms = sent.popleft()[1]
        if (
            began_ms is not None
            and not self._has_handed_over
            and self._own_term_committed()
            and self.node_id in self._configurations.voters
        ):
            self.lease_until_ms = began_ms + self.settings.lease_ms

    def _void_lease(self) -> None:
        """Only rounds that begin from now on count."""
        self.lease_until_ms = NO_LEASE_MS
        self._rounds_sent.clear()

    def _echoed_round(self, voter: NodeId) -> int:
        progress = self._counted(voter)
        return 0 if progress is None else progress.round

    def _has_active_quorum(self) -> bool:
        """True when a quorum of voters answered within the maximum election timeout."""
        oldest = self._now - self.settings.election_max_ms
        return self._active_voters(self._configurations.voters, oldest) * 2 > len(self._configurations.voters)

    def _active_voters(self, voters: frozenset[NodeId], oldest_ms: float) -> int:
        active = 0
        for voter in voters:
            progress = self._counted(voter)
            if voter == self.node_id or (progress is not None and progress.last_reply_ms >= oldest_ms):
                active += 1
        return active

    def _own_term_committed(self) -> bool:
        return self.log.term_at(self.commit_index) == self.term
