"""RF-6: stock's snapshot message moves the commit index before the snapshot has replaced the log, so an
isolated leader applies and acknowledges its own uncommitted tail. Ours moves the commit index only over
a prefix that was verified against this term's leader; a snapshot counts when it is installed."""

from __future__ import annotations

import pytest

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
