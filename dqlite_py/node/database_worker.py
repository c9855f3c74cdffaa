"""One database's apply thread: the only thread that touches its writer connection.

Jobs come from the loop in log order; completions go back in batches (one loop wake-up for many). Keeps the last
state hashes so that claims in the log, and questions of other members, can be compared (design: divergence).
Does not know raft.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import msgpack

from dqlite_py.command import CommandHeader, CommandKind, StateHash
from dqlite_py.errors import (
    CorruptState,
    Error,
    InternalError,
    MalformedMessage,
    OperationalError,
    StorageFull,
)
from dqlite_py.logs import event
from dqlite_py.model import Entry
from dqlite_py.resultcodes import error_from_code
from dqlite_py.sqlite_codes import CORRUPT, FULL, NOTADB
from dqlite_py.storage.changelog.log import ChangeLog
from dqlite_py.storage.engine import ApplyResult, DatabaseEngine
from dqlite_py.storage.meta import UNKNOWN_MAKER, MadeBy

log = logging.getLogger("dqlite_py.apply")
T = TypeVar("T")

HASHES_KEPT = 8192
FULL_RETRY_S = 0.25
DAMAGE_CODES = (CORRUPT, NOTADB)


@dataclass(slots=True)
class Applied:
    """A finished entry: `results` is the decoded result list of a UNITS command, or None; `error`: why the entry as a
    whole had no effect, the same on every node."""

    entry: Entry
    results: list[Any] | None
    error: Error | None
    divergence: tuple[StateHash, int] | None  # (the leader's claim, our hash at that index)


@dataclass(slots=True)
class _Apply:
    entry: Entry
    header: CommandHeader
    want_results: bool


@dataclass(slots=True)
class _Call:
    function: Callable[[DatabaseEngine], Any]
    future: Future[Any]


_STOP = object()


class _Stopped(Exception):
    """The rest of the queue is left to the next start."""


class DatabaseWorker:
    """Apply thread of one database. All methods are called on the loop thread unless said otherwise."""

    def __init__(
        self,
        name: str,
        path: str,
        *,
        create: bool,
        made_by: MadeBy = UNKNOWN_MAKER,
        post: Callable[[Callable[[], None]], None],
        on_applied: Callable[[DatabaseWorker, list[Applied]], None],
        on_fatal: Callable[[BaseException], None],
        changes: Callable[[str], ChangeLog | None] = lambda _name: None,
    ) -> None:
        self.name = name
        self.path = path
        self.pending: deque[int] = deque()  # indexes handed over and not yet reported applied
        self.pending_bytes = 0
        self.applied_index = 0  # last entry of THIS database that is applied and reported
        self.last_hash: StateHash | None = None  # after the last reported entry
        self.engine: DatabaseEngine | None = None  # once it is open: for live transactions, on other threads
        self.left: list[
            Entry
        ] = []  # handed over and not applied when the thread ended; to be read after `stop`
        self._post = post
        self._on_applied = on_applied
        self._on_fatal = on_fatal
        self._changes = changes  # where those of a database go, asked on its thread
        self._jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._done: deque[Applied] = deque()
        self._wakeup = False
        self._hashes: OrderedDict[int, int] = OrderedDict()
        self._hashes_lock = threading.Lock()
        self._create = create
        self._made_by = made_by
        self._ending = threading.Event()
        self._ending_lock = threading.Lock()  # a call is queued BEFORE the end, or refused
        self.opened: Future[int] = Future()  # the applied index found
        self._thread = threading.Thread(target=self._run, name=f"apply-{name}", daemon=True)

    def start(self) -> None:
        """Open the database on its thread; `opened` tells how it went."""
        self._thread.start()

    # -- loop side ------------------------------------------------------------------------------------

    def submit(self, entry: Entry, header: CommandHeader, want_results: bool) -> None:
        self.pending.append(entry.index)
        self.pending_bytes += len(entry.payload)
        self._jobs.put(_Apply(entry, header, want_results))

    def call(self, function: Callable[[DatabaseEngine], T]) -> Future[T]:
        """Run `function(engine)` on the apply thread between two commits; fails at once when that has ended."""
        future: Future[T] = Future()
        with self._ending_lock:
            if not self._ending.is_set():
                self._jobs.put(_Call(function, future))
                return future
        future.set_exception(self._is_closed())
        return future

    def _is_closed(self) -> OperationalError:
        return OperationalError(f"database {self.name} is being closed: try again")

    def hash_at(self, index: int) -> int | None:
        """The state hash after the entry `index` of this database, if still remembered. Any thread."""
        with self._hashes_lock:
            return self._hashes.get(index)

    def stop(self) -> None:
        """Finish queued jobs, close the engine, end the thread and wait for it. Any thread but the loop's.

        What a full disk holds up is not waited for: the log has it.
        """
        self._end()
        self._jobs.put(_STOP)
        self._thread.join()

    def _end(self) -> None:
        with self._ending_lock:
            self._ending.set()

    # -- apply thread ---------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            engine = self._open()
        except BaseException as error:  # noqa: BLE001 - told through `opened`; the node decides
            self.opened.set_exception(error)
            self._refuse_rest()
            return
        self.engine = engine
        change_log = self._changes(self.name)
        if change_log is not None:
            engine.keep_changes(change_log)
        self._remember(engine.applied_index, engine.state_hash)
        self.applied_index = engine.applied_index
        self.last_hash = StateHash(engine.applied_index, engine.state_hash)
        self.opened.set_result(engine.applied_index)
        try:
            while (job := self._jobs.get()) is not _STOP:
                if type(job) is _Apply:
                    self._apply(engine, job)
                else:
                    self._serve(engine, job)
        except _Stopped:
            event(
                log,
                logging.WARNING,
                "the disk is full; the rest of the log is applied at the next start",
                database=self.name,
            )
        except BaseException as error:  # noqa: BLE001 - the node stops; it never guesses past a failed apply
            self._fail(error)
        finally:
            self._refuse_rest()
            try:
                engine.close()
            except Exception:  # noqa: BLE001 - logged
                event(log, logging.ERROR, "closing a database failed", database=self.name, exc_info=True)

    def _fail(self, error: BaseException) -> None:
        event(log, logging.CRITICAL, "apply stopped", database=self.name, reason=error)
        self._post(lambda: self._on_fatal(error))

    def _apply(self, engine: DatabaseEngine, job: _Apply) -> None:
        entry, header = job.entry, job.header
        divergence = None
        results: list[Any] | None = None
        error: Error | None = None
        claim = header.state_hash
        if claim is not None:
            ours = self._hashes.get(claim.index)  # only this thread writes it
            if ours is not None and ours != claim.value:
                divergence = (claim, ours)
        is_new = header.kind is CommandKind.UNITS and entry.index > engine.applied_index
        if is_new:
            try:
                outcome = self._apply_when_there_is_space(engine, job)
            except MalformedMessage as refused:
                # The same bytes are malformed on every node: the entry has no effect, and nobody is wedged (RF-14).
                event(
                    log,
                    logging.ERROR,
                    "an entry has no effect",
                    database=self.name,
                    log_index=entry.index,
                    reason=refused,
                )
                error = refused
            else:
                self._remember(entry.index, outcome.state_hash)
                if job.want_results:
                    results = msgpack.unpackb(
                        outcome.results, raw=False, use_list=False, strict_map_key=False
                    )
        self._done.append(Applied(entry, results, error, divergence))
        if not self._wakeup:
            self._wakeup = True
            self._post(self._report)
        if is_new:
            self._checkpoint_step(engine)  # AFTER the result is on its way

    def _open(self) -> DatabaseEngine:
        try:
            return DatabaseEngine.open(self.path, create=self._create, made_by=self._made_by)
        except Error as error:
            if (error.code or 0) & 0xFF not in DAMAGE_CODES:
                raise
            raise self._damaged("it cannot be opened", error) from error

    def _damaged(self, what: str, error: Error) -> CorruptState:
        return CorruptState(
            f"database {self.name}: {self.path} is damaged, {what}: {error.message}",
            file=self.path,
            expected="a sound SQLite database",
            found=error.message,
        )

    def _apply_when_there_is_space(self, engine: DatabaseEngine, job: _Apply) -> ApplyResult:
        """Apply; a full disk is waited for, like a slow one: the entry is committed and nothing of it was applied."""
        is_told = False
        while True:
            try:
                return engine.apply(job.entry.index, job.entry.payload, want_results=job.want_results)
            except StorageFull as full:
                if not is_told:
                    event(
                        log,
                        logging.ERROR,
                        "an entry waits for disk space",
                        database=self.name,
                        log_index=job.entry.index,
                        reason=full,
                    )
                    is_told = True
                if self._ending.wait(FULL_RETRY_S):
                    self.left.append(job.entry)
                    raise _Stopped from None
            except InternalError as error:
                if (error.code or 0) & 0xFF not in DAMAGE_CODES:
                    raise
                raise self._damaged(f"entry {job.entry.index} cannot be applied", error) from error

    def _checkpoint_step(self, engine: DatabaseEngine) -> None:
        try:
            engine.checkpoint_step()
        except OperationalError as error:
            if (error.code or 0) & 0xFF != FULL:
                raise
            # The WAL keeps what the file has no room for; nothing was lost or reported durable.
            event(log, logging.WARNING, "checkpoint postponed", database=self.name, reason=error)

    def _serve(self, engine: DatabaseEngine, job: _Call) -> None:
        if not job.future.set_running_or_notify_cancel():
            return
        try:
            job.future.set_result(job.function(engine))
        except Exception as error:  # noqa: BLE001 - belongs to the caller
            job.future.set_exception(error)

    def _refuse_rest(self) -> None:
        """The thread ends: whoever waits for a call hears so, now or when it asks."""
        self._end()
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return
            if type(job) is _Apply:
                self.left.append(job.entry)
            elif type(job) is _Call and job.future.set_running_or_notify_cancel():
                job.future.set_exception(self._is_closed())

    def _remember(self, index: int, value: int) -> None:
        with self._hashes_lock:
            self._hashes[index] = value
            if len(self._hashes) > HASHES_KEPT:
                self._hashes.popitem(last=False)

    # -- loop side ------------------------------------------------------------------------------------

    def _report(self) -> None:
        self._wakeup = False  # cleared BEFORE draining: a later completion wakes us again
        finished: list[Applied] = []
        while self._done:
            item = self._done.popleft()
            self.pending.popleft()
            self.pending_bytes -= len(item.entry.payload)
            finished.append(item)
        if finished:
            self.applied_index = max(self.applied_index, finished[-1].entry.index)
            for item in reversed(finished):  # the newest that changed the state: not every entry does
                value = self.hash_at(item.entry.index)
                if value is not None:
                    self.last_hash = StateHash(item.entry.index, value)
                    break
            self._on_applied(self, finished)


def pack_result(result: Any) -> bytes:
    """A unit's result as one opaque value: a thousand rows must not count against the message's element bound."""
    return bytes(msgpack.packb(result, use_bin_type=True))


def unpack_result(data: Any) -> Any:
    """From another member's `pack_result`; raises MalformedMessage."""
    try:
        result = msgpack.unpackb(data, raw=False, use_list=False, strict_map_key=True)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise MalformedMessage(f"a write's result is not valid: {error}", what="result") from None
    succeeded = type(result) is tuple and len(result) == 2 and result[0] == 0 and type(result[1]) is tuple
    kept = type(result) is tuple and len(result) == 4 and result[:2] == (0, None) and type(result[2]) is int
    failed = type(result) is tuple and len(result) == 3 and type(result[0]) is int and type(result[1]) is str
    if not (succeeded or failed or kept):
        raise MalformedMessage("a write's result has the wrong shape", what="result")
    return result


def unit_error(result: Any) -> Error | None:
    """The error of one unit's result ([code, message, position]), or None when it succeeded."""
    if result[0] == 0:
        return None
    return error_from_code(result[0], result[1], statement=result[2])
