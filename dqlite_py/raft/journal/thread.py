"""The journal thread: everything queued becomes one write and one sync (group commit).

The loop thread submits and never waits. `done` callbacks run on the journal thread, in the order of
submission, None when the batch is durable, else the error. While one group is being synced the next one
gathers.

A full disk is not an error here: the batches wait, in order, and are tried again until there is space;
nothing is acknowledged meanwhile, exactly as with a slow disk. `is_full` and `on_full` let the node refuse
new proposals. Tasks (compaction, which frees space) go first while the disk is full. The queue is bounded by
what feeds it (limits.UNCOMMITTED_BYTES_MAX on a leader, limits.INFLIGHT_BYTES_MAX on a follower): a batch
that the core has taken into its log cannot be refused here.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from dqlite_py.errors import JournalFailed, NodeStopped, StorageFull
from dqlite_py.limits import MIB
from dqlite_py.logs import event
from dqlite_py.raft.journal.batch import JournalBatch
from dqlite_py.raft.journal.journal import Journal

_log: Final = logging.getLogger(__name__)

GROUP_PAYLOAD_BYTES: Final = 16 * MIB  # a group is closed at this size; one batch may be larger
MARK_DELAY_S: Final = 1.0
FULL_RETRY_S: Final = 0.25

Done: TypeAlias = Callable[[BaseException | None], None]
Task: TypeAlias = Callable[[], None]
_Work: TypeAlias = tuple[JournalBatch | Task, Done]


@dataclass(frozen=True, slots=True)
class JournalStats:
    """Counts since the start."""

    groups: int
    fsyncs: int
    bytes: int
    batches: int
    queued: int
    last_write_ms: float  # hard state, write and sync of the last group
    is_full: bool


class JournalThread:
    """Owns the journal's write side from `start` to the end of `stop`; does not close the journal."""

    def __init__(
        self,
        journal: Journal,
        *,
        name: str = "dqlite-journal",
        on_full: Callable[[bool], None] | None = None,
        full_retry_s: float = FULL_RETRY_S,
        mark_delay_s: float = MARK_DELAY_S,
    ) -> None:
        self._journal = journal
        self._on_full = on_full
        self._full_retry_s = full_retry_s
        self._mark_delay_s = mark_delay_s
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()  # None, the last: stop
        self._taken: deque[_Work] = deque()  # out of the queue, not yet begun; journal thread only
        self._gate = threading.Lock()  # nothing is queued behind the None
        self._stopping = False  # as `submit` sees it
        self._ends = False  # as the journal thread sees it: it took the None
        self._failure: BaseException | None = None
        self._batch_count = 0
        self._last_write_ms = 0.0
        self.is_full = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    # -- any thread

    def start(self) -> None:
        self._thread.start()

    def submit(self, batch: JournalBatch, done: Done) -> None:
        """Queue a batch; never blocks. `done` always comes. Raises NodeStopped after `stop`."""
        self._put(batch, done)

    def submit_task(self, task: Task, done: Done) -> None:
        """Run `task` on the journal thread between groups, behind the batches queued before (unless full)."""
        self._put(task, done)

    def _put(self, work: JournalBatch | Task, done: Done) -> None:
        with self._gate:
            if self._stopping:
                raise NodeStopped("the journal thread has stopped")
            self._queue.put((work, done))

    def stop(self) -> None:
        """Write what is queued, end the thread and wait for it; batches that a full disk holds up fail."""
        with self._gate:
            if not self._stopping:
                self._stopping = True
                self._queue.put(None)
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def failure(self) -> BaseException | None:
        """The first error; everything after it fails with JournalFailed."""
        return self._failure

    def stats(self) -> JournalStats:
        journal = self._journal
        return JournalStats(
            groups=journal.group_count,
            fsyncs=journal.sync_count,
            bytes=journal.written_bytes,
            batches=self._batch_count,
            queued=self._queue.qsize() + len(self._taken),
            last_write_ms=self._last_write_ms,
            is_full=self.is_full,
        )

    # -- journal thread

    def _run(self) -> None:
        while self._wait():
            group, dones, task = self._take()
            if task is not None:
                self._answer([task[1]], self._attempt_task(task[0]))
            elif self._failure is not None:
                self._answer(dones, self._refusal())
            else:
                self._write(group, dones)

    def _wait(self) -> bool:
        """Wait for work; False when stopped and drained. Marks the end of the journal when nothing comes."""
        self._collect()
        if self._taken:
            return True
        if self._ends:
            return False
        if not self._receive(self._mark_delay_s):
            if self._failure is None:
                self._attempt(self._journal.mark)
            self._receive(None)
        self._collect()
        return bool(self._taken)

    def _receive(self, timeout_s: float | None) -> bool:
        """Wait for one thing to take from the queue; False when the time is over."""
        try:
            work = self._queue.get(timeout=timeout_s)
        except queue.Empty:
            return False
        if work is None:
            self._ends = True
        else:
            self._taken.append(work)
        return True

    def _collect(self) -> None:
        """Take everything that is queued, without waiting."""
        for _ in range(self._queue.qsize()):
            self._receive(None)

    def _take(self) -> tuple[list[JournalBatch], list[Done], tuple[Task, Done] | None]:
        """Take one task, or all batches before the next task up to the group's size."""
        batches: list[JournalBatch] = []
        dones: list[Done] = []
        size = 0
        taken = self._taken
        while taken:
            work, done = taken[0]
            if not isinstance(work, JournalBatch):
                if batches:
                    break
                taken.popleft()
                return [], [], (work, done)
            size += work.payload_bytes
            if batches and size > GROUP_PAYLOAD_BYTES:
                break
            batches.append(work)
            dones.append(done)
            taken.popleft()
        return batches, dones, None

    def _write(self, group: list[JournalBatch], dones: list[Done]) -> None:
        started = time.monotonic()
        error = self._attempt_write(group)
        while isinstance(error, StorageFull) and self._wait_for_space():
            started = time.monotonic()
            error = self._attempt_write(group)
        if isinstance(error, StorageFull):
            self._failure = error
        self._set_full(False)
        self._last_write_ms = (time.monotonic() - started) * 1000.0
        self._batch_count += len(group)
        self._answer(dones, error)
        if self._failure is None and self._queue.empty() and not self._taken:
            self._attempt(self._journal.prepare)  # AFTER the answers: nobody waits for the preallocation

    def _attempt_write(self, group: list[JournalBatch]) -> BaseException | None:
        return self._attempt(lambda: self._journal.write(group))

    def _wait_for_space(self) -> bool:
        """Run queued tasks, which may free space, else wait a little; False when stopping."""
        self._set_full(True)
        self._collect()
        tasks = [item for item in self._taken if not isinstance(item[0], JournalBatch)]
        self._taken = deque(item for item in self._taken if isinstance(item[0], JournalBatch))
        for task, done in tasks:
            assert not isinstance(task, JournalBatch)
            self._answer([done], self._attempt_task(task))
        if not tasks and not self._ends:
            self._receive(self._full_retry_s)
        return not self._ends

    def _set_full(self, is_full: bool) -> None:
        if is_full != self.is_full:
            self.is_full = is_full
            if self._on_full is not None:
                self._call(self._on_full, is_full)

    def _attempt(self, action: Callable[[], object]) -> BaseException | None:
        """Do it; remember and return the error. StorageFull may pass, everything else is final."""
        if self._failure is not None:
            return self._refusal()
        try:
            action()
        except StorageFull as error:
            return error
        except Exception as error:  # noqa: BLE001 - fail-stop: whatever it is, nothing is acknowledged after it
            self._failure = error
            return error
        return None

    def _attempt_task(self, task: Task) -> BaseException | None:
        """Do it; its error is final only if it is the journal's."""
        if self._failure is not None:
            return self._refusal()
        try:
            task()
        except Exception as error:  # noqa: BLE001 - reported to whoever submitted it
            self._failure = self._journal.failure
            return error
        return None

    def _refusal(self) -> JournalFailed:
        return JournalFailed(f"the journal failed before: {self._failure}; restart the node")

    def _answer(self, dones: list[Done], error: BaseException | None) -> None:
        for done in dones:
            self._call(done, error)

    def _call(self, callback: Callable[[Any], object], argument: object) -> None:
        try:
            callback(argument)
        except Exception:  # noqa: BLE001 - logged
            # The host's fault, not the disk's: the batch is durable and the others must hear of theirs.
            event(_log, logging.ERROR, "a journal callback failed", exc_info=True)
