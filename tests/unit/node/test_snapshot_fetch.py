"""The receiving side: what arrives is what was offered, resumes where it can, and trusts nothing before that."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dqlite_py.errors import (
    Error,
    InterfaceError,
    MalformedMessage,
    SnapshotDamaged,
    SnapshotUnavailable,
    StorageFull,
    UnknownFormat,
    WrongCluster,
)
from dqlite_py.limits import DISK_RESERVE_BYTES, MIB, SNAPSHOT_CHUNK_BYTES, SNAPSHOT_CHUNKS_INFLIGHT
from dqlite_py.model import LogIndex, NodeId
from dqlite_py.node import snapshot_incoming
from dqlite_py.node.snapshot_fetch import FetchPhase, SnapshotFetcher
from dqlite_py.node.snapshot_wire import BEGIN, CHUNK, Preparing
from dqlite_py.ports import SystemDisk
from dqlite_py.storage.manifest import MANIFEST_MAGIC, SETTINGS_VERSION, Manifest
from dqlite_py.storage.sealedfile import seal
from dqlite_py.storage.state_folder import StateFolder
from tests.support.snapshots import (
    CLUSTER,
    CONFIGURATION,
    CountingDisk,
    Source,
    Writer,
    contents,
    fetcher,
    manifest,
    serving,
    threads,
    until,
)

LEADER = NodeId(3)


class Lost(Exception):
    """The connection to the source broke."""


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with threads() as executor:
        yield executor


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    return StateFolder.open(str(tmp_path / "follower"), SystemDisk(), CLUSTER)


def lose_after(chunks: int) -> Callable[[str, Any], Any]:
    """A `before` hook: the source is lost at the given chunk request."""
    seen = 0

    def hook(method: str, body: Any) -> None:
        nonlocal seen
        if method == CHUNK:
            seen += 1
            if seen > chunks:
                raise Lost

    return hook


def chunks_asked(source: Source) -> list[tuple[int, int]]:
    return [(body["file"], body["offset"]) for method, body in source.calls if method == CHUNK]


async def install(fetch: SnapshotFetcher, folder: StateFolder) -> None:
    fetched = await fetch.fetch(LEADER, minimum_index=LogIndex(1))
    assert fetched.snapshot == fetched.manifest.snapshot
    folder.activate(fetched.generation_path, fetched.manifest)


async def test_a_follower_becomes_equal(
    tmp_path: Path, executor: ThreadPoolExecutor, folder: StateFolder
) -> None:
    async with serving(str(tmp_path / "leader"), executor) as source:
        first, second = source.add("main", 60, rows=30, size=2000), source.add("other", 5)
        expected = contents(first.path), contents(second.path)
        fetch = fetcher(source, folder, executor)
        fetched = await fetch.fetch(LEADER)
        first.apply()
        assert fetch.progress.phase is FetchPhase.IDLE
        assert fetched.snapshot == (5, 1, CONFIGURATION)
        assert folder.manifest.index == 0
        folder.activate(fetched.generation_path, fetched.manifest)
    reopened = StateFolder.open(str(tmp_path / "follower"), SystemDisk(), CLUSTER)
    assert reopened.list_databases() == ["main", "other"]
    assert (contents(reopened.database_path("main")), contents(reopened.database_path("other"))) == expected
    assert os.listdir(reopened.incoming_path) == []
    for name in reopened.list_databases():
        writer = Writer(reopened.database_path(name))  # the received file can be written on
        reopened.check_database(name, writer.applied_index)
        writer.apply()
        writer.close()


async def test_a_snapshot_without_databases(
    tmp_path: Path, executor: ThreadPoolExecutor, folder: StateFolder
) -> None:
    async with serving(str(tmp_path / "leader"), executor) as source:
        await install(fetcher(source, folder, executor), folder)
    assert folder.manifest == manifest(1)


async def test_writes_during_the_whole_transfer(
    tmp_path: Path, executor: ThreadPoolExecutor, folder: StateFolder
) -> None:
    async with serving(str(tmp_path / "leader"), executor) as source:
        writer = source.add("main", 60, rows=30, size=2000)
        expected = contents(writer.path)

        def write(method: str, body: Any) -> None:
            if source.pins:
                writer.apply(rows=10, size=2000)
                writer.checkpoint_passive()

        source.before = write
        await install(fetcher(source, folder, executor), folder)
        assert contents(folder.database_path("main")) == expected != contents(writer.path)


@pytest.mark.rf("RF-7")
@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("lost_after", [0, 1, 3, 5])
async def test_a_lost_source_is_resumed(
    tmp_path: Path,
    executor: ThreadPoolExecutor,
    folder: StateFolder,
    monkeypatch: pytest.MonkeyPatch,
    restart: bool,
    lost_after: int,
) -> None:
    """No byte is fetched twice that was durable, by the same process or a restarted one."""
    monkeypatch.setattr(snapshot_incoming, "SNAPSHOT_SYNC_BYTES", 2 * SNAPSHOT_CHUNK_BYTES)
    async with serving(str(tmp_path / "leader"), executor) as source:
        writer = source.add("main", 60, rows=60, size=2000)
        expected = contents(writer.path)
        source.before = lose_after(lost_after)
        with pytest.raises(Lost):
            await install(fetcher(source, folder, executor), folder)
        # The chunks before the first lost one are written, in order; later ones in flight may be lost.
        source.before = lambda method, body: None
        source.calls.clear()
        writer.apply()
        if restart:
            folder = StateFolder.open(str(tmp_path / "follower"), SystemDisk(), CLUSTER)
        await install(fetcher(source, folder, executor), folder)
        asked = chunks_asked(source)
        assert asked[0] == (0, lost_after * SNAPSHOT_CHUNK_BYTES)
        assert asked == sorted(set(asked))
        assert contents(folder.database_path("main")) == expected


async def test_another_copy_is_started_over(
    tmp_path: Path, executor: ThreadPoolExecutor, folder: StateFolder
) -> None:
    async with serving(str(tmp_path / "leader"), executor) as source:
        writer = source.add("main", 60, rows=60, size=2000)
        source.before = lose_after(3)
        with pytest.raises(Lost):
            await install(fetcher(source, folder, executor), folder)
        first = os.listdir(folder.incoming_path)
        source.before = lambda method, body: None
        source.calls.clear()
        writer.apply()
        source.first_log_index = source.index + 1  # the log has lost what follows the first copy
        await install(fetcher(source, folder, executor), folder)
        assert chunks_asked(source)[0] == (0, 0)
        assert first != os.listdir(folder.incoming_path) == []
        assert contents(folder.database_path("main")) == contents(writer.path)


async def test_another_source_is_started_over(
    tmp_path: Path, executor: ThreadPoolExecutor, folder: StateFolder
) -> None:
    """The source dies in the middle; another node, at the same index, has another copy: no byte is mixed."""
    async with serving(str(tmp_path / "a"), executor) as source:
        source.add("main", 60, rows=60, size=2000)
        source.before = lose_after(3)
        with pytest.raises(Lost):
            await install(fetcher(source, folder, executor), folder)
    async with serving(str(tmp_path / "b"), executor) as other:
        writer = other.add("main", 60, rows=60, size=2000)
        await install(fetcher(other, folder, executor), folder)
        assert chunks_asked(other)[0] == (0, 0)
        assert contents(folder.database_path("main")) == contents(writer.path)


async def test_cancelling_keeps_what_has_arrived(
    tmp_path: Path, executor: ThreadPoolExecutor, folder: StateFolder
) -> None:
    async with serving(str(tmp_path / "leader"), executor) as source:
        writer = source.add("main", 60, rows=60, size=2000)
        hanging = asyncio.Event()

        async def hang() -> None:
            hanging.set()
            await asyncio.Event().wait()

        source.before = lambda method, body: hang() if method == CHUNK and body["offset"] >= 3 * MIB else None
        fetch = fetcher(source, folder, executor)
        task = asyncio.create_task(fetch.fetch(LEADER))
        await hanging.wait()
        await until(lambda: fetch.progress.done_bytes >= 3 * MIB)
        with pytest.raises(InterfaceError, match="already"):
            await fetch.fetch(LEADER)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        source.before = lambda method, body: None
        source.calls.clear()
        await install(fetch, folder)
        assert chunks_asked(source)[0] == (0, 3 * MIB)
        assert contents(folder.database_path("main")) == contents(writer.path)


async def test_few_chunks_are_in_flight(
    tmp_path: Path, executor: ThreadPoolExecutor, folder: StateFolder
) -> None:
    async with serving(str(tmp_path / "leader"), executor) as source:
        source.add("main", 60, rows=60, size=2000)
        flying, most = 0, 0

        async def fly() -> None:
            nonlocal flying, most
            flying += 1
            most = max(most, flying)
            await asyncio.sleep(0.005)
            flying -= 1

        source.before = lambda method, body: fly() if method == CHUNK else None
        await install(fetcher(source, folder, executor), folder)
        assert 1 < most <= SNAPSHOT_CHUNKS_INFLIGHT


async def test_progress_is_visible(tmp_path: Path, executor: ThreadPoolExecutor, folder: StateFolder) -> None:
    async with serving(str(tmp_path / "leader"), executor) as source:
        source.add("main", 60, rows=60, size=2000)
        fetch = fetcher(source, folder, executor)
        seen = []
        source.before = lambda method, body: seen.append(fetch.progress)
        task = asyncio.create_task(fetch.fetch(LEADER))
        while not task.done():
            seen.append(fetch.progress)
            await asyncio.sleep(0)
        phases = [progress.phase for progress in seen]
        assert {FetchPhase.PREPARING, FetchPhase.FETCHING, FetchPhase.VERIFYING} <= set(phases)
        done = [progress.done_bytes for progress in seen if progress.phase is FetchPhase.FETCHING]
        assert done == sorted(done)
        assert done[-1] == (await task).manifest.databases[0].page_count * 4096


@pytest.mark.rf("RF-22")
async def test_preparing_is_asked_again_without_spinning(
    tmp_path: Path, executor: ThreadPoolExecutor, folder: StateFolder
) -> None:
    """A source that answers "preparing" at once and never gets on is asked a few times, then given up (RF-22)."""
    async with serving(str(tmp_path / "leader"), executor) as source:
        source.add("main", 5)
        source.after = lambda method, reply: Preparing(0, 100).to_wire()
        with pytest.raises(SnapshotUnavailable, match="no progress"):
            await fetcher(source, folder, executor, stall_s=0.7).fetch(LEADER)
        assert 2 <= len(source.calls) <= 6


def flip(body: dict[str, Any]) -> dict[str, Any]:
    data = bytearray(body["data"])
    data[len(data) // 2] ^= 1
    return body | {"data": bytes(data)}


async def test_a_damaged_chunk_is_asked_for_again(
    tmp_path: Path, executor: ThreadPoolExecutor, folder: StateFolder
) -> None:
    async with serving(str(tmp_path / "leader"), executor) as source:
        writer = source.add("main", 60, rows=60, size=2000)
        seen: set[int] = set()

        def damage_once(method: str, reply: Any) -> Any:
            if method != CHUNK or reply["crc32c"] in seen:
                return reply
            seen.add(reply["crc32c"])
            return flip(reply)

        source.after = damage_once
        await install(fetcher(source, folder, executor), folder)
        assert len(chunks_asked(source)) == 2 * len(seen)
        assert contents(folder.database_path("main")) == contents(writer.path)


async def test_a_source_that_sends_only_damage_is_given_up(
    tmp_path: Path, executor: ThreadPoolExecutor, folder: StateFolder
) -> None:
    async with serving(str(tmp_path / "leader"), executor) as source:
        source.add("main", 5)
        source.after = lambda method, reply: flip(reply) if method == CHUNK else reply
        with pytest.raises(SnapshotDamaged, match="damaged 3 times"):
            await fetcher(source, folder, executor).fetch(LEADER)
        assert folder.list_databases() == []


def relabel(**changes: Any) -> Callable[[str, Any], Any]:
    """An `after` hook that changes the offered manifest."""

    def hook(method: str, reply: Any) -> Any:
        if method != BEGIN:
            return reply
        value = Manifest.from_bytes(reply["manifest"], "x")
        fields = {
            "cluster_id": value.cluster_id,
            "index": value.index,
            "term": value.term,
            "configuration": value.configuration,
            "databases": value.databases,
        } | {key: change(value) for key, change in changes.items()}
        return reply | {"manifest": Manifest(**fields).to_bytes()}

    return hook


def with_database(**changes: Any) -> Callable[[str, Any], Any]:
    from dataclasses import replace

    return relabel(databases=lambda value: tuple(replace(d, **changes) for d in value.databases))


@pytest.mark.parametrize(
    ("after", "error"),
    [
        (relabel(cluster_id=lambda value: b"x" * 16), WrongCluster),
        (relabel(index=lambda value: LogIndex(value.index - 1)), SnapshotUnavailable),
        (with_database(state_hash=1), SnapshotDamaged),
        (with_database(applied_index=LogIndex(6)), SnapshotDamaged),
        (with_database(name="..x"), MalformedMessage),
        (with_database(page_count=2**31), MalformedMessage),
        (
            lambda m, reply: (
                reply | {"manifest": seal(MANIFEST_MAGIC, SETTINGS_VERSION + 1, [])} if m == BEGIN else reply
            ),
            UnknownFormat,
        ),
        (
            lambda m, reply: reply | {"files": [[reply["files"][0][0], 7]]} if m == BEGIN else reply,
            SnapshotDamaged,
        ),
        (lambda m, reply: reply | {"files": []} if m == BEGIN else reply, MalformedMessage),
        (lambda m, reply: None, MalformedMessage),
        (lambda m, reply: {"state": "ready"}, MalformedMessage),
    ],
)
async def test_an_offer_that_lies_changes_nothing(
    tmp_path: Path, executor: ThreadPoolExecutor, folder: StateFolder, after: Any, error: type[Error]
) -> None:
    async with serving(str(tmp_path / "leader"), executor) as source:
        writer = source.add("main", 5)

        def lie(method: str, reply: Any) -> Any:
            try:
                return after(method, reply)
            except InterfaceError:  # our own encoder refuses: forge the bytes
                return _forged(reply)

        source.after = lie
        with pytest.raises(error):
            await fetcher(source, folder, executor).fetch(LEADER, minimum_index=LogIndex(5))
        assert (folder.manifest, folder.list_databases()) == (Manifest.empty(CLUSTER), [])
        assert sorted(os.listdir(tmp_path / "follower/state")) == ["CURRENT", "g1"]
        # Nothing of the lie is resumed: an honest answer is taken.
        source.after = lambda method, reply: reply
        await install(fetcher(source, folder, executor), folder)
        assert contents(folder.database_path("main")) == contents(writer.path)


def _forged(reply: Any) -> Any:
    value = Manifest.from_bytes(reply["manifest"], "x")
    rows = [["..x", d.applied_index, d.state_hash.to_bytes(8, "big"), d.page_count] for d in value.databases]
    members = value.configuration.to_wire()
    body = [value.cluster_id, value.index, value.term, value.configuration.index, members, rows]
    return reply | {"manifest": seal(MANIFEST_MAGIC, 1, body)}


async def test_bytes_that_are_no_database(
    tmp_path: Path, executor: ThreadPoolExecutor, folder: StateFolder
) -> None:
    """Right lengths and checksums all the way, but not SQLite."""
    from dqlite_py.nativelib import crc32c

    async with serving(str(tmp_path / "leader"), executor) as source:
        source.add("main", 5)

        def rubbish(method: str, reply: Any) -> Any:
            if method == BEGIN:
                size = reply["files"][0][0]
                return reply | {"files": [[size, crc32c(b"r" * size)]]}
            data = b"r" * len(reply["data"])
            return {"data": data, "crc32c": crc32c(data)}

        source.after = rubbish
        with pytest.raises(SnapshotDamaged, match="SQLite header"):
            await fetcher(source, folder, executor).fetch(LEADER)
        assert os.listdir(folder.incoming_path) == []


@pytest.mark.rf("RF-6")
async def test_an_older_snapshot_is_refused(
    tmp_path: Path, executor: ThreadPoolExecutor, folder: StateFolder
) -> None:
    """A snapshot below our own compaction point would leave a hole in the log (RF-6, RF-7)."""
    folder.write_manifest(manifest(50))
    async with serving(str(tmp_path / "leader"), executor) as source:
        source.add("main", 20)
        with pytest.raises(SnapshotUnavailable, match="not 50 or later"):
            await fetcher(source, folder, executor).fetch(LEADER)
        assert chunks_asked(source) == []


async def test_no_space_is_known_before_the_first_chunk(
    tmp_path: Path, executor: ThreadPoolExecutor, folder: StateFolder
) -> None:
    async with serving(str(tmp_path / "leader"), executor) as source:
        writer = source.add("main", 20)
        disk = CountingDisk()
        disk.free = DISK_RESERVE_BYTES + 10_000
        with pytest.raises(StorageFull, match="more bytes are needed"):
            await fetcher(source, folder, executor, disk).fetch(LEADER)
        assert chunks_asked(source) == []
        disk.free = None
        await install(fetcher(source, folder, executor, disk), folder)
        assert contents(folder.database_path("main")) == contents(writer.path)


@pytest.mark.parametrize(
    "damage", ["progress flipped", "progress cut", "data shorter", "data gone", "data flipped"]
)
async def test_a_damaged_partial_snapshot_is_started_over(
    tmp_path: Path, executor: ThreadPoolExecutor, folder: StateFolder, damage: str
) -> None:
    async with serving(str(tmp_path / "leader"), executor) as source:
        writer = source.add("main", 60, rows=60, size=2000)
        source.before = lose_after(3)
        with pytest.raises(Lost):
            await fetcher(source, folder, executor).fetch(LEADER)
        partial = Path(folder.incoming_path, os.listdir(folder.incoming_path)[0])
        file = partial / ("PROGRESS" if damage.startswith("progress") else "0.db")
        data = file.read_bytes()
        middle = len(data) // 2
        if damage.endswith("gone"):
            file.unlink()
        elif damage.endswith("flipped"):
            file.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
        else:
            file.write_bytes(data[:middle])
        source.before = lambda method, body: None
        source.calls.clear()
        if damage == "data flipped":  # only the checksum of the whole file can tell
            with pytest.raises(SnapshotDamaged, match="checksum"):
                await fetcher(source, folder, executor).fetch(LEADER)
            assert chunks_asked(source)[0] == (0, 3 * MIB)
            source.calls.clear()
        await install(fetcher(source, folder, executor), folder)
        assert chunks_asked(source)[0] == (0, 0)
        assert contents(folder.database_path("main")) == contents(writer.path)
