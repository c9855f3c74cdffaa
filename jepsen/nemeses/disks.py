"""Disks that are full, that fail, and that lose what was not synced."""

from __future__ import annotations

import random
from typing import Any, Final

from jepsen.cluster.api import Cluster, ClusterNode
from jepsen.nemeses.base import (
    FAILED,
    NO_EFFECT,
    REFUSED,
    Base,
    Value,
    ensure_running,
    faults_of,
    names,
    pick_scope,
    pick_some,
)

_MIB: Final = 1024 * 1024
_LEFT_BYTES: Final = (0, 4096, _MIB, 8 * _MIB)  # the last two: below a node's reserve, not yet full


class DiskFull(Base):
    """Disks of one, some or all nodes are full, to the last byte or below the reserve, for a while."""

    name = "disk-full"
    needs_faults = True
    own_exits = frozenset((REFUSED, FAILED))

    def __init__(self) -> None:
        super().__init__()
        self._victims: list[ClusterNode] = []
        self._before: dict[str, int] = {}

    def _start(self, cluster: Cluster, rng: random.Random) -> Value:
        self._victims = pick_scope(cluster, rng)
        self._before = {node.name: faults_of(node).counts().spaces_refused for node in self._victims}
        free_bytes = rng.choice(_LEFT_BYTES)
        for node in self._victims:
            faults_of(node).limit_space(free_bytes)
        return {"nodes": names(self._victims), "free-bytes": free_bytes}

    def _stop(self, cluster: Cluster) -> Value:
        refused = {
            node.name: faults_of(node).counts().spaces_refused - self._before[node.name]
            for node in self._victims
        }
        for node in self._victims:
            faults_of(node).heal_disk()
        return {"refused-writes": refused, "started": ensure_running(self._victims)}


class DiskErrors(Base):
    """Syncs or writes of up to a minority fail with EIO: those nodes stop themselves; restarted later.

    What was dirty when a sync failed is lost, at random, before the start: the kernel may have dropped it.
    """

    name = "disk-errors"
    nodes_min = 3
    needs_faults = True
    own_exits = frozenset((REFUSED, FAILED))
    spares_majority = True

    def __init__(self) -> None:
        super().__init__()
        self._victims: list[ClusterNode] = []
        self._before: dict[str, int] = {}
        self._rng = random.Random(0)

    def _start(self, cluster: Cluster, rng: random.Random) -> Value:
        self._rng = random.Random(rng.random())
        self._victims = pick_some(cluster, rng)
        kind = rng.choice(("sync", "write"))
        calls, chance = rng.choice(((1, 0.0), (None, 0.0), (0, 0.1)))
        self._before = {node.name: _errors(node) for node in self._victims}
        for node in self._victims:
            faults = faults_of(node)
            (faults.fail_syncs if kind == "sync" else faults.fail_writes)(calls, chance)
        return {"nodes": names(self._victims), "call": kind, "count": calls, "chance": chance}

    def _stop(self, cluster: Cluster) -> Value:
        value: dict[str, Any] = {}
        for node in self._victims:
            failed = _errors(node) - self._before[node.name]
            value[node.name] = {"failed": failed, "exit": None if node.is_running else node.exit_code}
            faults_of(node).heal_disk()
            if failed:
                node.kill()  # one that met an error outside the journal may still run
                loss = faults_of(node).lose_unsynced(self._rng)
                value[node.name]["lost-sectors"] = loss.sectors
        ensure_running(self._victims)
        if not any(found["failed"] for found in value.values()):
            value[NO_EFFECT] = f"no call failed on {', '.join(value)}"
        return value


def _errors(node: ClusterNode) -> int:
    counts = faults_of(node).counts()
    return counts.syncs_failed + counts.writes_failed


class PowerLoss(Base):
    """SIGKILL of one, some or all nodes at once, and a random part of what was not synced is lost."""

    name = "power-loss"
    needs_faults = True

    def __init__(self) -> None:
        super().__init__()
        self._victims: list[ClusterNode] = []

    def _start(self, cluster: Cluster, rng: random.Random) -> Value:
        self._victims = pick_scope(cluster, rng)
        for node in self._victims:  # all stand still at nearly one moment, before the first is gone
            node.pause()
        for node in self._victims:
            node.kill()
        lost = {}
        for node in self._victims:
            loss = faults_of(node).lose_unsynced(rng)
            lost[node.name] = {"files": loss.files, "sectors": loss.sectors, "names": loss.names}
        return {"lost": lost}

    def _stop(self, cluster: Cluster) -> Value:
        return {"started": ensure_running(self._victims)}
