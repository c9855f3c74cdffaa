"""A database of a running cluster, fetched into a file: the asking side of node.dump_services. Loop thread.

What was received stays when a connection breaks: the rest is asked of the same node, which keeps its copy for a while.
When that node is gone, it begins anew at another one: two nodes' copies are not the same bytes.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from dqlite_py.client.attempts import is_own_result
from dqlite_py.client.caller import ClusterCaller, open_caller
from dqlite_py.client.directory import Directory
from dqlite_py.client.link import MARGIN_S
from dqlite_py.config import TlsSettings
from dqlite_py.errors import (
    Error,
    MalformedMessage,
    NoLeader,
    NotSupportedError,
    OperationalError,
    SnapshotUnavailable,
    is_database_missing,
)
from dqlite_py.gateway import LINEARIZABLE, Freshness, ReadLevel
from dqlite_py.limits import SNAPSHOT_CHUNK_BYTES, SNAPSHOT_CHUNKS_INFLIGHT
from dqlite_py.model import Address
from dqlite_py.nativelib import crc32c
from dqlite_py.wire.rpc import RpcError

Progress = Callable[[str, int, int], None]
_TRY_S: Final = 5.0  # for one answer
_PAUSE_S: Final = 0.2
_ID_BYTES: Final = 16
_TRIES_MAX: Final = 3  # of one chunk at one node, before another node is asked


@dataclass(frozen=True, slots=True)
class Fetched:
    """What the file holds: the state at `log_index`, of the node at `address`."""

    address: str
    log_index: int
    state_hash: int
    size_bytes: int


def fetch_database(
    addresses: Sequence[Address],
    database: str,
    path: str,
    *,
    tls: TlsSettings | None = None,
    freshness: Freshness = LINEARIZABLE,
    timeout_s: float = 60.0,
    progress: Progress | None = None,
) -> Fetched:
    """Write a copy of `database` to a new file at `path`; blocks, from any thread without an event loop.

    timeout_s: how long may pass without progress. The file holds tables _dqlite_… (storage.dump_file.make_plain).
    Raises the node's Error when asking another one would not help, NoLeader when the time is over, OSError.
    """

    async def fetch(file: BinaryIO) -> Fetched:
        async with open_caller(tls) as caller:
            return await _Fetch(caller, addresses, database, freshness, timeout_s, progress).run(file)

    with open(path, "xb") as file:
        return asyncio.run(fetch(file))


class _Restart(Exception):
    """This node does not have the copy any more, or does not answer."""


class _Fetch:
    def __init__(
        self, caller: ClusterCaller, addresses: Sequence[Address], database: str, freshness: Freshness,
        timeout_s: float, progress: Progress | None,
    ) -> None:  # fmt: skip
        self._caller = caller
        self._directory = Directory(caller, addresses)
        self._database = database
        self._freshness = freshness
        self._timeout_s = timeout_s
        self._progress = progress
        self._loop = asyncio.get_running_loop()
        self._moved_s = self._loop.time()  # when there was progress last
        self._last: Exception | None = None

    async def run(self, file: BinaryIO) -> Fetched:
        while True:
            try:
                return await self._from_one(file)
            except _Restart:
                self._check_time()
                await asyncio.sleep(_PAUSE_S)

    def _check_time(self) -> None:
        if self._loop.time() - self._moved_s > self._timeout_s:
            raise NoLeader(
                f"no progress for {self._timeout_s:g} s; the last attempt: {self._last}"
            ) from self._last

    def _moved(self) -> None:
        self._moved_s = self._loop.time()

    async def _from_one(self, file: BinaryIO) -> Fetched:
        # Any node has the state; the leader has it without asking somebody else.
        try:
            async with asyncio.timeout(_TRY_S):
                target = await self._directory.pick(leader=self._freshness.level is ReadLevel.LEADER)
        except (NoLeader, TimeoutError) as error:
            self._last = error
            raise _Restart from None
        number = secrets.token_bytes(_ID_BYTES)
        try:
            answer = await self._begin(target, number)
            size, checksum, index = (_integer(answer, name) for name in ("size", "crc32c", "log_index"))
            await self._receive(target, number, file, size, checksum)
        except RpcError as error:
            self._last = error
            self._directory.failed(target, error)
            raise _Restart from None
        except Error as error:
            if (
                isinstance(error, (MalformedMessage, NotSupportedError))
                or is_database_missing(error)
                or is_own_result(error)
            ):
                raise
            self._last = error
            self._directory.failed(target, error)
            raise _Restart from None
        finally:
            await self._end(target, number)
        state_hash = answer.get("state_hash")
        if type(state_hash) is not bytes or len(state_hash) != 8:
            raise MalformedMessage("malformed answer to dump.begin", what="dump.begin")
        return Fetched(str(target), index, int.from_bytes(state_hash, "big"), size)

    async def _begin(self, target: Address, number: bytes) -> dict[str, Any]:
        body: dict[str, Any] = {
            "id": number,
            "database": self._database,
            "level": self._freshness.level.value,
            "log_index": self._freshness.log_index,
            "timeout_s": _TRY_S,
        }
        if self._freshness.max_staleness_s is not None:
            body["max_staleness_s"] = self._freshness.max_staleness_s
        done = -1
        while True:
            answer = await self._caller.call(target, "dump.begin", body, _TRY_S + MARGIN_S)
            if not isinstance(answer, dict):
                raise MalformedMessage("malformed answer to dump.begin", what="dump.begin")
            if answer.get("state") == "ready":
                self._moved()
                return answer
            now, total = _integer(answer, "done"), _integer(answer, "total")
            if now > done:
                done = now
                self._moved()
            self._check_time()
            if self._progress is not None and total:
                self._progress(f"{self._database}: copying at {target}", now, total)
            await asyncio.sleep(0.05)

    async def _receive(
        self, target: Address, number: bytes, file: BinaryIO, size: int, checksum: int
    ) -> None:
        file.seek(0)
        file.truncate()
        offsets = range(0, size, SNAPSHOT_CHUNK_BYTES)
        waiting: list[asyncio.Task[bytes]] = []
        asked = received = found = 0
        try:
            while received < size:
                while len(waiting) < SNAPSHOT_CHUNKS_INFLIGHT and asked < len(offsets):
                    offset = offsets[asked]
                    length = min(SNAPSHOT_CHUNK_BYTES, size - offset)
                    waiting.append(asyncio.create_task(self._chunk(target, number, offset, length)))
                    asked += 1
                data = await waiting.pop(0)
                found = crc32c(data, found)
                await self._loop.run_in_executor(None, file.write, data)
                received += len(data)
                self._moved()
                if self._progress is not None:
                    self._progress(self._database, received, size)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        if found != checksum:
            raise OperationalError(f"what {target} sent is not the file that it announced")

        def sync() -> None:
            file.flush()
            os.fsync(file.fileno())

        await self._loop.run_in_executor(None, sync)

    async def _chunk(self, target: Address, number: bytes, offset: int, size: int) -> bytes:
        """Asked again, as long as the node answers: its copy stays the same."""
        body = {"id": number, "offset": offset, "size": size}
        for last in (*[False] * (_TRIES_MAX - 1), True):
            try:
                answer = await self._caller.call(target, "dump.chunk", body, _TRY_S)
                return _chunk_data(answer, size)
            except (RpcError, MalformedMessage) as error:
                self._last = error
                if last:
                    raise SnapshotUnavailable(f"{target} does not hand out its copy: {error}") from None
                await asyncio.sleep(_PAUSE_S)
        raise AssertionError

    async def _end(self, target: Address, number: bytes) -> None:
        try:
            await self._caller.call(target, "dump.end", {"id": number}, 1.0)
        except (RpcError, Error) as error:
            self._last = self._last or error  # it drops the copy by itself


def _chunk_data(answer: Any, size: int) -> bytes:
    data = answer.get("data") if isinstance(answer, dict) else None
    if type(data) is not bytes or len(data) != size or answer.get("crc32c") != crc32c(data):
        raise MalformedMessage("a chunk has the wrong size or checksum", what="dump.chunk")
    return data


def _integer(answer: dict[str, Any], name: str) -> int:
    value = answer.get(name)
    if type(value) is not int or not 0 <= value < 2**63:
        raise MalformedMessage(f"malformed answer to dump.begin: {name}", what="dump.begin")
    return value
