"""RF-8: stock's compaction rewrites the journal file in place, and dump and trim are not one step, so that
kill -9 in the middle destroys acknowledged entries. Ours makes the state durable BEFORE whole journal
segments that it covers are unlinked; nothing is ever rewritten, and a snapshot becomes current by one
rename."""

from __future__ import annotations

from pathlib import Path

import pytest
from pysyncobj.journal import FileJournal

from tests.faults.stock import Outcomes, StockNode, StockWorld

pytestmark = [
    pytest.mark.rf("RF-8"),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Killed(BaseException):
    """Stands for kill -9: nothing after this point runs, the page cache survives."""


def test_stock_has_the_fault(stock_world: StockWorld, tmp_path: Path) -> None:
    """Two of three nodes are killed between the rename of the dump and the trim of the journal."""
    files = {"journalFile": str(tmp_path / "%s.journal"), "fullDumpFile": str(tmp_path / "%s.dump")}
    a, b, c = stock_world.start("ABC", **files)
    stock_world.elect("A")
    outcomes = Outcomes()
    for value in range(50):
        a.op(value, callback=outcomes.callback(value))
    stock_world.settle()
    for node in (b, c):
        node.forceLogCompaction()
        node.doTick(0)
    for value in range(50, 70):
        a.op(value, callback=outcomes.callback(value))
    a.doTick(0)
    stock_world.pump()
    a.doTick(0)
    assert len(outcomes.succeeded()) == 70
    for name in "ABC":
        stock_world.crash(name)
    for name in "BC":
        stock_world.start_one(name, "ABC", **files)
    stock_world.connect_all()
    for name in "BC":
        stock_world.nodes[name].doTick(0)
    survivor: StockNode = stock_world.elect("B", among="BC")
    assert sorted(set(outcomes.succeeded()) - set(survivor.data)) == list(range(50, 70))


def test_stock_rewrites_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = FileJournal(str(tmp_path / "journal"))
    for index in range(1, 1001):
        journal.add(b"x" * 100, index, 1)
    add, added = FileJournal.add, []

    def add_until_killed(self: FileJournal, *entry: object) -> None:
        if len(added) == 100:
            raise Killed
        added.append(entry)
        add(self, *entry)

    monkeypatch.setattr(FileJournal, "add", add_until_killed)
    with pytest.raises(Killed):
        journal.deleteEntriesTo(500)
    journal._destroy()
    journal = FileJournal(str(tmp_path / "journal"))
    assert (journal[0][1], journal[-1][1]) == (501, 600)  # 601..1000 were durable
    journal._destroy()


def test_stock_leads_with_an_empty_database(stock_world: StockWorld, tmp_path: Path) -> None:
    """The dump is torn (it was renamed without fsync): the error is swallowed."""
    files = {"journalFile": str(tmp_path / "%s.journal"), "fullDumpFile": str(tmp_path / "%s.dump")}
    a = stock_world.start("ABC", **files)[0]
    stock_world.elect("A")
    for value in range(20):
        a.op(value)
    stock_world.settle()
    a.forceLogCompaction()
    a.doTick(0)
    a.doTick(0)
    stock_world.crash("A")
    dump = tmp_path / "A.dump"
    dump.write_bytes(dump.read_bytes()[:100])
    a = stock_world.start_one("A", "ABC", **files)
    stock_world.connect_all()
    stock_world.settle(rounds=10)
    stock_world.elect("A")
    assert a.state == "leader"
    assert a.data == []
