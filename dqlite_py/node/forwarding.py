"""A follower's writes on their way to the leader: what arrives while requests are under way travels together.

Loop thread. A batch is sent once; what certainly did not happen is sent again inside `send` (node.writes), never what
may have happened. Every caller hears exactly once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from dqlite_py.errors import Busy, Error, MalformedMessage, OutcomeUnknown, from_wire
from dqlite_py.limits import ENTRY_BATCH_BYTES, PENDING_BYTES_MAX, PENDING_UNITS_MAX
from dqlite_py.model import NodeId
from dqlite_py.node.database_worker import unpack_result
from dqlite_py.node.proposals import UnitCallback
from dqlite_py.node.tickets import Deadline

log = logging.getLogger("dqlite_py.node")

REQUESTS_MAX = 2  # under way at once, per database
UNITS_MAX = 512  # per request: their results come back together
Forwarded = tuple[bytes, UnitCallback, Deadline]
Send = Callable[[str, Sequence[bytes], Deadline], Coroutine[Any, Any, Sequence[Any]]]


class Forwarder:
    """The queue of one database. `send` gives an answer for each unit: its packed result, an error's wire form, or,
    when this node turns out to lead, the result or the error itself."""

    def __init__(
        self,
        database: str,
        *,
        send: Send,
        spawn: Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]],
        soon: Callable[[Callable[[], None]], Any],
        leader: Callable[[], NodeId | None] = lambda: None,
    ) -> None:
        self.database = database
        self._send = send
        self._spawn = spawn
        self._soon = soon
        self._leader = leader
        self._sent_to: NodeId | None = None
        self._era = 0  # changes with the leader
        self._queue: deque[Forwarded] = deque()
        self._queued_bytes = 0
        self._running = 0
        self._start_due = False

    def submit(self, unit: bytes, callback: UnitCallback, deadline: Deadline) -> None:
        """Queue a unit; raises Busy (nothing was queued) when the bounds are reached."""
        if len(self._queue) >= PENDING_UNITS_MAX or self._queued_bytes + len(unit) > PENDING_BYTES_MAX:
            raise Busy(f"{len(self._queue)} writes wait to be sent to the leader: try again later")
        self._queue.append((unit, callback, deadline))
        self._queued_bytes += len(unit)
        self._look_at_leader()
        if self._running < REQUESTS_MAX and not self._start_due:
            self._start_due = True
            self._soon(self._start)

    def fail_queued(self, error: Error) -> None:
        """What was not sent certainly did not happen."""
        queued, self._queue = self._queue, deque()
        self._queued_bytes = 0
        for _unit, callback, _deadline in queued:
            callback(None, error)

    def _look_at_leader(self) -> None:
        """Requests that hang at a leader of before, cut off perhaps, hold up nothing that goes to the present one."""
        leader = self._leader()
        if leader != self._sent_to:
            self._sent_to = leader
            self._era += 1
            self._running = 0

    def _start(self) -> None:
        self._start_due = False
        self._look_at_leader()
        while self._queue and self._running < REQUESTS_MAX:
            batch = self._take()
            deadline = max((deadline for _, _, deadline in batch), key=lambda d: d.left_s)
            self._running += 1
            task = self._spawn(self._send(self.database, [unit for unit, _, _ in batch], deadline))
            task.add_done_callback(partial(self._finished, batch, self._era))

    def _take(self) -> list[Forwarded]:
        batch: list[Forwarded] = []
        taken = 0
        while self._queue and len(batch) < UNITS_MAX:
            size = len(self._queue[0][0])
            if batch and taken + size > ENTRY_BATCH_BYTES:
                break
            taken += size
            batch.append(self._queue.popleft())
        self._queued_bytes -= taken
        return batch

    def _finished(self, batch: Sequence[Forwarded], era: int, task: asyncio.Task[Any]) -> None:
        if era == self._era:
            self._running -= 1
        self._start()
        for (_unit, callback, _deadline), answer in zip(batch, _answers(task, len(batch)), strict=True):
            if isinstance(answer, Error):
                callback(None, answer)
            else:
                callback(answer, None)


def _answers(task: asyncio.Task[Any], count: int) -> Sequence[Any]:
    """One answer for each unit, an Error among them is that unit's."""
    if task.cancelled():
        return [OutcomeUnknown("the node stopped before the write's outcome was known")] * count
    error = task.exception()
    if error is None:
        answers = task.result()
        if type(answers) is list and len(answers) == count:
            return [_answer(answer) for answer in answers]
        return [OutcomeUnknown("the leader's answer has the wrong shape")] * count
    if isinstance(error, Error):
        return [error] * count
    log.error("forwarding writes failed unexpectedly", exc_info=error)
    return [OutcomeUnknown(f"write failed: {error!r}")] * count


def _answer(answer: Any) -> Any:
    if type(answer) is bytes:
        try:
            return unpack_result(answer)
        except MalformedMessage as error:
            return OutcomeUnknown(f"the leader's answer cannot be read: {error}")
    if type(answer) is list:
        told = from_wire(answer)
        if isinstance(told, MalformedMessage) and answer[:1] != [MalformedMessage.__name__]:
            return OutcomeUnknown("the leader's answer cannot be read: not an error's wire form")
        return told
    return answer
