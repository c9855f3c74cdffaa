"""Clocks that are wrong (see jepsen/faults: wall clock and monotonic clock of the process, not of the machine)."""

from __future__ import annotations

import random
from typing import Final

from jepsen.cluster.api import Cluster
from jepsen.nemeses.base import Base, Value, faults_of, pick

_JUMP_S: Final = (0.002, 4 * 3600.0)
_DRIFT: Final = (0.001, 0.3)


class _Clock(Base):
    needs_faults = True

    def _stop(self, cluster: Cluster) -> Value:
        for node in cluster.nodes:
            faults_of(node).reset_clock()
        return "true clocks"


def _log_uniform(rng: random.Random, bounds: tuple[float, float]) -> float:
    """Every order of magnitude alike."""
    low, high = bounds
    return float(low * (high / low) ** rng.random())


class ClockJump(_Clock):
    """Wall clocks of some or all nodes jump by 2 ms to 4 h, forwards or back."""

    name = "clock-jump"
    spares_majority = True

    def _start(self, cluster: Cluster, rng: random.Random) -> Value:
        offsets = {}
        for node in pick(cluster, rng, rng.randint(1, len(cluster.nodes))):
            offset_s = round(rng.choice((-1, 1)) * _log_uniform(rng, _JUMP_S), 3)
            faults_of(node).jump_clock(offset_s)
            offsets[node.name] = offset_s
        return {"offset-s": offsets}


class ClockDrift(_Clock):
    """Both clocks of some or all nodes run 0.1 to 30 % too fast or too slow."""

    name = "clock-drift"

    def _start(self, cluster: Cluster, rng: random.Random) -> Value:
        rates = {}
        for node in pick(cluster, rng, rng.randint(1, len(cluster.nodes))):
            rate = round(1.0 + rng.choice((-1, 1)) * _log_uniform(rng, _DRIFT), 4)
            faults_of(node).drift_clock(rate)
            rates[node.name] = rate
        return {"rate": rates}
