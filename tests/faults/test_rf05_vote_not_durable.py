"""RF-5: stock forgets term and vote at a restart unless it has a journal file, and reads a damaged meta
file as "never voted" without a word. Ours writes term and vote to two checked slots and fdatasyncs them
BEFORE any message that reveals them leaves; damage of both slots stops the node with CorruptState."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from dqlite_py.errors import CorruptState
from dqlite_py.model import HardState, NodeId, Term
from dqlite_py.ports import SystemDisk
from dqlite_py.raft.journal import HardStateFile
from dqlite_py.raft.journal.hardstate import SLOT_OFFSETS
from dqlite_py.raft.messages import VoteReply, VoteRequest
from tests.faults.ours import CoreWorld, node_id
from tests.faults.ours_host import hosted
from tests.faults.stock import StockNode, StockWorld
from tests.support.wire import until

pytestmark = pytest.mark.rf("RF-5")


def leaders_after_a_restart_of_the_voter(
    world: StockWorld, damage: Path | None, **conf: Any
) -> list[StockNode]:
    """B votes for A in term 1, restarts, and is asked by C for its vote in term 1."""
    a, _b, c = world.start("ABC", **conf)
    world.disconnect("AC")
    a.campaign()
    world.deliver("A", "B")
    world.deliver("B", "A")
    assert a.state == "leader"
    world.disconnect("AB")
    world.crash("B")
    if damage is not None:
        assert damage.stat().st_size > 0
        damage.write_bytes(b"")  # what a power cut leaves of a file that was renamed without fsync
    world.start_one("B", "ABC", **conf)
    world.connect("BC")
    c.campaign()
    world.deliver("C", "B")
    world.deliver("B", "C")
    return [node for node in (a, c) if node.state == "leader" and node.term == 1]


def test_stock_has_the_fault(stock_world: StockWorld) -> None:
    assert len(leaders_after_a_restart_of_the_voter(stock_world, damage=None)) == 2


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damaged", [False, True])
def test_stock_swallows_damage_of_the_meta_file(
    stock_world: StockWorld, tmp_path: Path, damaged: bool
) -> None:
    leaders = leaders_after_a_restart_of_the_voter(
        stock_world,
        damage=tmp_path / "B.journal.meta" if damaged else None,
        journalFile=str(tmp_path / "%s.journal"),
    )
    assert len(leaders) == (2 if damaged else 1)


def vote_request(world: CoreWorld, candidate: str, term: int) -> VoteRequest:
    node = world[candidate]
    log = node.core.log
    return VoteRequest(node_id(candidate), Term(term), False, log.last_index, log.last_term, False)


def votes_for(world: CoreWorld, candidate: str) -> list[VoteReply]:
    sent = [m for _, target, m in world.sent if target == candidate and isinstance(m, VoteReply)]
    return [reply for reply in sent if reply.granted and not reply.pre]


def test_ours_is_closed() -> None:
    """B votes for A, loses power and is asked by C: it remembers, because it did not answer before it could."""
    world = CoreWorld("ABC")
    b = world["B"]
    b.disk_works = False
    world.hand("B", vote_request(world, "A", 1))
    assert votes_for(world, "A") == []  # not durable: not said
    b.sync()
    assert len(votes_for(world, "A")) == 1
    b = world.restart("B")
    assert b.core.voted_for == node_id("A")
    world.now += world.settings.election_min_ms  # it votes for nobody before
    world.connect_all()
    world.hand("B", vote_request(world, "C", 1))
    assert votes_for(world, "C") == []
    world.hand("B", vote_request(world, "A", 1))
    assert len(votes_for(world, "A")) == 2  # the same candidate may hear of it again


def test_ours_never_said_what_it_forgets() -> None:
    """The power fails before the vote is on the disk: C gets it, and A was never promised it."""
    world = CoreWorld("ABC")
    world["B"].disk_works = False
    world.hand("B", vote_request(world, "A", 1))
    world.restart("B")
    world.connect_all()
    world.hand("B", vote_request(world, "C", 1))
    assert votes_for(world, "A") == []
    assert len(votes_for(world, "C")) == 1


def test_ours_does_not_count_its_own_vote_before_it_is_durable() -> None:
    world = CoreWorld("ABC")
    a = world["A"]
    a.disk_works = False
    world.now += 10_000
    a.campaign()
    for _ in range(3):
        world.pump()
    assert a.state == "candidate"
    assert votes_for(world, "A") == []  # nobody was even asked: the request would reveal the term
    a.sync()
    world.pump()
    assert a.is_leader


def damage(path: Path, *slots: int) -> None:
    data = bytearray(path.read_bytes())
    for slot in slots:
        data[SLOT_OFFSETS[slot] + 50] ^= 1
    path.write_bytes(data)


CLUSTER, NODE = b"cluster of tests", NodeId(2)


def reopened(path: Path) -> HardState:
    file = HardStateFile.open(SystemDisk(), str(path), cluster_id=CLUSTER, node_id=NODE)
    try:
        return file.value
    finally:
        file.close()


def test_ours_keeps_the_vote_when_a_slot_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "hardstate"
    HardStateFile.create(SystemDisk(), str(path), cluster_id=CLUSTER, node_id=NODE)
    file = HardStateFile.open(SystemDisk(), str(path), cluster_id=CLUSTER, node_id=NODE)
    for term in range(1, 5):
        file.write(HardState(Term(term), NodeId(1 + term % 3)))
    vote = file.value
    file.close()
    for slot in (0, 1):
        damage(path, slot)
        assert reopened(path) == vote


@pytest.mark.parametrize("harm", ["both slots", "emptied", "removed"])
def test_ours_does_not_start_without_its_vote(tmp_path: Path, harm: str) -> None:
    path = tmp_path / "hardstate"
    HardStateFile.create(SystemDisk(), str(path), cluster_id=CLUSTER, node_id=NODE)
    file = HardStateFile.open(SystemDisk(), str(path), cluster_id=CLUSTER, node_id=NODE)
    file.write(HardState(Term(1), NodeId(1)))
    file.close()
    if harm == "both slots":
        damage(path, 0, 1)
    elif harm == "emptied":
        path.write_bytes(b"")
    else:
        path.unlink()
    with pytest.raises(CorruptState) as caught:
        reopened(path)
    assert caught.value.details["file"] == str(path)


async def test_ours_holds_the_vote_back_until_the_disk_has_it() -> None:
    """The host, the journal thread and the disk together: the sync is slow, the candidate waits."""
    async with hosted() as here:
        gate, syncing = threading.Event(), threading.Event()

        def slow() -> None:
            syncing.set()
            gate.wait(20)

        here.disk.before_sync = slow
        log = here.core.log
        request = VoteRequest(node_id("B"), Term(1), False, log.last_index, log.last_term, False)
        here.received("B", request)
        await until(syncing.is_set, "the vote is on its way to the disk")
        for _ in range(20):
            await asyncio.sleep(0)
        assert here.sent(VoteReply) == []
        gate.set()
        await until(lambda: bool(here.sent(VoteReply)), "the vote is given")
        assert here.sent(VoteReply)[0].granted
        assert here.journal.hard_state == HardState(Term(1), node_id("B"))
