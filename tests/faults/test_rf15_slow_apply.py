"""RF-15: stock applies inside the tick loop, so an apply longer than the election timeout costs the
leadership on a perfect network. Ours applies on a thread per database; the loop goes on ticking,
sending heartbeats and answering."""

from __future__ import annotations

import random

import pysyncobj.syncobj as upstream
import pytest

from tests.faults.stock import StockWorld

pytestmark = pytest.mark.rf("RF-15")


def test_stock_has_the_fault(stock_world: StockWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """The leader is inside apply() for 1.5 s; its buffers keep what the others send meanwhile."""
    for seed in range(5):
        monkeypatch.setattr(upstream, "random", random.Random(seed))
        stock_world.reset()
        a = stock_world.start("ABC")[0]
        stock_world.elect("A")
        for node in stock_world.nodes.values():
            node.hold_elections(node._SyncObj__generateRaftTimeout())
        stock_world.run(0.5)
        assert a.state == "leader"
        busy_until = stock_world.now + 1.5
        while stock_world.now < busy_until:
            stock_world.now += 0.02
            for name in "BC":
                stock_world.nodes[name].doTick(0)
            for source, target in ("BC", "CB", "AB", "AC"):
                stock_world.deliver(source, target)
        stock_world.run(1.0)
        assert max(node.term for node in stock_world.nodes.values()) > 1
