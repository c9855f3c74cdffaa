"""RF-4: stock counts vote messages, so a duplicate counts twice and read-only clients may vote. Ours keeps
votes as a set of member ids and counts only voters of the configuration in force."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dqlite_py.model import NodeId, Role
from dqlite_py.raft.messages import VoteReply
from tests.faults.ours import CoreWorld, Node, member
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


def collect_votes(world: CoreWorld, candidate: str, voters: str) -> list[VoteReply]:
    """Carry requests and answers to and fro, through pre-vote and vote; returns the answers."""
    replies: list[VoteReply] = []
    for _ in range(4):
        for voter in voters:
            world.deliver(candidate, voter)
            replies += [m for m in world.queue(voter, candidate) if isinstance(m, VoteReply)]
            world.deliver(voter, candidate)
    return replies


def stand_for_election(world: CoreWorld, name: str) -> Node:
    world.now += 10_000
    world[name].campaign()
    return world[name]


def test_ours_is_closed() -> None:
    world = CoreWorld("ABCDE")
    a = stand_for_election(world, "A")
    replies = collect_votes(world, "A", "B")
    assert any(reply.granted for reply in replies)
    for reply in replies * 3:
        world.hand("A", reply)
        # Whatever phase A is in: B's word once more, for it.
        world.hand("A", reply._replace(pre=False, term=a.term, for_term=a.term))
        world.hand("A", reply._replace(pre=True, for_term=a.term + 1))
    assert not a.is_leader
    collect_votes(world, "A", "BC")
    assert a.is_leader  # with three of five


@pytest.mark.parametrize("role", [None, Role.STANDBY, Role.SPARE])
def test_ours_counts_voters_only(role: Role | None) -> None:
    """Strangers, stand-bys and spares answer as if they had been asked."""
    world = CoreWorld("ABCDE")
    a = stand_for_election(world, "A")
    strangers = [NodeId(101), NodeId(102), NodeId(103)]
    if role is not None:
        world = CoreWorld()
        voters = [member(name) for name in "ABC"]
        others = [replace(member(name), role=role) for name in "DEF"]
        for name in "ABC":
            world.start(name, members=(*voters, *others))
        world.connect_all()
        a = stand_for_election(world, "A")
        strangers = [other.id for other in others]
    for stranger in strangers:
        for pre in (True, False):
            for_term = a.term + 1 if pre else a.term
            world.hand("A", VoteReply(stranger, a.term, pre, for_term, True))
    assert not a.is_leader
    assert a.core.state.value != "leader"
