"""Processes that are killed, and processes that stand still."""

from __future__ import annotations

import random
from abc import abstractmethod

from jepsen.cluster.api import Cluster, ClusterNode
from jepsen.nemeses.base import Base, Value, ensure_running, leader_or_any, names, pick, pick_some


class _OnSome(Base):
    def __init__(self) -> None:
        super().__init__()
        self._victims: list[ClusterNode] = []

    def _choose(self, cluster: Cluster, rng: random.Random) -> list[ClusterNode]:
        """Up to a minority."""
        return pick_some(cluster, rng)

    @abstractmethod
    def _hit(self, node: ClusterNode) -> None: ...

    def _start(self, cluster: Cluster, rng: random.Random) -> Value:
        self._victims = self._choose(cluster, rng)
        for node in self._victims:
            self._hit(node)
        return names(self._victims)

    def _stop(self, cluster: Cluster) -> Value:
        ensure_running(self._victims)
        return names(self._victims)


class _Kill(_OnSome):
    def _hit(self, node: ClusterNode) -> None:
        node.kill()

    def _start(self, cluster: Cluster, rng: random.Random) -> Value:
        return {"killed": super()._start(cluster, rng)}

    def _stop(self, cluster: Cluster) -> Value:
        return {"started": super()._stop(cluster)}


class KillOne(_Kill):
    """SIGKILL of one node, the leader every other time; started again later."""

    name = "kill-one"
    spares_majority = True

    def _choose(self, cluster: Cluster, rng: random.Random) -> list[ClusterNode]:
        leader, _ = leader_or_any(cluster, rng)
        return [leader] if rng.random() < 0.5 else pick(cluster, rng)


class KillSome(_Kill):
    """SIGKILL of up to a minority of the nodes."""

    name = "kill-some"
    spares_majority = True
    nodes_min = 3


class KillAll(_Kill):
    """SIGKILL of all nodes, one after the other; all are started again."""

    name = "kill-all"

    def _choose(self, cluster: Cluster, rng: random.Random) -> list[ClusterNode]:
        nodes = list(cluster.nodes)
        rng.shuffle(nodes)
        return nodes


class _Pause(_OnSome):
    def _hit(self, node: ClusterNode) -> None:
        node.pause()

    def _start(self, cluster: Cluster, rng: random.Random) -> Value:
        return {"paused": super()._start(cluster, rng)}

    def _stop(self, cluster: Cluster) -> Value:
        return {"resumed": super()._stop(cluster)}


class PauseOne(_Pause):
    """SIGSTOP of one node, later SIGCONT: it wakes in a cluster that has gone on."""

    name = "pause-one"
    spares_majority = True

    def _choose(self, cluster: Cluster, rng: random.Random) -> list[ClusterNode]:
        return pick(cluster, rng)


class PauseSome(_Pause):
    """SIGSTOP of up to a minority of the nodes, later SIGCONT."""

    name = "pause-some"
    spares_majority = True
    nodes_min = 3


class PauseLeader(_Pause):
    """SIGSTOP of the leader: it wakes believing that it still leads."""

    name = "pause-leader"
    spares_majority = True
    nodes_min = 3

    def _choose(self, cluster: Cluster, rng: random.Random) -> list[ClusterNode]:
        return [leader_or_any(cluster, rng)[0]]
