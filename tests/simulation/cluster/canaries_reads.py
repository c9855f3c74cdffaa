"""Canaries of the read levels: each takes away one rule of leases, session tokens or bounds (docs/read-levels.md).

What followers promise a leader (whatever they learn, and through a restart) is not among them, nor that a leader which
hands over has no lease: to be broken it needs a vote, a write and a read in the same few milliseconds, and messages
that are lost just then; tests/unit/raft/test_lease.py steps through that.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Final

from dqlite_py.gateway import ReadLevel
from dqlite_py.node.reads import ReadBarriers
from dqlite_py.raft.core import RaftCore
from dqlite_py.raft.settings import RaftSettings
from tests.simulation.cluster.canaries import Canary
from tests.simulation.cluster.canaries_patches import core, replaced
from tests.simulation.cluster.plans import Mixture

CUTS: Final = Mixture({"isolate": 0.5, "one way": 0.3})


def lease_too_long() -> AbstractContextManager[None]:
    """A lease outlives the promise of the followers."""
    return replaced((RaftSettings, "lease_ms", property(lambda self: 3.0 * self.election_min_ms)))


class LeaseOfUnknownCommits(RaftCore):
    """A new leader has a lease before it knows what is committed."""

    def _own_term_committed(self) -> bool:
        return True


class FreshBeforeApplied(RaftCore):
    """A follower counts as up to date when it has heard of a commit, not when it has applied it."""

    fresh_ms = property(lambda self: self._heard[1])


def session_not_awaited() -> AbstractContextManager[None]:
    """A token is not looked at."""
    is_fresh = ReadBarriers.is_fresh

    def fresh(self: Any, database: str, freshness: Any) -> bool:
        return freshness.level is ReadLevel.SESSION or is_fresh(self, database, freshness)

    return replaced((ReadBarriers, "is_fresh", fresh))


def old_leaders_believed() -> AbstractContextManager[None]:
    """What a leader says is taken for true at the moment it is heard."""
    init = ReadBarriers.__init__

    def believes(self: Any, **parts: Any) -> None:
        init(self, **parts)
        self._deposed_ms = 0.0

    return replaced((ReadBarriers, "__init__", believes))


class BelievesUninformedLeaders(RaftCore):
    """A leader that has committed nothing in its term is believed to know what is committed."""

    def _leader_is_informed(self, commit_index: Any) -> bool:
        return True


READS: Final[dict[str, Canary]] = {
    "lease too long": Canary(
        "", "a lease outlives the followers' promise", lease_too_long, faults=CUTS, levels_per_s=40.0,
        operations_per_s=60.0
    ),
    "lease of unknown commits": Canary(
        "", "a new leader has a lease before it knows what is committed", core(LeaseOfUnknownCommits),
        faults=Mixture({"transfer": 4.0, "isolate": 0.5}, loss=0.1), levels_per_s=60.0, operations_per_s=60.0
    ),
    "fresh before it is applied": Canary(
        "", "a follower is up to date when it has heard of a commit", core(FreshBeforeApplied),
        faults=Mixture({"kill": 0.3}, slow_apply=0.3), node_count=3, levels_per_s=40.0, operations_per_s=40.0
    ),
    "uninformed leaders believed": Canary(
        "", "a leader is believed before it has committed anything in its term", core(BelievesUninformedLeaders),
        faults=Mixture({"power loss of all": 0.4}), node_count=3, levels_per_s=60.0, operations_per_s=40.0,
        seed=3023
    ),
    "session not awaited": Canary(
        "", "a session's token is not looked at", session_not_awaited, faults=Mixture({"isolate": 1.0}),
        levels_per_s=20.0
    ),
    "old leaders believed": Canary(
        "", "what a leader says is true when it is heard", old_leaders_believed,
        faults=Mixture({"halves": 1.0}), node_count=5, levels_per_s=60.0, operations_per_s=60.0
    ),
}  # fmt: skip
