"""Group commit at the leader: client units that arrive together share one log entry. Loop thread.

A lone writer's unit is proposed at once. While PIPELINE_MAX entries of a database are under way, later units
collect and leave together when one of them is done: batches grow with load and nobody waits for a timer.
Every waiter hears exactly once: a result, or an error whose outcome is true.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from dqlite_py.command import StateHash, encode_units
from dqlite_py.errors import Busy, Error
from dqlite_py.limits import ENTRY_BATCH_BYTES, ENTRY_UNITS_MAX, PENDING_BYTES_MAX, PENDING_UNITS_MAX

UnitCallback = Callable[[Any, Error | None], None]
PIPELINE_MAX = 3


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
        pump: Callable[[], None],
    ) -> None:
        self.database = database
        self._propose = propose
        self._now_us = now_us
        self._state_hash = state_hash
        self._call_soon = call_soon
        self._pump = pump
        # Seeds of SQL's random(), no secrets: a system call per entry would cost more than the entry.
        self._random = Random()
        self._queue: deque[tuple[bytes, UnitCallback]] = deque()
        self._queued_bytes = 0
        self._in_flight = 0
        self._flush_due = False
        self._claimed = -1

    def submit(self, unit: bytes, callback: UnitCallback) -> None:
        """Queue a unit; raises Busy (nothing was queued) when the bounds are reached."""
        if len(self._queue) >= PENDING_UNITS_MAX or self._queued_bytes + len(unit) > PENDING_BYTES_MAX:
            raise Busy(f"{len(self._queue)} writes wait for database {self.database}: try again later")
        self._queue.append((unit, callback))
        self._queued_bytes += len(unit)
        if not self._flush_due and self._in_flight < PIPELINE_MAX:
            self._flush_due = True
            self._call_soon(self.flush)

    def flush(self) -> None:
        """Propose what waits, as far as the pipeline allows."""
        self._flush_due = False
        if not self._queue or self._in_flight >= PIPELINE_MAX:
            return
        while self._queue and self._in_flight < PIPELINE_MAX:
            self._propose_batch()
        self._pump()

    def _take_batch(self) -> tuple[Sequence[bytes], Sequence[UnitCallback]]:
        """What goes into the next entry: all that waits, or its beginning when that is too much for one."""
        queue = self._queue
        if self._queued_bytes <= ENTRY_BATCH_BYTES and len(queue) <= ENTRY_UNITS_MAX:
            units, callbacks = zip(*queue, strict=True)
            queue.clear()
            self._queued_bytes = 0
            return units, callbacks
        taken = 0
        batch: list[tuple[bytes, UnitCallback]] = []
        while queue and len(batch) < ENTRY_UNITS_MAX:
            size = len(queue[0][0])
            if batch and taken + size > ENTRY_BATCH_BYTES:
                break
            taken += size
            batch.append(queue.popleft())
        self._queued_bytes -= taken
        return [unit for unit, _ in batch], [callback for _, callback in batch]

    def _propose_batch(self) -> None:
        units, callbacks = self._take_batch()
        claim = self._state_hash(self.database)
        if claim is not None and claim.index == self._claimed:
            claim = None
        payload = encode_units(self.database, self._now_us(), self._random.randbytes(16), claim, units)
        if claim is not None:
            self._claimed = claim.index
        self._in_flight += 1

        def finished(results: Any, error: Error | None) -> None:
            self._in_flight -= 1
            if self._queue and not self._flush_due:
                self._flush_due = True
                self._call_soon(self.flush)
            if error is not None:
                for callback in callbacks:
                    callback(None, error)
                return
            for callback, result in zip(callbacks, results, strict=True):
                callback(result, None)

        self._propose(payload, finished)

    def fail_queued(self, error: Error) -> None:
        """Leadership went away: what was not proposed certainly did not happen."""
        queued, self._queue = self._queue, deque()
        self._queued_bytes = 0
        for _unit, callback in queued:
            callback(None, error)
