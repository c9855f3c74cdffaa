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
from dqlite_py.errors import Error, InternalError
from dqlite_py.limits import WAL_CHECKPOINT_FRAMES
from dqlite_py.model import Entry
from dqlite_py.storage.engine import DatabaseEngine

log = logging.getLogger("dqlite_py.apply")
T = TypeVar("T")

HASHES_KEPT = 8192


@dataclass(slots=True)
class Applied:
    """A finished entry: `results` is the decoded result list of a UNITS command, or None."""

    entry: Entry
    results: list[Any] | None
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


class DatabaseWorker:
    """Apply thread of one database. All methods are called on the loop thread unless said otherwise."""

    def __init__(
        self,
        name: str,
        path: str,
        *,
        create: bool,
        post: Callable[[Callable[[], None]], None],
        on_applied: Callable[[DatabaseWorker, list[Applied]], None],
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        self.name = name
        self.path = path
        self.pending: deque[int] = deque()  # indexes handed over and not yet reported applied
        self.pending_bytes = 0
        self.applied_index = 0  # last entry of THIS database that is applied and reported
        self.last_hash: StateHash | None = None  # after the last reported entry
        self._post = post
        self._on_applied = on_applied
        self._on_fatal = on_fatal
        self._jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._done: deque[Applied] = deque()
        self._wakeup = False
        self._hashes: OrderedDict[int, int] = OrderedDict()
        self._hashes_lock = threading.Lock()
        self._engine = DatabaseEngine.open(path, create=create)
        self.applied_index = self._engine.applied_index
        self._remember(self._engine.applied_index, self._engine.state_hash)
        self.last_hash = StateHash(self._engine.applied_index, self._engine.state_hash)
        self.opened_index = self._engine.applied_index
        self._thread = threading.Thread(target=self._run, name=f"apply-{name}", daemon=True)
        self._thread.start()

    # -- loop side ------------------------------------------------------------------------------------

    def submit(self, entry: Entry, header: CommandHeader, want_results: bool) -> None:
        self.pending.append(entry.index)
        self.pending_bytes += len(entry.payload)
        self._jobs.put(_Apply(entry, header, want_results))

    def call(self, function: Callable[[DatabaseEngine], T]) -> Future[T]:
        """Run `function(engine)` on the apply thread between two commits."""
        future: Future[T] = Future()
        self._jobs.put(_Call(function, future))
        return future

    def hash_at(self, index: int) -> int | None:
        """The state hash after the entry `index` of this database, if still remembered. Any thread."""
        with self._hashes_lock:
            return self._hashes.get(index)

    @property
    def durable_index(self) -> int:
        """Index that survives power loss of the database's WAL (last complete checkpoint)."""
        return self._engine.durable_index

    def stop(self, timeout_s: float = 10.0) -> bool:
        """Finish queued jobs, close the engine, end the thread. Any thread."""
        self._jobs.put(_STOP)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # -- apply thread ---------------------------------------------------------------------------------

    def _run(self) -> None:
        engine = self._engine
        try:
            while (job := self._jobs.get()) is not _STOP:
                if type(job) is _Apply:
                    self._apply(engine, job)
                else:
                    self._serve(engine, job)
        except BaseException as error:  # noqa: BLE001 - the node stops; it never guesses past a failed apply
            log.critical("database %s: apply stopped: %s", self.name, error)
            self._post(lambda error=error: self._on_fatal(error))  # type: ignore[misc]
            self._refuse_rest(error)
        finally:
            try:
                engine.close()
            except Exception:
                log.exception("database %s: close failed", self.name)

    def _apply(self, engine: DatabaseEngine, job: _Apply) -> None:
        entry, header = job.entry, job.header
        divergence = None
        results: list[Any] | None = None
        claim = header.state_hash
        if claim is not None:
            ours = self._hashes.get(claim.index)  # only this thread writes it
            if ours is not None and ours != claim.value:
                divergence = (claim, ours)
        if header.kind is CommandKind.UNITS and entry.index > engine.applied_index:
            outcome = engine.apply(entry.index, entry.payload, want_results=job.want_results)
            if job.want_results:
                results = msgpack.unpackb(outcome.results, raw=False, use_list=False, strict_map_key=False)
            self._remember(entry.index, outcome.state_hash)
        self._done.append(Applied(entry, results, divergence))
        if not self._wakeup:
            self._wakeup = True
            self._post(self._report)
        if engine.wal_frames > WAL_CHECKPOINT_FRAMES:
            engine.checkpoint_step()

    def _serve(self, engine: DatabaseEngine, job: _Call) -> None:
        if not job.future.set_running_or_notify_cancel():
            return
        try:
            job.future.set_result(job.function(engine))
        except Exception as error:  # noqa: BLE001 - belongs to the caller
            job.future.set_exception(error)

    def _refuse_rest(self, error: BaseException) -> None:
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return
            if type(job) is _Call:
                job.future.set_exception(InternalError(f"database {self.name} stopped: {error}"))

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
            index = finished[-1].entry.index
            value = self.hash_at(index)
            if value is not None:
                self.last_hash = StateHash(index, value)
            self._on_applied(self, finished)


def unit_error(result: Any) -> Error | None:
    """The error of one unit's result ([code, message, position]), or None when it succeeded."""
    from dqlite_py.storage.sqlerrors import error_from_code

    if result[0] == 0:
        return None
    return error_from_code(result[0], result[1], statement=result[2])
