"""RF-14: in stock an exception of a replicated method ends the tick before the network is served and the
entry is applied again each tick; one of a callback applies the entry twice on that node. Ours makes a
failing statement the unit's result, stops a database only for environmental failures, and applies every
index once whatever callbacks do."""

from __future__ import annotations

import pytest

from tests.faults.stock import Outcomes, StockWorld

pytestmark = pytest.mark.rf("RF-14")


def test_stock_has_the_fault(stock_world: StockWorld) -> None:
    a, _b, _c = stock_world.start("ABC")
    stock_world.elect("A")
    polls = []
    a._poller.poll = lambda timeout: polls.append(timeout)
    outcomes = Outcomes()
    a.poison("x", callback=outcomes.callback("x"))
    a.doTick(0)
    stock_world.pump()
    polls.clear()
    for _ in range(5):
        with pytest.raises(ValueError, match="constraint failed"):
            a.doTick(0)
    assert a.data == ["x"] * 5  # applied again by every tick
    assert polls == []  # and the network is never served again
    assert outcomes == {}


def test_stock_applies_twice_when_a_callback_raises(stock_world: StockWorld) -> None:
    a, b, c = stock_world.start("ABC")
    stock_world.elect("A")

    def closed_loop(_result: object, _reason: int) -> None:
        raise RuntimeError("Event loop is closed")

    a.op("once", callback=closed_loop)
    a.doTick(0)
    stock_world.pump()
    with pytest.raises(RuntimeError):
        a.doTick(0)
    stock_world.settle()
    assert a.data == ["once", "once"]
    assert b.data == c.data == ["once"]
