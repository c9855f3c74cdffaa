"""RF-1: stock followers delete everything after prevLogIdx although it matches, so that one overlapping
message un-stores entries they have acknowledged. Ours truncates only from the first entry whose term
conflicts, never at or below the commit index (Raft paper, figure 2, AppendEntries 3)."""

from __future__ import annotations

import pytest

from tests.faults.ours import CoreWorld, payloads, propose_all
from tests.faults.stock import Outcomes, StockWorld

pytestmark = pytest.mark.rf("RF-1")

PAD = b"x" * 30_000  # three such entries fill one stock message


def test_stock_has_the_fault(stock_world: StockWorld) -> None:
    a, b, c = stock_world.start("ABC")
    stock_world.elect("A")
    outcomes = Outcomes()
    for value in range(20):
        a.op(value, pad=PAD, callback=outcomes.callback(value))
    a.doTick(0)
    stock_world.deliver("A", "B")
    stock_world.deliver("A", "C")
    assert b.last_index == c.last_index == 22
    # The first acknowledgement rewinds the leader's next index: it sends again what is already stored.
    stock_world.deliver("B", "A", 1)
    stock_world.deliver("C", "A", 1)
    a.doTick(0)
    stock_world.deliver("B", "A")
    stock_world.deliver("C", "A")
    a.doTick(0)
    assert len(outcomes.succeeded()) == 20
    # One overlapping message arrives, then the leader is cut off.
    stock_world.deliver("A", "B", 1)
    stock_world.deliver("A", "C", 1)
    assert b.last_index < 22
    assert c.last_index < 22
    stock_world.isolate("A")
    stock_world.elect("B", among="BC")
    for value in range(100, 130):
        b.op(value)
    stock_world.settle("BC")
    lost = set(outcomes.succeeded()) - set(b.data)
    assert len(lost) == 16
    stock_world.connect("AB", "AC")
    stock_world.settle(rounds=40)
    assert a.log() == b.log()
    assert a.data != b.data  # same log, different state: diverged for good


def test_stock_truncates_applied_entries_without_any_fault(stock_world: StockWorld) -> None:
    a, b, _c = stock_world.start("ABC")
    stock_world.elect("A")
    for value in range(20):
        a.op(value, pad=PAD)
    a.doTick(0)
    stock_world.deliver("A", "B")
    stock_world.deliver("A", "C")
    stock_world.deliver("C", "A")
    a.doTick(0)
    stock_world.deliver("A", "B")
    b.doTick(0)
    assert len(b.data) == 20
    stock_world.deliver("B", "A", 1)
    stock_world.now += 0.11
    a.doTick(0)
    stock_world.deliver("A", "B", 1)
    assert b.last_index < b.raftLastApplied


def test_ours_is_closed() -> None:
    """All is stored and acknowledged, one overlapping message arrives, the leader is cut off."""
    world = CoreWorld("ABC")
    a = world.elect("A")
    values = payloads("value", 20)
    propose_all(a, values)
    first = {name: world.queue("A", name)[0] for name in "BC"}
    world.pump()
    world.heartbeat("A")
    assert a.acknowledged == values
    for name in "BC":
        last, applied = world[name].last_index, list(world[name].applied)
        for overlapping in (first[name], first[name]._replace(entries=())):
            world.hand(name, overlapping)
        assert world[name].last_index == last
        assert world[name].applied == applied
        assert world[name].truncations == []
    world.isolate("A")
    b = world.elect("B", among="BC")
    assert b.applied == values
    propose_all(b, payloads("later", 30))
    world.pump("BC")
    world.connect("AB", "AC")
    world.run(2_000)
    assert a.applied == b.applied == world["C"].applied
    assert a.log() == b.log()


def test_ours_truncates_only_from_the_first_conflict() -> None:
    """Duplicates, prefixes and reordered messages of the term that is being followed change nothing."""
    world = CoreWorld("ABC")
    a = world.elect("A")
    propose_all(a, payloads("value", 10))
    messages = list(world.queue("A", "B"))
    world.pump()
    b = world["B"]
    log = b.log()
    for message in reversed(messages):
        for length in range(len(message.entries) + 1):
            world.hand("B", message._replace(entries=message.entries[:length]))
            assert b.log() == log
    assert b.truncations == []


def test_ours_truncates_a_conflict_and_nothing_before_it() -> None:
    world = CoreWorld("ABC")
    a = world.elect("A")
    kept = payloads("kept", 5)
    propose_all(a, kept)
    world.pump()
    world.heartbeat("A")
    shared = a.last_index
    world.isolate("A")
    propose_all(a, payloads("isolated", 5))
    b = world.elect("B", among="BC")
    b.propose(b"new")
    world.pump("BC")
    world.connect("AB", "AC")
    world.run(2_000)
    assert a.truncations == [shared + 1]
    assert a.applied == [*kept, b"new"]
    assert a.acknowledged == kept
