"""RF-11: stock has no pre-vote and no leader stickiness, and a leader without a majority steps down after
30 s. Ours asks for pre-votes, refuses votes while a leader is heard, and steps down within an election
timeout without a quorum, so a cut-off node neither leads on nor deposes anybody when it returns."""

from __future__ import annotations

import pytest

from tests.faults.stock import SimNode, StockWorld

pytestmark = pytest.mark.rf("RF-11")


def test_stock_has_the_fault(stock_world: StockWorld) -> None:
    """Two self-declared leaders for half a minute after one link was cut."""
    stock_world.start("ABC", appendEntriesUseBatch=True)
    stock_world.elect("A")
    stock_world.run(1.0)
    stock_world.disconnect("AB")
    seconds = 0.0

    def watch() -> None:
        nonlocal seconds
        if [node.state for node in stock_world.nodes.values()].count("leader") > 1:
            seconds += 0.02

    stock_world.run(40.0, watch)
    assert seconds > 20.0


def test_stock_node_that_returns_deposes_a_healthy_leader(stock_world: StockWorld) -> None:
    a, b, _c = stock_world.start("ABC", appendEntriesUseBatch=True)
    stock_world.elect("A")
    stock_world.run(1.0)
    stock_world.isolate("B")
    b._SyncObj__onReadonlyNodeConnected(SimNode("0"))  # one monitoring client makes it campaign
    stock_world.run(30.0)
    assert a.state == "leader"
    assert a.term == 1
    assert b.term > 20
    stock_world.connect("AB", "BC")
    states = set()
    stock_world.run(1.0, lambda: states.add(a.state))
    assert states != {"leader"}
    assert a.term > 20
