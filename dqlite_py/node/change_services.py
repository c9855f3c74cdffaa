"""The method of programs that follow a database's changes: a stream of pieces. Loop thread; files are read on others.

changes.follow {database, after|nil, timeout_s} -> pieces [position, [change, ...]]; it ends by an error, or cancelled.
A change is [log index, table, kind, key, old|nil, new|nil, is last], see changes.Change. `position`: everything up to
that log index was told once the piece is taken; the first piece has no changes and says where it begins.
`timeout_s`: until the first piece. Errors are those of Node.changes; any node answers for itself.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final

from dqlite_py.changes import Change
from dqlite_py.command import SqlValue
from dqlite_py.errors import Busy, MalformedMessage
from dqlite_py.limits import EXTENSION_FRAGMENT_BYTES, FOLLOWERS_MAX
from dqlite_py.node.change_followers import ChangeFollowers
from dqlite_py.node.fields import database_of, timeout_of
from dqlite_py.node.programs import CallContext, ProgramMethods
from dqlite_py.storage.changelog.cursor import Cursor

THREADS: Final = 4
OPENING_THREADS: Final = 16  # beginning may wait for the log, or a transaction
PIECE_BYTES: Final = EXTENSION_FRAGMENT_BYTES // 2  # a piece ends with the change that exceeds it
PIECE_CHANGES: Final = 256
_VALUE_BYTES: Final = 16


class _Place:
    """A cursor that threads open, read and close, one at a time."""

    def __init__(self, database: str) -> None:
        self.database = database
        self._lock = threading.Lock()
        self._is_closed = False
        self.cursor: Cursor | None = None

    def open(self, followers: ChangeFollowers, after: int | None, timeout_s: float) -> int:
        """Where it begins. It may be closed meanwhile."""
        cursor = followers.follow(self.database, after, timeout_s)
        with self._lock:
            self.cursor = cursor
            if self._is_closed:
                cursor.close()
        return cursor.after

    def read(self) -> list[Change] | None:
        with self._lock:
            return None if self._is_closed or self.cursor is None else self.cursor.read()

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            if self.cursor is not None:
                self.cursor.close()


class ChangeServices:
    """Registers the method; `close` after the connections of programs."""

    def __init__(self, followers: ChangeFollowers) -> None:
        self._followers = followers
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="dqlite-changes")
        self._opening = ThreadPoolExecutor(OPENING_THREADS, thread_name_prefix="dqlite-changes")
        self._count = 0

    def register(self, programs: ProgramMethods) -> None:
        programs.add({"changes.follow": self.follow}, ends_when_cancelled=True)

    def close(self) -> None:
        self._threads.shutdown(wait=False)
        self._opening.shutdown(wait=False)

    async def follow(self, context: CallContext, body: Any) -> None:
        place, timeout_s = _Place(database_of(body)), timeout_of(body)
        after = body.get("after")
        if after is not None and (type(after) is not int or not 0 <= after < 2**63):
            raise MalformedMessage("field 'after' must be a log index or nil", what="after")
        if self._count >= FOLLOWERS_MAX:
            raise Busy(f"{FOLLOWERS_MAX} programs follow changes on this node")
        self._count += 1
        try:
            position = await self._on_thread(self._opening, place.open, self._followers, after, timeout_s)
            await context.more([position, []])
            while True:
                position = await self._go_on(context, place, position)
        finally:
            self._count -= 1
            with suppress(RuntimeError):  # the node has stopped: nobody reads, and it closes itself
                self._threads.submit(place.close)

    async def _go_on(self, context: CallContext, place: _Place, position: int) -> int:
        """Tell the next entry that has changes; or that there are none, and wait. Returns where it is then."""
        cursor = place.cursor
        assert cursor is not None
        changes = await self._on_thread(self._threads, place.read)
        if changes is not None:
            for piece in _pieces(changes):
                is_whole = bool(piece) and piece[-1].is_last
                await context.more([cursor.after if is_whole else position, [_to_wire(c) for c in piece]])
            return cursor.after
        if cursor.after != position:
            await context.more([cursor.after, []])
        await _changed(cursor)
        return cursor.after

    @staticmethod
    async def _on_thread(threads: ThreadPoolExecutor, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(threads, function, *args)


async def _changed(cursor: Cursor) -> None:
    """Until reading is worth another try."""
    loop = asyncio.get_running_loop()
    woken: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(_resolve, woken)

    if cursor.when_changed(wake):
        try:
            await woken
        finally:
            cursor.forget(wake)


def _resolve(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)


def _pieces(changes: list[Change]) -> Iterator[list[Change]]:
    """An entry's changes, so many together as fit into a piece."""
    piece: list[Change] = []
    size = 0
    for change in changes:
        piece.append(change)
        size += sum(_size(values) for values in (change.key, change.old, change.new))
        if size > PIECE_BYTES or len(piece) >= PIECE_CHANGES:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def _size(values: Mapping[str, SqlValue] | None) -> int:
    return sum(
        len(name) + (len(value) if isinstance(value, (str, bytes)) else _VALUE_BYTES)
        for name, value in (values or {}).items()
    )


def _to_wire(change: Change) -> list[Any]:
    index, table, kind, key, old, new, is_last = change
    return [index, table, kind.value, dict(key), _map(old), _map(new), is_last]


def _map(values: Mapping[str, SqlValue] | None) -> dict[str, SqlValue] | None:
    return None if values is None else dict(values)
