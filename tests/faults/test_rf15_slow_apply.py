"""RF-15: stock applies inside the tick loop, so an apply longer than the election timeout costs the
leadership on a perfect network. Ours applies on a thread per database; the loop goes on ticking,
sending heartbeats and answering."""

from __future__ import annotations

import asyncio
import random
import threading
from pathlib import Path

import pysyncobj.syncobj as upstream
import pytest

from dqlite_py.raft.messages import AppendRequest
from tests.faults.ours import CoreWorld
from tests.faults.ours_applier import applying, units
from tests.faults.ours_host import hosted
from tests.faults.stock import StockWorld
from tests.support.wire import until

pytestmark = pytest.mark.rf("RF-15")


def test_stock_has_the_fault(stock_world: StockWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """The leader is inside apply() for 1.5 s; its buffers keep what the others send meanwhile."""
    for seed in range(5):
        monkeypatch.setattr(upstream, "random", random.Random(seed))
        stock_world.reset()
        a = stock_world.start("ABC")[0]
        stock_world.elect("A")
        for node in stock_world.nodes.values():
            node.hold_elections(node._SyncObj__generateRaftTimeout())
        stock_world.run(0.5)
        assert a.state == "leader"
        busy_until = stock_world.now + 1.5
        while stock_world.now < busy_until:
            stock_world.now += 0.02
            for name in "BC":
                stock_world.nodes[name].doTick(0)
            for source, target in ("BC", "CB", "AB", "AC"):
                stock_world.deliver(source, target)
        stock_world.run(1.0)
        assert max(node.term for node in stock_world.nodes.values()) > 1


async def test_ours_is_closed() -> None:
    """The state machine takes 10 s for an entry: heartbeats go on, the leadership stays, later writes commit."""
    async with hosted() as here:
        await here.become_leader()
        here.machine.applies = False
        slow = await here.proposed(b"slow")
        await here.acknowledged_by("B")
        term, sent = here.core.term, len(here.sent(AppendRequest))
        for _ in range(100):
            here.pass_ms(100)
            await here.acknowledged_by("B")
        assert here.core.is_leader
        assert here.core.term == term
        assert len(here.sent(AppendRequest)) - sent >= 2 * 10_000 / here.settings.heartbeat_ms * 0.8
        later = await here.proposed(b"later")
        await here.acknowledged_by("B")
        assert here.core.commit_index == here.core.last_index
        assert slow == later == []
        here.machine.apply()
        assert [len(slow), len(later)] == [1, 1]


async def test_ours_applies_beside_the_loop(tmp_path: Path) -> None:
    """One database's apply thread is stuck: the loop goes on, and so do the other databases and readers."""
    async with applying(tmp_path / "node") as node:
        node.commit(units(1, ("CREATE TABLE t(v)", [])))
        await node.reached(1)
        gate = threading.Event()
        node.applier.workers["main"].call(lambda _engine: gate.wait(20))
        node.commit(
            units(2, ("INSERT INTO t VALUES (1)", [])),
            units(3, ("CREATE TABLE u(v)", []), database="other"),
        )
        await until(lambda: node.applier.is_applied("other", 3), "the other database goes on")
        assert not node.applier.is_applied("main", 2)
        assert await node.query("SELECT v FROM t") == []
        assert node.applier.applied_index == 1
        gate.set()
        await node.reached(3)
        assert await node.query("SELECT v FROM t") == [(1,)]


async def test_ours_lets_go_of_the_interpreter_while_sql_runs(tmp_path: Path) -> None:
    """A statement of a few hundred milliseconds: the loop's timers run meanwhile."""
    slow = (
        "INSERT INTO t SELECT count(*) FROM "
        "(WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 500000) SELECT x FROM c)"
    )
    async with applying(tmp_path / "node") as node:
        node.commit(units(1, ("CREATE TABLE t(v)", [])))
        await node.reached(1)
        node.commit(units(2, (slow, [])))
        turns = 0
        while not node.applier.is_applied("main", 2):
            await asyncio.sleep(0.001)
            turns += 1
        assert turns > 10


def test_ours_forgives_its_own_stalls() -> None:
    """A node that stood still for 1.5 s reads what its buffers kept before it accuses the leader."""
    for seed in range(20):
        for stalled in "AB":  # the leader, a follower
            world = CoreWorld("ABC", seed=seed)
            a = world.elect("A")
            world.run(1_000)
            term = a.term
            others = "ABC".replace(stalled, "")
            if stalled == "B":
                world.run(1_500, among=others)
            else:
                world.now += 300  # a leader's stall is borne as long as the others can bear it
            world.run(2_000)
            assert {node.term for node in world.nodes.values()} == {term}
            assert world.leaders() == ["A"]
