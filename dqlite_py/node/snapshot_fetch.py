"""Fetches a snapshot from another member into a new generation of the state folder.

Asks the source to begin, pulls chunks (a few in flight) into DIR/incoming/<id>/, proves every chunk, every
file and every database's content, and leaves a filled generation for `StateFolder.activate`. Interrupted, by
a lost source or a restart, it continues where it was if the source still offers the same copy. It installs
nothing, chooses no source and does not retry a lost source: the caller does.

Lives on the loop thread; all file work runs on the executor's threads.
"""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from dqlite_py.errors import (
    InterfaceError,
    JournalFailed,
    MalformedMessage,
    SnapshotDamaged,
    SnapshotUnavailable,
    StorageFull,
    WrongCluster,
)
from dqlite_py.limits import (
    DISK_RESERVE_BYTES,
    REQUEST_TIMEOUT_MS,
    SNAPSHOT_CHUNKS_INFLIGHT,
    SNAPSHOT_STALL_MS,
)
from dqlite_py.model import Address, LogIndex, NodeId, Snapshot
from dqlite_py.node.snapshot_incoming import IncomingSnapshot, resumable_id
from dqlite_py.node.snapshot_wire import (
    BEGIN,
    CHUNK,
    BeginRequest,
    ChunkRequest,
    Offer,
    begin_reply_from_wire,
    chunk_from_wire,
)
from dqlite_py.ports import Disk
from dqlite_py.storage.manifest import Manifest
from dqlite_py.storage.sealedfile import storage_full
from dqlite_py.storage.state_folder import StateFolder

Target = NodeId | Address
RpcCall = Callable[[Target, str, Any, float], Awaitable[Any]]
_CHUNK_TRIES: Final = 3
_ASK_AGAIN_S: Final = 0.2  # at least, however fast a source answers "preparing"
_ANY_INDEX: Final = LogIndex(0)
_T = TypeVar("_T")


class FetchPhase(enum.Enum):
    IDLE = "idle"
    PREPARING = "preparing"  # the source is making its copy
    FETCHING = "fetching"
    VERIFYING = "verifying"


@dataclass(frozen=True, slots=True)
class FetchProgress:
    phase: FetchPhase
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class FetchedSnapshot:
    """A verified, durable snapshot in a generation that is not current yet."""

    snapshot: Snapshot
    generation_path: str
    manifest: Manifest


