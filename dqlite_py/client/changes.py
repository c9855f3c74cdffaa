"""A database's changes for a program: a stream from one node, and from another one when that is lost. Loop thread.

Changes are handed out by whole entries; what a lost node has told of an entry that was not whole is told again by the
next one. The node sends ahead what was allowed, no more: a slow consumer holds nobody's memory.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from typing import Any, Final

from dqlite_py.changes import Change, ChangeKind
from dqlite_py.client.link import MARGIN_S, Link
from dqlite_py.client.wire import NodeConnection
from dqlite_py.errors import (
    DivergenceDetected,
    MalformedMessage,
    NodeStopped,
    NoLeader,
    NotLeader,
    OutcomeUnknown,
    WrongCluster,
)
from dqlite_py.model import Address
from dqlite_py.wire.rpc import RpcError

PIECES_AHEAD: Final = 8
_PAUSE_MIN_S: Final = 0.02
_PAUSE_MAX_S: Final = 0.5
# Nothing was changed by asking, so an unknown outcome is as good as none.
_ELSEWHERE: Final = (NodeStopped, NoLeader, NotLeader, OutcomeUnknown, DivergenceDetected, WrongCluster)


class Follower:
    """`position`: everything up to this log index was handed out; None: it has not begun.

    `timeout_s`: how long nodes are asked, one after the other, for a stream to begin or to go on.
    """

    def __init__(self, link: Link, database: str, after: int | None, timeout_s: float) -> None:
        self.position = after
        self._link = link
        self._database = database
        self._timeout_s = timeout_s
        self._pieces: deque[Any] = deque()
        self._entry: list[Change] = []  # its end has not come
        self._connection: NodeConnection | None = None
        self._address: Address | None = None
        self._number = 0
        self._call: asyncio.Task[Any] | None = None
        self._news = asyncio.Event()

    async def open(self) -> None:
        """Return when a node tells changes; raises why none does."""
        end = time.monotonic() + self._timeout_s
        pause_s = _PAUSE_MIN_S
        while self._call is None:
            try:
                await self._begin(end)
                return
            except (RpcError, TimeoutError, *_ELSEWHERE) as error:
                if self._address is not None:
                    self._link.directory.failed(self._address, error)
                last = error
            if end - time.monotonic() <= pause_s:
                raise NoLeader(f"no node tells the changes of {self._database}: {last}") from None
            await asyncio.sleep(pause_s)
            pause_s = min(_PAUSE_MAX_S, 2 * pause_s)

    async def next_entries(self) -> list[Change]:
        """The changes of the next entry that has some; [] when there are none up to a new `position`.

        Raises ChangesCompacted, or why there are no more. Cancelled: nothing is lost.
        """
        while True:
            await self.open()
            while self._pieces:
                position, changes = _piece(self._pieces.popleft())
                assert self._connection is not None
                self._connection.allow(self._number, 1)
                self._entry += changes
                if position == self.position and changes:
                    continue  # there is more of the entry
                self.position = position
                entry, self._entry = self._entry, []
                return entry
            self._news.clear()
            if self._call is not None and self._call.done():
                self._lost()
            else:
                await self._news.wait()

    def close(self) -> None:
        """The node need not tell more."""
        if self._call is not None:
            self._call.cancel()

    async def _begin(self, end: float) -> None:
        self._address = None
        left_s = max(0.001, end - time.monotonic())
        async with asyncio.timeout(left_s + MARGIN_S):
            self._address = await self._link.directory.pick(leader=False)
        connection = await self._link.caller.connection(self._address, left_s)
        body = {"database": self._database, "after": self.position, "timeout_s": left_s}
        self._pieces.clear()
        self._entry.clear()
        self._news.clear()
        number = connection.begin("changes.follow", body, math.inf, self._heard)
        call = self._link.spawn(connection.finish(number))
        call.add_done_callback(lambda _: self._news.set())
        try:
            connection.allow(number, PIECES_AHEAD)
            async with asyncio.timeout(left_s + MARGIN_S):
                await self._news.wait()
        except BaseException:
            call.cancel()
            raise
        if not self._pieces:
            await call  # it failed before it began
            raise MalformedMessage("a stream that ended before it began", what="changes.follow")
        self._connection, self._number, self._call = connection, number, call
        if self.position is None:
            self.position, _ = _piece(self._pieces[0])

    def _heard(self, piece: Any) -> None:
        self._pieces.append(piece)
        self._news.set()

    def _lost(self) -> None:
        """The stream ended: another node may go on; raises what is final."""
        call, self._call, self._connection = self._call, None, None
        assert call is not None
        if call.cancelled():
            raise NodeStopped("the stream is closed")
        error = call.exception()
        if isinstance(error, (RpcError, *_ELSEWHERE)):
            if self._address is not None:
                self._link.directory.failed(self._address, error)
        elif error is not None:
            raise error
        else:
            raise MalformedMessage("a stream that ended without a reason", what="changes.follow")


def _piece(value: Any) -> tuple[int, list[Change]]:
    if type(value) is not list or len(value) != 2 or type(value[0]) is not int or type(value[1]) is not list:
        raise MalformedMessage("a piece of changes has the wrong shape", what="changes.follow")
    return value[0], [_change(item) for item in value[1]]


_KINDS: Final = {kind.value: kind for kind in ChangeKind}
_TYPES: Final = ((int,), (str,), (str,), (dict,), (dict, type(None)), (dict, type(None)), (bool,))


def _change(item: Any) -> Change:
    if (
        type(item) is list
        and len(item) == len(_TYPES)
        and all(type(value) in kinds for value, kinds in zip(item, _TYPES, strict=True))
        and item[2] in _KINDS
        and all(type(name) is str for values in item[3:6] if values is not None for name in values)
    ):
        index, table, kind, key, old, new, is_last = item
        return Change(index, table, _KINDS[kind], key, old, new, is_last)
    raise MalformedMessage("a change has the wrong shape", what="changes.follow")
