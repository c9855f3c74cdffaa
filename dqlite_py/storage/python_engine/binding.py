"""The Python engine as storage sees it: what native_engine.py is for the C extension, with the same behaviour.

An engine belongs to the thread that uses its connection; the functions to whoever owns the connection they are
given. Unlike in C, applying competes with other Python threads for the GIL.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import apsw

from dqlite_py.errors import InternalError
from dqlite_py.limits import RESULT_BYTES_MAX
from dqlite_py.storage.engine_api import (
    STATEMENTS_MAX,
    ApplyFailed,
    Implementation,
    LiveFlag,
    LiveResult,
    LiveUnit,
    State,
    Verdict,
    Which,
    check_file_code,
)
from dqlite_py.storage.python_engine import inspect as inspection
from dqlite_py.storage.python_engine import sqlite_api, vfs
from dqlite_py.storage.python_engine.apply import apply
from dqlite_py.storage.python_engine.body import Broken, has_open_foreign_keys
from dqlite_py.storage.python_engine.engine import EngineState
from dqlite_py.storage.python_engine.group import FIRST_DIGEST
from dqlite_py.storage.python_engine.live import Live, PythonFlag
from dqlite_py.storage.python_engine.msgpack import ItemReader, Malformed
from dqlite_py.storage.python_engine.page_hash import hash_pages
from dqlite_py.storage.python_engine.payload import Body, UnknownVersion, open_body, open_payload
from dqlite_py.storage.python_engine.sqlite_api import sqlite

_bootstrap_lock = threading.Lock()


def bootstrap() -> None:
    """Bind this package to apsw's SQLite and register the VFS; any thread, idempotent."""
    with _bootstrap_lock:
        if not sqlite.is_bound:
            sqlite_api.bind()
        vfs.register()


class PythonEngine:
    """The writer of one database, on an open connection of the VFS.

    Raises ApplyFailed when its table of client sessions is damaged, else InternalError.
    """

    def __init__(
        self,
        connection: apsw.Connection,
        *,
        statements_max: int = STATEMENTS_MAX,
        results_max: int = RESULT_BYTES_MAX,
    ) -> None:
        bootstrap()
        self.passes = 0
        self._connection = connection  # kept alive: the engine's statements live on it
        self._state: EngineState | None = EngineState(
            connection.sqlite3_pointer(), statements_max, results_max
        )
        self._live: Live | None = None  # the newest

    def scan(self) -> State:
        """Recompute the state hash from the database file, whose WAL must be empty; raises ApplyFailed."""
        engine = self._open_state()
        code = engine.scan()
        if code != apsw.SQLITE_OK:
            raise ApplyFailed(Verdict.ENVIRONMENT, code, 0, sqlite.errstr(code).decode())
        return _state(engine, b"")

    def apply(self, index: int, payload: bytes, want_results: bool) -> State:
        """Execute one UNITS payload as one SQLite transaction; raises ApplyFailed."""
        engine = self._open_state()
        self.passes = 0
        try:
            opened = open_payload(payload)
            self._stop_live()  # a failure of it is met again at BEGIN
            self.passes = apply(engine, opened, index, want_results=want_results)
            return _state(engine, engine.results.content())
        except Malformed:
            raise ApplyFailed(Verdict.FORMAT, 0, 0, "") from None
        except UnknownVersion:
            raise ApplyFailed(Verdict.VERSION, 0, 0, "") from None
        except MemoryError:
            raise self._failure(engine, apsw.SQLITE_NOMEM, b"out of memory") from None
        except Broken as broken:
            raise self._failure(engine, broken.error.code, broken.error.message) from None

    def set_before_commit(self, hook: Callable[[], None] | None) -> None:
        """Call `hook` when all of an entry is written, right before COMMIT, once per pass; it must not raise."""
        self._open_state().before_commit = hook

    @property
    def is_followed(self) -> bool:
        """Whether hooks see each row that is deleted (FOLLOW_SQL was applied before)."""
        return self._open_state().guard.deletes_rows

    @property
    def drops(self) -> int:
        """Tables, virtual ones too, that statements were allowed to drop so far."""
        return self._open_state().guard.drops

    def close(self) -> None:
        """Finalize the engine's statements, BEFORE the connection is closed. Idempotent."""
        if self._state is not None:
            self._stop_live()
            self._state.close()
            self._state = None

    # -- the live transaction -------------------------------------------------------------------------

    def live_begin(self, now_us: int, seed: bytes) -> None:
        """Begin a live transaction, which sees this time and chance (16 bytes); raises ApplyFailed."""
        engine = self._open_state()
        self._stop_live()
        try:
            self._live = Live(engine, now_us, seed)
        except Broken as broken:
            raise self._failure(engine, broken.error.code, broken.error.message) from None

    def live_run(self, body: bytes, timeout_s: float | None, flag: LiveFlag) -> LiveResult:
        """Run a group for at most this time; raises ApplyFailed, which ended the transaction unless it is FORMAT."""
        assert isinstance(flag, PythonFlag)
        live = self._live
        if live is None or not live.is_open:
            raise ApplyFailed(Verdict.FORMAT, 0, 0, "")
        try:
            return live.run(body, _open_group(body), timeout_s, flag)
        except Malformed:
            raise ApplyFailed(Verdict.FORMAT, 0, 0, "") from None
        except MemoryError:
            raise ApplyFailed(Verdict.ENVIRONMENT, apsw.SQLITE_NOMEM, 0, "out of memory") from None

    def live_has_open_foreign_keys(self) -> bool:
        """Whether deferred foreign keys are violated, so that a commit would fail."""
        live = self._live
        return live is not None and live.is_open and has_open_foreign_keys(self._open_state().db)

    def live_end(self) -> LiveUnit:
        """Roll the live transaction back; raises ApplyFailed."""
        engine, live = self._open_state(), self._live
        if live is None:
            return LiveUnit([], FIRST_DIGEST)
        code = live.stop()
        if code != apsw.SQLITE_OK:
            raise self._failure(engine, code, sqlite.errstr(code))
        return LiveUnit(live.groups if live.has_changed else [], live.digest)

    def live_flag(self) -> LiveFlag:
        """Of one live transaction; outlives the engine."""
        return PythonFlag()

    def _stop_live(self) -> None:
        if self._live is not None:
            self._live.stop()

    def _open_state(self) -> EngineState:
        if self._state is None:
            raise InternalError("the apply engine is closed")
        return self._state

    def _failure(self, engine: EngineState, code: int, message: bytes) -> ApplyFailed:
        if engine.watch.refused:
            message = b"SQLite wrote to the WAL what the state hash cannot follow"
        system_errno = sqlite.system_errno(engine.db)
        return ApplyFailed(Verdict.ENVIRONMENT, code, system_errno, message.decode("utf-8", "replace"))


