"""RF-3: stock's acknowledgements carry no term, so the leader of term 3 counts one that was given in term
1 for an entry that is not there any more. Ours carries the term in every message and drops replies of
any other term."""

from __future__ import annotations

import pytest

from dqlite_py.raft.messages import AppendReply
from tests.faults.ours import CoreWorld, node_id, payloads, propose_all
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


def test_ours_is_closed() -> None:
    """The same walk through three terms; the late acknowledgement of term 1 is read in the last one."""
    world = CoreWorld("ABCDE")
    a = world.elect("A")
    world.disconnect("AC", "AD", "AE")
    propose_all(a, payloads("first", 10))
    world.deliver("A", "B")
    late = [m for m in world.queue("B", "A") if isinstance(m, AppendReply)][-1]
    assert late.match_index == a.last_index
    first_term = a.term
    world.disconnect("AB")
    c = world.elect("C", among="BCDE")
    world.connect("AC")
    world.heartbeat("C", rounds=6)
    assert a.log() == world["B"].log() == c.log()
    world.isolate("C")
    world.disconnect("BD", "BE")
    world.connect("AD", "AE")
    world.elect("A", among="ADE")
    assert a.term > first_term
    world.disconnect("AE", "DE")
    precious = payloads("precious", 10)
    propose_all(a, precious)
    world.pump("AD")
    assert late.match_index <= a.last_index  # it would reach these entries
    before = a.core.commit_index
    world.hand("A", late)
    assert a.core.peers[node_id("B")].match_index == 0
    assert a.core.commit_index == before
    assert a.acknowledged == []  # on two of five, and known to be so
    world.connect("AE")
    world.heartbeat("A", among="ADE")
    assert a.acknowledged == precious  # the third makes it true
