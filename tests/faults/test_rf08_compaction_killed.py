"""RF-8: stock's compaction rewrites the journal file in place, and dump and trim are not one step, so that
kill -9 in the middle destroys acknowledged entries. Ours makes the state durable BEFORE whole journal
segments that it covers are unlinked; nothing is ever rewritten, and a snapshot becomes current by one
rename."""

from __future__ import annotations

import asyncio
import random
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pysyncobj.journal import FileJournal

from dqlite_py.errors import CorruptState
from dqlite_py.model import Address, Configuration, LogIndex, NodeId, Snapshot, Term
from dqlite_py.node.applier import Applier
from dqlite_py.node.compaction import Compaction
from dqlite_py.node.startup import create_folder, open_folder
from dqlite_py.raft.core import RaftCore
from dqlite_py.raft.journal import Identity, Journal, JournalBatch
from dqlite_py.raft.settings import RaftSettings
from dqlite_py.storage.state_folder import StateFolder
from tests.faults.stock import Outcomes, StockNode, StockWorld
from tests.support.faultdisk import FaultDisk, Loss, PowerLoss
from tests.support.journals import CLUSTER, FOLDER, contents, entries, open_journal

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


LAST = 60


def write(journal: Journal, first: int, last: int) -> None:
    batch = JournalBatch(reset=None, hard_state=None, truncate_from=None, entries=entries(first, last))
    journal.write([batch])


class Worker:
    """An apply thread whose database has applied, and durably holds, what it is told."""

    def __init__(self, applied_index: int) -> None:
        self.applied_index = self.durable_index = applied_index
        self.state_hash, self.page_count = 1, 1
        self.engine = None

    def checkpoint_full(self) -> None:
        """Durable already."""

    def request_checkpoint(self) -> None:
        """Durable already."""

    def call(self, function: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(self))
        return future


class Machine:
    """A disk with a journal of 60 entries and a state folder with one database, and the node's compaction."""

    def __init__(self) -> None:
        self.disk = FaultDisk(FOLDER)
        self.journal = open_journal(self.disk)
        for first in range(1, LAST, 4):
            write(self.journal, first, first + 3)
        self.folder = StateFolder.open(FOLDER, self.disk, CLUSTER)
        self.disk.put(self.folder.database_path("main"), b"a database file")

    def compaction(self, applied_index: int, **options: Any) -> Compaction:
        async def at_once(function: Any, *args: Any) -> Any:
            return function(*args)

        applier = Applier(
            loop=asyncio.get_running_loop(),
            folder=self.folder,
            on_worker=at_once,
            wants_results=lambda _index: False,
            on_applied=lambda *_: None,
            on_divergence=lambda *_: None,
            on_opened=lambda: None,
            on_fatal=lambda _error: None,
        )
        applier.dispatched_index = applied_index
        applier.workers = {"main": Worker(applied_index)}
        core = SimpleNamespace(
            snapshot_at=lambda index: Snapshot(index, Term(1), Configuration()),
            compacted=lambda snapshot, first_index: None,
        )
        return Compaction(
            loop=asyncio.get_running_loop(),
            core=core,
            journal=self.journal,
            folder=self.folder,
            applier=lambda: applier,
            on_journal_thread=at_once,
            on_worker=at_once,
            tail_bytes=0,
            **options,
        )


async def test_ours_is_closed() -> None:
    """The power fails, or the process is killed, at every single step of a compaction: no entry is nowhere."""
    points = 0
    while True:
        points += 1
        for loss in Loss:
            machine = Machine()
            disk = machine.disk
            await machine.compaction(20).compact()
            disk.power_fails_at = disk.change_count + points
            try:
                await machine.compaction(40).compact()
            except PowerLoss:
                finished = False
            else:
                finished = True
            found = disk.after_power_loss(loss, seed=points)
            folder = StateFolder.open(FOLDER, found, CLUSTER)
            journal = open_journal(found, create=False)
            assert folder.manifest.index in ((40,) if finished else (20, 40))
            assert journal.base_index <= folder.manifest.index
            assert journal.last_index == LAST
            assert contents(journal) == entries(journal.first_index, LAST)
        if finished:
            break
    assert points > 10
    assert machine.journal.first_index > 20  # and it does drop what the state covers


