"""RF-3: stock's acknowledgements carry no term, so the leader of term 3 counts one that was given in term
1 for an entry that is not there any more. Ours carries the term in every message and drops replies of
any other term."""

from __future__ import annotations

import pytest

from tests.faults.stock import Outcomes, StockWorld

pytestmark = pytest.mark.rf("RF-3")


def test_stock_has_the_fault(stock_world: StockWorld) -> None:
    a, b, c, _d, e = stock_world.start("ABCDE")
    stock_world.elect("A")
    stock_world.disconnect("AC", "AD", "AE")
    for value in range(10):
        a.op(f"term1-{value}")
    a.doTick(0)
    stock_world.deliver("A", "B")
    late = stock_world.queue("B", "A")[-1]  # B's acknowledgement of ten entries of term 1, read much later
    stock_world.disconnect("AB")
    stock_world.elect("C", among="CDE")
    stock_world.connect("AC")
    stock_world.settle(rounds=30)
    assert a.log() == b.log() == c.log()  # term 2 has overwritten them everywhere
    stock_world.isolate("C")
    stock_world.disconnect("BD", "BE")
    stock_world.connect("AD", "AE")
    stock_world.elect("A", among="ADE")
    assert a.term == 3
    stock_world.disconnect("AE", "DE")
    outcomes = Outcomes()
    a.op("precious", callback=outcomes.callback("precious"))
    a.doTick(0)
    stock_world.deliver("A", "D")
    stock_world.deliver("D", "A")
    a.doTick(0)
    assert not outcomes.succeeded()  # on A and D only: two of five
    stock_world.hand("B", "A", late)
    a.doTick(0)
    assert outcomes.succeeded() == ["precious"]
    stock_world.crash("A")
    stock_world.crash("D")
    stock_world.connect("BC", "BE", "CE")
    leader = "C" if c.term >= b.term else "B"
    stock_world.elect(leader, among="BCE")
    stock_world.settle("BCE", rounds=20)
    assert all("precious" not in node.data for node in (b, c, e))  # acknowledged, and gone
