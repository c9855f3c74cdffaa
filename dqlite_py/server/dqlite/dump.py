"""DUMP: a consistent image of a database, from a copy on disk, a chunk in memory at a time. Loop thread.

Any node answers with the state that it has applied. The -wal file of the answer is empty: dqlite names it, and its
shell writes both.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any, Final, Protocol

from dqlite_py.errors import Error, is_database_missing
from dqlite_py.gateway import ReadLevel
from dqlite_py.limits import REQUEST_TIMEOUT_MS, SNAPSHOT_CHUNK_BYTES
from dqlite_py.node.dump_services import DumpServices
from dqlite_py.server.dqlite.failures import Refused
from dqlite_py.wire.dqlite.responses import Failure, stream_files
from dqlite_py.wire.dqlite.violations import CODE_NOTFOUND

NO_DATABASE: Final = Failure(CODE_NOTFOUND, "database does not exists")  # dqlite's words


class Receiver(Protocol):
    """What it needs of the connection."""

    def write(self, frames: bytes) -> None: ...
    async def drain(self) -> None: ...
    def abort(self, reason: str) -> None: ...


async def send_dump(dumps: DumpServices, database: str, receiver: Receiver) -> None:
    """Write the FILES frame. Raises before anything is written; what fails later ends the connection."""
    copy: dict[str, Any] = {"id": secrets.token_bytes(16)}
    try:
        size = await _prepare(dumps, database, copy)
        try:
            await _send(dumps, copy, database, size, receiver)
        except (Error, ValueError) as error:
            receiver.abort(f"the copy of {database} ended early: {error}")
    finally:
        await dumps.end(None, copy)


async def _prepare(dumps: DumpServices, database: str, copy: dict[str, Any]) -> int:
    asked = {
        **copy,
        "database": database,
        "level": ReadLevel.STALE.value,
        "timeout_s": REQUEST_TIMEOUT_MS / 1000,
    }
    while True:
        try:
            answer = await dumps.begin(None, asked)
        except Error as error:
            if is_database_missing(error):
                raise Refused(NO_DATABASE) from None
            raise
        if answer["state"] == "ready":
            return int(answer["size"])


async def _send(
    dumps: DumpServices, copy: dict[str, Any], database: str, size: int, receiver: Receiver
) -> None:
    chunks: list[bytes] = []

    def pieces() -> Iterator[bytes]:
        while chunks:
            yield chunks.pop()

    offset = 0
    frame = stream_files([(database, size, pieces()), (f"{database}-wal", 0, ())])
    while True:
        if not chunks and offset < size:
            wanted = {**copy, "offset": offset, "size": min(SNAPSHOT_CHUNK_BYTES, size - offset)}
            chunks.append((await dumps.chunk(None, wanted))["data"])
            offset += wanted["size"]
        piece = next(frame, None)
        if piece is None:
            return
        receiver.write(piece)
        await receiver.drain()
