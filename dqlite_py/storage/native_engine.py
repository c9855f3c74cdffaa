"""The C side of storage as Python sees it: one class and a few functions over dqlite_py._native.

Binds the extension to apsw's own SQLite (never a second copy): the shared object is loaded once, on a throw-away
apsw connection, as a SQLite extension. Holds no policy: pragmas are in connection.py, decisions in engine.py.
Calls release the GIL. A `NativeEngine` belongs to the thread that uses its connection; the functions to whoever
owns the connection they are given.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import apsw
from msgpack import unpackb

from dqlite_py import _native
from dqlite_py.errors import InternalError
from dqlite_py.limits import RESULT_BYTES_MAX
from dqlite_py.sqlite_codes import CORRUPT, NOTFOUND
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

VFS_NAME: Final = "dqlite"

_ffi = _native.ffi
_lib = _native.lib
_buffer = _ffi.buffer
_bootstrap_lock = threading.Lock()


def bootstrap() -> None:
    """Bind the extension to apsw's SQLite and register the VFS; once per process, any thread."""
    with _bootstrap_lock:
        if _lib.dq_ready():
            return
        connection = apsw.Connection(":memory:")
        try:
            connection.enable_load_extension(True)
            connection.load_extension(_native.__file__, "sqlite3_dqlitenative_init")
        finally:
            connection.close()
        if not _lib.dq_ready():
            raise InternalError("the C extension was loaded twice: it is not the one that Python imported")


_caught: list[BaseException] = []  # by the main thread's run under way


def _note(_type: Any, value: BaseException, _traceback: Any) -> None:
    _caught.append(value)


@_ffi.def_extern(error=1, onerror=_note)  # type: ignore[untyped-decorator]
def dq_look_at_signals() -> int:
    """Called by C on the main thread: Python runs the handlers of signals that have come BEFORE it gets here."""
    return 0


class NativeFlag:
    """LiveFlag: a number that C changes with one atomic instruction."""

    __slots__ = ("caught", "value")

    def __init__(self) -> None:
        self.value = _ffi.new("int32_t[1]")
        self.caught: BaseException | None = None

    def arm(self) -> None:
        self.value[0] = 1

    def disarm(self) -> None:
        self.value[0] = 0

    def request(self) -> None:
        _lib.dq_live_interrupt(self.value)


@lru_cache(256)
def _decltypes(data: bytes) -> tuple[str | None, ...]:
    return tuple(unpackb(data, use_list=False, strict_map_key=False, unicode_errors="replace"))


@_ffi.def_extern()  # type: ignore[untyped-decorator]
def dq_call_before_commit(context: Any) -> None:
    _ffi.from_handle(context)()


