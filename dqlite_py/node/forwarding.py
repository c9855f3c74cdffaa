"""A follower's writes on their way to the leader: what arrives while requests are under way travels together.

Loop thread. A batch is sent once; what certainly did not happen is sent again inside `send` (node.writes), never what
may have happened. Every caller hears exactly once. A request that hangs at a leader of before is given up as soon as
there is another, if all its units have keys: whoever sent them repeats them (node.writes).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from struct import Struct
from typing import Any, Final

from dqlite_py.errors import Busy, Error, MalformedMessage, NoLeader, OutcomeUnknown, from_wire
from dqlite_py.limits import ENTRY_BATCH_BYTES, PENDING_BYTES_MAX, PENDING_UNITS_MAX
from dqlite_py.logs import event
from dqlite_py.model import NodeId
from dqlite_py.node.database_worker import pack_result, unpack_result
from dqlite_py.node.proposals import Queued, UnitCallback
from dqlite_py.node.tickets import Deadline
from dqlite_py.units import has_key

log = logging.getLogger("dqlite_py.node")

REQUESTS_MAX = 2  # under way at once, per database
UNITS_MAX = 512  # per request: their results come back together
SPREAD_S: Final = 0.2  # of the deadlines in a request: its answer comes when the last unit's outcome is known
SWEEP_S: Final = 0.05  # how late a unit that was not sent may hear that its time is over
LOG_INDEX: Final = Struct(">Q")
Send = Callable[[str, Sequence[Queued], Deadline], Coroutine[Any, Any, Sequence[Any]]]


class Forwarder:
    """The queue of one database. `send` gives an answer for each unit: `pack_outcome`, an error's wire form, or,
    when this node turns out to lead, (log index, result) or the error itself. `leader`: who takes writes now."""

    def __init__(
        self,
        database: str,
        *,
        send: Send,
        spawn: Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]],
        soon: Callable[[Callable[[], None]], Any],
        leader: Callable[[], NodeId | None] = lambda: None,
        later: Callable[..., Any],
    ) -> None:
        self.database = database
        self._send = send
        self._spawn = spawn
        self._soon = soon
        self._leader = leader
        self._later = later
        self._sweep_due = False
        self._sent_to: NodeId | None = None
        self._era = 0  # changes with the leader
        self._queue: deque[Queued] = deque()
        self._queued_bytes = 0
        self._running = 0
        self._repeatable: dict[asyncio.Task[Any], int] = {}  # requests of units with keys: their era
        self._start_due = False

    def submit(self, unit: bytes, callback: UnitCallback, deadline: Deadline) -> Queued:
        """Queue a unit; raises Busy (nothing was queued) when the bounds are reached."""
        if len(self._queue) >= PENDING_UNITS_MAX or self._queued_bytes + len(unit) > PENDING_BYTES_MAX:
            raise Busy(f"{len(self._queue)} writes wait to be sent to the leader: try again later")
        queued = Queued(unit, callback, deadline)
        self._queue.append(queued)
        self._queued_bytes += len(unit)
        self.look_at_leader()
        if self._running < REQUESTS_MAX and not self._start_due:
            self._start_due = True
            self._soon(self._start)
        elif self._running >= REQUESTS_MAX:
            self._watch()
        return queued

    def _watch(self) -> None:
        if not self._sweep_due:
            self._sweep_due = True
            self._later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        """Units that wait behind requests without an answer hear when their time is over."""
        self._sweep_due = False
        for queued in [queued for queued in self._queue if queued.is_waiting and queued.deadline.passed]:
            if queued.withdraw():
                queued.callback(None, _not_sent(queued.deadline.timeout_s))
        if self._queue:
            self._watch()

    def fail_queued(self, error: Error) -> None:
        """What was not sent certainly did not happen."""
        waiting, self._queue = self._queue, deque()
        self._queued_bytes = 0
        for queued in waiting:
            if queued.withdraw():
                queued.callback(None, error)

    def look_at_leader(self) -> None:
        """Requests that hang at a leader of before, cut off perhaps, hold up nothing that goes to the present one."""
        leader = self._leader()
        if leader == self._sent_to:
            return
        self._sent_to = leader
        self._era += 1
        self._running = 0
        if leader is not None:
            for task in list(self._repeatable):
                task.cancel()

    def _start(self) -> None:
        self._start_due = False
        self.look_at_leader()
        while self._queue and self._running < REQUESTS_MAX:
            batch = self._take()
            if not batch:
                continue
            deadline = max((queued.deadline for queued in batch), key=lambda d: d.left_s)
            self._running += 1
            task = self._spawn(self._send(self.database, batch, deadline))
            if has_key(batch[0].unit):
                self._repeatable[task] = self._era
            task.add_done_callback(partial(self._finished, batch, self._era))
        if self._queue:
            self._watch()

    def _take(self) -> list[Queued]:
        """Units that go well together: all with keys or all without, and with nearly the same deadline."""
        batch: list[Queued] = []
        others: list[Queued] = []
        taken = 0
        queue = self._queue
        while queue and len(batch) < UNITS_MAX:
            head = queue[0]
            size = len(head.unit)
            if batch and taken + size > ENTRY_BATCH_BYTES:
                break
            queue.popleft()
            if batch and head.is_waiting and not _go_together(batch[0], head):
                others.append(head)
                continue
            self._queued_bytes -= size
            if head.withdraw():
                taken += size
                batch.append(head)
        queue.extendleft(reversed(others))
        return batch

    def _finished(self, batch: Sequence[Queued], era: int, task: asyncio.Task[Any]) -> None:
        self._repeatable.pop(task, None)
        if era == self._era:
            self._running -= 1
        self._start()
        for queued, answer in zip(batch, _answers(task, len(batch)), strict=True):
            if isinstance(answer, Error):
                queued.callback(None, answer)
            else:
                queued.callback(answer, None)


def _go_together(first: Queued, other: Queued) -> bool:
    apart_s = first.deadline.left_s - other.deadline.left_s
    return has_key(first.unit) is has_key(other.unit) and abs(apart_s) <= SPREAD_S


def _not_sent(waited_s: float) -> NoLeader:
    return NoLeader(f"not sent within {waited_s:g} s: earlier writes wait for the leader's answer")


def pack_outcome(outcome: tuple[int, Any]) -> bytes:
    """(log index, result) as an answer to a follower."""
    index, result = outcome
    return LOG_INDEX.pack(index) + pack_result(result)


def _answers(task: asyncio.Task[Any], count: int) -> Sequence[Any]:
    """One answer for each unit, an Error among them is that unit's."""
    if task.cancelled():
        return [OutcomeUnknown("the request was given up before the write's outcome was known")] * count
    error = task.exception()
    if error is None:
        answers = task.result()
        if type(answers) is list and len(answers) == count:
            return [_answer(answer) for answer in answers]
        return [OutcomeUnknown("the leader's answer has the wrong shape")] * count
    if isinstance(error, Error):
        return [error] * count
    event(log, logging.ERROR, "forwarding writes failed unexpectedly", exc_info=error)
    return [OutcomeUnknown(f"write failed: {error!r}")] * count


def _answer(answer: Any) -> Any:
    if type(answer) is bytes:
        try:
            if len(answer) <= LOG_INDEX.size:
                raise MalformedMessage("an answer holds a log index and a result", what="result")
            return LOG_INDEX.unpack_from(answer)[0], unpack_result(answer[LOG_INDEX.size :])
        except MalformedMessage as error:
            return OutcomeUnknown(f"the leader's answer cannot be read: {error}")
    if type(answer) is list:
        told = from_wire(answer)
        if isinstance(told, MalformedMessage) and answer[:1] != [MalformedMessage.__name__]:
            return OutcomeUnknown("the leader's answer cannot be read: not an error's wire form")
        return told
    return answer
