"""Runs of the runner on a cluster and under a nemesis that are not real."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from jepsen.run.options import Options, Result
from jepsen.run.runner import run_together
from jepsen.verdict import Verdict
from tests.jepsen.fakecluster import FakeCluster


def shorten_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runner scales faults down with the run; these runs are shorter still."""
    monkeypatch.setattr("jepsen.run.nemesis.QUIET_S", (1.0, 2.0))
    monkeypatch.setattr("jepsen.run.nemesis.FAULT_S", (2.0, 4.0))


class FakeKill:
    """Kills one node; `broken` and `lacks` make it refuse."""

    name = "fake-kill"

    def __init__(self, *, broken: bool = False, lacks: str | None = None, revives: bool = True) -> None:
        self.broken = broken
        self.lacks = lacks
        self.revives = revives
        self.killed: list[str] = []
        self.finals = 0
        self.violations: list[str] = []

    def missing(self, cluster: Any) -> str | None:
        return self.lacks

    def start(self, cluster: Any, rng: random.Random) -> Any:
        if self.broken:
            raise OSError("no such fault")
        node = rng.choice(cluster.nodes)
        node.kill()
        self.killed.append(node.name)
        return [node.name]

    def stop(self, cluster: Any) -> Any:
        for node in cluster.nodes:
            if not node.is_running and self.revives:
                node.start()
        return None

    def final(self, cluster: Any) -> Any:
        self.finals += 1
        return self.stop(cluster)


OPTIONS = Options(
    time_s=0.7, nodes=3, clients=3, rate=300, request_timeout_s=1, heal_timeout_s=0.5, pictures=False
)


class Case:
    """One run; remembers its cluster."""

    def __init__(self, out: Path, fault: str | None = None, nemesis: FakeKill | None = None) -> None:
        self.out = out
        self.fault = fault
        self.nemesis = nemesis or FakeKill()
        self.clusters: list[FakeCluster] = []
        self.said: list[str] = []

    def run(self, *workloads: str, options: Options = OPTIONS) -> list[Result]:
        return run_together(
            workloads,
            "fake-kill",
            options,
            self.out,
            self.said.append,
            self._cluster,
            lambda _name: self.nemesis,
        )

    def _cluster(self, kind: str, folder: Path, nodes: int) -> Any:
        self.clusters.append(FakeCluster(folder, nodes, self.fault))
        return self.clusters[-1]


def verdict_of(result: Result, checker: str) -> Verdict:
    [found] = [verdict for verdict in result.verdicts if verdict.checker == checker]
    return found
