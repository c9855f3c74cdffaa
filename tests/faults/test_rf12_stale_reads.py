"""RF-12: stock has neither read index nor lease, so a deposed leader serves old data for up to 30 s;
callbacks of pending commands are lost when a snapshot jumps over their index. Ours answers a
linearizable read only after a quorum has confirmed the leadership, and every pending proposal ends in a
result or a stated outcome."""

from __future__ import annotations

import pytest

from tests.faults.stock import Outcomes, StockWorld

pytestmark = pytest.mark.rf("RF-12")


def test_stock_has_the_fault(stock_world: StockWorld) -> None:
    a, b, _c = stock_world.start("ABC", appendEntriesUseBatch=True)
    stock_world.elect("A")
    a.op("old")
    stock_world.run(1.0)
    stock_world.disconnect("AB")
    while b.state != "leader":
        stock_world.step()
    outcomes = Outcomes()
    b.op("new", callback=outcomes.callback("new"))
    stock_world.run(1.0)
    assert outcomes.succeeded() == ["new"]
    assert a.state == "leader"  # it says so, and this is the only question stock can be asked
    assert a.data == ["old"]


def test_stock_loses_callbacks_that_a_snapshot_jumps_over(stock_world: StockWorld) -> None:
    a, b, c = stock_world.start("ABC", logCompactionMinEntries=10)
    stock_world.elect("A")
    stock_world.isolate("A")
    a.doTick(0)
    outcomes = Outcomes()
    a.op("pending", callback=outcomes.callback("pending"))
    a.doTick(0)
    stock_world.elect("B", among="BC")
    for value in range(30):
        b.op(value)
        b.doTick(0)
        stock_world.settle("BC", rounds=1)
    stock_world.connect("AB", "AC")
    stock_world.settle(rounds=60)
    assert a.data == b.data == c.data
    assert a.state == "follower"
    assert outcomes == {}  # the client waits for ever
