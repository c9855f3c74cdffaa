"""Raft messages as records. Pure data; wire/peer.py gives their bytes.

Every message names its sender and the sender's term; the cluster id is bound to the connection by the
handshake. `round` numbers the leader's heartbeat rounds (for read index and check-quorum, thesis 6.4).
Named tuples, not dataclasses: two to four of them are made per write.
"""

from __future__ import annotations

from typing import NamedTuple

from dqlite_py.model import Configuration, Entry, LogIndex, NodeId, Term


class VoteRequest(NamedTuple):
    """RequestVote (paper figure 2); pre-vote (thesis 9.6) when `pre`: `term` is then the one it would use."""

    sender: NodeId
    term: Term
    pre: bool
    last_index: LogIndex
    last_term: Term
    transfer: bool  # campaign asked for by the leader: passes stickiness


class VoteReply(NamedTuple):
    """`term` is the voter's own term; `for_term` repeats the request's: late replies are recognised."""

    sender: NodeId
    term: Term
    pre: bool
    for_term: Term
    granted: bool


class AppendRequest(NamedTuple):
    """AppendEntries; a heartbeat when `entries` is empty."""

    sender: NodeId
    term: Term
    prev_index: LogIndex
    prev_term: Term
    entries: tuple[Entry, ...]
    commit_index: LogIndex
    round: int


class AppendReply(NamedTuple):
    """Answer to AppendRequest and SnapshotOffer.

    success: `match_index` = last index known to match this term's leader AND durable here.
    reject: the log does not match at `prev_index`; `hint_index`/`hint_term`: where the leader may look next
    (last index whose term could match, as in etcd's findConflictByTerm).
    `round`: the request's, or a later one seen from the same leader; 0 when a request of an older term is refused:
    that tells the sender nothing but `term`.
    `needs_snapshot`: the state machine here must be replaced (divergence), whatever the log holds.
    """

    sender: NodeId
    term: Term
    reject: bool
    prev_index: LogIndex
    match_index: LogIndex
    hint_index: LogIndex
    hint_term: Term
    round: int
    needs_snapshot: bool


class SnapshotOffer(NamedTuple):
    """The leader no longer has the entries: fetch a snapshot at `index` or later from it (by RPC)."""

    sender: NodeId
    term: Term
    index: LogIndex  # type: ignore[assignment]  # hides tuple.index, which nobody needs
    snapshot_term: Term
    configuration: Configuration
    round: int


class TimeoutNow(NamedTuple):
    """Leadership transfer (thesis 3.10): campaign at once."""

    sender: NodeId
    term: Term


Message = VoteRequest | VoteReply | AppendRequest | AppendReply | SnapshotOffer | TimeoutNow
