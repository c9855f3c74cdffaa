"""Iterators over the changes of a database, for user threads and for event loops. One consumer each.

Nothing is buffered but the entries that are being handed out: a slow consumer reads later, from the change log.
Waiting costs no thread: whoever applies the next entry wakes the consumer.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Final

from dqlite_py.changes import Change
from dqlite_py.errors import InterfaceError
from dqlite_py.node.forks import Origin
from dqlite_py.storage.changelog.cursor import Cursor

BATCH: Final = 256  # changes that are read at once for an event loop


class ChangeStream:
    """Iterate for `Change`s; ends when it is closed, from any thread. Use it as a context manager, or close it.

    `position`: everything up to this log index was handed out and taken: where the consumer asked for the next one.
    `node.changes(database, after=position)`, on any node, goes on there.
    `timeout`: seconds to wait for a change, then TimeoutError, after which one may iterate on; None: for ever.
    Raises ChangesCompacted when the log does not go back that far, OperationalError when the database is dropped,
    NodeStopped (in a forked child, too); the stream is then over. A KeyboardInterrupt ends the wait and loses nothing.
    """

    def __init__(self, cursor: Cursor, *, timeout: float | None = None) -> None:
        self.position = cursor.after
        self.timeout = timeout
        self._cursor = cursor
        self._lock = threading.Lock()  # the cursor is not closed while it is read
        self._ready: deque[Change] = deque()
        self._done = cursor.after  # the newest entry that was handed out whole
        self._wakeup = threading.Event()
        self._closed = False
        self._origin = Origin()

    def __iter__(self) -> ChangeStream:
        return self

    def __next__(self) -> Change:
        self._origin.check()
        self.position = self._done
        if not self._ready:
            self._fill()
        change = self._ready.popleft()
        if change.is_last:
            self._done = change.log_index
        return change

    def _fill(self) -> None:
        """Read the next entry that has changes; raises StopIteration when closed."""
        end = None if self.timeout is None else time.monotonic() + self.timeout
        while True:
            with self._lock:
                if self._closed:
                    raise StopIteration
                changes = self._cursor.read()
                if changes is not None:
                    self._ready.extend(changes)
                    return
                self.position = self._done = self._cursor.after
                self._wakeup.clear()
                if self._closed:
                    raise StopIteration
                waits = self._cursor.when_changed(self._wakeup.set)
            if waits:
                self._wait(end)

    def _wait(self, end: float | None) -> None:
        try:
            left = None if end is None else max(0.0, end - time.monotonic())
            if not self._wakeup.wait(left):
                raise TimeoutError(f"no change within {self.timeout:g} s")
        finally:
            self._cursor.forget(self._wakeup.set)

    def close(self) -> None:
        """Idempotent; any thread. A thread that waits in `next` gets StopIteration."""
        if not self._origin.is_here:
            return  # the lock may be held for ever
        self._closed = True
        self._wakeup.set()
        with self._lock:
            self._cursor.close()

    def __enter__(self) -> ChangeStream:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


class AsyncChangeStream:
    """`ChangeStream` for any event loop but the node's own: `async for change in node.changes_async(...)`.

    Opened by the first `anext`. Files are read on the loop's default executor. Cancelling a wait loses nothing.
    """

    def __init__(self, open_cursor: Callable[[], Cursor], *, timeout: float | None = None) -> None:
        self.position: int | None = None
        self.timeout = timeout
        self._open_cursor = open_cursor
        self._cursor: Cursor | None = None
        self._ready: deque[Change] = deque()
        self._start: int | None = None
        self._done: int | None = None  # the newest entry that was handed out whole
        self._work: asyncio.Future[None] | None = None  # on the executor; outlives a cancelled wait
        self._waiting: asyncio.Future[None] | None = None
        self._is_busy = False
        self._closed = False
        self._origin = Origin()

    def __aiter__(self) -> AsyncChangeStream:
        return self

    async def __anext__(self) -> Change:
        self._origin.check()
        if self._is_busy:
            raise InterfaceError("the stream is being read by another task")
        self.position = self._done
        if not self._ready:
            self._is_busy = True
            try:
                async with asyncio.timeout(self.timeout):
                    await self._fill()
            except TimeoutError:
                raise TimeoutError(f"no change within {self.timeout or 0:g} s") from None
            finally:
                self._is_busy = False
        change = self._ready.popleft()
        if change.is_last:
            self._done = change.log_index
        return change

    async def _fill(self) -> None:
        """Read some entries; raises StopAsyncIteration when closed."""
        loop = asyncio.get_running_loop()
        while not self._closed:
            await self._on_executor(self._read)
            if self.position is None:
                self.position = self._start
            if self._ready:
                return
            assert self._cursor is not None
            self.position = self._done = self._cursor.after
            waiting = self._waiting = loop.create_future()

            def wake(waiting: asyncio.Future[None] = waiting) -> None:
                with suppress(RuntimeError):  # the loop is closed: nobody waits
                    loop.call_soon_threadsafe(_resolve, waiting)

            if not self._closed and self._cursor.when_changed(wake):
                try:
                    await waiting
                finally:
                    self._cursor.forget(wake)
        raise StopAsyncIteration

    def _read(self) -> None:
        """On the executor: open, then read some entries if there are any."""
        if self._cursor is None:
            self._cursor = self._open_cursor()
            self._start = self._done = self._cursor.after
        while len(self._ready) < BATCH and not self._closed:
            changes = self._cursor.read()
            if changes is None:
                return
            self._ready.extend(changes)

    async def _on_executor(self, function: Callable[[], None]) -> None:
        """A call that was left alone by a cancelled task is waited for instead."""
        if self._work is None:
            self._work = asyncio.get_running_loop().run_in_executor(None, function)
        work = self._work
        try:
            await asyncio.shield(work)
        finally:
            if work.done():
                self._work = None

    async def close(self) -> None:
        """Idempotent. A task that waits in `anext` gets StopAsyncIteration."""
        if not self._origin.is_here:
            return
        self._closed = True
        if self._waiting is not None:
            _resolve(self._waiting)
        if self._work is not None:
            await asyncio.gather(self._work, return_exceptions=True)
        if self._cursor is not None:
            self._cursor.close()

    async def __aenter__(self) -> AsyncChangeStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
