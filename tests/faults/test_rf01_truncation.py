"""RF-1: stock followers delete everything after prevLogIdx although it matches, so that one overlapping
message un-stores entries they have acknowledged. Ours truncates only from the first entry whose term
conflicts, never at or below the commit index (Raft paper, figure 2, AppendEntries 3)."""

from __future__ import annotations

import pytest

from tests.faults.stock import Outcomes, StockWorld

pytestmark = pytest.mark.rf("RF-1")

PAD = b"x" * 30_000  # three such entries fill one stock message


def test_stock_has_the_fault(stock_world: StockWorld) -> None:
    a, b, c = stock_world.start("ABC")
    stock_world.elect("A")
    outcomes = Outcomes()
    for value in range(20):
        a.op(value, pad=PAD, callback=outcomes.callback(value))
    a.doTick(0)
    stock_world.deliver("A", "B")
    stock_world.deliver("A", "C")
    assert b.last_index == c.last_index == 22
    # The first acknowledgement rewinds the leader's next index: it sends again what is already stored.
    stock_world.deliver("B", "A", 1)
    stock_world.deliver("C", "A", 1)
    a.doTick(0)
    stock_world.deliver("B", "A")
    stock_world.deliver("C", "A")
    a.doTick(0)
    assert len(outcomes.succeeded()) == 20
    # One overlapping message arrives, then the leader is cut off.
    stock_world.deliver("A", "B", 1)
    stock_world.deliver("A", "C", 1)
    assert b.last_index < 22
    assert c.last_index < 22
    stock_world.isolate("A")
    stock_world.elect("B", among="BC")
    for value in range(100, 130):
        b.op(value)
    stock_world.settle("BC")
    lost = set(outcomes.succeeded()) - set(b.data)
    assert len(lost) == 16
    stock_world.connect("AB", "AC")
    stock_world.settle(rounds=40)
    assert a.log() == b.log()
    assert a.data != b.data  # same log, different state: diverged for good


def test_stock_truncates_applied_entries_without_any_fault(stock_world: StockWorld) -> None:
    a, b, _c = stock_world.start("ABC")
    stock_world.elect("A")
    for value in range(20):
        a.op(value, pad=PAD)
    a.doTick(0)
    stock_world.deliver("A", "B")
    stock_world.deliver("A", "C")
    stock_world.deliver("C", "A")
    a.doTick(0)
    stock_world.deliver("A", "B")
    b.doTick(0)
    assert len(b.data) == 20
    stock_world.deliver("B", "A", 1)
    stock_world.now += 0.11
    a.doTick(0)
    stock_world.deliver("A", "B", 1)
    assert b.last_index < b.raftLastApplied
