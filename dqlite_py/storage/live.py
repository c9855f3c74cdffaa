"""An interactive transaction as it runs on a database's writer connection, until it is rolled back for its commit.

DatabaseEngine.live_begin makes one. What it has written is in no file and no log: at `finish` it is rolled back, and
what it gives out is proposed as a transaction unit (command.transaction_unit), which every node executes. Methods may
be called from any thread, one at a time (`interrupt`, `rollback` and the properties: at any time); they wait for the
engine's lock, which an apply holds, too.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from typing import Final

from msgpack import unpackb

from dqlite_py.errors import (
    Error,
    IntegrityError,
    MalformedMessage,
    RequestTooLarge,
    TransactionEnded,
)
from dqlite_py.limits import KIB, UNIT_BYTES_MAX
from dqlite_py.resultcodes import error_from_code
from dqlite_py.sqlite_codes import CONSTRAINT_FOREIGNKEY
from dqlite_py.storage.engine_api import ApplyEngine, ApplyFailed, LiveResult, LiveUnit, Verdict

_GROUPS_BYTES_MAX: Final = UNIT_BYTES_MAX - 4 * KIB  # the unit's head and key
_OVER: Final = "the transaction is over"


class LiveTransaction:
    """See the module. Open when made."""

    def __init__(self, engine: ApplyEngine, lock: Lock, now_us: int, seed: bytes) -> None:
        """By DatabaseEngine, which holds `lock`; raises OperationalError."""
        self.now_us = now_us
        self.seed = seed
        self._engine = engine
        self._lock = lock
        self._flag = engine.live_flag()
        self._why: str | None = None
        self._is_in_sqlite = False  # changed with the lock
        self._has_written = False
        self._recorded_bytes = 0
        try:
            engine.live_begin(now_us, seed)
        except ApplyFailed as failed:
            raise _error(failed) from None
        self._is_in_sqlite = True

    @property
    def is_open(self) -> bool:
        """False once it was finished, rolled back or ended."""
        return self._why is None

    @property
    def why_ended(self) -> str | None:
        """Why it is not open any more."""
        return self._why

    @property
    def has_written(self) -> bool:
        """Whether a commit has anything to replicate."""
        return self._has_written

    def run(
        self, body: bytes, timeout_s: float | None = None, is_given_up: Callable[[], bool] = lambda: False
    ) -> LiveResult:
        """Run a group: a statements body (command.encode_statements) from a client.

        `is_given_up`: whether an interrupt was meant for this run, before it could hear of it.

        SQL errors are in the results, also that of an interrupt and of a time-out (SQLITE_INTERRUPT). They leave the
        transaction open unless `is_open` of the result says otherwise: ROLLBACK in a conflict clause or trigger, an
        interrupted group that may have written, this node's trouble. On the main thread a SIGINT whose handler raises
        interrupts, too, and that comes out (KeyboardInterrupt). Raises TransactionEnded when it is over already;
        MalformedMessage, RequestTooLarge (nothing ran, it is still open); OperationalError (out of memory: it is over).
        """
        if self._recorded_bytes + len(body) > _GROUPS_BYTES_MAX:
            raise RequestTooLarge(
                f"the transaction's statements would be over the limit of {UNIT_BYTES_MAX} bytes: commit before"
            )
        self._flag.arm()
        try:
            if is_given_up():  # AFTER it is armed: one that comes from now on is heard
                self._flag.request()
            with self._lock:
                self._check_open()
                return self._run(body, timeout_s)
        finally:
            self._flag.disarm()
            caught, self._flag.caught = self._flag.caught, None
            if caught is not None:
                raise caught

    def finish(self) -> LiveUnit:
        """Roll back and give out what a commit proposes, with this transaction's now_us and seed in the entry.

        Without groups there is nothing to commit. Raises IntegrityError, the transaction still open, when deferred
        foreign keys are violated, TransactionEnded when it is over already.
        """
        with self._lock:
            self._check_open()
            if self._engine.live_has_open_foreign_keys():
                raise IntegrityError("FOREIGN KEY constraint failed", code=CONSTRAINT_FOREIGNKEY)
            self._why = _OVER
            self._is_in_sqlite = False
            try:
                return self._engine.live_end()
            except ApplyFailed as failed:
                raise _error(failed) from None

    def rollback(self) -> None:
        """Interrupt what runs and undo everything. Idempotent; a failure shows when the log is applied next."""
        self.doom(_OVER)
        with self._lock:
            self.end()

    def interrupt(self) -> None:
        """Interrupt the run under way, also while it waits for the lock; without one nothing happens. Any thread."""
        self._flag.request()

    # -- by DatabaseEngine ----------------------------------------------------------------------------

    def doom(self, why: str) -> None:
        """No statement begins any more, the one that runs is interrupted. Without the lock; `end` with it follows."""
        if self._why is None:
            self._why = why  # BEFORE the request: a run is armed before it looks
        self._flag.request()

    def end(self) -> None:
        """Leave nothing open. With the lock; `doom` was called. Idempotent."""
        if self._is_in_sqlite:
            self._is_in_sqlite = False
            with suppress(ApplyFailed):
                self._engine.live_end()

    def _check_open(self) -> None:
        if self._why is not None:
            raise TransactionEnded(self._why)

    def _run(self, body: bytes, timeout_s: float | None) -> LiveResult:
        try:
            result = self._engine.live_run(body, timeout_s, self._flag)
        except ApplyFailed as failed:
            if failed.verdict is Verdict.FORMAT:
                raise MalformedMessage("not a statements body", what="statements") from None
            self._is_in_sqlite = False
            self._why = f"the transaction was rolled back: {failed.message}"
            raise _error(failed) from None
        doomed = self._why
        if not result.is_open:
            self._is_in_sqlite = False
            self._why = doomed or f"the transaction was rolled back: {unpackb(result.results)[1]}"
        if doomed is not None:
            raise TransactionEnded(doomed)
        self._has_written = self._has_written or result.wrote
        if result.is_recorded:
            self._recorded_bytes += len(body)
        return result


def _error(failed: ApplyFailed) -> Error:
    return error_from_code(failed.code, failed.message)
