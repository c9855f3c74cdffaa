"""RF-18: stock steps back one index per append period to find where logs agree, so hundreds of divergent
entries take tens of seconds. Ours answers a mismatch with the term and index where they may agree: one
round per term of difference, and the log is not kept in memory beyond a bounded cache."""

from __future__ import annotations

import pytest

from tests.faults.stock import StockWorld

pytestmark = pytest.mark.rf("RF-18")

DIVERGENT = 100


def test_stock_has_the_fault(stock_world: StockWorld) -> None:
    a, b, c = stock_world.start("ABC")
    stock_world.elect("A")
    stock_world.isolate("A")
    for value in range(DIVERGENT):
        a.op(value)
    a.doTick(0)
    stock_world.elect("B", among="BC")
    for value in range(DIVERGENT + 30):
        b.op(value)
    stock_world.settle("BC")
    stock_world.elect("C", among="BC")  # its next index for A starts at its own end
    stock_world.connect("AB", "AC")
    rounds = 0
    while a.log() != c.log():
        rounds += 1
        stock_world.settle(rounds=1)
        assert rounds < 2 * DIVERGENT
    assert rounds >= DIVERGENT  # of 100 ms each
