"""A write on any node: to the log when we lead, else to the leader, once. Loop thread.

Certain failures (never appended, never sent) are routed again until the deadline; an uncertain one never is.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any

from dqlite_py.command import encode_drop, encode_open
from dqlite_py.errors import (
    Error,
    NodeStopped,
    NoLeader,
    NotLeader,
    OperationalError,
    OutcomeUnknown,
)
from dqlite_py.limits import DATABASES_MAX
from dqlite_py.model import NodeId
from dqlite_py.node.cluster_view import ClusterView
from dqlite_py.node.forwarding import Forwarder
from dqlite_py.node.proposals import DatabaseProposals, UnitCallback
from dqlite_py.node.tickets import Deadline
from dqlite_py.raft.rpc import RpcLost, RpcNotSent

Call = Callable[[NodeId, str, Any, float], Any]  # awaitable
Propose = Callable[[bytes, Callable[[Any, Error | None], None]], None]


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
    ) -> None:
        self._loop = loop
        self._view = view
        self._propose = propose
        self._pump = pump
        self._call = call
        self._make_proposals = make_proposals
        self._now_us = now_us
        self._databases = databases
        self._opening: Counter[str] = Counter()
        self._queues: dict[str, DatabaseProposals] = {}
        self._forwarders: dict[str, Forwarder] = {}
        self._tasks: dict[asyncio.Task[Any], None] = {}  # in the order of their start

    # -- on the leader --------------------------------------------------------------------------------

    def submit_here(self, database: str, unit: bytes, callback: UnitCallback) -> None:
        """Write through this node's log; raises NotLeader or another refusal before anything is queued."""
        if not self._view.takes_writes:
            raise self._refusal()
        queue = self._queues.get(database)
        if queue is None:
            queue = self._queues[database] = self._make_proposals(database, self._propose)
        queue.submit(unit, callback)

    def _refusal(self) -> Error:
        view = self._view
        refusal = view.refusal(write=True)
        if refusal is not None:
            return refusal
        return view.not_compared() if view.is_ready_leader else view.not_leader()

    async def submit_many_here(self, database: str, units: Sequence[bytes]) -> list[Any]:
        """For forwarded writes: each unit's result or its Error, when all are known. Raises what refuses them all."""
        if not self._view.takes_writes:
            raise self._refusal()
        answers: list[Any] = [None] * len(units)
        left = len(units)
        all_known: asyncio.Future[None] = self._loop.create_future()

        def answered(position: int) -> UnitCallback:
            def done(result: Any, error: Error | None) -> None:
                nonlocal left
                answers[position] = result if error is None else error
                left -= 1
                if not left and not all_known.done():
                    all_known.set_result(None)

            return done

        for position, unit in enumerate(units):
            done = answered(position)
            try:
                self.submit_here(database, unit, done)
            except Error as error:
                done(None, error)
        await all_known
        return answers

    async def command_here(self, payload: bytes) -> None:
        """Propose a whole command (open, drop) on this leader and wait until it is applied."""
        refusal = self._view.refusal(write=True)
        if refusal is not None:
            raise refusal
        if not self._view.is_ready_leader:
            raise self._view.not_leader()
        future: asyncio.Future[None] = self._loop.create_future()

        def done(_result: Any, error: Error | None) -> None:
            if not future.done():
                if error is None:
                    future.set_result(None)
                else:
                    future.set_exception(error)

        self._propose(payload, done)
        self._pump()
        await future

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

    async def drop_here(self, database: str) -> None:
        await self.command_here(encode_drop(database, self._now_us()))

    def lost_leadership(self) -> None:
        """What was still queued certainly did not happen: route it again or say so."""
        error = self._view.not_leader()
        for queue in self._queues.values():
            queue.fail_queued(error)

    # -- on any node ------------------------------------------------------------------------------------

    def submit(self, database: str, unit: bytes, callback: UnitCallback, deadline: Deadline) -> None:
        """Write from anywhere; `callback` hears exactly once."""

        def done(result: Any, error: Error | None) -> None:
            if error is not None and isinstance(error, NotLeader) and not deadline.passed:
                self._retry(database, unit, done, callback, deadline)
            else:
                callback(result, error)

        queue = self._queues.get(database)
        try:
            if queue is not None and self._view.takes_writes:
                queue.submit(unit, done)
            elif self._view.is_ready_leader:
                self.submit_here(database, unit, done)
            else:
                self._forward(database, unit, done, deadline)
        except NotLeader:
            self._retry(database, unit, done, callback, deadline)
        except Error as error:
            callback(None, error)

    def _retry(
        self, database: str, unit: bytes, done: UnitCallback, callback: UnitCallback, deadline: Deadline
    ) -> None:
        """It certainly did not happen: to whoever leads now."""
        try:
            self._forward(database, unit, done, deadline)
        except Error as error:
            callback(None, error)

    def _forward(self, database: str, unit: bytes, callback: UnitCallback, deadline: Deadline) -> None:
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
                leader=lambda: self._view.remote_leader,
            )
        forwarder.submit(unit, callback, deadline)

    async def _send(self, database: str, units: Sequence[bytes], deadline: Deadline) -> list[Any]:
        answers: list[Any] = await self.on_leader(
            "leader.write",
            {"database": database, "units": units},
            deadline,
            lambda: self.submit_many_here(database, units),
        )
        return answers

    async def on_leader(self, method: str, body: Any, deadline: Deadline, here: Callable[[], Any]) -> Any:
        """Run `here()` if we lead, else `method` on the leader; tries again only what certainly did not happen."""
        refusal = self._view.refusal(write=False)
        if refusal is not None:
            raise refusal
        while True:
            await self._view.wait_for_leader(deadline)
            leader = self._view.remote_leader
            try:
                if leader is None:
                    return await here()
                return await self._call(leader, method, body, deadline.left_s)
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

    def _spawn(self, coroutine: Any) -> asyncio.Task[Any]:
        task = self._loop.create_task(coroutine)
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))
        return task

    async def stop(self) -> None:
        """Cancel what is under way; every callback hears an error whose outcome is true."""
        self.lost_leadership()
        for forwarder in self._forwarders.values():
            forwarder.fail_queued(NodeStopped("the node is stopping"))
        await asyncio.sleep(0)  # what is cancelled BEFORE its first step cannot tell its caller
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2.0)
