"""The write queue of one database at the leader: group commit, and the lock of transactions. Loop thread.

Units and lock requests stand in one queue, in the order of their coming. Units that arrive together share a log entry:
a lone writer's is proposed at once; while PIPELINE_MAX entries are under way, later ones collect and leave together
when one of them is done, so that batches grow with load and nobody waits for a timer.

A lock request that comes first is granted when nothing is under way: all that was proposed is applied here. While it is
held nothing is proposed; its holder's unit, if there is one, is an entry of its own and releases it.
Every waiter hears exactly once: a result, or an error whose outcome is true. Who waits longer than its time leaves.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

from dqlite_py.command import StateHash, encode_units
from dqlite_py.errors import Busy, DatabaseLocked, Error, InternalError
from dqlite_py.limits import ENTRY_BATCH_BYTES, ENTRY_UNITS_MAX, PENDING_BYTES_MAX, PENDING_UNITS_MAX
from dqlite_py.node.tickets import Deadline
from dqlite_py.sqlite_codes import BUSY

UnitCallback = Callable[[Any, Error | None], None]
"""Hears (log index, result) or an error."""
PIPELINE_MAX: Final = 3
SWEEP_S: Final = 0.05  # how late a unit that waits in vain may hear that its time is over


class Queued:
    """A unit that waits for its entry, or to be sent to the leader."""

    __slots__ = ("callback", "deadline", "is_waiting", "unit")

    def __init__(self, unit: bytes, callback: UnitCallback, deadline: Deadline) -> None:
        self.unit = unit
        self.callback = callback
        self.deadline = deadline
        self.is_waiting = True

    def withdraw(self) -> bool:
        """True when it waited still: it certainly does not happen, and its callback hears nothing."""
        was_waiting, self.is_waiting = self.is_waiting, False
        return was_waiting


class LockState(enum.Enum):
    WAITING = "waiting"
    HELD = "held"
    OVER = "over"


class WriteLock:
    """One request for the database. `on_granted` hears once: None when it is held, or why it never will be."""

    __slots__ = ("on_granted", "state", "timer")

    def __init__(self, on_granted: Callable[[Error | None], None]) -> None:
        self.on_granted = on_granted
        self.state = LockState.WAITING
        self.timer: Any = None

    @property
    def is_held(self) -> bool:
        return self.state is LockState.HELD

    def end(self) -> None:
        self.state = LockState.OVER
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class DatabaseProposals:
    """The write queue of one database at the leader."""

    def __init__(
        self,
        database: str,
        *,
        propose: Callable[[bytes, Callable[[Any, Error | None], None]], None],
        now_us: Callable[[], int],
        state_hash: Callable[[str], StateHash | None],
        call_soon: Callable[[Callable[[], None]], Any],
        call_later: Callable[..., Any],
        pump: Callable[[], None],
    ) -> None:
        self.database = database
        self._propose = propose
        self._now_us = now_us
        self._state_hash = state_hash
        self._call_soon = call_soon
        self._call_later = call_later
        self._pump = pump
        # Seeds of SQL's random(), no secrets: a system call per entry would cost more than the entry.
        self._random = Random()
        self._queue: deque[Queued | WriteLock] = deque()
        self._queued_bytes = 0
        self._locks_queued = 0
        self._holder: WriteLock | None = None
        self._in_flight = 0
        self._flush_due = False
        self._sweep_due = False
        self._claimed = -1

    # -- units ----------------------------------------------------------------------------------------

    def submit(self, unit: bytes, callback: UnitCallback, deadline: Deadline) -> Queued:
        """Queue a unit; raises Busy (nothing was queued) when the bounds are reached."""
        size = len(unit)
        if len(self._queue) >= PENDING_UNITS_MAX or self._queued_bytes + size > PENDING_BYTES_MAX:
            raise self._full()
        queued = Queued(unit, callback, deadline)
        self._queue.append(queued)
        self._queued_bytes += size
        if self._holder is not None or self._in_flight >= PIPELINE_MAX:
            if not self._sweep_due:
                self._watch()
        elif not self._flush_due:
            self._flush_soon()
        return queued

    def _full(self) -> Busy:
        return Busy(f"{len(self._queue)} writes wait for database {self.database}: try again later")

    # -- the lock ---------------------------------------------------------------------------------------

    def lock(self, on_granted: Callable[[Error | None], None], wait_s: float) -> WriteLock:
        """Ask for the database; DatabaseLocked comes after `wait_s`. Raises Busy (nothing was queued)."""
        if len(self._queue) >= PENDING_UNITS_MAX or self._queued_bytes > PENDING_BYTES_MAX:
            raise self._full()
        lock = WriteLock(on_granted)
        self._queue.append(lock)
        self._locks_queued += 1
        self._flush_soon()  # BEFORE the timer: who waits for no time gets what is free
        lock.timer = self._call_later(wait_s, self._waited_too_long, lock, wait_s)
        return lock

    def _waited_too_long(self, lock: WriteLock, wait_s: float) -> None:
        lock.timer = None
        if lock.state is LockState.WAITING:
            lock.end()
            lock.on_granted(_locked(self.database, wait_s))
            self._flush_soon()

    def release(self, lock: WriteLock) -> None:
        """Give the database back, or leave the queue; the holder's callback hears nothing more. Idempotent."""
        lock.end()
        if self._holder is lock:
            self._holder = None
        self._flush_soon()

    def propose_as_holder(
        self, lock: WriteLock, unit: bytes, now_us: int, seed: bytes, callback: UnitCallback
    ) -> None:
        """Propose the holder's unit as an entry of its own; what waits behind may follow at once."""
        if self._holder is not lock:
            raise InternalError("only the holder of the database's lock proposes past the queue")
        self.release(lock)
        self._propose_entry([unit], [callback], now_us, seed)
        self._pump()

    # -- entries ------------------------------------------------------------------------------------------

    def _flush_soon(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._call_soon(self.flush)

    def flush(self) -> None:
        """Propose what waits, as far as the pipeline and the lock allow."""
        self._flush_due = False
        proposed = False
        queue = self._queue
        while queue and self._holder is None and self._in_flight < PIPELINE_MAX:
            if self._locks_queued and isinstance(queue[0], WriteLock):
                if not self._look_at_lock(queue[0]):
                    break
            else:
                proposed = self._propose_batch() or proposed
        if proposed:
            self._pump()
        if queue:
            self._watch()

    def _look_at_lock(self, lock: WriteLock) -> bool:
        """Of the head of the queue: False while what was proposed before it is not applied."""
        if lock.state is LockState.WAITING:
            if self._in_flight:
                return False
            lock.end()
            lock.state = LockState.HELD
            self._holder = lock
        self._queue.popleft()
        self._locks_queued -= 1
        if self._holder is lock:
            lock.on_granted(None)
        return True

    def _take_batch(self) -> list[Queued]:
        """What goes into the next entry: the units up to the next lock, or fewer when they are too much for one."""
        queue = self._queue
        if (
            self._queued_bytes <= ENTRY_BATCH_BYTES
            and len(queue) <= ENTRY_UNITS_MAX
            and not self._locks_queued
        ):
            batch: list[Any] = [queued for queued in queue if queued.is_waiting]  # type: ignore[union-attr]
            queue.clear()
            self._queued_bytes = 0
            return batch
        taken = 0
        batch = []
        while queue and len(batch) < ENTRY_UNITS_MAX:
            head = queue[0]
            if isinstance(head, WriteLock):
                break
            size = len(head.unit)
            if batch and taken + size > ENTRY_BATCH_BYTES:
                break
            queue.popleft()
            self._queued_bytes -= size
            if head.is_waiting:
                taken += size
                batch.append(head)
        return batch

    def _propose_batch(self) -> bool:
        """False when all of them had been withdrawn."""
        batch = self._take_batch()
        units: list[bytes] = []
        callbacks: list[UnitCallback] = []
        for queued in batch:
            queued.is_waiting = False
            units.append(queued.unit)
            callbacks.append(queued.callback)
        if units:
            self._propose_entry(units, callbacks, self._now_us(), self._random.randbytes(16))
        return bool(units)

    def _propose_entry(
        self, units: Sequence[bytes], callbacks: Sequence[UnitCallback], now_us: int, seed: bytes
    ) -> None:
        claim = self._state_hash(self.database)
        if claim is not None and claim.index == self._claimed:
            claim = None
        payload = encode_units(self.database, now_us, seed, claim, units)
        if claim is not None:
            self._claimed = claim.index
        self._in_flight += 1

        def finished(outcome: Any, error: Error | None) -> None:
            self._in_flight -= 1
            if self._queue and not self._flush_due:
                self._flush_due = True
                self._call_soon(self.flush)
            if error is not None:
                for callback in callbacks:
                    callback(None, error)
                return
            index, results = outcome
            for callback, result in zip(callbacks, results, strict=True):
                callback((index, result), None)

        self._propose(payload, finished)

    # -- who waits in vain ----------------------------------------------------------------------------------

    def _watch(self) -> None:
        if not self._sweep_due:
            self._sweep_due = True
            self._call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        """Units that wait in vain hear when their time is over: they were not proposed, so they certainly did not
        happen."""
        self._sweep_due = False
        why = _locked if self._holder is not None or self._locks_queued else _not_proposed
        late = [
            queued
            for queued in self._queue
            if isinstance(queued, Queued) and queued.is_waiting and queued.deadline.passed
        ]
        for queued in late:
            queued.withdraw()
            queued.callback(None, why(self.database, queued.deadline.timeout_s))
        if self._queue:
            self._watch()

    def fail_queued(self, error: Error) -> None:
        """Leadership went away: what was not proposed certainly did not happen, and nobody holds the database."""
        queued, self._queue = self._queue, deque()
        self._queued_bytes = self._locks_queued = 0
        self._holder = None
        for item in queued:
            if isinstance(item, WriteLock):
                if item.state is LockState.WAITING:
                    item.end()
                    item.on_granted(error)
            elif item.withdraw():
                item.callback(None, error)


def _not_proposed(database: str, waited_s: float) -> Busy:
    return Busy(f"writes to {database} are held up: this one was not proposed within {waited_s:g} s")


def _locked(database: str, waited_s: float) -> DatabaseLocked:
    return DatabaseLocked(
        f"database is locked: another transaction writes to {database}, and did not end within {waited_s:g} s",
        code=BUSY,
    )
