"""RF-7: stock's snapshot chunks carry no position, a load error is swallowed and the follower answers
"installed" with the end of its own divergent log, so an isolated leader commits alone. Ours names
snapshot and offset in every chunk, verifies the whole before it is installed, and reports a match only
for what the installed state covers."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dqlite_py.errors import Error, SnapshotDamaged
from dqlite_py.limits import MIB, SNAPSHOT_CHUNK_BYTES
from dqlite_py.model import LogIndex, NodeId
from dqlite_py.nativelib import crc32c
from dqlite_py.node.snapshot_wire import CHUNK
from dqlite_py.ports import SystemDisk
from dqlite_py.storage.state_folder import StateFolder
from tests.faults.ours import CoreWorld, node_id, payloads, propose_all
from tests.faults.stock import Outcomes, SimNode, StockWorld
from tests.support.snapshots import CLUSTER, contents, fetcher, serving, threads

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


class Lost(Exception):
    """The connection to the source broke."""


async def fetch_through(folder: Path, disturb: Callable[[str, Any], Any]) -> tuple[StateFolder, Any]:
    """Fetch a database of a few chunks while `disturb` loses or alters answers; until it succeeds or is refused.

    Returns the receiver's state folder and the error of the last attempt, or None and the database is in place.
    """
    error: Exception | None = None
    with threads() as executor:
        async with serving(str(folder / "source"), executor) as source:
            source.add("main", entries=10, rows=100, size=4_000, keys=900)
            source.after = disturb
            target = StateFolder.open(str(folder / "target"), SystemDisk(), CLUSTER)
            for _ in range(20):
                fetch = fetcher(source, target, executor)
                try:
                    fetched = await fetch.fetch(NodeId(3), minimum_index=LogIndex(1))
                except Lost as lost:
                    error = lost
                    continue
                except Error as refused:
                    return target, refused
                assert fetched.manifest.index == 10
                target.activate(fetched.generation_path, fetched.manifest)
                assert contents(target.database_path("main")) == contents(source.writers[0].path)
                return target, None
    return target, error


async def test_ours_continues_a_transfer_without_a_hole(tmp_path: Path) -> None:
    """Every second chunk's answer is lost with its connection: what arrives in the end is what was sent."""
    answers = 0

    def lose(method: str, reply: Any) -> Any:
        nonlocal answers
        answers += method == CHUNK
        if method == CHUNK and answers % 2 == 0:
            raise Lost
        return reply

    target, error = await fetch_through(tmp_path, lose)
    assert error is None
    assert target.manifest.index == 10
    assert answers > 2 * SNAPSHOT_CHUNK_BYTES // MIB


def swapped(chunks: list[Any], reply: Any) -> Any:
    """The answer to another request of the same size (the last chunk is smaller, and answers come in any order)."""
    if len(reply["data"]) < SNAPSHOT_CHUNK_BYTES:
        return reply
    chunks.append(reply)
    return chunks[0] if len(chunks) == 2 else reply


def zeroed(chunks: list[Any], reply: Any) -> Any:
    """A chunk of zeros with a right checksum: as if the source had a hole."""
    chunks.append(reply)
    empty = bytes(len(reply["data"]))
    return {**reply, "data": empty, "crc32c": crc32c(empty)} if len(chunks) == 2 else reply


@pytest.mark.parametrize("alter", [swapped, zeroed])
async def test_ours_proves_the_whole_before_it_is_installed(
    tmp_path: Path, alter: Callable[[list[Any], Any], Any]
) -> None:
    """Each chunk looks right by itself, and nothing of the node's state changes."""
    chunks: list[Any] = []
    target, error = await fetch_through(
        tmp_path, lambda method, reply: alter(chunks, reply) if method == CHUNK else reply
    )
    assert isinstance(error, SnapshotDamaged)
    assert target.generation == 1
    assert target.manifest.index == 0
    assert target.list_databases() == []