def _state(engine: EngineState, results: bytes) -> State:
    watch = engine.watch
    return State(results, watch.pages.state, watch.pages.page_count, watch.wal_frames, watch.wal_generation)


def _open_group(body: bytes) -> Body:
    reader = ItemReader(body)
    group = open_body(reader)
    if not reader.is_at_end:
        raise Malformed
    return group


# -- files below a connection ---------------------------------------------------------------------------


def file_size(connection: apsw.Connection, which: Which) -> int:
    """Size in bytes of the file of a connection of this VFS; a WAL that was never opened has none."""
    code, size = vfs.file_size(connection.sqlite3_pointer(), which is Which.WAL)
    if code == apsw.SQLITE_NOTFOUND and which is Which.WAL:
        return 0
    check_file_code(code, "size")
    return size


def file_read(connection: apsw.Connection, which: Which, offset: int, size: int) -> bytes:
    """Read exactly `size` bytes without a file descriptor of our own; raises InternalError."""
    code, data = vfs.file_read(connection.sqlite3_pointer(), which is Which.WAL, offset, size)
    check_file_code(code, "read")
    return data


def file_sync(connection: apsw.Connection, which: Which) -> None:
    """Make the file's content durable; raises InternalError."""
    check_file_code(vfs.file_sync(connection.sqlite3_pointer(), which is Which.WAL), "fsync")


# -- SQL text -------------------------------------------------------------------------------------------


def inspect(connection: apsw.Connection, sql: bytes) -> tuple[int, bool, str]:
    """Prepare without executing: (SQLite code, is read-only, message). Any thread that owns `connection`."""
    bootstrap()
    code, readonly, message = inspection.inspect(connection.sqlite3_pointer(), sql)
    return code, readonly, message.decode("utf-8", "replace")


def refusal(sql: bytes) -> str | None:
    """Why the first words of `sql` bar it from the log, or None. Any thread."""
    reason = inspection.refused(sql)
    return None if reason is None else reason.decode("utf-8", "replace")


IMPLEMENTATION = Implementation(
    name="python",
    vfs_name=vfs.VFS_NAME,
    bootstrap=bootstrap,
    engine=PythonEngine,
    file_size=file_size,
    file_read=file_read,
    file_sync=file_sync,
    inspect=inspect,
    refusal=refusal,
    hash_pages=hash_pages,
)
