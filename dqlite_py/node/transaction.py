"""One interactive transaction on the leader, between its begin and the proposal of its unit.

Its statements run on threads: the caller's own when it is local, else the node's small pool; one call at a time. The
loop ends it (node.transactions): a time limit, lost leadership, a stop. Whatever ends it first is what later calls
hear.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from itertools import starmap
from typing import Any, Final, NamedTuple, Protocol

import msgpack

from dqlite_py.errors import Error, IntegrityError, TransactionEnded
from dqlite_py.gateway import StatementResult, TransactionLimits
from dqlite_py.model import WriteKey
from dqlite_py.node.database_worker import unit_error
from dqlite_py.node.proposals import DatabaseProposals, WriteLock
from dqlite_py.units import transaction_unit

ROLLED_BACK: Final = "the transaction was rolled back"


class GroupResult(NamedTuple):
    """What one run gave. `results`: packed as a unit's. `is_open`: whether the transaction goes on."""

    results: bytes
    is_open: bool
    decltypes: tuple[str | None, ...] | None


class Live(Protocol):
    """What it needs of storage.live.LiveTransaction."""

    @property
    def is_open(self) -> bool: ...
    def run(
        self, body: bytes, timeout_s: float | None = None, is_given_up: Callable[[], bool] = ...
    ) -> Any: ...
    def finish(self) -> Any: ...
    def rollback(self) -> None: ...
    def interrupt(self) -> None: ...
    def doom(self, why: str) -> None: ...


class Transaction:
    """`owner`: who asked for it (a connection of another process), None in this process."""

    def __init__(
        self,
        *,
        transaction_id: bytes,
        database: str,
        owner: object,
        limits: TransactionLimits,
        start: Callable[[int, bytes], Live],
        queue: DatabaseProposals,
        lock: WriteLock,
        key: WriteKey,
        now_us: int,
        seed: bytes,
        on_ended: Callable[[Transaction], None],
    ) -> None:
        self.id = transaction_id
        self.database = database
        self.owner = owner
        self.limits = limits
        self.queue = queue
        self.lock = lock
        self.key = key
        self.commit_key = key  # of its unit: the caller's own, when it has given one
        self.now_us = now_us
        self.seed = seed
        self.began = self.last_used = time.monotonic()
        self.is_running = False
        self.why_ended: Error | None = None
        self.timer: Any = None  # the loop's
        self.turn = asyncio.Lock()  # of callers on the loop
        self._begin = start
        self._on_ended = on_ended
        self._live: Live | None = None
        self._asked = self._given_up = 0  # runs, by their number
        self._starting = threading.Lock()

    # -- any thread, one at a time --------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        live = self._live
        return self.why_ended is None and (live is None or live.is_open)

    def ask(self) -> int:
        """A number for a run to come: an interrupt ends it from now on, also while it waits for a thread."""
        self._asked += 1
        return self._asked

    def run(self, body: bytes, timeout_s: float, number: int | None = None) -> GroupResult:
        """Raises TransactionEnded, or what Live.run raises; the errors of statements are in the results."""
        asked = self.ask() if number is None else number
        self._check()
        self.is_running = True
        try:
            live = self._live or self._start()
            found = live.run(body, timeout_s, lambda: asked <= self._given_up)
        except Error:
            self._check()  # why the node ended it says more than that it was interrupted
            if not self.is_open:
                self._on_ended(self)
            raise
        except BaseException:  # a KeyboardInterrupt; an interrupted write ends the transaction
            if not self.is_open:
                self._on_ended(self)
            raise
        finally:
            self.last_used = time.monotonic()
            self.is_running = False
        if not found.is_open:
            self._on_ended(self)
        return GroupResult(found.results, found.is_open, found.decltypes)

    def finish(self) -> bytes | None:
        """The unit to be proposed, or None when nothing was written; nothing is open here any more.

        Raises IntegrityError, the transaction still open, when deferred foreign keys are violated.
        """
        self._check()
        live = self._live
        if live is None:
            return None
        try:
            groups, digest = live.finish()
            return transaction_unit(groups, digest, self.commit_key) if groups else None
        except IntegrityError:
            raise
        except Error:
            self._check()
            self._on_ended(self)
            raise

    def interrupt(self) -> None:
        """End the run that was asked for last, if it is not over."""
        self._given_up = self._asked  # BEFORE the request: a run is armed before it looks
        live = self._live
        if live is not None:
            live.interrupt()

    def undo(self) -> None:
        """Leave nothing open on the connection; waits for a statement that runs. Idempotent."""
        with self._starting:
            if self.why_ended is None:
                self.why_ended = TransactionEnded(ROLLED_BACK)
            if self._live is not None:
                self._live.rollback()

    def _start(self) -> Live:
        with self._starting:  # with `undo`: what is ended is not begun
            self._check()
            self._live = self._begin(self.now_us, self.seed)
            return self._live

    def _check(self) -> None:
        if self.why_ended is not None:
            raise type(self.why_ended)(self.why_ended.message, code=self.why_ended.code)

    # -- the loop ---------------------------------------------------------------------------------------

    def doom(self, why: Error) -> None:
        """No statement begins any more, and the one that runs is interrupted; `undo` follows on a thread."""
        if self.why_ended is None:
            self.why_ended = why
        live = self._live
        if live is not None:
            live.doom(why.message)

    def left_s(self) -> float:
        """Until the next of its limits, or less; 0 or below when it is over one."""
        now = time.monotonic()
        hold_s = self.began + self.limits.hold_s - now
        if self.is_running:
            return min(hold_s, self.limits.idle_s) if hold_s > 0 else hold_s
        return min(hold_s, self.last_used + self.limits.idle_s - now)

    def over_limit(self) -> TransactionEnded:
        if time.monotonic() - self.began >= self.limits.hold_s:
            what = f"it held database {self.database} for {self.limits.hold_s:g} s"
        else:
            what = f"it was idle for {self.limits.idle_s:g} s"
        return TransactionEnded(f"{ROLLED_BACK}: {what}, which is the longest time allowed")


def group_results(found: GroupResult) -> list[StatementResult]:
    """The records of one run; raises the error of its failing statement."""
    result = msgpack.unpackb(found.results, raw=False, use_list=False, strict_map_key=False)
    error = unit_error(result)
    if error is not None:
        raise error
    statements = list(starmap(StatementResult, result[1]))
    if found.decltypes is not None:
        for position in range(len(statements) - 1, -1, -1):
            if statements[position].rows is not None:
                statements[position] = statements[position]._replace(decltypes=found.decltypes)
                break
    return statements
