"""Before a read: is this node's state fresh enough for it, and until when to wait if not (docs/read-levels.md).

`is_fresh` may be asked by any thread and costs no message and no hop; everything else is on the loop thread. Questions
to the leader are shared (read_rounds.py), one kind of round for each of the two levels that need them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from dqlite_py.errors import Error, NoLeader, NotLeader, OperationalError, TooStale
from dqlite_py.gateway import LINEARIZABLE, Freshness, ReadLevel
from dqlite_py.model import LogIndex, NodeId
from dqlite_py.node.applier import Applier
from dqlite_py.node.cluster_view import ClusterView
from dqlite_py.node.read_rounds import Answer, BarrierCallback, ReadRounds, replaced
from dqlite_py.node.tickets import Deadline
from dqlite_py.raft.core import RaftCore
from dqlite_py.raft.rpc import RpcLost, RpcNotSent

SWEEP_S: Final = 1.0  # how often readers that are held are looked at


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
        self._asked: dict[int, Answer] = {}
        self._confirmed_ms: dict[
            str, float
        ] = {}  # database -> when everything committed was found to be applied
        # How long a leader that is cut off may go on telling its followers an old commit index.
        self._deposed_ms = core.settings.election_max_ms + 2 * core.settings.heartbeat_ms
        rounds = partial(ReadRounds, loop=loop, applier=applier, now_ms=now_ms)
        self._linearizable = rounds(source=_Confirmed(self))
        self._leases = rounds(source=_Leased(self))
        self._is_watching = False
        self._stopped = False

    # -- any thread ---------------------------------------------------------------------------------------

    def is_fresh(self, database: str, freshness: Freshness) -> bool:
        """True when a read begun now needs no barrier: no message, no hop."""
        level = freshness.level
        if level is ReadLevel.STALE:
            bound = freshness.max_staleness_s
            return bound is None or self.staleness_ms(database) <= bound * 1000
        if level is ReadLevel.SESSION:
            return self._applier().has_applied(database, freshness.log_index)
        return level is ReadLevel.LEADER and self._view.is_compared and self._lease_serves(database)

    def _lease_serves(self, database: str) -> bool:
        """The lease holds, and what was committed by now is applied."""
        now = self._now_ms()  # BEFORE the lease is looked at, and that BEFORE the commit index
        return now < self._core.lease_until_ms and self._applier().has_applied(
            database, self._core.commit_index
        )

    def staleness_ms(self, database: str) -> float:
        """An upper bound of how long ago this node's `database` was the newest there was."""
        if self._lease_serves(database):
            return 0.0
        now = self._now_ms()
        known = max(self._core.fresh_ms - self._deposed_ms, self._confirmed_ms.get(database, float("-inf")))
        return now - known

    def watch_held(self) -> None:
        """A reader is held: see to it that it is not for ever."""
        if not self._is_watching:
            self._is_watching = True
            try:
                self._loop.call_soon_threadsafe(self._sweep)
            except RuntimeError:
                return  # the loop is closed, and with it the readers

    def _sweep(self) -> None:
        self._is_watching = False  # BEFORE looking
        is_held = False
        for pool in self._applier().readers.values():
            if pool.has_held:
                pool.sweep()
                is_held = True
        if is_held and not self._is_watching and not self._stopped:
            self._is_watching = True
            self._loop.call_later(SWEEP_S, self._sweep)

    # -- the core's answers -----------------------------------------------------------------------------

    def ready(self, read_id: int, index: LogIndex) -> None:
        answer = self._asked.pop(read_id, None)
        if answer is not None:
            answer(index)

    def failed(self, read_id: int) -> None:
        answer = self._asked.pop(read_id, None)
        if answer is not None:
            answer(None)

    def _ask_core(self, answer: Answer) -> None:
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

    async def lease_index_here(self) -> LogIndex:
        """The same without a message, while the lease holds."""
        index = self._core.lease_index(self._now_ms()) if self._view.is_ready_leader else None
        return await self.read_index_here() if index is None else index

    def confirm_here(self, answer: Answer) -> None:
        """Confirm leadership with a quorum after this call; `answer` hears the read index, or None when it is lost."""
        if self._stopped or not self._view.is_ready_leader:
            answer(None)
            return
        self._ask_core(answer)
        self._loop.call_soon(self._pump)

    async def _ask_leader(self, deadline: Deadline, here: Callable[[], Any], method: str) -> LogIndex:
        while not self._view.is_compared:  # after a start: are this node's databases those of a majority?
            if deadline.passed:
                raise NoLeader("this node has not yet compared its databases with a majority of the members")
            await self._view.wait_change(min(0.2, deadline.left_s))
        while True:
            await self._view.wait_for_leader(deadline)
            leader = self._view.remote_leader
            try:
                if leader is None:
                    return LogIndex(await asyncio.wait_for(here(), max(0.001, deadline.left_s)))
                return LogIndex(int(await self._call(leader, method, [], deadline.left_s)))
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

    def barrier(
        self,
        database: str,
        callback: BarrierCallback,
        deadline: Deadline,
        freshness: Freshness = LINEARIZABLE,
    ) -> None:
        """Call back once when a read of `database` begun now is as fresh as asked for, or with the reason why not."""
        refusal = self._view.refusal(write=False)
        if refusal is None and self._stopped:
            refusal = OperationalError("the node is stopping")
        if refusal is not None:
            callback(None, refusal)
        elif self._view.is_spare and not self.is_fresh(database, freshness):
            callback(None, self._view.no_current_copy())
        elif freshness.level is ReadLevel.SESSION:
            self._wait_applied(database, freshness.log_index, callback, deadline)
        elif freshness.level is ReadLevel.STALE:
            self._freshen(database, callback, deadline, freshness)
        else:
            rounds = self._linearizable if freshness.level is ReadLevel.LINEARIZABLE else self._leases
            rounds.add(database, callback, deadline)

    def _freshen(
        self, database: str, callback: BarrierCallback, deadline: Deadline, freshness: Freshness
    ) -> None:
        """Over the bound: then only the leader can tell what is new."""
        if self.is_fresh(database, freshness):
            callback(None, None)
            return

        def answered(value: Any, error: Error | None) -> None:
            callback(value, self.too_stale(database, freshness) if isinstance(error, NoLeader) else error)

        self._leases.add(database, answered, deadline)

    def _wait_applied(self, database: str, index: int, callback: BarrierCallback, deadline: Deadline) -> None:
        future = self._applier().when_applied(database, index)
        if future is None:
            callback(index, None)
            return
        is_late = False

        def give_up() -> None:
            nonlocal is_late
            is_late = True
            future.cancel()

        late = self._loop.call_later(deadline.left_s, give_up)

        def done(_future: asyncio.Future[None]) -> None:
            late.cancel()
            if not future.cancelled():
                callback(index, None)
            elif is_late:
                callback(None, self.too_stale(database, Freshness(ReadLevel.SESSION, index)))
            else:
                callback(None, replaced())

        future.add_done_callback(done)

    def too_stale(self, database: str, freshness: Freshness) -> Error:
        """Why a read did not get the state it asked for in time. Any thread."""
        if freshness.level is ReadLevel.SESSION:
            applied = self._applier().applied_index
            return TooStale(f"this node has applied log index {applied}, not yet {freshness.log_index}")
        if freshness.level is not ReadLevel.STALE:
            return NoLeader("the read was not confirmed in time")
        age_s = self.staleness_ms(database) / 1000
        known = f"{age_s:.1f} s ago" if age_s < 1e9 else "not since it started"
        return TooStale(
            f"this node was last known to be up to date {known}, {freshness.max_staleness_s:g} s are allowed, and no "
            "leader answered in time"
        )

    def confirmed(self, database: str, asked_ms: float) -> None:
        """See read_rounds.Source."""
        self._confirmed_ms[database] = asked_ms

    def stop(self) -> None:
        self._stopped = True
        self._linearizable.stop()
        self._leases.stop()


class _Confirmed:
    """A round that a quorum confirms."""

    def __init__(self, reads: ReadBarriers) -> None:
        self._reads = reads
        self.confirmed = reads.confirmed

    def ask_here(self, answer: Answer) -> bool:
        reads = self._reads
        if not (reads._view.is_compared and reads._view.is_ready_leader):
            return False
        reads._ask_core(answer)
        reads._pump()
        return True

    async def ask(self, deadline: Deadline) -> LogIndex:
        reads = self._reads
        return await reads._ask_leader(deadline, reads.read_index_here, "raft.read_index")


class _Leased(_Confirmed):
    """The same, without a message while the leader's lease holds."""

    def ask_here(self, answer: Answer) -> bool:
        reads = self._reads
        if reads._view.is_compared and reads._view.is_ready_leader:
            index = reads._core.lease_index(reads._now_ms())
            if index is not None:
                answer(index)
                return True
        return super().ask_here(answer)

    async def ask(self, deadline: Deadline) -> LogIndex:
        reads = self._reads
        return await reads._ask_leader(deadline, reads.lease_index_here, "raft.lease_index")
