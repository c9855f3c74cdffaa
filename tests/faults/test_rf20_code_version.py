"""RF-20: stock does not count an entry that switches to a code version it does not know, and goes on, so
the node that lags behind applies a later entry twice. Ours has no code versions in the log: a payload
of an unknown format stops the node with UnknownFormat, and the core hands out every index exactly once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgpack
import pytest
from pysyncobj.syncobj import replicated

from dqlite_py.command import decode_header
from dqlite_py.errors import RaftInvariantBroken, UnknownFormat
from dqlite_py.model import Entry, EntryKind, LogIndex, Term
from tests.faults.ours import CoreWorld, payloads, propose_all
from tests.faults.ours_applier import applying, units
from tests.faults.ours_host import hosted
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


def test_ours_is_closed() -> None:
    """A payload of a later format is refused by name, before any of it takes effect."""
    later = msgpack.packb([2, 1, "main", 0, bytes(16), None, []])
    with pytest.raises(UnknownFormat) as caught:
        decode_header(later)
    assert "2" in str(caught.value.details["version"])


def test_ours_hands_out_every_index_once() -> None:
    """Also to nodes that lag, restart, and get a snapshot."""
    world = CoreWorld("ABC")
    a = world.elect("A")
    world.isolate("C")
    propose_all(a, payloads("one", 20))
    world.pump("AB")
    world.heartbeat("A", among="AB")
    world.connect("AC", "BC")
    world.run(1_000)
    world.restart("B")
    world.connect_all()
    propose_all(a, payloads("two", 20))
    world.run(2_000)
    for name in "ABC":
        node = world[name]
        assert node.applied == payloads("one", 20) + payloads("two", 20)
        indexes = [entry.index for entry in node.applied_entries]
        assert indexes == list(range(1, node.last_index + 1))


async def test_ours_has_no_code_versions() -> None:
    async with hosted() as here:
        with pytest.raises(RaftInvariantBroken):
            here.host.setCodeVersion(1)


async def test_ours_stops_before_what_it_does_not_know(tmp_path: Path) -> None:
    """Nothing of the unknown entry, and nothing after it, is applied here: no node runs ahead with a hole."""
    later = Entry(
        LogIndex(2), Term(1), EntryKind.COMMAND, msgpack.packb([2, 1, "main", 0, bytes(16), None, []])
    )
    async with applying(tmp_path / "node") as node:
        with pytest.raises(UnknownFormat):
            node.commit(
                units(1, ("CREATE TABLE t(v)", [])), later, units(3, ("INSERT INTO t VALUES (1)", []))
            )
        await node.reached(1)
        assert await node.query("SELECT v FROM t") == []
        assert node.applier.applied_index == 1
