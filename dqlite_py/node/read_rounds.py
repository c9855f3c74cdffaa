"""One question to the leader, shared by all reads that wait for its answer. Loop thread.

A round: get a read index that was asked for AFTER the waiters arrived, then let each go on when its database has
applied that index (thesis 6.4). Only one round of a kind is under way; later reads take the next. A leader asks its
core, with no task and no timer (a core that hears no quorum steps down and says so); anything else is a task: to ask
the leader by RPC, to wait for one, to ask again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from dqlite_py.errors import Error, InternalError, OperationalError
from dqlite_py.model import LogIndex
from dqlite_py.node.applier import Applier
from dqlite_py.node.tickets import Deadline

BarrierCallback = Callable[[Any, Error | None], None]
Waiting = list[tuple[str, BarrierCallback, Deadline]]
Answer = Callable[[LogIndex | None], None]  # None: leadership was lost


class Source(Protocol):
    """Where a round's index comes from."""

    def ask_here(self, answer: Answer) -> bool:
        """Ask this node's core, if it may answer; False: it may not."""
        ...

    async def ask(self, deadline: Deadline) -> LogIndex:
        """Ask whoever leads, until one answers. Raises NoLeader."""
        ...

    def confirmed(self, database: str, asked_ms: float) -> None:
        """This node's `database` holds everything that was committed at `asked_ms`."""
        ...


class ReadRounds:
    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        source: Source,
        applier: Callable[[], Applier],
        now_ms: Callable[[], float],
    ) -> None:
        self._loop = loop
        self._source = source
        self._applier = applier
        self._now_ms = now_ms
        self._waiting: Waiting = []  # for the next round
        self._under_way: Waiting = []
        self._asked_ms = 0.0
        self._is_busy = False  # a round is under way or about to begin
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    def add(self, database: str, callback: BarrierCallback, deadline: Deadline) -> None:
        """Call back once when a read of `database` begun now sees enough, or with the reason why not."""
        self._waiting.append((database, callback, deadline))
        if not self._is_busy:
            self._is_busy = True
            self._loop.call_soon(self._begin)  # what arrives in this turn of the loop comes along

    def _begin(self) -> None:
        """A round for everybody who waits now."""
        if self._stopped:
            return
        self._under_way, self._waiting = self._waiting, []
        self._asked_ms = self._now_ms()
        if not self._source.ask_here(self._answered):
            self._begin_task()

    def _answered(self, index: LogIndex | None) -> None:
        if self._stopped:
            return
        if index is None:
            self._begin_task()  # a read may always be asked again
        else:
            self._end(index)

    def _begin_task(self) -> None:
        self._task = self._loop.create_task(self._round())

    async def _round(self) -> None:
        deadline = max((w[2] for w in self._under_way), key=lambda d: d.left_s)
        try:
            index = await self._source.ask(deadline)
        except Exception as error:  # noqa: BLE001 - belongs to those who wait; the next round must come
            known = error if isinstance(error, Error) else InternalError(f"no read index: {error!r}")
            under_way, self._under_way = self._under_way, []
            _refuse(under_way, known)
            self._next()
        else:
            self._end(index)

    def _end(self, index: LogIndex) -> None:
        under_way, self._under_way = self._under_way, []
        callbacks: dict[str, list[BarrierCallback]] = {}
        for database, callback, _deadline in under_way:
            if database in callbacks:
                callbacks[database].append(callback)
            else:
                callbacks[database] = [callback]
        for database, those in callbacks.items():
            future = self._applier().when_applied(database, index)
            if future is None:
                self._source.confirmed(database, self._asked_ms)
                for callback in those:
                    callback(index, None)
            else:
                future.add_done_callback(partial(self._applied, database, those, index, self._asked_ms))
        self._next()

    def _applied(
        self,
        database: str,
        callbacks: list[BarrierCallback],
        index: LogIndex,
        asked_ms: float,
        done: asyncio.Future[None],
    ) -> None:
        error = replaced() if done.cancelled() else None
        if error is None:
            self._source.confirmed(database, asked_ms)
        for callback in callbacks:
            callback(None if error is not None else index, error)

    def _next(self) -> None:
        if self._waiting:
            self._begin()
        else:
            self._is_busy = False

    def stop(self) -> None:
        self._stopped = True
        if self._task is not None:
            self._task.cancel()
        left = self._under_way + self._waiting
        self._under_way, self._waiting = [], []
        _refuse(left, OperationalError("the node is stopping"))


def replaced() -> Error:
    return OperationalError("the database was closed or replaced while the read waited")


def _refuse(waiting: Waiting, error: Error) -> None:
    for _database, callback, _deadline in waiting:
        callback(None, error)
