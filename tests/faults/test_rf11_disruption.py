"""RF-11: stock has no pre-vote and no leader stickiness, and a leader without a majority steps down after
30 s. Ours asks for pre-votes, refuses votes while a leader is heard, and steps down within an election
timeout without a quorum, so a cut-off node neither leads on nor deposes anybody when it returns."""

from __future__ import annotations

import pytest

from tests.faults.ours import CoreWorld
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


def test_ours_is_closed() -> None:
    """One link is cut for 40 s: C still hears A and refuses B; one leader of one term all the time."""
    world = CoreWorld("ABC")
    a = world.elect("A")
    world.run(1_000)
    term = a.term
    world.disconnect("AB")
    seen: set[tuple[str, ...]] = set()
    world.run(40_000, watch=lambda: seen.add(tuple(world.leaders())))
    assert seen == {("A",)}
    assert {node.term for node in world.nodes.values()} == {term}


def test_ours_steps_down_within_an_election_timeout() -> None:
    world = CoreWorld("ABC")
    a = world.elect("A")
    world.run(1_000)
    world.isolate("A")
    took = world.run_until(lambda: not a.is_leader, ms=5_000)
    assert took <= 2 * world.settings.election_max_ms


def test_ours_never_has_two_leaders_for_long() -> None:
    """A new leader exists before the old one knows; it can only be for a moment, and in a later term."""
    world = CoreWorld("ABC")
    a = world.elect("A")
    world.run(1_000)
    world.isolate("A")
    both_ms = 0.0

    def watch() -> None:
        nonlocal both_ms
        if len(world.leaders()) > 1:
            both_ms += 20
            assert len({world[name].term for name in world.leaders()}) == len(world.leaders())

    world.run(10_000, watch=watch)
    assert not a.is_leader
    assert len(world.leaders()) == 1
    assert both_ms <= 2 * world.settings.election_max_ms


def test_ours_that_returns_deposes_nobody() -> None:
    world = CoreWorld("ABC")
    a = world.elect("A")
    world.run(1_000)
    term = a.term
    world.isolate("B")
    world.run(30_000)
    assert world["B"].term == term  # pre-votes change no term
    world.connect("AB", "BC")
    seen: set[tuple[str, ...]] = set()
    world.run(5_000, watch=lambda: seen.add(tuple(world.leaders())))
    assert seen == {("A",)}
    assert {node.term for node in world.nodes.values()} == {term}


def test_ours_tells_a_deposed_leader() -> None:
    """A stale leader hears of the newer term from the first follower that it reaches."""
    world = CoreWorld("ABC")
    a = world.elect("A")
    stale = a.core
    world.isolate("A")
    world.elect("B", among="BC")
    assert stale.is_leader
    world.connect("AC")
    world.heartbeat("A", among="AC", rounds=1)
    assert not stale.is_leader
    assert stale.term == world["C"].term