class SnapshotFetcher:
    """Fetches one snapshot at a time."""

    def __init__(
        self,
        *,
        call: RpcCall,
        state_folder: StateFolder,
        disk: Disk,
        executor: Executor,
        timeout_s: float = REQUEST_TIMEOUT_MS / 1000,
        stall_s: float = SNAPSHOT_STALL_MS / 1000,
        reserve_bytes: int = DISK_RESERVE_BYTES,
    ) -> None:
        self._call = call
        self._state_folder = state_folder
        self._disk = disk
        self._executor = executor
        self._timeout_s = timeout_s
        self._stall_s = stall_s
        self._reserve_bytes = reserve_bytes
        self._idle = FetchProgress(FetchPhase.IDLE, 0, 0)
        self._progress = self._idle

    @property
    def progress(self) -> FetchProgress:
        return self._progress

    async def fetch(self, source: Target, *, minimum_index: LogIndex = _ANY_INDEX) -> FetchedSnapshot:
        """Fetch a snapshot at `minimum_index` or later.

        Raises what `call` raises when the source is lost, SnapshotUnavailable, SnapshotDamaged, WrongCluster,
        UnknownFormat, MalformedMessage, StorageFull: nothing of the node's state has changed, calling again
        continues if it can. JournalFailed: a write or fsync failed, the process must restart.
        When cancelled, what has arrived is kept for the next call.
        """
        if self._progress.phase is not FetchPhase.IDLE:
            raise InterfaceError("a snapshot is being fetched already")
        self._progress = FetchProgress(FetchPhase.PREPARING, 0, 0)
        try:
            resume = await self._run(lambda: resumable_id(self._disk, self._state_folder.incoming_path))
            offer = await self._begin(source, BeginRequest(minimum_index, resume))
            incoming = await self._run(lambda: self._accept(offer, minimum_index))
            await self._pull(source, incoming)
            return await self._finish(incoming)
        finally:
            self._progress = self._idle

    # -- steps

    async def _begin(self, source: Target, request: BeginRequest) -> Offer:
        """Ask until the copy is ready, or makes no progress for too long."""
        clock = asyncio.get_running_loop().time
        best, best_at_s = -1, clock()
        while True:
            asked_s = clock()
            reply = begin_reply_from_wire(await self._call(source, BEGIN, request.to_wire(), self._timeout_s))
            if isinstance(reply, Offer):
                return reply
            self._progress = FetchProgress(FetchPhase.PREPARING, reply.done_bytes, reply.total_bytes)
            if reply.done_bytes > best:
                best, best_at_s = reply.done_bytes, clock()
            elif clock() - best_at_s > self._stall_s:
                raise SnapshotUnavailable(f"the source's copy made no progress for {self._stall_s:.0f} s")
            await asyncio.sleep(max(0.0, _ASK_AGAIN_S - (clock() - asked_s)))

    def _accept(self, offer: Offer, minimum_index: LogIndex) -> IncomingSnapshot:
        """Refuse what could not be installed BEFORE a byte of it is fetched (executor thread)."""
        ours, manifest = self._state_folder.manifest, offer.manifest
        if manifest.cluster_id != ours.cluster_id:
            raise WrongCluster(f"the source offers a snapshot of cluster {manifest.cluster_id.hex()}")
        if manifest.index < max(minimum_index, ours.index) or manifest.index == 0:
            raise SnapshotUnavailable(
                f"the source offers index {manifest.index}, not {max(minimum_index, ours.index)} or later"
            )
        self._disk.mkdir(self._state_folder.incoming_path)
        incoming = IncomingSnapshot.begin(self._disk, self._state_folder.incoming_path, offer)
        free = self._disk.free_bytes(self._state_folder.incoming_path)
        needed = offer.size_bytes - incoming.done_bytes
        if needed + self._reserve_bytes > free:
            raise StorageFull(
                f"{needed} more bytes are needed; {free} are free, {self._reserve_bytes} of them reserved",
                file=self._state_folder.incoming_path,
            )
        return incoming

    async def _pull(self, source: Target, incoming: IncomingSnapshot) -> None:
        """Keep a few chunk requests in flight and write the answers in order."""
        total = incoming.offer.size_bytes
        missing = incoming.missing()
        pending: deque[asyncio.Task[bytes]] = deque()
        try:
            while True:
                self._progress = FetchProgress(FetchPhase.FETCHING, incoming.done_bytes, total)
                while len(pending) < SNAPSHOT_CHUNKS_INFLIGHT and (chunk := next(missing, None)) is not None:
                    pending.append(asyncio.create_task(self._chunk(source, chunk), name="snapshot-chunk"))
                if not pending:
                    return
                data = await pending[0]
                pending.popleft()
                await self._run(partial(incoming.append, data))
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
            await self._run(incoming.suspend)

    async def _chunk(self, source: Target, chunk: ChunkRequest) -> bytes:
        """One chunk, asked for again when it arrives damaged."""
        for _ in range(_CHUNK_TRIES):
            body = await self._call(source, CHUNK, chunk.to_wire(), self._timeout_s)
            try:
                return chunk_from_wire(body, chunk.size)
            except MalformedMessage as error:
                reason = error.message
        raise SnapshotDamaged(f"a chunk arrived damaged {_CHUNK_TRIES} times: {reason}")

    async def _finish(self, incoming: IncomingSnapshot) -> FetchedSnapshot:
        total, verified = incoming.offer.size_bytes, 0

        def advanced(size: int) -> None:
            nonlocal verified
            verified += size
            self._progress = FetchProgress(FetchPhase.VERIFYING, verified, total)

        try:
            await self._run(lambda: incoming.verify(advanced))
        except SnapshotDamaged:
            await self._run(incoming.discard)
            raise
        path = await self._run(lambda: self._move(incoming))
        manifest = incoming.offer.manifest
        return FetchedSnapshot(manifest.snapshot, path, manifest)

    def _move(self, incoming: IncomingSnapshot) -> str:
        path = self._state_folder.begin_generation()
        incoming.move_to(path)
        return path

    async def _run(self, work: Callable[[], _T]) -> _T:
        """Run file work on the executor; what the disk raises becomes StorageFull or JournalFailed."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, work)
        except OSError as error:
            where = self._state_folder.incoming_path
            raise storage_full(error, where) or JournalFailed(f"writing {where} failed: {error}") from error
