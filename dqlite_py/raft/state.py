"""The state that all parts of the consensus core share, and the few transitions all of them make.

`CoreState` is the lowest of the layers that make up RaftCore: state <- counting <- replication <- following <-
elections <- core. Each layer may call downwards, and upwards only through hooks that are empty methods in the
lower class. Loop thread only; no I/O, no clock, no randomness but the one given.
"""

from __future__ import annotations

from collections import deque
from random import Random

from dqlite_py.errors import RaftInvariantBroken
from dqlite_py.model import Configuration, HardState, LogIndex, NodeId, Snapshot, Term
from dqlite_py.raft.durability import Durability
from dqlite_py.raft.effects import Effects, RaftState
from dqlite_py.raft.log import LogStart, RaftLog
from dqlite_py.raft.membership import ConfigurationHistory
from dqlite_py.raft.messages import Message, SnapshotOffer
from dqlite_py.raft.settings import RaftSettings

NOBODY = NodeId(0)


class CoreState:
    """Log, hard state, configuration, commit and hand-out positions, and the effects being built.

    INVARIANTS: handed_index <= commit_index <= last_index; term >= the log's last term; commit_index never
    decreases; what is handed out is durable here.
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
        self.node_id = node_id
        self.settings = settings
        self.term = hard_state.term
        self.voted_for = hard_state.voted_for
        self.state = RaftState.FOLLOWER
        self.leader_id: NodeId | None = None
        self.snapshot = snapshot
        self.log = RaftLog(log, settings.log_cache_bytes_max)
        self._random = random
        self._now = now_ms
        self._effects = Effects()
        self._durability = Durability(self.log.last_index)
        self._configurations = ConfigurationHistory(
            snapshot.configuration,
            [c for c in log.configurations if c.index > snapshot.index],
            [c for c in log.configurations if c.index <= snapshot.index],
        )
        if not self.log.matches(snapshot.index, snapshot.term):
            self._restart_log_after(snapshot)
        self.applied_index = max(applied_index, snapshot.index)
        # NEVER trust a stored commit index (RF-2): only what the state machine holds is known committed.
        self.commit_index = self.applied_index
        self._handed_index = self.applied_index
        self._check_start()
        # -- as a follower; forgotten with the term
        self._verified_index = LogIndex(0)  # our log equals this term's leader's up to here
        self._seen_round = 0
        self._offer: SnapshotOffer | None = None
        # When a leader was last heard, of whatever term. One that we heard before a restart counts on us still.
        self._contact_ms = now_ms if hard_state.term > 0 else float("-inf")
        self._quarantined = False
        self._lost_data: set[NodeId] = set()  # peers that forgot entries they had acknowledged
        self._last_tick_ms = now_ms
        self._stalled_before = False  # the last tick came late: what is read now may have waited for long
        self._heard = (LogIndex(0), float("-inf"))  # a commit index of the leader's, and when it was heard
        self._told_commit_index = LogIndex(0)  # by the leader that spoke last
        self._fresh_ms = float("-inf")
        self._informed_term = Term(0)  # in which the leader was found to know what is committed
        # -- hand-out to the state machine
        self._unapplied: deque[tuple[LogIndex, int]] = deque()
        self._unapplied_bytes = 0
        self._fetching_committed = False
        self._deadline = 0.0
        self._restart_election_timer()

    def _check_start(self) -> None:
        if self.applied_index > self.log.last_index or self.term < self.log.last_term:
            raise RaftInvariantBroken(
                f"at start: applied index {self.applied_index}, log {self.log.base_index}..{self.log.last_index}, "
                f"last log term {self.log.last_term}, hard state term {self.term}, snapshot {self.snapshot.index}"
            )

    def _restart_log_after(self, snapshot: Snapshot) -> None:
        """The state was installed, the journal not yet reset when the process ended."""
        if snapshot.index < self.log.base_index:
            raise RaftInvariantBroken(
                f"the log begins after entry {self.log.base_index}, the state ends at {snapshot.index}"
            )
        self._reset_log(snapshot)

    # -- what status and the node read -------------------------------------------------------------

    @property
    def is_leader(self) -> bool:
        return self.state is RaftState.LEADER

    @property
    def last_index(self) -> LogIndex:
        return self.log.last_index

    @property
    def first_index(self) -> LogIndex:
        return self.log.first_index

    @property
    def durable_index(self) -> LogIndex:
        return self._durability.durable_index

    @property
    def configuration(self) -> Configuration:
        """The configuration in force: the latest in log or snapshot, committed or not."""
        return self._configurations.latest

    @property
    def committed_configuration(self) -> Configuration:
        return self._configurations.at(self.commit_index)

    @property
    def format_in_log(self) -> int:
        """The newest format of a configuration that a member may be sent."""
        return self._configurations.format

    @property
    def is_voter(self) -> bool:
        return self.node_id in self._configurations.voters

    @property
    def was_member(self) -> bool:
        """Whether snapshot or log still hold a configuration with this node: False for who is just joining."""
        return self._configurations.holds(self.node_id)

    @property
    def is_quarantined(self) -> bool:
        """True while the state machine here waits to be replaced by a snapshot."""
        return self._quarantined

    @property
    def fresh_ms(self) -> float:
        """When a follower last heard of a commit index that is applied here by now. Any thread."""
        index, heard_ms = self._heard
        return heard_ms if self.applied_index >= index > 0 else self._fresh_ms

    @property
    def is_behind(self) -> bool:
        """A leader was heard to have committed what this node's log does not hold."""
        return self._told_commit_index > self.log.last_index

    def snapshot_at(self, index: LogIndex) -> Snapshot:
        """The identity of the state at `index`, which the log must hold and which must be committed."""
        if index > self.commit_index:
            raise RaftInvariantBroken(f"snapshot at {index} asked for, committed is {self.commit_index}")
        return Snapshot(index, self.log.term_at(index), self._configurations.at(index))

    def _advance_clock(self, now_ms: float) -> None:
        """Take the caller's clock; it never runs backwards."""
        if now_ms > self._now:
            self._now = now_ms

    # -- transitions every part makes --------------------------------------------------------------

    def _is_voter(self, node_id: NodeId) -> bool:
        return node_id in self._configurations.voters

    def _set_hard_state(self, term: Term, voted_for: NodeId) -> None:
        """Change term or vote; every message that tells of it waits for the disk (RF-5)."""
        if term < self.term or (term == self.term and self.voted_for not in (NOBODY, voted_for)):
            raise RaftInvariantBroken(
                f"hard state ({self.term}, vote {self.voted_for}) would become ({term}, vote {voted_for})"
            )
        if term != self.term:
            self._verified_index = LogIndex(0)
            self._seen_round = 0
            self._offer = None
            self._effects.state_changed = True
        self.term, self.voted_for = term, voted_for
        self._effects.hard_state = HardState(term, voted_for)
        self._durability.hard_state_changed()

    def _become_follower(self, term: Term, leader_id: NodeId | None) -> None:
        """Enter `term` (ours or a newer one) as a follower; any leadership or candidacy ends."""
        if term > self.term:
            self._set_hard_state(term, NOBODY)
        if self.state is RaftState.LEADER:
            self._effects.lost_leadership = True
            self._leadership_ended()
        if self.state is not RaftState.FOLLOWER:
            self._restart_election_timer()
        if self.state is not RaftState.FOLLOWER or self.leader_id != leader_id:
            self._effects.state_changed = True
        self.state = RaftState.FOLLOWER
        self.leader_id = leader_id

    def _restart_election_timer(self) -> None:
        """A fresh random timeout (paper 5.2): split votes do not repeat, and one round suffices (RF-21)."""
        self._timeout_ms = self._random.uniform(self.settings.election_min_ms, self.settings.election_max_ms)
        self._deadline = self._now + self._timeout_ms

    def _send_durable(self, peer: NodeId, message: Message) -> None:
        """Send when the term and vote it reveals are durable."""
        self._durability.send(self._effects, peer, message)

    def _reset_log(self, snapshot: Snapshot) -> None:
        """Replace the whole log by the state at `snapshot`."""
        self.log.reset(snapshot.index, snapshot.term)
        self._durability.reset()
        self._verified_index = LogIndex(0)
        self._effects.journal_reset = snapshot
        self._effects.truncate_from = None
        self._effects.entries.clear()

    def _commit_to(self, index: LogIndex) -> None:
        """Entries up to `index` are committed."""
        before = self.commit_index
        if index <= before:
            return
        self.commit_index = index
        if self._configurations.latest.index > before:
            self._configurations_committed(before)

    def _configurations_committed(self, committed_before: LogIndex) -> None:
        """A configuration may have been committed; tell a node that it removed (thesis 4.2.2)."""
        old, new = self._configurations.at(committed_before), self.committed_configuration
        if old is new:
            return
        self._effects.state_changed = True
        self._configuration_took_hold()
        # A re-added node reads its own removal on the way: a newer entry that has us again must count.
        still_in = new.get(self.node_id) or self.configuration.get(self.node_id)
        if old.get(self.node_id) is not None and still_in is None:
            self._effects.removed = True

    # -- hooks that upper layers fill --------------------------------------------------------------

    def _configuration_took_hold(self) -> None:
        """A configuration was committed: a leader outside it has to go."""

    def _leadership_ended(self) -> None:
        """Drop what only a leader has."""
