"""What the consensus core wants done, in the order in which the host must do it.

ORDER, per Effects: (1) send `messages`; (2) hand `journal_reset`, `hard_state`, `truncate_from`, `entries` to the
journal as ONE batch, in that order; (3) WHEN THAT BATCH IS DURABLE send `messages_when_durable` and
call `core.persisted(token)`; (4) hand `committed` to the state machine; (5) answer reads and proposals.
Batches become durable in the order submitted; `core.persisted` may come late, and then for several at once, as long
as `core.disk_may_wait`.

(1) and (2) may change places: neither makes anything durable, and what reveals something of this batch or of an
earlier one that is not durable yet is in `messages_when_durable`, or not in these Effects at all (durability.py).
What remains in `messages` are a leader's entries, which followers may have before its own disk (thesis 10.2.1: the
leader counts itself like any other, once durable), and what rests on durable batches alone. Sending goes first
because a follower's answer takes longest, and the journal thread competes with us from the moment it is woken.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from dqlite_py.model import Configuration, Entry, HardState, LogIndex, NodeId, Snapshot, Term
from dqlite_py.raft.messages import Message, SnapshotOffer


class RaftState(enum.Enum):
    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


@dataclass(frozen=True, slots=True)
class FetchEntries:
    """A slow follower needs entries that left the cache: read them, then `core.entries_fetched`."""

    peer: NodeId
    first_index: LogIndex
    bytes_max: int


@dataclass(slots=True)
class Effects:
    token: int = (
        0  # pass to core.persisted when the journal batch of this Effects is durable; 0: nothing to persist
    )
    journal_reset: Snapshot | None = None  # drop the whole log, continue after snapshot.index
    hard_state: HardState | None = None
    truncate_from: LogIndex | None = None  # drop entries with index >= this
    entries: list[Entry] = field(default_factory=list)
    messages: list[tuple[NodeId, Message]] = field(default_factory=list)
    messages_when_durable: list[tuple[NodeId, Message]] = field(default_factory=list)
    committed: list[Entry] = field(default_factory=list)  # in index order, each exactly once per process life
    fetch: list[FetchEntries] = field(default_factory=list)
    fetch_committed: tuple[LogIndex, LogIndex] | None = (
        None  # committed but not cached: read [first, last], core.committed_fetched
    )
    snapshot_offer: SnapshotOffer | None = None  # follower: fetch and install, then core.install_snapshot
    reads_ready: list[tuple[int, LogIndex]] = field(default_factory=list)  # (read id, read index)
    reads_failed: list[int] = field(default_factory=list)  # not the leader any more: retry elsewhere
    state_changed: bool = False  # state, term, leader or configuration changed: look at the core's properties
    became_leader: Term | None = None
    lost_leadership: bool = False
    configuration: Configuration | None = (
        None  # the configuration in force changed (appended, rolled back or installed)
    )
    removed: bool = False  # a committed configuration does not contain this node
    lost_data: list[NodeId] = field(
        default_factory=list
    )  # peers found to have forgotten entries they had acknowledged

    @property
    def has_batch(self) -> bool:
        """True when there is something for the journal."""
        return bool(
            self.entries
            or self.hard_state is not None
            or self.truncate_from is not None
            or self.journal_reset is not None
        )

    def __bool__(self) -> bool:
        return bool(
            self.token
            or self.messages
            or self.messages_when_durable
            or self.committed
            or self.fetch
            or self.fetch_committed
            or self.snapshot_offer
            or self.reads_ready
            or self.reads_failed
            or self.state_changed
            or self.became_leader
            or self.lost_leadership
            or self.configuration
            or self.removed
            or self.lost_data
        )
