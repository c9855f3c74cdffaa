"""The demo's course against a cluster made of a list: it must pass what is right and catch what is wrong."""

from __future__ import annotations

import asyncio
import io
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dqlite_py.cli.demo import scenario as scenario_module
from dqlite_py.cli.demo.client import NodeStatus
from dqlite_py.cli.demo.ledger import RowKey
from dqlite_py.cli.demo.scenario import DemoFailed, Plan, Scenario
from dqlite_py.cli.demo.screen import PlainScreen
from dqlite_py.cli.demo.verdict import NodeContent
from dqlite_py.errors import NoLeader, OutcomeUnknown
from dqlite_py.raft.rpc import RpcLost, RpcNotSent

QUICK = Plan(rate=200, write_s=0.2, without_s=0.2, after_s=0.2)
ELECTION_S = 0.15


class FakeProcess:
    def __init__(self, name: str) -> None:
        self.name, self.address = name, name
        self.process: object | None = None
        self.is_running = False
        self.pid = 1
        self.folder = Path(name)

    def start(self) -> None:
        self.process, self.is_running = object(), True

    def kill(self) -> None:
        self.is_running = False

    def log_tail(self) -> list[str]:
        return ["its last words"]


class FakeCluster:
    """Processes and client in one; the first running node leads, after a while without a leader."""

    def __init__(self) -> None:
        self.nodes = [FakeProcess(f"node{i}") for i in (1, 2, 3)]
        self.rows: list[list[Any]] = []
        self.term, self.leader, self.vacant_since = 1, "node1", 0.0
        self.spoil: Callable[[str, list[list[Any]]], list[list[Any]]] = lambda _name, rows: rows
        self.attempts = itertools.count()

    def start_all(self) -> None:
        for node in self.nodes:
            node.start()

    def _node(self, address: str) -> FakeProcess:
        node = next(n for n in self.nodes if n.name == address)
        if not node.is_running:
            raise RpcNotSent("refused")
        return node

    def _elect(self) -> bool:
        if next(n for n in self.nodes if n.name == self.leader).is_running:
            self.vacant_since = time.monotonic()
            return True
        if time.monotonic() - self.vacant_since < ELECTION_S:
            return False
        self.term, self.leader = self.term + 1, next(n.name for n in self.nodes if n.is_running)
        return True

    async def create_table(self, address: str) -> None:
        self._node(address)

    async def insert(self, address: str, row: RowKey) -> None:
        self._node(address)
        await asyncio.sleep(0.001)
        if not self._elect():
            raise NoLeader("nobody")
        attempt = next(self.attempts)
        if attempt % 20 == 7:
            raise RpcLost("never there")
        self.rows.append([row.writer, row.number])
        if attempt % 20 == 9:
            raise OutcomeUnknown("but it is there")

    async def status(self, address: str) -> NodeStatus:
        node = self._node(address)
        self._elect()
        state = "leader" if node.name == self.leader else "follower"
        count = len(self.rows)
        return NodeStatus(1, state, "voter", self.term, 1, count, count, count, 3)

    async def content(self, address: str) -> NodeContent:
        return NodeContent(len(self.rows), "aa", self.spoil(self._node(address).name, list(self.rows)))


async def _run(cluster: Any, plan: Plan = QUICK) -> tuple[Any, str]:
    out = io.StringIO()
    with PlainScreen(Console(file=out, width=200)) as screen:
        verdict = await Scenario(plan, cluster, cluster, screen).run()
    return verdict, out.getvalue()


async def test_a_cluster_that_keeps_its_word_passes() -> None:
    cluster = FakeCluster()
    verdict, text = await _run(cluster)
    assert verdict.is_good, verdict.faults
    assert "node1, the leader, is gone" in text
    assert "node2 leads in term 2" in text
    assert "node1 has caught up" in text
    assert any("did not" in fact for fact in verdict.facts)
    gap = next(fact for fact in verdict.facts if fact.startswith("gap in service"))
    assert float(gap.split()[-2].replace(",", "")) >= ELECTION_S * 900


async def test_a_node_that_forgot_a_row_fails() -> None:
    cluster = FakeCluster()
    cluster.spoil = lambda name, rows: rows[:-1] if name == "node3" else rows
    verdict, _text = await _run(cluster)
    assert any("node3" in fault for fault in verdict.faults)


async def test_a_doubled_row_fails() -> None:
    cluster = FakeCluster()
    cluster.spoil = lambda _name, rows: [*rows, rows[0]]
    verdict, _text = await _run(cluster)
    assert any("more than once" in fault for fault in verdict.faults)


async def test_a_node_that_dies_at_its_start_is_reported_with_its_last_words() -> None:
    cluster = FakeCluster()
    cluster.nodes[1].start = lambda: setattr(cluster.nodes[1], "process", object())  # type: ignore[method-assign]
    with pytest.raises(DemoFailed, match="its last words"):
        await _run(cluster)


async def test_no_new_leader_is_a_failure_not_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenario_module, "FAILOVER_TIMEOUT_S", 0.3)
    cluster = FakeCluster()
    monkeypatch.setattr(cluster, "_elect", lambda: cluster.nodes[0].is_running)
    with pytest.raises(DemoFailed, match="new leader"):
        await _run(cluster)
