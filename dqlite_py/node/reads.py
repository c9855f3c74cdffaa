"""Linearizable read barriers: one leadership check shared by all reads that wait for it. Loop thread.

A round: get a read index that was asked for AFTER the waiters arrived, then let each go on when its database has
applied that index (thesis 6.4). Only one round is under way; later reads take the next. A leader asks its core, with
no task and no timer (a core that hears no quorum steps down and says so); anything else is a task: to ask the leader
by RPC, to wait for one, to ask again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from dqlite_py.errors import Error, InternalError, NoLeader, NotLeader, OperationalError
from dqlite_py.model import LogIndex, NodeId
from dqlite_py.node.applier import Applier
from dqlite_py.node.cluster_view import ClusterView
from dqlite_py.node.tickets import Deadline
from dqlite_py.raft.core import RaftCore
from dqlite_py.raft.rpc import RpcLost, RpcNotSent

BarrierCallback = Callable[[Any, Error | None], None]
Waiting = list[tuple[str, BarrierCallback, Deadline]]


class ReadBarriers:
    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        core: RaftCore,
        view: ClusterView,
        applier: Callable[[], Applier],
        pump: Callable[[], None],
        now_ms: Callable[[], float],
        call: Callable[[NodeId, str, Any, float], Any],
    ) -> None:
        self._loop = loop
        self._core = core
        self._view = view
        self._applier = applier
        self._pump = pump
        self._now_ms = now_ms
        self._call = call
        self._next_id = 1
        self._asked: dict[int, Callable[[LogIndex | None], None]] = {}  # None: leadership was lost
        self._waiting: Waiting = []  # for the next round
        self._under_way: Waiting = []
        self._is_busy = False  # a round is under way or about to begin
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    # -- the core's answers -----------------------------------------------------------------------------

    def ready(self, read_id: int, index: LogIndex) -> None:
        answer = self._asked.pop(read_id, None)
        if answer is not None:
            answer(index)

    def failed(self, read_id: int) -> None:
        answer = self._asked.pop(read_id, None)
        if answer is not None:
            answer(None)

    def _ask_core(self, answer: Callable[[LogIndex | None], None]) -> None:
        read_id = self._next_id
        self._next_id += 1
        self._asked[read_id] = answer
        self._core.read_index(read_id, self._now_ms())

    # -- read index ---------------------------------------------------------------------------------------

    async def read_index_here(self) -> LogIndex:
        """Confirm leadership with a quorum after this call; raises NotLeader."""
        if not self._view.is_ready_leader:
            raise self._view.not_leader()
        future: asyncio.Future[LogIndex] = self._loop.create_future()

        def answer(index: LogIndex | None) -> None:
            if future.done():
                return
            if index is None:
                future.set_exception(NotLeader("leadership was lost before the read was confirmed"))
            else:
                future.set_result(index)

        self._ask_core(answer)
        self._loop.call_soon(self._pump)  # those that arrive together share a round
        return await future

    def confirm_here(self, answer: Callable[[LogIndex | None], None]) -> None:
        """Confirm leadership with a quorum after this call; `answer` hears the read index, or None when it is lost."""
        if self._stopped or not self._view.is_ready_leader:
            answer(None)
            return
        self._ask_core(answer)
        self._loop.call_soon(self._pump)

    async def _read_index(self, deadline: Deadline) -> LogIndex:
        while True:
            await self._view.wait_for_leader(deadline)
            leader = self._view.remote_leader
            try:
                if leader is None:
                    return await asyncio.wait_for(self.read_index_here(), max(0.001, deadline.left_s))
                return LogIndex(int(await self._call(leader, "raft.read_index", [], deadline.left_s)))
            except (
                RpcLost,
                RpcNotSent,
                NotLeader,
                NoLeader,
                TimeoutError,
            ) as error:  # a read may always be asked again
                if deadline.passed:
                    raise NoLeader(f"no leader confirmed the read in time: {error}") from None
            await self._view.wait_change(min(0.05, deadline.left_s))

    # -- barriers for readers -------------------------------------------------------------------------------

    def barrier(self, database: str, callback: BarrierCallback, deadline: Deadline) -> None:
        """Call back once when a read of `database` begun now would be linearizable, or with the reason why not."""
        refusal = self._view.refusal(write=False)
        if refusal is not None:
            callback(None, refusal)
            return
        if self._stopped:
            callback(None, OperationalError("the node is stopping"))
            return
        self._waiting.append((database, callback, deadline))
        if not self._is_busy:
            self._is_busy = True
            self._loop.call_soon(self._begin)  # what arrives in this turn of the loop comes along

    def _begin(self) -> None:
        """A round for everybody who waits now."""
        if self._stopped:
            return
        self._under_way, self._waiting = self._waiting, []
        if self._view.is_compared and self._view.is_ready_leader:
            self._ask_core(self._confirmed)
            self._pump()
        else:
            self._begin_task()

    def _confirmed(self, index: LogIndex | None) -> None:
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
            await self._wait_compared(deadline)
            index = await self._read_index(deadline)
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
                for callback in those:
                    callback(index, None)
            else:
                future.add_done_callback(partial(_applied, those, index))
        self._next()

    def _next(self) -> None:
        if self._waiting:
            self._begin()
        else:
            self._is_busy = False

    async def _wait_compared(self, deadline: Deadline) -> None:
        """After a start: until this node's databases are known to be those of a majority."""
        while not self._view.is_compared:
            if deadline.passed:
                raise NoLeader("this node has not yet compared its databases with a majority of the members")
            await self._view.wait_change(min(0.2, deadline.left_s))

    def stop(self) -> None:
        self._stopped = True
        if self._task is not None:
            self._task.cancel()
        left = self._under_way + self._waiting
        self._under_way, self._waiting = [], []
        _refuse(left, OperationalError("the node is stopping"))


def _applied(callbacks: list[BarrierCallback], index: LogIndex, done: asyncio.Future[None]) -> None:
    for callback in callbacks:
        if done.cancelled():
            callback(None, OperationalError("the database was closed or replaced while the read waited"))
        else:
            callback(index, None)


def _refuse(waiting: Waiting, error: Error) -> None:
    for _database, callback, _deadline in waiting:
        callback(None, error)
