"""The table of marks: rare paths of the product, and how each is seen from outside.

`before(*args)` looks before the call; `after(known, result, *args)` after it, `known` being what `before` returned;
`failed`: the exception that counts. Only positional arguments are looked at.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from dqlite_py.errors import Busy, StorageFull
from dqlite_py.raft.effects import RaftState

LEADER = RaftState.LEADER


@dataclass(frozen=True, slots=True)
class Probe:
    mark: str
    what: str
    owner: str  # "module:Class" or "module"
    function: str
    before: Callable[..., Any] | None = None
    after: Callable[..., bool] | None = None
    failed: type[BaseException] | None = None


def always(*_args: Any) -> bool:
    return True


def true(_known: Any, result: Any, *_args: Any) -> bool:
    return bool(result)


def _wal_is_there(_connection: Any, path: str) -> bool:
    return os.path.exists(path + "-wal") and os.path.getsize(path + "-wal") > 0


def _needs_reset(journal: Any, state: Any) -> bool:
    index, term = state.manifest.index, state.manifest.term
    return bool(index) and (journal.last_index < index or journal.term_at(index) != term)


RAFT = "dqlite_py.raft."
JOURNAL = "dqlite_py.raft.journal."
NODE = "dqlite_py.node."
ENGINE = "dqlite_py.storage.engine"
ELECTIONS = RAFT + "elections:ElectionPart"
FOLLOWING = RAFT + "following:FollowerPart"
LEADING = RAFT + "replication:LeaderPart"
CORE = RAFT + "core:RaftCore"
CHANGELOG = "dqlite_py.storage.changelog.log:ChangeLog"
WAITING = RAFT + "waiting:WaitingProposals"
RPC = RAFT + "rpc:PendingCalls"
TRANSPORT = RAFT + "transport:PeerTransport"

ELECTION_PROBES: Final = (
    Probe("pre-vote refused", "a voter refuses to let a node stand", ELECTIONS, "_on_vote_reply",
          lambda self, reply: reply.pre and not reply.granted),
    Probe("vote refused", "a voter refuses a candidate", ELECTIONS, "_on_vote_reply",
          lambda self, reply: not reply.pre and not reply.granted),
    Probe("stale grant", "a grant of an earlier candidacy arrives", ELECTIONS, "_on_vote_reply",
          lambda self, reply: reply.granted and not self._is_current_grant(reply)),
    Probe("split vote", "a candidate's time is over without a leader", ELECTIONS, "_campaign",
          lambda self: self.state is RaftState.CANDIDATE),
    Probe("stickiness", "a vote request is ignored, the leader is alive", ELECTIONS, "_on_vote_request",
          lambda self, request: request.term >= self.term and not request.transfer and self._hears_leader()),
    Probe("check-quorum step-down", "a leader without a quorum gives up", ELECTIONS, "_tick_leader",
          always, lambda known, result, self, stalled: self.state is not LEADER),
    Probe("leader deposed", "a leader hears of a later term", RAFT + "state:CoreState", "_become_follower",
          lambda self, term, leader: self.state is LEADER and term > self.term),
    Probe("leadership transferred", "a node stands because the leader asked it to", ELECTIONS, "_on_timeout_now",
          always, lambda known, result, self, message: self.state is RaftState.CANDIDATE),
    Probe("transfer given up", "the target did not take over in time", ELECTIONS, "_tick_leader",
          lambda self, stalled: self._transfer is not None,
          lambda known, result, self, stalled: known and self._transfer is None and self.state is LEADER),
    Probe("stall forgiven", "a node that stood still does not blame the leader", ELECTIONS, "_has_stalled", None, true),
    Probe("message held back", "a message waits for an older hard state", RAFT + "durability:Durability", "send",
          lambda self, *_: self._persisted_token < self._hard_token != self._next_token),
    Probe("old leader told", "a message of an earlier term is answered with ours", FOLLOWING, "_refuse_old_term",
          always),
)  # fmt: skip

LOG_PROBES: Final = (
    Probe("log truncated", "a follower drops conflicting entries", FOLLOWING, "_drop_conflict", always),
    Probe("back-tracked by a hint", "the leader steps back over several entries at once", LEADING, "_on_reject",
          lambda self, progress, reply: int(progress.next_index),
          lambda known, result, self, progress, reply: progress.next_index < known - 1),
    Probe("entries received twice", "all entries of a request are there already", FOLLOWING, "_first_missing",
          None, lambda known, result, self, prev, entries: result is None),
    Probe("entries overlap", "some entries of a request are there already", FOLLOWING, "_first_missing",
          None, lambda known, result, self, prev, entries: result is not None and result > prev + 1),
    Probe("stale reply dropped", "an acknowledgement of an earlier term", LEADING, "_on_append_reply",
          lambda self, reply: reply.term < self.term and self.state is LEADER),
    Probe("sent again", "what is in flight counts as lost", RAFT + "progress:Progress", "gave_up_waiting", None, true),
    Probe("append batch full", "a message carries as many entries as it may", LEADING, "_send_batch",
          lambda self, progress, batch: len(batch[0].entries) == self.settings.append_entries_max),
    Probe("entries fetched for a follower", "they have left the cache", LEADING, "entries_fetched",
          lambda self, peer, first, entries: bool(entries)),
    Probe("committed entries fetched", "they have left the cache", CORE, "committed_fetched",
          lambda self, entries: bool(entries)),
    Probe("apply window full", "no more is handed out until something is applied", CORE, "_hand_out_committed",
          lambda self: self._unapplied_bytes >= self.settings.unapplied_bytes_max),
    Probe("proposal refused", "too much waits to be committed", CORE, "propose", failed=Busy),
    Probe("cache evicted", "old entries leave the memory", RAFT + "log:RaftLog", "_drop_cached",
          lambda self, count: count > 0),
)  # fmt: skip

MEMBER_PROBES: Final = (
    Probe("member changed", "a configuration is proposed", CORE, "propose_configuration", None, true),
    Probe("learner promoted", "a stand-by becomes a voter", CORE, "propose_configuration",
          lambda self, new, now: len(new.voters) - len(self.configuration.voters),
          lambda known, result, *_: known > 0),
    Probe("configuration rolled back", "its entry was truncated", RAFT + "membership:ConfigurationHistory", "truncated",
          None, true),
    Probe("member moved", "the leader is told of another address", NODE + "address_changes:AddressChanges", "told",
          always),
    Probe("removal learned", "a node is no member any more", NODE + "raft_events:RaftEvents", "on_removed", always),
)  # fmt: skip

SNAPSHOT_PROBES: Final = (
    Probe("snapshot offered", "a follower needs entries that are compacted", LEADING, "_offer_snapshot", always),
    Probe("snapshot fetched", "all chunks arrived", NODE + "snapshot_fetch:SnapshotFetcher", "_finish", always),
    Probe("snapshot resumed", "a partial snapshot is continued", NODE + "snapshot_incoming:IncomingSnapshot", "_resume",
          None, lambda known, result, self: bool(result) and self.done_bytes > 0),
    Probe("snapshot retried", "fetching failed", FOLLOWING, "snapshot_failed", always),
    Probe("snapshot installed", "a state replaced another", FOLLOWING, "install_snapshot", always),
    Probe("snapshot keeps the suffix", "the log goes on behind the snapshot", FOLLOWING, "install_snapshot",
          lambda self, snapshot, now: self.log.matches(snapshot.index, snapshot.term)),
    Probe("quarantined", "a state is not to be trusted", FOLLOWING, "request_snapshot", always),
    Probe("divergence suspected", "a claim in the log differs from the state here", NODE + "divergence:Divergence",
          "suspect", always),
    Probe("divergence repaired", "a quarantined state was replaced", NODE + "divergence:Divergence", "repaired",
          lambda self: self.quarantined is not None),
)  # fmt: skip

CALL_PROBES: Final = (
    Probe("read index failed", "leadership was lost before a read was confirmed", NODE + "reads:ReadBarriers", "failed",
          lambda self, read_id: read_id in self._asked),
    Probe("proposal overwritten", "another entry was committed at its index", RAFT + "waiting", "_overwritten", always),
    Probe("outcome lost to a snapshot", "a snapshot jumped over a proposal", WAITING, "forget_through",
          lambda self, index: any(i <= index for i in self._table)),
    Probe("outcome unknown at the end", "a node stops with proposals under way", WAITING, "fail_all",
          lambda self, error: bool(self._table)),
    Probe("request lost", "a connection broke after a request was sent", RPC, "connection_lost",
          lambda self, reason: any(p.queued.handed_over for p in self._pending.values())),
    Probe("queued writes refused", "leadership went away before they were proposed",
          NODE + "proposals:DatabaseProposals", "fail_queued", lambda self, error: bool(self._queue)),
    Probe("write forwarded", "the node asked does not lead", NODE + "writes:Writes", "_forward", always),
    Probe("writes forwarded together", "units that wait for a request to the leader", NODE + "forwarding:Forwarder",
          "_take", lambda self: len(self._queue) > 1),
    Probe("turn passed on", "a caller wakes the next one", NODE + "tickets:Turns", "next_gate",
          lambda self: bool(self._ready)),
    Probe("turn kept", "a woken caller goes its own way: the clock wakes another", NODE + "tickets:Turns", "_watch",
          lambda self: bool(self._ready) and self._passed == self._passed_before),
    Probe("writes share an entry", "units that arrive together", NODE + "proposals:DatabaseProposals", "_propose_batch",
          lambda self: len(self._queue) > 1),
    Probe("connection replaced", "a node connects anew before the old connection is gone", TRANSPORT,
          "_replace_incoming",
          lambda self, newer: (old := self._incoming_peers.get(newer.peer_id)) is not None and old.is_open),
    Probe("dial failed", "no connection to a peer", RAFT + "links:PeerLink", "_failed", always),
    Probe("dial timed out", "an attempt to connect into nothing ends", RAFT + "links:PeerLink", "_failed",
          lambda self, failure: failure.message.startswith("no connection within")),
    Probe("silent connection closed", "nothing came for too long", RAFT + "connection:Connection", "abort",
          lambda self, reason: reason.startswith("nothing received")),
    Probe("message in pieces", "it is larger than a frame may be", "dqlite_py.wire.frames:OutgoingMessage", "_fragment",
          always),
    Probe("log time held", "the wall clock is behind the log's time", NODE + "log_clock:LogClock", "now_us", None,
          lambda known, result, self: result > self._clock.wall_us() + 1_000_000),
)  # fmt: skip

DISK_PROBES: Final = (
    Probe("group commit", "several batches share one sync", JOURNAL + "journal:Journal", "write",
          lambda self, batches: len(batches) > 1),
    Probe("segment rolled", "the journal goes on in a new file", JOURNAL + "journal:Journal", "_roll", always),
    Probe("segments replaced", "a truncation kills whole files", JOURNAL + "journal:Journal", "_retire",
          lambda self, before, dead, segment: bool(dead)),
    Probe("journal reset", "it begins anew behind a snapshot", JOURNAL + "journal:Journal", "_write_log",
          lambda self, plan, size: plan.reset is not None),
    Probe("segment compacted", "the oldest file goes", JOURNAL + "table:SegmentTable", "drop_oldest", always),
    Probe("journal failed", "a disk error is final", JOURNAL + "journal:Journal", "_fail", always),
    Probe("journal waits for space", "a full disk holds up batches", JOURNAL + "thread:JournalThread",
          "_wait_for_space", always),
    Probe("torn tail cut", "bytes that are no whole group are cut at the start", JOURNAL + "repair", "_settle",
          lambda disk, segment, scan: not scan.is_clean),
    Probe("last group written again", "it may never have been synced", JOURNAL + "repair", "_settle",
          lambda disk, segment, scan: not scan.is_marked and scan.last_group_offset > 0),
    Probe("dead files removed", "a crash left them", JOURNAL + "repair", "_remove_dead",
          lambda disk, folder, names: bool(names)),
    Probe("seal made again", "a crash came between two segments", JOURNAL + "repair", "_seal_again", always),
    Probe("hard state slot torn", "the other slot is whole", JOURNAL + "hardstate", "_parse", None,
          lambda known, result, *_: result is None),
    Probe("installation finished at start", "a crash came between state and journal", NODE + "startup", "reconcile",
          _needs_reset),
    Probe("writes refused", "the disk's reserve is reached", NODE + "storage_watch:StorageWatch", "_set",
          lambda self, low: low),
    Probe("apply waits for space", "a full disk holds up an entry", ENGINE + ":DatabaseEngine", "apply",
          failed=StorageFull),
    Probe("applied before", "an entry of the log is in the database already", NODE + "database_worker:DatabaseWorker",
          "_apply", lambda self, engine, job: job.entry.index <= engine.applied_index),
    Probe("creation begun again", "a crash came while a folder was made", NODE + "startup", "_clear_unfinished",
          lambda disk, folder: disk.exists(folder + "/hardstate")),
    Probe("stopped in order", "a node hands over, answers and closes", NODE + "runtime:NodeRuntime", "stop", always),
    Probe("WAL restarted", "a checkpoint lets it begin anew", ENGINE + ":DatabaseEngine", "_restart_wal", always),
    Probe("checkpoint hindered", "a reader holds an older state", ENGINE + ":DatabaseEngine", "checkpoint", None,
          lambda known, result, *_: result is False),
    Probe("database dropped", "all of one goes, whatever is under way", NODE + "applier:Applier", "_drop", always),
    Probe("drop noted", "a replay must not make again what was there before", "dqlite_py.storage.drop_notes:DropNotes",
          "write", always),
    Probe("note of a drop obeyed", "a replay meets an OPEN that did nothing", "dqlite_py.storage.drop_notes:DropNotes",
          "index_of", None, true),
    Probe("WAL replayed", "a crash left frames in it", ENGINE, "_empty_wal", _wal_is_there),
)  # fmt: skip

READ_PROBES: Final = (
    Probe("lease read", "it costs no message: the lease holds", NODE + "reads:ReadBarriers", "_lease_serves",
          None, true),
    Probe("lease asked of the leader", "by a follower, or by what the leader has not applied yet",
          NODE + "reads:ReadBarriers", "lease_index_here", always),
    Probe("lease given up", "it held", RAFT + "counting:CountingPart", "_void_lease",
          lambda self: self.lease_until_ms > self._now),
    Probe("read waits for its token", "a session read of what is not applied here", NODE + "reads:ReadBarriers",
          "_wait_applied", lambda self, database, index, *_: not self._applier().has_applied(database, index)),
    Probe("leader asked how new a state is", "a stale read is over its bound", NODE + "reads:ReadBarriers", "_freshen",
          lambda self, database, callback, deadline, freshness: not self.is_fresh(database, freshness)),
    Probe("uninformed leader heard", "it does not know yet what is committed", FOLLOWING, "_leader_is_informed", None,
          lambda known, result, *_: not result),
)  # fmt: skip

CHANGE_PROBES: Final = (
    Probe("changes kept", "a node starts, its change log reaches the state", CHANGELOG, "open", None, true),
    Probe("changes lost", "a change log does not reach the state: power loss, or a snapshot", CHANGELOG, "open",
          lambda self, applied: self._disk.exists(self.folder), lambda known, result, *_: known and not result),
    Probe("oldest changes dropped", "a change log is full", CHANGELOG, "_without_oldest",
          lambda self, segments, end: len(segments), lambda known, result, *_: len(result) < known),
)  # fmt: skip

PROBES: Final[tuple[Probe, ...]] = (
    *READ_PROBES,
    *CHANGE_PROBES,
    *ELECTION_PROBES,
    *LOG_PROBES,
    *MEMBER_PROBES,
    *SNAPSHOT_PROBES,
    *CALL_PROBES,
    *DISK_PROBES,
)
EXTERNAL: Final[dict[str, str]] = {
    "life begun": "a node has started",
    "roles automatic": "an operator said how many voters and stand-bys there are to be",
    "roles by hand": "an operator ended that",
    "member left its role": "before its node stops for long: somebody else votes",
    "roles settled": "kept automatically, they are as they are to be when all are well",
    "started though to be removed": "by the operator: it had become the only voter",
    "address set anew": "an operator said where a member is, and it answered there",
    "address set again": "an operator set the address that a member has",
    "assigned voter": "an operator gave a member a vote",
    "assigned standby": "an operator made a member a stand-by",
    "assigned spare": "an operator took a member's data away",
    "damage refused": "a node refuses a folder that somebody damaged",
    "session goes on at another node": "a token is handed to a reader there",
    "read too stale": "a node cannot show a state as fresh as was asked for",
    "changes followed at another node": "a consumer goes on there by its index",
    "changes compacted": "a node does not keep them as far back",
    "changes followed from the tables": "a consumer has started again",
    "transaction of a scratch database": "in one that comes and goes: committed",
    "database dropped under a transaction": "it ends, whatever is made under its name",
    "transaction committed": "an interactive one, as its caller was told",
    "commit found after a fail-over": "its outcome was lost with a leader: a fence of a later term finds it",
    "unknown commit found": "its caller asked by its key: it was committed",
    "transaction not begun in time": "DatabaseLocked: another one has the database",
    "snapshot conflict": "what a transaction has read is history when it wants to write",
    "transaction lost with its leader": "ended by the node that led",
    "transaction idle too long": "ended by the node",
}
