"""RF-6: stock's snapshot message moves the commit index before the snapshot has replaced the log, so an
isolated leader applies and acknowledges its own uncommitted tail. Ours moves the commit index only over
a prefix that was verified against this term's leader; a snapshot counts when it is installed."""

from __future__ import annotations

import pytest

from tests.faults.ours import CoreWorld, payloads, propose_all
from tests.faults.stock import Outcomes, StockWorld

pytestmark = pytest.mark.rf("RF-6")


def test_stock_has_the_fault(stock_world: StockWorld) -> None:
    a, b, c = stock_world.start("ABC")
    stock_world.elect("A")
    for value in range(3):
        a.op(f"old{value}")
    stock_world.settle()
    stock_world.isolate("A")
    outcomes = Outcomes()
    for value in range(5):
        a.op(f"isolated{value}", callback=outcomes.callback(f"isolated{value}"))
    a.doTick(0)
    assert not outcomes
    stock_world.elect("B", among="BC")
    for value in range(10):
        b.op(f"new{value}")
        b.doTick(0)
        stock_world.pump("BC")
    stock_world.settle("BC")
    b.forceLogCompaction()
    b.doTick(0)
    b.doTick(0)
    stock_world.connect("AB", "AC")
    for _ in range(12):
        stock_world.now += 0.11
        for node in (b, c):
            node.hold_elections(1.0)
            node.doTick(0)
        while stock_world.deliver("B", "A", 1):
            a.hold_elections(1.0)
            a.doTick(0)
        stock_world.deliver("A", "B")
        stock_world.deliver("B", "C")
        stock_world.deliver("C", "B")
    stock_world.settle()
    lies = [value for value in outcomes.succeeded() if value not in b.data]
    assert len(lies) == 5  # acknowledged, and nowhere
    assert a.data == b.data


def test_ours_is_closed() -> None:
    world = CoreWorld("ABC")
    a = world.elect("A")
    old = payloads("old", 3)
    propose_all(a, old)
    world.pump()
    world.heartbeat("A")
    world.isolate("A")
    isolated = payloads("isolated", 5)
    propose_all(a, isolated)
    b = world.elect("B", among="BC")
    new = payloads("new", 10)
    propose_all(b, new)
    world.pump("BC")
    world.heartbeat("B", among="BC")
    b.compact()
    committed = a.core.commit_index
    world.connect("AB")
    world.run(3_000)
    assert a.offers  # the leader has told it to fetch a snapshot, again and again, and its own commit index
    assert a.core.commit_index == committed
    assert a.applied == a.acknowledged == old
    snapshot = a.install_from(b)
    assert a.core.commit_index == snapshot.index
    world.connect("AC")
    world.run(1_000)
    assert a.applied == b.applied == old + new
    assert not set(a.acknowledged) & set(isolated)


def test_ours_ignores_a_snapshot_that_lies_behind() -> None:
    """An older state would take acknowledged entries back."""
    world = CoreWorld("ABC")
    a = world.elect("A")
    propose_all(a, payloads("value", 5))
    world.pump()
    snapshot = a.compact()
    propose_all(a, payloads("later", 5))
    world.pump()
    world.heartbeat("A")
    b = world["B"]
    applied = list(b.applied)
    assert not b.core.wants_snapshot(snapshot.index)
    assert b.applied == applied
    assert b.core.commit_index > snapshot.index
