"""The faults of stock PySyncObj put back into the product, for canaries.py: each a context manager that patches it.

The product has no switches for this. What is a rule of the consensus core comes from raft_mutants; here is the rest:
disk, databases, transport, what callers are told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from dqlite_py.errors import NotLeader
from dqlite_py.model import HardState, LogIndex, NodeId
from dqlite_py.node import runtime as runtime_module
from dqlite_py.node.cluster_view import ClusterView
from dqlite_py.node.raft_events import RaftEvents
from dqlite_py.raft.core import RaftCore
from dqlite_py.raft.effects import RaftState
from dqlite_py.raft.journal import format as journal_format
from dqlite_py.raft.journal import group as journal_group
from dqlite_py.raft.journal import python_group
from dqlite_py.raft.journal import recovery as journal_recovery
from dqlite_py.raft.journal import scan as journal_scan
from dqlite_py.raft.journal import segment as journal_segment
from dqlite_py.raft.journal.hardstate import HardStateFile
from dqlite_py.raft.journal.journal import Journal
from dqlite_py.raft.membership import ConfigurationHistory
from dqlite_py.raft.messages import AppendReply, VoteRequest
from dqlite_py.raft.progress import Progress
from dqlite_py.raft.rpc import PendingCalls, RpcNotSent
from dqlite_py.storage import engine as engine_module
from dqlite_py.storage.state_folder import StateFolder
from dqlite_py.wire import frames
from tests.simulation import raft_mutants

Patch = Callable[[], AbstractContextManager[None]]


@contextmanager
def replaced(*rows: tuple[Any, str, Any]) -> Iterator[None]:
    """Set (owner, attribute, value) for the time of the context."""
    before = [(owner, name, vars(owner)[name]) for owner, name, _ in rows]
    for owner, name, value in rows:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def core(mutant: type[RaftCore]) -> Patch:
    """Nodes run this consensus core."""
    return lambda: replaced((runtime_module, "RaftCore", mutant))


# -- consensus, beyond raft_mutants -----------------------------------------------------------------------


class CountsVotesByMessage(raft_mutants.CountsDuplicateVotes):
    """RF-4: a candidate asks again at every tick, and every answer counts."""

    def tick(self, now_ms: float) -> None:
        super().tick(now_ms)
        if self.state is RaftState.CANDIDATE:
            request = VoteRequest(
                self.node_id, self.term, False, self.log.last_index, self.log.last_term, False
            )
            for voter in sorted(self.configuration.voters - {self.node_id}):
                self._send_durable(voter, request)


class NoPreVote(RaftCore):
    """RF-11: a node that hears nobody stands in term after term."""

    def _campaign(self, *, pre: bool, transfer: bool = False) -> None:
        super()._campaign(pre=False, transfer=transfer)


class StepsBackOneByOne(RaftCore):
    """RF-18: where the logs meet is looked for index by index."""

    def _on_reject(self, progress: Progress, reply: AppendReply) -> None:
        before = progress.next_index
        super()._on_reject(progress, reply)
        if progress.next_index < before - 1:
            progress.next_index = LogIndex(before - 1)


class OffersWithEveryMessage(RaftCore):
    """RF-22: a snapshot is offered whenever the leader looks at its followers."""

    def _feed(self, progress: Progress, heartbeat: bool, shared: Any) -> None:
        super()._feed(progress, True, shared)

    def take_effects(self) -> Any:
        if self.state is RaftState.LEADER:
            self._feed_wanted = True
        return super().take_effects()


def configuration_of_the_start() -> AbstractContextManager[None]:
    """RF-9: a restarted node takes its members from what it was started with, not from its log."""
    init = ConfigurationHistory.__init__

    def ignores_the_log(self: ConfigurationHistory, base: Any, later: Any, *earlier: Any) -> None:
        later = list(later)
        init(self, base, later[:1], *earlier)

    return replaced((ConfigurationHistory, "__init__", ignores_the_log))


# -- disk ---------------------------------------------------------------------------------------------------


def nothing_synced() -> AbstractContextManager[None]:
    """RF-2: groups are written and acknowledged without a sync."""
    return replaced((Journal, "_sync", lambda self, segment: None))


def vote_in_memory() -> AbstractContextManager[None]:
    """RF-5: only the term is written, a restarted node has forgotten its vote."""
    write = HardStateFile.write

    def writes_the_term(self: Any, value: HardState) -> None:
        write(self, HardState(value.term, NodeId(0)))
        slot = self._slot
        self._slot = type(slot)(slot.cluster_id, slot.node_id, slot.sequence, value)

    return replaced((HardStateFile, "write", writes_the_term))


def manifest_in_memory() -> AbstractContextManager[None]:
    """RF-8: segments are dropped though the state that replaces them is not on the disk."""

    def write_manifest(self: Any, manifest: Any) -> None:
        self._manifest = manifest

    return replaced((StateFolder, "write_manifest", write_manifest))


def no_checksums() -> AbstractContextManager[None]:
    """RF-17: the journal believes every byte."""

    def none(_data: Any, _seed: int = 0) -> int:
        return 0

    return replaced(
        (journal_format, "crc32c", none),
        (journal_scan, "crc32c", none),
        (journal_segment, "crc32c", none),
        (journal_group, "_chosen", python_group),  # whose bytes carry no checksum either
    )


def damage_is_cut() -> AbstractContextManager[None]:
    """RF-17: whatever cannot be read ends the journal, also in the middle of what was acknowledged."""
    return replaced(
        (journal_scan._Scanner, "_find_later_group", lambda self: None),
        (journal_recovery, "_check_last", lambda *_: None),
    )


# -- databases ----------------------------------------------------------------------------------------------


def applied_index_apart() -> AbstractContextManager[None]:
    """RF-14: the applied index is not one transaction with what was applied: entries are applied again."""
    prepare_meta = vars(engine_module)["prepare_meta"]

    def forgets_the_last(*args: Any, **kwargs: Any) -> LogIndex:
        return LogIndex(max(0, prepare_meta(*args, **kwargs) - 1))

    return replaced((engine_module, "prepare_meta", forgets_the_last))


def reads_of_a_new_leader() -> AbstractContextManager[None]:
    """RF-12: a new leader answers before it knows what is committed; both guards are taken away."""
    return replaced(
        (runtime_module, "RaftCore", raft_mutants.ReadsBeforeOwnTermCommit),
        (ClusterView, "is_ready_leader", property(lambda self: self._core.is_leader)),
    )


# -- what callers are told ------------------------------------------------------------------------------------


def lost_means_not_sent() -> AbstractContextManager[None]:
    """RF-13: a request whose connection broke counts as not delivered, and is sent again."""

    def connection_lost(self: Any, reason: str) -> None:
        for pending in self._pending.values():
            if not pending.future.done():
                pending.future.set_exception(RpcNotSent(reason))

    return replaced((PendingCalls, "connection_lost", connection_lost))


def deposed_means_not_done() -> AbstractContextManager[None]:
    """RF-13: a leader that is deposed tells all waiting writers that nothing happened."""
    lost = RaftEvents.on_lost_leadership

    def on_lost_leadership(self: Any) -> None:
        self._node.host._waiting.fail_all(NotLeader("the leader changed"))
        lost(self)

    return replaced((RaftEvents, "on_lost_leadership", on_lost_leadership))


# -- transport ------------------------------------------------------------------------------------------------


def sizes_that_wedge() -> AbstractContextManager[None]:
    """RF-10: messages of some sizes below a multiple of the fragment's size arrive wrong (fragments of 256 bytes)."""
    fragment = 256
    build = frames.OutgoingMessage._fragment

    def builds_wrong(self: Any, position: int) -> Any:
        if position == self.frame_count - 1 and len(self._body) % fragment > 100:
            return (b"",)  # the end is taken for another part, and thrown away
        return build(self, position)

    return replaced(
        (frames, "FRAME_FRAGMENT_BYTES", fragment), (frames.OutgoingMessage, "_fragment", builds_wrong)
    )
