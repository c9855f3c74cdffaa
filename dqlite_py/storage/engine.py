"""The writer of one database: applies log entries, knows the applied index and the state hash.

One entry is one SQLite transaction, executed by the engine that implementation.py chose (native/apply.c or its
twin). Knows nothing of raft beyond indexes. All methods run on the database's apply thread (opening may happen before
it starts), but for `live_begin` and the transaction that it returns; `durable_index`, `applied_index` and `state_hash`
may be read from anywhere. A lock keeps the two apart, and applying comes first: it ends an open live transaction.
"""

from __future__ import annotations

import hashlib
import os
import threading
from contextlib import suppress
from functools import cache
from typing import Final, NamedTuple

import apsw

from dqlite_py.errors import (
    CorruptState,
    DirectoryLocked,
    InternalError,
    MalformedMessage,
    OperationalError,
    UnknownFormat,
)
from dqlite_py.limits import ENTRY_BYTES_MAX, WAL_CHECKPOINT_FRAMES
from dqlite_py.model import LogIndex
from dqlite_py.resultcodes import environment_error
from dqlite_py.storage.changelog.keeper import ChangeKeeper
from dqlite_py.storage.changelog.log import ChangeLog
from dqlite_py.storage.checkpoint import Checkpointer, WalMark
from dqlite_py.storage.connection import WRITER_CACHE_BYTES, open_writer
from dqlite_py.storage.engine_api import (
    STATEMENTS_MAX,
    ApplyEngine,
    ApplyFailed,
    State,
    Verdict,
    Which,
)
from dqlite_py.storage.implementation import file_sync, start_engine
from dqlite_py.storage.live import LiveTransaction
from dqlite_py.storage.meta import UNKNOWN_MAKER, MadeBy, prepare_meta
from dqlite_py.storage.sqlerrors import error_from_apsw

# Above this the writer waits for the checkpoint thread: it writes faster than frames can be moved.
WAL_FRAMES_HELD: Final = 16 * WAL_CHECKPOINT_FRAMES
CHECKPOINT_WAIT_S: Final = 5.0


class ApplyResult(NamedTuple):
    """`results`: msgpack array, one per unit: [0, [[rowcount, last_insert_rowid, columns|nil, rows|nil] per
    statement]] or [extended code, message, statement position]; empty when they were not wanted."""

    results: bytes
    state_hash: int


class PinInfo(NamedTuple):
    """One state of the database, between two commits."""

    applied_index: LogIndex
    state_hash: int
    page_count: int


