"""RF-4: stock counts vote messages, so a duplicate counts twice and read-only clients may vote. Ours keeps
votes as a set of member ids and counts only voters of the configuration in force."""

from __future__ import annotations

import pytest

from tests.faults.stock import StockWorld

pytestmark = pytest.mark.rf("RF-4")


def test_stock_has_the_fault(stock_world: StockWorld) -> None:
    a, _b, c, _d, _e = stock_world.start("ABCDE")
    a.campaign()
    stock_world.deliver("A", "B")
    vote = stock_world.queue("B", "A")[-1]
    stock_world.hand("B", "A", vote)
    stock_world.hand("B", "A", dict(vote))
    assert a.state == "leader"  # with the votes of A and B: two of five
    c.campaign()
    for voter in "DE":
        stock_world.queue("A", voter).clear()
        stock_world.deliver("C", voter)
        stock_world.deliver(voter, "C")
    assert c.state == "leader"
    assert a.term == c.term == 1  # two leaders in one term


def test_stock_lets_strangers_vote(stock_world: StockWorld) -> None:
    a = stock_world.start("ABCDE")[0]
    a.campaign()
    for client in ("0", "1"):  # what stock calls connections that only said "readonly"
        stock_world.hand(client, "A", {"type": "response_vote", "term": 1})
    assert a.state == "leader"
