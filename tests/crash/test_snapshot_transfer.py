"""A receiver fails or is killed at every I/O call and at random moments: it resumes or starts over, and ends equal."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dqlite_py.errors import Error
from dqlite_py.limits import SNAPSHOT_CHUNK_BYTES
from dqlite_py.model import NodeId
from dqlite_py.node import snapshot_incoming
from dqlite_py.node.snapshot_wire import CHUNK
from dqlite_py.ports import SystemDisk
from dqlite_py.storage.manifest import Manifest
from dqlite_py.storage.state_folder import StateFolder
from tests.support.snapshot_receiver import serve
from tests.support.snapshots import (
    CLUSTER,
    CountingDisk,
    SimulatedKill,
    Source,
    contents,
    fetcher,
    manifest,
    serving,
    threads,
)

pytestmark = [pytest.mark.rf("RF-7"), pytest.mark.timeout(400)]  # many whole transfers each
ROOT = Path(__file__).resolve().parents[2]
OLD = manifest(1)


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with threads() as executor:
        yield executor


def prepared(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    StateFolder.open(str(path), SystemDisk(), CLUSTER).write_manifest(OLD)


async def fetch_and_activate(
    source: Source, path: Path, executor: ThreadPoolExecutor, disk: SystemDisk
) -> None:
    folder = StateFolder.open(str(path), disk, CLUSTER)
    fetched = await fetcher(source, folder, executor, disk).fetch(NodeId(3))
    await asyncio.get_running_loop().run_in_executor(
        executor, folder.activate, fetched.generation_path, fetched.manifest
    )


def check(source: Source, path: Path, new: Manifest) -> bool:
    """The folder opens as old or new, whole; gives whether it is new."""
    folder = StateFolder.open(str(path), SystemDisk(), CLUSTER)
    if folder.manifest == OLD:
        assert folder.list_databases() == []
        return False
    assert folder.manifest == new
    for writer in source.writers:
        assert contents(folder.database_path(writer.name)) == contents(writer.path)
    assert os.listdir(folder.incoming_path) == []
    return True


@pytest.mark.parametrize(
    "error",
    [SimulatedKill, lambda: OSError(errno.EIO, "io error"), lambda: OSError(errno.ENOSPC, "no space left")],
    ids=["kill", "io", "full"],
)
async def test_every_io_call_fails_once(
    tmp_path: Path,
    executor: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
    error: Callable[[], BaseException],
) -> None:
    """Open, resume, fetch, verify, move and activate with call n failing; then a restart without failures."""
    monkeypatch.setattr(snapshot_incoming, "SNAPSHOT_CHUNK_BYTES", 8192)
    monkeypatch.setattr(snapshot_incoming, "SNAPSHOT_SYNC_BYTES", 16384)
    path = tmp_path / "follower"
    async with serving(str(tmp_path / "leader"), executor) as source:
        source.add("main", 5)
        source.add("other", 1)
        prepared(path)
        await fetch_and_activate(source, path, executor, SystemDisk())
        new = StateFolder.open(str(path), SystemDisk(), CLUSTER).manifest
        outcomes = set()
        for at in range(1, 500):
            prepared(path)
            disk = CountingDisk(at, error)
            failed = False
            try:
                await fetch_and_activate(source, path, executor, disk)
            except (Error, OSError, SimulatedKill):
                failed = True
            if disk.calls < at:
                break
            is_new = check(source, path, new)
            assert failed or is_new, f"call {at}: {disk.log[-1]}"
            outcomes.add(is_new)
            if not is_new:
                await fetch_and_activate(source, path, executor, SystemDisk())
                assert check(source, path, new)
        else:
            raise AssertionError("no end of calls")
        assert outcomes == {False, True}
        assert at > 60


async def receiver(port: int, folder: Path, kill_at: int = 0) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.snapshot_receiver", str(port), str(folder), str(kill_at)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )


def offsets(source: Source) -> list[int]:
    asked = [body["offset"] for method, body in source.calls if method == CHUNK]
    source.calls.clear()
    return asked


@pytest.mark.slow
async def test_killed_at_chosen_calls(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    """kill -9 from within, at calls spread over the whole transfer; after each a restart on the same folder."""
    path = tmp_path / "follower"
    async with serving(str(tmp_path / "leader"), executor) as source:
        source.add("main", 60, rows=120, size=4000)
        server = await serve(source)
        port = server.sockets[0].getsockname()[1]
        prepared(path)
        whole = await receiver(port, path)
        output, _ = await whole.communicate()
        calls, new = int(output), StateFolder.open(str(path), SystemDisk(), CLUSTER).manifest
        resumed = 0
        for at in sorted({*range(5, calls, calls // 4), *range(calls - 21, calls, 5)}):
            prepared(path)
            offsets(source)
            killed = await receiver(port, path, at)
            await killed.communicate()
            assert killed.returncode == -signal.SIGKILL
            if not check(source, path, new):
                first = offsets(source)
                again = await receiver(port, path)
                await again.communicate()
                assert again.returncode == 0
                second = offsets(source)
                resumed += bool(second) and second[0] > 0
                assert not second or second[0] <= max(first, default=0) + SNAPSHOT_CHUNK_BYTES
                assert check(source, path, new)
        assert resumed > 0
        server.close()


@pytest.mark.slow
async def test_killed_at_random_moments(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    """kill -9 from outside, again and again on one folder, until a receiver gets through."""
    seed = random.randrange(2**32)
    print("seed", seed)
    chosen = random.Random(seed)
    path = tmp_path / "follower"
    async with serving(str(tmp_path / "leader"), executor) as source:
        source.add("main", 60, rows=120, size=4000)
        server = await serve(source)
        port = server.sockets[0].getsockname()[1]
        new: Manifest | None = None
        for _ in range(2):
            prepared(path)
            for attempt in range(50):
                wanted = chosen.randrange(1, 12) + attempt
                seen = len(source.calls)
                process = await receiver(port, path)
                async with asyncio.timeout(200):
                    while process.returncode is None and len(source.calls) < seen + wanted:  # noqa: ASYNC110
                        await asyncio.sleep(0.001)
                    await asyncio.sleep(chosen.random() * 0.05)
                    if process.returncode is None and attempt < 6:
                        process.kill()
                    await process.communicate()
                folder = StateFolder.open(str(path), SystemDisk(), CLUSTER)
                if folder.manifest != OLD:
                    new = new or folder.manifest
                    break
            assert new is not None
            assert check(source, path, new)
        server.close()
