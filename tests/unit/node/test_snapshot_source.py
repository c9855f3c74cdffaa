"""The serving side: copies are shared, reused, dropped, refused with a reason; the node is never harmed."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dqlite_py.errors import MalformedMessage, NotLeader, SnapshotUnavailable
from dqlite_py.limits import DISK_RESERVE_BYTES
from dqlite_py.model import LogIndex, NodeId
from dqlite_py.node.snapshot_source import PinnedState
from dqlite_py.node.snapshot_wire import BeginRequest, ChunkRequest, Offer, Preparing, begin_reply_from_wire
from tests.support.snapshots import CountingDisk, Source, serving, threads, until


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with threads() as executor:
        yield executor


async def begin(source: Source, minimum_index: int = 0, resume: bytes | None = None) -> Offer:
    while True:
        body = BeginRequest(LogIndex(minimum_index), resume).to_wire()
        reply = begin_reply_from_wire(await source.source.begin(None, body))
        if isinstance(reply, Offer):
            return reply


async def chunk(source: Source, request: ChunkRequest) -> Any:
    return await source.source.chunk(None, request.to_wire())


async def test_followers_share_one_copy(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    async with serving(str(tmp_path), executor) as source:
        source.add("main", 20)
        offers = await asyncio.gather(*(begin(source) for _ in range(5)))
        source.writers[0].apply()
        offers.append(await begin(source, minimum_index=20))
        assert len({offer.id for offer in offers}) == 1
        assert offers[0].manifest.index == 20
        assert len(os.listdir(tmp_path / "outgoing")) == 1
        assert source.source.oldest_index_in_use == 20
    assert os.listdir(tmp_path / "outgoing") == []


async def test_a_copy_is_reused_while_the_log_continues_it(
    tmp_path: Path, executor: ThreadPoolExecutor
) -> None:
    async with serving(str(tmp_path), executor) as source:
        source.add("main", 20)
        first = await begin(source)
        source.writers[0].apply()
        source.first_log_index = 21  # the log begins right after the copy: it still continues it
        assert await begin(source) == first
        source.first_log_index = 22
        second = await begin(source)
        assert second.manifest.index == 21
        # Whoever has part of an older copy goes on with it, unless the log has lost its continuation (RF-7).
        assert await begin(source, resume=first.id) == second
        source.first_log_index = 1
        assert await begin(source, resume=first.id) == first
        assert await begin(source, resume=bytes(16)) == second


@pytest.mark.rf("RF-22")
async def test_copies_are_bounded(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    async with serving(str(tmp_path), executor) as source:
        source.add("main", 20)
        offers = []
        for _ in range(4):
            offers.append(await begin(source, minimum_index=source.index))
            source.writers[0].apply()
        assert len(os.listdir(tmp_path / "outgoing")) == 2
        with pytest.raises(SnapshotUnavailable, match="not offered here any more"):
            await chunk(source, ChunkRequest(offers[0].id, 0, 0, 100))
        assert await chunk(source, ChunkRequest(offers[3].id, 0, 0, 100))


async def test_an_unused_copy_is_dropped(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    async with serving(str(tmp_path), executor, keep_ms=400) as source:
        source.add("main", 20)
        offer = await begin(source)
        for _ in range(20):  # used every 50 ms for a second: kept
            await chunk(source, ChunkRequest(offer.id, 0, 0, 100))
            await asyncio.sleep(0.05)
        await until(lambda: not os.listdir(tmp_path / "outgoing"))
        assert source.source.oldest_index_in_use is None
        with pytest.raises(SnapshotUnavailable):
            await chunk(source, ChunkRequest(offer.id, 0, 0, 100))


async def test_left_overs_are_removed_at_the_start(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    left = tmp_path / "outgoing" / "00ff"
    left.mkdir(parents=True)
    (left / "main.db").write_bytes(b"x")
    async with serving(str(tmp_path), executor):
        assert os.listdir(tmp_path / "outgoing") == []


async def test_preparing_is_answered_with_progress(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    async with serving(str(tmp_path), executor, wait_ms=20) as source:
        source.add("main", 20)
        may_go_on = threading.Event()
        source.disk.exists = lambda path: may_go_on.wait(30) and os.path.exists(path)  # type: ignore[method-assign]
        body = BeginRequest(LogIndex(0), None).to_wire()
        assert isinstance(begin_reply_from_wire(await source.source.begin(None, body)), Preparing)
        await until(lambda: source.source._total_bytes)
        for _ in range(3):
            reply = begin_reply_from_wire(await source.source.begin(None, body))
            assert reply == Preparing(0, source.pins[0].size_bytes)
        may_go_on.set()
        assert (await begin(source)).manifest.index == 20


async def test_cancelled_callers_stop_no_copy(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    async with serving(str(tmp_path), executor) as source:
        source.add("main", 20)
        waiting = asyncio.create_task(begin(source))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert (await begin(source)).manifest.index == 20
        assert len(os.listdir(tmp_path / "outgoing")) == 1


async def test_a_full_disk_harms_only_the_follower(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    disk = CountingDisk()
    async with serving(str(tmp_path), executor, disk=disk) as source:
        source.add("main", 20)
        disk.free = DISK_RESERVE_BYTES + 1000
        for _ in range(2):
            with pytest.raises(SnapshotUnavailable, match=r"a copy of \d+ bytes does not fit"):
                await begin(source)
        assert os.listdir(tmp_path / "outgoing") == []
        source.writers[0].apply()
        source.writers[0].checkpoint()  # BUSY if a pin were left
        disk.free = None
        assert (await begin(source)).manifest.index == 21


@pytest.mark.parametrize("error", [NotLeader("not now"), OSError(5, "io error")])
async def test_a_pin_that_fails_is_told(
    tmp_path: Path, executor: ThreadPoolExecutor, error: Exception
) -> None:
    async def fail() -> PinnedState:
        raise error

    async with serving(str(tmp_path), executor) as source:
        source.source._pin_all = fail
        with pytest.raises(SnapshotUnavailable, match="could not make a snapshot"):
            await begin(source)


async def test_a_damaged_database_is_not_offered(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    async with serving(str(tmp_path), executor) as source:
        source.add("main", 20)
        source.add("other", 20)
        pin_all = source.pin_all

        async def wrong_hash() -> PinnedState:
            state = await pin_all()
            state.databases[1].state_hash ^= 1
            return state

        source.source._pin_all = wrong_hash
        with pytest.raises(SnapshotUnavailable, match="database file of this node is damaged"):
            await begin(source)
        assert os.listdir(tmp_path / "outgoing") == []
        for writer in source.writers:
            writer.checkpoint()


async def test_an_index_not_applied_yet_is_told(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    async with serving(str(tmp_path), executor) as source:
        source.add("main", 20)
        with pytest.raises(SnapshotUnavailable, match="has not applied log index 21"):
            await begin(source, minimum_index=21)
        source.writers[0].apply()
        assert (await begin(source, minimum_index=21)).manifest.index == 21


async def test_wrong_chunks_are_refused(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    async with serving(str(tmp_path), executor) as source:
        source.add("main", 20)
        offer = await begin(source)
        size = offer.files[0].size_bytes
        for request in (
            ChunkRequest(offer.id, 1, 0, 1),
            ChunkRequest(offer.id, 0, size, 1),
            ChunkRequest(offer.id, 0, size - 1, 2),
        ):
            with pytest.raises(MalformedMessage):
                await chunk(source, request)
        for body in (None, {}, {"id": offer.id, "file": "../../x", "offset": 0, "size": 1}):
            with pytest.raises(MalformedMessage):
                await source.source.chunk(None, body)
            with pytest.raises(MalformedMessage):
                await source.source.begin(None, body)


async def test_a_copy_whose_file_is_gone_is_not_offered_again(
    tmp_path: Path, executor: ThreadPoolExecutor
) -> None:
    async with serving(str(tmp_path), executor) as source:
        source.add("main", 20)
        offer = await begin(source)
        os.unlink(tmp_path / "outgoing" / offer.id.hex() / "main.db")
        with pytest.raises(SnapshotUnavailable, match="cannot be read"):
            await chunk(source, ChunkRequest(offer.id, 0, 0, 1))
        assert (await begin(source)).id != offer.id


async def test_stop_ends_a_copy_under_way(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    async with serving(str(tmp_path), executor, wait_ms=10) as source:
        source.add("main", 200, rows=20, size=3000)
        body = BeginRequest(LogIndex(0), None).to_wire()
        waiting = asyncio.create_task(source.source.begin(None, body))
        await until(lambda: source.pins)
        async with asyncio.timeout(30):
            await source.source.stop()
        await asyncio.wait({waiting})
        assert os.listdir(tmp_path / "outgoing") == []
        source.writers[0].checkpoint()
        with pytest.raises(SnapshotUnavailable, match="stopping"):
            await begin(source)
        with pytest.raises(SnapshotUnavailable, match="stopping"):
            await chunk(source, ChunkRequest(bytes(16), 0, 0, 1))


async def test_several_databases_at_different_indexes(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    async with serving(str(tmp_path), executor) as source:
        source.add("zeta", 20)
        source.add("alpha", 25)
        offer = await begin(source)
        assert [(d.name, d.applied_index) for d in offer.manifest.databases] == [("alpha", 25), ("zeta", 20)]
        assert offer.manifest.index == 20
        assert [file.size_bytes for file in offer.files] == [
            pinned.size_bytes for pinned in source.pins[::-1]
        ]
        assert NodeId(3) in offer.manifest.configuration.voters


async def test_a_node_without_databases_has_a_snapshot_too(
    tmp_path: Path, executor: ThreadPoolExecutor
) -> None:
    async with serving(str(tmp_path), executor) as source:
        offer = await begin(source)
        assert offer.files == ()
        assert offer.manifest.index == 1
