"""What a leader knows of one follower, and its flow control. Used by replication.py only; no I/O.

`match_index`: highest index the follower acknowledged as durable and equal to ours (never decreases in a
term). `next_index`: the first index the next message carries. INVARIANT: match_index < next_index.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass
from typing import Final

from dqlite_py.model import LogIndex, NodeId

# A follower whose disk was full for long answers late once; it must not be left alone as long again.
PATIENCE_MAX_MS: Final = 4_000.0


class ProgressState(enum.Enum):
    PROBE = "probe"  # where the logs meet is not known: empty messages ask, one at a time
    REPLICATE = "replicate"  # pipelined within the in-flight window
    SNAPSHOT = "snapshot"  # needs entries we no longer have: offered a snapshot, with the heartbeats
    SPARE = "spare"  # gets heartbeats and no log; its answers say only that it is there
    LOST_DATA = "lost data"  # its log is shorter than what it acknowledged: never counted again


@dataclass(frozen=True, slots=True)
class PeerView:
    """A follower as seen by the leader, for status."""

    id: NodeId
    state: ProgressState
    match_index: LogIndex
    next_index: LogIndex
    last_reply_ms: float
    inflight_bytes: int
    needs_snapshot: bool


class Progress:
    """One follower's replication state; mutable, owned by the leader's core."""

    __slots__ = (
        "commit_sent",
        "connected",
        "departed",
        "departed_ms",
        "fetching",
        "id",
        "inflight",
        "inflight_bytes",
        "last_reply_ms",
        "match_index",
        "match_round",
        "needs_snapshot",
        "next_index",
        "patience_ms",
        "paused",
        "round",
        "since_round",
        "snapshot_index",
        "state",
        "waiting_since_ms",
    )

    def __init__(self, peer: NodeId, next_index: LogIndex, now_ms: float, connected: bool) -> None:
        self.id = peer
        self.state = ProgressState.PROBE
        self.match_index = LogIndex(0)
        self.next_index = next_index
        self.match_round = (
            0  # the leader's round when match_index was learned: later rounds were sent after it
        )
        self.round = 0  # highest heartbeat round echoed
        self.commit_sent = LogIndex(0)
        self.last_reply_ms = now_ms
        self.connected = connected
        self.paused = False  # PROBE: a question is out; heartbeats repeat it
        self.since_round = 0  # REPLICATE: refusals of requests of earlier rounds are of before
        self.waiting_since_ms = (
            now_ms  # since when the oldest in-flight message waits, or the last answer came
        )
        self.patience_ms = 0.0  # how long before what is in flight counts as lost; grows with slow links
        self.fetching = False  # the host is reading entries for this follower
        self.snapshot_index = LogIndex(0)
        self.needs_snapshot = False  # its state machine must be replaced, whatever its log holds
        self.departed = False  # no longer a member that gets the log; fed until it can know
        self.departed_ms: float | None = None  # when that change was committed
        self.inflight: deque[tuple[LogIndex, int]] = deque()  # (last index, bytes) per message
        self.inflight_bytes = 0

    def has_room(self, bytes_max: int, messages_max: int) -> bool:
        return (
            self.state is ProgressState.REPLICATE
            and not self.fetching
            and self.inflight_bytes < bytes_max
            and len(self.inflight) < messages_max
        )

    def sent(self, last_index: LogIndex, size_bytes: int, now_ms: float) -> None:
        """A message with entries up to `last_index` left."""
        if not self.inflight:
            self.waiting_since_ms = now_ms
        self.next_index = LogIndex(last_index + 1)
        self.inflight.append((last_index, size_bytes))
        self.inflight_bytes += size_bytes

    def acknowledge(self, match_index: LogIndex, round_now: int, now_ms: float) -> None:
        """Raise match_index and free the window."""
        self.patience_ms = min(4 * (now_ms - self.waiting_since_ms), PATIENCE_MAX_MS)
        self.waiting_since_ms = now_ms
        self.match_index = match_index
        self.match_round = round_now
        if self.next_index <= match_index:
            self.next_index = LogIndex(match_index + 1)
        inflight = self.inflight
        while inflight and inflight[0][0] <= match_index:
            self.inflight_bytes -= inflight.popleft()[1]

    def gave_up_waiting(self, now_ms: float, patience_min_ms: float) -> bool:
        """True when what is in flight must be lost: a connection keeps it, so this is rare, and costs a resend."""
        patience = max(self.patience_ms, patience_min_ms)
        if not self.inflight or now_ms - self.waiting_since_ms <= patience:
            return False
        self.patience_ms = min(2 * patience, PATIENCE_MAX_MS)
        return True

    def become_probe(self, next_index: LogIndex) -> None:
        self._restart(ProgressState.PROBE, max(next_index, LogIndex(self.match_index + 1)))

    def become_replicate(self, next_index: LogIndex) -> None:
        self._restart(ProgressState.REPLICATE, max(next_index, LogIndex(self.match_index + 1)))

    def become_snapshot(self, index: LogIndex) -> None:
        self.snapshot_index = index
        self._restart(ProgressState.SNAPSHOT, LogIndex(index + 1))

    def become_spare(self) -> None:
        self.departed = False
        self.departed_ms = None
        self._restart(ProgressState.SPARE, self.next_index)

    def become_lost(self) -> None:
        self._restart(ProgressState.LOST_DATA, self.next_index)

    def _restart(self, state: ProgressState, next_index: LogIndex) -> None:
        self.state = state
        self.next_index = next_index
        self.paused = self.fetching = False
        self.inflight.clear()
        self.inflight_bytes = 0

    def view(self) -> PeerView:
        return PeerView(
            self.id,
            self.state,
            self.match_index,
            self.next_index,
            self.last_reply_ms,
            self.inflight_bytes,
            self.needs_snapshot,
        )
