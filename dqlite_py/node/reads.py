"""Linearizable read barriers: one leadership check shared by all reads that wait for it. Loop thread.

A round: ask the leader (ourselves or by RPC) for a read index AFTER the waiters arrived, then let each go on when
its database has applied that index (thesis 6.4). Only one round is under way; later reads take the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from dqlite_py.errors import Error, NoLeader, NotLeader, OperationalError
from dqlite_py.model import LogIndex, NodeId
from dqlite_py.node.applier import Applier
from dqlite_py.node.cluster_view import ClusterView
from dqlite_py.node.tickets import Deadline
from dqlite_py.raft.core import RaftCore
from dqlite_py.raft.rpc import RpcLost, RpcNotSent

BarrierCallback = Callable[[Any, Error | None], None]


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
        self._asked: dict[int, asyncio.Future[LogIndex]] = {}
        self._waiting: list[tuple[str, BarrierCallback, Deadline]] = []
        self._round: asyncio.Task[None] | None = None
        self._stopped = False

    # -- the core's answers -----------------------------------------------------------------------------

    def ready(self, read_id: int, index: LogIndex) -> None:
        future = self._asked.pop(read_id, None)
        if future is not None and not future.done():
            future.set_result(index)

    def failed(self, read_id: int) -> None:
        future = self._asked.pop(read_id, None)
        if future is not None and not future.done():
            future.set_exception(NotLeader("leadership was lost before the read was confirmed"))

    # -- read index ---------------------------------------------------------------------------------------

    async def read_index_here(self) -> LogIndex:
        """Confirm leadership with a quorum after this call; raises NotLeader."""
        if not self._view.is_ready_leader:
            raise self._view.not_leader()
        read_id = self._next_id
        self._next_id += 1
        future: asyncio.Future[LogIndex] = self._loop.create_future()
        self._asked[read_id] = future
        self._core.read_index(read_id, self._now_ms())
        self._pump()
        return await future

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
        self._waiting.append((database, callback, deadline))
        if self._round is None and not self._stopped:
            self._round = self._loop.create_task(self._rounds())

    async def _rounds(self) -> None:
        waiting: list[tuple[str, BarrierCallback, Deadline]] = []
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting, []
                deadline = max((w[2] for w in waiting), key=lambda d: d.left_s)
                try:
                    await self._wait_compared(deadline)
                    index = await self._read_index(deadline)
                except Error as error:
                    _refuse(waiting, error)
                    continue
                for database, callback, _deadline in waiting:
                    self._resolve_when_applied(database, index, callback)
        except asyncio.CancelledError:
            _refuse(waiting, OperationalError("the node is stopping"))
            raise
        finally:
            self._round = None

    async def _wait_compared(self, deadline: Deadline) -> None:
        """After a start: until this node's databases are known to be those of a majority."""
        while not self._view.is_compared:
            if deadline.passed:
                raise NoLeader("this node has not yet compared its databases with a majority of the members")
            await self._view.wait_change(min(0.2, deadline.left_s))

    def _resolve_when_applied(self, database: str, index: LogIndex, callback: BarrierCallback) -> None:
        future = self._applier().when_applied(database, index)
        if future is None:
            callback(index, None)
            return

        def applied(done: asyncio.Future[None]) -> None:
            if done.cancelled():
                callback(None, OperationalError("the database was closed or replaced while the read waited"))
            else:
                callback(index, None)

        future.add_done_callback(applied)

    def stop(self) -> None:
        self._stopped = True
        if self._round is not None:
            self._round.cancel()
        waiting, self._waiting = self._waiting, []
        _refuse(waiting, OperationalError("the node is stopping"))


def _refuse(waiting: list[tuple[str, BarrierCallback, Deadline]], error: Error) -> None:
    for _database, callback, _deadline in waiting:
        callback(None, error)
