"""Networks that part, and one that is slow. Clients still reach every node."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Final

from jepsen.cluster.api import Cluster
from jepsen.nemeses.base import Base, Value, leader_or_any, minority, names

_DELAYS_MS: Final = (2.0, 10.0, 30.0, 100.0, 250.0)


class _Partition(Base):
    nodes_min = 3

    def _stop(self, cluster: Cluster) -> Value:
        cluster.network.heal()
        return "healed"


def _cut_apart(cluster: Cluster, left: Iterable[str], right: Iterable[str]) -> None:
    right = list(right)
    for one in left:
        for other in right:
            cluster.network.cut(one, other)
            cluster.network.cut(other, one)


def _shuffled(cluster: Cluster, rng: random.Random) -> list[str]:
    nodes = names(cluster.nodes)
    rng.shuffle(nodes)
    return nodes


class PartitionOne(_Partition):
    """One node is cut off from all others."""

    name = "partition-one"
    spares_majority = True

    def _start(self, cluster: Cluster, rng: random.Random) -> Value:
        one, *others = _shuffled(cluster, rng)
        _cut_apart(cluster, [one], others)
        return {"sides": [[one], sorted(others)]}


class PartitionHalves(_Partition):
    """A minority, as large as can be, is cut off from the majority."""

    name = "partition-halves"
    spares_majority = True

    def _start(self, cluster: Cluster, rng: random.Random) -> Value:
        nodes = _shuffled(cluster, rng)
        size = len(nodes) // 2
        sides = [sorted(nodes[:size]), sorted(nodes[size:])]
        _cut_apart(cluster, *sides)
        return {"sides": sides}


class PartitionRing(_Partition):
    """Every node hears a majority, and no two the same one (Jepsen's majorities-ring)."""

    name = "partition-ring"

    def _start(self, cluster: Cluster, rng: random.Random) -> Value:
        ring = _shuffled(cluster, rng)
        count = len(ring)
        # Neighbours on both sides; where a majority leaves no two of them, only the next one.
        reach = count // 2
        offsets = range(-(reach // 2), reach - reach // 2 + 1)
        hears = {
            name: sorted({ring[(position + offset) % count] for offset in offsets})
            for position, name in enumerate(ring)
        }
        for name, heard in hears.items():
            for other in ring:
                if other not in heard:
                    cluster.network.cut(other, name)
        return {"hears": dict(sorted(hears.items()))}


class PartitionOneWay(_Partition):
    """What one side says does not reach the other; the other way all is well."""

    name = "partition-one-way"

    def _start(self, cluster: Cluster, rng: random.Random) -> Value:
        nodes = _shuffled(cluster, rng)
        size = rng.randint(1, len(nodes) - 1)
        senders, receivers = sorted(nodes[:size]), sorted(nodes[size:])
        for sender in senders:
            for receiver in receivers:
                cluster.network.cut(sender, receiver)
        return {"from": senders, "to": receivers}


class PartitionLeader(_Partition):
    """The leader is cut off, alone or with a part of a minority, from the majority."""

    name = "partition-leader"
    spares_majority = True

    def _start(self, cluster: Cluster, rng: random.Random) -> Value:
        leader, is_leader = leader_or_any(cluster, rng)
        others = [name for name in _shuffled(cluster, rng) if name != leader.name]
        company = rng.randint(0, minority(cluster) - 1)
        sides = [[leader.name, *sorted(others[:company])], sorted(others[company:])]
        _cut_apart(cluster, *sides)
        return {"leader": leader.name if is_leader else None, "sides": sides}


class SlowNetwork(Base):
    """Everything between nodes is delayed, from a little to beyond the election time-out."""

    name = "slow-network"
    nodes_min = 2

    def _start(self, cluster: Cluster, rng: random.Random) -> Value:
        delay_ms = rng.choice(_DELAYS_MS)
        cluster.network.delay(delay_ms)
        return {"delay-ms": delay_ms}

    def _stop(self, cluster: Cluster) -> Value:
        cluster.network.delay(None)
        return "as fast as it is"
