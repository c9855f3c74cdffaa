"""RF-20: stock does not count an entry that switches to a code version it does not know, and goes on, so
the node that lags behind applies a later entry twice. Ours has no code versions in the log: a payload
of an unknown format stops the node with UnknownFormat, and the core hands out every index exactly once."""

from __future__ import annotations

from typing import Any

import pytest
from pysyncobj.syncobj import replicated

from tests.faults.stock import StockNode, StockWorld

pytestmark = pytest.mark.rf("RF-20")


class UpgradedNode(StockNode):
    """Knows a replicated method of version 1."""

    @replicated(ver=1)
    def later(self, value: Any) -> None:
        self.data.append(value)


def test_stock_has_the_fault(stock_world: StockWorld) -> None:
    a = UpgradedNode(stock_world, "A", "ABC")
    UpgradedNode(stock_world, "B", "ABC")
    c = StockNode(stock_world, "C", "ABC")  # not upgraded yet
    stock_world.connect_all()
    stock_world.elect("A")
    # The methods are numbered by version and name: the old ones keep their numbers on both.
    a.op("before")
    stock_world.settle()
    a.setCodeVersion(1)
    a.op("one")
    a.op("two")
    stock_world.settle()
    assert a.data == ["before", "one", "two"]
    assert c.data == ["before", "one", "two", "two"]
