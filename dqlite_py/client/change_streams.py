"""Iterators over the changes of a remote database, for threads and for event loops: what `Node.changes` gives. One
consumer each."""

from __future__ import annotations

import asyncio
from collections import deque

from dqlite_py.changes import Change
from dqlite_py.client.calls import Calls
from dqlite_py.client.changes import Follower
from dqlite_py.client.link import Link
from dqlite_py.client.shared import SharedLink
from dqlite_py.errors import InterfaceError, NodeStopped


class _Stream:
    """`position`: everything up to this log index was handed out and taken: where the consumer asked for the next one.

    `timeout`: seconds to wait for a change, then TimeoutError, after which one may iterate on; None: for ever.
    """

    def __init__(
        self, shared: SharedLink, database: str, after: int | None, timeout: float | None, open_s: float
    ) -> None:
        self.position = after
        self.timeout = timeout
        self._calls = Calls(shared)
        self._database = database
        self._open_s = open_s
        self._follower: Follower | None = None
        self._ready: deque[Change] = deque()
        self._done = after  # the newest entry that was handed out whole
        self._closed = False

    async def _open(self, link: Link) -> None:
        if self._follower is None:
            self._follower = Follower(link, self._database, self.position, self._open_s)
        await self._follower.open()
        if self._done is None:
            self.position = self._done = self._follower.position

    async def _fill(self, link: Link) -> None:
        """Wait for the next entry that has changes; raises TimeoutError. Cancelled: nothing is lost."""
        try:
            async with asyncio.timeout(self.timeout):
                while not self._ready and not self._closed:
                    await self._open(link)
                    assert self._follower is not None
                    self._ready.extend(await self._follower.next_entries())
                    if not self._ready:
                        self.position = self._done = self._follower.position
        except NodeStopped:
            if not self._closed:
                raise
        except TimeoutError:
            raise TimeoutError(f"no change within {self.timeout or 0:g} s") from None

    def _take(self) -> Change:
        change = self._ready.popleft()
        if change.is_last:
            self._done = change.log_index
        return change

    def _close(self) -> None:
        self._closed = True
        if self._follower is not None:
            self._follower.close()

    def __del__(self) -> None:
        self._calls.soon(self._close)


class RemoteChangeStream(_Stream):
    """As node.change_streams.ChangeStream, over the network; it goes on with another node when one is lost.

    Raises ChangesCompacted when the node that is asked does not keep changes back to `position`, OperationalError when
    the database is dropped, NoLeader when no node answers. A KeyboardInterrupt ends the wait and loses nothing.
    """

    def open(self) -> None:
        """Return when a node tells changes from `position` on; None: from now on."""
        self._calls.run(self._open)

    def __iter__(self) -> RemoteChangeStream:
        return self

    def __next__(self) -> Change:
        self.position = self._done
        if not self._ready:
            if self._closed:
                raise StopIteration
            self._calls.run(self._fill)
            if not self._ready:
                raise StopIteration
        return self._take()

    def close(self) -> None:
        """Idempotent; any thread. A thread that waits in `next` gets StopIteration."""
        self._closed = True
        self._calls.soon(self._close)

    def __enter__(self) -> RemoteChangeStream:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


class AsyncRemoteChangeStream(_Stream):
    """`RemoteChangeStream` for any event loop. Opened by the first `anext`. Cancelling a wait loses nothing."""

    _is_busy = False

    def __aiter__(self) -> AsyncRemoteChangeStream:
        return self

    async def __anext__(self) -> Change:
        if self._is_busy:
            raise InterfaceError("the stream is being read by another task")
        self.position = self._done
        if not self._ready:
            if self._closed:
                raise StopAsyncIteration
            self._is_busy = True
            try:
                await self._calls.wait(self._fill)
            finally:
                self._is_busy = False
            if not self._ready:
                raise StopAsyncIteration
        return self._take()

    async def close(self) -> None:
        """Idempotent. A task that waits in `anext` gets StopAsyncIteration."""
        self._closed = True
        self._calls.soon(self._close)

    async def __aenter__(self) -> AsyncRemoteChangeStream:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()
