"""RF-9: stock lets any number of configuration changes be under way, uses each at once, and takes the
start arguments after a restart. Ours takes the latest configuration in log or snapshot, allows one
change of one voter at a time and only after an entry of the current term is committed, and rolls back
what is truncated."""

from __future__ import annotations

import pytest

from tests.faults.stock import Outcomes, SimNode, StockWorld

pytestmark = pytest.mark.rf("RF-9")


def test_stock_has_the_fault(stock_world: StockWorld) -> None:
    """An isolated leader removes both others and commits alone; so do the others without it."""
    a, b, c = stock_world.start("ABC", dynamicMembershipChange=True)
    stock_world.elect("A")
    stock_world.isolate("A")
    outcomes = Outcomes()
    for peer in "BC":
        a.removeNodeFromCluster(SimNode(peer), callback=outcomes.callback(f"remove {peer}"))
    a.op("only on A", callback=outcomes.callback("only on A"))
    for _ in range(3):
        a.doTick(0)
    stock_world.elect("B", among="BC")
    b.op("only on B", callback=outcomes.callback("only on B"))
    stock_world.settle("BC")
    assert sorted(outcomes.succeeded()) == ["only on A", "only on B", "remove B", "remove C"]
    assert a.data == ["only on A"]
    assert b.data == c.data == ["only on B"]


def test_stock_starts_from_its_arguments(stock_world: StockWorld) -> None:
    """Three nodes grew to five; two restart with the old list and elect a leader beside the other three."""
    a = stock_world.start("ABC", dynamicMembershipChange=True)[0]
    stock_world.elect("A")
    for name in "DE":
        stock_world.start_one(name, "ABCDE" if name == "E" else "ABCD", dynamicMembershipChange=True)
        a.addNodeToCluster(SimNode(name))
        a.doTick(0)
        stock_world.pump()
        stock_world.connect_all()
        stock_world.settle(rounds=12)
    assert {len(node.otherNodes) for node in stock_world.nodes.values()} == {4}
    for name in "AB":
        stock_world.crash(name)
        stock_world.start_one(name, "ABC", dynamicMembershipChange=True)
    stock_world.connect("AB")
    stock_world.elect("A", among="AB")
    stock_world.elect("C", among="CDE")
    leaders = [name for name, node in stock_world.nodes.items() if node.state == "leader"]
    assert sorted(leaders) == ["A", "C"]  # A with two of five