class DatabaseEngine:
    """See the module. Use `open`."""

    def __init__(
        self,
        connection: apsw.Connection,
        native: ApplyEngine,
        path: str,
        applied: LogIndex,
        scan: State,
    ) -> None:
        self.path = path
        self.applied_index = applied
        self.state_hash = scan.state_hash
        self.page_count = scan.page_count
        self.wal_frames = 0
        self._connection = connection
        self._native = native
        self._next_checkpoint_frames = WAL_CHECKPOINT_FRAMES
        name = os.path.basename(path)
        self._checkpointer = Checkpointer(path, mark=WalMark(applied, 0, scan.wal_generation), name=name)
        self._changes: ChangeKeeper | None = None  # somebody wants them
        self._closed = False
        self._lock = threading.Lock()  # of the connection
        self._live: LiveTransaction | None = None  # the newest
        self._missed_step = False  # a live transaction was in the way of a checkpoint

    @classmethod
    def open(
        cls,
        path: str,
        *,
        create: bool,
        made_by: MadeBy = UNKNOWN_MAKER,
        cache_bytes: int = WRITER_CACHE_BYTES,
        statements_max: int = STATEMENTS_MAX,
    ) -> DatabaseEngine:
        """Open, empty the WAL into the file, fsync, compute the state hash.

        made_by: see prepare_meta.
        Raises CorruptState, UnknownFormat, DirectoryLocked (another program has the file open), OperationalError.
        """
        connection = open_writer(path, create=create, cache_bytes=cache_bytes)
        native: ApplyEngine | None = None
        try:
            applied = prepare_meta(connection, path, create=create, made_by=made_by)
            _empty_wal(connection, path)
            _sync_directory(path)
            native = _start(connection, path, statements_max)
            return cls(connection, native, path, applied, _scan(native, path))
        except BaseException:
            _close(native, connection)
            raise

    # -- applying -------------------------------------------------------------------------------------

    def apply(self, index: int, payload: bytes, *, want_results: bool) -> ApplyResult:
        """Apply the UNITS payload of entry `index`: all of it, with the index, or nothing.

        Raises MalformedMessage, UnknownFormat, StorageFull, InternalError; nothing was applied.
        """
        if index <= self.applied_index:
            raise InternalError(f"entry {index} is applied already (at {self.applied_index})")
        if self._checkpointer.error is not None:
            raise InternalError(f"the checkpoint thread failed: {self._checkpointer.error}")
        if len(payload) > ENTRY_BYTES_MAX:
            raise MalformedMessage(f"a command of {len(payload)} bytes is over the limit", what="command")
        self._take("the transaction was rolled back: the cluster's log went on without it")
        try:
            if self._changes is None:
                state = self._native.apply(index, payload, want_results)
            else:
                state = self._changes.apply(index, payload, want_results)
            self.applied_index = LogIndex(index)
            self.state_hash = state.state_hash
            self.page_count = state.page_count
            self.wal_frames = state.wal_frames
            self._checkpointer.mark = WalMark(self.applied_index, state.wal_frames, state.wal_generation)
        except ApplyFailed as error:
            raise _apply_error(index, error) from None
        finally:
            self._lock.release()
        return ApplyResult(state.results, state.state_hash)

    def _take(self, why: str) -> None:
        """Acquire the lock, without waiting for a live transaction: an open one is ended, with this reason."""
        live = self._live
        if live is not None:
            live.doom(why)
        self._lock.acquire()
        if self._live is not None:  # perhaps another one
            self._live.doom(why)
            self._live.end()
            self._live = None

    # -- changes --------------------------------------------------------------------------------------

    @property
    def is_followed(self) -> bool:
        """Whether the log holds FOLLOW_SQL, so that changes can be captured."""
        return self._native.is_followed

    def keep_changes(self, log: ChangeLog) -> bool:
        """Put the changes of every entry to come into `log`. False: as soon as FOLLOW_SQL, or the next entry if a live
        transaction is open, is applied."""
        with self._lock:
            if self._changes is None:
                self._changes = ChangeKeeper(self._connection, self._native, log)
            return not self._has_open_live() and self._changes.start(self.applied_index)

    # -- live transactions ----------------------------------------------------------------------------

    def live_begin(self, now_us: int, seed: bytes) -> LiveTransaction:
        """Begin an interactive transaction on the present state. Any thread.

        Its statements see the time `now_us` and chance from `seed` (16 bytes). At most one is open; whoever begins
        sees to it that no entry comes before it ends. Raises OperationalError; InternalError when another is open.
        """
        with self._lock:
            if self._closed:
                raise OperationalError("the database is closed")
            if self._has_open_live():
                raise InternalError("a live transaction is open already")
            if self._missed_step:
                with suppress(OperationalError):  # no space: met again after the next entry
                    self._checkpoint_step()
            self._live = LiveTransaction(self._native, self._lock, now_us, seed)
            return self._live

    def _has_open_live(self) -> bool:
        return self._live is not None and self._live.is_open

    def pin_info(self) -> PinInfo:
        """Index and hash of the present state; a reader opened now, on this thread, sees exactly it."""
        return PinInfo(self.applied_index, self.state_hash, self.page_count)

    # -- checkpoints ----------------------------------------------------------------------------------

    @property
    def durable_index(self) -> LogIndex:
        """Applied index that is in the fsynced database file: the log up to it may be dropped."""
        return self._checkpointer.durable_index

    def checkpoint_step(self) -> None:
        """Do what the WAL's length asks for now, without waiting unless the WAL grows out of hand."""
        with self._lock:
            if self._has_open_live():
                self._missed_step = True
            else:
                self._checkpoint_step()

    def _checkpoint_step(self) -> None:
        self._missed_step = False
        checkpointer = self._checkpointer
        if checkpointer.take_caught_up():
            self._restart_wal()
        elif self.wal_frames >= self._next_checkpoint_frames and not checkpointer.is_busy:
            # While a reader holds an old state, one that could do nothing is not tried again with every commit.
            self._next_checkpoint_frames = self.wal_frames + WAL_CHECKPOINT_FRAMES
            checkpointer.request()
        elif self.wal_frames >= self._next_checkpoint_frames + WAL_FRAMES_HELD:
            checkpointer.wait_idle(CHECKPOINT_WAIT_S)

    def request_checkpoint(self) -> None:
        """Have the checkpoint thread do the long part of a checkpoint that is to come."""
        self._checkpointer.request()

    def wait_checkpoint(self, timeout_s: float) -> None:
        """Wait, on another thread than the writer's, until it has or the database is being closed."""
        self._checkpointer.wait_idle(timeout_s)

    def checkpoint(self, mode: int = apsw.SQLITE_CHECKPOINT_PASSIVE) -> bool:
        """Checkpoint on this thread; True when the whole WAL is in the fsynced file.

        A reader on an older state keeps it from completing, which is no error. Beside a live transaction the
        checkpoint thread does what it can.
        """
        self._checkpointer.wait_idle(CHECKPOINT_WAIT_S)
        with self._lock:
            if not self._has_open_live():
                return self._checkpoint(mode)
        self._checkpointer.request()
        self._checkpointer.wait_idle(CHECKPOINT_WAIT_S)
        return self.durable_index == self.applied_index

    def _checkpoint(self, mode: int) -> bool:
        try:
            frames, done = self._connection.wal_checkpoint(mode=mode)
        except apsw.BusyError:
            return False
        except apsw.Error as error:
            raise error_from_apsw(error) from error
        complete = frames == done
        if complete:  # SQLite fsynced the database file BEFORE it reported the last frame as done
            self._checkpointer.note_durable(self.applied_index)
        return complete

    def checkpoint_full(self) -> bool:
        """Bring the whole state into the fsynced file and let the WAL begin anew, as far as readers allow."""
        complete = self.checkpoint(apsw.SQLITE_CHECKPOINT_PASSIVE)
        with self._lock:
            if complete and not self._has_open_live():
                self._restart_wal()
        return complete

    def _restart_wal(self) -> None:
        self._checkpointer.wait_idle(CHECKPOINT_WAIT_S)
        if self._checkpoint(apsw.SQLITE_CHECKPOINT_RESTART):
            self.wal_frames = 0
            self._next_checkpoint_frames = WAL_CHECKPOINT_FRAMES
        else:  # a reader holds it: not again before the WAL has grown by another measure
            self._next_checkpoint_frames = self.wal_frames + WAL_CHECKPOINT_FRAMES

    def close(self) -> None:
        """Close everything; the last connection checkpoints. Idempotent."""
        self._take("the transaction was rolled back: the database is being closed")
        try:
            if not self._closed:
                self._closed = True
                self._checkpointer.close()
                if self._changes is not None:
                    self._changes.close()
                _close(self._native, self._connection)
        finally:
            self._lock.release()


