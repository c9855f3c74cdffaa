"""What the snapshot tests share: a writer database, a disk that fails or "dies" at its n-th call, two nodes.

The writer stands in for a node's database engine: WAL, one SQL transaction per entry, the applied index
inside it. Files are real, since SQLite needs them.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import apsw

from dqlite_py.model import Address, Configuration, LogIndex, Member, NodeId, Role, Term
from dqlite_py.node.snapshot_fetch import SnapshotFetcher, Target
from dqlite_py.node.snapshot_source import PinnedState, SnapshotSource
from dqlite_py.node.snapshot_wire import BEGIN, CHUNK
from dqlite_py.ports import Disk, SystemClock, SystemDisk, WriteGroup
from dqlite_py.storage.manifest import DatabaseState, Manifest, ordered
from dqlite_py.storage.pagehash import scan_file
from dqlite_py.storage.pin import PinnedDatabase, pin
from dqlite_py.storage.state_folder import StateFolder

CLUSTER = b"0123456789abcdef"
CONFIGURATION = Configuration((Member(NodeId(3), Address("127.0.0.1:1"), Role.VOTER),), LogIndex(1))


def content_hash(path: str) -> tuple[int, int]:
    """State hash and page count of a live database, by way of a copy of its present state."""
    copy = path + ".hashed"
    source, target = apsw.Connection(path), apsw.Connection(copy)
    with target.backup("main", source, "main") as backup:
        backup.step(-1)
    target.close()
    source.close()
    try:
        return scan_file(copy)
    finally:
        os.unlink(copy)


class Writer:
    """One database under write load."""

    def __init__(self, path: str, *, seed: int = 1) -> None:
        self.path = path
        self.name = os.path.basename(path).removesuffix(".db")
        self._random = random.Random(seed)
        self.connection = apsw.Connection(path)
        for pragma in ("journal_mode=wal", "synchronous=normal", "wal_autocheckpoint=0"):
            self.connection.execute("PRAGMA " + pragma).fetchall()
        self.connection.execute(
            "CREATE TABLE IF NOT EXISTS _dqlite_meta(applied_index INTEGER NOT NULL);"
            "CREATE TABLE IF NOT EXISTS t(k INTEGER PRIMARY KEY, v BLOB)"
        ).fetchall()
        if not self.connection.execute("SELECT count(*) FROM _dqlite_meta").fetchall()[0][0]:
            self.connection.execute("INSERT INTO _dqlite_meta VALUES(0)")
        self.applied_index = int(
            self.connection.execute("SELECT applied_index FROM _dqlite_meta").fetchall()[0][0]
        )

    def apply(self, rows: int = 5, size: int = 1000, *, keys: int = 10**6) -> int:
        """Apply one entry of random upserts; gives the new applied index."""
        with self.connection:
            self.connection.executemany(
                "INSERT OR REPLACE INTO t VALUES(?, ?)",
                [(self._random.randrange(keys), self._random.randbytes(size)) for _ in range(rows)],
            )
            self.connection.execute("UPDATE _dqlite_meta SET applied_index = ?", (self.applied_index + 1,))
        self.applied_index += 1
        return self.applied_index

    def pin(self) -> PinnedDatabase:
        state_hash, _ = content_hash(self.path)
        return pin(self.path, name=self.name, applied_index=self.applied_index, state_hash=state_hash)

    def checkpoint(self) -> None:
        self.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)

    def checkpoint_passive(self) -> None:
        self.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

    def close(self) -> None:
        self.connection.close()


class SimulatedKill(BaseException):
    """Stands for kill -9: nothing after this point reaches the disk; what was written stays."""


class CountingDisk(SystemDisk):
    """A real disk whose n-th call raises; after a SimulatedKill every later call raises it too.

    Calls that only look (exists, listdir, size, free_bytes, pread, close) are not counted.
    """

    def __init__(self, fail_at: int = 0, error: Callable[[], BaseException] = SimulatedKill) -> None:
        self.fail_at = fail_at
        self.calls = 0
        self.log: list[str] = []
        self._error = error
        self._is_dead = False
        self.free: int | None = None

    def _step(self, what: str) -> None:
        self.calls += 1
        self.log.append(what)
        if self._is_dead:
            raise SimulatedKill(what)
        if self.calls == self.fail_at:
            error = self._error()
            self._is_dead = isinstance(error, SimulatedKill)
            raise error

    def open(self, path: str, *, create: bool = False, exclusive: bool = False) -> int:
        self._step(f"open {os.path.basename(path)}")
        return super().open(path, create=create, exclusive=exclusive)

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        self._step("pwrite")
        # Cut writes short, as a real disk may: half of what was asked, at least a byte.
        return super().pwrite(
            fd, memoryview(data)[: max(1, len(data) // 2 or 1) if len(data) < 4096 else None], offset
        )

    def write_group(self, fd: int, group: WriteGroup) -> None:
        group.write_in_steps(self, fd)

    def fdatasync(self, fd: int) -> None:
        self._step("fdatasync")
        super().fdatasync(fd)

    def fsync(self, fd: int) -> None:
        self._step("fsync")
        super().fsync(fd)

    def fsync_dir(self, path: str) -> None:
        self._step(f"fsync_dir {os.path.basename(path)}")
        super().fsync_dir(path)

    def ftruncate(self, fd: int, size: int) -> None:
        self._step("ftruncate")
        super().ftruncate(fd, size)

    def rename(self, old: str, new: str) -> None:
        self._step(f"rename {os.path.basename(new)}")
        super().rename(old, new)

    def unlink(self, path: str) -> None:
        self._step(f"unlink {os.path.basename(path)}")
        super().unlink(path)

    def mkdir(self, path: str) -> None:
        self._step(f"mkdir {os.path.basename(path)}")
        super().mkdir(path)

    def free_bytes(self, path: str) -> int:
        return super().free_bytes(path) if self.free is None else self.free


def manifest(index: int, *databases: DatabaseState, term: int = 1, cluster: bytes = CLUSTER) -> Manifest:
    return Manifest(cluster, LogIndex(index), Term(term), CONFIGURATION, ordered(databases))


class Source:
    """A serving node: writers, a SnapshotSource, and a `call` function that reaches it."""

    def __init__(
        self, folder: str, executor: ThreadPoolExecutor, *, disk: Disk | None = None, **options: Any
    ) -> None:
        self.disk = disk or SystemDisk()
        self.folder = StateFolder.open(folder, SystemDisk(), CLUSTER)
        self.writers: list[Writer] = []
        self.term = 1
        self.first_log_index = 1
        self.last_log_index = 1
        self.pins: list[PinnedDatabase] = []
        self.calls: list[tuple[str, Any]] = []
        self.before: Callable[[str, Any], Any] = lambda method, body: None
        self.after: Callable[[str, Any], Any] = lambda method, reply: reply
        self.source = SnapshotSource(
            folder=self.folder.outgoing_path,
            disk=self.disk,
            cluster_id=CLUSTER,
            pin_all=self.pin_all,
            first_log_index=lambda: self.first_log_index,
            last_log_index=lambda: self.last_log_index,
            executor=executor,
            clock=SystemClock(),
            **options,
        )

    def add(self, name: str, entries: int = 20, **options: Any) -> Writer:
        writer = Writer(self.folder.database_path(name))
        for _ in range(entries):
            writer.apply(**options)
        self.writers.append(writer)
        return writer

    @property
    def index(self) -> int:
        return min((writer.applied_index for writer in self.writers), default=1)

    async def pin_all(self) -> PinnedState:
        self.pins = [writer.pin() for writer in self.writers]
        return PinnedState(LogIndex(self.index), Term(self.term), CONFIGURATION, tuple(self.pins))

    async def call(self, target: Target, method: str, body: Any, timeout_s: float) -> Any:
        self.calls.append((method, body))
        await asyncio.sleep(0)
        waiting = self.before(method, body)
        if waiting is not None:
            await waiting
        handler = {BEGIN: self.source.begin, CHUNK: self.source.chunk}[method]
        return self.after(method, await handler(None, body))

    def close(self) -> None:
        for writer in self.writers:
            writer.close()


@asynccontextmanager
async def serving(folder: str, executor: ThreadPoolExecutor, **options: Any) -> Any:
    source = Source(folder, executor, **options)
    await source.source.start()
    try:
        yield source
    finally:
        await source.source.stop()
        source.close()


@contextmanager
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(3) as executor:
        yield executor


def fetcher(
    source: Source,
    state_folder: StateFolder,
    executor: ThreadPoolExecutor,
    disk: Disk | None = None,
    **options: Any,
) -> SnapshotFetcher:
    return SnapshotFetcher(
        call=source.call, state_folder=state_folder, disk=disk or SystemDisk(), executor=executor, **options
    )


async def until(condition: Callable[[], object]) -> None:
    """Wait, a bounded time, for what another thread brings about."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - no event: it watches files and plain values
            await asyncio.sleep(0.005)


def contents(path: str) -> list[tuple[Any, ...]]:
    """Every row of a database of a Writer."""
    connection = apsw.Connection(path)
    try:
        rows = connection.execute("SELECT k, v FROM t ORDER BY k").fetchall()
        return [*rows, *connection.execute("SELECT applied_index FROM _dqlite_meta").fetchall()]
    finally:
        connection.close()
