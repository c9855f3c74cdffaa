"""RF-2: stock acknowledges entries that no fsync, fdatasync or msync has made durable. Ours acknowledges
only what a majority has fdatasynced: the core counts a node only when told that its journal batch is
durable, and after a power cut the journal holds every entry it was told so about."""

from __future__ import annotations

import asyncio
import mmap
import os
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pysyncobj.journal as stock_journal
import pytest

from dqlite_py.errors import JournalFailed
from dqlite_py.model import LogIndex, NodeId, Snapshot, Term
from dqlite_py.ports import SystemDisk
from dqlite_py.raft.effects import Effects
from dqlite_py.raft.journal import Journal, JournalBatch, JournalThread, group, python_group
from dqlite_py.raft.messages import AppendReply
from tests.faults.ours import CoreWorld, Image, Node, configuration, payloads, propose_all
from tests.faults.ours_host import command, hosted
from tests.faults.stock import Outcomes, StockWorld
from tests.support.faultdisk import FaultDisk, Loss, PowerLoss
from tests.support.journals import FOLDER, contents, entries, open_journal
from tests.support.wire import until

pytestmark = pytest.mark.rf("RF-2")


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_stock_has_the_fault(
    stock_world: StockWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs: Counter[str] = Counter()

    class CountingMap(mmap.mmap):
        def flush(self, *args: Any) -> None:
            syncs["msync"] += 1
            super().flush(*args)

    def counting(name: str) -> Any:
        real = getattr(os, name)

        def call(*args: Any) -> Any:
            syncs[name] += 1
            return real(*args)

        return call

    monkeypatch.setattr(stock_journal, "mmap", SimpleNamespace(mmap=CountingMap))
    for name in ("fsync", "fdatasync", "sync"):
        monkeypatch.setattr(os, name, counting(name))
    a, b, c = stock_world.start("ABC", journalFile=str(tmp_path / "%s.journal"))
    stock_world.elect("A")
    outcomes = Outcomes()
    for value in range(50):
        a.op(value, callback=outcomes.callback(value))
    stock_world.settle()
    assert len(outcomes.succeeded()) == 50
    assert a.data == b.data == c.data
    assert not syncs  # acknowledged by all three, and nobody has asked the disk for anything
    folder = os.open(tmp_path, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
    assert syncs == {"fsync": 1}  # the counter counts


def batch_of(effects: Effects) -> JournalBatch:
    reset = effects.journal_reset
    return JournalBatch(
        reset=None if reset is None else (reset.index, reset.term),
        hard_state=effects.hard_state,
        truncate_from=effects.truncate_from,
        entries=effects.entries,
    )


def put_on_disk(node: Node, disk: FaultDisk) -> None:
    """What the core hands over goes to a real journal; the core hears of it when `write` returned."""
    journal = open_journal(disk)
    node.on_sync = lambda effects: journal.write([batch_of(effects)])


def image_on(disk: FaultDisk) -> Image:
    journal = open_journal(disk, create=False)
    base = Snapshot(LogIndex(0), Term(0), configuration("ABC"))
    return Image(journal.hard_state, base, contents(journal))


def write_until_the_power_fails(world: CoreWorld) -> None:
    for payload in payloads("value", 1_000):
        world["A"].propose(payload)
        world.pump()


@pytest.mark.parametrize("loss", list(Loss))
@pytest.mark.parametrize("seed", range(3))
def test_ours_is_closed(loss: Loss, seed: int) -> None:
    """The power fails on all three at once, in the middle of a disk operation: what was acknowledged is there."""
    world = CoreWorld("ABC", seed=seed)
    disks = {name: FaultDisk(FOLDER) for name in "ABC"}
    for name, disk in disks.items():
        put_on_disk(world[name], disk)
    a = world.elect("A")
    # Each disk dies at a change of its own choosing, some while they write and some while they sync.
    for place, disk in enumerate(disks.values()):
        disk.power_fails_at = disk.change_count + 40 + 7 * seed + place
    with pytest.raises(PowerLoss):
        write_until_the_power_fails(world)
    acknowledged = list(a.acknowledged)
    assert acknowledged
    world = CoreWorld()
    for place, name in enumerate("ABC"):
        world.start(name, image=image_on(disks[name].after_power_loss(loss, seed + place)))
    world.connect_all()
    world.run_until(lambda: bool(world.leaders()))
    world.run(2_000)
    for name in "ABC":
        assert world[name].applied[: len(acknowledged)] == acknowledged


def test_ours_counts_nothing_that_is_not_durable() -> None:
    """Stored by all three and synced by none: not acknowledged. Synced by two: acknowledged, whoever they are."""
    for synced in ("AB", "AC", "BC"):
        world = CoreWorld("ABC")
        a = world.elect("A")
        for name in "ABC":
            world[name].disk_works = False
        propose_all(a, payloads("value", 5))
        world.pump()
        assert all(node.last_index == a.last_index for node in world.nodes.values())
        world.heartbeat("A")  # what the heartbeats' answers say, too
        assert a.acknowledged == []
        world[synced[0]].sync()
        world.pump()
        assert a.core.commit_index < a.last_index
        world[synced[1]].sync()
        world.pump()
        assert a.core.commit_index == a.last_index
        assert a.applied == (payloads("value", 5) if "A" in synced else [])  # only what is durable HERE
        a.sync()
        assert a.acknowledged == payloads("value", 5)


def test_ours_reports_a_batch_after_its_sync_and_shares_syncs() -> None:
    disk = FaultDisk(FOLDER)
    journal = open_journal(disk, segment_bytes=2**20, step_bytes=2**19)
    reported: list[int] = []
    at_sync: list[int] = []
    gate = threading.Event()

    def before_sync() -> None:
        at_sync.append(len(reported))
        gate.wait(20)

    thread = JournalThread(journal)
    disk.before_sync = before_sync
    syncs = disk.sync_count
    thread.start()
    for index in range(1, 101):
        batch = JournalBatch(reset=None, hard_state=None, truncate_from=None, entries=entries(index, index))
        thread.submit(batch, lambda error, index=index: reported.append(0 if error else index))
    gate.set()
    thread.stop()
    assert reported == list(range(1, 101))
    assert at_sync[0] == 0  # nobody hears before the first sync begins, still less before it ends
    assert disk.sync_count - syncs < 50  # many batches, few syncs
    disk.before_sync = None
    found = disk.after_power_loss(Loss.DROP)
    assert contents(open_journal(found, create=False)) == entries(1, 100)


def test_ours_never_acknowledges_after_a_failed_sync() -> None:
    """The kernel may have dropped the pages: a later sync that succeeds proves nothing about them."""
    disk = FaultDisk(FOLDER)
    thread = JournalThread(open_journal(disk))
    thread.start()
    heard: list[BaseException | None] = []
    disk.fails_on_sync = True

    def submit(index: int) -> None:
        batch = JournalBatch(reset=None, hard_state=None, truncate_from=None, entries=entries(index, index))
        thread.submit(batch, heard.append)

    submit(1)
    thread.submit_task(lambda: setattr(disk, "fails_on_sync", False), lambda _error: None)
    submit(2)
    submit(3)
    thread.stop()
    assert [type(error) for error in heard] == [JournalFailed] * 3


async def test_ours_holds_acknowledgements_back_until_the_disk_has_the_entries() -> None:
    """A follower's host, journal thread and disk together."""
    async with hosted() as here:
        here.follow("B", (0, 0), command(1, 1))
        await until(lambda: bool(here.sent(AppendReply)), "the first entry is acknowledged")
        gate, syncing = threading.Event(), threading.Event()

        def slow() -> None:
            syncing.set()
            gate.wait(20)

        here.disk.before_sync = slow
        for index in range(2, 7):
            here.follow("B", (index - 1, 1), command(index, 1))
        await until(syncing.is_set, "the entries are on their way to the disk")
        for _ in range(20):
            await asyncio.sleep(0)
        assert here.core.last_index == 6
        assert max(reply.match_index for reply in here.sent(AppendReply)) == 1
        gate.set()
        await until(lambda: here.sent(AppendReply)[-1].match_index == 6, "all are acknowledged")
        assert here.journal.last_index == 6


def test_ours_asks_the_real_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stock never calls: after the last byte of a group was written, fdatasync of the same file.

    In Python; that C does it too is seen from below, by tests/jepsen/test_faults_preload.py.
    """
    calls: list[tuple[str, int]] = []
    pwrite, fdatasync = os.pwrite, os.fdatasync

    def noted_pwrite(fd: int, data: bytes, offset: int) -> int:
        calls.append(("pwrite", fd))
        return pwrite(fd, data, offset)

    def noted_fdatasync(fd: int) -> None:
        calls.append(("fdatasync", fd))
        fdatasync(fd)

    monkeypatch.setattr(group, "_chosen", python_group)
    monkeypatch.setattr(os, "pwrite", noted_pwrite)
    monkeypatch.setattr(os, "fdatasync", noted_fdatasync)
    journal = Journal.open(SystemDisk(), str(tmp_path), cluster_id=bytes(16), node_id=NodeId(1), create=True)
    for index in range(1, 4):
        calls.clear()
        batch = JournalBatch(reset=None, hard_state=None, truncate_from=None, entries=entries(index, index))
        journal.write([batch])
        (_, written), (last, synced) = calls[-2:]
        assert last == "fdatasync"
        assert synced == written
    journal.close()
