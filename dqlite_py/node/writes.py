"""A write on any node: to the log when we lead, else to the leader. Loop thread.

Certain failures (never appended, never sent) are routed again until the deadline. An uncertain one is only when the
unit has a key, by which the database knows it again (docs/decisions/0011): the same bytes, until the log has answered
or the time is over.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, Final

from dqlite_py.client_sessions import ClientSessions, is_refusal
from dqlite_py.command import encode_drop, encode_open
from dqlite_py.errors import (
    Error,
    NeverApplied,
    NodeStopped,
    NoLeader,
    NotLeader,
    OperationalError,
    Outcome,
    OutcomeUnknown,
    Overwritten,
    is_database_missing,
)
from dqlite_py.limits import DATABASES_MAX
from dqlite_py.model import NodeId
from dqlite_py.node.cluster_view import ClusterView
from dqlite_py.node.forwarding import Forwarder
from dqlite_py.node.pending_write import PendingWrite
from dqlite_py.node.proposals import DatabaseProposals, Queued, UnitCallback
from dqlite_py.node.tickets import Deadline
from dqlite_py.raft.rpc import RpcLost, RpcNotSent
from dqlite_py.resultcodes import SESSION_EXPIRED, error_from_code
from dqlite_py.units import stamp_unit

Call = Callable[[NodeId, str, Any, float], Any]  # awaitable
Propose = Callable[[bytes, Callable[[Any, Error | None], None]], None]
ANSWER_S: Final = 0.4  # for a leader's answer to what waited there until its time was over
REPEAT_S: Final = 0.02  # before a unit whose attempt had an uncertain end is tried again


class Writes:
    """Routes units; owns the per-database proposal queues."""

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        view: ClusterView,
        propose: Propose,
        pump: Callable[[], None],
        call: Call,
        make_proposals: Callable[[str, Propose], DatabaseProposals],
        now_us: Callable[[], int],
        databases: Callable[[], Collection[str]],
        sessions: ClientSessions,
    ) -> None:
        self._loop = loop
        self._view = view
        self._propose = propose
        self._pump = pump
        self._call = call
        self._make_proposals = make_proposals
        self._now_us = now_us
        self._databases = databases
        self.sessions = sessions
        self._opening: Counter[str] = Counter()
        self._queues: dict[str, DatabaseProposals] = {}
        self._forwarders: dict[str, Forwarder] = {}
        self._pausing: dict[PendingWrite, asyncio.TimerHandle] = {}  # uncertain, about to be tried again
        self._tasks: dict[asyncio.Task[Any], None] = {}  # in the order of their start
        self._stopped = False
        view.watchers.append(self._look_at_leader)

    # -- on the leader --------------------------------------------------------------------------------

    def submit_here(self, database: str, unit: bytes, callback: UnitCallback, deadline: Deadline) -> Queued:
        """Write through this node's log; raises NotLeader or another refusal before anything is queued."""
        return self.queue_here(database).submit(unit, callback, deadline)

    def queue_here(self, database: str) -> DatabaseProposals:
        """Raises NotLeader or another refusal of writes."""
        if not self._view.takes_writes:
            raise self._refusal()
        queue = self._queues.get(database)
        if queue is None:
            queue = self._queues[database] = self._make_proposals(database, self._propose)
        return queue

    def _refusal(self) -> Error:
        view = self._view
        refusal = view.refusal(write=True)
        if refusal is not None:
            return refusal
        return view.not_compared() if view.is_ready_leader else view.not_leader()

    async def submit_many_here(
        self, database: str, units: Sequence[bytes], deadlines: Sequence[Deadline]
    ) -> list[Any]:
        """For forwarded writes: each unit's (log index, result) or its Error, when all are known. Raises what refuses
        them all."""
        if not self._view.takes_writes:
            raise self._refusal()
        answers: list[Any] = [None] * len(units)
        left = len(units)
        all_known: asyncio.Future[None] = self._loop.create_future()

        def answered(position: int) -> UnitCallback:
            def done(outcome: Any, error: Error | None) -> None:
                nonlocal left
                answers[position] = outcome if error is None else error
                left -= 1
                if not left and not all_known.done():
                    all_known.set_result(None)

            return done

        for position, (unit, deadline) in enumerate(zip(units, deadlines, strict=True)):
            done = answered(position)
            try:
                self.submit_here(database, unit, done, deadline)
            except Error as error:
                done(None, error)
        await all_known
        return answers

    async def command_here(self, payload: bytes) -> int:
        """Propose a whole command (open, drop) on this leader and wait until it is applied; its log index."""
        refusal = self._view.refusal(write=True)
        if refusal is not None:
            raise refusal
        if not self._view.is_ready_leader:
            raise self._view.not_leader()
        future: asyncio.Future[int] = self._loop.create_future()

        def done(outcome: Any, error: Error | None) -> None:
            if not future.done():
                if error is None:
                    future.set_result(int(outcome[0]))
                else:
                    future.set_exception(error)

        self._propose(payload, done)
        self._pump()
        return await future

    async def open_here(self, database: str) -> None:
        """Raises OperationalError when there are as many databases as a snapshot can hold; nothing was proposed."""
        names = {*self._databases(), *self._opening, database}
        if self._view.is_ready_leader and len(names) > DATABASES_MAX:
            raise OperationalError(
                f"a cluster has at most {DATABASES_MAX} databases: drop one before {database} is created"
            )
        self._opening[database] += 1
        try:
            await self.command_here(encode_open(database, self._now_us()))
        finally:
            self._opening[database] -= 1
            self._opening += Counter()  # without the zeros

    async def drop_here(self, database: str) -> int:
        """Returns the log index of the DROP."""
        return await self.command_here(encode_drop(database, self._now_us()))

    def lost_leadership(self) -> None:
        """What was still queued certainly did not happen: route it again or say so."""
        error = self._view.not_leader()
        for queue in self._queues.values():
            queue.fail_queued(error)

    # -- on any node ------------------------------------------------------------------------------------

    def submit(self, write: PendingWrite) -> None:
        """Write from anywhere; the write's callback hears exactly once."""
        if write.unit is None:
            if write.once:
                write.key = self.sessions.take(write.database)
            write.unit = stamp_unit(write.body, write.key)
        self._route(write)

    def withdraw(self, write: PendingWrite) -> None:
        """Nobody waits for it any more: it certainly does not happen if it is neither proposed nor sent; else it goes
        on."""
        write.is_abandoned = True
        if (
            not write.is_over
            and not write.is_uncertain
            and write.queued is not None
            and write.queued.withdraw()
        ):
            write.is_abandoned = False  # the key was never used
            self._end(write, OperationalError("the write was withdrawn before it was sent"))

    def _route(self, write: PendingWrite) -> None:
        assert write.unit is not None
        view = self._view
        answered = partial(self._answered, write)
        try:
            if view.takes_writes:
                queue = self._queues.get(write.database) or self.queue_here(write.database)
                write.queued = queue.submit(write.unit, answered, write.deadline)
            elif view.is_ready_leader:
                raise self._refusal()
            else:
                write.queued = self._forward(write.database, write.unit, answered, write.deadline)
        except NotLeader:
            self._route_away(write)
        except Error as error:
            self._answered(write, None, error)

    def _route_away(self, write: PendingWrite) -> None:
        """To whoever will lead; this node's log has just refused it."""
        assert write.unit is not None
        try:
            answered = partial(self._answered, write)
            write.queued = self._forward(write.database, write.unit, answered, write.deadline)
        except Error as error:
            self._answered(write, None, error)

    def _answered(self, write: PendingWrite, outcome: Any, error: Error | None) -> None:
        """An attempt has come to an end."""
        if error is None:
            if outcome[1][0] and is_refusal(outcome):
                self._refused(write, outcome)
            else:
                callback = write.end()
                if write.once and write.key is not None and not write.is_abandoned:
                    self.sessions.give_back(write.database, write.key)
                callback(outcome, None)
            return
        if error.outcome is Outcome.UNKNOWN:
            write.is_uncertain = True
        if (
            self._stopped
            or write.deadline.passed
            or isinstance(error, NodeStopped)
            or is_database_missing(error)
        ):
            self._end(write, error)
        elif isinstance(error, NotLeader) and not write.was_refused:
            write.was_refused = True
            self._route_away(write)
        elif isinstance(error, NotLeader) or (  # again, perhaps by a leader that hands over: give it time
            write.key is not None and (write.is_uncertain or isinstance(error, Overwritten))
        ):
            self._pausing[write] = self._loop.call_later(REPEAT_S, self._repeat, write)
        else:
            self._end(write, error)

    def _repeat(self, write: PendingWrite) -> None:
        del self._pausing[write]
        self._route(write)

    def _refused(self, write: PendingWrite, outcome: Any) -> None:
        """The log has answered, of the write's key."""
        _index, result = outcome
        if result[0] == SESSION_EXPIRED and write.once and not write.is_uncertain:
            # The key is new, and so is the write: certainly not applied.
            if not write.was_reissued:
                write.was_reissued = True
                told = error_from_code(*result[:2]).details.get("log_time_us", 0)
                write.key = self.sessions.fresh(told)
                write.unit = stamp_unit(write.body, write.key)
                self._route(write)
                return
            self._end(write, NeverApplied(f"the write did not happen: {result[1]}"))
            return
        write.end()(outcome, None)

    def _end(self, write: PendingWrite, error: Error) -> None:
        """It has failed: certainly, or nobody knows."""
        callback = write.end()
        if write.is_uncertain:
            if write.key is not None:
                error = write.unknown(str(error), error.details.get("missing_database"))
        elif write.once and write.key is not None and not write.is_abandoned:
            self.sessions.give_back(write.database, write.key)
        callback(None, error)

    def _forward(self, database: str, unit: bytes, callback: UnitCallback, deadline: Deadline) -> Queued:
        """Raises Busy or, when the node stops, NodeStopped; nothing was queued then."""
        refusal = self._view.refusal(write=False)
        if refusal is not None:
            raise refusal
        forwarder = self._forwarders.get(database)
        if forwarder is None:
            forwarder = self._forwarders[database] = Forwarder(
                database,
                send=self._send,
                spawn=self._spawn,
                soon=self._loop.call_soon,
                leader=lambda: self._view.writing_leader,
                later=self._loop.call_later,
            )
        return forwarder.submit(unit, callback, deadline)

    async def _send(self, database: str, batch: Sequence[Queued], deadline: Deadline) -> list[Any]:
        units = [queued.unit for queued in batch]

        def body() -> dict[str, Any]:
            """Of an attempt: the leader gives each unit up when its caller does, not later."""
            wait_ms = [max(1, int(queued.deadline.left_s * 1000)) for queued in batch]
            return {"database": database, "units": units, "wait_ms": wait_ms}

        answers: list[Any] = await self.on_leader(
            "leader.write",
            body,
            deadline,
            lambda: self.submit_many_here(database, units, [queued.deadline for queued in batch]),
            answer_s=ANSWER_S,
        )
        return answers

    def _look_at_leader(self) -> None:
        for forwarder in self._forwarders.values():
            forwarder.look_at_leader()

    async def on_leader(
        self, method: str, body: Any, deadline: Deadline, here: Callable[[], Any], *, answer_s: float = 0.0
    ) -> Any:
        """Run `here()` if we lead, else `method` on the leader; tries again only what certainly did not happen.

        `body`: of the request, or what makes it for each attempt.
        """
        refusal = self._view.refusal(write=False)
        if refusal is not None:
            raise refusal
        while True:
            await self._view.wait_for_leader(deadline)
            leader = self._view.remote_leader
            try:
                if leader is None:
                    return await here()
                request = body() if callable(body) else body
                return await self._call(leader, method, request, deadline.left_s + answer_s)
            except RpcLost as error:
                raise OutcomeUnknown(f"the connection to the leader broke: {error}") from None
            except (RpcNotSent, NotLeader, NoLeader, NodeStopped) as error:
                # Certainly not done. A stopping leader refuses before it queues, and another one follows it.
                if leader is None and isinstance(error, NodeStopped):
                    raise
                if deadline.passed:
                    raise NoLeader(f"no leader took the request in time: {error}") from None
            await self._view.wait_change(min(0.05, deadline.left_s))

    async def open_database(self, database: str, deadline: Deadline) -> None:
        await self.on_leader(
            "leader.open", {"database": database}, deadline, lambda: self.open_here(database)
        )

    async def drop_database(self, database: str, deadline: Deadline) -> int:
        """Remove a database, through the log; returns the log index, 0 where the leader does not tell it."""
        index = await self.on_leader(
            "leader.drop", {"database": database}, deadline, lambda: self.drop_here(database)
        )
        return index if type(index) is int else 0

    def _spawn(self, coroutine: Any) -> asyncio.Task[Any]:
        task = self._loop.create_task(coroutine)
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))
        return task

    async def stop(self) -> None:
        """Cancel what is under way; every callback hears an error whose outcome is true."""
        self._stopped = True
        self.lost_leadership()
        stopping = NodeStopped("the node is stopping")
        for forwarder in self._forwarders.values():
            forwarder.fail_queued(stopping)
        for write, pause in list(self._pausing.items()):
            pause.cancel()
            self._end(write, stopping)
        self._pausing.clear()
        await asyncio.sleep(0)  # what is cancelled BEFORE its first step cannot tell its caller
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2.0)