class NativeEngine:
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
        self._connection = connection  # kept alive: the engine's statements live on it
        self._hook: Any = None
        self._outcome = _ffi.new("dq_outcome *")
        self._live = _ffi.new("dq_live_outcome *")
        self._groups: list[bytes] = []  # recorded, of the live transaction
        self._engine = _lib.dq_engine_open(
            connection.sqlite3_pointer(), statements_max, results_max, self._outcome
        )
        if self._engine == _ffi.NULL:
            if self._outcome.code & 0xFF == CORRUPT:
                raise self._failure(Verdict.ENVIRONMENT)
            raise InternalError(f"the apply engine cannot start: {self._message()}", code=self._outcome.code)

    def scan(self) -> State:
        """Recompute the state hash from the database file, whose WAL must be empty; raises ApplyFailed."""
        if _lib.dq_engine_scan(self._engine, self._outcome) != 0:
            raise self._failure(Verdict.ENVIRONMENT)
        return self._state()

    def apply(self, index: int, payload: bytes, want_results: bool) -> State:
        """Execute one UNITS payload as one SQLite transaction; raises ApplyFailed."""
        verdict = _lib.dq_apply(self._engine, payload, len(payload), index, want_results, self._outcome)
        if verdict != 0:
            raise self._failure(Verdict(verdict))
        return self._state()

    # -- the live transaction -------------------------------------------------------------------------

    def live_begin(self, now_us: int, seed: bytes) -> None:
        """Begin a live transaction, which sees this time and chance (16 bytes); raises ApplyFailed."""
        self._groups = []
        if _lib.dq_live_begin(self._engine, now_us, seed, self._live) != 0:
            raise self._live_failure()

    def live_run(self, body: bytes, timeout_s: float | None, flag: LiveFlag) -> LiveResult:
        """Run a group for at most this time; raises ApplyFailed, which ended the transaction unless it is FORMAT."""
        assert isinstance(flag, NativeFlag)
        live = self._live
        timeout_us = -1 if timeout_s is None else int(max(0, timeout_s) * 1e6)
        look = _lib.dq_look_at_signals if threading.current_thread() is threading.main_thread() else _ffi.NULL
        verdict = _lib.dq_live_run(self._engine, body, len(body), timeout_us, flag.value, look, live)
        if look != _ffi.NULL and _caught:
            flag.caught = _caught.pop()
        if verdict != 0:
            raise ApplyFailed(Verdict.FORMAT, 0, 0, "") if verdict == 1 else self._live_failure()
        if live.is_recorded:
            self._groups.append(body)
        results = _buffer(live.results, live.results_size)[:]
        types = _decltypes(_buffer(live.decltypes, live.decltypes_size)[:]) if live.decltypes_size else None
        return LiveResult(results, live.has_written == 1, live.is_open == 1, live.is_recorded == 1, types)

    def live_has_open_foreign_keys(self) -> bool:
        """Whether deferred foreign keys are violated, so that a commit would fail."""
        return bool(_lib.dq_live_has_open_foreign_keys(self._engine))

    def live_end(self) -> LiveUnit:
        """Roll the live transaction back; raises ApplyFailed."""
        groups, self._groups = self._groups, []
        if _lib.dq_live_end(self._engine, self._live) != 0:
            raise self._live_failure()
        return LiveUnit(groups if self._live.has_written else [], bytes(_buffer(self._live.digest)))

    def live_flag(self) -> LiveFlag:
        """Of one live transaction; outlives the engine."""
        return NativeFlag()

    def _live_failure(self) -> ApplyFailed:
        message = _ffi.string(self._live.message).decode("utf-8", "replace")
        return ApplyFailed(Verdict.ENVIRONMENT, self._live.code, 0, message)

    def set_before_commit(self, hook: Callable[[], None] | None) -> None:
        """Call `hook` when all of an entry is written, right before COMMIT, once per pass; it must not raise."""
        if hook is None:
            _lib.dq_engine_before_commit(self._engine, _ffi.NULL, _ffi.NULL)
        else:
            handle = _ffi.new_handle(hook)
            _lib.dq_engine_before_commit(self._engine, _lib.dq_call_before_commit, handle)
            self._hook = handle  # kept alive; the one before until now

    @property
    def is_followed(self) -> bool:
        """Whether hooks see each row that is deleted (FOLLOW_SQL was applied before)."""
        return bool(_lib.dq_engine_is_followed(self._engine))

    @property
    def drops(self) -> int:
        """Tables, virtual ones too, that statements were allowed to drop so far."""
        return int(_lib.dq_engine_drops(self._engine))

    @property
    def passes(self) -> int:
        """How often the last entry was executed: above 1 when units had to be undone."""
        return int(self._outcome.passes)

    def close(self) -> None:
        """Finalize the engine's statements, BEFORE the connection is closed. Idempotent."""
        if self._engine != _ffi.NULL:
            _lib.dq_engine_close(self._engine)
            self._engine = _ffi.NULL

    def _message(self) -> str:
        message = self._outcome.message
        return "" if message == _ffi.NULL else _ffi.string(message).decode("utf-8", "replace")

    def _failure(self, verdict: Verdict) -> ApplyFailed:
        raw = self._outcome
        return ApplyFailed(verdict, raw.code, raw.system_errno, self._message())

    def _state(self) -> State:
        raw = self._outcome
        results = _buffer(raw.results, raw.results_size)[:] if raw.results_size else b""
        return State(results, raw.state_hash, raw.page_count, raw.wal_frames, raw.wal_generation)


# -- files below a connection ---------------------------------------------------------------------------


def file_size(connection: apsw.Connection, which: Which) -> int:
    """Size in bytes of the file of a connection of this VFS; a WAL that was never opened has none."""
    size = _ffi.new("int64_t *")
    code = _lib.dq_file_size(connection.sqlite3_pointer(), which, size)
    if code == NOTFOUND and which is Which.WAL:
        return 0
    check_file_code(code, "size")
    return int(size[0])


def file_read(connection: apsw.Connection, which: Which, offset: int, size: int) -> bytes:
    """Read exactly `size` bytes without a file descriptor of our own; raises InternalError."""
    target = _ffi.new("uint8_t[]", size)
    check_file_code(_lib.dq_file_read(connection.sqlite3_pointer(), which, offset, target, size), "read")
    return bytes(_ffi.buffer(target, size))


def file_sync(connection: apsw.Connection, which: Which) -> None:
    """Make the file's content durable; raises InternalError."""
    check_file_code(_lib.dq_file_sync(connection.sqlite3_pointer(), which), "fsync")


# -- SQL text -------------------------------------------------------------------------------------------


def inspect(connection: apsw.Connection, sql: bytes) -> tuple[int, bool, str]:
    """Prepare without executing: (SQLite code, is read-only, message). Any thread that owns `connection`."""
    readonly = _ffi.new("int *")
    message = _ffi.new("char[512]")
    code = _lib.dq_inspect(connection.sqlite3_pointer(), sql, len(sql), readonly, message)
    return code, bool(readonly[0]), _ffi.string(message).decode("utf-8", "replace")


def refusal(sql: bytes) -> str | None:
    """Why the first words of `sql` bar it from the log, or None. Any thread."""
    message = _ffi.new("char[512]")
    refused = _lib.dq_refused(sql, len(sql), message)
    return _ffi.string(message).decode("utf-8", "replace") if refused else None


# -- pages ----------------------------------------------------------------------------------------------


def hash_pages(data: bytes | bytearray | memoryview, page_size: int, first_number: int) -> int:
    """Xor of the hashes of consecutive pages; `data` is whole pages. Any thread."""
    count = len(data) // page_size
    return int(_lib.dq_file_hash(_ffi.from_buffer(data), count, page_size, first_number))


IMPLEMENTATION: Final = Implementation(
    name="c",
    vfs_name=VFS_NAME,
    bootstrap=bootstrap,
    engine=NativeEngine,
    file_size=file_size,
    file_read=file_read,
    file_sync=file_sync,
    inspect=inspect,
    refusal=refusal,
    hash_pages=hash_pages,
)
