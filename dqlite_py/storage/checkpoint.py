"""Moving WAL frames into the database file without stopping the writer.

The long part (PASSIVE passes, fsync) runs on a thread with a connection of its own; the writer then does a short
RESTART between two commits, so that the WAL begins anew. Never wal_autocheckpoint: with a lagging reader every
commit would retry a checkpoint of the whole WAL.

`durable_index` is what survives loss of the WAL. It is conservative: it moves only when all frames of a commit are
in the database file AND the file is fsynced. Used by engine.py; `request` and the properties by the writer's thread.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final, NamedTuple

import apsw

from dqlite_py.logs import event
from dqlite_py.model import LogIndex
from dqlite_py.storage.connection import open_checkpointer
from dqlite_py.storage.engine_api import Which
from dqlite_py.storage.implementation import file_sync

log = logging.getLogger("dqlite_py.storage")

PASSES_MAX: Final = 5
NEAR_FRAMES: Final = 300  # so few frames are left to the RESTART of the writer


class WalMark(NamedTuple):
    """Where the WAL stood after a commit. `generation` counts how often the WAL began anew."""

    applied_index: LogIndex
    frames: int
    generation: int


class Checkpointer:
    """A thread that checkpoints when asked, and what it has made durable."""

    def __init__(self, path: str, *, mark: WalMark, name: str) -> None:
        self.mark = mark  # set by the writer after each commit, read by the thread
        self.durable_index = mark.applied_index
        self.error: BaseException | None = None
        self._connection = open_checkpointer(path)
        self._changed = threading.Condition()
        self._requested = False
        self._caught_up = False
        self._is_full = False
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"checkpoint-{name}", daemon=True)
        self._thread.start()

    # -- writer's thread ------------------------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        return self._requested

    def request(self) -> None:
        """Start a series of passes unless one is under way."""
        with self._changed:
            self._requested = True
            self._changed.notify_all()

    def take_caught_up(self) -> bool:
        """True once after a series that left few frames: the moment for a RESTART."""
        with self._changed:
            caught_up = self._caught_up and not self._requested
            self._caught_up = self._caught_up and not caught_up
            return caught_up

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait for the end of the series under way; False when it lasts longer. Any thread."""
        with self._changed:
            self._changed.wait_for(lambda: not self._requested or self._stopping, timeout_s)
            return not self._requested

    def note_durable(self, index: LogIndex) -> None:
        """The writer itself checkpointed completely up to `index`."""
        with self._changed:
            self.durable_index = max(self.durable_index, index)

    def close(self) -> None:
        """End the thread (after the pass under way) and its connection."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()
        self._connection.close()

    # -- checkpoint thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._requested or self._stopping)
                if self._stopping:
                    return
            caught_up = self._guarded(self._passes)
            with self._changed:
                self._requested = False
                self._caught_up = caught_up
                self._changed.notify_all()

    def _guarded(self, work: Callable[[], bool]) -> bool:
        try:
            return work()
        except apsw.BusyError:
            return False  # another connection checkpoints: the next request tries again
        except Exception as error:  # noqa: BLE001 - handed to the writer, which stops
            event(log, logging.ERROR, "checkpoint failed", reason=error)
            self.error = error
            return False

    def _passes(self) -> bool:
        for _ in range(PASSES_MAX):
            left = self._pass()
            if left is None or self._stopping:
                return False
            if left < NEAR_FRAMES:
                return True
        return True

    def _pass(self) -> int | None:
        """One PASSIVE pass; returns the frames written since, or None when a reader holds old frames."""
        mark = self.mark
        try:
            _, done = self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.FullError as error:
            # No room to grow the file: the WAL keeps its frames, nothing is called durable, the next request tries
            # again. A failed fsync is another error (IOERR_FSYNC), and final.
            if not self._is_full:
                event(log, logging.WARNING, "checkpoint postponed", reason=error)
            self._is_full = True
            return None
        self._is_full = False
        # PASSIVE itself syncs only when no commit came meanwhile.
        file_sync(self._connection, Which.DATABASE)
        now = self.mark
        if now.generation != mark.generation or done < mark.frames:
            return None
        with self._changed:
            self.durable_index = max(self.durable_index, mark.applied_index)
        return max(0, now.frames - done)