def _apply_error(index: int, failed: ApplyFailed) -> Exception:
    if failed.verdict is Verdict.FORMAT:
        return MalformedMessage(f"entry {index} is not a valid UNITS payload", what="command")
    if failed.verdict is Verdict.VERSION:
        return UnknownFormat(
            f"entry {index} has a format that is not known to this release", source="log entry"
        )
    return environment_error(failed.code, failed.system_errno, failed.message)


def _start(connection: apsw.Connection, path: str, statements_max: int) -> ApplyEngine:
    try:
        return start_engine(connection, statements_max=statements_max)
    except ApplyFailed as failed:
        raise CorruptState(
            f"{path} has damaged client sessions: {failed}",
            file=path,
            expected="rows of results",
            found=failed.message,
        ) from None


def _scan(native: ApplyEngine, path: str) -> State:
    try:
        return native.scan()
    except ApplyFailed as failed:
        raise environment_error(
            failed.code, failed.system_errno, f"{path} cannot be read: {failed}"
        ) from None


def _close(native: ApplyEngine | None, connection: apsw.Connection) -> None:
    if native is not None:
        native.close()  # its statements BEFORE the connection
    connection.close()


def _empty_wal(connection: apsw.Connection, path: str) -> None:
    try:
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        # SQLite does not: a file system that brought a part of the old WAL back would put old pages over newer ones.
        file_sync(connection, Which.WAL)
    except apsw.BusyError:
        raise DirectoryLocked(f"another program reads {path}: close it and start again") from None
    except apsw.Error as error:
        raise error_from_apsw(error) from error


def _sync_directory(path: str) -> None:
    """The file's name must survive power loss as its content does."""
    fd = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@cache
def sqlite_identity() -> dict[str, str]:
    """Version, source id and a digest of the compile options: nodes compare them."""
    options = sorted(option for option in apsw.compile_options if not option.startswith("COMPILER="))
    digest = hashlib.blake2b("\n".join(options).encode(), digest_size=8).hexdigest()
    return {
        "sqlite_version": apsw.sqlite_lib_version(),
        "sqlite_source_id": apsw.sqlite3_sourceid(),
        "sqlite_options_digest": digest,
    }
