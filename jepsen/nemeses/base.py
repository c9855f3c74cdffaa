"""What nemeses share: their Protocol, choosing nodes, healing, mending a node that lost its data.

A nemesis breaks something at `start` and undoes it at `stop`; both return plain data that says what was done. What
the cluster must survive is never exceeded: durable data are damaged on a minority at a time, and a damaged node is
mended as an operator does it (remove, wipe, join again) before the next is damaged.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Final, Protocol, runtime_checkable

from jepsen.cluster.api import Cluster, ClusterNode
from jepsen.errors import JepsenError
from jepsen.faults import ProcessFaults, missing_tool

Value = Any
WHOLE_S: Final = 20.0
NO_EFFECT: Final = "no-effect"
# Exit codes of jepsen.server: stopped, cannot start, failed while running.
STOPPED: Final = 0
REFUSED: Final = 3
FAILED: Final = 4


class NemesisError(JepsenError):
    """A fault could not be started or undone; the message says on which node."""


@runtime_checkable
class Nemesis(Protocol):
    """`violations`: what a node did that it must not do, as seen by the nemesis itself (a damaged node that served)."""

    violations: list[str]

    @property
    def name(self) -> str: ...
    def missing(self, cluster: Cluster) -> str | None:
        """What this machine or cluster lacks for it, or None."""
        ...

    def start(self, cluster: Cluster, rng: random.Random) -> Value:
        """Break something that `rng` chooses. Raises JepsenError or OSError; `final` may then still be called."""
        ...

    def stop(self, cluster: Cluster) -> Value:
        """Undo it; nodes may still be on their way back when this returns.

        A dict with the key NO_EFFECT: nothing came of the fault, it proves nothing.
        """
        ...

    def final(self, cluster: Cluster) -> Value:
        """Undo whatever is left, on all nodes, and start those that do not run."""
        ...


class Base(ABC):
    """Common parts of a nemesis.

    `nodes_min`: smaller clusters cannot survive, or do not show, the fault. `own_exits`: codes with which a node may
    end by itself under it. `spares_majority`: it leaves a majority that must go on serving.
    """

    name: ClassVar[str]
    nodes_min: ClassVar[int] = 1
    needs_faults: ClassVar[bool] = False
    own_exits: ClassVar[frozenset[int]] = frozenset()
    spares_majority: ClassVar[bool] = False

    def __init__(self) -> None:
        self.violations: list[str] = []
        self.is_active = False
        self.has_damaged_database = False

    def missing(self, cluster: Cluster) -> str | None:
        if len(cluster.nodes) < self.nodes_min:
            return f"{self.name} needs at least {self.nodes_min} nodes, not {len(cluster.nodes)} (--nodes)"
        if self.needs_faults and any(node.faults is None for node in cluster.nodes):
            return (
                missing_tool() or f"{self.name} needs nodes that were started with a FaultKit's environment"
            )
        if self.needs_faults and (deaf := [node.name for node in cluster.nodes if _is_deaf(node)]):
            return f"{self.name}: the fault library is not loaded in {', '.join(deaf)}: does LD_PRELOAD work here?"
        return None

    def start(self, cluster: Cluster, rng: random.Random) -> Value:
        if self.is_active:  # the last one could not be undone
            self.stop(cluster)
        self.is_active = True
        return self._start(cluster, rng)

    def stop(self, cluster: Cluster) -> Value:
        if not self.is_active:
            return None
        value = self._stop(cluster)
        self.is_active = False
        return value

    def final(self, cluster: Cluster) -> Value:
        try:
            return self.stop(cluster)
        finally:
            restore(cluster)

    @abstractmethod
    def _start(self, cluster: Cluster, rng: random.Random) -> Value: ...

    @abstractmethod
    def _stop(self, cluster: Cluster) -> Value: ...


# -- choosing


def minority(cluster: Cluster) -> int:
    """How many nodes may be missing while the rest is a majority."""
    return (len(cluster.nodes) - 1) // 2


def pick(cluster: Cluster, rng: random.Random, count: int = 1) -> list[ClusterNode]:
    """That many different nodes, in the cluster's order."""
    chosen = set(rng.sample(range(len(cluster.nodes)), count))
    return [node for position, node in enumerate(cluster.nodes) if position in chosen]


def pick_some(cluster: Cluster, rng: random.Random) -> list[ClusterNode]:
    """One node up to a whole minority; at least one."""
    return pick(cluster, rng, rng.randint(1, max(1, minority(cluster))))


def pick_scope(cluster: Cluster, rng: random.Random) -> list[ClusterNode]:
    """One node, a minority, or all."""
    scope = rng.choice(("one", "some", "all"))
    if scope == "all":
        return list(cluster.nodes)
    return pick(cluster, rng) if scope == "one" else pick_some(cluster, rng)


def leader_or_any(cluster: Cluster, rng: random.Random) -> tuple[ClusterNode, bool]:
    """The leader and True; when there is none at the moment, some node and False."""
    chosen = pick(cluster, rng)[0]  # drawn in any case: later choices do not hang on timing
    leader = cluster.leader()
    return (chosen, False) if leader is None else (leader, True)


def _is_deaf(node: ClusterNode) -> bool:
    """It runs, and its process has never looked at the faults."""
    return isinstance(node.faults, ProcessFaults) and node.pid not in (None, node.faults.attached_pid)


def names(nodes: Sequence[ClusterNode]) -> list[str]:
    return [node.name for node in nodes]


def faults_of(node: ClusterNode) -> ProcessFaults:
    """Raises NemesisError for a node without."""
    if not isinstance(node.faults, ProcessFaults):
        raise NemesisError(f"{node.name} runs without the fault library")
    return node.faults


# -- healing


def ensure_running(nodes: Sequence[ClusterNode]) -> list[str]:
    """Resume and start what does not run; returns the names of the started. Tries all before it raises."""
    started, errors = [], []
    for node in nodes:
        try:
            if not node.is_running:
                node.start()
                started.append(node.name)
            elif node.is_paused:
                node.resume()
        except (JepsenError, OSError) as error:
            errors.append(f"{node.name}: {error}")
    if errors:
        raise NemesisError(f"could not bring back {'; '.join(errors)}")
    return started


def restore(cluster: Cluster) -> None:
    """A whole network, true clocks, good disks, every node running."""
    cluster.network.heal()
    cluster.network.delay(None)
    for node in cluster.nodes:
        if isinstance(node.faults, ProcessFaults):
            node.faults.heal()
    ensure_running(cluster.nodes)


def forget_notes(node: ClusterNode) -> None:
    """The data folder is gone: what was noted of its unsynced content means nothing any more."""
    if isinstance(node.faults, ProcessFaults):
        node.faults.forget()


def wait_whole(cluster: Cluster) -> None:
    """Before a copy of the data goes: everybody votes, so that the copies that stay are a majority's.

    A node that joins is a stand-by at first; without it, one more node less could be one too many. Raises SetupError.
    """
    cluster.wait_healthy(WHOLE_S)


def replace(cluster: Cluster, name: str) -> None:
    """An operator's mend of a node whose data are lost or damaged: remove it, wipe it, let it join again."""
    cluster.remove_member(name)
    forget_notes(cluster.node(name))
    cluster.add_member(name)
