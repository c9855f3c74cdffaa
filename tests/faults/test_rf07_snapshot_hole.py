"""RF-7: stock's snapshot chunks carry no position, a load error is swallowed and the follower answers
"installed" with the end of its own divergent log, so an isolated leader commits alone. Ours names
snapshot and offset in every chunk, verifies the whole before it is installed, and reports a match only
for what the installed state covers."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.faults.ours import CoreWorld, node_id, payloads, propose_all
from tests.faults.stock import Outcomes, SimNode, StockWorld

pytestmark = pytest.mark.rf("RF-7")


def test_stock_has_the_fault(stock_world: StockWorld) -> None:
    world, noise = stock_world, random.Random(7)
    a, b, c = world.start("ABC", logCompactionBatchSize=512)
    world.elect("A")
    world.isolate("A")
    for value in range(60):
        a.op(f"isolated{value}")
    a.doTick(0)
    world.elect("B", among="BC")
    for _ in range(25):
        b.op(noise.randbytes(200).hex())
        b.doTick(0)
        world.pump("BC")
    world.settle("BC")
    b.forceLogCompaction()
    b.doTick(0)
    b.doTick(0)
    world.settle("BC")

    def slow_chunks(_source: str, _target: str, message: Any) -> None:
        if message.get("serialized"):
            world.now += 0.03

    world.on_send = slow_chunks
    world.connect("AB")
    blinked, acknowledgements = False, []
    for step in range(40):
        world.now += 0.11
        b.doTick(0)
        world.pump("BC")
        if step > 1 and not blinked and any(m.get("serialized") for m in world.queue("B", "A")):
            blinked = True
            world.disconnect("AB")  # the chunks on their way are lost, both ends notice
            world.connect("AB")
            continue
        world.deliver("B", "A")
        for node in (a, c):
            node.hold_elections()
        a.doTick(0)
        acknowledgements += [
            m for m in world.queue("A", "B") if m["type"] == "next_node_idx" and m["success"]
        ]
        world.deliver("A", "B")
        if acknowledgements:
            break
    assert blinked
    assert acknowledgements
    assert not set(a.data) & set(b.data)  # nothing was installed
    assert b.private("raftMatchIndex")[SimNode("A")] > b.last_index
    world.on_send = None
    world.isolate("B")
    outcomes = Outcomes()
    b.op("precious", callback=outcomes.callback("precious"))
    b.doTick(0)
    b.doTick(0)
    assert outcomes.succeeded() == ["precious"]  # by a leader that nobody hears


def test_ours_is_closed() -> None:
    """The transfer breaks off again and again; what the follower's old log ends with never counts."""
    world = CoreWorld("ABC")
    a = world.elect("A")
    world.isolate("A")
    propose_all(a, payloads("isolated", 60))
    b = world.elect("B", among="BC")
    propose_all(b, payloads("new", 25))
    world.pump("BC")
    world.heartbeat("B", among="BC")
    b.compact()
    world.isolate("C")
    world.connect("AB")
    committed = b.core.commit_index
    propose_all(b, payloads("precious", 60))  # up to indexes that A's old log has, too
    assert b.last_index > a.last_index
    for _ in range(5):
        world.run(300)
        a.core.snapshot_failed(world.now)  # a damaged chunk, a lost source
        world.disconnect("AB")
        world.connect("AB")
    assert len(a.offers) >= 2
    assert b.is_leader  # A answers, so B has its quorum; but nothing is stored on two nodes
    assert b.core.peers[node_id("A")].match_index <= committed
    assert b.core.commit_index == committed
    assert b.acknowledged == payloads("new", 25)
    a.install_from(b)
    world.run(1_000)
    assert b.acknowledged == payloads("new", 25) + payloads("precious", 60)
    assert a.applied == b.applied
