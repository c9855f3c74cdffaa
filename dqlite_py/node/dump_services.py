"""RPC methods that hand out one database as a file: what `dqlite-py dump` asks. Loop thread; copying is the executor's.

The state is pinned as soon as it is as fresh as asked for, copied to DIR/outgoing/<id>/ while writes go on, and handed
out in chunks with a checksum each. The copy holds no reader of the live file open, so a slow caller harms nobody. It
belongs to its id, not to a connection: a caller that lost its connection goes on. Dropped when the caller says so, or
when nobody has asked for it for a while; a start removes what is left (node.snapshot_source).

dump.begin {id, database, level, log_index, max_staleness_s|nil, timeout_s}
  -> {"state": "preparing", "done", "total"}: ask again
  -> {"state": "ready", "size", "crc32c", "log_index", "state_hash"}
dump.chunk {id, offset, size} -> {"data", "crc32c"}
dump.end {id} -> nil
`id`: 16 bytes of the caller's choice. An id that was dropped, or before a restart, is not known (SnapshotUnavailable).
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from dqlite_py.errors import (
    Busy,
    Error,
    MalformedMessage,
    SnapshotUnavailable,
    no_such_database,
)
from dqlite_py.gateway import Freshness
from dqlite_py.limits import (
    DISK_RESERVE_BYTES,
    DUMPS_MAX,
    SNAPSHOT_CHUNK_BYTES,
    SNAPSHOT_KEEP_MS,
    SNAPSHOT_WAIT_MS,
)
from dqlite_py.nativelib import crc32c
from dqlite_py.node.fields import database_of, freshness_of, id_of, timeout_of
from dqlite_py.node.fields import field as field_of
from dqlite_py.node.pinning import pin_database
from dqlite_py.node.runtime_parts import Parts
from dqlite_py.node.snapshot_wire import chunk_to_wire
from dqlite_py.node.tickets import Deadline
from dqlite_py.ports import Clock, Disk
from dqlite_py.storage.pin import PinnedDatabase
from dqlite_py.storage.sealedfile import remove_folder

FILE: Final = "copy.db"


@dataclass(slots=True)
class _Dump:
    database: str
    folder: str
    used_ms: float
    done_bytes: int = 0
    size_bytes: int = 0
    crc32c: int = 0
    log_index: int = 0
    state_hash: int = 0
    work: asyncio.Task[None] | None = field(default=None)
    is_dropped: bool = False
    is_pinning: bool = False  # or copying: it is not cancelled, but stops by itself

    @property
    def path(self) -> str:
        return os.path.join(self.folder, FILE)


class DumpServices:
    """Registers the handlers on the transport; `stop` before the state folder is given up."""

    def __init__(
        self,
        parts: Parts,
        folder: str,
        disk: Disk,
        clock: Clock,
        *,
        keep_ms: float = SNAPSHOT_KEEP_MS,
        reserve_bytes: int = DISK_RESERVE_BYTES,
    ) -> None:
        self._parts = parts
        self._folder = folder
        self._disk = disk
        self._clock = clock
        self._keep_ms = keep_ms
        self._reserve_bytes = reserve_bytes
        self._dumps: dict[bytes, _Dump] = {}
        self._sweeping: asyncio.Task[None] | None = None
        self._is_stopping = False

    def register(self) -> None:
        for method, handler in {
            "dump.begin": self.begin,
            "dump.chunk": self.chunk,
            "dump.end": self.end,
        }.items():
            self._parts.transport.register(method, handler, open_to_joiners=True)

    async def stop(self) -> None:
        """Stop copying and remove every copy; waits for a copy's current step."""
        self._is_stopping = True
        if self._sweeping is not None:
            self._sweeping.cancel()
        for number in list(self._dumps):
            await self._drop(number)

    # -- methods --------------------------------------------------------------------------------------------------

    async def begin(self, _context: Any, body: Any) -> Any:
        number, database, freshness = id_of(body), database_of(body), freshness_of(body)
        timeout_s = timeout_of(body)
        dump = self._dumps.get(number)
        if dump is None:
            if self._is_stopping:
                raise SnapshotUnavailable("the node is stopping")
            if len(self._dumps) >= DUMPS_MAX:
                raise Busy(f"{DUMPS_MAX} dumps are under way or being fetched on this node")
            dump = _Dump(database, os.path.join(self._folder, number.hex()), self._clock.monotonic_ms())
            self._dumps[number] = dump
            dump.work = asyncio.create_task(self._make(dump, freshness, timeout_s), name="dump")
            if self._sweeping is None:
                self._sweeping = asyncio.create_task(self._sweep(), name="dump-sweep")
        elif dump.database != database:
            raise MalformedMessage("this id stands for another database", what="id")
        dump.used_ms = self._clock.monotonic_ms()
        assert dump.work is not None
        await asyncio.wait({dump.work}, timeout=min(SNAPSHOT_WAIT_MS / 1000, timeout_s))
        if not dump.work.done():
            return {"state": "preparing", "done": dump.done_bytes, "total": dump.size_bytes}
        failure = asyncio.CancelledError() if dump.work.cancelled() else dump.work.exception()
        if failure is not None:
            await self._drop(number)
            if isinstance(failure, Error):
                raise failure
            raise SnapshotUnavailable(
                f"the database could not be copied: {failure or 'the node is stopping'}"
            )
        return {
            "state": "ready",
            "size": dump.size_bytes,
            "crc32c": dump.crc32c,
            "log_index": dump.log_index,
            "state_hash": dump.state_hash.to_bytes(8, "big"),
        }

    async def chunk(self, _context: Any, body: Any) -> Any:
        number, offset, size = id_of(body), field_of(body, "offset", int), field_of(body, "size", int)
        dump = self._dumps.get(number)
        if dump is None or dump.work is None or not dump.work.done() or dump.is_dropped:
            raise SnapshotUnavailable("this dump is not to be had here (any more)")
        dump.used_ms = self._clock.monotonic_ms()
        if not (offset >= 0 and 0 < size <= SNAPSHOT_CHUNK_BYTES and offset + size <= dump.size_bytes):
            raise MalformedMessage(f"the dump has no {size} bytes at {offset}", what="offset")
        try:
            return await self._parts.on_worker(lambda: chunk_to_wire(self._read(dump.path, offset, size)))
        except OSError as error:
            raise SnapshotUnavailable(f"the copy cannot be read here: {error}") from error

    async def end(self, _context: Any, body: Any) -> Any:
        await self._drop(id_of(body))

    # -- inside ---------------------------------------------------------------------------------------------------

    async def _make(self, dump: _Dump, freshness: Freshness, timeout_s: float) -> None:
        """The copy, as fresh as asked for; raises why there is none."""
        await self._fresh(dump.database, freshness, Deadline(timeout_s))
        worker = self._parts.applier().workers.get(dump.database)
        if worker is None:
            raise no_such_database(dump.database)
        dump.is_pinning = True
        pinned = await asyncio.wrap_future(worker.call(partial(pin_database, dump.database, worker.path)))
        try:
            await self._parts.on_worker(self._copy, dump, pinned)
        finally:
            pinned.close()

    async def _fresh(self, database: str, freshness: Freshness, deadline: Deadline) -> None:
        found: asyncio.Future[Any] = self._parts.loop.create_future()

        def done(value: Any, error: Error | None) -> None:
            if found.done():
                return
            if error is None:
                found.set_result(value)
            else:
                found.set_exception(error)

        self._parts.reads.barrier(database, done, deadline, freshness)
        await found

    def _copy(self, dump: _Dump, pinned: PinnedDatabase) -> None:
        """On a worker thread."""
        dump.size_bytes = pinned.size_bytes
        self._disk.mkdir(dump.folder)
        free = self._disk.free_bytes(dump.folder)
        if pinned.size_bytes + self._reserve_bytes > free:
            raise SnapshotUnavailable(
                f"a copy of {pinned.size_bytes} bytes does not fit: {free} are free in {self._folder}, "
                f"{self._reserve_bytes} of them reserved"
            )

        def advanced(count: int) -> None:
            dump.done_bytes += count

        def stopping() -> bool:
            return self._is_stopping or dump.is_dropped

        pinned.copy_to(dump.path, disk=self._disk, advanced=advanced, stopping=stopping)
        checksum = 0
        for offset in range(0, pinned.size_bytes, SNAPSHOT_CHUNK_BYTES):
            size = min(SNAPSHOT_CHUNK_BYTES, pinned.size_bytes - offset)
            checksum = crc32c(self._read(dump.path, offset, size), checksum)
        dump.crc32c, dump.log_index = checksum, int(pinned.applied_index)
        dump.state_hash = pinned.state_hash

    def _read(self, path: str, offset: int, size: int) -> bytes:
        fd = self._disk.open(path)
        try:
            data = self._disk.pread(fd, size, offset)
        finally:
            self._disk.close(fd)
        if len(data) != size:
            raise OSError(f"{path} ends at {offset + len(data)}")
        return data

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._keep_ms / 4000)
            oldest_ms = self._clock.monotonic_ms() - self._keep_ms
            for number in [number for number, dump in self._dumps.items() if dump.used_ms < oldest_ms]:
                await self._drop(number)

    async def _drop(self, number: bytes) -> None:
        dump = self._dumps.pop(number, None)
        if dump is None:
            return
        dump.is_dropped = True
        if dump.work is not None:
            if not dump.is_pinning:
                dump.work.cancel()
            await asyncio.wait({dump.work})
        await self._parts.on_worker(self._remove, dump.folder)

    def _remove(self, folder: str) -> None:
        if self._disk.exists(folder):
            try:
                remove_folder(self._disk, folder)
            except OSError:
                return  # the next start does