async def test_ours_makes_the_state_durable_before_it_drops_the_log() -> None:
    """A database that is not durable yet (a reader is in the way) postpones the compaction."""
    machine = Machine()
    compaction = machine.compaction(40)
    compaction._applier().workers["main"].durable_index = 30
    await compaction.compact()
    assert machine.folder.manifest.index == 0
    assert machine.journal.first_index == 1


async def test_ours_does_not_start_with_a_lost_database() -> None:
    """Stock led with an empty database; ours stops: the log before the manifest's index is gone."""
    machine = Machine()
    await machine.compaction(40).compact()
    machine.disk.remove(machine.folder.database_path("main"))
    with pytest.raises(CorruptState, match="missing"):
        StateFolder.open(FOLDER, machine.disk, CLUSTER)


@pytest.mark.parametrize("victim", ["MANIFEST", "CURRENT"])
async def test_ours_does_not_start_with_a_torn_record_of_its_state(victim: str) -> None:
    machine = Machine()
    await machine.compaction(40).compact()
    (path,) = [path for path in machine.disk.tree() if path.endswith("/" + victim)]
    machine.disk.put(path, machine.disk.contents(path)[:-3])
    with pytest.raises(CorruptState):
        StateFolder.open(FOLDER, machine.disk, CLUSTER)


async def test_ours_switches_to_a_received_snapshot_in_one_step() -> None:
    """The power fails at every step of putting a snapshot in place: the old state or the new one, whole."""
    points = 0
    while True:
        points += 1
        for loss in Loss:
            machine = Machine()
            disk = machine.disk
            await machine.compaction(20).compact()
            path = machine.folder.begin_generation()
            fd = disk.open(f"{path}/main.db", create=True)
            disk.pwrite(fd, b"a newer database file", 0)
            disk.close(fd)
            old = machine.folder.manifest
            new = replace(
                old, index=LogIndex(50), databases=(replace(old.databases[0], applied_index=LogIndex(50)),)
            )
            disk.power_fails_at = disk.change_count + points
            try:
                machine.folder.activate(path, new)
            except PowerLoss:
                finished = False
            else:
                finished = True
            found = disk.after_power_loss(loss, seed=points)
            folder = StateFolder.open(FOLDER, found, CLUSTER)
            wanted = {20: b"a database file", 50: b"a newer database file"}
            assert folder.manifest.index in ((50,) if finished else (20, 50))
            assert found.contents(folder.database_path("main")) == wanted[folder.manifest.index]
        if finished:
            break
    assert points > 5


@pytest.mark.parametrize("term", [1, 8])
def test_ours_starts_after_a_crash_behind_the_switch_to_a_snapshot(term: int) -> None:
    """The state folder is switched, journal and hard state have not followed: the next start finishes it, also
    when the snapshot was made in a later term than this node has heard of (its source followed a new leader)."""
    disk = FaultDisk(FOLDER)
    identity = Identity(CLUSTER, NodeId(7), 0)
    opened = create_folder(disk, FOLDER, identity, bootstrap=Address("a:1"))
    path = opened.state.begin_generation()
    manifest = replace(opened.state.manifest, index=LogIndex(50), term=Term(term))
    opened.state.activate(path, manifest)
    opened.journal.close()
    found = disk.after_power_loss(Loss.DROP)
    opened = open_folder(found, FOLDER, identity)
    core = RaftCore(
        node_id=identity.node_id,
        settings=RaftSettings(),
        random=random.Random(1),
        hard_state=opened.journal.hard_state,
        snapshot=opened.state.manifest.snapshot,
        log=opened.log,
        applied_index=opened.state.manifest.index,
        now_ms=0.0,
    )
    assert core.last_index == 50
    assert core.term >= term
    opened.journal.close()


async def test_the_log_behind_a_snapshot_that_is_fetched_is_kept() -> None:
    """Whoever fetches for long would find, when it is done, that the log does not continue what it has."""
    fetched: LogIndex | None = LogIndex(20)
    machine = Machine()
    assert await machine.compaction(50, fetched_index=lambda: fetched).compact() == 50
    assert 1 < machine.journal.first_index <= 21
    await machine.compaction(54, fetched_index=lambda: fetched, fetched_bytes=0).compact()
    assert machine.journal.first_index > 21, "not for ever: only so many bytes"
    kept = Machine()
    fetched = None
    await kept.compaction(50, fetched_index=lambda: fetched).compact()
    assert kept.journal.first_index > 21
