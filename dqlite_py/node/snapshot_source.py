"""Offers this node's databases to followers that need a whole snapshot.

A follower asks snapshot.begin; the databases are pinned at one moment and copied to DIR/outgoing/<id>/ while
writes go on; the copy is shared by all followers that ask while the log still continues it, and dropped when
nobody has used it for a while. snapshot.chunk reads from the copy. It does not decide who needs a snapshot,
and pins nothing itself: `pin_all` is the node's. Nothing that goes wrong here harms the node: the follower
gets SnapshotUnavailable with the reason.

Lives on the loop thread; copying, reading and removing run on the executor's threads.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, TypeVar

from dqlite_py.errors import Error, MalformedMessage, SnapshotUnavailable
from dqlite_py.limits import DISK_RESERVE_BYTES, SNAPSHOT_CHUNK_BYTES, SNAPSHOT_KEEP_MS, SNAPSHOT_WAIT_MS
from dqlite_py.logs import event
from dqlite_py.model import Configuration, LogIndex, Term
from dqlite_py.nativelib import crc32c
from dqlite_py.node.snapshot_pace import SourcePace
from dqlite_py.node.snapshot_wire import (
    ID_BYTES,
    BeginRequest,
    ChunkRequest,
    FileFacts,
    Offer,
    Preparing,
    chunk_to_wire,
)
from dqlite_py.ports import Clock, Disk
from dqlite_py.storage.manifest import DatabaseState, Manifest, ordered
from dqlite_py.storage.pin import PinnedDatabase
from dqlite_py.storage.sealedfile import remove_folder
from dqlite_py.storage.state_files import database_file

_COPIES_MAX = 2  # one in use by slow followers, one for those who come later
_log = logging.getLogger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class PinnedState:
    """Every database, pinned when all entries up to `index` were applied (a database may be ahead)."""

    index: LogIndex
    term: Term
    configuration: Configuration
    databases: tuple[PinnedDatabase, ...]
    now_us: int = 0  # no entry up to `index` carries a later time


@dataclass(slots=True)
class _Copy:
    offer: Offer
    folder: str
    used_ms: float


class SnapshotSource:
    """Handlers of snapshot.begin and snapshot.chunk; register them between `start` and `stop`."""

    def __init__(
        self,
        *,
        folder: str,
        disk: Disk,
        cluster_id: bytes,
        pin_all: Callable[[], Awaitable[PinnedState]],
        first_log_index: Callable[[], int],
        last_log_index: Callable[[], int],
        executor: Executor,
        clock: Clock,
        keep_ms: float = SNAPSHOT_KEEP_MS,
        wait_ms: float = SNAPSHOT_WAIT_MS,
        reserve_bytes: int = DISK_RESERVE_BYTES,
    ) -> None:
        self._folder = folder
        self._disk = disk
        self._cluster_id = cluster_id
        self._pin_all = pin_all
        self._first_log_index = first_log_index
        self._pace = SourcePace(clock, last_log_index)
        self._executor = executor
        self._clock = clock
        self._keep_ms = keep_ms
        self._wait_ms = wait_ms
        self._reserve_bytes = reserve_bytes
        self._copies: dict[bytes, _Copy] = {}
        self._preparing: asyncio.Task[SnapshotUnavailable | None] | None = None
        self._sweeping: asyncio.Task[None] | None = None
        self._copying_index: LogIndex | None = None
        self._done_bytes = 0
        self._total_bytes = 0
        self._is_stopping = False

    async def start(self) -> None:
        """Remove what an earlier process left in the folder, and begin dropping unused copies."""
        await self._run(self._remove_all)
        self._sweeping = asyncio.create_task(self._sweep(), name="snapshot-sweep")

    async def stop(self) -> None:
        """Stop copying and remove every copy. Waits for the copy's current step; no pin is left."""
        self._is_stopping = True
        self._pace.end()
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait({self._sweeping})
        if self._preparing is not None:
            # Not cancelled: its thread must see `_is_stopping` and close the pins itself.
            await asyncio.wait({self._preparing})
        self._copies.clear()
        await self._run(self._remove_all)

    @property
    def oldest_index_in_use(self) -> LogIndex | None:
        """The oldest snapshot that followers are fetching or may fetch: they will need the log behind it."""
        used = [copy.offer.manifest.index for copy in self._copies.values()]
        if self._copying_index is not None:
            used.append(self._copying_index)
        return min(used, default=None)

    # -- handlers

    async def begin(self, context: object, body: Any) -> dict[str, Any]:
        """Answer snapshot.begin; waits a moment for a copy being made. Cancelling it stops no copy."""
        request = BeginRequest.from_wire(body)
        copy = self._usable(request)
        if copy is None:
            self._refuse_when_stopping()
            if self._preparing is None or self._preparing.done():
                self._preparing = asyncio.create_task(self._prepare(), name="snapshot-prepare")
            preparing = self._preparing
            await asyncio.wait({preparing}, timeout=self._wait_ms / 1000)
            if not preparing.done():
                return Preparing(self._done_bytes, self._total_bytes).to_wire()
            if (failure := preparing.result()) is not None:
                raise SnapshotUnavailable(failure.message)
            copy = self._usable(request)
            if copy is None:
                raise SnapshotUnavailable(f"this node has not applied log index {request.minimum_index} yet")
        copy.used_ms = self._clock.monotonic_ms()
        return copy.offer.to_wire()

    async def chunk(self, context: object, body: Any) -> dict[str, Any]:
        """Answer snapshot.chunk."""
        request = ChunkRequest.from_wire(body)
        self._refuse_when_stopping()
        copy = self._copies.get(request.id)
        if copy is None:
            raise SnapshotUnavailable(f"snapshot {request.id.hex()} is not offered here any more")
        copy.used_ms = self._clock.monotonic_ms()
        files = copy.offer.files
        if request.file >= len(files) or request.offset + request.size > files[request.file].size_bytes:
            raise MalformedMessage(f"the snapshot has no such chunk: {request}", what="snapshot.chunk")
        name = database_file(copy.offer.manifest.databases[request.file].name)
        await self._pace.turn(request.size)
        try:
            return await self._run(
                lambda: chunk_to_wire(
                    self._read(os.path.join(copy.folder, name), request.offset, request.size)
                )
            )
        except OSError as error:
            self._copies.pop(request.id, None)
            raise SnapshotUnavailable(f"snapshot {request.id.hex()} cannot be read here: {error}") from error

    # -- making a copy

    def _usable(self, request: BeginRequest) -> _Copy | None:
        """The copy to offer: the one the follower has a part of, else the newest that the log continues."""
        lowest = max(request.minimum_index, self._first_log_index() - 1)
        usable = [copy for copy in self._copies.values() if copy.offer.manifest.index >= lowest]
        if request.resume in [copy.offer.id for copy in usable]:
            return self._copies[request.resume] if request.resume else None
        return max(usable, key=lambda copy: copy.offer.manifest.index, default=None)

    async def _prepare(self) -> SnapshotUnavailable | None:
        """Pin and copy; the result is the reason why there is no copy."""
        self._done_bytes = self._total_bytes = 0
        try:
            state = await self._pin_all()
            self._copying_index = state.index
            try:
                copy = await self._run(lambda: self._copy_all(state))
            finally:
                for database in state.databases:  # those that were copied are closed already
                    database.close()
            while len(self._copies) >= _COPIES_MAX:
                await self._drop(min(self._copies.values(), key=lambda old: old.used_ms))
            self._copies[copy.offer.id] = copy
        except (Error, OSError, RuntimeError) as error:  # RuntimeError: the executor is shut down
            event(_log, logging.ERROR, "could not make a snapshot for followers", reason=error)
            return SnapshotUnavailable(f"the source could not make a snapshot: {error}")
        finally:
            self._copying_index = None
        return None

    def _copy_all(self, state: PinnedState) -> _Copy:
        """Copy every database; closes each pin as soon as it is done with it (executor thread)."""
        self._total_bytes = sum(database.size_bytes for database in state.databases)
        self._disk.mkdir(self._folder)
        free = self._disk.free_bytes(self._folder)
        # The journal shares this disk: its reserve is not for copies.
        if self._total_bytes + self._reserve_bytes > free:
            raise SnapshotUnavailable(
                f"a copy of {self._total_bytes} bytes does not fit: {free} are free in {self._folder}, "
                f"{self._reserve_bytes} of them reserved"
            )
        identifier = secrets.token_bytes(ID_BYTES)
        folder = os.path.join(self._folder, identifier.hex())
        self._disk.mkdir(folder)
        try:
            files = [self._copy_one(database, folder) for database in state.databases]
        except BaseException:
            remove_folder(self._disk, folder)
            raise
        manifest = Manifest(
            self._cluster_id,
            state.index,
            state.term,
            state.configuration,
            ordered(
                DatabaseState(d.name, d.applied_index, d.state_hash, d.page_count) for d in state.databases
            ),
            state.now_us,
        )
        facts = dict(files)
        offer = Offer(identifier, manifest, tuple(facts[database.name] for database in manifest.databases))
        return _Copy(offer, folder, self._clock.monotonic_ms())

    def _copy_one(self, database: PinnedDatabase, folder: str) -> tuple[str, FileFacts]:
        path = os.path.join(folder, database_file(database.name))
        self._pace.begin()
        database.copy_to(
            path,
            disk=self._disk,
            advanced=self._advanced,
            stopping=lambda: self._is_stopping,
            rest=self._pace.rest,
        )
        database.close()
        checksum = 0
        for offset in range(0, database.size_bytes, SNAPSHOT_CHUNK_BYTES):
            size = min(SNAPSHOT_CHUNK_BYTES, database.size_bytes - offset)
            checksum = crc32c(self._read(path, offset, size), checksum)
            self._pace.rest(size)
        return database.name, FileFacts(database.size_bytes, checksum)

    def _advanced(self, size: int) -> None:
        self._done_bytes += size

    def _read(self, path: str, offset: int, size: int) -> bytes:
        # A descriptor per read: the copy may be dropped at any time, and no SQLite connection has it open.
        fd = self._disk.open(path)
        try:
            data = self._disk.pread(fd, size, offset)
        finally:
            self._disk.close(fd)
        if len(data) != size:
            raise OSError(f"{path} ends at {offset + len(data)}")
        return data

    # -- dropping

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._keep_ms / 4000)
            oldest_ms = self._clock.monotonic_ms() - self._keep_ms
            for copy in [copy for copy in self._copies.values() if copy.used_ms < oldest_ms]:
                await self._drop(copy)

    async def _drop(self, copy: _Copy) -> None:
        self._copies.pop(copy.offer.id, None)  # BEFORE its files go
        try:
            await self._run(lambda: remove_folder(self._disk, copy.folder))
        except OSError as error:
            event(
                _log,
                logging.WARNING,
                "a file could not be removed, trying again at the next start",
                path=copy.folder,
                reason=error,
            )

    def _remove_all(self) -> None:
        self._disk.mkdir(self._folder)
        for name in self._disk.listdir(self._folder):
            remove_folder(self._disk, os.path.join(self._folder, name))

    def _refuse_when_stopping(self) -> None:
        if self._is_stopping:
            raise SnapshotUnavailable("the source is stopping")

    async def _run(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)
